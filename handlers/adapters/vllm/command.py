"""The command line and the environment of vLLM's server for one version. Pure, but for what the machine has."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from handlers.adapters.asgi.options import DRAIN_S
from handlers.adapters.vllm.settings import SETTINGS_VARIABLE
from handlers.contract import METRICS_FOLDER_VARIABLE
from handlers.text.options import GenerationOptions

RUN = Path(__file__).with_name("run_server.py")
CONVERT = Path(__file__).resolve().parents[2] / "text" / "backends" / "vllm_folder.py"
MIDDLEWARE = "handlers.adapters.vllm.middleware.Contract"
#: Answers that vLLM computes at once; the others wait for a place.
MOST_AT_ONCE = 256
#: What vLLM takes from the environment of the node; PYTHONPATH would lead it to other packages than its own.
_INHERITED = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "CC", "CXX",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a version's server lies and listens."""

    python: Path  # of vLLM's environment
    weights: Path  # the folder that vLLM reads
    host: str
    port: int
    gpu_share: float  # of a GPU's memory; without a GPU unused
    dtype: str  # of weights and numbers between


def server_command(
    place: Place, names: Sequence[str], generation: GenerationOptions, archive: Path, has_gpu: bool
) -> list[str]:
    """The command line.

    Args:
        names: of the model in requests; the first one is in answers.
        archive: its unpacked folder, which may have a chat template.
    """
    options = {
        "--model": str(place.weights),
        "--host": place.host,
        "--port": str(place.port),
        "--dtype": place.dtype,
        "--max-model-len": str(generation.context),
        "--max-num-seqs": str(min(generation.max_answers, MOST_AT_ONCE)),
        "--generation-config": "vllm",  # defaults are the archive's, and not the model's
        "--middleware": MIDDLEWARE,
        "--shutdown-timeout": str(DRAIN_S),
        "--uvicorn-log-level": "warning",
        "--fingerprint-mode": "none",
    }
    if generation.chat_template is not None:
        options["--chat-template"] = str(archive / generation.chat_template)
    if has_gpu:
        options["--gpu-memory-utilization"] = f"{place.gpu_share:g}"
    else:
        options["--kv-cache-memory-bytes"] = str(generation.cache_mb << 20)
    return [
        str(place.python), "-u", str(RUN), *(part for pair in options.items() for part in pair),
        "--served-model-name", *names, "--enable-prefix-caching", "--disable-uvicorn-access-log",
        "--disable-fastapi-docs", "--enable-per-request-metrics",
    ]  # fmt: skip


def server_environment(
    given: Mapping[str, str], settings: Path, metrics: Path, cache: Path, cores: Sequence[int]
) -> dict[str, str]:
    """The environment variables of the server.

    Args:
        given: the node's own.
        cache: the folder for what vLLM compiles, which makes the next start quicker.
        cores: the processor cores that it may use; its threads are bound to them, because they spin.
    """
    return {
        **{name: given[name] for name in _INHERITED if name in given},
        SETTINGS_VARIABLE: str(settings),
        METRICS_FOLDER_VARIABLE: str(metrics),
        **offline(),
        "VLLM_CACHE_ROOT": str(cache),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_LOGGING_LEVEL": "WARNING",
        "SPT_NOENV": "1",  # else vLLM's children write their titles over their environment, by which they are found
    }


def offline() -> dict[str, str]:
    """Variables with which neither vLLM nor transformers asks anything of the network."""
    return {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def usable_core_numbers(most: int) -> list[int]:
    """The numbers of the cores that this process may use, at most so many."""
    numbers = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return numbers[: max(1, most)]

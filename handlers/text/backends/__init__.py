"""Backends of language models: which there are, and which fits this machine.

A backend is `loop.PagedBackend` (who is computed in a step, memory for keys and values, choice of tokens, tokenizer)
over a runner (`openvino.py`, `transformers.py`), which computes one step of the network. Each is imported where it is
used, and its packages with it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from handlers.errors import LoadError
from handlers.text.backend import Backend

AUTO, OPENVINO, TRANSFORMERS, VLLM = "auto", "openvino", "transformers", "vllm"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model lies.

    Args:
        weights: a GGUF file, with tokenizer and chat template in it; or a folder of Hugging Face: config.json,
            *.safetensors, tokenizer.json, chat template.
        chat_template: a file in place of the model's own template.
        converted: a folder that `openvino.convert` wrote from these weights; None: converted while it loads.
    """

    weights: Path
    chat_template: Path | None = None
    converted: Path | None = None


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """How a backend serves a model.

    Args:
        context: tokens of a prompt and its answer together; 0: as many as the model was trained with.
        cache_bytes: memory for keys and values of all answers.
        device: 'cpu' or 'cuda:N'.
        threads: of the CPU; 0: as many as the backend takes by itself.
        is_exact: on a CPU, float32, and answers that do not depend on what else is in the batch; else whatever is
            fastest. A GPU computes in bfloat16.
        is_captured: a GPU captures steps as CUDA graphs.
        most_running: answers in one step at most.
        step_tokens: of prompts in a step at most, so that a long one delays nobody for long; 0: chosen by device.
        shares_prompts: keep keys and values of prompts for later ones that begin alike, within one salt.
    """

    context: int = 0
    cache_bytes: int = 256 << 20
    device: str = "cpu"
    threads: int = 0
    is_exact: bool = True
    is_captured: bool = True
    most_running: int = 64
    step_tokens: int = 0
    shares_prompts: bool = True


def choose(name: str, device: str, is_installed: Callable[[str], bool]) -> str:
    """The backend that `name` means here; pure.

    `auto` is vLLM or transformers on a GPU, OpenVINO on a CPU where it is installed, else transformers.
    """
    if name != AUTO:
        return name
    if device != "cpu":
        return VLLM if is_installed("vllm") else TRANSFORMERS
    return OPENVINO if is_installed("openvino_genai") else TRANSFORMERS


def open_backend(name: str, model: ModelFiles, options: BackendOptions) -> Backend:
    """The loaded model, ready for its first prompt.

    Args:
        name: auto, openvino, transformers or vllm.

    Raises:
        LoadError: no such backend, a package is missing, or the files are none that it reads.
    """
    chosen = choose(name, options.device, lambda package: importlib.util.find_spec(package) is not None)
    if chosen not in _OPENERS:
        raise LoadError(f"generation.backend is {name!r}, and can be {AUTO}, {', '.join(_OPENERS)}")
    if not model.weights.exists():
        raise LoadError(f"the archive has no weights {model.weights.name}")
    try:
        return _OPENERS[chosen](model, options)
    except ModuleNotFoundError as error:
        command = _INSTALLS[chosen]
        raise LoadError(
            f"the {chosen} backend needs the package {error.name} in this worker's Python: {command}"
        ) from error


def _open_openvino(model: ModelFiles, options: BackendOptions) -> Backend:
    from handlers.text.backends.openvino import open_openvino

    return open_openvino(model, options)


def _open_transformers(model: ModelFiles, options: BackendOptions) -> Backend:
    from handlers.text.backends.transformers import open_transformers

    return open_transformers(model, options)


def _open_vllm(model: ModelFiles, options: BackendOptions) -> Backend:
    from handlers.text.backends.vllm import open_vllm

    return open_vllm(model, options)


_OPENERS: dict[str, Callable[[ModelFiles, BackendOptions], Backend]] = {
    OPENVINO: _open_openvino,
    TRANSFORMERS: _open_transformers,
    VLLM: _open_vllm,
}
_INSTALLS = {
    OPENVINO: "pip install 'tsctl[text]'",
    TRANSFORMERS: "pip install 'tsctl[models,text]'",
    VLLM: "tsctl engines install vllm, and environment: vllm at a uvicorn node",
}

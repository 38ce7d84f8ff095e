"""The configuration of one worker: model-config.yaml of its archive, and the server's choices, known to its adapter."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handlers.cache.open import CacheOptions
from handlers.contract import Tolerance
from handlers.errors import LoadError
from handlers.records.recorder import RecordOptions
from handlers.text.options import GenerationOptions
from handlers.tracebacks import where


@dataclass(frozen=True)
class Acceleration:
    """Options that make the network faster and may change its answers; the golden answers decide."""

    compile: bool = False
    dtype: str = "float32"
    quantize: str | None = None
    channels_last: bool = False


#: Seconds for a worker to load where the archive does not say.
STARTUP_S = 120


@dataclass(frozen=True)
class WorkerConfig:
    """One version of a model as one worker serves it."""

    model: str
    version: str
    model_dir: Path
    weights_file: Path
    handler: str  # the author's module
    settings: dict[str, Any]
    gpu_id: int | None
    batch_size: int
    batch_tokens: int | None  # of a text model's micro-batch; None: found at warm-up
    workers: int  # the most that the archive asks for on one node
    threads: int | None  # torch threads as archive.yaml says; None: chosen by the number of cores
    response_timeout_s: float
    warmup_budget_s: float
    request_bytes: int
    tolerance: Tolerance
    wire: str  # bulk or stock; for the adapter of TorchServe
    metrics: bool
    cache: CacheOptions | None
    records: RecordOptions | None = None
    acceleration: Acceleration = field(default=Acceleration())
    sample_types: Mapping[str, str] = field(
        default_factory=dict
    )  # media types of samples by suffixes, besides the usual ones
    answer_bytes: float = math.inf  # the longest answer that the server takes from a worker
    startup_timeout_s: float = STARTUP_S  # a worker may load so long
    generation: GenerationOptions | None = None  # of a model that generates text
    requirements: tuple[str, ...] = ()  # packages of this model alone
    secrets: tuple[str, ...] = ()  # names of the secrets that this model needs
    compares_itself: bool = False  # its handler compares answers of two versions
    embeddings: bool = False  # the archive says that its handler answers requests for embeddings


def read_config(
    model_dir: Path,
    manifest: Mapping[str, Any],
    content: Mapping[str, Any],
    *,
    model: str | None = None,
    version: str | None = None,
    gpu_id: int | None = None,
    batch_size: int | None = None,
    answer_bytes: float = math.inf,
) -> WorkerConfig:
    """The configuration in an unpacked archive.

    Args:
        manifest: the section `model` of MANIFEST.json.
        content: of model-config.yaml.
        model: the name under which the server serves the model; None: the manifest's. So is `version`.
        gpu_id: of the GPU that the server gave this worker; None: none.
        batch_size: the most items that the server sends at once; None: the archive's.
        answer_bytes: the longest answer that the server takes from a worker.

    Raises:
        LoadError: the archive was not built by tsctl.
    """
    section = content.get("serving")
    if section is None:
        raise LoadError("model-config.yaml has no 'serving' section: build the archive with tsctl archive build")
    cache, records, generation = section.get("cache"), section.get("records"), section.get("generation")
    return WorkerConfig(
        model=model or manifest["modelName"],
        version=version or manifest["modelVersion"],
        model_dir=model_dir,
        weights_file=model_dir / manifest.get("serializedFile", "model.safetensors"),
        handler=section.get("handler", ""),
        settings=section.get("settings", {}),
        gpu_id=gpu_id,
        batch_size=batch_size or content.get("batchSize", 1),
        batch_tokens=section.get("batch_tokens"),
        workers=content.get("maxWorkers", 1),
        threads=section.get("threads"),
        startup_timeout_s=content.get("startupTimeout", STARTUP_S),
        response_timeout_s=content.get("responseTimeout", 60),
        warmup_budget_s=section["warmup"]["budget_s"],
        request_bytes=section["limits"]["request_bytes"],
        tolerance=Tolerance(**section["tolerance"]),
        wire=section.get("wire", "bulk"),
        metrics=section.get("metrics", True),
        cache=CacheOptions(**cache) if cache else None,
        records=RecordOptions(**records) if records else None,
        acceleration=Acceleration(**section.get("acceleration", {})),
        sample_types=section.get("sample_types", {}),
        answer_bytes=answer_bytes,
        generation=GenerationOptions(**generation) if generation else None,
        requirements=tuple(section.get("requirements", ())),
        secrets=tuple(section.get("secrets", ())),
        compares_itself=(section.get("compare") or {}).get("by") == "handler",
        embeddings=section.get("embeddings", False),
    )


def handler_class(module_name: str) -> type[Any]:
    """The one class that the author's module defines.

    Raises:
        LoadError: the module cannot be imported, or defines no class or several.
    """
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise LoadError(f"the handler's module {module_name} cannot be imported: {where(error)}") from error
    classes = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__]
    if len(classes) != 1:
        raise LoadError(f"the handler's module {module_name} defines {len(classes)} classes; expected exactly one")
    return classes[0]


def check_package(model_dir: Path) -> None:
    """An archive runs its own `handlers`, or none: PYTHONPATH stands before the archive on a worker's path."""
    bundled = model_dir / "handlers"
    running = Path(__file__).resolve().parents[1]
    if bundled.is_dir() and bundled.resolve() != running:
        raise LoadError(f"the package 'handlers' comes from {running}, not from the archive: unset PYTHONPATH")

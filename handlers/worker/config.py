"""What one worker was told about itself: by TorchServe's context, and by the archive's model-config.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handlers.contract import Tolerance
from handlers.errors import LoadError

#: Padded tokens that go through a text model at once, where archive.yaml does not say.
BATCH_TOKENS = 1024


@dataclass(frozen=True)
class CacheOptions:
    """How answers are remembered."""

    max_mb: float
    ttl_s: float
    shared: str | None = None  # redis:// address of the tier that workers and nodes share
    check: float = 0.01  # share of the hits that are computed all the same, to be compared


@dataclass(frozen=True)
class Acceleration:
    """How the network is made faster, at the risk of other answers; the golden ones decide."""

    compile: bool = False
    dtype: str = "float32"
    quantize: str | None = None
    channels_last: bool = False


@dataclass(frozen=True)
class Serving:
    """One version of a model as one worker serves it."""

    model: str
    version: str
    model_dir: Path
    weights_file: Path
    settings: dict[str, Any]
    gpu_id: int | None
    batch_size: int
    batch_tokens: int
    workers: int  # the most that the archive asks for on one node
    threads: int | None  # torch threads as archive.yaml says; None: to be chosen
    response_timeout_s: float
    warmup_budget_s: float
    request_bytes: int
    tolerance: Tolerance
    wire: str
    metrics: bool
    cache: CacheOptions | None
    acceleration: Acceleration = field(default=Acceleration())


def model_and_version(context: Any) -> tuple[str, str]:
    """The names under which TorchServe serves this worker's model."""
    manifest: Mapping[str, Any] = context.manifest["model"]
    model = context.model_name if isinstance(context.model_name, str) else manifest["modelName"]
    return model, manifest["modelVersion"]


def read_serving(context: Any) -> Serving:
    """What TorchServe's context and the archive say.

    Raises:
        LoadError: the archive was not built by tsctl.
    """
    model, version = model_and_version(context)
    properties: Mapping[str, Any] = context.system_properties
    manifest: Mapping[str, Any] = context.manifest["model"]
    config: Mapping[str, Any] = context.model_yaml_config
    own = config.get("serving")
    if own is None:
        raise LoadError("model-config.yaml has no 'serving' section: build the archive with tsctl archive build")
    model_dir = Path(properties["model_dir"])
    cache = own.get("cache")
    return Serving(
        model=model,
        version=version,
        model_dir=model_dir,
        weights_file=model_dir / manifest.get("serializedFile", "model.safetensors"),
        settings=own.get("settings", {}),
        gpu_id=properties.get("gpu_id"),
        batch_size=properties.get("batch_size") or config.get("batchSize", 1),
        batch_tokens=own.get("batch_tokens", BATCH_TOKENS),
        workers=config.get("maxWorkers", 1),
        threads=own.get("threads"),
        response_timeout_s=config.get("responseTimeout", 60),
        warmup_budget_s=own["warmup"]["budget_s"],
        request_bytes=own["limits"]["request_bytes"],
        tolerance=Tolerance(**own["tolerance"]),
        wire=own.get("wire", "bulk"),
        metrics=own.get("metrics", True),
        cache=CacheOptions(**cache) if cache else None,
        acceleration=Acceleration(**own.get("acceleration", {})),
    )

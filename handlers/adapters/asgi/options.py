"""How an unpacked archive is served, as its manifest and its model-config.yaml say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from handlers.adapters.asgi.pool import Pool
from handlers.adapters.asgi.text_pool import TextPool
from handlers.adapters.asgi.workers import PoolOptions, Workers

#: Seconds in which a server answers the requests at hand after a signal.
DRAIN_S = 30
#: Bodies of as many full batches for each worker may be held at a time, and at least LEAST_BYTES.
HELD_BATCHES, LEAST_BYTES, MOST_BYTES = 2, 64 << 20, 1 << 30


def pool_options(
    manifest: dict[str, Any],
    content: dict[str, Any],
    workers: int | None,
    metrics: Path,
    folder: Path | None = None,
    version: str | None = None,
    output: int | None = None,
) -> PoolOptions:
    """How an archive is served, by its manifest's section `model` and its model-config.yaml.

    Args:
        workers: how many; None: as model-config.yaml says.
        metrics: the folder into which the workers write their metrics.
        folder: where it is unpacked; None: here.
        version: under which it is served; None: the manifest's.
        output: the file that takes what workers print; None: that of this process.
    """
    batch_size = content.get("batchSize", 1)
    workers = content.get("minWorkers", 1) if workers is None else workers
    full = content["serving"]["limits"]["request_bytes"] * batch_size * max(1, workers)
    return PoolOptions(
        folder=folder or Path.cwd(),
        metrics=metrics,
        model=manifest["modelName"],
        version=version or manifest["modelVersion"],
        workers=workers,
        batch_size=batch_size,
        most_waiting=content.get("jobQueueSize", 100),
        most_bytes=min(MOST_BYTES, max(LEAST_BYTES, HELD_BATCHES * full)),
        response_s=content.get("responseTimeout", 60),
        startup_s=content.get("startupTimeout", 120),
        output=output,
        places=generation["max_answers"] if (generation := content["serving"].get("generation")) else None,
    )


def open_pool(options: PoolOptions, refused: Callable[[str], None]) -> Workers:
    """The workers of an archive, which are not started.

    Args:
        refused: called where no worker could load, with the reason.
    """
    return (Pool if options.places is None else TextPool)(options, refused)

"""A benchmark's stock archives, samples and headers, which touch nothing of the person who runs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tsctl.archive.samples import read_samples
from tsctl.archive.store import StoredArchive
from tsctl.config.archive import Serving
from tsctl.errors import ArchiveError
from tsctl.nodes.node import Node


def json_sample(archive: StoredArchive) -> tuple[bytes, str]:
    """Body and media type of the archive's first sample that is JSON, else of its first."""
    samples = read_samples(archive.path)
    if not samples:
        raise ArchiveError(f"{archive.path.name} has no sample to ask it with")
    _, body, media_type = next((sample for sample in samples if sample[2] == "application/json"), samples[0])
    return body, media_type


def build_stock_archive(
    model: str, version: str, handler: Path, extra: Sequence[Path], folder: Path, config: Path | None = None
) -> Path:
    """Build an archive with torch-model-archiver in the folder.

    Args:
        config: its model-config.yaml.

    Raises:
        ArchiveError: torch-model-archiver failed.
    """
    command = [
        sys.executable, "-m", "model_archiver.model_packaging", "--model-name", model, "--version", version,
        "--handler", str(handler), "--extra-files", ",".join(map(str, extra)), "--export-path", str(folder), "--force",
    ]  # fmt: skip
    if config is not None:
        command += ["--config-file", str(config)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise ArchiveError(f"torch-model-archiver failed: {made.stderr.strip()[-500:]}")
    return folder / f"{model}.mar"


def write_stock_config(path: Path, serving: Serving, threads: int) -> Path:
    """Write a model-config.yaml for a stock archive, with the batch and the queue of `serving`.

    Args:
        threads: torch's, which the stock handlers in baselines/ read.
    """
    content: dict[str, Any] = {
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": serving.batch.size,
        "maxBatchDelay": serving.batch.max_delay_ms,
        "startupTimeout": serving.timeouts.startup_s,
        "responseTimeout": serving.timeouts.response_s,
        "jobQueueSize": serving.queue_size,
        "handler": {"threads": threads},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def request_headers(node: Node, media_type: str) -> dict[str, str]:
    """The headers of an inference request, with the node's token where it asks for one."""
    return {"Content-Type": media_type, **node.access()}

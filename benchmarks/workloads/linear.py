"""Builds the archives of a linear layer, so small that everything around the model is what is measured."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import ARCHIVES, BASELINES
from benchmarks.targets.own_project import archived_by_torchserve, own_project
from tsctl.archive.build import build_version
from tsctl.archive.golden import make_golden
from tsctl.config.archive import ArchiveSpec, Serving, read_archive_spec
from tsctl.config.project import Project
from tsctl.host.progress import Progress

#: Versions of archives/linear/archive.yaml that are compared; a version that it does not have is left out.
VERSIONS = {
    "1.0": "ServingHandler",
    "1.0.stock_wire": "ServingHandler, stock wire",
    "1.0.no_metrics": "ServingHandler, metrics off",
}
CACHED = "1.0.cache"


@dataclass(frozen=True)
class Linear:
    """What was built of it."""

    folder: Path
    spec: ArchiveSpec
    archives: dict[str, Path]  # by version; `stock` is the one of BaseHandler

    @property
    def sample(self) -> bytes:
        """The one request."""
        return (self.folder / "samples" / "row.json").read_bytes().strip()

    @property
    def weights(self) -> Path:
        return self.folder / ".built" / "1.0" / "model.safetensors"


def build_linear(project: Project, folder: Path, progress: Progress) -> Linear:
    """Every version, and the stock archive, in a project of their own in `folder`.

    Raises:
        ArchiveError: one cannot be built.
    """
    own = own_project(project, folder)
    copied = own.archives / "linear"
    shutil.copytree(ARCHIVES / "linear", copied)
    spec = read_archive_spec(copied / "archive.yaml")
    archives = {}
    with progress.step("building the linear layer's archives") as step:
        for version in spec.versions:
            make_golden(copied, spec, version, step.note)
            archives[version] = build_version(own, copied, spec, version, step.note).archive.path
        linear = Linear(copied, spec, archives)
        config = write_stock_config(copied / "model-config.yaml", spec.serving("1.0"), 1)
        extra = [linear.weights, copied / "model.py"]
        made = archived_by_torchserve("linear", "stock", BASELINES / "linear_handler.py", extra, own.root, config)
        archives["stock"] = made
    return linear


def write_stock_config(path: Path, serving: Serving, threads: int) -> Path:
    """A model-config.yaml for a stock archive, with the batch and the queue of `serving`.

    Args:
        threads: of torch, which the stock handlers here read.
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

"""Builds the archives of a linear layer, so small that everything around the model is what is measured."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ARCHIVES, BASELINES
from benchmarks.targets.project import build_stock_archive, write_stock_config
from tsctl.archive.build import build_version
from tsctl.archive.golden import make_golden
from tsctl.compare.nodes import own_project
from tsctl.config.archive import ArchiveSpec, read_archive_spec
from tsctl.config.project import Project
from tsctl.host.progress import Progress

#: Versions of archives/linear/archive.yaml that are compared.
VERSIONS = {
    "1.0": "ServingHandler",
    "1.0.stock_wire": "ServingHandler, stock wire",
    "1.0.no_metrics": "ServingHandler, metrics off",
    "1.0.records": "ServingHandler, 1 % recorded",
}
CACHED = "1.0.cache"


@dataclass(frozen=True)
class Linear:
    """The archives that were built."""

    folder: Path
    spec: ArchiveSpec
    archives: dict[str, Path]  # by version; `stock` is that of BaseHandler

    @property
    def sample(self) -> bytes:
        """The request."""
        return (self.folder / "samples" / "row.json").read_bytes().strip()

    @property
    def weights(self) -> Path:
        return self.folder / ".built" / "1.0" / "model.safetensors"


def build_linear(project: Project, folder: Path, progress: Progress) -> Linear:
    """Build every version, and the stock archive, in a project of their own in `folder`.

    Raises:
        ArchiveError: an archive cannot be built.
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
        handler = BASELINES / "linear_handler.py"
        archives["stock"] = build_stock_archive("linear", "stock", handler, extra, own.root, config)
    return linear

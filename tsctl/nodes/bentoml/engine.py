"""The engine bentoml: the node of `handlers.adapters.asgi.node` as a service of BentoML, in BentoML's environment."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from handlers.contract import WORKER_PYTHON_VARIABLE
from tsctl.archive.inspect import facts_of
from tsctl.archive.sources import core_program
from tsctl.archive.store import StoredArchive
from tsctl.config.nodes import BaseNodeSpec, BentomlSpec
from tsctl.config.project import Project
from tsctl.host.files import make_folder
from tsctl.nodes.environments import require_environment
from tsctl.nodes.uvicorn import engine as uvicorn
from tsctl.nodes.whole import unfit_text


@dataclass(frozen=True)
class BentomlNode(uvicorn.UvicornNode):
    """One accepting process under BentoML, and its workers, which run with this Python and its libraries."""

    def server(self, project: Project) -> tuple[list[str], dict[str, str]]:
        environment = require_environment(project, self.engine)
        make_folder(self.folder / "bentoml")
        variables = {
            WORKER_PYTHON_VARIABLE: sys.executable,
            "BENTOML_HOME": str(self.folder / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "True",  # it would send its use to its makers
        }
        # nothing else of this environment is on its path
        return [str(environment.python), "-I", "-u", *core_program("handlers.adapters.bentoml.node")], variables

    def cannot(self, archive: StoredArchive, version: str) -> str:
        reason = unfit_text(facts_of(archive.path), "BentoML")
        return reason or super().cannot(archive, version)


def open_node(project: Project, name: str, spec: BaseNodeSpec, read_timeout_s: float) -> BentomlNode:
    """The node with its client; nothing is sent yet."""
    if not isinstance(spec, BentomlSpec):
        raise TypeError(f"node {name} is of engine {spec.engine}. This is a bug.")
    return uvicorn.make_node(BentomlNode, project, name, spec, read_timeout_s)


def served_at_start(folder: Path) -> Iterator[str]:
    """File names of the archives that a node with this folder serves again when it starts."""
    return uvicorn.served_at_start(folder)

"""Engines with environments of their own, for tests: installed once into the checkout, and linked into projects."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.sites import CHECKOUT, Site
from tsctl.config.project import Project
from tsctl.errors import ConflictError
from tsctl.host.progress import Progress
from tsctl.host.wait import wait_until
from tsctl.nodes.environments import ENGINES, Environment, link_of
from tsctl.nodes.install import install

#: How long another test process may take to install an engine, which downloads up to 100 MB.
INSTALL_S = 300.0


def installed(engine: str) -> Environment:
    """The environment of the engine in this checkout, which is installed if it is missing."""
    found: list[Environment] = []

    def is_done() -> bool:
        try:
            found.append(install(Project(CHECKOUT), ENGINES[engine], Progress()))
        except ConflictError:  # another test process installs one
            return False
        return True

    assert wait_until(is_done, INSTALL_S, 0.5), f"{engine} was not installed within {INSTALL_S:g} s"
    return found[0]


def give_engine(site: Site, engine: str) -> Environment:
    """Let the project have the engine, as if it were installed there."""
    environment = installed(engine)
    link = link_of(Project(site.root), engine)
    link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(environment.folder)
    return environment


def bentoml_command(environment: Environment, *arguments: str) -> list[str]:
    """A command line of BentoML."""
    return [str(environment.python), "-m", "bentoml", *arguments]


def stub_of_uv(folder: Path) -> Path:
    """A folder with a program `uv` that does nothing: `bentoml build` looks for one even where it calls none."""
    folder.mkdir()
    stub = folder / "uv"
    shutil.copyfile("/bin/false", stub)
    stub.chmod(0o755)
    return folder

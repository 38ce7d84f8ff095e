"""The paths of a project; every path that tsctl reads or writes is derived here."""

from __future__ import annotations

import os
from pathlib import Path

from tsctl.errors import SpecError

PROJECT_VARIABLE = "TSCTL_PROJECT"
#: The folder of models' packages, where they are not in the state: an image has them, and its state is a volume.
PACKAGES_VARIABLE = "TSCTL_PACKAGES"
BUILDS = ".builds"


class Project:
    """A folder that holds `deployment.yaml` and `archives/`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.deployment = root / "deployment.yaml"
        #: Settings of TorchServe nodes and of their logs, where they are not tsctl's own.
        self.config_properties = root / "config.properties"
        self.log_config = root / "log4j2.xml"
        self.archives = root / "archives"
        #: What a plain TorchServe loads: the current build of each version, and nothing else.
        self.published = self.archives / "store"
        #: Every build, by its name: the current ones are links to the published files.
        self.store = self.published / BUILDS
        #: Run-time state of this machine (pids, tokens, logs): readable by its owner only, never committed.
        self.state = root / ".tsctl"
        #: The packages of models; what archive.yaml requires is installed there.
        self.packages = Path(os.environ.get(PACKAGES_VARIABLE) or self.state / "packages")

    def relative(self, path: Path) -> str:
        """The path as a person in the project's root would type it."""
        try:
            return str(path.resolve().relative_to(self.root.resolve()))
        except ValueError:
            return str(path)


def project_of_archive(path: Path) -> Project | None:
    """The project in whose store an archive lies; None where it lies elsewhere."""
    folder = path.absolute().parent
    published = folder.parent if folder.name == BUILDS else folder
    project = Project(published.parent.parent)
    return project if project.published == published else None


def find_project(start: Path | None = None) -> Project:
    """The project named by TSCTL_PROJECT, else the nearest folder upwards that has an `archives` folder.

    Raises:
        SpecError: neither exists.
    """
    named = os.environ.get(PROJECT_VARIABLE)
    if named:
        if not Path(named).is_dir():
            raise SpecError(f"{PROJECT_VARIABLE}={named}: no such folder")
        return Project(Path(named).resolve())
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "deployment.yaml").is_file() or (folder / "archives").is_dir():
            return Project(folder)
    raise SpecError(
        f"no project here: neither {here} nor a folder above it has deployment.yaml or archives/",
        f"Change to the project's folder, or set {PROJECT_VARIABLE}.",
    )

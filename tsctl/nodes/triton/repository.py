"""The model repository of a node: one folder for each version that it serves, which Triton reads.

    <model>~<version>/
      config.pbtxt     from the archive and the number of workers
      tsctl.json       what was registered
      1/model.py       what Triton loads; a copy from the archive
      1/archive/       the unpacked archive

Each version is a model of Triton's by itself, so that it is loaded, scaled and unloaded without the others. Invariant:
a folder whose name begins with a model's is whole; what is being made or removed has a name that begins with a dot.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from handlers.contract import TRITON_MODEL_PARAMETER, TRITON_VERSION_PARAMETER
from tsctl.archive.container import open_archive, unpack
from tsctl.archive.inspect import Facts, read_facts
from tsctl.archive.store import StoredArchive
from tsctl.config.archive import Timeouts
from tsctl.errors import ArchiveError
from tsctl.host.files import make_folder, write_public
from tsctl.nodes.observed import VersionKey
from tsctl.nodes.triton.model_config import Batching, model_config

#: Triton's own number of the only version of each of its models.
NUMBER = "1"
#: The archive's file that Triton loads.
ADAPTER = "handlers/adapters/triton/model.py"
_RECORD, _CONFIG = "tsctl.json", "config.pbtxt"


@dataclass(frozen=True)
class Served:
    """A registered version."""

    model: str
    version: str
    archive: str  # file name in the store
    workers: int  # 0: none is loaded
    startup_s: int
    batch_size: int
    max_delay_ms: int
    gpus: int = 0
    failure: str = ""  # why a dead worker could not be replaced; empty where it was

    @property
    def key(self) -> VersionKey:
        return self.model, self.version

    @property
    def name(self) -> str:
        return triton_name(self.model, self.version)


def triton_name(model: str, version: str) -> str:
    """The name of Triton's model; no model's and no version's name has a tilde."""
    return f"{model}~{version}"


class Repository:
    """The folders of one node's versions.

    Args:
        folder: made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def served(self) -> list[Served]:
        """Every registered version, by model and version."""
        return sorted(self._read(), key=lambda served: served.key)

    def find(self, model: str, version: str) -> Served | None:
        """The version; None where it is not registered."""
        return _served_in(self.folder / triton_name(model, version))

    def make(self, archive: StoredArchive, version: str, workers: int | None, gpus: int = 0) -> tuple[Served, Path]:
        """A folder for the version beside its place, for `put`.

        Args:
            workers: None: as the archive says.

        Raises:
            ArchiveError: the archive cannot be unpacked or read, or Triton cannot serve it.
        """
        make_folder(self.folder)
        served = _describe(archive, version, workers, gpus)
        making = self.folder / f".making-{served.name}"
        remove(making)
        unpack(archive.path, making / NUMBER / "archive")
        shutil.copyfile(making / NUMBER / "archive" / ADAPTER, making / NUMBER / "model.py")
        _write(making, served)
        return served, making

    def put(self, made: Path, name: str) -> Path | None:
        """Give the made folder its name; the folder that had it, under another name, or None."""
        place, before = self.folder / name, self.folder / f".before-{name}"
        remove(before)
        has_before = place.is_dir()
        if has_before:
            place.rename(before)
        made.rename(place)
        return before if has_before else None

    def update(self, served: Served) -> None:
        """Write the version's record and configuration anew."""
        _write(self.folder / served.name, served)

    def renew(self, served: Served) -> None:
        """Have Triton start all workers of the version anew at the next load: it compares the times of files."""
        os.utime(self.folder / served.name / NUMBER / "model.py")

    def remove(self, model: str, version: str) -> None:
        """Remove the version's folder, if there is one."""
        place = self.folder / triton_name(model, version)
        gone = self.folder / f".gone-{place.name}"
        remove(gone)
        with suppress(FileNotFoundError):
            place.rename(gone)
        remove(gone)

    def _read(self) -> Iterator[Served]:
        for folder in self.folder.glob("[!.]*"):
            if (served := _served_in(folder)) is not None:
                yield served


def remove(folder: Path) -> None:
    """Remove a folder, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def _describe(archive: StoredArchive, version: str, workers: int | None, gpus: int) -> Served:
    with open_archive(archive.path) as opened:
        facts = read_facts(opened)
        if reason := unfit(facts, opened.namelist()):
            raise ArchiveError(f"{archive.path.name} cannot be served by Triton: {reason}")
    return Served(
        archive.model,
        version,
        archive.path.name,
        workers if workers is not None else facts.integer("minWorkers") or 1,
        facts.integer("startupTimeout") or Timeouts().startup_s,
        facts.batch_size,
        facts.integer("maxBatchDelay") or 1,
        gpus,
    )


def why_not(archive: StoredArchive) -> str:
    """Why Triton cannot serve the archive, whatever is done; empty where it can.

    Raises:
        ArchiveError: it cannot be read.
    """
    with open_archive(archive.path) as opened:
        return unfit(read_facts(opened), opened.namelist())


def unfit(facts: Facts, names: list[str]) -> str:
    """Why Triton cannot serve an archive with these entries; empty where it can."""
    if facts.is_stock:
        return "it was not built by tsctl, so only TorchServe can serve it"
    if not facts.serving.handler:
        return "its handler defines the function handle, which only TorchServe calls"
    if ADAPTER not in names:
        return "an older tsctl built it, without an adapter for Triton: build it again"
    return ""


def _write(folder: Path, served: Served) -> None:
    batching = Batching(served.batch_size, served.max_delay_ms)
    parameters = {TRITON_MODEL_PARAMETER: served.model, TRITON_VERSION_PARAMETER: served.version}
    config = model_config(served.name, batching, max(1, served.workers), served.gpus, parameters=parameters)
    if not (folder / _CONFIG).is_file() or (folder / _CONFIG).read_text(encoding="utf-8") != config:
        write_public(folder / _CONFIG, config)
    write_public(folder / _RECORD, json.dumps(asdict(served), indent=1) + "\n")


def with_workers(served: Served, workers: int) -> Served:
    """The version with another number of workers."""
    return replace(served, workers=workers, failure="")


def _served_in(folder: Path) -> Served | None:
    try:
        return Served(**json.loads((folder / _RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None

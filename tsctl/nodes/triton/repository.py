"""The model repository of a node: one folder for each version that it serves, which Triton reads.

    <model>~<version>/
      config.pbtxt     from the archive and the number of workers
      1/model.py       what Triton loads; a copy from the archive
      1/archive/       the unpacked archive

Each version is a model of Triton's by itself, so that it is loaded, scaled and unloaded without the others. Invariant:
a folder whose name begins with a model's is whole; what is being made or removed has a name that begins with a dot.
"""

from __future__ import annotations

import compileall
import json
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from handlers.contract import TRITON_MODEL_PARAMETER, TRITON_VERSION_PARAMETER
from tsctl.archive.container import open_archive, unpack
from tsctl.archive.inspect import Facts, read_facts
from tsctl.archive.store import StoredArchive
from tsctl.config.archive import Timeouts
from tsctl.errors import ArchiveError
from tsctl.host.files import make_folder, write_document
from tsctl.nodes.observed import VersionKey
from tsctl.nodes.triton.model_config import Batching, model_config, numbered_groups
from tsctl.nodes.whole import unfit_text

#: Triton's own number of the only version of each of its models.
NUMBER = "1"
#: The archive's file that Triton loads.
ADAPTER = "handlers/adapters/triton/model.py"
_CONFIG = "config.pbtxt"


@dataclass(frozen=True)
class Served:
    """A registered version."""

    model: str
    version: str
    archive: str  # file name in the store
    numbers: tuple[int, ...]  # of its workers; empty: none is loaded
    startup_s: int
    batch_size: int
    max_delay_ms: int
    gpus: int = 0
    failure: str = ""  # why a dead worker could not be replaced; empty where it was

    @property
    def key(self) -> VersionKey:
        return self.model, self.version

    @property
    def workers(self) -> int:
        """How many there should be."""
        return len(self.numbers)

    @property
    def name(self) -> str:
        return triton_name(self.model, self.version)


def read_served(content: dict[str, Any]) -> Served:
    """The version in a record; ValueError where it is none."""
    return _schema().validate_json(json.dumps(content), strict=True)


@cache
def _schema() -> TypeAdapter[Served]:
    return TypeAdapter(Served)


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

    @property
    def records(self) -> Path:
        """Where the records are: beside the folders, in which Triton takes any other file's change for a new model."""
        return self.folder.with_name("served")

    def served(self) -> list[Served]:
        """Every registered version, by model and version."""
        found = (self._read(record) for record in self.records.glob("*.json"))
        return sorted((served for served in found if served is not None), key=lambda served: served.key)

    def find(self, model: str, version: str) -> Served | None:
        """The version; None where it is not registered."""
        return self._read(self._record(triton_name(model, version)))

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
        compileall.compile_dir(making, quiet=2)  # or the first worker would, and Triton take that for a new model
        _write_config(making, served)
        return served, making

    def put(self, made: Path, served: Served) -> Path | None:
        """Give the made folder its name, and write its record; the folder that had the name, under another, or None."""
        place, before = self.folder / served.name, self.folder / f".before-{served.name}"
        remove(before)
        has_before = place.is_dir()
        if has_before:
            place.rename(before)
        made.rename(place)
        self._write_record(served)
        return before if has_before else None

    def update(self, served: Served) -> None:
        """Write the version's record and configuration anew."""
        _write_config(self.folder / served.name, served)
        self._write_record(served)

    def remove(self, model: str, version: str) -> None:
        """Remove the version's record and folder, if there are any."""
        self._record(triton_name(model, version)).unlink(missing_ok=True)
        place = self.folder / triton_name(model, version)
        gone = self.folder / f".gone-{place.name}"
        remove(gone)
        with suppress(FileNotFoundError):
            place.rename(gone)
        remove(gone)

    def _record(self, name: str) -> Path:
        return self.records / f"{name}.json"

    def _read(self, record: Path) -> Served | None:
        try:
            return read_served(json.loads(record.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError):
            return None

    def _write_record(self, served: Served) -> None:
        make_folder(self.records)
        write_document(self._record(served.name), asdict(served))


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
        tuple(range(1, 1 + (workers if workers is not None else facts.integer("minWorkers") or 1))),
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
    if reason := unfit_text(facts, "Triton"):
        return reason
    if ADAPTER not in names:
        return "an older tsctl built it, without an adapter for Triton: build it again"
    return ""


def _write_config(folder: Path, served: Served) -> None:
    """Write config.pbtxt in its place: a file that replaces it would change the folder, and Triton load all anew."""
    batching = Batching(served.batch_size, served.max_delay_ms)
    parameters = {TRITON_MODEL_PARAMETER: served.model, TRITON_VERSION_PARAMETER: served.version}
    groups = numbered_groups(served.numbers or (1,), served.gpus)
    (folder / _CONFIG).write_text(model_config(served.name, batching, groups, parameters=parameters), encoding="utf-8")


def with_workers(served: Served, workers: int, live: Collection[int]) -> Served:
    """The version with so many workers: those that live stay, and a new one takes the place of each dead one.

    Args:
        live: numbers of the workers that live.
    """
    new = count(max(served.numbers, default=0) + 1)
    wanted = sorted(range(len(served.numbers)), key=lambda place: (served.numbers[place] not in live, place))[:workers]
    kept = [served.numbers[place] for place in sorted(wanted)]
    numbers = [number if number in live else next(new) for number in kept]
    numbers += [next(new) for _ in range(workers - len(numbers))]
    return replace(served, numbers=tuple(numbers), failure="")

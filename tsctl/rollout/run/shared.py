"""Journals at the place that machines share. Below it,

- `begun/MODEL/000012.json` says that the model's twelfth rollout began, and its id: so two never begin at once;
- `rollouts/MODEL/ID/000007.json` is entry 7 of a journal: a line of it, and who wrote it;
- `asked/MODEL/...` are commands of people that no rollout's process has taken yet.

Invariant: the place has every entry. The files in `.tsctl/rollouts` are copies, which everything that shows rollouts
reads; a copy that lacks entries, or is damaged, is written again.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from secrets import token_hex
from typing import Any

from tsctl.config.project import Project
from tsctl.control import large
from tsctl.control.here import control_address, place_at
from tsctl.control.lease import Holder
from tsctl.control.place import AlreadyThere, Place, numbered, numbers, read_on
from tsctl.errors import ConflictError
from tsctl.host.documents import parse_json
from tsctl.rollout.decide.events import Ended, Entry
from tsctl.rollout.decide.interventions import Command
from tsctl.rollout.run.journal_lines import (
    DamagedJournal,
    content_of,
    line_of,
    parse,
    parse_line,
    write_entries,
)

_BEGUN, _ENTRIES, _ASKED = "begun", "rollouts", "asked"
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


def entries_at(model: str, id: str) -> str:
    """The prefix of a journal's objects."""
    return f"{_ENTRIES}/{model}/{id}"


def object_of(entry: Entry, writer: Holder) -> bytes:
    """An entry as an object: its line, and the process that wrote it."""
    fields = json.loads(line_of(entry)) | {"writer": {"by": str(writer), "token": writer.token}}
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def read_object(name: str, number: int, content: bytes) -> tuple[Entry, dict[str, Any]]:
    """The entry of an object, and its writer.

    Raises:
        DamagedJournal: it is no such thing.
        LaterJournal: a later version of tsctl wrote it.
    """
    try:
        fields = parse_json(content)
        writer = dict(fields.pop("writer"))
        entry = parse_line(Path(name), json.dumps(fields).encode())
        if entry.seq != number:
            raise ValueError(f"it is numbered {entry.seq}")
        return entry, {"by": str(writer["by"]), "token": str(writer["token"])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedJournal(
            f"{name}, at the place that deployment.yaml names as control, is damaged: {error}",
            "Remove it and all objects behind it. Then 'tsctl rollout resume MODEL' on the machine that ran the rollout"
            " writes them again from its copy; on another one, 'tsctl rollout abort MODEL' rolls back.",
        ) from None


@dataclass
class SharedJournals:
    """The journals at a place."""

    place: Place
    _ids: dict[str, dict[int, str]] = field(default_factory=dict)  # by model and number; they never change

    def models(self) -> list[str]:
        """The models that had a rollout."""
        return sorted({name.split("/")[1] for name in self.place.names(f"{_BEGUN}/")})

    def ids(self, model: str) -> list[str]:
        """The ids of the model's rollouts, in the order in which they began."""
        known = self._ids.setdefault(model, {})
        for number in numbers(self.place, f"{_BEGUN}/{model}"):
            if number not in known:
                known[number] = self._id(model, number)
        return [known[number] for number in sorted(known)]

    def begin(self, model: str, id: str) -> None:
        """The rollout is the model's last one.

        Raises:
            ConflictError: another one began at the same moment.
        """
        number = len(self.ids(model)) + 1
        name = numbered(f"{_BEGUN}/{model}", number)
        try:
            self.place.create(name, json.dumps({"id": id}).encode())
        except AlreadyThere:
            if (other := self._id(model, number)) != id:
                raise ConflictError(
                    f"another machine began the rollout {other} of {model} at this moment",
                    f"Follow it: tsctl rollout watch {model}",
                ) from None

    def pull(self, model: str, folder: Path) -> None:
        """The folder has a copy of every journal of the model; of those that have ended, only the last may change."""
        ids = self.ids(model)
        for id in ids:
            path = folder / f"{id}.jsonl"
            entries, is_whole = _copy(path)
            if id != ids[-1] and entries and isinstance(entries[-1].event, Ended):
                continue
            latest = self._latest(model, id, entries)
            if latest != entries or (entries and not is_whole):
                write_entries(path, latest)

    def _latest(self, model: str, id: str, entries: list[Entry]) -> list[Entry]:
        """The entries of a copy, and those that the place has behind them; the place's alone where they differ.

        A place may have lost its end: then the copy is the longer one, and is right.
        """
        if entries:
            tail = self.read(model, id, len(entries) - 1)
            if tail[:1] == entries[-1:]:
                return [*entries, *tail[1:]]
        there = self.read(model, id)
        return entries if entries[: len(there)] == there else there

    def read(self, model: str, id: str, first: int = 0) -> list[Entry]:
        """The entries of a journal from number `first` on."""
        prefix = entries_at(model, id)
        return [
            read_object(numbered(prefix, number), number, content)[0]
            for number, content in enumerate(read_on(self.place, prefix, first, large.read), first)
        ]

    def restore(self, model: str, id: str, entries: Sequence[Entry], writer: Holder) -> None:
        """The place has these entries, where it has a beginning of them: it is newer than the journal, or lost its end.

        Where another process went on differently, the place stays as it is.
        """
        there = self.read(model, id)
        if list(entries[: len(there)]) == there:
            for entry in entries[len(there) :]:
                large.create(self.place, numbered(entries_at(model, id), entry.seq), object_of(entry, writer))
        if id not in self.ids(model):
            self.begin(model, id)

    def _id(self, model: str, number: int) -> str:
        name = numbered(f"{_BEGUN}/{model}", number)
        try:
            id = parse_json(self.place.read(name) or b"")["id"]
            if not isinstance(id, str) or not _ID.fullmatch(id):  # it becomes the name of a file
                raise ValueError(f"{id!r} is no id of a rollout")
            return id
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedJournal(
                f"{name}, at the place of control, is damaged: {error}",
                f'Restore it: {{"id": ID}}, with the id of the rollout, which is a folder below {_ENTRIES}/{model}.',
            ) from None


def _copy(path: Path) -> tuple[list[Entry], bool]:
    """The entries of a copy, none where it is damaged; and whether the file has these and nothing else."""
    try:
        content = content_of(path)
        entries, size = parse(path, content)
    except DamagedJournal:
        return [], False
    return entries, size == len(content)


def shared_journals(project: Project) -> SharedJournals | None:
    """The journals at the project's place; None where it has none. Raises PlaceUnusable and PlaceUnreachable."""
    address = control_address(project)
    return None if address is None else _journals(address)


@cache
def _journals(address: str) -> SharedJournals:
    """One for each place: ids are read once."""
    return SharedJournals(place_at(address))


@dataclass
class SharedCommands:
    """Commands to the rollout of a model, whatever machine its process is on.

    A command is there until it is in the journal. A process that ends in between leaves it, and the next one obeys it.
    """

    place: Place
    model: str
    clock: Callable[[], int] = time.time_ns
    _taken: dict[str, tuple[Command, str]] = field(default_factory=dict)
    _obeyed: set[str] = field(default_factory=set)

    def send(self, command: Command, by: str) -> None:
        content = json.dumps({"command": command, "by": by}).encode()
        self.place.create(f"{_ASKED}/{self.model}/{self.clock():020}-{token_hex(4)}.json", content)

    def take(self) -> list[tuple[Command, str]]:
        """Those since `acknowledge`, the first one first; what is no command is removed."""
        for name in self.place.names(f"{_ASKED}/{self.model}/"):
            if name not in self._taken and name not in self._obeyed:
                for command in self._read(name):
                    self._taken[name] = command
        return [self._taken[name] for name in sorted(self._taken)]

    def acknowledge(self) -> None:
        for name in list(self._taken):
            self._obeyed.add(name)  # first: where it cannot be removed, it is not obeyed again
            del self._taken[name]
        for name in list(self._obeyed):
            self.place.delete(name)
            self._obeyed.discard(name)

    def _read(self, name: str) -> Iterator[tuple[Command, str]]:
        try:
            fields = parse_json(self.place.read(name) or b"")
            yield Command(fields["command"]), str(fields["by"])
        except (ValueError, KeyError, TypeError):
            self.place.delete(name)

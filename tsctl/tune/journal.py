"""The journal of a search: a line that says what is searched, then one for each trial. It is only appended to."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tsctl.errors import AnalysisError, SpecError
from tsctl.host.documents import checked, parse_json
from tsctl.host.files import make_folder
from tsctl.tune.trials import Trial

#: Form of the lines.
FORM = 1


@dataclass(frozen=True)
class Notes:
    """What was found before the first trial, and holds for all of them.

    Args:
        connections: of each load.
        base_s: seconds of the shortest loads.
    """

    connections: Annotated[int, Field(ge=1)]
    base_s: Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Journal:
    """One file.

    Args:
        head: what must be the same for a search to go on, as JSON values.
    """

    path: Path
    head: Mapping[str, Any]

    def begin(self, notes: Notes) -> None:
        """Begin an empty journal in place of an older one."""
        make_folder(self.path.parent)
        making = self.path.with_suffix(".new")
        making.write_text(_line({"form": FORM, **self.head, "notes": asdict(notes)}), encoding="utf-8")
        making.replace(self.path)

    def resume(self) -> tuple[Notes, list[Trial]]:
        """The notes and the trials so far; a last line that was not written to its end is dropped.

        Raises:
            SpecError: there is no journal, or it is of another search.
            AnalysisError: it is damaged.
        """
        if not self.path.is_file():
            raise SpecError(f"there is no search to resume: {self.path} does not exist", "Leave out --resume.")
        content = self.path.read_bytes()
        whole, _, rest = content.rpartition(b"\n")
        try:
            if not whole:
                raise ValueError("it has no whole line")
            head, *entries = [parse_json(line) for line in whole.splitlines()]
            self._require_same(head)
            notes = checked(Notes(**head["notes"]))
            trials = [checked(Trial.from_json(entry)) for entry in entries]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise AnalysisError(f"{self.path} is damaged: {error}", "Begin anew, without --resume.") from None
        if rest:  # only of a journal that is sound: a damaged one stays as it is, for people
            os.truncate(self.path, len(content) - len(rest))
        return notes, trials

    def add(self, trial: Trial) -> None:
        """Append a trial."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(trial.as_json()))
            file.flush()
            os.fsync(file.fileno())

    def _require_same(self, found: Mapping[str, Any]) -> None:
        wanted = json.loads(_line({"form": FORM, **self.head}))
        for name, value in wanted.items():
            if found.get(name) != value:
                raise SpecError(
                    f"the search in {self.path} is another one: {name} was {found.get(name)!r}, and is {value!r}",
                    "Give the same options, or begin anew without --resume.",
                )


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content) + "\n"

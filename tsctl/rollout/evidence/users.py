"""Evidence of a route that divides users and not requests, read from the gateway's access log.

A user stays on one version and brings many requests, which are not by chance each. So a user counts once for each kind
of event, with the first one: that fell to the canary with the probability of its weight, whatever followed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from tsctl.config.weights import TOTAL
from tsctl.errors import AnalysisError
from tsctl.gateway.envoy.render import BY_WEIGHT
from tsctl.rollout.decide.evidence import Seen, Window
from tsctl.rollout.evidence.counts import Cursor, Question, is_error

#: A cursor's place in the log: which file, and how far.
FILE, OFFSET = "log|file", "log|offset"


@dataclass
class UserLog:
    """The log, and which users have had which event.

    Args:
        log: Envoy's access log; those before it have the same name and .1, .2 and so on.
        since: where the rollout began to read. Who resumes one reads again from there, to know the users.
    """

    log: Path
    since: Cursor
    _met: set[tuple[str, str]] = field(default_factory=set)  # kind of event and user
    _known: Cursor = field(default_factory=dict)  # up to which place `_met` is right

    def mark(self) -> Cursor:
        """Where the log ends now."""
        try:
            stat = self.log.stat()
        except FileNotFoundError:
            return {FILE: 0, OFFSET: 0}
        return {FILE: stat.st_ino, OFFSET: stat.st_size}

    def read(self, question: Question, cursor: Cursor) -> tuple[list[Window], dict[str, int]]:
        """What came since the cursor, one window for each weight; and what changed of the cursor.

        Raises:
            AnalysisError: the log cannot be read.
        """
        if self._known != _place(cursor):  # read for the first time, or what was read before was not kept
            self._met = set()
            for line in self._lines(self.since, cursor)[0]:
                _add({}, line, question, self._met)
        lines, place = self._lines(cursor, None)
        self._known = _place(place)
        found: dict[int, dict[str, Seen]] = {}
        for line in lines:
            _add(found, line, question, self._met)
        windows = [
            Window(
                weight,
                at.get(question.stable, Seen()),
                at.get(question.canary, Seen()),
                users=(at.get(f"{question.stable}|users", Seen()), at.get(f"{question.canary}|users", Seen())),
            )
            for weight, at in sorted(found.items())
        ]
        return windows, {key: value for key, value in place.items() if cursor.get(key) != value}

    def _lines(self, begin: Cursor, end: Cursor | None) -> tuple[list[bytes], dict[str, int]]:
        """Whole lines between two places, the oldest first, and where they end; None: the end of the log."""
        found: list[bytes] = []
        place = dict(begin)
        try:
            for path in self._files(begin):
                with path.open("rb") as file:
                    inode = os.fstat(file.fileno()).st_ino
                    offset = begin.get(OFFSET, 0) if _is_at(os.fstat(file.fileno()), begin) else 0
                    limit = end[OFFSET] - offset if end is not None and inode == end.get(FILE) else -1
                    file.seek(offset)
                    content = file.read(limit)
                whole = content.rfind(b"\n") + 1
                found += content[:whole].splitlines()
                place = {FILE: inode, OFFSET: offset + whole}
                if end is not None and inode == end.get(FILE):
                    break
        except OSError as error:
            raise AnalysisError(f"{self.log} cannot be read: {error}") from error
        return found, place

    def _files(self, begin: Cursor) -> Iterator[Path]:
        """Logs from the one with this place on, the oldest first; all that are kept, where it is gone."""
        kept = [self.log] if self.log.is_file() else []
        for number in count(1):
            if kept and _is_at(kept[0].stat(), begin):
                break
            path = self.log.with_name(f"{self.log.name}.{number}")
            if not path.is_file():
                break
            kept.insert(0, path)
        yield from kept


def _place(cursor: Cursor) -> Cursor:
    return {key: value for key, value in cursor.items() if key in (FILE, OFFSET)}


def _is_at(found: os.stat_result, place: Cursor) -> bool:
    """Whether it is the file of the place; the number of a file that is gone may be given to another."""
    return found.st_ino == place.get(FILE) and found.st_size >= place.get(OFFSET, 0)


def _add(found: dict[int, dict[str, Seen]], line: bytes, question: Question, met: set[tuple[str, str]]) -> None:
    """Put one request where it belongs; a line that is none, or of another route, is passed over."""
    try:
        told = json.loads(line)
        weight, version = int(told["weight"]), told["version"]
    except (ValueError, KeyError, TypeError):
        return
    if told.get("model") != question.model or told.get("by") != BY_WEIGHT:
        return
    if version not in (question.stable, question.canary):
        return
    at = found.setdefault(weight if version == question.canary else TOTAL - weight, {})
    seen = _seen(told, question)
    at[version] = at.get(version, Seen()) + seen
    at[f"{version}|users"] = at.get(f"{version}|users", Seen()) + _first(seen, told.get("user"), met)


def _seen(told: Mapping[str, Any], question: Question) -> Seen:
    named = told.get("class")
    is_slow = question.slow_ms is not None and float(told.get("duration_ms") or 0) >= question.slow_ms
    return Seen(
        requests=1,
        errors=int(is_error(str(told.get("status", 0)), question.count_4xx)),
        slow=int(is_slow),
        classes={named: 1} if named and named != "-" else {},
    )


def _first(seen: Seen, user: str | None, met: set[tuple[str, str]]) -> Seen:
    """What of it the user had not had before; a request without a user was sent by chance, and counts."""
    if not user:
        return seen

    def is_new(kind: str) -> bool:
        if (kind, user) in met:
            return False
        met.add((kind, user))
        return True

    return Seen(
        requests=seen.requests,
        errors=int(bool(seen.errors) and is_new("error")),
        slow=int(bool(seen.slow) and is_new("slow")),
        classes=seen.classes if seen.classes and is_new("class") else {},
    )

"""Evidence of a route that divides users and not requests, read from the gateway's access log.

A user stays on one version and brings many requests, which are not by chance each. So a user counts once for each kind
of event, with the first one: that fell to the canary with the probability of its weight, whatever followed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tsctl.config.weights import TOTAL
from tsctl.gateway.access_log import AccessLogEntry, LogPosition, end_of_log, parse_entry, read_lines
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
    _known: LogPosition = field(default_factory=LogPosition)  # up to which place `_met` is right

    def mark(self) -> Cursor:
        """Where the log ends now."""
        return _cursor(end_of_log(self.log))

    def read(self, question: Question, cursor: Cursor) -> tuple[list[Window], dict[str, int]]:
        """What came since the cursor, one window for each weight; and what changed of the cursor.

        Raises:
            AnalysisError: the log cannot be read.
        """
        if self._known != _place(cursor):  # read for the first time, or what was read before was not kept
            self._met = set()
            for line in read_lines(self.log, _place(self.since), _place(cursor))[0]:
                _add({}, line, question, self._met)
        lines, self._known = read_lines(self.log, _place(cursor))
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
        return windows, {key: value for key, value in _cursor(self._known).items() if cursor.get(key, 0) != value}


def _place(cursor: Cursor) -> LogPosition:
    return LogPosition(cursor.get(FILE, 0), cursor.get(OFFSET, 0))


def _cursor(place: LogPosition) -> dict[str, int]:
    return {FILE: place.inode, OFFSET: place.offset}


def _add(found: dict[int, dict[str, Seen]], line: bytes, question: Question, met: set[tuple[str, str]]) -> None:
    """Put one request where it belongs; a line that is none, or of another route, is passed over."""
    entry = parse_entry(line)
    if entry is None or entry.model != question.model or not entry.is_by_weight or entry.weight is None:
        return
    version = entry.version
    if version not in (question.stable, question.canary):
        return
    at = found.setdefault(entry.weight if version == question.canary else TOTAL - entry.weight, {})
    seen = _seen(entry, question)
    at[version] = at.get(version, Seen()) + seen
    at[f"{version}|users"] = at.get(f"{version}|users", Seen()) + _first(seen, entry.user, met)


def _seen(entry: AccessLogEntry, question: Question) -> Seen:
    is_slow = question.slow_ms is not None and entry.duration_ms >= question.slow_ms
    return Seen(
        requests=1,
        errors=int(is_error(str(entry.status), question.count_4xx)),
        slow=int(is_slow),
        classes={entry.predicted_class: 1} if entry.predicted_class else {},
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

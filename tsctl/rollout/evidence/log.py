"""Evidence from the gateway's access log: of a route that divides users and not requests, and of language models.

A user stays on one version and sends many requests, which are not independent. So a user counts once for each kind of
event, with the first one: it fell to the canary with the probability of its weight, whatever followed. Of a language
model, only the log has the tokens of each answer beside its times.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tsctl.gateway.access_log import AccessLogEntry, LogPosition, end_of_log, newest_chunks, parse_entry, read_lines
from tsctl.rollout.decide.events import Cursor
from tsctl.rollout.decide.windows import NOTHING, ClientCounts, OutcomeCounts, Thresholds, Window
from tsctl.rollout.evidence.counts import EvidenceQuery, Totals
from tsctl.rollout.evidence.log_answers import answer_of, computed_ms, is_slow, text_counts, text_thresholds
from tsctl.rollout.evidence.totals import LEAST_ANSWERS

#: By weight of the canary and client.
Clients = defaultdict[int, defaultdict[str, ClientCounts]]

#: Keys of a cursor for the position in the log: the file's inode, and the offset.
FILE, OFFSET = "log|file", "log|offset"
#: Thresholds of times are by so many answers, and by so much of the log at most.
RECENT, MOST_BYTES = 1000, 32 << 20


@dataclass
class RequestLog:
    """The access log, and the users of a sticky route that had an event already.

    Args:
        log: Envoy's access log.
        since: where the rollout began to read. A resumed rollout reads again from there, to know the users.
    """

    log: Path
    since: Cursor
    _met: set[tuple[str, str, str]] = field(default_factory=set)  # kind of event, client and user
    _known: LogPosition = field(default_factory=LogPosition)  # `_met` is right up to this position

    def mark(self) -> Cursor:
        """Where the log ends now."""
        return _cursor(end_of_log(self.log))

    def thresholds(self, model: str, version: str, quantile: float) -> Thresholds:
        """By the version's RECENT last answers that the weights chose; AnalysisError where the log cannot be read."""
        recent: list[AccessLogEntry] = []
        for lines in newest_chunks(self.log, MOST_BYTES):
            entries = (entry for line in reversed(lines) if (entry := parse_entry(line)) is not None)
            recent += (e for e in entries if e.is_by_weight and (e.model, e.version) == (model, version))
            if len(recent) >= RECENT:
                break
        return text_thresholds(recent[:RECENT], quantile, LEAST_ANSWERS)

    def read(
        self,
        query: EvidenceQuery,
        cursor: Cursor,
        shares: Mapping[str, float],
        before: Sequence[tuple[Cursor, Thresholds]] = (),
        since: Cursor | None = None,
    ) -> tuple[list[Window], dict[str, int]]:
        """New windows since the cursor, and its changes; AnalysisError where the log cannot be read.

        Args:
            shares: of the requests, by client.
            before: earlier thresholds, each with the cursor up to which the log was read with them.
            since: where the rollout began to read the log; None: as `self.since`.
        """
        if query.is_by_user and self._known != _position(
            cursor
        ):  # the first reading, or the last one was not journaled
            self._met, since = set(), self.since if since is None else since
            for until, old in (*before, (cursor, Thresholds(query.slow_ms, query.token_ms))):
                lines, _ = read_lines(self.log, _position(since), _position(until))
                self._totals(lines, replace(query, slow_ms=old.slow_ms, token_ms=old.token_ms))
                since = until
        lines, self._known = read_lines(self.log, _position(cursor))
        totals, users, clients = self._totals(lines, query)
        windows = [
            Window(
                weight,
                totals[weight, query.stable],
                totals[weight, query.canary],
                is_by_user=query.is_by_user,
                stable_users=users[weight, query.stable],
                canary_users=users[weight, query.canary],
                clients={
                    name: replace(counts, share=shares.get(name, 0.0)) for name, counts in clients[weight].items()
                },
            )
            for weight in sorted({weight for weight, _ in totals})
        ]
        return windows, {key: value for key, value in _cursor(self._known).items() if cursor.get(key, 0) != value}

    def _totals(self, lines: Iterable[bytes], query: EvidenceQuery) -> tuple[Totals, Totals, Clients]:
        """Counts of requests, of users and of clients; lines that are cut off or of another route are skipped."""
        totals, users = Totals(OutcomeCounts), Totals(OutcomeCounts)
        clients = Clients(lambda: defaultdict(ClientCounts))
        for line in lines:
            entry = parse_entry(line)
            if entry is None or entry.model != query.model or not entry.is_by_weight or entry.weight is None:
                continue
            if entry.version not in (query.stable, query.canary):
                continue
            request = counts_of(entry, query)
            weight, client = query.canary_weight(entry.version, entry.weight), entry.client or ""
            totals[weight, entry.version] += request
            if not query.is_by_user:
                if request.errors or request.refused or request.unanswered:
                    failed = answer_of(entry).counts(1, query.count_4xx)
                    clients[weight][client] = query.of_client(clients[weight][client], entry.version, failed)
                continue
            first = self._first(request, client, entry.user)
            users[weight, entry.version] += first
            events = replace(request, classes={}, cached=0, timed=0, paced=0, finishes={}, lengths={})
            first = replace(first, requests=0, cached=0, timed=0, paced=0)
            if events != OutcomeCounts(events.requests) or first != NOTHING:
                clients[weight][client] = query.of_client(clients[weight][client], entry.version, events, first)
        return totals, users, clients

    def _first(self, request: OutcomeCounts, client: str, user: str | None) -> OutcomeCounts:
        """The events that the client's user had not had before; a request without a user is independent, and counts."""
        if not user:
            return request

        def is_first(kind: str) -> bool:
            is_new = (kind, client, user) not in self._met
            self._met.add((kind, client, user))
            return is_new

        return OutcomeCounts(
            requests=request.requests,
            errors=int(bool(request.errors) and is_first("error")),
            slow=int(bool(request.slow) and is_first("slow")),
            classes=request.classes if request.classes and is_first("class") else {},
            refused=int(bool(request.refused) and is_first("refused")),
            unanswered=int(bool(request.unanswered) and is_first("error")),
            slow_tokens=int(bool(request.slow_tokens) and is_first("tokens")),
            finishes=request.finishes if request.finishes and is_first("finish") else {},
            lengths=request.lengths if request.lengths and is_first("length") else {},
        )


def counts_of(entry: AccessLogEntry, query: EvidenceQuery) -> OutcomeCounts:
    """The counts of one request."""
    counts = answer_of(entry).counts(1, query.count_4xx)
    if computed_ms(entry) is not None:
        counts += OutcomeCounts(slow=int(is_slow(entry, query.slow_ms)), timed=1)
    return counts if entry.finish is None else counts + text_counts(entry, query.token_ms)


def _position(cursor: Cursor) -> LogPosition:
    return LogPosition(cursor.get(FILE, 0), cursor.get(OFFSET, 0))


def _cursor(position: LogPosition) -> dict[str, int]:
    return {FILE: position.inode, OFFSET: position.offset}

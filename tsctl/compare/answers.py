"""Compares the answers of an engine with those that the archive's worker gives without a server.

They are compared as a shadow's answers are with stable's: by the archive's comparator, against the engine's own noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tsctl.host.documents import parse_json
from tsctl.nodes.observed import Reply
from tsctl.shadow.comparators import Comparator, NotComparable
from tsctl.shadow.disagreement import Disagreement, Repeat


@dataclass(frozen=True)
class Agreement:
    """How an engine's answers compare with the archive's.

    Args:
        evidence: each request is a pair of the archive's answer and the engine's; the repeats are the engine's second
            answer, alone as the first one was, and its third one, among all the others.
        first: where the answers differ first, and how; empty where they agree.
    """

    evidence: Disagreement
    first: str = ""

    @property
    def difference(self) -> str:
        """How they differ, in a sentence; empty where they do not."""
        if not self.first:
            return ""
        counts, own = self.evidence, self.evidence.repeats_differing
        return (
            f"{self.first} ({counts.differing} of {counts.pairs} answers differ; of the engine's own answers to the"
            f" same requests, {own[Repeat.ALONE]} one after the other, and {own[Repeat.BATCH]} at the same time)"
        )


def agreement(
    names: Sequence[str],
    expected: Sequence[Reply],
    replies: Sequence[Reply],
    again: Sequence[Reply],
    together: Sequence[Reply],
    comparator: Comparator,
) -> Agreement:
    """Compare an engine's answers with the archive's, and its later answers with its first ones.

    Args:
        names: of the requests.
        expected: the archive's answers.
        again: to the requests one after the other, as `replies`.
        together: to requests that were sent at the same time, which an engine that batches answers in other batches.
    """
    evidence, first = Disagreement(), ""
    for name, want, have, alone, batched in zip(names, expected, replies, again, together, strict=True):
        reason = _difference(want, have, comparator)
        repeats = {Repeat.ALONE: alone, Repeat.BATCH: batched}
        noisy = {kind: bool(_difference(have, repeated, comparator)) for kind, repeated in repeats.items()}
        evidence = evidence.seen(bool(reason), noisy)
        first = first or (reason and f"{name}: {reason}")
    return Agreement(evidence, first)


def _difference(want: Reply, have: Reply, comparator: Comparator) -> str:
    if want.status != have.status:
        return f"status {have.status} in place of {want.status} ({have.body[:200].decode('utf-8', 'replace')})"
    if want.status != 200:
        return ""  # the details of a problem hold the request's id
    try:
        wanted = parse_json(want.body)
    except ValueError:
        return "" if want.body == have.body else "other bytes"
    try:
        answer = parse_json(have.body)
    except ValueError:
        return f"no JSON: {have.body[:200].decode('utf-8', 'replace')}"
    try:
        found = comparator(wanted, answer)
    except NotComparable as error:
        return str(error)
    return found.about if found.differs else ""

"""Compares the answers of an engine with those that the archive's worker gives without a server.

They are compared as a shadow's answers are with stable's: by the archive's comparator, against the engine's own noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from handlers.contract import Tolerance
from tsctl.archive.documents import parse_json
from tsctl.nodes.observed import Reply
from tsctl.shadow.comparators import Comparator, Json, NotComparable
from tsctl.shadow.disagreement import Disagreement, Repeat, without


@dataclass(frozen=True)
class Agreement:
    """How an engine's answers compare with the archive's.

    Args:
        evidence: each request is a pair of the archive's answer and the engine's; the repeat is the engine's second
            answer, alone as the first one was.
        first: where the answers differ first, and how; empty where they agree.
    """

    evidence: Disagreement
    first: str = ""

    @property
    def difference(self) -> str:
        """How they differ, in a sentence; empty where they do not."""
        if not self.first:
            return ""
        counts, noisy = self.evidence, self.evidence.repeats_differing[Repeat.ALONE]
        return (
            f"{self.first} ({counts.differing} of {counts.pairs} answers differ, and {noisy} of the engine's own when"
            " it is asked again)"
        )


def agreement(
    names: Sequence[str],
    expected: Sequence[Reply],
    replies: Sequence[Reply],
    again: Sequence[Reply],
    comparator: Comparator,
) -> Agreement:
    """Compare an engine's answers with the archive's, and its second answers with its first ones.

    Args:
        names: of the requests.
        expected: the archive's answers.
    """
    evidence, first = without(Disagreement(), Repeat.BATCH), ""
    for name, want, have, repeated in zip(names, expected, replies, again, strict=True):
        reason = _difference(want, have, comparator)
        evidence = evidence.seen(bool(reason), {Repeat.ALONE: bool(_difference(have, repeated, comparator))})
        first = first or (reason and f"{name}: {reason}")
    return Agreement(evidence, first)


def first_difference(
    names: Sequence[str], expected: Sequence[Reply], replies: Sequence[Reply], within: Tolerance
) -> str:
    """Where the answers differ first, and how; empty where they agree.

    Args:
        names: of the requests.
        within: how far two numbers may lie apart.
    """
    return agreement(names, expected, replies, replies, Json(within)).first


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

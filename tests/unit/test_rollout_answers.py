"""What an answer is evidence of: what a client alone causes is none against a version."""

from __future__ import annotations

import random

import pytest

from tsctl.config.policy import RolloutPolicy
from tsctl.rollout.decide.evidence import no_evidence
from tsctl.rollout.decide.judge import Verdict, judge
from tsctl.rollout.decide.windows import OutcomeCounts, Window
from tsctl.rollout.evidence.answers import Answer

POLICY = RolloutPolicy()
#: Requests, errors, refusals, unanswered ones.
NOTHING, GOOD, ERROR, REFUSED, UNANSWERED = (0, 0, 0, 0), (1, 0, 0, 0), (1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 1)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer("200", deadline="client"), GOOD),
        (Answer("500"), ERROR),
        (Answer("504", deadline="route"), ERROR),
        (Answer("504"), ERROR),
        (Answer("504", deadline="client"), NOTHING),
        (Answer("504", flags="UT", deadline="client"), UNANSWERED),  # a worker that did not heed the client's deadline
        (Answer("503", flags="UF,URX", deadline="client"), UNANSWERED),
        (Answer("503", flags="UH"), UNANSWERED),
        (Answer("503"), UNANSWERED),  # of a node whose workers load
        (Answer("200", flags="UT"), GOOD),  # its client reads slowly,
        (Answer("0", flags="DC"), NOTHING),
        (Answer("501"), REFUSED),  # `explain: True`
        *[(Answer(status), REFUSED) for status in ("400", "404", "413", "415", "422")],
    ],
)
def test_an_answer_counts_for_what_its_version_did(answer: Answer, expected: tuple[int, int, int, int]) -> None:
    counts = answer.counts(1, count_4xx=False)
    assert (counts.requests, counts.errors, counts.refused, counts.unanswered) == expected


def test_a_4xx_is_an_error_as_well_where_the_policy_says_so() -> None:
    assert Answer("422").counts(3, count_4xx=True) == OutcomeCounts(3, 3, refused=3)
    assert Answer("501").counts(3, count_4xx=True).errors == 0


def verdicts(stable: tuple[Answer, ...], canary: tuple[Answer, ...], requests: int = 40_000) -> set[Verdict]:
    """Verdicts on a canary at 5 %; each request draws one of the answers of its version."""
    chance = random.Random(1)  # noqa: S311 - a seeded simulation
    evidence, seen = no_evidence(POLICY, ()), set()
    for _ in range(requests // 1000):
        totals = [OutcomeCounts(), OutcomeCounts()]
        for _ in range(1000):
            side = chance.random() < 0.05
            totals[side] += chance.choice((stable, canary)[side]).counts(1, POLICY.count_4xx)
        evidence = evidence.seen(Window(500, totals[0], totals[1]))
        seen.add(judge(POLICY, evidence, 1e9, 10**9).verdict)
    return seen


@pytest.mark.parametrize("status", ["413", "422"])
def test_a_canary_that_refuses_what_stable_answers_fails(status: str) -> None:
    assert Verdict.FAIL in verdicts((Answer("200"),), (Answer(status),), 1000)


def test_mistakes_of_clients_fall_on_both_versions_and_fail_none() -> None:
    half = (Answer("200"), Answer("422"), Answer("200"), Answer("400"))
    found = verdicts(half, half)
    assert Verdict.PASS in found and Verdict.FAIL not in found


def test_deadlines_that_clients_set_too_short_fail_none_however_many() -> None:
    late = (Answer("200"), Answer("504", deadline="client"))
    found = verdicts(late, late)
    assert Verdict.PASS in found and Verdict.FAIL not in found
    no_answer = (Answer("504", deadline="client"),)
    assert verdicts(late, no_answer) == {Verdict.UNDECIDED}


GONE = OutcomeCounts(100, unanswered=100)


@pytest.mark.parametrize(
    ("stable", "is_disturbed", "errors"),
    [
        (OutcomeCounts(1900), False, 100),  # stable answers: the canary is at fault
        (OutcomeCounts(1900, unanswered=900), False, 100),
        (OutcomeCounts(1900, unanswered=950), False, 0),  # both are gone
        (OutcomeCounts(1900), True, 0),  # a node was, and the canary's workers load later than stable's
        (OutcomeCounts(), False, 100),
    ],
)
def test_requests_without_an_answer_are_errors_unless_a_node_or_stable_is_gone(
    stable: OutcomeCounts, is_disturbed: bool, errors: int
) -> None:
    evidence = no_evidence(POLICY, ()).seen(Window(500, stable, GONE), is_disturbed=is_disturbed)
    assert (evidence.canary.errors, evidence.canary.requests) == (errors, errors)
    assert evidence.set_aside == (0 if errors else 100 + stable.unanswered)
    assert (judge(POLICY, evidence, 1, 100).verdict is Verdict.FAIL) == bool(errors)


def test_a_version_that_answers_wrongly_fails_also_while_a_node_is_gone() -> None:
    bad = Window(500, OutcomeCounts(1900, unanswered=1900), OutcomeCounts(100, errors=50, unanswered=50))
    assert judge(POLICY, no_evidence(POLICY, ()).seen(bad, is_disturbed=True), 1, 100).verdict is Verdict.FAIL

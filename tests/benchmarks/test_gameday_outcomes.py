"""What a game day says of a release follows from its journal and from what users met."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.gameday import run as gameday
from benchmarks.gameday.outcomes import LATE_S, Canary, Release, release_of
from benchmarks.harness.client import Answer
from benchmarks.targets.fleet import missing_engine
from tsctl.config.policy import RolloutPolicy
from tsctl.config.project import Project
from tsctl.rollout.decide.events import Entry, Tick
from tsctl.rollout.decide.stored import parse_event, to_json
from tsctl.rollout.decide.windows import OutcomeCounts, Window

CHECKOUT = Path(__file__).resolve().parents[2]
BAD, GOOD = Canary("2.0", "bad"), Canary("2.0", "nothing", is_bad=False)
STABLE, CANARY = "1.0", "2.0"
#: When the clock of the answers was 0.
BEGAN = 1000.0


def entries(*records: tuple[float, str, dict[str, Any]]) -> list[Entry]:
    """A journal whose start comes at BEGAN; the others, so many seconds later."""
    start = {
        "id": "20261125T093000Z-2.0", "model": "digits", "canary": CANARY, "stable": STABLE, "archive": "ab" * 32,
        "policy": RolloutPolicy().model_dump(mode="json"), "classes": [],
    }  # fmt: skip
    whole = [(0.0, "started", start), *records]
    return [Entry(seq, BEGAN + at, parse_event(kind, content)) for seq, (at, kind, content) in enumerate(whole)]


def tick(at: float, stable: int, canary: int, weight: int = 500) -> tuple[float, str, dict[str, Any]]:
    return at, "tick", to_json(Tick(0.5, (Window(weight, OutcomeCounts(stable), OutcomeCounts(canary)),)))


def rolled_back(signal: str) -> list[Entry]:
    """Read at 10, 10.5 and 11, and failed then; stable has everything again at 11.2."""
    return entries(
        (9.0, "step", {"index": 0, "weight": 500}),
        tick(9.5, 400, 0, weight=0),
        tick(10.0, 95, 5),
        tick(10.5, 90, 4),
        tick(11.0, 85, 6),
        (11.1, "verdict", {"verdict": "fail", "why": "too many", "signal": signal}),
        (11.1, "doing", {"what": "back"}),
        (11.2, "done", {"what": "back"}),
        (11.3, "ended", {"outcome": "rolled back", "why": "too many"}),
    )


def answer(asked: float, status: int = 200, version: str = CANARY, user: str = "", predicted: str = "") -> Answer:
    return Answer(asked, asked + 0.1, status, version, user, predicted)


def released(
    canary: Canary, journal: list[Entry], answers: list[Answer], logged: dict[str, str] | None = None
) -> Release:
    return release_of(canary, journal, answers, logged or {}, {"7": "7", "1": "1"}, BEGAN)


def test_counts_are_of_requests_while_the_canary_had_a_weight() -> None:
    release = released(BAD, rolled_back("errors"), [answer(9.4), answer(10.9, 500)])
    assert (release.requests, release.on_canary) == (285, 15)
    assert release.seconds == pytest.approx(1.7), "from the first request of the canary to the verdict"
    assert (release.outcome, release.signal, release.is_right) == ("rolled back", "errors", True)


@pytest.mark.parametrize(
    ("signal", "answers", "rollback_s"),
    [
        # an error's answer at 10.7 is the first that the reading at 10.5 had not seen; in force at 11.2
        ("errors", [answer(10.3, 500), answer(10.45), answer(10.6, 500), answer(10.8, 500)], 0.5),
        # any request may decide where it need not be an error
        ("mix", [answer(10.3), answer(10.45), answer(10.8)], 0.65),
        ("memory", [answer(10.3), answer(10.45), answer(10.8)], 0.65),
        # the gateway tells times late, so that the answer at 9.6 may have come to be known at 11 only
        ("slow", [answer(9.0), answer(10.5 - LATE_S), answer(10.8)], 1.6),
        # a request that the canary got after the gateway said that it gets none
        ("limit", [answer(10.6, 500), answer(12.7)], 2.0),
        # none came to it, so there is nothing to measure
        ("register", [], None),
    ],
)
def test_a_rollback_is_measured_from_the_first_request_that_may_have_decided(
    signal: str, answers: list[Answer], rollback_s: float | None
) -> None:
    release = released(BAD, rolled_back(signal), answers)
    assert release.rollback_s == (pytest.approx(rollback_s) if rollback_s is not None else None)


def test_a_failure_is_the_canarys_only_where_the_answer_or_the_gateways_log_says_so() -> None:
    answers = [
        answer(9.4),
        answer(10.6, 500),
        answer(10.6, 504, "", "hung"),
        answer(10.6, 504, "", "lost"),
        answer(10.6, 503, STABLE, "stable"),
        answer(10.6, 200, STABLE),
    ]
    release = released(BAD, rolled_back("errors"), answers, {"hung": CANARY, "lost": STABLE})
    assert (release.sent, release.failed, release.failed_elsewhere) == (6, 4, 2)


def test_another_class_than_stables_misleads_where_stable_had_the_picture() -> None:
    answers = [
        answer(10.1, user="a-0-7", predicted="1"),
        answer(10.2, user="a-1-1", predicted="1"),
        answer(10.3, user="a-2-9", predicted="4"),
        answer(10.4, 500, user="a-3-7"),
        answer(10.5, user="a-4-7", version=STABLE, predicted="1"),
    ]
    assert released(BAD, rolled_back("mix"), answers).misled == 1


@pytest.mark.parametrize(
    ("canary", "outcome", "is_right"),
    [(BAD, "promoted", False), (GOOD, "promoted", True), (BAD, "rolled back", True), (GOOD, "rolled back", False)],
)
def test_bad_ones_must_go_back_and_others_must_not(canary: Canary, outcome: str, is_right: bool) -> None:
    journal = entries(tick(10.0, 95, 5), (12.0, "ended", {"outcome": outcome, "why": "so"}))
    release = released(canary, journal, [answer(9.5)])
    assert release.is_right is is_right
    assert bool(gameday.wrong_verdicts([release])) is not is_right


def test_a_release_that_did_not_end_is_wrong_verdicts() -> None:
    for canary in (BAD, GOOD):
        release = released(canary, entries(tick(10.0, 95, 5)), [answer(9.5)])
        assert (release.outcome, release.is_right) == ("unfinished", False)


def test_a_day_counts_what_was_caught_and_who_failed() -> None:
    met = [answer(10.6, 500, "nan"), answer(10.7, 503, STABLE, "x")]
    caught = released(Canary("nan", "NaN"), rolled_back("errors"), met)
    missed = released(Canary("leaks", "leaks"), entries((12.0, "ended", {"outcome": "promoted", "why": ""})), [])
    figures = {figure.name: (figure.value, figure.is_reached) for figure in gameday.figures([caught, missed])}
    assert figures["bad canaries rolled back"] == (1, False)
    assert figures["slowest rollback in force"] == (0.5, True)
    assert figures["failed requests that no bad canary answered"] == (1, False)
    assert gameday.wrong_verdicts([caught, missed]) == ["leaks (leaks) was promoted"]


def test_a_canary_whose_engine_is_missing_has_a_row_that_says_how_to_install_it(tmp_path: Path) -> None:
    why = missing_engine(Project(tmp_path), "triton")
    assert why == "engine triton is not installed. Run: tsctl engines install triton"
    assert missing_engine(Project(tmp_path), "uvicorn") == ""
    caught = released(Canary("nan", "NaN"), rolled_back("errors"), [])
    left_out = ((Canary("some_wrong", "wrong", engine="triton"), why),)
    day = gameday.GameDay("gameday", "", {}, {}, [], releases=(caught,), left_out=left_out)
    first, last = gameday.rows([day])
    assert first[:5] == ("nan", "torchserve", "NaN", "rolled back", "errors")
    assert last[:4] == ("some_wrong", "triton", "wrong", why)
    assert len(first) == len(last) == len(gameday.COLUMNS)


def test_archive_and_day_name_the_same_canaries() -> None:
    spec = yaml.safe_load((CHECKOUT / "benchmarks" / "archives" / "gameday" / "archive.yaml").read_text())
    named = [canary.version for canary in gameday.CANARIES if not canary.archive]
    assert named == list(spec["versions"])[1:]
    assert {canary.archive for canary in gameday.CANARIES} == {"", STABLE}
    same = [canary.version for canary in gameday.CANARIES if not canary.is_bad]
    assert same == ["same", "on_uvicorn", "on_triton"]
    for canary in gameday.CANARIES:
        RolloutPolicy.model_validate({**gameday.POLICY, **canary.policy})

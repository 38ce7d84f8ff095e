"""Nothing to compare is no proof: what no signal compared is said in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.rollout_journals import POLICY, promoted, started
from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.rollout.decide.events import Entry, StepBegan, Tick
from tsctl.rollout.decide.fold import fold
from tsctl.rollout.decide.state import State
from tsctl.rollout.decide.windows import OutcomeCounts, Window
from tsctl.views.rollout.gaps import gaps
from tsctl.views.rollout.narrative import story
from tsctl.views.rollout.report import render_report


def state(
    window: Window,
    policy: RolloutPolicy = POLICY,
    classes: tuple[str, ...] = ("cat", "dog"),
    slow_ms: float | None = 20,
    is_disturbed: bool = False,
) -> State:
    start = replace(started("m", policy=policy), classes=classes)
    ticks = [Tick(2.0, (Window(1000),)), Tick(1.0, (window,), is_disturbed=is_disturbed)]  # settled by the second
    return fold(
        [Entry(number, 0.0, event) for number, event in enumerate([start, StepBegan(0, 1000, slow_ms), *ticks])]
    )


def pair(cached: tuple[int, int] = (0, 0), **classes: int) -> Window:
    stable, canary = ((900, cached[0]), (100, cached[1]))
    counts = [
        OutcomeCounts(count, classes=classes, cached=hits, timed=count - hits) for count, hits in (stable, canary)
    ]
    return Window(1000, counts[0], counts[1])


NAMED = pair(cat=50, dog=50)


def test_where_all_is_compared_there_is_nothing_to_say() -> None:
    assert gaps(state(NAMED)) == ()
    assert gaps(state(Window(1000))) == ()


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (state(pair(other=100)), "The class distribution compared little: 100% of the predictions are of classes that"),
        (state(pair(new=60, cat=40)), "The class distribution compared little: 60% of the predictions"),
        (state(pair(cat=100)), "The class distribution compared nothing: every prediction is of one class."),
        (state(pair()), "The class distribution compared nothing: no answer named a class."),
        (state(NAMED, classes=()), "The class distribution compared nothing: stable had named no class before"),
        (state(NAMED, slow_ms=None), "No answer was judged as slow: stable computed too few answers for a threshold"),
        (state(pair((800, 0), cat=1, dog=1)), "No answer was judged as slow: the canary's cache was colder than"),
        (
            state(Window(TOTAL, OutcomeCounts(), OutcomeCounts(100))),
            "Nothing was compared with stable (errors, refused, slow, class distribution): it had no requests",
        ),
        (
            state(Window(1000, OutcomeCounts(900, unanswered=900), OutcomeCounts(100, unanswered=100))),
            "1,000 requests that nobody answered count for no version: a node, or stable as well, was unavailable.",
        ),
    ],
)
def test_what_compared_nothing_is_said(found: State, sentence: str) -> None:
    assert any(text.startswith(sentence) for text in gaps(found)), gaps(found)


def test_explain_and_the_report_say_it(tmp_path: Path) -> None:
    entries = promoted(tmp_path).entries
    start = entries[0].event
    blind = [Entry(0, entries[0].at, replace(start, classes=())), *entries[1:]]  # type: ignore[call-arg]
    [sentence] = story(blind).gaps
    assert sentence.startswith("The class distribution compared nothing")
    assert sentence in render_report(blind)
    assert story(entries).gaps == ()

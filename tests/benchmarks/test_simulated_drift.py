"""The simulated detectors and comparisons are the code that runs, value by value and pair by pair."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.simulation import drift
from benchmarks.simulation.drift import Statistics, Stream, alarms, bins_of
from benchmarks.simulation.shadow import Shadow, pairs_until, simulate
from tsctl.drift.detector import Watch, detector
from tsctl.drift.reference import Reference, category_reference, count, number_reference
from tsctl.shadow.disagreement import Disagreement, Repeat

CHANCE = np.random.default_rng(1)
NUMBERS = [number_reference(CHANCE.normal(size=size).round(places).tolist()) for size, places in ((60, 0), (300, 9))]
CATEGORIES = [category_reference(CHANCE.integers(0, most, 90).tolist()) for most in (4, 70)]


@pytest.mark.parametrize("references", [NUMBERS, CATEGORIES], ids=["numbers", "categories"])
def test_the_statistics_are_those_of_the_detectors_value_by_value(references: list[Reference]) -> None:
    detectors = [detector(reference) for reference in references]
    statistics = Statistics(detectors, 0.01)
    values = CHANCE.normal(1, 3, (2, 40)).round(1) if references is NUMBERS else CHANCE.integers(0, 90, (2, 40))
    for number in range(40):
        places = np.array([bins_of(r, row[number : number + 1])[0] for r, row in zip(references, values, strict=True)])
        assert places.tolist() == [r.bin_of(row[number].item()) for r, row in zip(references, values, strict=True)]
        counts = [count(r, [row[number].item()]) for r, row in zip(references, values, strict=True)]
        detectors = [each.seen(seen, 0.01) for each, seen in zip(detectors, counts, strict=True)]
        expected = [each.log_statistic for each in detectors]
        assert np.log(statistics.seen(places)) == pytest.approx(expected, abs=1e-9)


def test_the_statistics_stay_the_same_where_their_scale_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    often, seldom = (Statistics([detector(NUMBERS[1])] * 3, 0.01) for _ in range(2))
    chance = np.random.default_rng(3)
    for number in range(100):
        places = chance.integers(0, len(NUMBERS[1].names), 3)
        monkeypatch.setattr(drift, "SMALLEST_SCALE", 0.1)
        average = often.seen(places)
        monkeypatch.setattr(drift, "SMALLEST_SCALE", 1e-90)
        assert average == pytest.approx(seldom.seen(places), rel=1e-9), number
    assert often.scale.min() > seldom.scale.min()


def test_alarms_come_where_those_of_a_watch_do() -> None:
    def source(chance: np.random.Generator, size: int) -> np.ndarray:
        return np.full(size, 9.0)

    def reference(chance: np.random.Generator, size: int) -> np.ndarray:
        return np.linspace(0, 1, size)

    ends = alarms(Stream(reference, source, number_reference, 100, features=2), 1000, 50, 3, seed=1)
    made = number_reference(np.linspace(0, 1, 100).tolist())
    watched, items = Watch(1000, {"a": detector(made), "b": detector(made)}), 0
    while not watched.is_alarm:
        watched, items = watched.seen({"a": count(made, [9.0]), "b": count(made, [9.0])}, 1), items + 1
    assert ends.tolist() == [items] * 3
    assert alarms(Stream(reference, reference, number_reference, 100), 10**6, 20, 2, seed=1).tolist() == [0, 0]


def test_verdicts_on_shadows_are_those_of_the_evidence() -> None:
    always = simulate(Shadow(1.0, 0.0, 0.0), 0.01, 0.01, 300, 2, seed=1)
    never = simulate(Shadow(0.0, 0.0, 0.0), 0.01, 0.01, 3000, 2, seed=1)
    worse, same, pairs = Disagreement(), Disagreement(), 0
    no = dict.fromkeys(Repeat, False)
    while not worse.exceeds(0.01, 0.01):
        worse = worse.seen(True, no)
    assert always.exceeds.tolist() == [worse.pairs] * 2
    assert always.stays_below.tolist() == [0, 0]
    while not same.stays_below(0.01, 0.01):
        pairs += 1
        same = same.seen(False, no)
    assert never.stays_below.tolist() == [pairs] * 2
    assert never.exceeds.tolist() == [0, 0]


def test_a_share_of_the_comparisons_is_decided_by_some_pair() -> None:
    assert pairs_until(np.array([30, 0, 10, 20]), 0.5) == 20
    assert pairs_until(np.array([30, 0, 10, 20]), 0.8) is None


def test_false_alarms_are_as_rare_as_budgeted() -> None:
    def source(chance: np.random.Generator, size: int) -> np.ndarray:
        return chance.normal(size=size)

    ends = alarms(Stream(source, source, number_reference, 300), 100, 5000, 250, seed=2)
    assert (ends > 0).all()
    assert ends.mean() > 100

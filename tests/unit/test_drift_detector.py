"""Detectors bet fairly while nothing changes, find changes, and say which feature moved; windows are tested once."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsctl.drift.alternatives import alternatives
from tsctl.drift.detector import Watch, detector, urn, watch
from tsctl.drift.reference import Reference, category_reference, count, number_reference
from tsctl.drift.window import chi_square, compare_window, stability_index

CHANCE = random.Random(1)  # noqa: S311 - seeded values
NORMAL = number_reference([CHANCE.gauss(0, 1) for _ in range(1000)])
FEW = number_reference([float(number % 3) for number in range(60)])  # three values: three bins and three outside
SHAPES = category_reference(["round"] * 1200 + ["flat"] * 600 + ["odd"] * 20 + [None] * 180)
REFERENCES: dict[str, Reference] = {"width": NORMAL, "few": FEW, "shape": SHAPES}


@pytest.mark.parametrize("reference", REFERENCES.values(), ids=REFERENCES)
def test_the_changes_of_a_feature_are_shares_of_one_bet(reference: Reference) -> None:
    weights = urn(reference)
    changes = alternatives(reference, weights)
    assert sum(change.part for change in changes) == pytest.approx(1)
    assert len({change.name for change in changes}) == len(changes)
    for change in changes:
        shares = change.shares(weights)
        assert sum(shares) == pytest.approx(1)
        assert min(shares) > 0


def test_a_shift_of_normal_values_is_the_shift_that_is_bet_on() -> None:
    even = number_reference([NormalDist().inv_cdf((number + 0.5) / 1000) for number in range(1000)])
    weights = urn(even)
    shift = next(each for each in alternatives(even, weights) if each.name == "shifted by +0.8 sd")
    chance = random.Random(2)  # noqa: S311 - seeded values
    shares = [value / 20_000 for value in count(even, [chance.gauss(0.8, 1) for _ in range(20_000)])]
    assert shares == pytest.approx(shift.shares(weights), abs=0.01)


def probability(weights: Sequence[float], values: Sequence[int]) -> float:
    """Of a sequence of bins from Polya's urn."""
    drawn, product = list(weights), 1.0
    for value in values:
        product *= drawn[value] / sum(drawn)
        drawn[value] += 1
    return product


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.lists(st.integers(0, 5), max_size=6), st.floats(0.01, 0.9))
def test_no_bet_on_a_change_wins_while_there_is_none(size: int, before: list[int], time: float) -> None:
    start = detector(FEW)
    bins = len(start.weights)
    for value in before:
        start = start.seen([int(value == place) for place in range(bins)], time)
    mean = [0.0] * len(start.changes)
    for values in itertools.product(range(bins), repeat=size):  # every way in which the next values can fall
        after = start.seen([values.count(place) for place in range(bins)], time)
        chance = probability(start.weights, values)
        mean = [m + chance * math.exp(log_s) for m, log_s in zip(mean, after.logs, strict=True)]
    expected = [math.exp(log_s) + time for log_s in start.logs] if start.logs else [time] * len(mean)
    assert mean == pytest.approx(expected, rel=1e-9)


def watched(live: dict[str, list[object]], budget: float = 10_000, most: int = 1500) -> tuple[Watch, int]:
    """The watch at its alarm, or after all values, and the items until then."""
    state = watch({name: REFERENCES[name] for name in live}, budget)
    for item in range(most):
        state = state.seen({name: count(REFERENCES[name], [values[item]]) for name, values in live.items()}, 1)
        if state.is_alarm:
            return state, item + 1
    return state, most


def normals(mean: float, spread: float = 1.0) -> list[object]:
    chance = random.Random(3)  # noqa: S311 - seeded values
    return [chance.gauss(mean, spread) for _ in range(1500)]


def shapes(*weights: float) -> list[object]:
    chance = random.Random(4)  # noqa: S311 - seeded values
    return chance.choices(["round", "flat", "odd", None, "new"], weights, k=1500)


SAME_SHAPES = (60, 30, 1, 9, 0)


@pytest.mark.parametrize(
    ("live", "feature", "cause", "most"),
    [
        ({"width": normals(1.0), "shape": shapes(*SAME_SHAPES)}, "width", "shifted by +", 60),
        ({"width": normals(-0.4), "shape": shapes(*SAME_SHAPES)}, "width", "shifted by -", 400),
        ({"width": normals(0.0, 2.0)}, "width", "", 200),
        ({"width": normals(100.0)}, "width", "", 10),
        ({"width": [None] * 1500}, "width", "missing", 10),
        ({"width": normals(0.0), "shape": shapes(60, 30, 1, 9, 10)}, "shape", "new categories", 200),
        ({"shape": shapes(30, 60, 1, 9, 0)}, "shape", "", 200),
        ({"shape": shapes(60, 1, 1, 9, 0)}, "shape", "", 300),
    ],
)
def test_a_change_is_found_in_its_feature(live: dict[str, list[object]], feature: str, cause: str, most: int) -> None:
    state, items = watched(live)
    assert state.is_alarm
    assert items <= most
    name, change = state.causes()[0]
    assert name == feature
    assert change.name.startswith(cause)


def test_the_same_week_stays_silent_and_an_alarm_can_be_restarted() -> None:
    state, items = watched({"width": normals(0.0), "shape": shapes(*SAME_SHAPES)})
    assert (state.is_alarm, items) == (False, 1500)
    alarmed, _ = watched({"width": normals(2.0)})
    again = alarmed.restarted()
    assert not again.is_alarm
    assert again.detectors["width"].weights == alarmed.detectors["width"].weights
    assert again.log_statistic == -math.inf


def test_time_without_values_is_no_evidence() -> None:
    state = watch(REFERENCES, 10)
    empty = state.seen({name: [0] * len(reference.names) for name, reference in REFERENCES.items()}, 1000)
    assert empty == state
    assert empty.causes() == []
    assert not Watch(1.0).is_alarm


def test_what_cannot_be_is_refused() -> None:
    state = watch({"few": FEW}, 10)
    for counts, time in (([1, 2], 1.0), ([-1, 0, 0, 0, 0], 1.0), ([1, 0, 0, 0, 0], 0.0)):
        with pytest.raises(ValueError, match="needs 5 counts"):
            state.seen({"few": counts}, time)
    with pytest.raises(ValueError, match="no reference for height"):
        state.seen({"height": [1]}, 1)
    with pytest.raises(ValueError, match="budget"):
        watch({}, 0)


def counts_of(reference: Reference, size: int, seed: int, shift: float = 0.0) -> tuple[int, ...]:
    chance = random.Random(seed)  # noqa: S311 - seeded values
    return count(reference, [chance.gauss(shift, 1) for _ in range(size)])


def test_windows_of_the_same_values_are_named_at_most_as_often_as_said() -> None:
    p_values, named = [], 0
    for seed in range(200):
        chance = random.Random(seed)  # noqa: S311 - seeded values
        own: dict[str, Reference] = {
            str(n): number_reference([chance.gauss(0, 1) for _ in range(300)]) for n in range(3)
        }
        drifts = compare_window(own, {name: counts_of(ref, 300, 1000 + seed) for name, ref in own.items()}, 0.1)
        p_values += [drift.p_value for drift in drifts if drift.p_value is not None]
        named += any(drift.is_drift for drift in drifts)
    assert named <= 0.1 * 200 + 10
    assert sum(p <= 0.1 for p in p_values) / len(p_values) <= 0.12


def test_a_window_that_moved_is_named_and_its_neighbours_are_not() -> None:
    windows = {"width": counts_of(NORMAL, 500, 5, 0.5), "shape": count(SHAPES, shapes(*SAME_SHAPES))}
    width, shape = compare_window({"width": NORMAL, "shape": SHAPES, "few": FEW}, windows)
    assert (width.feature, width.test, width.is_drift) == ("width", "Kolmogorov-Smirnov", True)
    assert width.psi > 0.15 > width.psi_noise
    assert (shape.test, shape.is_drift) == ("chi-square", False)
    missing = compare_window({"width": NORMAL}, {"width": count(NORMAL, [None] * 50 + [0.0] * 50)})[0]
    assert (missing.test, missing.is_drift) == ("chi-square", True)


def test_the_noise_of_the_index_is_its_mean_where_nothing_moved() -> None:
    noise = 0.0
    indices: list[float] = []
    for seed in range(60):
        chance = random.Random(seed)  # noqa: S311 - seeded values
        reference = number_reference([chance.gauss(0, 1) for _ in range(2000)])
        drift = compare_window({"x": reference}, {"x": counts_of(reference, 1000, 500 + seed)})[0]
        noise = drift.psi_noise
        indices.append(drift.psi)
    assert sum(indices) / len(indices) == pytest.approx(noise, rel=0.25)


def test_an_empty_window_is_not_tested() -> None:
    for reference in REFERENCES.values():
        drift = compare_window({"x": reference}, {"x": [0] * len(reference.names)})[0]
        assert (drift.p_value, drift.psi, drift.is_drift, drift.values) == (None, 0.0, False, 0)
    with pytest.raises(ValueError, match="no reference for y"):
        compare_window({}, {"y": [1]})
    with pytest.raises(ValueError, match="x has 5 bins, found 1 counts"):
        compare_window({"x": FEW}, {"x": [1]})


def test_rare_bins_are_tested_together() -> None:
    assert chi_square([100, 1, 1, 1], [100, 0, 0, 1]) == (0.0, 0)
    statistic, freedom = chi_square([50, 50, 1], [90, 10, 0])
    assert freedom == 1
    assert statistic > 30
    assert stability_index([10, 10], [10, 10]) == 0

"""Which settings are tried, and the number that they are judged by."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.support.tuning import PRESENT, SLO_MS, space
from tsctl.tune.moves import moves, neighbours
from tsctl.tune.objective import SHARES, Load, Score, connections_for, next_share, score, seconds_for
from tsctl.tune.space import Settings, designs, make_space, shares


def test_workers_and_threads_share_the_cores() -> None:
    assert shares(1) == [1]
    assert shares(6) == [1, 2, 4, 6]
    found = space(cores=4)
    assert found.shapes == ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1))
    assert all(workers * threads <= 4 for workers, threads in found.shapes)


def test_the_present_settings_are_a_point_whatever_they_are() -> None:
    odd = Settings("triton", 24, 7, 3, 5, True, "bf16")
    made = make_space(odd, ["uvicorn", "triton"], ["triton"], 2, {})
    assert odd in set(made.points())
    assert made.engines == ("triton", "uvicorn")
    assert designs(made)[0] == odd


def test_a_delay_is_tried_only_where_the_engine_waits() -> None:
    made = space(engines=("uvicorn", "torchserve"), waiting=("torchserve",))
    delays = {engine: {point.delay_ms for point in made.points() if point.engine == engine} for engine in made.engines}
    assert delays == {"uvicorn": {1}, "torchserve": {1, 2, 5, 10}}


def test_every_combination_is_a_point_once() -> None:
    made = space(engines=("uvicorn", "torchserve"), waiting=("torchserve",))
    points = list(made.points())
    assert len(points) == len(set(points)) == made.size == (1 + 4) * 7 * 3 * 2 * 2


def test_what_the_archive_cannot_have_is_one_value_with_its_reason() -> None:
    made = space().without("dtype", "answers differ").without("compile", "no network")
    assert {(point.dtype, point.compile) for point in made.points()} == {("float32", False)}
    assert any("answers differ" in line for line in made.lines())
    assert make_space(PRESENT, ["uvicorn"], [], 2, {"compile": "quantize"}).compiles == (False,)


def test_designs_are_points_and_no_two_are_equal() -> None:
    for made in (space(1), space(2), space(16, ("torchserve", "uvicorn"), ("torchserve",))):
        first = designs(made)
        assert len(set(first)) == len(first)
        assert set(first) <= set(made.points())


def test_lighter_loads_are_offered_until_one_keeps_the_limit() -> None:
    loads: list[Load] = []
    for p99 in (400.0, 90.0, 30.0):
        share = next_share(loads, SLO_MS)
        assert share == SHARES[len(loads)]
        loads.append(Load(share * 1000, share * 1000, p99))
    assert next_share(loads, SLO_MS) is None
    assert next_share([Load(1, 1, 99.0)] * len(SHARES), SLO_MS) is None


def test_goodput_lies_between_the_load_that_kept_the_limit_and_the_next_larger_one() -> None:
    loads = [Load(900, 900, 80.0), Load(700, 700, 31.25)]
    found = score(1.0, 1000.0, loads, SLO_MS)
    assert found.goodput_s == pytest.approx(800.0), "50 ms is half way from 31.25 to 80, in logarithms"
    assert found.p99_ms == 31.25


def test_goodput_of_the_largest_load_that_keeps_the_limit_is_what_it_answered() -> None:
    assert score(1.0, 1000.0, [Load(900, 890, 50.0)], SLO_MS).goodput_s == 890
    assert score(1.0, 1000.0, [Load(900, 890, math.inf), Load(700, 690, 9.0)], SLO_MS).goodput_s == 690


def test_no_load_within_the_limit_is_no_goodput() -> None:
    found = score(1.0, 1000.0, [Load(900, 900, math.inf), Load(250, 250, 60.0)], SLO_MS)
    assert (found.goodput_s, found.p99_ms) == (0.0, 60.0)
    lost = score(1.0, 1000.0, [Load(900, 0, math.inf)], SLO_MS)
    assert Score.from_json(lost.as_json()) == lost
    assert lost.as_json()["p99_ms"] is None


def test_connections_and_seconds_fit_the_model() -> None:
    assert connections_for(1000.0, SLO_MS) == 100
    assert connections_for(1.0, SLO_MS) == 4
    assert connections_for(1e6, SLO_MS) == 256
    assert seconds_for(5000.0, 1.0, 3.0) == 1.0
    assert seconds_for(100.0, 1.0, 3.0) == 2.0
    assert seconds_for(0.0, 1.0, 3.0) == 3.0


def test_neighbours_differ_in_one_thing_and_are_points() -> None:
    made = space(4, ("torchserve", "uvicorn"), ("torchserve",))
    points = set(made.points())
    for point in (PRESENT, *list(points)[::97]):
        near = neighbours(made, point)
        assert set(near) <= points
        assert len(near) == len(set(near))
        for other in near:
            assert len(set(other.changes(point)) - {"threads", "delay_ms"} or {"threads"}) == 1


def test_changes_that_helped_are_tried_first_and_all_at_once_and_those_that_hurt_last() -> None:
    two, larger, wide = replace(PRESENT, workers=2), replace(PRESENT, batch=64), replace(PRESENT, threads=2)
    known = {PRESENT: 100.0, two: 130.0, replace(PRESENT, batch=128): 150.0, wide: 60.0}
    order = moves(space(), PRESENT, known)
    assert order[0] == replace(PRESENT, batch=64, workers=2)
    assert set(order[1:3]) == {larger, two}
    assert order[-1] == wide
    unknown = order.index(replace(PRESENT, compile=True))
    assert order.index(two) < unknown < order.index(wide)


def test_a_batch_that_helped_with_other_settings_is_tried_at_the_best_point_although_it_is_no_neighbour() -> None:
    two, far = replace(PRESENT, workers=2), replace(PRESENT, batch=128)
    order = moves(space(), two, {PRESENT: 100.0, two: 140.0, far: 120.0})
    assert order[0] == replace(two, batch=128)
    assert replace(two, batch=128) not in moves(space(), two, {PRESENT: 100.0, two: 140.0, far: 95.0})
    assert far not in moves(space(), PRESENT, {PRESENT: 130.0, two: 100.0, replace(two, batch=128): 99.0})


def test_a_change_that_was_invalid_is_tried_last_and_nothing_known_is_no_order() -> None:
    lowered = replace(PRESENT, dtype="bf16")
    assert moves(space(), PRESENT, {PRESENT: 100.0, lowered: 0.0})[-1] == lowered
    assert moves(space(), PRESENT, {PRESENT: 100.0}) == neighbours(space(), PRESENT)


def test_designs_change_one_thing_each() -> None:
    first, *others = designs(space())
    assert first == PRESENT
    assert [set(other.changes(PRESENT)) for other in others] == [{"workers"}, {"batch"}, {"threads"}]
    largest = replace(PRESENT, batch=128)
    assert replace(largest, batch=32) in designs(replace(space(), present=largest))

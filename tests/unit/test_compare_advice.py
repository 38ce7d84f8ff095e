"""The sentence of advice: the rule, ties, no fit, and what limits it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from tests.support.comparisons import SETTING, engine, load, turn
from tsctl.compare.advice import advise
from tsctl.compare.result import Bare, Comparison, Measured, Setting, medians

Rates = Sequence[float]


def comparison(engines: Mapping[str, Rates], setting: Setting = SETTING, more: Sequence[Measured] = ()) -> Comparison:
    measured = [engine(name, *(turn(rate) for rate in rates)) for name, rates in engines.items()]
    return Comparison(setting, Bare((9000.0,), (0.2,)), (*measured, *more))


def test_the_engine_with_the_most_requests_within_the_limit_is_taken() -> None:
    advice = advise(comparison({"torchserve": (4000, 4100, 3900), "uvicorn": (8000, 8200, 7900)}))
    assert advice.engines == ("uvicorn",)
    assert advice.sentence == (
        "Take uvicorn: it answers the most requests/s with a p99 of at most 50 ms in an open loop, 6,400 (6,320 to"
        " 6,560); next is torchserve with 3,200 (3,120 to 3,280)."
    )
    [limit] = advice.limits
    assert limit == (
        "This holds for digits 1.0 with 1 worker and 8 samples of the archive, on 2 cores that are shared with the"
        " client; another model, size of request or machine may reverse it."
    )


def test_without_a_limit_saturation_decides() -> None:
    setting = replace(SETTING, slo_p99_ms=None)
    advice = advise(comparison({"torchserve": (4000, 4100, 3900), "uvicorn": (8000, 8200, 7900)}, setting))
    assert advice.sentence.startswith("Take uvicorn: it answers the most requests/s at saturation, 8,000")


def test_the_limit_can_turn_the_choice_round() -> None:
    """The faster engine keeps the limit only at half of its capacity, the slower one at 80 %."""
    slow = engine("torchserve", *(turn(rate, p99=(5, 10, 40)) for rate in (6000, 6100, 6200)))
    fast = engine("uvicorn", *(turn(rate, p99=(5, 60, 200)) for rate in (8000, 8100, 8200)))
    found = Comparison(SETTING, Bare(), (fast, slow))
    assert advise(found).engines == ("torchserve",)
    assert advise(replace(found, setting=replace(SETTING, slo_p99_ms=None))).engines == ("uvicorn",)
    assert advise(replace(found, setting=replace(SETTING, slo_p99_ms=100.0))).engines == ("uvicorn",)


def test_rounds_that_overlap_are_no_difference() -> None:
    small = engine("torchserve", *(turn(rate, memory=100 << 20) for rate in (7000, 8000, 7500)))
    advice = advise(comparison({"uvicorn": (8000, 8200, 7900), "triton": (2000, 2000, 2000)}, more=[small]))
    assert advice.engines == ("uvicorn", "torchserve")
    assert advice.sentence == (
        "No difference measured between uvicorn and torchserve (requests/s within the limit: uvicorn 6,400 (6,320 to"
        " 6,560); torchserve 6,000 (5,600 to 6,400)), so take the one that you know; torchserve needs the least memory,"
        " 100 MiB."
    )


def test_no_engine_keeps_the_limit() -> None:
    never = engine("uvicorn", *(turn(100, p99=(60, 70, 80)) for _ in range(3)))
    advice = advise(Comparison(SETTING, Bare(), (never,)))
    assert advice.engines == ()
    assert "No engine keeps a p99 of 50 ms even at half of its capacity" in advice.sentence
    once = engine("triton", turn(100, p99=(60, 70, 80)), turn(100, p99=(5, 6, 7)), turn(100, p99=(60, 70, 80)))
    advice = advise(Comparison(SETTING, Bare(), (never, once)))
    assert advice.engines == ()
    assert "No engine kept a p99 of 50 ms in every round; triton did in some" in advice.sentence


def test_an_engine_that_answers_otherwise_or_failed_is_left_out_with_the_reason() -> None:
    wrong = replace(engine("triton", *(turn(9000) for _ in range(3))), difference="digit-0.json: expected 7, got 8")
    failed = Measured("bentoml", (), "not installed; run: tsctl engines install bentoml")
    half = replace(engine("torchserve", turn(9999)), why_not="it ended in round 2")
    advice = advise(comparison({"uvicorn": (8000, 8200, 7900)}, more=[wrong, failed, half]))
    assert advice.sentence.startswith("Only uvicorn was measured, so there is nothing to choose")
    assert advice.limits[1:] == (
        "triton is left out, because it answers otherwise: digit-0.json: expected 7, got 8.",
        "bentoml is left out: not installed; run: tsctl engines install bentoml.",
        "torchserve is left out: it ended in round 2.",
    )


def test_nothing_measured_is_no_advice() -> None:
    advice = advise(Comparison(SETTING, Bare(), (Measured("uvicorn", (), "it is not installed"),)))
    assert (advice.engines, advice.sentence) == ((), "No engine was measured to the end, so there is no advice.")


def test_one_that_never_kept_the_limit_is_next_without_a_number() -> None:
    never = engine("triton", *(turn(100, p99=(60, 70, 80)) for _ in range(3)))
    advice = advise(comparison({"uvicorn": (8000, 8200, 7900)}, more=[never]))
    assert advice.sentence.endswith("; next is triton, which kept the limit at no load.")


def test_a_closed_loop_keeps_no_limit() -> None:
    """Where a server stalls, a closed loop has one slow request, and an open loop all that came meanwhile."""
    stalls = engine("triton", *(turn(9000, p99=(900, 2000, 5)) for _ in range(3)))
    advice = advise(comparison({"uvicorn": (100, 110, 105)}, more=[stalls]))
    assert advice.engines == ("uvicorn",)
    assert advice.sentence.endswith("; next is triton, which kept the limit at no load.")
    assert stalls.turns[0].within(50) == 0


def test_one_that_kept_the_limit_in_some_rounds_comes_after_those_that_kept_it_in_all() -> None:
    some = engine("triton", turn(9000), turn(9900), turn(9500, p99=(60, 70, 5)))
    advice = advise(comparison({"uvicorn": (800, 820, 790)}, more=[some]))
    assert advice.sentence.endswith("; next is triton, which kept the limit in 2 of 3 rounds only.")
    advice = advise(comparison({"uvicorn": (800, 820, 790), "bentoml": (400, 410, 390)}, more=[some]))
    assert advice.sentence.endswith("; next is bentoml with 320 (312 to 328).")


def test_few_rounds_a_cache_and_a_busy_client_limit_the_advice() -> None:
    busy = turn(8000)
    busy = replace(busy, saturated=replace(busy.saturated, client_share=0.95))
    setting = replace(SETTING, rounds=2, has_cache=True, workers=2, machine={})
    advice = advise(Comparison(setting, Bare(), (engine("uvicorn", busy, busy),)))
    assert "with 2 workers and 8 samples of the archive, on this machine;" in advice.limits[0]
    assert advice.limits[1:] == (
        "With fewer than 3 rounds the spread says little.",
        "The archive caches answers, so repeated requests cost less than new ones.",
        "The client took most of a core with uvicorn, whose capacity may be higher.",
    )


def test_a_load_with_too_many_failures_keeps_no_limit() -> None:
    failing = turn(8000, p99=(5, 6, math.inf))
    assert failing.within(1e9) == pytest.approx(6400)
    assert turn(8000).within(50) == pytest.approx(6400)


def test_the_document_has_medians_and_no_infinity() -> None:
    found = comparison({"uvicorn": (8000, 8200, 7900)}, more=[engine("triton", turn(100, p99=(5, 6, math.inf)))])
    document = found.as_json()
    uvicorn, triton = document["engines"]
    assert uvicorn["medians"]["requests_s"] == 8000
    assert uvicorn["medians"]["p99_ms_at_80%"] == 20.0
    assert triton["medians"]["saturated_p99_ms"] is None
    assert triton["turns"][0]["open_loops"]["0.5"]["p99_ms"] == 5
    assert medians(Measured("bentoml"))["requests_s"] is None
    assert load(100, 5.0).answered_s == 100

"""Weights: how they are written, what may stand, and that a user only ever moves towards a canary that grows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsctl.config.weights import TOTAL, parse_share, parse_weights, percent
from tsctl.errors import GatewayError, SpecError
from tsctl.gateway.retire import is_answering_after, route_without
from tsctl.gateway.traffic import Shadow, Traffic, only
from tsctl.nodes.observed import ObservedVersion


@pytest.mark.parametrize(
    ("text", "share"),
    [("5%", 500), ("5", 500), ("0.25%", 25), ("100%", 10_000), ("0%", 0), ("12.5", 1250), (" 99.99% ", 9999)],
)
def test_shares_are_read(text: str, share: int) -> None:
    assert parse_share(text) == share


@pytest.mark.parametrize("text", ["", "%", "5%%", "100.01%", "101", "-1", "1e2", "0.001%", "five", "5 %", "½"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="expected a percentage"):
        parse_share(text)


@given(st.integers(0, TOTAL))
def test_a_share_is_written_as_it_is_read(share: int) -> None:
    assert parse_share(percent(share)) == share


def test_weights_keep_their_order() -> None:
    assert list(parse_weights(["2.0=5%", "1.0=95%"]).items()) == [("2.0", 500), ("1.0", 9500)]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["1.0=50%"], "sum to 50%, not to 100%"),
        (["1.0=50%", "2.0=51%"], "sum to 101%"),
        (["1.0"], "expected VERSION=PERCENT"),
        (["=5%"], "expected VERSION=PERCENT"),
        (["1.0=50%", "1.0=50%"], "has two weights"),
    ],
)
def test_weights_that_are_none_are_refused(words: list[str], reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        parse_weights(words)


def test_a_route_whose_weights_do_not_sum_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="sum to 9999"):
        Traffic("m", {"1.0": 9999})
    with pytest.raises(ValueError, match="cannot be the canary"):
        Traffic("m", {"1.0": TOTAL}, "1.0")


def user_on(traffic: Traffic, position: int) -> str:
    """The version of a user whose hash is at this position, as Envoy picks it."""
    for version, weight in traffic.weights.items():
        if position < weight:
            return version
        position -= weight
    raise AssertionError("the weights do not sum to the total")


@given(st.lists(st.integers(0, TOTAL), min_size=2, max_size=8), st.integers(0, TOTAL - 1))
def test_a_growing_canary_loses_no_user(shares: list[int], position: int) -> None:
    traffic, was_on_canary = only("m", "1.0"), False
    for share in sorted(shares):
        traffic = traffic.weighted({"1.0": TOTAL - share, "2.0": share})
        on_canary = user_on(traffic, position) == "2.0"
        assert on_canary or not was_on_canary
        was_on_canary = on_canary


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, TOTAL)), max_size=8))
def test_whatever_is_set_the_weights_sum_and_no_version_is_forgotten(steps: list[tuple[str, int]]) -> None:
    traffic = only("m", "a")
    for version, share in steps:
        before = set(traffic.weights)
        other = "b" if version == "a" else "a"
        traffic = traffic.weighted({version: share, other: TOTAL - share})
        assert sum(traffic.weights.values()) == TOTAL
        assert set(traffic.weights) == before | {version, other}
        assert traffic.canary != traffic.stable


def test_a_release_from_its_first_share_to_its_promotion() -> None:
    start = only("m", "1.0")
    assert (start.stable, start.canary) == ("1.0", None)
    named = start.weighted({"1.0": TOTAL, "2.0": 0})
    assert (named.stable, named.canary, named.track("2.0")) == ("1.0", "2.0", "canary")
    step = named.weighted({"1.0": 4000, "2.0": 6000})
    assert (step.stable, step.canary) == ("1.0", "2.0"), "more than half is no promotion"
    back = step.weighted({"1.0": TOTAL})
    assert (back.stable, back.canary, dict(back.weights)) == ("1.0", "2.0", {"2.0": 0, "1.0": TOTAL})
    promoted = step.weighted({"2.0": TOTAL})
    assert (promoted.stable, promoted.canary, promoted.track("1.0")) == ("2.0", None, "")
    assert promoted.weighted({"2.0": 9900, "1.0": 100}).canary == "1.0"


def test_a_retired_version_is_in_no_route() -> None:
    traffic = Traffic("m", {"1.0": 0, "2.0": TOTAL}, None, Shadow("1.0", 100))
    assert traffic.versions == ["1.0", "2.0"]
    left = traffic.without("1.0")
    assert (dict(left.weights), left.shadow) == ({"2.0": TOTAL}, None)
    with pytest.raises(ValueError, match=r"m 2\.0 has a weight"):
        left.without("2.0")


def test_a_shadow_needs_no_weight() -> None:
    assert Traffic("m", {"1.0": TOTAL}, None, Shadow("3.0", 100)).versions == ["1.0", "3.0"]


def test_the_weight_of_what_leaves_goes_to_stable() -> None:
    three = Traffic("m", {"2.0": 500, "3.0": 1500, "1.0": 8000}, "3.0")
    assert route_without(three, "3.0") == Traffic("m", {"2.0": 500, "1.0": 9500}, "2.0")
    assert route_without(three, "2.0") == Traffic("m", {"3.0": 1500, "1.0": 8500}, "3.0")
    with pytest.raises(GatewayError, match=r"m 1\.0 is stable, with 80% of the requests"):
        route_without(three, "1.0")


def test_a_shadow_that_becomes_stable_gets_no_copies_of_its_own_requests() -> None:
    before = Traffic("m", {"2.0": 500, "1.0": 9500}, "2.0", Shadow("2.0", 2000))
    assert before.weighted({"2.0": 5000, "1.0": 5000}).shadow == before.shadow
    assert before.weighted({"2.0": TOTAL}).shadow is None
    assert before.weighted({"1.0": TOTAL}).shadow == before.shadow


@pytest.mark.parametrize(("observed", "workers", "nodes", "is_left"), [
    ({"a": (1, 1)}, 0, {"a"}, False),
    ({"a": (1, 1), "b": (1, 1)}, 0, {"a"}, True),
    ({"a": (1, 1), "b": (1, 1)}, 0, {"a", "b"}, False),
    ({"a": (1, 1), "b": (1, 0)}, 0, {"a"}, False),
    ({"a": (2, 1)}, 1, {"a"}, False),  # the one that ends may be the READY one
    ({"a": (2, 2)}, 1, {"a"}, True),
    ({"a": (1, 1)}, 3, {"a"}, True),
    ({"a": (1, 0)}, 0, {"a"}, True),  # nothing answers, so that nothing is lost
    ({}, 0, {"a"}, True),
])  # fmt: skip
def test_a_version_with_weight_keeps_a_ready_worker(
    observed: dict[str, tuple[int, int]], workers: int, nodes: set[str], is_left: bool
) -> None:
    states = {name: ObservedVersion("m-1.0.mar", *counts) for name, counts in observed.items()}
    assert is_answering_after(states, workers, nodes) is is_left

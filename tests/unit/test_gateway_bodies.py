"""Places for large bodies, and the heap from which their number follows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsctl.gateway.envoy.render.bodies import places, places_filters, shadow_requests
from tsctl.nodes.torchserve.heap import heap_bytes

MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("waiting", "longest", "expected"),
    [
        (3 * GIB, 16 * MIB, {5: 4026, 6: 402, 7: 161, 8: 48}),
        (200 * MIB, 16 * MIB, {5: 262, 6: 26, 7: 10, 8: 3}),
        (200 * MIB, 4 * MIB, {5: 349, 6: 34, 7: 33}),
        (200 * MIB, 10_000, {5: 20971}),
        (200 * MIB, 9_999, {}),
        (MIB, GIB, {5: 1, 6: 1, 7: 1, 8: 1}),
    ],
)
def test_places_follow_from_the_bytes_and_the_longest_request(
    waiting: int, longest: int, expected: dict[int, int]
) -> None:
    assert places(waiting, longest) == expected
    assert bool(places_filters(waiting, longest)) == bool(expected)


@given(waiting=st.integers(MIB, 1 << 45), longest=st.integers(1, GIB))
def test_no_mixture_of_bodies_exceeds_the_bound_but_by_one_of_each_kind(waiting: int, longest: int) -> None:
    by_digits = places(waiting, longest)
    last = max(by_digits, default=0)
    bytes_of = {digits: longest if digits == last else 10**digits for digits in by_digits}
    full = sum(count * bytes_of[digits] for digits, count in by_digits.items())
    assert full <= waiting + sum(bytes_of[digits] for digits, count in by_digits.items() if count == 1)


def test_copies_for_a_shadow_take_a_part() -> None:
    assert shadow_requests(200 * MIB, 16 * MIB) == 3
    assert shadow_requests(MIB, 16 * MIB) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", 2 * GIB),
        ("-Xms8g -XX:+UseG1GC -Xmxy -Xmx", 2 * GIB),
        ("-Xmx400m", 400 * MIB),
        ("-Xmx1G -Xmx512M", 512 * MIB),
        ("-XX:MaxHeapSize=1048576k", GIB),
        ("-Xmx2147483648", 2 * GIB),
        ("-XX:MaxRAMPercentage=50", 4 * GIB),
        ("-XX:MaxRAMPercentage=12.5", GIB),
        ("-XX:MaxRAMPercentage=80 -Xmx1g", GIB),
    ],
)
def test_the_heap_is_that_of_the_jvms_arguments_or_a_quarter_of_the_machine(arguments: str, expected: int) -> None:
    assert heap_bytes(arguments.split(), 8 * GIB) == expected

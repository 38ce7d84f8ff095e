"""What clients that want a good canary rolled back can do, by the judge that runs."""

from __future__ import annotations

import pytest

from benchmarks.simulation.attacks import Attack, Fates, fates
from tsctl.config.policy import RolloutPolicy


def ends(attack: Attack) -> Fates:
    return fates(RolloutPolicy(), attack, 3, seed=1)


@pytest.mark.parametrize("is_sticky", [True, False])
@pytest.mark.parametrize("share", [0.001, 0.05, 0.49])
def test_one_client_with_less_than_half_of_the_requests_rolls_nothing_back(share: float, is_sticky: bool) -> None:
    assert ends(Attack((share,), 500, is_sticky, requests=10_000)).rolled_back == 0


@pytest.mark.parametrize(("shares", "is_sticky"), [((0.6,), True), ((0.6,), False), ((0.05, 0.05), True)])
def test_more_than_half_or_two_keys_can(shares: tuple[float, ...], is_sticky: bool) -> None:
    """So the test above does not pass because nothing is ever rolled back."""
    assert ends(Attack(shares, 500, is_sticky, requests=10_000)).rolled_back == 3


def test_who_aims_with_much_makes_a_person_decide_and_with_little_nothing() -> None:
    assert ends(Attack((0.05,), requests=10_000)).held == 3
    assert ends(Attack((0.0005,), requests=10_000)) == Fates(0, 0, 3)

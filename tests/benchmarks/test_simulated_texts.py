"""Releases of language models, simulated answer by answer and judged by the code that runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.simulation.texts import Course, Writer, ends
from tsctl.config.policy import RolloutPolicy

POLICY, STABLE = RolloutPolicy(), Writer()
SHORT = Course(weights=(2500, 5000), hold_s=100.0)


@pytest.mark.parametrize(
    ("canary", "signal"),
    [
        (replace(STABLE, token_ms=30.0), "tokens"),
        (replace(STABLE, first_ms=400.0), "slow"),
        (replace(STABLE, endless=1.0), "finish"),
        (replace(STABLE, cut=1.0), "length"),
        (replace(STABLE, broken=0.2), "errors"),
    ],
)
def test_a_fault_is_found_by_its_signal(canary: Writer, signal: str) -> None:
    found = ends(POLICY, STABLE, canary, SHORT, 2, seed=1)
    assert [end.signal for end in found] == [signal] * 2
    assert all(0 < end.on_canary < end.requests for end in found)


@pytest.mark.parametrize("canary", [STABLE, replace(STABLE, token_ms=8.0)])
def test_a_canary_that_is_no_worse_is_promoted_also_where_it_is_faster(canary: Writer) -> None:
    assert [end.signal for end in ends(POLICY, STABLE, canary, SHORT, 3, seed=1)] == [""] * 3

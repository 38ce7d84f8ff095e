"""Rollouts, simulated in small: false rollbacks, how soon faults are found, and what the forecast said of both."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.harness.run import Job, figure_rows, notes
from benchmarks.simulation.simulate import Behaviour, Rollout, Stage, simulate
from benchmarks.simulation.workloads import workloads
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.policy import RolloutPolicy
from tsctl.config.project import Project
from tsctl.host.progress import Progress
from tsctl.rollout.forecast.forecast import RecentTraffic, expected_steps, forecast_fault
from tsctl.rollout.forecast.power import SURELY, smallest_rate

POLICY = RolloutPolicy()
TRAFFIC = RecentTraffic(requests_per_s=100.0, error_rate=0.005, slow_share=0.05, since_s=600.0, requests=60_000)


def behaviour(errors: float = 0.05, slow: float = 0.05, *classes: float) -> Behaviour:
    return Behaviour(errors, slow, classes or (0.5, 0.25, 0.25))


def rollout(
    policy: RolloutPolicy, *stages: tuple[int, int], canary: Behaviour | None = None, stable: Behaviour | None = None
) -> Rollout:
    stable = stable or behaviour()
    return Rollout(policy, stable, canary or stable, tuple(Stage(*stage) for stage in stages))


@pytest.mark.parametrize(("base", "limit"), [(0.0, 0.05), (0.01, 0.05), (0.1, 0.2)])
def test_identical_versions_are_rolled_back_at_most_so_often_as_alpha_says(base: float, limit: float) -> None:
    policy = RolloutPolicy(max_error_rate=limit, alpha=0.05)
    stages = ((100, 1000), (500, 1000), (2500, 1000), (5000, 1000))
    ends = simulate(rollout(policy, *stages, stable=behaviour(base)), 500, seed=3)
    assert ends.is_back.mean() <= 0.05
    assert (ends.requests[~ends.is_back] == 4000).all()
    assert ends.on_canary[~ends.is_back].mean() == pytest.approx(810, rel=0.02)


@pytest.mark.parametrize(
    ("canary", "signal"),
    [
        (behaviour(0.1), "errors"),
        (behaviour(0.005, 0.3), "slow"),
        (behaviour(0.005, 0.05, 0.25, 0.5, 0.25), "mix"),
    ],
)
def test_faults_are_found_by_their_own_signal(canary: Behaviour, signal: str) -> None:
    simulated = rollout(RolloutPolicy(), (500, 20_000), stable=behaviour(0.005), canary=canary)
    ends = simulate(simulated, 100, seed=4)
    assert ends.is_back.all()
    assert np.bincount(ends.signal).argmax() == ends.signals.index(signal)
    assert (ends.on_canary <= ends.requests).all()
    assert ends.on_canary.mean() == pytest.approx(ends.requests.mean() * 0.05, rel=0.2)


def test_a_rate_above_the_limit_is_found_where_both_versions_are_alike() -> None:
    simulated = rollout(RolloutPolicy(max_error_rate=0.02), (5000, 5000), stable=behaviour(0.1))
    ends = simulate(simulated, 50, seed=5)
    assert ends.is_back.all()
    assert {ends.signals[number] for number in ends.signal} == {"limit"}


def test_five_percent_errors_are_caught_in_every_run_within_two_thousand_requests() -> None:
    simulated = rollout(RolloutPolicy(), (500, 100_000), stable=behaviour(0.005), canary=behaviour(0.05))
    ends = simulate(simulated, 3000, seed=6)
    assert ends.is_back.all()
    assert np.median(ends.requests) <= 2000


def test_the_figures_say_what_is_reached_and_what_was_not_measured(tmp_path: Path) -> None:
    deployment = DeploymentSpec.model_validate({"nodes": {"local": {}}})
    simulations = workloads(runs=20)
    assert list(simulations) == ["identical", "caught", "faults", "attacks", "texts"]
    progress = Progress(Console(file=io.StringIO()))
    caught = simulations["caught"](Job(Project(tmp_path), deployment, 1, 0, progress))
    assert [str(figure.goal) for figure in caught.figures] == [">= 100", "<= 2,000", "None", "None", "None"]
    assert caught.figures[0].is_reached
    assert [row[3] for row in figure_rows([caught])] == ["%", "requests", "requests", "users", "users"]
    assert all(note.startswith("caught: 5% errors: rolled back by") for note in notes([caught]))


SIMULATED = [
    ("errors", 0.02, 2500, 2000),
    ("errors", 0.0, 100, 10_000),
    ("slow", 0.05, 500, 5000),
]


@pytest.mark.parametrize(("signal", "base", "weight", "requests"), SIMULATED)
def test_what_a_step_sees_the_simulator_finds_in_four_of_five_rollouts(
    signal: str, base: float, weight: int, requests: int
) -> None:
    seen = smallest_rate(POLICY, signal, base, weight, requests)
    assert seen is not None
    errors = base if signal == "errors" else 0.005
    shares = []
    for rate in (seen, base + (seen - base) / 2):
        stable = Behaviour(errors, base if signal == "slow" else 0.05)
        canary = Behaviour(rate, 0.05) if signal == "errors" else Behaviour(errors, rate)
        ends = simulate(Rollout(POLICY, stable, canary, (Stage(weight, requests),)), 200, seed=1)
        shares.append(float(ends.is_back.mean()))
    assert SURELY - 0.05 <= shares[0] <= 0.95  # it is watched all the time, and so found somewhat more surely
    assert shares[1] < 0.5


@pytest.mark.parametrize("rate", [0.02, 0.04])
def test_who_meets_a_fault_is_the_median_of_the_simulator(rate: float) -> None:
    forecast = forecast_fault(POLICY, TRAFFIC, rate)
    stages = tuple(Stage(part.weight, round(part.requests)) for part in expected_steps(POLICY, TRAFFIC, rate)[:2])
    ends = simulate(Rollout(POLICY, Behaviour(0.005), Behaviour(rate), stages), 100, seed=2)
    assert forecast.on_canary == pytest.approx(float(np.median(ends.on_canary)), rel=0.3)
    assert forecast.requests == pytest.approx(float(np.median(ends.requests)), rel=0.3)

"""The figures of a model that moves from engine to engine follow from the answers that users got."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from benchmarks.harness.client import FAILED, Answer
from benchmarks.harness.run import Job
from benchmarks.workloads import engine_moves
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.nodes import TorchServeSpec
from tsctl.config.policy import RolloutPolicy
from tsctl.config.project import Project
from tsctl.host.progress import Progress


def answer(digit: int, predicted: str, version: str, status: int = 200) -> Answer:
    return Answer(0.0, 0.1, status, version, f"moves-0-1-{digit}", predicted)


def test_requests_failures_and_engines_that_disagree_are_counted() -> None:
    answers = [
        answer(1, "7", "1.0"), answer(1, "7", "1.0u"), answer(2, "3", "1.0u"), answer(2, "8", "1.0t"),
        answer(1, "", "", FAILED), answer(3, "", "1.0t", 503),
    ]  # fmt: skip
    figures = engine_moves.figures(answers, [5.0, 6.0, 7.0])
    assert {figure.name: (figure.value, figure.is_reached) for figure in figures} == {
        "requests": (6, False),
        "failed requests": (2, False),
        "digits that engines classified differently": (1, False),
        "move to uvicorn": (5.0, None),
        "move to triton": (6.0, None),
        "move to torchserve": (7.0, None),
    }
    enough = [answer(1, "7", "1.0")] * engine_moves.REQUESTS
    assert all(figure.is_reached is not False for figure in engine_moves.figures(enough, [1.0]))
    RolloutPolicy.model_validate(engine_moves.POLICY)


def test_without_triton_nothing_is_measured_and_the_figures_say_what_installs_it(tmp_path: Path) -> None:
    deployment = DeploymentSpec(nodes={"local": TorchServeSpec()})
    job = Job(Project(tmp_path), deployment, 1, 1, Progress(Console(quiet=True)))
    result = engine_moves.run(job)
    assert {figure.why_not for figure in result.figures} == {
        "engine triton is not installed. Run: tsctl engines install triton"
    }
    assert not any(figure.rounds for figure in result.figures)

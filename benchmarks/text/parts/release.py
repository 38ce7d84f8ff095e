"""Releases of the real model behind the gateway under a small load of chats: the same version, and another template."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness.commands import run_tsctl
from benchmarks.harness.figures import Figure, Goal
from benchmarks.harness.run import Job
from benchmarks.harness.workload import own_folder
from benchmarks.targets.fleet import Fleet, running
from benchmarks.text.load import Measured, Plan, running_load
from benchmarks.text.parts.changes import lost
from benchmarks.text.parts.turns import Turns, clients
from benchmarks.text.prompts import MODEL, WORDS, arrivals
from benchmarks.text.table import TextResult
from benchmarks.text.targets import ROUTE, built_archive
from tsctl.compare.nodes import free_spec, own_project
from tsctl.config.weights import TOTAL
from tsctl.errors import NodeError
from tsctl.gateway.change import set_weights
from tsctl.gateway.retire import retire
from tsctl.rollout.decide.events import Outcome
from tsctl.rollout.decide.fold import fold
from tsctl.rollout.decide.state import State
from tsctl.rollout.run.journal_files import journals
from tsctl.rollout.run.journal_lines import read

ENGINE, STABLE, OTHER, SAME = "uvicorn", "1.0", "2.0", "1.0s"
CHATS = "/v1/chat/completions"
#: Chats a second, so few that two cores are not full; tokens of an answer at most.
CHATS_S, MOST_TOKENS = 2.0, 64
BODIES, SEED = 2000, 21
LOAD_S, WARM_S, RETIRE_S, POLL_S = 400.0, 8.0, 60.0, 0.5
TARGET = "gateway, uvicorn node"
POLICY: Mapping[str, Any] = {
    "steps": [50, 100], "hold_s": 10, "max_hold_s": 200, "at_max_hold": "rollback", "min_requests": 90,
    "max_error_rate": 0.2, "settle_s": 1, "tick_s": 0.5,
}  # fmt: skip
#: What is judged where a template changes on purpose how long answers are.
TIMES = ["errors", "refused", "slow", "tokens"]


@dataclass(frozen=True)
class Case:
    """One release.

    Args:
        signals: None: those of a language model.
        outcome: how it must end; by one of `by`, where that is rolled back.
    """

    name: str
    version: str
    signals: list[str] | None
    outcome: Outcome
    by: tuple[str, ...] = ("",)


CASES = (
    Case("an identical version", SAME, None, Outcome.PROMOTED),
    Case(
        "2.0, whose answers are shorter", OTHER, None, Outcome.ROLLED_BACK, ("length", "finish")
    ),  # shorter answers end by themselves
    Case("2.0, judged by errors and times", OTHER, TIMES, Outcome.PROMOTED),
)


def run(job: Job) -> TextResult:
    """Each case once.

    Raises:
        TsctlError: the node or the gateway does not serve, or a release does not begin.
    """
    turns = Turns(job)
    figures: list[Figure] = []
    with own_folder() as folder, _site(job, folder) as fleet:
        for case in CASES:
            state, seconds, measured = _released(fleet, turns, case)
            figures += release_figures(case, state, seconds)
            figures += lost(case.name, measured)
    settings = {"chats_s": CHATS_S, "max_tokens": MOST_TOKENS, "policy": dict(POLICY)}
    title = "releases of the real model"
    return TextResult("release", title, settings, {}, [*figures, clients(turns.rows)], rows=turns.rows)


def _site(job: Job, folder: Path) -> Any:
    own = own_project(job.project, folder / "own")
    archives = {(MODEL, version): built_archive(job, own, version) for version in (STABLE, OTHER)}
    archives[MODEL, SAME] = archives[MODEL, STABLE]
    targets: dict[tuple[str, str], dict[str, Any]] = {
        (MODEL, STABLE): {}, (MODEL, OTHER): {}, (MODEL, SAME): {"archive": STABLE}
    }  # fmt: skip
    nodes = {ENGINE: free_spec(ENGINE)}
    return running(own, nodes, archives, [(MODEL, STABLE)], job.progress, ROUTE, dict(POLICY), targets)


def _released(fleet: Fleet, turns: Turns, case: Case) -> tuple[State, float, Measured]:
    """The rollout's end, how long it took, and what users saw; stable has all traffic again."""
    path = fleet.project.deployment
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    policy = {**POLICY, **({"signals": case.signals} if case.signals else {})}
    path.write_text(yaml.safe_dump({**content, "rollout": policy}, sort_keys=False), encoding="utf-8")
    plan = Plan(chats(BODIES, SEED), 0, LOAD_S, drain_s=60.0, arrivals=arrivals(CHATS_S, LOAD_S, SEED))
    before = journals(fleet.project, MODEL)
    with turns.job.progress.step(f"release: {case.name}") as step:
        with running_load(fleet.address(CHATS), plan) as load:
            time.sleep(WARM_S)
            begin = time.monotonic()
            ended = run_tsctl(fleet.project, "rollout", "start", MODEL, case.version, "--json")
            seconds = time.monotonic() - begin
            measured = load.stop()
        new = [journal for journal in journals(fleet.project, MODEL) if journal not in before]
        if not new:
            raise NodeError(f"the rollout of {MODEL} {case.version} did not begin: {ended.stderr}")
        turns.keep(f"{TARGET}: {case.name}", f"{CHATS_S:g}/s", measured, lead_s=0.0)
        state = fold(read(new[-1]))
        step.done(f"{state.outcome} {state.signal} after {seconds:.0f} s")
        _reset(fleet, case.version)
    return state, seconds, measured


def _reset(fleet: Fleet, version: str) -> None:
    set_weights(fleet.gateway, MODEL, {STABLE: TOTAL})
    for node in fleet.nodes:
        node.set_default(MODEL, STABLE)
    retired = retire(fleet.gateway, MODEL, version, RETIRE_S, lambda _: None)
    if retired.failed:
        raise NodeError(f"{MODEL} {version} is still on a node: {retired.failed[0][1]}")


def chats(count: int, seed: int, temperature: float = 0.8) -> list[str]:
    """Bodies of `/chat/completions`: streams that answer questions about two words each."""
    chance = random.Random(seed)  # noqa: S311 - the same on every machine, and no secret
    return [
        json.dumps(
            {
                "model": MODEL,
                "messages": [{"role": "user", "content": "Tell me about {} and {}.".format(*chance.sample(WORDS, 2))}],
                "max_tokens": MOST_TOKENS,
                "temperature": temperature,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )
        for _ in range(count)
    ]


def release_figures(case: Case, state: State, seconds: float) -> list[Figure]:
    """Whether the release ended as it must, and after how long."""
    is_right = state.outcome is case.outcome and state.signal in case.by
    ended = f"{state.outcome or 'unfinished'}{' by ' + state.signal if state.signal else ''}"
    return [
        Figure(f"{case.name}: ends as it must ({ended})", "cases", (float(is_right),), Goal(1)),
        Figure(f"{case.name}: the rollout took", "s", (seconds,)),
    ]

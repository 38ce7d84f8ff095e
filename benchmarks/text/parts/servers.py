"""What servers and the gateway take: the same archive and backend in one process, on nodes, and through the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.harness.figures import Figure, Goal
from benchmarks.harness.run import Job
from benchmarks.harness.workload import own_folder
from benchmarks.text.parts.turns import Turns, bursts, by_users, clients, ratios, spent_shares
from benchmarks.text.statistics import Served
from benchmarks.text.table import TextResult
from benchmarks.text.targets import Measure, in_process, text_site, unpacked_archive

USERS = (1, 4, 16, 64)
#: Of the ratio that has a goal.
GOAL_USERS = 16
IN_PROCESS, GATEWAY = "in process", "gateway, uvicorn node"
ENGINES = ("uvicorn", "torchserve")
OF_IN_PROCESS = Goal(0.9)


@contextmanager
def targets(job: Job) -> Iterator[dict[str, Measure]]:
    """All of them; those without a turn are idle."""
    with (
        own_folder() as folder,
        text_site(job, folder, ENGINES) as site,
        in_process(unpacked_archive(site.archive, folder)) as alone,
    ):
        yield {
            IN_PROCESS: alone,
            "uvicorn node": site.direct("uvicorn"),
            GATEWAY: site.through_gateway("uvicorn"),
            "TorchServe node": site.direct("torchserve"),
            "gateway, TorchServe node": site.through_gateway("torchserve"),
        }


def run_users(job: Job) -> TextResult:
    """Each target once at each number of users.

    Raises:
        TsctlError: a node or the gateway does not serve.
    """
    turns = Turns(job)
    seen: dict[str, dict[int, Served]] = {}
    with targets(job) as measures:
        for users in USERS:
            for name, measure in measures.items():
                seconds = job.seconds if users < max(USERS) else 1.5 * job.seconds
                seen.setdefault(name, {})[users] = turns.take(name, measure, users, seconds)
    notes = tuple(f"{name}: {by_users(levels)}" for name, levels in seen.items())
    settings = {"prompt": turns.lengths.prompt, "answer": turns.lengths.answer}
    return TextResult("servers", "users at once", settings, {}, [clients(turns.rows)], notes, rows=turns.rows)


def run_cost(job: Job) -> TextResult:
    """All targets in turns at GOAL_USERS.

    Raises:
        TsctlError: a node or the gateway does not serve.
    """
    turns = Turns(job)
    seen: dict[str, list[Served]] = {}
    with targets(job) as measures:
        for _ in range(job.rounds):
            for name, measure in measures.items():
                seen.setdefault(name, []).append(turns.take(name, measure, GOAL_USERS, job.seconds))
    settings = {"users": GOAL_USERS, "prompt": turns.lengths.prompt, "answer": turns.lengths.answer}
    of = {name: [row for row in turns.rows if row.target == name] for name in seen}
    spent = [
        spent_shares(f"{IN_PROCESS}, processor time a token, of {name}", rows, of[IN_PROCESS])
        for name, rows in of.items()
        if name != IN_PROCESS
    ]
    figures = [*cost_figures(seen), *spent, clients(turns.rows)]
    return TextResult("cost", f"{GOAL_USERS} users, in turns", settings, {}, figures, rows=turns.rows)


def cost_figures(seen: dict[str, list[Served]]) -> list[Figure]:
    """Shares of what the backend gives in one process, and how evenly tokens come."""
    alone = seen[IN_PROCESS]
    shares = [
        ratios(f"{name}, of {IN_PROCESS}", served, alone, OF_IN_PROCESS if name == GATEWAY else None)
        for name, served in seen.items()
        if name != IN_PROCESS
    ]
    return [*shares, *(bursts(f"{name}: gap p99 over its median", served) for name, served in seen.items())]

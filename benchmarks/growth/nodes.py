"""Growth with nodes: one to three uvicorn nodes, each limited to the same share of a core, behind one gateway.

The gateway and the load client have the rest of the cores, and each node has the same number of connections, so a node
has as much to do, and in as large batches, beside others as alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks import ARCHIVES
from benchmarks.growth.curves import Collected, Growth
from benchmarks.growth.measure import GATEWAY, TIME, add_memory, add_turn, seconds, turn_through
from benchmarks.harness.figures import Figure, Goal, Turn
from benchmarks.harness.processes import children
from benchmarks.harness.run import Job
from benchmarks.harness.shares import limited, move, throttled_s
from benchmarks.harness.workload import own_folder
from benchmarks.harness.wrk import require_wrk
from benchmarks.targets.fleet import Fleet, running_fleet
from tsctl.gateway.sync import sync
from tsctl.nodes.node import Node
from tsctl.nodes.observe import observe

KEY = "nodes"
MODEL, VERSION = "linear", "1.0"
COUNTS = (1, 2, 3)
#: Of a core, for a node and its worker together.
SHARE = 0.1
CONNECTIONS = 32
WARMING_S = 3
GOODPUT = Goal(0.9)


def run(job: Job) -> Growth:
    """Every count in every round.

    Raises:
        TsctlError: wrk is missing, the nodes cannot be limited, or they or the gateway do not serve.
    """
    require_wrk()
    collected = Collected()
    turns: dict[int, list[Turn]] = {count: [] for count in COUNTS}
    waited: dict[int, list[float]] = {count: [] for count in COUNTS}
    body = (ARCHIVES / MODEL / "samples" / "row.json").read_bytes().strip()
    with (
        own_folder() as folder,
        running_fleet(job.project, folder / "own", max(COUNTS), [(MODEL, VERSION)], job.progress, engine="uvicorn")
        as fleet,
        _limited(fleet.nodes) as groups,
    ):  # fmt: skip
        address = fleet.address(f"/predictions/{MODEL}")
        for number in range(job.rounds):
            for count in COUNTS:
                _serve_on(fleet, count)
                with job.progress.step(f"round {number + 1} of {job.rounds}: {count} nodes") as step:
                    turn_through(fleet, address, body, CONNECTIONS * count, WARMING_S, folder)
                    before = [throttled_s(group) for group in groups]
                    turn = turn_through(fleet, address, body, CONNECTIONS * count, job.seconds, folder)
                    waits = [throttled_s(group) - was for group, was in zip(groups, before, strict=True)]
                    step.done(f"{turn.requests_s:,.0f} requests/s, {turn.failed} failed")
                turns[count].append(turn)
                waited[count].append(min(waits[:count]))
                add_turn(collected, count, turn)
                add_memory(collected, count, fleet)
                asked, synced = seconds(partial(observe, fleet.nodes[:count])), seconds(partial(sync, fleet.gateway))
                collected.add(TIME, "s", count, {"nodes are asked": asked, "the gateway follows all three": synced})
        _serve_on(fleet, max(COUNTS))
    settings = {"connections of each node": CONNECTIONS, "cores of each node": SHARE}
    notes = tuple(
        f"{count} nodes: each waited for its quota in at least {min(waited[count]) / job.seconds:.0%} of the time"
        for count in COUNTS
    )
    return Growth(
        KEY, "a linear layer on nodes with equal shares of a core", settings, {}, figures(turns), notes, "nodes",
        collected.curves(),
    )  # fmt: skip


def figures(turns: dict[int, list[Turn]]) -> list[Figure]:
    """Goodput of several nodes over as many times that of one, round by round, and the gateway's cost for each."""
    first, *more = sorted(turns)
    figures = []
    for count in more:
        pairs = list(zip(turns[count], turns[first], strict=True))
        ratios = tuple(turn.requests_s / alone.requests_s / (count / first) for turn, alone in pairs)
        failed = sum(turn.failed + alone.failed for turn, alone in pairs)
        figures.append(Figure(f"goodput of {count} nodes, of {count} times one", "times", ratios, GOODPUT, failed))
    for count, of in turns.items():
        values = tuple((turn.cpu_us or {})[GATEWAY] for turn in of)
        figures.append(Figure(f"{count} nodes: the gateway's processor time of a request", "us", values))
    return figures


def _serve_on(fleet: Fleet, count: int) -> None:
    """The first nodes have their worker, and the others none, so that these get no requests."""
    for place, node in enumerate(fleet.nodes):
        node.scale(MODEL, VERSION, 1 if place < count else 0, lambda _: None)
    sync(fleet.gateway)


@contextmanager
def _limited(nodes: Sequence[Node]) -> Iterator[list[Path]]:
    """A control group for each node, with its process and all workers."""
    with ExitStack() as held:
        groups = []
        for node in nodes:
            group = held.enter_context(limited(node.name, SHARE))
            if node.pid is not None:
                move([node.pid, *children(node.pid)], group)
            groups.append(group)
        yield groups

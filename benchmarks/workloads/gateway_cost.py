"""What the gateway costs: the node alone, a plain Envoy and the gateway before it, and FastAPI, in turns in one run.

The load generator, Envoy and the node share the machine's cores, as they do where one machine serves.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import ARCHIVES, BASELINES
from benchmarks.harness.client import Address
from benchmarks.harness.figures import Figure, Goal, Result, Turn, rate, times
from benchmarks.harness.latency import latencies_ms
from benchmarks.harness.processes import children
from benchmarks.harness.run import Job
from benchmarks.harness.workload import load, own_folder
from benchmarks.harness.wrk import require_wrk, run_wrk, write_script
from benchmarks.targets.envoy import pass_through, running_envoy
from benchmarks.targets.fleet import Fleet, running_fleet
from benchmarks.targets.uvicorn import UvicornTarget
from tsctl.gateway.files import running_pid

MODEL, VERSION = "linear", "1.0"
NODE, PLAIN, GATEWAY, FASTAPI = "node", "plain Envoy", "gateway", "FastAPI, uvicorn, 2 processes"
#: Of the turns; the last one is the overhead workload's.
CONNECTIONS = (1, 16, 128)
MOST = CONNECTIONS[-1]
WARMING_S = 6
LONE = 1000
LONE_MS = Goal(0.5, is_ceiling=True)
OF_PLAIN, TIMES_PLAIN_US = Goal(0.85), Goal(1.2, is_ceiling=True)
TIMES_FASTAPI, REQUESTS_S = Goal(1.0), Goal(10_000)

Pids = Callable[[], dict[str, list[int]]]


@dataclass(frozen=True)
class Place:
    """Where a target is asked, and its processes."""

    address: Address
    pids: Pids


def run(job: Job) -> Result:
    """The four targets in turns; `server` is Envoy, or the node where it is alone.

    Raises:
        TsctlError: wrk is missing, or a target does not serve.
    """
    require_wrk()
    with own_folder() as folder, _places(job, folder) as (places, body):
        with job.progress.step("warming all"):
            for place in places.values():
                script = write_script(folder, place.address.headers, [body])
                run_wrk(place.address.url, script, MOST, WARMING_S)
        lone = _lone_ms(places, body, job)
        turns = _turns(places, body, folder, job)

    def of(name: str, count: int = MOST) -> list[Turn]:
        return turns[f"{name}, {count}"]

    added = tuple(round(there - past, 3) for there, past in zip(lone[GATEWAY], lone[NODE], strict=True))
    figures = [
        Figure("a lone request through the gateway, median", "ms", tuple(lone[GATEWAY]), LONE_MS),
        Figure("of it, added to the node's", "ms", added),
        rate("through the gateway", of(GATEWAY), REQUESTS_S),
        times("of a plain Envoy's", of(GATEWAY), of(PLAIN), OF_PLAIN),
        _times_us("Envoy's time a request, of a plain Envoy's", of(GATEWAY), of(PLAIN), TIMES_PLAIN_US),
        times("of FastAPI's", of(GATEWAY), of(FASTAPI), TIMES_FASTAPI),
        *(times(f"{count} connections, of the node's", of(GATEWAY, count), of(NODE, count)) for count in CONNECTIONS),
    ]
    return Result("cost", "a linear layer on a uvicorn node", {"connections": CONNECTIONS}, turns, figures)


@contextmanager
def fleet_of_one(job: Job, folder: Path, tracing: Mapping[str, Any] | None = None) -> Iterator[tuple[Fleet, bytes]]:
    """A uvicorn node that serves the linear layer behind a gateway, and a request's body.

    Args:
        tracing: as in deployment.yaml.
    """
    served = [(MODEL, VERSION)]
    with running_fleet(
        job.project, folder / "own", 1, served, job.progress, engine="uvicorn", tracing=tracing
    ) as fleet:
        yield fleet, (ARCHIVES / MODEL / "samples" / "row.json").read_bytes().strip()


@contextmanager
def _places(job: Job, folder: Path) -> Iterator[tuple[dict[str, Place], bytes]]:
    """All targets, running, and a request's body."""
    with fleet_of_one(job, folder) as (fleet, body):
        [node] = fleet.nodes
        direct = fleet.direct(MODEL, VERSION)
        own = fleet.project.archives / MODEL
        environment = {
            "LINEAR_FOLDER": str(own),
            "LINEAR_WEIGHTS": str(own / ".built" / VERSION / "model.safetensors"),
        }
        fastapi = UvicornTarget(FASTAPI, BASELINES / "fastapi_linear.py", environment, "/predict")

        def of_node() -> dict[str, list[int]]:
            return {"server": [node.pid], "workers": children(node.pid)} if node.pid is not None else {}

        def behind(envoy: int | None) -> Pids:
            return lambda: {
                "server": [envoy] if envoy else [],
                "workers": [pid for ids in of_node().values() for pid in ids],
            }

        with running_envoy(pass_through(node.spec.url), folder, "plain") as (base, pid):
            through = Address(base + direct.url.removeprefix(node.spec.url), direct.headers)
            gateway = fleet.address(f"/predictions/{MODEL}")
            try:
                yield (
                    {
                        NODE: Place(direct, of_node),
                        PLAIN: Place(through, behind(pid)),
                        GATEWAY: Place(gateway, behind(running_pid(fleet.gateway.files.envoy_record))),
                        FASTAPI: Place(fastapi.start(), fastapi.pids),
                    },
                    body,
                )
            finally:
                fastapi.stop()


def _lone_ms(places: Mapping[str, Place], body: bytes, job: Job) -> dict[str, list[float]]:
    """The median of each target in each round."""
    medians: dict[str, list[float]] = {name: [] for name in places}
    for number in range(job.rounds):
        with job.progress.step(f"round {number + 1} of {job.rounds}: lone requests") as step:
            for name, place in places.items():
                medians[name].append(round(statistics.median(latencies_ms(place.address, body, LONE)), 3))
            step.done(", ".join(f"{name} {rounds[-1]:.2f} ms" for name, rounds in medians.items()))
    return medians


def _turns(places: Mapping[str, Place], body: bytes, folder: Path, job: Job) -> dict[str, list[Turn]]:
    turns: dict[str, list[Turn]] = {}
    for number in range(job.rounds):
        for count in CONNECTIONS:
            with job.progress.step(f"round {number + 1} of {job.rounds}: {count} connections") as step:
                taken = {
                    name: load(place.address, [body], count, job.seconds, folder, place.pids)
                    for name, place in places.items()
                }
                step.done(", ".join(f"{name} {turn.requests_s:,.0f}" for name, turn in taken.items()) + " requests/s")
            for name, turn in taken.items():
                turns.setdefault(f"{name}, {count}", []).append(turn)
    return turns


def _times_us(name: str, turns: list[Turn], others: list[Turn], goal: Goal) -> Figure:
    """Processor time of the processes called `server`, as a multiple of that in the others' turns."""
    pairs = zip(turns, others, strict=True)
    return Figure(name, "times", tuple(server_us(turn) / server_us(other) for turn, other in pairs), goal)


def server_us(turn: Turn) -> float:
    """Microseconds of processor time a request of the processes called `server`, which the turn has."""
    return (turn.cpu_us or {})["server"]

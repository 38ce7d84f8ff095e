"""The cost of metrics and records together: a linear layer under closed-loop load, on a node of each engine.

Both versions are on one node, and each has its worker. The order of the turns is reversed in every second round, so
that a machine that becomes slower or faster favours none.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from benchmarks import ARCHIVES
from benchmarks.harness.figures import Figure, Goal, Result, Turn, times
from benchmarks.harness.processes import children
from benchmarks.harness.run import Job, Run
from benchmarks.harness.workload import load, own_folder
from benchmarks.harness.wrk import require_wrk, run_wrk, write_script
from benchmarks.targets.fleet import Fleet, running_fleet
from benchmarks.workloads.linear import VERSIONS, build_linear
from benchmarks.workloads.overhead import RECORD_COSTS, alone_costs

MODEL = "linear"
OFF, BOTH = "1.0.no_metrics", "1.0.records"
ENGINES = ("torchserve", "uvicorn")
CONNECTIONS = 128
WARMING_S = 6
#: Of the requests/s without both: records, metrics and pairing may cost a twentieth. Pairing is done by a reader.
TOGETHER = Goal(0.95)


#: Share of the requests that a version with `records: {}` records.
SHARE = 0.01
#: Of a worker's processor time; a worker has about a third of what a request costs with its node and its client.
OF_WORKER = Goal(0.05, is_ceiling=True)


def workloads() -> dict[str, Run]:
    """A workload for each engine, and one for a worker without a node."""
    return {**{f"records-{engine}": partial(run, engine) for engine in ENGINES}, "records-worker": run_worker}


def run_worker(job: Job) -> Result:
    """Processor time of one worker, in turns of some milliseconds: it depends little on what else the machine does."""
    with own_folder() as folder:
        alone = alone_costs(build_linear(job.project, folder / "built", job.progress), job, folder)
    together = [each["share"] + (each["unsampled_us"] + SHARE * each["record_us"]) / each["item_us"] for each in alone]
    figures = [
        Figure("metrics and 1 % recorded, of a worker's time", "share", tuple(together), OF_WORKER),
        Figure("metrics, of a worker's time", "share", tuple(each["share"] for each in alone)),
        *(Figure(name, "us", tuple(each[key] for each in alone)) for name, key in RECORD_COSTS.items()),
    ]
    return Result("records-worker", "a linear layer in a worker without a node", {"share": SHARE}, {}, figures)


def run(engine: str, job: Job) -> Result:
    """Both versions in turns.

    Raises:
        TsctlError: wrk is missing, or a version does not serve.
    """
    require_wrk()
    served = [(MODEL, version) for version in (OFF, BOTH)]
    with (
        own_folder() as folder,
        running_fleet(job.project, folder / "own", 1, served, job.progress, engine=engine) as fleet,
    ):
        turns = _turns(fleet, folder, job)
        [node] = fleet.nodes
        written = sum(path.stat().st_size for path in node.records_folder.iterdir())
    off, both = (turns[VERSIONS[version]] for version in (OFF, BOTH))
    figures = [
        times("metrics and 1 % recorded, of neither", both, off, TOGETHER),
        _processor_time("processor time of node and worker, of neither", both, off),
    ]
    settings = {"connections": CONNECTIONS, "engine": engine, "bytes_of_records": written}
    return Result(f"records-{engine}", f"a linear layer on a {engine} node", settings, turns, figures)


def _turns(fleet: Fleet, folder: Path, job: Job) -> dict[str, list[Turn]]:
    [node] = fleet.nodes
    body = (ARCHIVES / MODEL / "samples" / "row.json").read_bytes().strip()
    addresses = {version: fleet.direct(MODEL, version) for version in (OFF, BOTH)}

    def pids() -> dict[str, list[int]]:
        return {"server": [node.pid], "workers": children(node.pid)} if node.pid is not None else {}

    with job.progress.step("warming all"):
        for address in addresses.values():
            run_wrk(address.url, write_script(folder, address.headers, [body]), CONNECTIONS, WARMING_S)
    turns: dict[str, list[Turn]] = {VERSIONS[version]: [] for version in addresses}
    for number in range(job.rounds):
        with job.progress.step(f"round {number + 1} of {job.rounds}") as step:
            order = list(addresses) if number % 2 == 0 else list(addresses)[::-1]
            for version in order:
                taken = load(addresses[version], [body], CONNECTIONS, job.seconds, folder, pids)
                turns[VERSIONS[version]].append(taken)
            step.done(", ".join(f"{name} {taken[-1].requests_s:,.0f}" for name, taken in turns.items()) + " requests/s")
    return turns


def _processor_time(name: str, turns: list[Turn], others: list[Turn]) -> Figure:
    def spent(turn: Turn) -> float:
        return sum(us for kind, us in (turn.cpu_us or {}).items() if kind != "load")

    return Figure(name, "times", tuple(spent(a) / spent(b) for a, b in zip(turns, others, strict=True)))

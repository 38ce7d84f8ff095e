"""What three more workers of a version cost: forked from a process that has imported torch, and each started alone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from benchmarks.harness.figures import Figure, Goal, Result
from benchmarks.harness.run import Job
from benchmarks.harness.workload import own_folder
from handlers.contract import FORK_SERVER_OFF, FORK_SERVER_VARIABLE
from tsctl.archive.store import find_archive, import_archive
from tsctl.compare.nodes import free_spec, own_project
from tsctl.host.progress import Progress
from tsctl.host.usage import cpu_seconds, memory_of, process_tree
from tsctl.nodes.engines import open_node

ENGINES = ("torchserve", "uvicorn")
MODEL = "digits"
MORE = 3
#: Of a worker: name, unit, and the goal for a forked one over one that is started alone.
COSTS = (
    ("processor time", "s", Goal(0.5, is_ceiling=True)),
    ("time", "s", None),
    ("memory", "MiB", Goal(0.7, is_ceiling=True)),
)


def run(job: Job) -> Result:
    """Both ways in turns, for each engine, on nodes of the benchmark's own.

    Raises:
        ArchiveError: the archive is not built.
    """
    figures: list[Figure] = []
    for engine in ENGINES:
        ways: dict[str, list[tuple[float, float, float]]] = {"forked": [], "alone": []}
        with job.progress.step(engine) as step:
            for number in range(job.rounds):
                for way, rounds in ways.items():
                    step.note(f"round {number + 1} of {job.rounds}, {way}")
                    rounds.append(_cost(job, engine, way == "forked"))
            compared = _figures(engine, ways)
            figures += compared
            step.done(f"{compared[0].value} times the processor time")
    return Result("worker-start", f"{MORE} more workers of {MODEL}", {"more": MORE}, {}, figures)


def _cost(job: Job, engine: str, is_forked: bool) -> tuple[float, float, float]:
    """Processor seconds, seconds and MiB of memory for each of the workers that come after the first."""
    with own_folder() as folder, _forks(is_forked):
        project = own_project(job.project, folder / "own")
        archive = import_archive(project, find_archive(job.project, MODEL, job.deployment.models[MODEL].default).path)
        node = open_node(project, "bench", free_spec(engine))
        quiet = Progress(Console(quiet=True))
        process = node.start(project, quiet)
        try:
            node.register(archive, archive.version, 1, lambda _: None)
            before, memory = cpu_seconds(process_tree([process.pid])), _memory(process.pid)
            begin = time.perf_counter()
            node.scale(archive.model, archive.version, 1 + MORE, lambda _: None)
            took = time.perf_counter() - begin
            used = cpu_seconds(process_tree([process.pid])) - before
            return used / MORE, took / MORE, (_memory(process.pid) - memory) / MORE
        finally:
            node.stop(quiet)
            process.wait()


def _memory(pid: int) -> float:
    return memory_of(process_tree([pid])).bytes / (1 << 20)


def _figures(engine: str, ways: dict[str, list[tuple[float, float, float]]]) -> list[Figure]:
    """The ratios first, then what they are made of."""
    ratios, values = [], []
    for place, (name, unit, goal) in enumerate(COSTS):
        forked, alone = (tuple(cost[place] for cost in costs) for costs in ways.values())
        rounds = tuple(round(one / other, 2) for one, other in zip(forked, alone, strict=True))
        ratios.append(Figure(f"{engine}: {name}, forked over alone", "times", rounds, goal))
        for way, found in (("forked", forked), ("alone", alone)):
            values.append(Figure(f"{engine}: {name}, {way}", unit, tuple(round(each, 2) for each in found)))
    return [*ratios, *values]


@contextmanager
def _forks(is_on: bool) -> Iterator[None]:
    """Nodes that are started meanwhile have a fork server, or none."""
    before = os.environ.pop(FORK_SERVER_VARIABLE, None)
    if not is_on:
        os.environ[FORK_SERVER_VARIABLE] = FORK_SERVER_OFF
    try:
        yield
    finally:
        os.environ.pop(FORK_SERVER_VARIABLE, None)
        if before is not None:
            os.environ[FORK_SERVER_VARIABLE] = before

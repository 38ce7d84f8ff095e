"""The response cache under repeated inputs: which share of the items the model computes, as its workers count them.

Not timed: a client of threads sends a fixed sequence. Hits that are computed all the same are among what is computed;
what the answers say (x-cache) is told beside it.
"""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from urllib.parse import urlsplit

from benchmarks.harness.client import Address
from benchmarks.harness.figures import Figure, Result, Target
from benchmarks.harness.workload import ANSWER_S, Traffic, Workload, own_folder, started
from benchmarks.targets.node import OnNode, OwnNode
from benchmarks.workloads.inputs import repeated
from benchmarks.workloads.linear import CACHED, build_linear
from benchmarks.workloads.overhead import JSON, scores
from tsctl.config.project import Project
from tsctl.host.progress import Progress

REQUESTS = 4000
REPEATED = 0.4
SEED = 11
CONNECTIONS = 16
COMPUTED = Target(0.62, is_ceiling=True)
HEADER = "x-cache"
NAME = "items that the model computes"
SAID = "answers that are no hit, by x-cache"
COMPUTED_ITEMS = "tsctl_worker_computed_items_total"
#: Seconds after the last answer in which a worker writes its counts down, with time to spare.
WRITTEN_S = 1.0


def run(project: Project, rounds: int, progress: Progress) -> Result:
    """The computed share, round by round; every round has rows of its own, so that none is known from the one before.

    Raises:
        TsctlError: the node does not serve.
    """
    settings = {"connections": CONNECTIONS, "requests": REQUESTS, "repeated": REPEATED, "seed": SEED}
    title = f"{REPEATED:.0%} of the inputs were sent before"
    with own_folder() as folder:
        linear = build_linear(project, folder / "built", progress)
        if CACHED not in linear.archives:
            why_not = f"benchmarks/archives/linear/archive.yaml has no version {CACHED}"
            return Result("cache", title, settings, {}, [Figure(NAME, "share", (), COMPUTED, why_not=why_not)])
        way = OnNode("ServingHandler, cache", OwnNode(project, folder / "here"), linear.archives[CACHED], JSON)
        computed, said, failed = [], [], 0
        with started(Workload(Traffic([linear.sample], CONNECTIONS, 0), [way], scores), progress) as addresses:
            for number in range(rounds):
                with progress.step(f"round {number + 1} of {rounds}: repeated inputs") as step:
                    before = computed_items(way.own.node.paths.metrics)
                    seen = outcomes(addresses[way.name], rows(repeated(REQUESTS, REPEATED, SEED), number))
                    time.sleep(WRITTEN_S)
                    computed.append((computed_items(way.own.node.paths.metrics) - before) / REQUESTS)
                    said.append(computed_share(seen))
                    failed += seen["failed"]
                    step.done(f"{computed[-1]:.1%} computed")
    figures = [
        Figure(NAME, "share", tuple(computed), COMPUTED, failed),
        Figure(SAID, "share", tuple(said), failed=failed),
    ]
    return Result("cache", title, settings, {}, figures)


def computed_items(folder: Path) -> float:
    """Items that the models of a node computed since its start.

    Args:
        folder: where its workers write their metrics.
    """
    from tsctl.monitoring.worker_files import WorkerFiles

    files = WorkerFiles(folder, lambda text: None)
    return sum(sample.value for metric in files.collect() for sample in metric.samples if sample.name == COMPUTED_ITEMS)


def rows(numbers: Sequence[int], offset: int) -> list[bytes]:
    """A request for each number; equal numbers give equal bytes, other offsets other ones."""
    return [json.dumps({"row": [float(number), float(offset), *[0.5] * 62]}).encode() for number in numbers]


def computed_share(seen: Counter[str]) -> float:
    """Of the answered requests, those that the cache did not answer.

    Raises:
        ValueError: answers do not say what the cache did.
    """
    if seen[""]:
        raise ValueError(f"{seen['']} answers have no header {HEADER}: the cache is not on")
    answered = sum(seen[outcome] for outcome in ("hit", "miss", "bypass"))
    return 1 - seen["hit"] / answered if answered else 1.0


def outcomes(address: Address, bodies: Sequence[bytes]) -> Counter[str]:
    """How often each value of x-cache came: hit, miss, bypass; '' without the header, 'failed' for no 200."""
    remaining = iter(bodies)
    lock = Lock()

    def next_bodies() -> Iterator[bytes]:
        while True:
            with lock:
                body = next(remaining, None)
            if body is None:
                return
            yield body

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        counted = pool.map(lambda _: _outcomes_of_one(address, next_bodies()), range(CONNECTIONS))
        return sum(counted, Counter())


def _outcomes_of_one(address: Address, bodies: Iterator[bytes]) -> Counter[str]:
    split = urlsplit(address.url)
    connection = http.client.HTTPConnection(split.hostname or "", split.port, timeout=ANSWER_S)
    seen: Counter[str] = Counter()
    for body in bodies:
        connection.request("POST", split.path, body, dict(address.headers))
        answer = connection.getresponse()
        answer.read()
        seen[answer.getheader(HEADER, "") if answer.status == 200 else "failed"] += 1
    connection.close()
    return seen

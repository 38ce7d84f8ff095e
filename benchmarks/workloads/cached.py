"""The response cache under repeated inputs: the share of the items that the model computes, as its workers count them.

Not timed: clients send a fixed sequence. A hit that is computed all the same counts as computed; the answers' own
account (x-cache) is a figure besides.
"""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.harness.client import Address
from benchmarks.harness.figures import Figure, Goal, Result
from benchmarks.harness.run import Job
from benchmarks.harness.workload import ANSWER_S, Requests, Workload, own_folder, started
from benchmarks.targets.node import BenchmarkNode, NodeTarget
from benchmarks.workloads.inputs import repeated
from benchmarks.workloads.linear import CACHED, build_linear
from benchmarks.workloads.overhead import JSON, scores

REQUESTS = 4000
REPEATED = 0.4
SEED = 11
CONNECTIONS = 16
COMPUTED = Goal(0.62, is_ceiling=True)
HEADER = "x-cache"
COMPUTED_ITEMS = "tsctl_worker_computed_items_total"
#: Seconds after the last answer in which a worker writes its counts, with time to spare.
WRITTEN_S = 1.0


def run(job: Job) -> Result:
    """The computed share, round by round; every round has rows of its own, so that none is cached before.

    Raises:
        TsctlError: the node does not serve.
    """
    with own_folder() as folder:
        linear = build_linear(job.project, folder / "built", job.progress)
        node = BenchmarkNode(job.project, folder / "here")
        target = NodeTarget("ServingHandler, cache", node, linear.archives[CACHED], JSON)
        computed, missed, failed = [], [], 0
        workload = Workload(Requests([linear.sample], CONNECTIONS, 0), [target], scores)
        with started(workload, job.progress) as addresses:
            for number in range(job.rounds):
                with job.progress.step(f"round {number + 1} of {job.rounds}: repeated inputs") as step:
                    before = computed_items(node.node.paths.metrics)
                    outcomes = ask_all(addresses[target.name], rows(repeated(REQUESTS, REPEATED, SEED), number))
                    time.sleep(WRITTEN_S)
                    computed.append((computed_items(node.node.paths.metrics) - before) / REQUESTS)
                    missed.append(missed_share(outcomes))
                    failed += outcomes["failed"]
                    step.done(f"{computed[-1]:.1%} computed")
    settings = {"connections": CONNECTIONS, "requests": REQUESTS, "repeated": REPEATED, "seed": SEED}
    figures = [
        Figure("items that the model computes", "share", tuple(computed), COMPUTED, failed),
        Figure("answers that are no hit, by x-cache", "share", tuple(missed), failed=failed),
    ]
    return Result("cache", f"{REPEATED:.0%} of the inputs were sent before", settings, {}, figures)


def computed_items(folder: Path) -> float:
    """Items that the models of a node computed since its start.

    Args:
        folder: where its workers write their metrics.
    """
    from tsctl.monitoring.worker_files import WorkerFiles

    files = WorkerFiles(folder, lambda text: None)
    return sum(sample.value for metric in files.collect() for sample in metric.samples if sample.name == COMPUTED_ITEMS)


def rows(numbers: Sequence[int], offset: int) -> list[bytes]:
    """A request for each number; equal numbers give equal bytes, another offset gives others."""
    return [json.dumps({"row": [float(number), float(offset), *[0.5] * 62]}).encode() for number in numbers]


def missed_share(outcomes: Counter[str]) -> float:
    """The share of the answered requests that the cache did not answer.

    Raises:
        ValueError: answers do not name what the cache did.
    """
    if outcomes[""]:
        raise ValueError(f"{outcomes['']} answers have no header {HEADER}: the cache is not on")
    answered = sum(outcomes[outcome] for outcome in ("hit", "miss", "bypass"))
    return 1 - outcomes["hit"] / answered if answered else 1.0


def ask_all(address: Address, bodies: Sequence[bytes]) -> Counter[str]:
    """Number of answers by x-cache: hit, miss, bypass; '' without the header, 'failed' for no 200."""
    remaining = iter(bodies)  # `next` of a sequence's iterator is safe among threads
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        counts = pool.map(lambda _: _ask_over_one_connection(address, remaining), range(CONNECTIONS))
        return sum(counts, Counter())


def _ask_over_one_connection(address: Address, bodies: Iterator[bytes]) -> Counter[str]:
    url = urlsplit(address.url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=ANSWER_S)
    outcomes: Counter[str] = Counter()
    for body in bodies:
        connection.request("POST", url.path, body, dict(address.headers))
        answer = connection.getresponse()
        answer.read()
        outcomes[answer.getheader(HEADER, "") if answer.status == 200 else "failed"] += 1
    connection.close()
    return outcomes

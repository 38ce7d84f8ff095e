"""Growth with keys of clients: a gateway with two versions of one model, and a server with a fixed answer behind it.

Every key is of a client of its own, whose budget is its own too: the dearest kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.growth.curves import Collected, Growth
from benchmarks.growth.measure import (
    COST,
    GATEWAY,
    MEMORY,
    MIB,
    SIZE,
    TIME,
    command_s,
    kilobytes,
    median_s,
    seconds,
)
from benchmarks.harness.client import Address
from benchmarks.harness.run import Job
from benchmarks.harness.workload import load, own_folder
from benchmarks.harness.wrk import require_wrk
from benchmarks.targets.envoy import fixed_answer, running_envoy
from benchmarks.targets.gateway import asked_at, bare_gateway, envoy_bytes, envoy_pid, put, upstreams
from tsctl.config.weights import TOTAL
from tsctl.gateway.change import set_clients, set_weights
from tsctl.gateway.keys import Record, digest, new_key, record_of
from tsctl.gateway.state import Gateway
from tsctl.gateway.traffic import Traffic

KEY = "keys"
COUNTS = (1, 10, 100, 1_000, 3_000, 10_000)
MODEL, OLD, NEW = "m0", "1.0", "2.0"
SPLITS = ({OLD: 9 * TOTAL // 10, NEW: TOTAL // 10}, {OLD: TOTAL // 2, NEW: TOTAL - TOTAL // 2})
CONNECTIONS = 32
#: Nobody of the load is refused.
BUDGET = {"requests_per_s": 1_000_000, "burst": 1_000_000}
BODY = b'{"x": 0.5}'


def run(job: Job, counts: tuple[int, ...] = COUNTS) -> Growth:
    """Every count, each once, with more and more keys of one gateway.

    Raises:
        TsctlError: wrk is missing, or the gateway does not start, or refuses a change.
    """
    require_wrk()
    collected = Collected()
    with own_folder() as folder, fixed_gateway(job, folder) as gateway:
        served = upstreams(gateway, 1, (OLD, NEW))
        put(gateway, served, [Traffic(MODEL, dict(SPLITS[1]))])
        for count in counts:
            with job.progress.step(f"{count:,} keys") as step:
                last = _with_keys(gateway, count - 1)  # and the one that is added
                added, changed = _changes(gateway, job.rounds, collected, count)
                address = Address(asked_at(gateway, MODEL).url, {"x-api-key": last or added})
                turn = load(address, [BODY], CONNECTIONS, job.seconds, folder, lambda: {GATEWAY: [envoy_pid(gateway)]})
                step.done(f"{changed:.3f} s for weights, {turn.requests_s:,.0f} requests/s, {turn.failed} failed")
            collected.add(COST, "us", count, {"gateway, processor time": (turn.cpu_us or {})[GATEWAY]})
            collected.add(MEMORY, "MiB", count, {"gateway, memory": envoy_bytes(gateway) / MIB})
            files = gateway.files
            sizes = {"file of routes": files.routes, "file of records of keys": files.keys}
            collected.add(SIZE, "kB", count, {name: kilobytes(path) for name, path in sizes.items()})
    return Growth(
        KEY, "a gateway with more and more keys", {"connections": CONNECTIONS}, {}, [], (), "keys", collected.curves()
    )


@contextmanager
def fixed_gateway(job: Job, folder: Path) -> Iterator[Gateway]:
    """A gateway whose versions are all answered by one server with a fixed answer."""
    with (
        running_envoy(fixed_answer('{"scores": [0.5]}'), folder, "fixed") as (inference, _),
        bare_gateway(job.project, folder / "own", inference, BUDGET) as gateway,
    ):
        yield gateway


def _with_keys(gateway: Gateway, count: int) -> str:
    """Put so many keys in place of all that there are; the last of them, empty for none."""
    keys = [new_key() for _ in range(count)]
    records = [_record(key, f"client-{number}") for number, key in enumerate(keys)]
    set_clients(gateway, lambda _: records, {digest(key): key for key in keys})
    return keys[-1] if keys else ""


def _changes(gateway: Gateway, rounds: int, collected: Collected, count: int) -> tuple[str, float]:
    """Measure the times of changes; the key that stays, and the median of weights."""
    key = new_key()
    add = seconds(lambda: set_clients(gateway, lambda old: [*old, _record(key, "new")], {digest(key): key}))
    collected.add(TIME, "s", count, {"a key is added": add})
    median = median_s(lambda number: set_weights(gateway, MODEL, SPLITS[number % 2]), 2 * rounds + 1)
    status = command_s(gateway.project, "keys", "list")
    collected.add(TIME, "s", count, {"weights are in force": median, "tsctl keys list": status})
    return key, median


def _record(key: str, client: str) -> Record:
    return record_of(key, client, BUDGET["requests_per_s"], BUDGET["burst"])

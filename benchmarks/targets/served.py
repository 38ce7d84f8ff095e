"""An archive on our own server, as `tsctl serve` starts it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import requests

from benchmarks.harness.client import Address
from tsctl.archive.container import unpack
from tsctl.archive.inspect import inspect_archive
from tsctl.errors import NodeError
from tsctl.host.http import direct_session
from tsctl.host.ports import free_ports
from tsctl.host.process import end_child, inherited
from tsctl.host.usage import process_tree

START_S = 120.0
STOP_S = 40.0


class ServedTarget:
    """An archive with the workers that it asks for.

    Args:
        folder: is made, for the unpacked archive.
        environment: further variables of the server and its workers.
    """

    def __init__(
        self, name: str, archive: Path, folder: Path, media_type: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._environment = environment or {}
        self._folder = folder
        self._media_type = media_type
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        unpack(archive, folder)
        self._model: str = inspect_archive(archive).manifest["model"]["modelName"]

    def start(self) -> Address:
        [port] = free_ports(1)
        command = [sys.executable, "-m", "handlers.adapters.asgi", "--port", str(port)]
        self._process = subprocess.Popen(
            command,
            cwd=self._folder,
            env={**inherited(os.environ), **self._environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        url = f"http://127.0.0.1:{port}"
        session, end = direct_session(), time.monotonic() + START_S
        while True:
            try:
                if session.get(f"{url}/ping", timeout=5).status_code == 200:
                    break
            except requests.RequestException:
                pass  # it does not listen yet
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise NodeError(f"{self.name} did not become ready")
            time.sleep(0.05)
        return Address(f"{url}/predictions/{self._model}", {"Content-Type": self._media_type})

    def pids(self) -> dict[str, list[int]]:
        if self._process is None:
            return {}
        server, *workers = process_tree([self._process.pid])
        return {"server": [server], "workers": workers}

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        end_child(process, STOP_S)

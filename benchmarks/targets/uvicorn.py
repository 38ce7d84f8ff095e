"""An application under uvicorn."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness.client import Address
from benchmarks.harness.processes import children
from tsctl.errors import NodeError
from tsctl.host.ports import free_ports

PROCESSES = 2
START_S = 120.0
STOP_S = 10.0


class UvicornTarget:
    """An application under uvicorn, with uvloop and httptools, and no access log."""

    def __init__(
        self, name: str, application: Path, environment: Mapping[str, str], path: str, processes: int = PROCESSES
    ) -> None:
        """
        Args:
            application: a module that defines `app`.
            path: of a request's URL.
        """
        self._processes = processes
        self.name = name
        self._application = application
        self._environment = environment
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Address:
        [port] = free_ports(1)
        command = [
            sys.executable, "-m", "uvicorn", "--app-dir", str(self._application.parent), "--host", "127.0.0.1",
            "--port", str(port), "--workers", str(self._processes), "--loop", "uvloop", "--http", "httptools",
            "--no-access-log", "--log-level", "warning", f"{self._application.stem}:app",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **self._environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # so that one signal ends the whole group
        )
        self._wait_until_it_answers(self._process, port)
        return Address(f"http://127.0.0.1:{port}{self._path}", {"Content-Type": "application/json"})

    def pids(self) -> dict[str, list[int]]:
        if self._process is None:
            return {}
        return {"server": [self._process.pid], "workers": children(self._process.pid)}

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes], port: int) -> None:
        end = time.monotonic() + START_S
        while True:
            if process.poll() is not None:
                raise NodeError(f"uvicorn ended with status {process.returncode}", "Run 'make setup'.")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError as error:
                if time.monotonic() > end:
                    self.stop()
                    raise NodeError(f"uvicorn does not answer after {START_S:g} s: {error}") from None
                time.sleep(0.05)
            else:
                return

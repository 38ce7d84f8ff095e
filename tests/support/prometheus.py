"""A real Prometheus for tests, which scrapes a gateway every second and ends with its test."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import requests
import yaml

from tests.support.ports import free_ports
from tests.support.programs import program
from tests.support.sites import until


class Prometheus:
    """A server with a port and a folder of its own.

    Args:
        scraped: the gateway's metrics, such as http://127.0.0.1:8003.
    """

    def __init__(self, folder: Path, scraped: str) -> None:
        self._binary = program("prometheus")
        self._folder = folder
        folder.mkdir()
        job = {"job_name": "gateway", "static_configs": [{"targets": [scraped.removeprefix("http://")]}]}
        content = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [job]}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(content))
        self.address = f"http://127.0.0.1:{free_ports(1)[0]}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """It answers when this returns."""
        command = [
            self._binary, f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'tsdb'}", "--log.level=error",
            f"--web.listen-address={self.address.removeprefix('http://')}",
        ]  # fmt: skip
        self._process = subprocess.Popen(command, cwd=self._folder)
        until(self._is_ready, 30, "Prometheus is ready")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """It has ended when this returns."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(20)
            self._process = None

    def _is_ready(self) -> bool:
        try:
            return requests.get(f"{self.address}/-/ready", timeout=2).status_code == 200
        except requests.ConnectionError:
            return False

"""One server of vLLM as a process of the node: started, asked whether it is ready, ended with all that it started."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from handlers.adapters.vllm.settings import SETTINGS_VARIABLE
from handlers.contract import CHECK_ANSWER, CHECK_HEADER, JSON

#: Seconds for an answer about its health.
HEALTH_S = 5.0


class Server:
    """A process of RUN, with its children: vLLM computes in them."""

    def __init__(self, process: asyncio.subprocess.Process, host: str, port: int, settings: Path) -> None:
        self._process = process
        self._address = host, port
        self._settings = settings

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.returncode

    async def is_ready(self) -> bool:
        """Whether it listens, and says that it is healthy."""
        return await asyncio.to_thread(self._ask, "GET", "/health", None, {}, HEALTH_S) == (200, b"")

    async def ask(self, path: str, body: bytes, token: str | None, timeout_s: float) -> tuple[int, bytes]:
        """Status and body of the answer to a request that no metric counts; (0, b"") where there is none."""
        headers = {"content-type": JSON, CHECK_HEADER: CHECK_ANSWER}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        return await asyncio.to_thread(self._ask, "POST", path, body, headers, timeout_s)

    def _ask(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout_s: float
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(*self._address, timeout=timeout_s)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    async def wait(self) -> int:
        """Its exit status, once it and its children have ended."""
        status = await self._process.wait()
        await asyncio.to_thread(end_children, self._settings)
        return status

    def terminate(self) -> None:
        """Let it answer what it has, and end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            self._process.send_signal(number)


async def start_server(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, output: int, host: str, port: int
) -> Server:
    """Start the process in a folder; it becomes ready later.

    Raises:
        OSError: it cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, cwd=folder, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
    )
    return Server(process, host, port, Path(environment[SETTINGS_VARIABLE]))


def end_children(settings: Path, proc: Path = Path("/proc")) -> None:
    """Kill what a server left: its children do not notice that it was killed, and hold its memory.

    Args:
        settings: the server's file, which its children have in their environment as well.
    """
    wanted = f"{SETTINGS_VARIABLE}={settings}".encode()
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
        except (OSError, ProcessLookupError):
            continue  # it ended, or belongs to somebody else

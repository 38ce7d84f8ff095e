"""The process beside Envoy that restarts it, rotates its access log, and follows the nodes.

Runs as `python -m tsctl.gateway.envoy.supervisor`, or in `tsctl gateway start --foreground`. No request passes through
it, and Envoy outlives it.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tsctl.config.deployment import read_deployment
from tsctl.config.project import find_project
from tsctl.errors import TsctlError
from tsctl.gateway import access_log
from tsctl.gateway.envoy.process import start_envoy
from tsctl.gateway.files import record_process, running_pid
from tsctl.gateway.state import Gateway, open_gateway
from tsctl.gateway.sync import sync

_Stamps = tuple[tuple[str, int], ...]

logger = logging.getLogger("tsctl.gateway.envoy.supervisor")

TICK_S = 0.25
#: Interval of questions to the nodes, and of checks of the log's size.
FOLLOW_S = 2.0
ROTATE_S = 10.0
#: An access log of this size is renamed, and this many of them are kept.
LOG_BYTES = 64 << 20
LOGS_KEPT = 5
#: Delay before Envoy is started again after it ended, doubled each time up to the longest.
RESTART_S, LONGEST_RESTART_S = 0.5, 30.0


@dataclass
class Supervisor:
    """The supervisor's state between two ticks."""

    gateway: Gateway
    _due: dict[str, float] = field(default_factory=dict)
    _tokens: _Stamps | None = None
    _deployment: _Stamps | None = None
    _restart_s: float = RESTART_S
    _last_error: str = ""

    def tick(self) -> None:
        """Do everything that is due. A failure is logged, and tried again when it is due next."""
        deployment = _stamps([self.gateway.project.deployment])
        if deployment != self._deployment and self._try(self._read_deployment):
            self._deployment = deployment
        if self._is_due("envoy", TICK_S):
            self._try(self._restart_envoy)
        tokens = _stamps(node.key_file for node in self.gateway.nodes())
        if (tokens != self._tokens or self._is_due("nodes", FOLLOW_S)) and self._try(self._follow):
            self._tokens = tokens
        if self._is_due("logs", ROTATE_S):
            self._try(lambda: rotate(self.gateway))

    def _read_deployment(self) -> None:
        project = self.gateway.project
        self.gateway = open_gateway(project, read_deployment(project.deployment))

    def _restart_envoy(self) -> None:
        if running_pid(self.gateway.files.envoy_record) is not None:
            self._restart_s = RESTART_S
            return
        logger.error("Envoy ended by itself; starting it again")
        self._due["envoy"] = time.monotonic() + self._restart_s
        self._restart_s = min(2 * self._restart_s, LONGEST_RESTART_S)
        start_envoy(self.gateway)

    def _follow(self) -> None:
        for change in sync(self.gateway):
            logger.info("%s", change)

    def _is_due(self, task: str, every_s: float) -> bool:
        now = time.monotonic()
        if now < self._due.get(task, 0.0):
            return False
        self._due[task] = now + every_s
        return True

    def _try(self, act: Callable[[], object]) -> bool:
        try:
            act()
        except (TsctlError, OSError) as error:
            if str(error) != self._last_error:  # once, and not at every tick
                logger.error("%s", error)
            self._last_error = str(error)
            return False
        return True


def rotate(gateway: Gateway, largest: int = LOG_BYTES, kept: int = LOGS_KEPT) -> bool:
    """Rotate the access log where it has grown too large; True if it had.

    Envoy writes into the renamed file until it opens the new one, so no line is lost.
    """
    log = gateway.files.access_log
    if not log.is_file() or log.stat().st_size < largest:
        return False
    access_log.rotate(log, kept)
    gateway.admin.reopen_logs()
    logger.info("rotated the access log")
    return True


def run(gateway: Gateway) -> None:
    """Supervise the gateway until SIGTERM or SIGINT; actions and failures are logged to standard error."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    record_process(gateway.files.supervisor_record, os.getpid())
    supervisor = Supervisor(gateway)
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, frame: signals.append(received))
    try:
        while not signals:
            supervisor.tick()
            time.sleep(TICK_S)
    finally:
        gateway.files.supervisor_record.unlink(missing_ok=True)


def _stamps(paths: Iterable[Path | None]) -> _Stamps:
    """The time of each file's last change: a node that starts anew writes other tokens."""
    return tuple((str(path), path.stat().st_mtime_ns) for path in paths if path is not None and path.is_file())


def main() -> None:
    """Supervise the gateway of the project that TSCTL_PROJECT names."""
    project = find_project()
    run(open_gateway(project, read_deployment(project.deployment)))


if __name__ == "__main__":
    main()

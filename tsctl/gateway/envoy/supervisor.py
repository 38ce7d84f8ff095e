"""The process beside Envoy that restarts it, rotates its access log, and follows the nodes.

Runs as `python -m tsctl.gateway.envoy.supervisor`, or in `tsctl gateway start --foreground`. No request passes through
it, and Envoy outlives it.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from logging.handlers import RotatingFileHandler
from pathlib import Path

from tsctl.config.deployment import read_deployment
from tsctl.config.project import find_project
from tsctl.errors import TsctlError
from tsctl.gateway import access_log
from tsctl.gateway.envoy.admin import Hangs
from tsctl.gateway.envoy.process import LARGEST_FILE, end_hanging, start_envoy
from tsctl.gateway.files import record_process, running_pid
from tsctl.gateway.notices import Notices
from tsctl.gateway.shared import follower
from tsctl.gateway.state import Gateway, open_local
from tsctl.gateway.sync import Settled, sync
from tsctl.gateway.tls import put_certificate
from tsctl.host.due import Due
from tsctl.host.files import keep_short

_Stamps = tuple[tuple[str, int], ...]

logger = logging.getLogger("tsctl.gateway.envoy.supervisor")

TICK_S = 0.25
#: Interval of questions to the nodes.
FOLLOW_S = 2.0
#: An access log of this size is renamed, and this many of them are kept. The kernel keeps Envoy from files that are
#: larger than LARGEST_FILE, whatever becomes of the supervisor.
LOG_BYTES = LARGEST_FILE * 3 // 4
LOGS_KEPT = 5
#: Envoy is asked whether it lives so often. When it has let this many questions in a row go unanswered, it is replaced.
HANG_CHECK_S, HANGS = 2.0, 3
#: Of the messages of Envoy, and of the supervisor itself; one older file of each is kept.
MESSAGES_BYTES = 4 << 20
#: Delay before Envoy is started again after it ended, doubled each time up to the longest.
RESTART_S, LONGEST_RESTART_S = 0.5, 30.0


@dataclass
class Supervisor:
    """The supervisor's state between two ticks."""

    gateway: Gateway
    _due: Due = field(default_factory=Due)
    _tokens: _Stamps | None = None
    _deployment: _Stamps | None = None
    _restart_s: float = RESTART_S
    _hangs: int = 0
    _notices: Notices = field(default_factory=lambda: Notices(logger))
    _settled: Settled = field(default_factory=Settled)

    def tick(self) -> None:
        """Do everything that is due. A failure is logged once, what was in force stays, and it is tried again.

        Whatever a task raises: a file that somebody wrote must not end the process that restarts Envoy.
        """
        self._try("the supervisor's sign of life", self._give_sign)
        self._try("deployment.yaml", self._read_deployment)
        if self._due.is_due("envoy", TICK_S):
            self._try("Envoy", self._restart_envoy)
        if self._due.is_due("hang", HANG_CHECK_S):
            self._try("a hanging Envoy", self._end_hanging)
        self._try("the nodes", self._follow)
        if self._due.is_due("certificate", FOLLOW_S):
            self._try("the certificate", self._follow_certificate)
        self._try("the logs", lambda: rotate(self.gateway))

    def _give_sign(self) -> None:
        os.utime(self.gateway.files.supervisor_record)

    def _read_deployment(self) -> None:
        project = self.gateway.project
        stamps = _stamps([project.deployment])
        if stamps != self._deployment:
            self.gateway = open_local(project, read_deployment(project.deployment))
            self._deployment = stamps

    def _restart_envoy(self) -> None:
        if running_pid(self.gateway.files.envoy_record) is not None:
            self._restart_s = RESTART_S
            return
        logger.error("Envoy ended by itself; starting it again")
        self._due.put_off("envoy", self._restart_s)
        self._restart_s = min(2 * self._restart_s, LONGEST_RESTART_S)
        start_envoy(self.gateway)

    def _end_hanging(self) -> None:
        try:
            self.gateway.admin.is_live()
            self._hangs = 0
        except Hangs:
            self._hangs += 1
            if self._hangs < HANGS:
                return
            logger.error("Envoy answered nothing %d times in a row; ending it", self._hangs)
            end_hanging(self.gateway)
            self._hangs = 0

    def _follow_certificate(self) -> None:
        if put_certificate(self.gateway):
            logger.info("the certificate is new")

    def _follow(self) -> None:
        tokens = _stamps(node.token_file for node in self.gateway.nodes())
        if tokens == self._tokens and not self._due.is_due("nodes", FOLLOW_S):
            return
        for change in sync(self.gateway, self._notices, self._settled):
            logger.info("%s", change)
        self._tokens = tokens

    def _try(self, task: str, act: Callable[[], object]) -> None:
        try:
            act()
        except (TsctlError, OSError) as error:
            self._notices.trouble(task, str(error))
        except Exception as error:  # noqa: BLE001  # whatever it is, it must not end the process that restarts Envoy
            self._notices.trouble(task, f"{type(error).__name__}: {error}", error)
        else:
            self._notices.over(task)


def rotate(gateway: Gateway, largest: int = LOG_BYTES, kept: int = LOGS_KEPT) -> bool:
    """Rotate the access log where it has grown too large; True if it had. Envoy's messages are kept short as well.

    Envoy writes into the renamed file until it opens the new one, so no line is lost.
    """
    keep_short(gateway.files.envoy_log, MESSAGES_BYTES)
    log = gateway.files.access_log
    is_large = log.is_file() and log.stat().st_size >= largest
    if is_large:
        access_log.rotate(log, kept)
    if is_large or not log.is_file():  # it is missing where Envoy did not answer the last time
        gateway.admin.reopen_logs()
    return is_large


def run(gateway: Gateway, log: logging.Handler | None = None) -> None:
    """Supervise the gateway until SIGTERM or SIGINT; actions and failures go to the log, or to standard error."""
    handlers = [log or logging.StreamHandler(sys.stderr)]
    logging.basicConfig(handlers=handlers, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    record_process(gateway.files.supervisor_record, os.getpid())
    supervisor = Supervisor(gateway)
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, frame: signals.append(received))
    followed, ended = follower.open_follower(gateway.project) if gateway.name else None, threading.Event()
    following = (
        threading.Thread(target=follower.run, args=(followed, ended), daemon=True) if followed is not None else None
    )
    try:
        if following is not None:
            following.start()
        while not signals:
            supervisor.tick()
            time.sleep(TICK_S)
    finally:
        ended.set()
        gateway.files.supervisor_record.unlink(missing_ok=True)


def _stamps(paths: Iterable[Path | None]) -> _Stamps:
    """The time of each file's last change: a node that starts anew writes other tokens."""
    stamps = []
    for path in paths:
        with suppress(FileNotFoundError):
            stamps += [(str(path), path.stat().st_mtime_ns)] if path is not None else []
    return tuple(stamps)


def main() -> None:
    """Supervise the gateway of the project that TSCTL_PROJECT names."""
    project = find_project()
    gateway = open_local(project, read_deployment(project.deployment))
    run(gateway, RotatingFileHandler(gateway.files.supervisor_log, maxBytes=MESSAGES_BYTES, backupCount=1))


if __name__ == "__main__":
    main()

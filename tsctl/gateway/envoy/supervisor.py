"""The process beside Envoy that does what Envoy cannot: start it again, rotate its log, follow the nodes.

Runs as `python -m tsctl.gateway.envoy.supervisor`, or in `tsctl gateway start --foreground`. No request passes it, and
Envoy outlives it.
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
from tsctl.gateway.change import sync
from tsctl.gateway.envoy.process import envoy_record, keeper_record, launch, remember, running
from tsctl.gateway.state import Gateway, open_gateway

logger = logging.getLogger("tsctl.gateway.envoy.supervisor")

TICK_S = 0.25
#: How often the nodes are asked what they serve, and the log's size is looked at.
FOLLOW_S = 2.0
ROTATE_S = 10.0
#: An access log of this size is renamed, and this many of them are kept.
LOG_BYTES = 64 << 20
LOGS_KEPT = 5
#: Seconds until Envoy is started again after it ended, doubled each time up to the last.
AGAIN_S, LONGEST_AGAIN_S = 0.5, 30.0


@dataclass
class Keeper:
    """What is kept in mind between two ticks.

    Args:
        clock: monotonic seconds.
    """

    gateway: Gateway
    clock: Callable[[], float] = time.monotonic
    _due: dict[str, float] = field(default_factory=dict)
    _tokens: tuple[tuple[str, int], ...] | None = None
    _deployment: tuple[tuple[str, int], ...] | None = None
    _again_s: float = AGAIN_S
    _last_error: str = ""

    def tick(self) -> None:
        """Do what is due; what fails is logged, and tried again when it is due next."""
        deployment = _stamps([self.gateway.project.deployment])
        if deployment != self._deployment and self._try(self._read_deployment):
            self._deployment = deployment
        if self._is_due("envoy", TICK_S):
            self._try(self._keep_envoy)
        tokens = _stamps(node.key_file for node in self.gateway.nodes())
        if (tokens != self._tokens or self._is_due("nodes", FOLLOW_S)) and self._try(self._follow):
            self._tokens = tokens
        if self._is_due("logs", ROTATE_S):
            self._try(self._rotate)

    def _read_deployment(self) -> None:
        project = self.gateway.project
        self.gateway = open_gateway(project, read_deployment(project.deployment))

    def _keep_envoy(self) -> None:
        if running(envoy_record(self.gateway)) is not None:
            self._again_s = AGAIN_S
            return
        logger.error("Envoy ended by itself, and is started again")
        self._due["envoy"] = self.clock() + self._again_s
        self._again_s = min(2 * self._again_s, LONGEST_AGAIN_S)
        launch(self.gateway)

    def _follow(self) -> None:
        for change in sync(self.gateway):
            logger.info("%s", change)

    def _rotate(self) -> None:
        if rotate(self.gateway):
            logger.info("rotated the access log")

    def _is_due(self, what: str, every_s: float) -> bool:
        now = self.clock()
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + every_s
        return True

    def _try(self, act: Callable[[], None]) -> bool:
        try:
            act()
        except (TsctlError, OSError) as error:
            told = f"{error}"
            if told != self._last_error:  # once, and not at every tick
                logger.error("%s", told)
            self._last_error = told
            return False
        return True


def rotate(gateway: Gateway, largest: int = LOG_BYTES, kept: int = LOGS_KEPT) -> bool:
    """An access log that has grown too large is renamed, and the oldest one removed; True if it was.

    Envoy writes on into the renamed file until it is told, so no line is lost.
    """
    log = gateway.places.access_log
    if not log.is_file() or log.stat().st_size < largest:
        return False
    access_log.rotate(log, kept)
    gateway.admin.reopen_logs()
    return True


def run(gateway: Gateway) -> None:
    """This process is the gateway's keeper until SIGTERM or SIGINT, and says on standard error what it does."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    remember(keeper_record(gateway), os.getpid())
    keeper = Keeper(gateway)
    ending = False

    def end(number: int, frame: object) -> None:
        nonlocal ending
        ending = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        while not ending:
            keeper.tick()
            time.sleep(TICK_S)
    finally:
        keeper_record(gateway).unlink(missing_ok=True)


def _stamps(paths: Iterable[Path | None]) -> tuple[tuple[str, int], ...]:
    """When each file was written last: a node that starts anew writes other tokens."""
    found = []
    for path in paths:
        if path is not None and path.is_file():
            found.append((str(path), path.stat().st_mtime_ns))
    return tuple(found)


def main() -> None:
    """Keep the gateway of the project that TSCTL_PROJECT names."""
    project = find_project()
    run(open_gateway(project, read_deployment(project.deployment)))


if __name__ == "__main__":
    main()

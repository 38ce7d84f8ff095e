"""The process beside tritonserver that replaces dead workers: Triton would answer 500 for them for ever.

Runs as `python -m tsctl.nodes.triton.supervisor FOLDER ADDRESS COMMAND...`. It starts the command, which ends with it
however it ends, and ends with its status. SIGTERM goes on to tritonserver, which answers the requests that it has.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tsctl.errors import ConflictError, TsctlError
from tsctl.host.files import keep_short, open_log
from tsctl.host.locks import exclusive
from tsctl.host.process import end_child
from tsctl.host.wait import wait_until
from tsctl.nodes.triton.client import READY, Client
from tsctl.nodes.triton.process import DRAIN_S, Paths
from tsctl.nodes.triton.repository import Repository, Served, with_workers
from tsctl.nodes.triton.workers import live_workers

logger = logging.getLogger("tsctl.nodes.triton.supervisor")

TICK_S = 0.5
#: A worker counts as dead when so many looks in a row find it missing: Triton may be replacing it itself.
MISSED = 2
#: Delay before workers are started again after they did not load, doubled each time up to the longest.
PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
READ_TIMEOUT_S = 10.0
#: Of the log of Triton and its workers; one older file is kept.
LOG_BYTES = 64 << 20
#: Seconds that tritonserver has to end when its workers have ended.
END_S = 2.0
_PR_SET_PDEATHSIG = 1


@dataclass
class Supervisor:
    """The supervisor's state between two looks at the workers."""

    paths: Paths
    client: Client
    _missed: dict[str, int] = field(default_factory=dict)
    _pauses: dict[str, tuple[float, float]] = field(default_factory=dict)  # until when, and how long the next one is

    def tick(self) -> None:
        """Replace the dead workers of every version that is loaded. A failure is logged, and tried again later."""
        keep_short(self.paths.log, LOG_BYTES)
        repository = Repository(self.paths.repository)
        live = self.live()
        for served in repository.served():
            if not _dead(served, live):
                self._missed.pop(served.name, None)
                continue
            self._missed[served.name] = self._missed.get(served.name, 0) + 1
            until, _ = self._pauses.get(served.name, (0.0, PAUSE_S))
            if self._missed[served.name] >= MISSED and time.monotonic() >= until:
                self._replace(repository, served)

    def live(self) -> Mapping[str, Mapping[int, int]]:
        """Pids of the workers that live, by the name of Triton's model and their number."""
        return live_workers(os.getpid(), self.paths.repository)

    def unload_all(self) -> None:
        """Begin to unload every model."""
        for served in Repository(self.paths.repository).served():
            try:
                self.client.unload(served.name)
            except TsctlError as error:
                logger.error("%s %s: %s", *served.key, error.message)

    def _replace(self, repository: Repository, served: Served) -> None:
        lock = self.paths.folder / "locks" / f"{served.model}.lock"
        try:
            with exclusive(lock, f"model {served.model}"):
                now = repository.find(*served.key)
                live = self.live()
                if now is None or not _dead(now, live) or self.client.states().get(now.name) != READY:
                    return
                logger.warning("%s %s has lost a worker", *now.key)
                self._load(repository, now, with_workers(now, now.workers, live.get(now.name, {})))
        except ConflictError:
            return  # a tsctl changes the model at this moment
        except (TsctlError, OSError) as error:  # it keeps no other version from being looked at
            logger.error("%s %s: %s", *served.key, _reason(error))

    def _load(self, repository: Repository, before: Served, after: Served) -> None:
        """Load the version with new workers in place of dead ones.

        Raises:
            TsctlError: they do not load.
            OSError: the disk is full, for instance; its files are written at the next try.
        """
        try:
            repository.update(after)
            self.client.load(after.name, after.startup_s + READ_TIMEOUT_S)
        except (TsctlError, OSError) as error:
            _, pause = self._pauses.get(after.name, (0.0, PAUSE_S))
            self._pauses[after.name] = time.monotonic() + pause, min(2 * pause, LONGEST_PAUSE_S)
            repository.update(replace(before, failure=_reason(error)))
            raise
        self._pauses.pop(after.name, None)


def _reason(error: TsctlError | OSError) -> str:
    text = error.message if isinstance(error, TsctlError) else str(error)
    return (text.splitlines() or [type(error).__name__])[0][:500]


def _dead(served: Served, live: Mapping[str, Mapping[int, int]]) -> bool:
    return not set(served.numbers) <= live.get(served.name, {}).keys()


def main(folder: Path, address: str, command: list[str]) -> int:
    """Run the command until it ends, and replace its dead workers; its exit status, or 0 after SIGTERM."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with open_log(Paths(folder).log) as log:  # to its end, so that it can be kept short
        server = subprocess.Popen(  # preexec_fn is safe, because there is one thread
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_end_with_parent
        )
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    supervisor = Supervisor(Paths(folder), Client(address, READ_TIMEOUT_S))
    trouble = ""
    while server.poll() is None:
        if signals:
            _end(server, supervisor)
            return 0
        try:
            supervisor.tick()
            trouble = ""
        except Exception as error:
            if repr(error) != trouble:  # once, or it would fill the log
                logger.exception("a look at the workers failed")
            trouble = repr(error)
        time.sleep(TICK_S)
    return server.returncode


def _end(server: subprocess.Popen[bytes], supervisor: Supervisor) -> None:
    """End tritonserver; its workers answer what they have first.

    Every model is unloaded before: tritonserver itself would wait to the end of its own time where a worker has died.
    """
    supervisor.unload_all()
    wait_until(lambda: server.poll() is not None or not supervisor.live(), DRAIN_S)
    end_child(server, END_S)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))

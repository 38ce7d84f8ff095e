"""What a person sees while `.venv` is made; standard library only, and changes nothing."""

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Without a terminal, a step that is still busy says so at most this often.
PLAIN_INTERVAL_S = 5.0

_NAME = re.compile(r"\s*(?:Collecting|Requirement already satisfied:) ([A-Za-z0-9._-]+)")
_FILE = re.compile(r"\s*(Processing|Downloading|Using cached) (?:\S*/)?([^/\s]+?)-\d\S*( \(.*\))?$")
_QUEUE = re.compile(r"Installing collected packages: (.+)")


def normalized(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


class Display:
    """One live line on a terminal, plain lines anywhere else; on standard error."""

    def __init__(self) -> None:
        self.is_live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        """Runs the block as a step; the function it gets shows what is happening now, and is cheap to call."""
        begin = last_plain = time.monotonic()

        def note(text: str) -> None:
            nonlocal last_plain
            now = time.monotonic()
            if self.is_live:
                columns = shutil.get_terminal_size().columns
                line = f"{title:<34} {now - begin:.0f} s  {text}"
                self._write(f"\r\033[2K{line[: columns - 1]}")
            elif now - last_plain >= PLAIN_INTERVAL_S:
                last_plain = now
                self._write(f"  {title}: {text or 'busy'}, {now - begin:.0f} s\n")

        if not self.is_live:
            self._write(f"{title} ...\n")
        try:
            note("")
            yield note
        except BaseException:
            self._close(title, "failed", begin)
            raise
        self._close(title, "done", begin)

    def _close(self, title: str, result: str, begin: float) -> None:
        start = "\r\033[2K" if self.is_live else ""
        self._write(f"{start}{title:<34} {result}  {time.monotonic() - begin:.1f} s\n")

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


class PipProgress:
    """What pip is doing, read from its output while it collects and from `.venv` while it installs."""

    def __init__(self, total: int, installed: Callable[[], set[str]]) -> None:
        self._total = total
        self._installed = installed
        self._before = installed()
        self._collected: set[str] = set()
        self._queue: list[str] = []
        self._now = "starting"

    def read(self, line: str) -> None:
        """Take in one line of pip's output."""
        name, file, queue = _NAME.match(line), _FILE.match(line), _QUEUE.match(line)
        if name:
            self._collect("collecting", name[1])
        elif file:
            self._collect(file[1].lower(), file[2], file[3] or "")
        elif queue:
            self._queue = [entry.strip() for entry in queue[1].split(",")]

    def text(self) -> str:
        """How many of how many, verb and package; what may be cut off on a narrow terminal comes last."""
        if not self._queue:
            return f"{len(self._collected)} of {self._total}, {self._now}"
        new = self._installed() - self._before
        # pip goes through its list in order; a package that was there before in another version is never "new"
        done = max((place for place, name in enumerate(self._queue, 1) if normalized(name) in new), default=0)
        return f"{done} of {len(self._queue)}, installing {self._queue[min(done, len(self._queue) - 1)]}"

    def _collect(self, verb: str, name: str, size: str = "") -> None:
        self._collected.add(normalized(name))
        self._now = f"{verb} {name}{size}"

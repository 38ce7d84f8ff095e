"""Finds the lines of one model, or of one request, in the logs of nodes, whatever the engine; rotated files too.

A line says whose it is by TorchServe's name of the worker (`W-9000-digits_1.0-stderr`), or by the model and version
before its text, as our own servers write it. One without a time of its own belongs to the line before it.
"""

from __future__ import annotations

import gzip
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

from handlers.log_lines import PLAIN
from tsctl.host.files import lines_from

#: The times of TorchServe and of Python's logging, which sort as text once the T is a space.
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d[,.]\d+) ")
#: What stands between the time and the text: TorchServe's `[WARN ] W-9000-digits_1.0-stderr - `, or a level.
_WORKER = re.compile(r"\[\w+ *\] W-\d+-(?P<name>\S+?)(?:-std(?:out|err))? ")
_LEVEL = re.compile(r"(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) ")
#: Of Triton's own lines, which have no year.
_TRITON = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ ")
_TAG = re.compile(r"\[request (\S+)\] ")
#: Seconds between two looks for new lines.
FOLLOW_S = 0.5


@dataclass(frozen=True)
class LogLine:
    """One line of a node's log."""

    node: str
    path: Path
    time: str  # of the line, or of the one before it that has one; empty where none has
    text: str


@dataclass(frozen=True)
class Wanted:
    """Which lines are asked for; None: of every model, version or request.

    Args:
        others: all known models, because `a_b_1.0` is a version of `a_b` and not of `a` where both are known.
    """

    model: str | None = None
    version: str | None = None
    request_id: str | None = None
    others: Sequence[str] = ()

    def of_model(self, text: str) -> bool | None:
        """Whether a line is of the model; None where it does not say whose it is."""
        time_of = _TIME.match(text)
        rest = text[time_of.end() :] if time_of else text
        if worker := _WORKER.match(rest):
            return self._is_named(worker["name"], "_", is_whole=True)
        level = _LEVEL.match(rest)
        rest = rest[level.end() :] if level else rest
        if self._is_named(rest, " ", is_whole=False):
            return True
        return False if time_of or self.begins(text) else None

    def of_request(self, text: str) -> bool:
        """Whether the line names the request, in its tag or in its text."""
        if self.request_id is None:
            return True
        tag = _TAG.search(text)
        if tag is not None and quote(self.request_id, safe=PLAIN) in tag[1].split(","):
            return True
        return re.search(rf"(?<![\w-]){re.escape(self.request_id)}(?![\w-])", text) is not None

    def begins(self, text: str) -> bool:
        """Whether a line without a time begins an entry, and does not go on with the one before it."""
        is_named = text.startswith(tuple(f"{model} " for model in self.others))
        return is_named or _TAG.search(text) is not None or _TRITON.match(text) is not None

    def _is_named(self, text: str, between: str, is_whole: bool) -> bool:
        if self.model is None:
            return is_whole  # every worker's line; another one says nothing
        if any(text.startswith(f"{other}{between}") and len(other) > len(self.model) for other in self.others):
            return False
        version = re.escape(self.version) if self.version is not None else r"[A-Za-z0-9_.]+?"
        end = r"$" if is_whole else r"(?=[: ]|$)"
        return re.match(rf"{re.escape(self.model)}{re.escape(between)}{version}{end}", text) is not None


def files_of(log: Path) -> list[Path]:
    """A log with the files into which it was rotated, the oldest first."""
    stem = log.name.removesuffix(".log")
    older = {*log.parent.glob(f"{stem}.*.log.gz"), *log.parent.glob(f"{log.name}.[0-9]*")}
    return [*sorted(older, key=lambda path: path.stat().st_mtime), *([log] if log.is_file() else [])]


def find_lines(
    node: str, logs: Iterable[Path], wanted: Wanted, most: int | None, warn: Callable[[str], None]
) -> list[LogLine]:
    """The last lines of a node that are wanted, by their time; all of them where `most` is None."""
    found: list[LogLine] = []
    for log in logs:
        reader = Reader(node, log, wanted)
        kept: deque[LogLine] = deque(maxlen=most)
        for path in files_of(log):
            try:
                kept.extend(reader.take(_content(path), path))
            except (OSError, EOFError) as error:
                warn(f"{path} cannot be read: {error}")
        found += kept
    found.sort(key=lambda line: line.time)
    return found if most is None else found[-most:]


def _content(path: Path) -> Iterable[str]:
    if path.suffix != ".gz":
        return lines_from(path, 0)
    with gzip.open(path, "rb") as file:
        return file.read().decode("utf-8", "replace").splitlines()


class Reader:
    """Chooses the wanted ones of a log's lines, which come in order."""

    def __init__(self, node: str, log: Path, wanted: Wanted) -> None:
        self._node, self._log, self._wanted = node, log, wanted
        self._time = ""
        self._is_ours = wanted.model is None  # the present entry, which may have several lines
        self._is_request = False

    def take(self, lines: Iterable[str], path: Path | None = None) -> Iterator[LogLine]:
        """Those of the lines that are wanted; `path` where they are from a rotated file."""
        for text in lines:
            time_of = _TIME.match(text)
            if time_of:
                self._time = " ".join(time_of.groups())
            of_model = self._wanted.of_model(text) if self._wanted.model is not None else True
            if of_model is not None:
                self._is_ours = of_model
            is_named = self._wanted.of_request(text)
            goes_on = time_of is None and not self._wanted.begins(text)
            self._is_request = is_named or (goes_on and self._is_request)
            if self._is_ours and self._is_request and text:
                yield LogLine(self._node, path or self._log, self._time, text)


class Follower:
    """Reads on in a log from its present end, also over a rotation."""

    def __init__(self, node: str, log: Path, wanted: Wanted) -> None:
        self._log, self._reader = log, Reader(node, log, wanted)
        self._file: IO[bytes] | None = self._opened()
        if self._file is not None:
            self._file.seek(0, 2)
        self._held = b""

    def new_lines(self) -> Iterator[LogLine]:
        """The wanted lines since the last call; a line that is not complete comes later."""
        yield from self._rest()
        if self._was_rotated():
            if self._file is not None:
                self._file.close()
            self._file, self._held = self._opened(), b""
            yield from self._rest()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _opened(self) -> IO[bytes] | None:
        try:
            return self._log.open("rb")
        except FileNotFoundError:
            return None

    def _rest(self) -> Iterator[LogLine]:
        if self._file is None:
            return
        *lines, self._held = (self._held + self._file.read()).split(b"\n")
        yield from self._reader.take(line.decode("utf-8", "replace") for line in lines)

    def _was_rotated(self) -> bool:
        try:
            now = self._log.stat()
        except FileNotFoundError:
            return False
        if self._file is None:
            return True
        mine = os.fstat(self._file.fileno())
        return mine.st_ino != now.st_ino or now.st_size < self._file.tell()


def follow(followers: Sequence[Follower], pause: Callable[[float], None] = time.sleep) -> Iterator[LogLine]:
    """New lines of all logs as they come, for ever."""
    try:
        while True:
            for follower in followers:
                yield from follower.new_lines()
            pause(FOLLOW_S)
    finally:
        for follower in followers:
            follower.close()

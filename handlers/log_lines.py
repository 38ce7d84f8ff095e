"""Names the request in every line that a worker writes while it answers it; standard library only.

`[request ID] ` stands before each line, also before those of a traceback and those that an author prints, and `tsctl
logs` finds it there. A line of a batch names all of its requests.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol
from urllib.parse import quote

#: A line names so many requests of a batch; of a larger one, the first.
MOST_IDS = 64
#: TorchServe reads metrics from lines that begin so.
_METRICS = "[METRICS]"
#: Characters of an id that stand in a line as they are; others as %XX, so that an id ends where it seems to.
PLAIN = ":/@+=~._-"


class Identified(Protocol):
    """A request that may have an id."""

    @property
    def request_id(self) -> str | None:
        """The client's id, or the server's."""


_answered: ContextVar[Sequence[Identified]] = ContextVar("answered", default=())


@contextmanager
def about(requests: Sequence[Identified]) -> Iterator[None]:
    """In the block, lines of this thread belong to these requests."""
    token = _answered.set(requests)
    try:
        yield
    finally:
        _answered.reset(token)


def tag(ids: Iterable[str | None]) -> str:
    """What stands before a line of these requests: `[request ID,ID] `; empty where none has an id."""
    named = list(dict.fromkeys(quote(each, safe=PLAIN) for each in ids if each))[:MOST_IDS]
    return f"[request {','.join(named)}] " if named else ""


def log_error(logger: logging.Logger, ids: Iterable[str | None], message: str, error: BaseException) -> None:
    """Log an error with its traceback, and the ids in each line; for processes without `name_lines`."""
    before = tag(ids)
    for line in (message, *"".join(traceback.format_exception(error)).splitlines()):
        logger.error("%s%s", before, line)


def name_lines(name: str = "") -> None:
    """From now on, lines that this process writes to its standard streams name their requests.

    Args:
        name: stands before every line, as in `digits 1.0: `; empty where the server knows whose line it is.
    """
    for stream in ("stdout", "stderr"):
        before = getattr(sys, stream)
        if isinstance(before, NamedLines):  # another worker in this process
            continue
        setattr(sys, stream, NamedLines(before, name))
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is before:
                handler.setStream(getattr(sys, stream))


class NamedLines:
    """A text stream that writes the tag of the present requests before each line."""

    def __init__(self, stream: Any, name: str) -> None:
        self.inner = stream
        self._name = f"{name}: " if name else ""
        self._is_inside = False  # a line
        self._turn = threading.RLock()

    def write(self, text: str) -> int:
        requests = _answered.get()
        with self._turn:
            before = self._name + (tag(request.request_id for request in requests) if requests else "")
            if before and text and not text.startswith(_METRICS):
                lines = text.split("\n")
                named = [line and before + line for line in lines]
                named[0] = lines[0] if self._is_inside else named[0]
                self.inner.write("\n".join(named))
            else:
                self.inner.write(text)
            if text:
                self._is_inside = not text.endswith("\n")
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

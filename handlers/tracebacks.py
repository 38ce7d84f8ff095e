"""Where in the author's code an error comes from. Pure."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


def where(error: BaseException) -> str:
    """The error and the last line of the author's code in it, such as `KeyError: 'speces' (handler.py, line 25)`."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_author_s(frame.filename)] or frames
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{place}"


def own_traceback(error: BaseException) -> str:
    """The traceback from the first line of the author's code on; whole where none of that code is in it."""
    told = traceback.TracebackException.from_exception(error)
    part: traceback.TracebackException | None = told
    while part is not None:
        first = next((place for place, frame in enumerate(part.stack) if _is_author_s(frame.filename)), 0)
        part.stack = traceback.StackSummary.from_list(part.stack[first:])
        part = part.__cause__ or (None if part.__suppress_context__ else part.__context__)
    return "".join(told.format()).rstrip()


def _is_author_s(filename: str) -> bool:
    if filename.startswith("<frozen") or Path(filename).resolve().is_relative_to(_PACKAGE):
        return False
    return not filename.startswith(_LIBRARIES)

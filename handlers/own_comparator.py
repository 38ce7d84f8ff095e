"""A handler's own comparison of two answers, where archive.yaml says `compare: {by: handler}` (docs/shadow.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from handlers.errors import LoadError


class ComparesAnswers:
    """What a handler overrides to compare answers in its own way."""

    def compare(self, stable: Any, other: Any) -> float:
        """How far an answer is from stable's answer to the same request: 0 for the same, in a unit of your own.

        Both are JSON values, as clients got them. It is called on a handler that was not loaded, by `tsctl` and never
        by a worker that serves; so it must need `settings` and files of the archive only, and no model.
        """
        raise NotImplementedError


def require_comparator(handler: ComparesAnswers, golden: Sequence[Any] = ()) -> None:
    """The handler compares answers, and finds that each of these is as itself.

    Raises:
        LoadError: it does not.
    """
    if type(handler).compare is ComparesAnswers.compare:
        raise LoadError("archive.yaml says `compare: {by: handler}`, and the handler has no method `compare`")
    for answer in golden:
        if own := distance(handler, answer, answer):
            raise LoadError(f"the handler's `compare` finds a golden answer {own:g} from itself; it must return 0")


def distance(handler: ComparesAnswers, stable: Any, other: Any) -> float:
    """What the handler's `compare` returned.

    Raises:
        LoadError: it failed, or returned no number from 0 on.
    """
    try:
        value = handler.compare(stable, other)
    except Exception as error:
        raise LoadError(f"the handler's `compare` failed: {type(error).__name__}: {error}") from error
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
        raise LoadError(f"the handler's `compare` returned {value!r:.80}; it must return a number, 0 or more")
    return float(value)

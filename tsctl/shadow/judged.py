"""Compares two answers by the distance that the handler's own `compare` found. Pure.

The handler is asked before anything is compared (`tsctl.archive.asked`), for the pairs that `pairs_to_judge` names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tsctl.shadow.comparators import AGREES, Comparison


@dataclass(frozen=True)
class Judged:
    """The handler's own comparison; the distance is the handler's.

    Args:
        distances: of all pairs that are not equal, by `pair_key`.
        most: the distance at which two answers still agree.
    """

    distances: Mapping[str, float]
    most: float = 0.0

    def __call__(self, stable: Any, other: Any) -> Comparison:
        if stable == other:
            return AGREES
        found = self.distances[pair_key(stable, other)]
        if found <= self.most:
            return Comparison(False, found)
        return Comparison(True, found, f"a distance of {found:g}, at most {self.most:g} is allowed")


def pair_key(stable: Any, other: Any) -> str:
    """The same for equal pairs of JSON values alone."""
    return json.dumps([stable, other], sort_keys=True, separators=(",", ":"))


def pairs_to_judge(pairs: Iterable[tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """The pairs whose answers differ, each once, by `pair_key`."""
    return {pair_key(*pair): pair for pair in pairs if pair[0] != pair[1]}

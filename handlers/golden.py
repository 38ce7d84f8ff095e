"""Compares an answer with the golden one of the archive: same shape, same words, numbers within the tolerance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tolerance:
    """How far a number may lie from the golden one: |answer - golden| <= absolute + relative * |golden|."""

    absolute: float = 1e-4
    relative: float = 0.0

    def holds(self, answer: float, golden: float) -> bool:
        if not math.isfinite(answer):
            return False
        return abs(answer - golden) <= self.absolute + self.relative * abs(golden)


def difference(answer: Any, golden: Any, tolerance: Tolerance, where: str = "") -> str | None:
    """The first place where the two differ, as a sentence; None where they agree.

    Integers, strings, booleans and null must be equal: only a golden number with a fraction has a tolerance.
    """
    place = where or "the answer"
    if isinstance(golden, dict):
        if not isinstance(answer, dict) or answer.keys() != golden.keys():
            found = sorted(answer) if isinstance(answer, dict) else answer
            return f"{place}: expected the fields {sorted(golden)}, got {_shown(found)}"
        pairs = [(f"{where}.{key}" if where else key, answer[key], golden[key]) for key in golden]
    elif isinstance(golden, list):
        if not isinstance(answer, list) or len(answer) != len(golden):
            found = f"{len(answer)} entries" if isinstance(answer, list) else _shown(answer)
            return f"{place}: expected {len(golden)} entries, got {found}"
        pairs = [(f"{where}[{i}]", a, g) for i, (a, g) in enumerate(zip(answer, golden, strict=True))]
    else:
        return None if _same(answer, golden, tolerance) else f"{place}: expected {golden!r}, got {_shown(answer)}"
    return next((found for place, a, g in pairs if (found := difference(a, g, tolerance, place))), None)


def _same(answer: Any, golden: Any, tolerance: Tolerance) -> bool:
    if isinstance(golden, float) and isinstance(answer, int | float) and not isinstance(answer, bool):
        return tolerance.holds(float(answer), golden)
    return type(answer) is type(golden) and answer == golden


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

"""Decides on many hypotheses at once, so that looking at more of them finds no more by chance. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import log


def benjamini_hochberg(p_values: Sequence[float], share: float) -> list[bool]:
    """Which hypotheses are rejected so that at most `share` of the rejections are expected to be wrong.

    Holds for p-values that are independent or positively dependent. Source: Benjamini and Hochberg, "Controlling the
    false discovery rate", JRSS B 1995; Benjamini and Yekutieli, Annals of Statistics 2001.

    Raises:
        ValueError: a p-value or the share is out of its range.
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values must lie between 0 and 1, found {[p for p in p_values if not 0 <= p <= 1]}")
    return _step_up([-log(p) if p else float("inf") for p in p_values], share)


def e_benjamini_hochberg(log_e: Sequence[float], share: float) -> list[bool]:
    """As `benjamini_hochberg`, for the logarithms of e-values, and however these depend on each other.

    With e-processes it may be asked at any time. Source: Wang and Ramdas, "False discovery rate control with e-values",
    JRSS B 2022.
    """
    return _step_up(log_e, share)


def _step_up(evidence: Sequence[float], share: float) -> list[bool]:
    """Rejects the k with most evidence, for the largest k whose k-th evidence is at least log(all / (k * share))."""
    if not 0 < share < 1:
        raise ValueError(f"the share must lie between 0 and 1, found {share}")
    order = sorted(range(len(evidence)), key=lambda number: -evidence[number])
    rejected = 0
    for rank, number in enumerate(order, start=1):
        if evidence[number] >= log(len(evidence) / (rank * share)):
            rejected = rank
    kept = set(order[:rejected])
    return [number in kept for number in range(len(evidence))]

"""The changes that a detector bets on: shifts and spreads of a number, shares of single bins. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import erf, sqrt
from statistics import NormalDist

from tsctl.drift.reference import CategoryReference, NumberReference, Reference

#: Shifts of a number in standard deviations, each both ways: each is half of the next. Of a number that is not normal,
#: its normal scores are shifted.
SHIFTS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
#: The standard deviation becomes so many times as large.
SPREADS = (0.5, 0.7, 1.4, 2.0)
#: So large a share of the values moves into one bin.
SHARES = (0.02, 0.1, 0.5)
#: One category becomes so many times as frequent, against the others.
ODDS = (0.25, 0.5)
#: Parts of the bet on shifts and on spreads; the rest is on single bins.
SHIFT_PART, SPREAD_PART = 0.5, 0.125


@dataclass(frozen=True)
class Alternative:
    """One change: the share of each bin is multiplied by its tilt, all are scaled to 1, and a share moves to one bin.

    Args:
        name: of the change, to follow the feature's name.
        part: of the bet; the parts of a detector sum to 1.
        tilt: one number for each bin; empty: 1 for each.
        bin: that gets more; -1 where none does.
        share: that moves there.
    """

    name: str
    part: float
    tilt: tuple[float, ...] = ()
    bin: int = -1
    share: float = 0.0

    def shares(self, weights: Sequence[float]) -> list[float]:
        """The share of each bin after the change; before it, shares are proportional to the weights."""
        tilts = self.tilt or (1.0,) * len(weights)
        tilted = [weight * tilt for weight, tilt in zip(weights, tilts, strict=True)]
        scale = (1 - self.share) / sum(tilted)
        shares = [value * scale for value in tilted]
        if self.bin >= 0:
            shares[self.bin] += self.share
        return shares


def alternatives(reference: Reference, weights: Sequence[float]) -> tuple[Alternative, ...]:
    """The changes of a feature to bet on.

    Args:
        weights: of the bins in the reference (detector.py).
    """
    changes = _moves(weights) if isinstance(reference, NumberReference) else []
    left = 1 - sum(change.part for change in changes)
    singles = [
        Alternative(f"{name}: {share:.0%} more", 0, bin=place, share=share)
        for place, name in enumerate(reference.names)
        for share in SHARES
    ]
    if isinstance(reference, CategoryReference):
        singles += [
            Alternative(f"{name}: {odds:g} times as frequent", 0, _tilted(len(weights), place, odds))
            for place, name in enumerate(reference.names)
            for odds in ODDS
        ]
    return (*changes, *(replace(change, part=left / len(singles)) for change in singles))


def _tilted(bins: int, place: int, odds: float) -> tuple[float, ...]:
    return tuple(odds if number == place else 1.0 for number in range(bins))


def _moves(weights: Sequence[float]) -> list[Alternative]:
    """Shifts and spreads of a number's normal scores; its first bin, the missing values, keeps its share."""
    inner = weights[1:]
    total = sum(inner)
    edges, below = [-9.0], 0.0
    for weight in inner[:-1]:
        below += weight / total
        edges.append(NormalDist().inv_cdf(min(max(below, 1e-15), 1 - 1e-15)))
    edges.append(9.0)
    shares = _between(edges, 0.0, 1.0)

    def moved(name: str, part: float, shift: float, spread: float) -> Alternative:
        tilt = [new / old for new, old in zip(_between(edges, shift, spread), shares, strict=True)]
        return Alternative(name, part, (1.0, *tilt))

    shifts = [sign * size for size in SHIFTS for sign in (1, -1)]
    return [
        *(moved(f"shifted by {shift:+g} sd", SHIFT_PART / len(shifts), shift, 1.0) for shift in shifts),
        *(moved(f"spread {spread:g} times", SPREAD_PART / len(SPREADS), 0.0, spread) for spread in SPREADS),
    ]


def _between(edges: Sequence[float], shift: float, spread: float) -> list[float]:
    """The share of a normal distribution between each two edges; never 0, so that no value is impossible."""
    below = [(1 + erf((edge - shift) / spread / sqrt(2))) / 2 for edge in edges]
    below[0], below[-1] = 0.0, 1.0
    return [max(high - low, 1e-12) for low, high in pairwise(below)]

"""Simulates thousands of drift detectors, each with a reference of its own, item by item.

Invariant: the statistic equals that of `tsctl.drift.detector`, item by item.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsctl.drift.alternatives import SHARES
from tsctl.drift.detector import Detector, detector
from tsctl.drift.reference import Reference

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Draws so many values, from a random generator.
Source = Callable[[np.random.Generator, int], NDArray[np.generic]]
#: Makes a reference of values.
Maker = Callable[[list[Any]], Reference]

#: Runs that share a seed; their statistics fit into a processor's cache.
TOGETHER = 250
#: Items that are drawn at once.
BLOCK = 256
#: Statistics are written in full before what they are multiplied by is smaller than this.
SMALLEST_SCALE = 1e-90


@dataclass(frozen=True)
class Stream:
    """What a detector sees.

    Args:
        reference: draws the reference values; each run has its own.
        live: draws the values since; the same source where nothing has changed.
        make: the reference of a feature.
        values: of the reference.
        features: under one budget, each with its own reference and values.
    """

    reference: Source
    live: Source
    make: Maker
    values: int
    features: int = 1


def alarms(stream: Stream, budget: int, most: int, runs: int, seed: int, is_shared: bool = False) -> Ints:
    """Items until the alarm of each run; 0 where there was none among `most` items.

    Args:
        budget: expected items between false alarms.
        is_shared: all runs have the same reference.
    """
    sizes = [min(TOGETHER, runs - done) for done in range(0, runs, TOGETHER)]
    shared, *seeds = np.random.SeedSequence(seed).spawn(len(sizes) + 1)
    kept = _references(stream, np.random.default_rng(shared), stream.features) if is_shared else None

    def together(size: int, part: np.random.SeedSequence) -> Ints:
        chance = np.random.default_rng(part)
        references = kept * size if kept else _references(stream, chance, size * stream.features)
        return _alarms_together(stream, references, budget, most, chance)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return np.concatenate(list(pool.map(together, sizes, seeds)))


def _references(stream: Stream, chance: np.random.Generator, number: int) -> list[Reference]:
    return [stream.make(stream.reference(chance, stream.values).tolist()) for _ in range(number)]


class Statistics:
    """The statistics of many detectors: those of changes with a tilt, and those of a share that moves to one bin.

    Args:
        detectors: before the first value, all of the same kind; their numbers of bins may differ.
        time: of an item, as a share of the budget.
    """

    def __init__(self, detectors: Sequence[Detector], time: float) -> None:
        self.time, self.rows = time, np.arange(len(detectors))
        bins = max(len(each.weights) for each in detectors)
        tilted = [[change for change in each.changes if change.tilt] for each in detectors]
        moves = max(map(len, tilted))
        self.weights, self.tilts = np.zeros((len(detectors), bins)), np.ones((len(detectors), bins, moves))
        self.tilt_parts = np.zeros((len(detectors), moves))
        self.share_parts = np.zeros((len(detectors), bins, len(SHARES)))
        for row, each in enumerate(detectors):
            self.weights[row, : len(each.weights)] = each.weights
            for place, change in enumerate(tilted[row]):
                self.tilts[row, : len(each.weights), place] = change.tilt
                self.tilt_parts[row, place] = change.part
            for change in each.changes:
                if not change.tilt:
                    self.share_parts[row, change.bin, SHARES.index(change.share)] = change.part
        self.scales = np.einsum("rb,rbm->rm", self.weights, self.tilts)
        self.totals = self.weights.sum(axis=1)
        self.moved = np.zeros_like(self.tilt_parts)
        self.kept, self.given = 1 - np.array(SHARES), np.array(SHARES)
        # the statistics of shares are scale * shared + offset: an item multiplies those of all bins but one alike
        self.shared, self.scale, self.offset = np.zeros_like(self.share_parts), np.ones_like(self.given), 0 * self.given
        self.shared_sums, self.part_sums = np.zeros_like(self.share_parts[:, 0]), self.share_parts.sum(axis=1)

    def seen(self, places: Ints) -> Floats:
        """After one value of each detector, in the bin of its place; the average over the changes, in budgets."""
        rows = self.rows
        tilt = self.tilts[rows, places]
        self.moved += self.time
        self.moved *= tilt * (self.totals[:, None] / self.scales)
        before = self.scale * self.shared[rows, places] + self.offset
        more = (before + self.time) * self.given * (self.totals / self.weights[rows, places])[:, None]
        self.scale, self.offset = self.scale * self.kept, (self.offset + self.time) * self.kept
        more /= self.scale
        self.shared[rows, places] += more
        self.shared_sums += self.share_parts[rows, places] * more
        self.weights[rows, places] += 1
        self.scales += tilt
        self.totals += 1
        one: Floats = (self.moved * self.tilt_parts).sum(axis=1)
        other: Floats = (self.shared_sums * self.scale + self.part_sums * self.offset).sum(axis=1)
        if self.scale.min() < SMALLEST_SCALE:
            self._rescale()
        return one + other

    def _rescale(self) -> None:
        self.shared *= self.scale
        self.shared += self.offset
        self.scale, self.offset = np.ones_like(self.scale), np.zeros_like(self.offset)
        self.shared_sums = np.einsum("rbs,rbs->rs", self.shared, self.share_parts)

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Only these detectors go on."""
        for name in (
            "weights", "tilts", "tilt_parts", "share_parts", "scales", "totals", "moved", "shared", "shared_sums",
            "part_sums",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name)[kept])
        self.rows = np.arange(int(kept.sum()))


def _alarms_together(
    stream: Stream, references: Sequence[Reference], budget: int, most: int, chance: np.random.Generator
) -> Ints:
    statistics = Statistics([detector(reference) for reference in references], 1 / budget)
    runs = len(references) // stream.features
    ends, left, known = np.zeros(runs, int), np.arange(runs), list(references)
    for start in range(0, most, BLOCK):
        size = min(BLOCK, most - start)
        values = stream.live(chance, len(known) * size).reshape(len(known), size)
        places = np.array([bins_of(each, row) for each, row in zip(known, values, strict=True)])
        is_over = np.zeros(left.size, bool)
        for number in range(size):
            with np.errstate(over="ignore"):  # a run goes on to the end of the block in which its alarm came
                average = statistics.seen(places[:, number]).reshape(left.size, stream.features).mean(axis=1)
            over = (average >= 1) & ~is_over
            ends[left[over]] = start + number + 1
            is_over |= over
        if is_over.any():
            goes_on = np.repeat(~is_over, stream.features)
            statistics.keep(goes_on)
            left, known = left[~is_over], [each for each, kept in zip(known, goes_on, strict=True) if kept]
        if not left.size:
            break
    return ends


def bins_of(reference: Reference, values: NDArray[np.generic]) -> Ints:
    """The bin of each value, as `bin_of` of the reference."""
    if reference.kind == "category" or np.isnan(values.astype(float)).any():
        return np.array([reference.bin_of(value) for value in values.tolist()])
    edges = np.array(reference.edges)
    inner = np.minimum(np.searchsorted(edges, values, side="right"), len(reference.counts))
    return np.where(values > edges[-1], len(reference.counts) + 2, inner + 1)

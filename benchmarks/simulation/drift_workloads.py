"""Simulates how often drift alarms are false, and how soon a change is found.

Seeds are fixed, so that two machines print the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.figures import Figure, Goal, Result
from benchmarks.harness.run import Job, Run
from benchmarks.simulation.drift import Maker, Source, Stream, alarms
from benchmarks.simulation.shadow import pairs_until
from tsctl.drift.reference import category_reference, number_reference
from tsctl.host.progress import Progress

SEED, RUNS = 20_261_127, 10_000
#: Items between false alarms, and the items after which a run without an alarm ends.
BUDGET, LONGEST = 1000, 50_000
#: The same for the delays.
DELAY_BUDGET, DELAY_LONGEST = 100_000, 40_000
#: Values of the references: the digits of scikit-learn, and more.
VALUES = (200, 1797)
DELAY_VALUES = {"delay-small": 1797, "delay-large": 100_000}
CASE_VALUES = 1797
SHIFTS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)

Values = NDArray[Any]


def normal(chance: np.random.Generator, size: int) -> Values:
    return chance.normal(size=size)


def zeros(chance: np.random.Generator, size: int) -> Values:
    return np.where(chance.random(size) < 0.3, 0.0, chance.lognormal(size=size))


def counts(chance: np.random.Generator, size: int) -> Values:
    return chance.poisson(3, size).astype(float)


def classes(chance: np.random.Generator, size: int) -> Values:
    return chance.integers(0, 10, size)


def rare(chance: np.random.Generator, size: int) -> Values:
    """Zipf's law without an end: there is always a category that never came."""
    return np.minimum(chance.zipf(1.5, size), 10**9)


#: Settings where nothing changes, by workload: what is drawn, what becomes of it, and how many features.
UNCHANGED: dict[str, dict[str, tuple[Source, Maker, int]]] = {
    "silent-numbers": {
        "normal": (normal, number_reference, 1),
        "30 % zeros": (zeros, number_reference, 1),
        "Poisson counts": (counts, number_reference, 1),
    },
    "silent-categories": {
        "10 classes": (classes, category_reference, 1),
        "rare categories": (rare, category_reference, 1),
    },
    "silent-features": {"10 normal features": (normal, number_reference, 10)},
}


def moved(change: Callable[[np.random.Generator, Values], Values], source: Source) -> Source:
    return lambda chance, size: change(chance, source(chance, size))


def shifted(by: float) -> Source:
    return lambda chance, size: normal(chance, size) + by


#: The game day's cases: values as they come after the change.
CASES: dict[str, tuple[Source, Source, Maker]] = {
    "centimetres become inches": (
        lambda c, n: c.normal(170, 10, n), lambda c, n: c.normal(170, 10, n) / 2.54, number_reference),
    "a tenth becomes 0": (
        normal, moved(lambda c, v: np.where(c.random(v.size) < 0.1, 0.0, v), normal), number_reference),
    "a tenth is missing": (
        normal, moved(lambda c, v: np.where(c.random(v.size) < 0.1, np.nan, v), normal), number_reference),
    "a camera 20 % darker": (
        lambda c, n: c.beta(5, 5, n), lambda c, n: 0.8 * c.beta(5, 5, n), number_reference),
    "one class of ten twice as frequent": (
        classes, moved(lambda c, v: np.where(c.random(v.size) < 1 / 9, 3, v), classes), category_reference),
    "a new category, 2 %": (
        classes, moved(lambda c, v: np.where(c.random(v.size) < 0.02, 99, v), classes), category_reference),
}  # fmt: skip


def workloads(runs: int = RUNS) -> dict[str, Run]:
    """The simulations, by key, in parts of some minutes; `runs` detectors of each kind."""
    return {
        **{key: partial(_run_silent, key, runs) for key in UNCHANGED},
        **{key: partial(_run_delay, key, runs) for key in DELAY_VALUES},
        "cases": lambda job: cases(runs, job.progress),
    }


def _run_silent(key: str, runs: int, job: Job) -> Result:
    return silent(key, runs, job.progress)


def _run_delay(key: str, runs: int, job: Job) -> Result:
    return delay(key, runs, job.progress)


def silent(key: str, runs: int, progress: Progress) -> Result:
    """The mean number of items until an alarm where nothing changes; a run that has none counts with all its items."""
    figures: list[Figure] = []
    settings = [(name, *kind, values) for name, kind in UNCHANGED[key].items() for values in VALUES]
    for number, (name, source, make, features, values) in enumerate(settings):
        title = f"{name}, reference of {values:,}"
        with progress.step(f"silent: {title}, {runs:,} runs") as step:
            ends = alarms(Stream(source, source, make, values, features), BUDGET, LONGEST, runs, SEED + number)
            mean = float(np.where(ends > 0, ends, LONGEST).mean())
            step.done(f"a false alarm in {mean:,.0f} items")
        figures.append(Figure(f"{title}: items between false alarms", "items", (mean,), Goal(BUDGET)))
        early = 100 * float(((ends > 0) & (ends <= BUDGET / 10)).mean())
        figures.append(Figure(f"{title}: alarms in the first tenth of the budget", "%", (early,)))
    facts = {"runs": runs, "seed": SEED, "budget": BUDGET, "longest": LONGEST}
    return Result(key, "nothing changes", facts, {}, figures)


def delay(key: str, runs: int, progress: Progress) -> Result:
    """Items until a shift of a normal number is found, from the first item on."""
    figures: list[Figure] = []
    values = DELAY_VALUES[key]
    for shift in SHIFTS:
        title = f"shift of {shift:g} sd, reference of {values:,}"
        figures += _delays(title, Stream(normal, shifted(shift), number_reference, values), runs, progress)
    return Result(key, "shifts of a number", _delay_facts(runs), {}, figures)


def cases(runs: int, progress: Progress) -> Result:
    """Items until other changes are found."""
    figures: list[Figure] = []
    for name, (before, after, make) in CASES.items():
        figures += _delays(name, Stream(before, after, make, CASE_VALUES), runs, progress)
    return Result("cases", "other changes", _delay_facts(runs) | {"values": CASE_VALUES}, {}, figures)


def _delays(title: str, stream: Stream, runs: int, progress: Progress) -> list[Figure]:
    with progress.step(f"{title}, {runs:,} runs") as step:
        # a large reference is sorted once, not in every run
        is_shared = stream.values > 10_000
        ends = alarms(stream, DELAY_BUDGET, DELAY_LONGEST, runs, SEED, is_shared)
        step.done(f"{(ends > 0).mean():.1%} found")
    figures = [Figure(f"{title}: found in {DELAY_LONGEST:,} items", "%", (100 * float((ends > 0).mean()),))]
    for label, level in (("median", 0.5), ("95th percentile", 0.95)):
        items = pairs_until(ends, level)
        why_not = "" if items else f"fewer than {level:.0%} of the runs found it"
        figures.append(Figure(f"{title}: items, {label}", "items", (items,) if items else (), why_not=why_not))
    return figures


def _delay_facts(runs: int) -> dict[str, Any]:
    return {"runs": runs, "seed": SEED, "budget": DELAY_BUDGET, "longest": DELAY_LONGEST}

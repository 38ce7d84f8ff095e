"""Simulates how often the comparison of a shadow is wrong, and whether it needs the pairs that its plan says.

Seeds are fixed, so that two machines print the same numbers.
"""

from __future__ import annotations

import numpy as np

from benchmarks.harness.figures import Figure, Goal, Result
from benchmarks.harness.run import Run
from benchmarks.simulation.shadow import Ints, Shadow, pairs_until, simulate
from tsctl.host.progress import Progress
from tsctl.shadow.plan import SURELY, PairsNeeded, pairs_to_find, pairs_to_pass
from tsctl.shadow.slices import Slices

SEED, RUNS = 20_261_126, 10_000
LIMIT, ALPHA = 0.005, 0.01
#: Pairs of the longest comparison.
LONGEST = 10_000
FLOORS = (0.0, 0.002, 0.005)
#: Rates of disagreement, and floors, that are found.
BAD = ((0.02, 0.0), (0.02, 0.002), (0.02, 0.005), (0.05, 0.01), (0.1, 0.0))
SLICES, SLICED_PAIRS, SLICED_PART = 20, 2000, 50


def workloads(runs: int = RUNS) -> dict[str, Run]:
    """The simulations, by key; `runs` comparisons of each kind, and fewer for slices."""
    return {
        "identical": lambda job: identical(runs, job.progress),
        "found": lambda job: found(runs, job.progress),
        "slices": lambda job: slices(max(1, runs // SLICED_PART), job.progress),
    }


def identical(runs: int, progress: Progress) -> Result:
    """How often a shadow as noisy as stable is rejected or passes, and one that is just at the limit."""
    figures: list[Figure] = []
    for number, floor in enumerate(FLOORS):
        with progress.step(f"identical, floor {floor:.1%}, {runs:,} runs") as step:
            same = simulate(Shadow(floor, floor, floor), LIMIT, ALPHA, LONGEST, runs, SEED + number)
            edge = simulate(Shadow(floor + LIMIT, floor, floor), LIMIT, ALPHA, LONGEST, runs, SEED + 100 + number)
            step.done(f"{(same.exceeds > 0).mean():.2%} rejected")
        goal = Goal(100 * ALPHA, is_ceiling=True)
        for name, ends, ceiling in (
            ("identical, rejected", same.exceeds, goal),
            ("at the limit, rejected", edge.exceeds, goal),
            ("at the limit, passed", edge.stays_below, goal),
            (f"identical, passed in {LONGEST:,} pairs", same.stays_below, None),
        ):
            figures.append(Figure(f"floor {floor:.1%}: {name}", "%", (100 * float((ends > 0).mean()),), ceiling))
        plan = pairs_to_pass(floor, floor, LIMIT, ALPHA)
        figures += _planned(f"floor {floor:.1%}: pairs until it passed", same.stays_below, plan)
    settings = {"runs": runs, "seed": SEED, "limit": LIMIT, "alpha": ALPHA, "pairs": LONGEST, "floors": FLOORS}
    return Result("identical", "shadows like stable, asked after every pair", settings, {}, figures)


def found(runs: int, progress: Progress) -> Result:
    """Pairs until a worse shadow is rejected, against the pairs that the plan says."""
    figures: list[Figure] = []
    for number, (rate, floor) in enumerate(BAD):
        name = f"{rate:.0%} differ, floor {floor:.1%}"
        with progress.step(f"{name}, {runs:,} runs") as step:
            ends = simulate(Shadow(rate, floor, floor), LIMIT, ALPHA, LONGEST, runs, SEED + 200 + number, is_short=True)
            step.done(f"{(ends.exceeds > 0).mean():.2%} rejected")
        figures.append(Figure(f"{name}: rejected", "%", (100 * float((ends.exceeds > 0).mean()),)))
        figures += _planned(f"{name}: pairs", ends.exceeds, pairs_to_find(rate, floor, LIMIT, ALPHA))
    settings = {"runs": runs, "seed": SEED, "limit": LIMIT, "alpha": ALPHA, "shadows": BAD}
    return Result("found", "worse shadows", settings, {}, figures)


def slices(runs: int, progress: Progress) -> Result:
    """How often one of equal slices is named, and how often one bad slice is found, by the code that runs."""
    figures: list[Figure] = []
    for name, bad in (("equal", 0.02), ("one of 20 with 20 %", 0.2)):
        with progress.step(f"slices, {name}, {runs:,} runs") as step:
            named = [_named(bad, np.random.default_rng(SEED + run)) for run in range(runs)]
            step.done(f"{sum(map(any, named))} with a name")
        wrong, right = (float(np.mean([each[place] for each in named])) for place in range(2))
        goal = Goal(100 * ALPHA, is_ceiling=True)
        figures.append(Figure(f"slices, {name}: a good one named", "%", (100 * wrong,), goal))
        if bad > 0.02:
            figures.append(Figure(f"slices, {name}: the bad one named", "%", (100 * right,)))
    settings = {"runs": runs, "seed": SEED, "slices": SLICES, "pairs": SLICED_PAIRS, "base": 0.02, "alpha": ALPHA}
    return Result("slices", "slices of the traffic", settings, {}, figures)


def _named(bad: float, chance: np.random.Generator) -> tuple[bool, bool]:
    """Whether a good slice was named, and the bad one, of a comparison whose slice 0 has its own rate."""
    counted = Slices()
    for place, draw in zip(chance.integers(0, SLICES, SLICED_PAIRS), chance.random(SLICED_PAIRS), strict=True):
        counted.seen([str(place)], bool(draw < (0.02 if place else bad)))
    worst = {each.name for each in counted.worst(ALPHA)}
    return bool(worst - ({"0"} if bad > 0.02 else set())), "0" in worst


def _planned(name: str, ends: Ints, plan: PairsNeeded) -> list[Figure]:
    """The median and the four of five of the simulation; the median as a multiple of the plan's."""
    figures = []
    for label, level, planned in (("median", 0.5, plan.median), ("four of five", SURELY, plan.surely)):
        pairs = pairs_until(ends, level)
        why_not = "" if pairs else f"fewer than {level:.0%} were decided"
        figures.append(Figure(f"{name}, {label}", "pairs", (pairs,) if pairs else (), why_not=why_not))
        if pairs and planned:
            figures.append(Figure(f"{name}, {label}, planned", "pairs", (float(planned),)))
            ratio = pairs / planned
            goal = Goal(2, is_ceiling=True) if ratio >= 1 else Goal(0.5)
            figures.append(Figure(f"{name}, {label}, as a multiple of the plan", "times", (ratio,), goal))
    return figures

"""Simulates how often the judge of rollouts is wrong, and how soon it is right.

Seeds are fixed, so that two machines print the same numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import log
from statistics import NormalDist, median
from typing import Any

import numpy as np

from benchmarks.harness.figures import Figure, Goal, Result
from benchmarks.harness.run import Run
from benchmarks.simulation.attacks import Attack, fates
from benchmarks.simulation.simulate import Behaviour, Ends, Rollout, Stage, simulate
from benchmarks.simulation.texts import Course, Writer
from benchmarks.simulation.texts import ends as text_ends
from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import percent
from tsctl.host.progress import Progress
from tsctl.rollout.decide.evidence import MOST_SHARE

SEED = 20_261_125
RUNS = 10_000
POLICY = RolloutPolicy()
#: Weights in hundredths of a percent, and requests of the route at each: 100,000 in all.
GROWING = ((100, 10_000), (500, 20_000), (2500, 30_000), (5000, 40_000))
#: Errors of both versions, and the policy's limit, which must lie above them.
BASES = ((0.0, 0.05), (0.001, 0.05), (0.01, 0.05), (0.1, 0.2))
BASE = 0.005
CAUGHT_AT, LONGEST = 500, 100_000
WEIGHTS, LONGER = (100, 500, 2500), 200_000
#: The table of faults has fewer runs: its smallest fault at its smallest weight takes a hundred times as long.
PART = 5
#: An attack is judged by the code that runs, and takes as long.
ATTACKED_PART = 100
ATTACKS = {
    **{f"sticky, {share:.1%} of the requests": Attack((share,)) for share in (0.001, 0.01, 0.05, 0.2, 0.49, 0.6)},
    "sticky, two keys with 1.0% each": Attack((0.01, 0.01)),
    **{f"by requests, {share:.1%} fail": Attack((share,), 500, is_sticky=False) for share in (0.01, 0.15, 0.49, 0.6)},
    "by requests, two keys with 10.0% each": Attack((0.1, 0.1), 500, is_sticky=False),
}
#: So are releases of language models: of all runs, so many for versions that are no worse, and so many for faults.
TEXTS_PART, TEXT_FAULTS_PART = 10, 100
WRITER, COURSE = Writer(), Course()
NO_WORSE = {
    "identical": WRITER,
    "tokens in half the time": replace(WRITER, token_ms=WRITER.token_ms / 2),
}
WORSE = {
    "tokens 50% slower": replace(WRITER, token_ms=1.5 * WRITER.token_ms),
    "tokens 20% slower": replace(WRITER, token_ms=1.2 * WRITER.token_ms),
    "first token 50% later": replace(WRITER, first_ms=1.5 * WRITER.first_ms),
    "never stops": replace(WRITER, endless=1.0),
    "30% never stop": replace(WRITER, endless=0.3),
    "ends after a quarter": replace(WRITER, cut=1.0),
    "30% end after a quarter": replace(WRITER, cut=0.3),
    "30% longer": replace(WRITER, tokens=1.3 * WRITER.tokens),
    "5% of the streams break": replace(WRITER, broken=0.05),
}
#: Latency is lognormal, its 99th percentile 3.2 times its median: an answer that takes half as long again is slower
#: than stable's 95th percentile in 20.2 % of all cases, 1 - Phi(1.645 - ln(1.5) / 0.5).
SIGMA, SLOWER, SLOW = 0.5, 1.5, 0.05


def workloads(runs: int = RUNS) -> dict[str, Run]:
    """The simulations, by key.

    Args:
        runs: of each rate of errors, and of the fault that has a goal; a fifth of them for every other fault.
    """
    return {
        "identical": lambda job: identical(runs, job.progress),
        "caught": lambda job: caught(runs, job.progress),
        "faults": lambda job: faults(max(1, runs // PART), job.progress),
        "attacks": lambda job: attacks(max(1, runs // ATTACKED_PART), job.progress),
        "texts": lambda job: texts(runs, job.progress),
    }


def identical(runs: int, progress: Progress) -> Result:
    """How often a canary that is the same as stable is rolled back."""
    figures: list[Figure] = []
    notes: list[str] = []
    for number, (base, limit) in enumerate(BASES):
        policy = RolloutPolicy(max_error_rate=limit)
        rollout = _rollout(Behaviour(base), Behaviour(base), GROWING, policy)
        ends = _simulated(f"identical, {base:.1%} errors", rollout, runs, SEED + number, progress)
        share = 100 * float(ends.is_back.mean())
        goal = Goal(100 * policy.alpha, is_ceiling=True)
        figures.append(Figure(f"rolled back at {base:.1%} errors", "%", (share,), goal))
        notes.append(f"{base:.1%} errors: {ends.is_back.sum():,} of {runs:,} runs; max_error_rate is {limit:g}")
    settings = {"runs": runs, "seed": SEED, "stages": GROWING, "bases": BASES, **_policy()}
    title = "identical versions, judged at every request"
    return Result("identical", title, settings, {}, figures, tuple(notes))


def caught(runs: int, progress: Progress) -> Result:
    """How soon a canary with ten times as many errors is rolled back."""
    rollout = _rollout(Behaviour(BASE), Behaviour(0.05), ((CAUGHT_AT, LONGEST),))
    ends = _simulated("5% errors against 0.5%", rollout, runs, SEED, progress)
    figures = _figures("5% errors", ends, Goal(100), Goal(2000, is_ceiling=True))
    settings = {"runs": runs, "seed": SEED, "base": BASE, "weight": CAUGHT_AT, "requests": LONGEST, **_policy()}
    return Result("caught", "5% errors against 0.5%, at 5%", settings, {}, figures, (_signals("5% errors", ends),))


def faults(runs: int, progress: Progress) -> Result:
    """How soon smaller faults, and faults that are no errors, are rolled back at each weight."""
    stable = Behaviour(BASE)
    canaries = _faulty(stable)
    figures: list[Figure] = []
    notes: list[str] = []
    for number, (fault, canary) in enumerate(canaries.items()):
        for weight in WEIGHTS:
            name = f"{fault}, at {percent(weight)}"
            rollout = _rollout(stable, canary, ((weight, LONGER),))
            ends = _simulated(name, rollout, runs, SEED + 10 * number + weight, progress)
            figures += _figures(name, ends)
            notes.append(_signals(name, ends))
    behaviours = {"stable": asdict(stable), "canary": {name: asdict(canary) for name, canary in canaries.items()}}
    settings = {"runs": runs, "seed": SEED, **behaviours, "requests": LONGER, **_policy()}
    return Result("faults", "other faults", settings, {}, figures, tuple(notes))


def attacks(runs: int, progress: Progress) -> Result:
    """How often a canary like stable is rolled back by clients that want it to be, and how often a person is asked."""
    figures: list[Figure] = []
    for number, (name, attack) in enumerate(ATTACKS.items()):
        with progress.step(f"{name}, {runs:,} runs") as step:
            ends = fates(POLICY, attack, runs, SEED + number)
            step.done(f"{ends.rolled_back} rolled back, {ends.held} held")
        goal = Goal(0, is_ceiling=True) if max(attack.shares) <= MOST_SHARE and len(attack.shares) == 1 else None
        figures.append(Figure(f"{name}: rolled back", "%", (100 * ends.rolled_back / runs,), goal))
        figures.append(Figure(f"{name}: held for a person", "%", (100 * ends.held / runs,)))
    settings = {"runs": runs, "seed": SEED, "attacks": {k: asdict(v) for k, v in ATTACKS.items()}, **_policy()}
    return Result("attacks", "clients that want a good canary rolled back", settings, {}, figures)


def texts(runs: int, progress: Progress) -> Result:
    """How often a language model that is no worse is rolled back, and how soon faults of one are found."""
    figures: list[Figure] = []
    cases = [(name, canary, TEXTS_PART) for name, canary in NO_WORSE.items()]
    cases += [(name, canary, TEXT_FAULTS_PART) for name, canary in WORSE.items()]
    for number, (name, canary, part) in enumerate(cases):
        some = max(1, runs // part)
        with progress.step(f"{name}, {some:,} runs") as step:
            ends = text_ends(POLICY, WRITER, canary, COURSE, some, SEED + number)
            back = [end for end in ends if end.signal]
            step.done(f"{len(back) / some:.2%} rolled back")
        goal = Goal(100 * POLICY.alpha, is_ceiling=True) if part == TEXTS_PART else None
        figures.append(Figure(f"{name}: rolled back", "%", (100 * len(back) / some,), goal))
        if part == TEXT_FAULTS_PART:
            signal = Counter(end.signal for end in back).most_common(1)
            by = f" by {signal[0][0]}" if signal else ""
            for unit, counts in (
                ("requests until rollback", [end.requests for end in back]),
                ("of them on the canary", [end.on_canary for end in back]),
            ):
                value = (float(median(counts)),) if 2 * len(back) >= some else ()
                why_not = "" if value else "fewer than half of the runs were rolled back"
                figures.append(Figure(f"{name}{by}: {unit}, median", "requests", value, why_not=why_not))
    settings = {"runs": runs, "seed": SEED, "stable": asdict(WRITER), "course": asdict(COURSE), **_policy()}
    return Result("texts", "releases of language models", settings, {}, figures)


def slow_share(times: float) -> float:
    """The share of answers slower than stable's 95th percentile where each takes so many times as long (SIGMA)."""
    normal = NormalDist()
    return 1 - normal.cdf(normal.inv_cdf(1 - SLOW) - log(times) / SIGMA)


def _faulty(stable: Behaviour) -> dict[str, Behaviour]:
    first, second, *others = stable.classes
    return {
        "2% errors": replace(stable, errors=0.02),
        "1% errors": replace(stable, errors=0.01),
        "every request refused": replace(stable, refused=1.0),
        "50% slower": replace(stable, slow=slow_share(SLOWER)),
        "one class taken for another": replace(stable, classes=(0.0, first + second, *others)),
    }


def _rollout(
    stable: Behaviour, canary: Behaviour, stages: Sequence[tuple[int, int]], policy: RolloutPolicy = POLICY
) -> Rollout:
    return Rollout(policy, stable, canary, tuple(Stage(*stage) for stage in stages))


def _simulated(title: str, rollout: Rollout, runs: int, seed: int, progress: Progress) -> Ends:
    with progress.step(f"{title}, {runs:,} runs") as step:
        ends = simulate(rollout, runs, seed)
        step.done(f"{ends.is_back.mean():.2%} rolled back")
    return ends


def _figures(name: str, ends: Ends, all_goal: Goal | None = None, soon_goal: Goal | None = None) -> list[Figure]:
    """The share of runs that were rolled back, and the percentiles of the requests and of those on the canary.

    A percentile that falls on a run without a rollback has no value.
    """
    share = 100 * float(ends.is_back.mean())
    figures = [Figure(f"{name}: rolled back", "%", (share,), all_goal)]
    for label, unit, requests, goal in (
        ("requests until rollback", "requests", ends.requests, soon_goal),
        ("of them on the canary", "users", ends.on_canary, None),
    ):
        counts = np.where(ends.is_back, requests, np.iinfo(np.int64).max)
        for level, percentile, level_goal in ((50, "median", goal), (95, "95th percentile", None)):
            value = (float(np.percentile(counts, level, method="inverted_cdf")),) if share >= level else ()
            why_not = "" if value else f"fewer than {level} % of the runs were rolled back"
            figures.append(Figure(f"{name}: {label}, {percentile}", unit, value, level_goal, why_not=why_not))
    return figures


def _signals(name: str, ends: Ends) -> str:
    """Which signal was the strongest, in how many of the runs that were rolled back."""
    counts = np.bincount(ends.signal[ends.is_back], minlength=len(ends.signals))
    by = ", ".join(f"{signal} {count:,}" for signal, count in zip(ends.signals, counts, strict=True) if count)
    return f"{name}: rolled back by {by or 'none'}"


def _policy() -> dict[str, Any]:
    return {"policy": POLICY.model_dump(mode="json"), "shares": POLICY.shares}

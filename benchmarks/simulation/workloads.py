"""What the judge of rollouts is held to, simulated: how often it is wrong, and how soon it is right.

Seeds are fixed, so that two machines print the same numbers.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from benchmarks.harness.figures import Figure, Result, Target
from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import percent

if TYPE_CHECKING:
    from benchmarks.harness.run import Run
    from benchmarks.simulation.simulate import Behaviour, Ends, Rollout
    from tsctl.host.progress import Progress

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
#: Latency is lognormal, its 99th percentile 3.2 times its median: an answer that takes half as long again is slower
#: than stable's 95th percentile in 20.2 % of all cases, 1 - Phi(1.645 - ln(1.5) / 0.5).
SIGMA, SLOWER, SLOW = 0.5, 1.5, 0.05


def workloads(runs: int = RUNS) -> dict[str, Run]:
    """What is simulated, by its key.

    Args:
        runs: of each rate of errors, and of the fault that has a target; a fifth of them for every other fault.
    """
    return {
        "identical": lambda project, _, rounds, seconds, progress: identical(runs, progress),
        "caught": lambda project, _, rounds, seconds, progress: caught(runs, progress),
        "faults": lambda project, _, rounds, seconds, progress: faults(max(1, runs // PART), progress),
    }


def identical(runs: int, progress: Progress) -> Result:
    """How often a canary that is the same as stable is rolled back."""
    from benchmarks.simulation.simulate import Behaviour

    figures: list[Figure] = []
    notes: list[str] = []
    for number, (base, limit) in enumerate(BASES):
        policy = RolloutPolicy(max_error_rate=limit)
        told = _rollout(Behaviour(base), Behaviour(base), GROWING, policy)
        ends = _simulated(f"identical, {base:.1%} errors", told, runs, SEED + number, progress)
        back = 100 * float(ends.is_back.mean())
        target = Target(100 * policy.alpha, is_ceiling=True)
        figures.append(Figure(f"rolled back at {base:.1%} errors", "%", (back,), target))
        notes.append(f"{base:.1%} errors: {ends.is_back.sum():,} of {runs:,} runs; max_error_rate is {limit:g}")
    settings = {"runs": runs, "seed": SEED, "stages": GROWING, "bases": BASES, **_policy()}
    return Result("identical", "versions that are alike, watched at every request", settings, {}, figures, tuple(notes))


def caught(runs: int, progress: Progress) -> Result:
    """How soon a canary with ten times as many errors is rolled back."""
    from benchmarks.simulation.simulate import Behaviour

    told = _rollout(Behaviour(BASE), Behaviour(0.05), ((CAUGHT_AT, LONGEST),))
    ends = _simulated("5% errors against 0.5%", told, runs, SEED, progress)
    figures = _found("5% errors", ends, Target(100), Target(2000, is_ceiling=True))
    settings = {"runs": runs, "seed": SEED, "base": BASE, "weight": CAUGHT_AT, "requests": LONGEST, **_policy()}
    return Result("caught", "5% errors against 0.5%, at 5%", settings, {}, figures, _by_signal("5% errors", ends))


def faults(runs: int, progress: Progress) -> Result:
    """How soon smaller faults, and faults that are no errors, are rolled back at each weight."""
    from benchmarks.simulation.simulate import Behaviour

    stable = Behaviour(BASE)
    figures: list[Figure] = []
    notes: list[str] = []
    for number, (fault, canary) in enumerate(_faulty(stable).items()):
        for weight in WEIGHTS:
            told = _rollout(stable, canary, ((weight, LONGER),))
            name = f"{fault}, at {percent(weight)}"
            ends = _simulated(name, told, runs, SEED + 10 * number + weight, progress)
            figures += _found(name, ends)
            notes += _by_signal(name, ends)
    said = {name: asdict(canary) for name, canary in _faulty(stable).items()}
    settings = {"runs": runs, "seed": SEED, "stable": asdict(stable), "canary": said, "requests": LONGER, **_policy()}
    return Result("faults", "other faults", settings, {}, figures, tuple(notes))


def slow_share(times: float) -> float:
    """The share of answers slower than stable's 95th percentile where each takes so many times as long (SIGMA)."""
    from math import log
    from statistics import NormalDist

    normal = NormalDist()
    return 1 - normal.cdf(normal.inv_cdf(1 - SLOW) - log(times) / SIGMA)


def _faulty(stable: Behaviour) -> dict[str, Behaviour]:
    first, second, *others = stable.classes
    return {
        "2% errors": replace(stable, errors=0.02),
        "1% errors": replace(stable, errors=0.01),
        "50% slower": replace(stable, slow=slow_share(SLOWER)),
        "one class taken for another": replace(stable, classes=(0.0, first + second, *others)),
    }


def _rollout(
    stable: Behaviour, canary: Behaviour, stages: tuple[tuple[int, int], ...], policy: RolloutPolicy = POLICY
) -> Rollout:
    from benchmarks.simulation.simulate import Rollout, Stage

    return Rollout(policy, stable, canary, tuple(Stage(*stage) for stage in stages))


def _simulated(title: str, told: Rollout, runs: int, seed: int, progress: Progress) -> Ends:
    from benchmarks.simulation.simulate import simulate

    with progress.step(f"{title}, {runs:,} runs") as step:
        ends = simulate(told, runs, seed)
        step.done(f"{ends.is_back.mean():.2%} rolled back")
    return ends


def _found(name: str, ends: Ends, all_of_them: Target | None = None, soon: Target | None = None) -> list[Figure]:
    """How many of the runs were rolled back, after how many requests, and how many of those met the canary."""
    import numpy as np

    share = float(ends.is_back.mean())
    figures = [Figure(f"{name}: rolled back", "%", (100 * share,), all_of_them)]
    for what, unit, counted, target in (
        ("requests until then", "requests", ends.requests, soon),
        ("of them on the canary", "users", ends.on_canary, None),
    ):
        for level, said in ((50, "median"), (95, "95th percentile")):
            counts = np.where(ends.is_back, counted, np.iinfo(np.int64).max)
            value = (float(np.percentile(counts, level, method="inverted_cdf")),) if 100 * share >= level else ()
            why_not = "" if value else f"fewer than {level} % of the runs were rolled back"
            wanted = target if level == 50 else None
            figures.append(Figure(f"{name}: {what}, {said}", unit, value, wanted, why_not=why_not))
    return figures


def _by_signal(name: str, ends: Ends) -> tuple[str, ...]:
    """Which signals spoke loudest in the runs that were rolled back."""
    import numpy as np

    loudest = np.bincount(ends.signal[ends.is_back], minlength=len(ends.signals))
    said = ", ".join(f"{signal} {count:,}" for signal, count in zip(ends.signals, loudest, strict=True) if count)
    return (f"{name}: rolled back by {said or 'none'}",)


def _policy() -> dict[str, Any]:
    return {"policy": POLICY.model_dump(mode="json"), "shares": POLICY.shares}

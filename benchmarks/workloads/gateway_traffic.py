"""Changes of weight under load, the split that they give, and users who stay on their version."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from benchmarks.harness.client import Answer, ask_all, under_load
from benchmarks.harness.figures import Figure, Goal, Result
from benchmarks.harness.run import Job
from benchmarks.harness.workload import own_folder
from benchmarks.targets.fleet import BODY, MODEL, Fleet, running_fleet
from tsctl.config.weights import TOTAL, percent
from tsctl.gateway.change import set_weights
from tsctl.host.progress import Progress

STABLE, CANARY = "1.0", "2.0"
CHANGES = 50
#: Seconds of load after each change, in which every connection sends some hundred requests.
SETTLED_S = 0.4
CONNECTIONS = 8
SENT = 20_000
SHARES = (100, 500, 5000)
#: Of the interval that a split must lie in.
CONFIDENCE = 0.999
USERS, USER_HEADER, EACH = 1500, "x-user-id", 2
GROWING = (500, 2000, 5000, 9000)
NONE = Goal(0, is_ceiling=True)


def run(job: Job) -> Result:
    """All of it on one node with two equal versions.

    Raises:
        TsctlError: the node or the gateway does not serve.
    """
    served = [(MODEL, STABLE), (MODEL, CANARY)]
    route = {"sticky": {"header": USER_HEADER}}
    with own_folder() as folder, running_fleet(job.project, folder / "own", 1, served, job.progress, route) as fleet:
        figures = [*_changes(fleet, job.progress), *_splits(fleet, job.progress), *_sticky(fleet, job.progress)]
    settings = {"connections": CONNECTIONS, "changes": CHANGES, "asked": SENT, "users": USERS}
    return Result("weights", "weights that change under load", settings, {}, figures)


def _changes(fleet: Fleet, progress: Progress) -> list[Figure]:
    """All traffic moves from one version to the other and back; the last answer of the old version ends a change."""
    begun: list[tuple[float, str]] = []
    with (
        progress.step(f"{CHANGES} changes of weight") as step,
        under_load(fleet.address(f"/predictions/{MODEL}"), BODY, CONNECTIONS) as load,
    ):
        for number in range(CHANGES):
            version = (CANARY, STABLE)[number % 2]
            begun.append((time.perf_counter(), version))
            set_weights(fleet.gateway, MODEL, {v: TOTAL if v == version else 0 for v in (STABLE, CANARY)})
            step.note(f"{number + 1} of {CHANGES}, {len(load.answers):,} requests, {len(load.failed)} failed")
            time.sleep(SETTLED_S)
        step.done(f"{len(load.answers):,} requests, {len(load.failed)} failed")
    took = in_force_ms(begun, load.answers)
    failed = len(load.failed)
    return [
        Figure(f"requests during {CHANGES} changes", "requests", (len(load.answers),), Goal(20_000), failed),
        Figure("failed during the changes", "requests", (failed,), NONE),
        Figure("a change is in force, median", "ms", (sorted(took)[len(took) // 2],)),
        Figure("a change is in force, slowest", "ms", (max(took),), Goal(200, is_ceiling=True)),
    ]


def in_force_ms(begun: Sequence[tuple[float, str]], answers: Sequence[Answer]) -> list[float]:
    """For each change, milliseconds from its begin to the last request that another version answered.

    Args:
        begun: when each change began, and the version that gets all traffic.
    """
    ends = [moment for moment, _ in begun[1:]] + [float("inf")]
    durations = []
    for (begin, version), end in zip(begun, ends, strict=True):
        late = [a.asked - begin for a in answers if begin <= a.asked < end and a.version not in (version, "")]
        durations.append(max(late, default=0.0) * 1000)
    return durations


def _splits(fleet: Fleet, progress: Progress) -> list[Figure]:
    """The count of the canary's answers at each weight, against the interval of the binomial distribution."""
    figures = []
    for share in SHARES:
        set_weights(fleet.gateway, MODEL, {STABLE: TOTAL - share, CANARY: share})
        with progress.step(f"{SENT:,} requests at {percent(share)}") as step:
            answers = ask_all(fleet.address(f"/predictions/{MODEL}"), BODY, [""] * SENT, "x-nobody", CONNECTIONS)
            counts = Counter(answer.version for answer in answers if answer.status == 200)
            low, high = binomial_interval(SENT, share / TOTAL, CONFIDENCE)
            step.done(f"{counts[CANARY]:,} of {SENT:,} on the canary; allowed are {low:,} to {high:,}")
        name = f"{percent(share)}: distance from the weight, of the interval"
        ratio = distance(counts[CANARY], share, low, high)
        figures.append(Figure(name, "times", (ratio,), Goal(1.0, is_ceiling=True), SENT - counts.total()))
    return figures


def distance(count: int, share: int, low: int, high: int) -> float:
    """How far a count lies from its expectation, the share of SENT; 1 is the end of the interval."""
    expected = SENT * share / TOTAL
    return (count - expected) / (high - expected) if count >= expected else (expected - count) / (expected - low)


def binomial_interval(trials: int, chance: float, confidence: float) -> tuple[int, int]:
    """The least and the largest count outside the tails, each of half of what confidence leaves; exact."""
    from scipy.stats import binom

    low, high = binom.interval(confidence, trials, chance)
    return int(low), int(high)


def _sticky(fleet: Fleet, progress: Progress) -> list[Figure]:
    """Every user asks EACH times at each weight of a growing canary."""
    users = [f"user-{number}" for number in range(USERS)]
    torn = left = failed = 0
    before: set[str] = set()
    with progress.step(f"{USERS:,} users while the canary grows") as step:
        for share in GROWING:
            set_weights(fleet.gateway, MODEL, {STABLE: TOTAL - share, CANARY: share})
            answers = ask_all(fleet.address(f"/predictions/{MODEL}"), BODY, users * EACH, USER_HEADER, CONNECTIONS)
            failed += sum(answer.status != 200 for answer in answers)
            versions: dict[str, set[str]] = {}
            for answer in answers:
                versions.setdefault(answer.user, set()).add(answer.version)
            torn += sum(len(answered) > 1 for answered in versions.values())
            now = {user for user, answered in versions.items() if CANARY in answered}
            left += len(before - now)
            before = now
            step.note(f"{percent(share)}: {len(now):,} on the canary")
        step.done(f"{len(before):,} on the canary at the end")
    return [
        Figure("users who met two versions at one weight", "users", (torn,), NONE, failed),
        Figure("users who left the canary as it grew", "users", (left,), NONE, failed),
    ]

"""Changes of weight under load, the split that comes of them, and users who stay where they are."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from math import exp, lgamma, log

from benchmarks.harness.client import Answer, ask_all, under_load
from benchmarks.harness.figures import Figure, Result, Target
from benchmarks.harness.workload import own_folder
from benchmarks.targets.fleet import BODY, MODEL, Fleet, running_fleet
from tsctl.config.project import Project
from tsctl.config.weights import TOTAL, percent
from tsctl.gateway.change import set_weights
from tsctl.host.progress import Progress

STABLE, CANARY = "1.0", "2.0"
CHANGES = 50
#: Load after each change, in which every connection asks some hundred times.
SETTLED_S = 0.4
CONNECTIONS = 8
ASKED = 20_000
SHARES = (100, 500, 5000)
#: Of the interval that a split must lie in.
CONFIDENCE = 0.999
USERS, USER_HEADER, EACH = 1500, "x-user-id", 2
GROWING = (500, 2000, 5000, 9000)
NONE = Target(0, is_ceiling=True)


def run(project: Project, progress: Progress) -> Result:
    """All of it on one node with two equal versions.

    Raises:
        TsctlError: the node or the gateway does not serve.
    """
    served = [(MODEL, STABLE), (MODEL, CANARY)]
    route = {"sticky": {"header": USER_HEADER}}
    with own_folder() as folder, running_fleet(project, folder / "own", 1, served, progress, route) as fleet:
        figures = [*_changes(fleet, progress), *_splits(fleet, progress), *_sticky(fleet, progress)]
    settings = {"connections": CONNECTIONS, "changes": CHANGES, "asked": ASKED, "users": USERS}
    return Result("weights", "weights that change under load", settings, {}, figures)


def _changes(fleet: Fleet, progress: Progress) -> list[Figure]:
    """Everything moves from one version to the other and back, so that the last answer of the old one tells."""
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
        Figure(f"requests during {CHANGES} changes", "requests", (len(load.answers),), Target(20_000), failed),
        Figure("failed during the changes", "requests", (failed,), NONE),
        Figure("a change is in force, median", "ms", (sorted(took)[len(took) // 2],)),
        Figure("a change is in force, slowest", "ms", (max(took),), Target(200, is_ceiling=True)),
    ]


def in_force_ms(begun: Sequence[tuple[float, str]], answers: Sequence[Answer]) -> list[float]:
    """For each change, milliseconds from its begin to the last request that another version answered.

    Args:
        begun: when each change was begun, and the version that gets everything by it.
    """
    ends = [moment for moment, _ in begun[1:]] + [float("inf")]
    found = []
    for (begin, version), end in zip(begun, ends, strict=True):
        late = [a.asked - begin for a in answers if begin <= a.asked < end and a.version not in (version, "")]
        found.append(max(late, default=0.0) * 1000)
    return found


def _splits(fleet: Fleet, progress: Progress) -> list[Figure]:
    figures = []
    for share in SHARES:
        set_weights(fleet.gateway, MODEL, {STABLE: TOTAL - share, CANARY: share})
        with progress.step(f"{ASKED:,} requests at {percent(share)}") as step:
            answers = ask_all(fleet.address(f"/predictions/{MODEL}"), BODY, [""] * ASKED, "x-nobody", CONNECTIONS)
            met = Counter(answer.version for answer in answers if answer.status == 200)
            low, high = binomial_interval(ASKED, share / TOTAL, CONFIDENCE)
            step.done(f"{met[CANARY]:,} of {ASKED:,} on the canary; {low:,} to {high:,} would do")
        failed = ASKED - met.total()
        name = f"{percent(share)}: distance from the weight, of the interval"
        figures.append(
            Figure(name, "times", (distance(met[CANARY], share, low, high),), Target(1.0, is_ceiling=True), failed)
        )
    return figures


def distance(count: int, share: int, low: int, high: int) -> float:
    """How far a count lies from what its share of ASKED leads to expect; 1 is the end of the interval."""
    expected = ASKED * share / TOTAL
    return (count - expected) / (high - expected) if count >= expected else (expected - count) / (expected - low)


def binomial_interval(trials: int, chance: float, confidence: float) -> tuple[int, int]:
    """The least and the largest count that do not fall into the tails, each of half of what confidence leaves.

    Exact: the probabilities of the binomial distribution, added up from either end.
    """
    weights = [
        exp(_log_choose(trials, k) + k * log(chance) + (trials - k) * log(1 - chance)) for k in range(trials + 1)
    ]
    tail = (1 - confidence) / 2
    return _first_beyond(weights, tail), trials - _first_beyond(weights[::-1], tail)


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _first_beyond(weights: Sequence[float], tail: float) -> int:
    total = 0.0
    for count, weight in enumerate(weights):
        total += weight
        if total > tail:
            return count
    return len(weights) - 1


def _sticky(fleet: Fleet, progress: Progress) -> list[Figure]:
    """Every user asks some times at each weight of a growing canary."""
    users = [f"user-{number}" for number in range(USERS)]
    torn = left = failed = 0
    before: set[str] = set()
    with progress.step(f"{USERS:,} users while the canary grows") as step:
        for share in GROWING:
            set_weights(fleet.gateway, MODEL, {STABLE: TOTAL - share, CANARY: share})
            answers = ask_all(fleet.address(f"/predictions/{MODEL}"), BODY, users * EACH, USER_HEADER, CONNECTIONS)
            failed += sum(answer.status != 200 for answer in answers)
            met: dict[str, set[str]] = {}
            for answer in answers:
                met.setdefault(answer.user, set()).add(answer.version)
            torn += sum(len(seen) > 1 for seen in met.values())
            now = {user for user, seen in met.items() if CANARY in seen}
            left += len(before - now)
            before = now
            step.note(f"{percent(share)}: {len(now):,} on the canary")
        step.done(f"{len(before):,} on the canary at the end")
    return [
        Figure("users who met two versions at one weight", "users", (torn,), NONE, failed),
        Figure("users who left the canary as it grew", "users", (left,), NONE, failed),
    ]

"""Runs searches against a measured grid: the same code as `tsctl tune`, with a table in place of nodes and a noise."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.tuning.table import Table
from tsctl.host.progress import Note, quiet_progress
from tsctl.tune.choice import choose, verdict
from tsctl.tune.measure import Invalid
from tsctl.tune.objective import Score
from tsctl.tune.proposer import Proposer
from tsctl.tune.search import Bounds, Search
from tsctl.tune.space import Settings
from tsctl.tune.trials import Trial

#: A tenth of the grid's points.
SHARE = 0.1
#: Seconds of the shortest loads, which are those of the grid.
BASE_S = 1.0


@dataclass(frozen=True)
class Outcome:
    """One simulated search.

    Args:
        chosen: true goodput of the settings that the search chose, as a share of the best of the grid.
        kept: the same of those in force afterwards: the chosen ones where the proof held, else the present ones.
    """

    chosen: float
    kept: float
    trials: int
    seconds: float  # of the loads of the search, as a share of those of the grid's valid points


def most_trials(table: Table) -> int:
    """A tenth of the grid's points, rounded down."""
    return max(1, math.floor(SHARE * len(table.points)))


def simulate(table: Table, seed: int, sampler: Callable[[Any, int], Any] | None = None) -> Outcome:
    """One search against the table; equal seeds give equal outcomes."""
    chance = random.Random(seed)  # noqa: S311 - the same on every machine, and no secret

    def measure(settings: Settings, seconds: float, note: Note) -> Score:
        point = table.points[settings]
        if point.reason:
            raise Invalid(point.reason)
        luck = math.exp(chance.gauss(0.0, table.noise * math.sqrt(BASE_S / seconds)))
        return Score(seconds, 0.0, point.goodput_s * luck, point.p99_ms)

    bounds = Bounds(most_trials(table), math.inf, math.inf, math.inf, BASE_S)
    search = Search(
        Proposer(table.space, seed, sampler), measure, bounds, quiet_progress(), lambda _: None, lambda: 0.0
    )
    search.run()
    present, best = table.space.present, table.best.goodput_s
    chosen = choose(search.trials, present)
    found = verdict(search.trials, present, float(table.head.get("slo_p99_ms", 0.0)))
    in_force = found.chosen if found.is_better and found.chosen else present
    valid = sum(not point.reason for point in table.points.values())
    return Outcome(
        table.points[chosen.settings].goodput_s / best if chosen else 0.0,
        table.points[in_force].goodput_s / best,
        sum(trial.kind == "search" for trial in search.trials),
        _load_s(search.trials) / (BASE_S * valid),
    )


def _load_s(trials: Sequence[Trial]) -> float:
    """Seconds of one load in each measurement of the search; the proof is no part of it."""
    return sum(score.seconds for trial in trials if not trial.round for score in trial.scores)


def by_chance(optuna: Any, seed: int) -> Any:
    """A sampler that learns nothing."""
    return optuna.samplers.RandomSampler(seed=seed)


def quantile(values: list[float], share: float) -> float:
    """The value that this share of the others does not reach."""
    return sorted(values)[min(len(values) - 1, math.floor(share * len(values)))]


def median(values: list[float]) -> float:
    """The middle one."""
    return statistics.median(values)

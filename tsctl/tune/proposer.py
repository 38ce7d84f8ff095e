"""Proposes the next point to try, with Optuna: the designs first, then in turn a neighbour of the best and a sample.

Trials are so few that a sampler alone has hardly begun to learn when they end, and so noisy that the best point's
neighbours alone would be a walk at random; benchmarks/tuning compares them.

The only module that knows Optuna. It keeps nothing on disk: the journal of trials is enough to make it again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from tsctl.errors import AnalysisError, SpecError
from tsctl.tune.moves import moves
from tsctl.tune.space import Settings, Space, designs
from tsctl.tune.trials import Trial

#: Of so many points that reach a rung, one goes on to the next.
REDUCTION = 3
#: Trials before the sampler learns from them; until then it takes points by chance.
STARTUP = 3
#: How often the sampler is asked for a point that was not tried; then one is taken by chance.
ASKED = 10


class Proposer:
    """A search in one space.

    Args:
        sampler: makes one of Optuna's samplers from the seed; None: the tree-structured Parzen estimator.
    """

    def __init__(self, space: Space, seed: int, sampler: Callable[[Any, int], Any] | None = None) -> None:
        self._optuna = optuna = require_optuna()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space = self._whole = space
        self._chance = random.Random(seed)  # noqa: S311 - no secret
        made = sampler(optuna, seed) if sampler else tpe(optuna, seed)
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION)
        self._study = optuna.create_study(direction="maximize", sampler=made, pruner=pruner)
        self._waiting = designs(space)
        self._tried: set[Settings] = set()
        self._known: dict[Settings, float] = {}  # goodput in the shortest rung
        self._is_near = False  # whether the last proposal was a neighbour of the best one
        self._trial: Any = None

    def propose(self) -> Settings | None:
        """The next point; None where all were tried."""
        open_points = [point for point in self.space.points() if point not in self._tried]
        if not open_points:
            return None
        while self._waiting:
            point = self._waiting.pop(0)
            if point in open_points:
                return self._begin(point)
        self._is_near = not self._is_near
        if self._is_near and any(self._known.values()):
            best = max(self._known, key=lambda point: self._known[point])
            near = [point for point in moves(self.space, best, self._known) if point in open_points]
            if near:
                return self._begin(near[0])
        for _ in range(ASKED):
            trial = self._study.ask()
            point = self._suggested(trial)
            if point in open_points:
                self._tried.add(point)
                self._trial = trial
                return point
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)  # which the sampler ignores
        return self._begin(self._chance.choice(open_points))

    def report(self, goodput_s: float, rung: int) -> bool:
        """Whether the point goes on to the next rung, after this one (from 0) was measured."""
        self._trial.report(goodput_s, REDUCTION**rung)
        return not self._trial.should_prune()

    def end(self, trial: Trial) -> None:
        """The point that was proposed last was measured."""
        self._known[trial.settings] = trial.scores[0].goodput_s if trial.scores else 0.0
        if trial.state == "pruned":
            self._study.tell(self._trial, state=self._optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(self._trial, trial.goodput_s)
        self._narrow(trial)

    def remember(self, trial: Trial) -> None:
        """Learn a trial of an earlier run, which is not measured again."""
        self._begin(trial.settings)
        for rung, score in enumerate(trial.scores):
            self._trial.report(score.goodput_s, REDUCTION**rung)
        self.end(trial)

    def _narrow(self, trial: Trial) -> None:
        """Where one change of the network made a point invalid, the same change would make every other one invalid."""
        if trial.state != "invalid":
            return
        present = self.space.present
        changed = [name for name in ("compile", "dtype") if getattr(trial.settings, name) != getattr(present, name)]
        if len(changed) == 1:
            self.space = self.space.without(changed[0], f"not another: {trial.reason}")

    def _begin(self, point: Settings) -> Settings:
        self._study.enqueue_trial(self._parameters(point))
        self._trial = self._study.ask()
        self._suggested(self._trial)
        self._tried.add(point)
        return point

    def _parameters(self, point: Settings) -> dict[str, Any]:
        space, delays = self._whole, self._whole.delays_of(point.engine)
        return {
            "engine": point.engine,
            "batch": space.batches.index(point.batch),
            "shape": space.shapes.index((point.workers, point.threads)),
            "compile": point.compile,
            "dtype": point.dtype,
            **({f"delay on {point.engine}": delays.index(point.delay_ms)} if len(delays) > 1 else {}),
        }

    def _suggested(self, trial: Any) -> Settings:
        """The point of Optuna's trial; names and bounds stay the same for the whole search, as Optuna requires."""
        space = self._whole
        engine = trial.suggest_categorical("engine", space.engines)
        delays = space.delays_of(engine)
        place = trial.suggest_int(f"delay on {engine}", 0, len(delays) - 1) if len(delays) > 1 else 0
        workers, threads = space.shapes[trial.suggest_categorical("shape", list(range(len(space.shapes))))]
        batch = space.batches[trial.suggest_int("batch", 0, len(space.batches) - 1)]
        is_compiled = trial.suggest_categorical("compile", space.compiles)
        dtype = trial.suggest_categorical("dtype", space.dtypes)
        return Settings(engine, batch, delays[place], workers, threads, is_compiled, dtype)


def tpe(optuna: Any, seed: int) -> Any:
    """The sampler of the search; decision 83 has what it was compared with."""
    return optuna.samplers.TPESampler(n_startup_trials=STARTUP, multivariate=True, seed=seed)


def require_optuna() -> Any:
    """The module.

    Raises:
        SpecError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise SpecError("tsctl tune needs the package optuna", "Install it: pip install 'tsctl[tune]'") from None
    return optuna


def replay(proposer: Proposer, trials: Sequence[Trial]) -> None:
    """Bring the proposer to where these trials of a search left it.

    Raises:
        AnalysisError: one is of a point that this search never tries.
    """
    points = {*proposer.space.points(), proposer.space.present}
    for trial in trials:
        if trial.settings not in points:
            raise AnalysisError(
                f"the journal has a trial that is none of this search: {trial.settings.text}",
                "Begin anew, without --resume.",
            )
    for trial in trials:
        if trial.kind == "search":
            proposer.remember(trial)

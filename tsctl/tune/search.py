"""Runs a search: trials until one bound is reached, the best one again now and then, and the rounds of the proof.

Pure but for what it is given: a clock, a measurer, and a journal that gets each trial once it has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tsctl.host.progress import Note, Progress
from tsctl.tune.choice import ROUNDS, choose, rounds_of
from tsctl.tune.measure import Invalid, Measure
from tsctl.tune.objective import Score
from tsctl.tune.proposer import Proposer
from tsctl.tune.space import Settings
from tsctl.tune.trials import Kind, State, Trial, incumbent, promising, searched

#: Seconds of each load in the rungs of a trial, as multiples of the shortest; the last one is that of the proof too.
RUNGS = (1.0, 3.0)
#: Trials of the search between two repeats of the best one.
REPEAT_EVERY = 5
#: Pruned trials that are measured to the end after all.
PROMOTED = 2


@dataclass(frozen=True)
class Bounds:
    """When a search ends.

    Args:
        trials: at most, those of an earlier run included.
        search_s: moment of the clock after which no trial begins.
        promote_s: moment of the clock after which no pruned one is measured to the end.
        end_s: moment of the clock after which no round of the proof begins.
        base_s: seconds of the shortest loads.
    """

    trials: int
    search_s: float
    promote_s: float
    end_s: float
    base_s: float
    rounds: int = ROUNDS


class Search:
    """One search.

    Args:
        trials: of an earlier run, which the proposer knows already.
        keep: called with each trial when it has ended.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        proposer: Proposer,
        measure: Measure,
        bounds: Bounds,
        progress: Progress,
        keep: Callable[[Trial], None],
        clock: Callable[[], float],
        trials: Sequence[Trial] = (),
    ) -> None:
        self.trials = list(trials)
        self._proposer, self._measure, self._bounds = proposer, measure, bounds
        self._progress, self._keep, self._clock = progress, keep, clock

    def run(self) -> None:
        """Search, and prove the best settings against the present ones, unless these are the best.

        Raises:
            TsctlError: a node or a load failed for a reason that lies not in the settings.
        """
        self._search()
        for settings in promising(self.trials, PROMOTED):
            if self._clock() < self._bounds.promote_s:
                self._again("promoted", settings, f"measured to the end: {settings.text}")
        present = self._proposer.space.present
        chosen = choose(self.trials, present)
        if chosen is not None and chosen.settings != present:
            self._prove(present, chosen.settings)

    def _search(self) -> None:
        while len(searched(self.trials)) < self._bounds.trials and self._clock() < self._bounds.search_s:
            point = self._proposer.propose()
            if point is None:
                return
            trial = self._trial(point)
            self._proposer.end(trial)
            self._add(trial)
            best = incumbent(self.trials)
            if best is not None and len(searched(self.trials)) % REPEAT_EVERY == 0:
                self._again("repeat", best.settings, f"the best so far again: {best.settings.text}")

    def _trial(self, point: Settings) -> Trial:
        number = len(searched(self.trials)) + 1
        scores: list[Score] = []

        def rungs(note: Note) -> State:
            for rung, multiple in enumerate(RUNGS):
                scores.append(self._measure(point, multiple * self._bounds.base_s, note))
                if rung + 1 < len(RUNGS) and not self._proposer.report(scores[-1].goodput_s, rung):
                    return "pruned"
            return "complete"

        return self._timed("search", point, f"trial {number} of {self._bounds.trials}: {point.text}", scores, rungs)

    def _prove(self, present: Settings, chosen: Settings) -> None:
        kinds: dict[Settings, Kind] = {present: "before", chosen: "after"}
        number = max((trial.round for trial in self.trials), default=0)
        for place in range(len(rounds_of(self.trials, chosen)), self._bounds.rounds):
            if self._clock() >= self._bounds.end_s:
                return
            number += 1
            order = (chosen, present) if place % 2 else (present, chosen)
            for settings in order:
                title = f"round {place + 1} of {self._bounds.rounds}: {settings.text}"
                self._again(kinds[settings], settings, title, number)

    def _again(self, kind: Kind, settings: Settings, title: str, number: int = 0) -> None:
        scores: list[Score] = []

        def longest(note: Note) -> State:
            scores.append(self._measure(settings, RUNGS[-1] * self._bounds.base_s, note))
            return "complete"

        self._add(self._timed(kind, settings, title, scores, longest, number))

    def _timed(
        self,
        kind: Kind,
        settings: Settings,
        title: str,
        scores: list[Score],
        act: Callable[[Note], State],
        number: int = 0,
    ) -> Trial:
        begin, reason = self._clock(), ""
        with self._progress.step(title) as step:
            try:
                state = act(step.note)
            except Invalid as error:
                state, reason = "invalid", str(error)
                scores.clear()
            step.done(_result(state, scores, reason))
        return Trial(kind, settings, state, tuple(scores), reason, round(self._clock() - begin, 3), number)

    def _add(self, trial: Trial) -> None:
        self.trials.append(trial)
        self._keep(trial)


def _result(state: State, scores: Sequence[Score], reason: str) -> str:
    if state == "invalid":
        return f"invalid: {reason}"
    last = scores[-1]
    text = f"{last.goodput_s:,.0f} requests/s, p99 {last.p99_ms:.3g} ms"
    return f"{text}, pruned" if state == "pruned" else text

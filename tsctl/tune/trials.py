"""What was measured: trials of the search, the best one measured again, and rounds of present against chosen. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tsctl.tune.objective import Score
from tsctl.tune.space import Settings

#: complete: measured in every rung. pruned: worse than others after a cheap rung. invalid: must not serve, or failed.
State = Literal["complete", "pruned", "invalid"]
#: search: a trial. promoted: a pruned one that was measured to the end after all. repeat: the best one again, for the
#: machine's drift. before, after: the rounds of the proof.
Kind = Literal["search", "promoted", "repeat", "before", "after"]

#: Share of the best goodput of the shortest rung that is about as good, as noise goes.
AS_GOOD = 0.9


@dataclass(frozen=True)
class Trial:
    """One point that was measured."""

    kind: Kind
    settings: Settings
    state: State
    scores: tuple[Score, ...]  # of the rungs, the shortest first
    reason: str = ""  # of an invalid one
    took_s: float = 0.0  # with registration and all loads
    round: int = 0  # of the proof

    @property
    def goodput_s(self) -> float:
        """Requests/s within the limit, by the longest rung; 0 of an invalid one."""
        return self.scores[-1].goodput_s if self.scores else 0.0

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "scores": [score.as_json() for score in self.scores]}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Trial:
        """The trial that `as_json` wrote."""
        scores = tuple(map(Score.from_json, content["scores"]))
        if not scores and content["state"] != "invalid":
            raise ValueError("a trial without scores")
        return cls(**{**content, "settings": Settings(**content["settings"]), "scores": scores})


def searched(trials: Sequence[Trial]) -> list[Trial]:
    """The trials of the search."""
    return [trial for trial in trials if trial.kind == "search"]


def complete(trials: Sequence[Trial]) -> list[Trial]:
    """Those that were measured in every rung, at once or later."""
    return [trial for trial in trials if trial.kind in ("search", "promoted") and trial.state == "complete"]


def promising(trials: Sequence[Trial], most: int) -> list[Settings]:
    """The pruned ones that were about as good in the shortest rung as the best one there; the best of them first.

    A short load is a noisy judge, so the best that it sent home are heard again.

    Args:
        most: that are named.
    """
    known = {trial.settings for trial in complete(trials)}
    best = incumbent(trials)
    least = AS_GOOD * best.scores[0].goodput_s if best else 0.0
    pruned = [trial for trial in searched(trials) if trial.state == "pruned" and trial.settings not in known]
    good = sorted((trial for trial in pruned if trial.goodput_s > least), key=lambda trial: -trial.goodput_s)
    return [trial.settings for trial in good[:most]]


def incumbent(trials: Sequence[Trial]) -> Trial | None:
    """The best one of them so far; None before there is one."""
    return max(complete(trials), key=lambda trial: trial.goodput_s, default=None)

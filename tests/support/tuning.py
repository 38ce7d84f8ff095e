"""Searches as they could have been measured: a space, scores and trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tsctl.host.progress import Note
from tsctl.tune.objective import Score
from tsctl.tune.space import BATCHES, Settings, Space, make_space
from tsctl.tune.trials import Kind, State, Trial

PRESENT = Settings("uvicorn", 32, 1, 1, 1)
SLO_MS = 50.0


def space(
    cores: int = 2,
    engines: Sequence[str] = ("uvicorn",),
    waiting: Sequence[str] = (),
    batches: Sequence[int] = BATCHES,
) -> Space:
    """A space around PRESENT."""
    return make_space(PRESENT, engines, waiting, cores, {}, batches)


def score(goodput_s: float, p99_ms: float = 20.0, seconds: float = 3.0) -> Score:
    """The score of a load whose capacity is a tenth more."""
    return Score(seconds, goodput_s * 1.1, goodput_s, p99_ms, 300 << 20)


def trial(
    settings: Settings,
    goodput_s: float,
    p99_ms: float = 20.0,
    kind: Kind = "search",
    state: State = "complete",
    number: int = 0,
) -> Trial:
    """A trial with one score."""
    scores = () if state == "invalid" else (score(goodput_s, p99_ms),)
    return Trial(kind, settings, state, scores, "must not serve" if state == "invalid" else "", 4.0, number)


def measure_of(goodput: Callable[[Settings], float]) -> Callable[[Settings, float, Note], Score]:
    """A measurer whose points have this goodput, whatever the seconds."""
    return lambda settings, seconds, note: score(goodput(settings), seconds=seconds)

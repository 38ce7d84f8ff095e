"""Chooses: the frontier, the settings to prove, and whether they are better than the present ones. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tsctl.tune.space import Settings
from tsctl.tune.trials import Trial, complete, searched

#: Points this close to the best goodput are as good: among them, the one with the fewest changes is chosen.
NEARLY = 0.97
#: Rounds of the proof. Two equal settings win all of five in one of 32 cases.
ROUNDS = 5
#: Share of the machine from which on other programs disturb what is measured.
BUSY = 0.1
#: The least gain that is worth a change.
LEAST_GAIN = 1.03


def frontier(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that no other one beats: none has as much goodput with a lower p99; by goodput, the least first."""
    kept: list[Trial] = []
    for trial in sorted(complete(trials), key=lambda one: (-one.goodput_s, one.scores[-1].p99_ms)):
        if trial.goodput_s > 0 and (not kept or trial.scores[-1].p99_ms < kept[-1].scores[-1].p99_ms):
            kept.append(trial)
    return kept[::-1]


def choose(trials: Sequence[Trial], present: Settings) -> Trial | None:
    """The trial to prove: of those nearly as good as the best, the one nearest to the present settings.

    Returns:
        None where no settings keep the limit.
    """
    good = [trial for trial in complete(trials) if trial.goodput_s > 0]
    best = max((trial.goodput_s for trial in good), default=0.0)
    near = [trial for trial in good if trial.goodput_s >= NEARLY * best]
    return min(
        near,
        key=lambda trial: (len(trial.settings.changes(present)), trial.settings.workers, -trial.goodput_s),
        default=None,
    )


@dataclass(frozen=True)
class Drift:
    """How differently the machine answered for the same settings in one search."""

    repeats: int
    most: float  # the largest ratio between two of its measurements, at least 1

    @property
    def sentence(self) -> str:
        """In words."""
        if not self.repeats:
            return "The best settings were not measured again, so the machine's drift is unknown."
        return (
            f"The best settings so far were measured again ({self.repeats} in all): the same settings differed by up to"
            f" {self.most - 1:.0%}."
        )


def drift(trials: Sequence[Trial]) -> Drift:
    """The drift, by the repeated measurements of a point."""
    ratios = [1.0]
    for trial in (one for one in trials if one.kind == "repeat"):
        first = next((one for one in complete(trials) if one.settings == trial.settings), None)
        if first is not None and first.goodput_s > 0 and trial.goodput_s > 0:
            ratios.append(max(first.goodput_s / trial.goodput_s, trial.goodput_s / first.goodput_s))
    return Drift(len(ratios) - 1, max(ratios))


def others(trials: Sequence[Trial]) -> float:
    """Share of the machine that other programs took, the median of all measurements."""
    shares = [score.others for trial in trials for score in trial.scores]
    return median(shares) if shares else 0.0


@dataclass(frozen=True)
class Verdict:
    """Whether the chosen settings are better.

    Args:
        before_s, after_s: medians of the goodput, requests/s; None where no round was measured.
        gain: median of the rounds' ratios; None also where the present settings keep the limit at no load.
        wins: rounds in which the chosen settings were better.
    """

    chosen: Settings | None
    is_better: bool
    sentence: str
    before_s: float | None = None
    after_s: float | None = None
    gain: float | None = None
    wins: int = 0
    rounds: int = 0


def verdict(trials: Sequence[Trial], present: Settings, slo_ms: float) -> Verdict:
    """Compare both settings round by round, as the machine was in each of them.

    The chosen settings must win every round, ROUNDS at least, and gain LEAST_GAIN: what is not beyond noise is no
    reason to change anything.
    """
    chosen = choose(trials, present)
    if chosen is None:
        sentence = f"No settings kept a p99 of {slo_ms:g} ms even at a quarter of their capacity: allow more"
        return Verdict(None, False, f"{sentence}, or use a smaller model or another machine.")
    if chosen.settings == present:
        return Verdict(present, False, f"Keep what you have: none of {len(searched(trials))} trials was better.")
    pairs = rounds_of(trials, chosen.settings)
    if not pairs:
        return Verdict(chosen.settings, False, "The search ended before the chosen settings were proved; --resume it.")
    wins = sum(after > before for before, after in pairs)
    ratios = [after / before for before, after in pairs if before > 0]
    gain = median(ratios) if len(ratios) == len(pairs) else None
    before_s, after_s = (median(values) for values in zip(*pairs, strict=True))
    is_better = wins == len(pairs) >= ROUNDS and (gain is None or gain >= LEAST_GAIN)
    words = f"{_number(after_s)} requests/s with a p99 of at most {slo_ms:g} ms, and {_number(before_s)} before"
    if is_better:
        by = f" ({gain:.2f} times as many)" if gain else ""
        sentence = f"Change to {chosen.settings.text}: {words}{by}; better in each of {len(pairs)} rounds."
    elif wins == len(pairs) < ROUNDS:
        sentence = f"Keep what you have: {len(pairs)} rounds prove nothing, {ROUNDS} are needed; allow more minutes."
    else:
        sentence = (
            f"Keep what you have: {chosen.settings.text} was the best of the search, and better in {wins} of"
            f" {len(pairs)} rounds ({words}), which is within noise."
        )
    return Verdict(chosen.settings, is_better, sentence, before_s, after_s, gain, wins, len(pairs))


def rounds_of(trials: Sequence[Trial], chosen: Settings) -> list[tuple[float, float]]:
    """Goodput before and after, of each whole round with these chosen settings."""
    before = {trial.round: trial.goodput_s for trial in trials if trial.kind == "before"}
    after = {t.round: t.goodput_s for t in trials if t.kind == "after" and t.settings == chosen}
    return [(before[number], after[number]) for number in sorted(before.keys() & after.keys())]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"

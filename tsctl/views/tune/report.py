"""Shows a search: for a terminal, and as one HTML file that needs nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from tsctl.errors import AnalysisError
from tsctl.host.files import write_public
from tsctl.tune.result import Tuned
from tsctl.tune.trials import Trial, complete, searched
from tsctl.views.html import render
from tsctl.views.plot import Line, Plot, amounts, powers
from tsctl.views.table import Table

_MIB = 1 << 20
NONE = "-"


def setting_line(tuned: Tuned) -> str:
    """What was searched, in a sentence."""
    setting, counts = tuned.setting, tuned.counts
    tried = sum(counts.values())
    return (
        f"{setting.model} {setting.version} ({setting.digest}): {tried} of {setting.space.size} combinations tried,"
        f" {counts['complete']} to the end, {counts['pruned']} pruned, {counts['invalid']} invalid; loads of"
        f" {setting.base_s:.3g} s and longer, {setting.connections} connections in the closed loop."
    )


def trials_table(tuned: Tuned) -> Table:
    """Every trial of the search; the best first, invalid ones last."""
    frontier = [trial.settings for trial in tuned.frontier]
    longest = {trial.settings: trial for trial in complete(tuned.trials)}
    found = [longest.get(trial.settings, trial) for trial in searched(tuned.trials)]
    trials = sorted(found, key=lambda trial: (trial.state == "invalid", -trial.goodput_s))
    columns = (
        "settings", ">requests/s", ">p99 ms", ">saturated/s", ">memory MiB", "outcome",
    )  # fmt: skip
    return Table(columns, [_row(trial, tuned, frontier) for trial in trials])


def rounds_table(tuned: Tuned) -> Table:
    """The rounds of the proof."""
    numbers = sorted({trial.round for trial in tuned.trials if trial.round})
    of = {(trial.kind, trial.round): trial.goodput_s for trial in tuned.trials}
    rows = [
        [str(place), number(of.get(("before", at))), number(of.get(("after", at)))]
        for place, at in enumerate(numbers, 1)
    ]
    return Table((">round", ">before, requests/s", ">after, requests/s"), rows)


def plots(tuned: Tuned) -> Iterator[Plot]:
    """Yield the frontier; nothing where no trial kept the limit."""
    good = [trial for trial in complete(tuned.trials) if trial.goodput_s > 0]
    if not good:
        return
    slo = tuned.setting.slo_p99_ms
    heights = [_height(trial) for trial in good]
    x = amounts(max(trial.goodput_s for trial in good))
    y = powers(min([*heights, math.log10(slo)]), max([*heights, math.log10(slo)]))
    frontier = [(trial.goodput_s, _height(trial)) for trial in tuned.frontier]
    present = [trial for trial in good if trial.settings == tuned.setting.present]
    lines = [
        Line("frontier", "frontier", frontier),
        Line("trial", "tried", _dots([trial for trial in good if trial not in present])),
        *([Line("present settings", "present", _dots(present))] if present else []),
        Line("limit", "threshold", [(x.low, math.log10(slo)), (x.high, math.log10(slo))], f"{slo:g} ms"),
    ]
    note = (
        "p99 in milliseconds (logarithmic) over requests/s, at the largest load of each trial that kept the limit; to"
        " the right and down is better. No trial beats one on the frontier in both."
    )
    yield Plot("Goodput against p99", note, x, y, lines)


def lines(tuned: Tuned) -> list[str]:
    """The result for a terminal."""
    rounds = rounds_table(tuned)
    shown = [setting_line(tuned), "", *trials_table(tuned).lines()]
    if rounds.rows:
        shown += ["", "Present settings against the best of the search, in turn:", *rounds.lines()]
    return [*shown, "", tuned.verdict.sentence, *tuned.lines_of_limits]


def render_report(tuned: Tuned) -> str:
    """Render the whole page."""
    setting, rounds = tuned.setting, rounds_table(tuned)
    tables = {"Trials": trials_table(tuned), **({"Proof": rounds} if rounds.rows else {})}
    return render(
        "tune.html",
        title=f"Settings for {setting.model} {setting.version}",
        setting=setting_line(tuned),
        is_clear=tuned.verdict.is_better,
        sentence=tuned.verdict.sentence,
        limits=tuned.lines_of_limits,
        plots=list(plots(tuned)),
        tables=tables,
        space=setting.space.lines(),
        machine={name: str(value) for name, value in setting.machine.items()},
    )


def write_report(path: Path, tuned: Tuned) -> None:
    """Write the page, and the JSON beside it; readers see the old files or the whole new ones.

    Raises:
        AnalysisError: they cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_public(path, render_report(tuned))
        write_public(path.with_suffix(".json"), json.dumps(tuned.as_json(), indent=2) + "\n")
    except OSError as error:
        raise AnalysisError(f"{path} cannot be written: {error.strerror}", "Give another file with --out.") from None


def number(value: float | None) -> str:
    """A number with as many digits as a person reads."""
    if value is None:
        return NONE
    if math.isinf(value):
        return "failed"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _row(trial: Trial, tuned: Tuned, frontier: Sequence[object]) -> list[str]:
    last = trial.scores[-1] if trial.scores else None
    marks = [
        *(["present"] if trial.settings == tuned.setting.present else []),
        *(["frontier"] if trial.settings in frontier and trial.state == "complete" else []),
    ]
    outcome = {"complete": ", ".join(marks), "pruned": ", ".join(["pruned", *marks])}.get(trial.state)
    return [
        trial.settings.text,
        number(last.goodput_s if last else None),
        number(last.p99_ms if last else None),
        number(last.capacity_s if last else None),
        number(last.memory_bytes / _MIB if last else None),
        f"invalid: {trial.reason}" if outcome is None else outcome,
    ]


def _height(trial: Trial) -> float:
    return math.log10(max(trial.scores[-1].p99_ms, 1e-3))


def _dots(trials: Sequence[Trial]) -> list[tuple[float, float | None]]:
    """The trials as points that no line joins."""
    points: list[tuple[float, float | None]] = []
    for trial in trials:
        points += [(trial.goodput_s, _height(trial)), (trial.goodput_s, None)]
    return points

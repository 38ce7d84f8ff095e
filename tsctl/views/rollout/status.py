"""Shows where a rollout stands, on a terminal or as plain text: one picture of both versions and every signal."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tsctl.config.weights import TOTAL, percent
from tsctl.gateway.traffic import CANARY, STABLE
from tsctl.rollout.decide.events import Outcome
from tsctl.rollout.decide.evidence import OutcomeCounts
from tsctl.rollout.decide.judge import MOST_REQUESTS, Judgement, Rate, Reading, Verdict
from tsctl.rollout.decide.state import State
from tsctl.views.rollout.follow import Snapshot
from tsctl.views.rollout.narrative import outcome, progress, reason, where_of
from tsctl.views.rollout.wording import duration, e_text, interval_text, rate_text

#: Without a new entry for so long, nobody seems to run the rollout; a runner writes one every few seconds.
SILENT_S = 30.0
BAR_WIDTH = 16

_COLOURS = {Outcome.PROMOTED: "green", Outcome.ROLLED_BACK: "red", Outcome.ABORTED: "yellow"}


def picture(now: Snapshot, clock: float) -> RenderableType:
    """Everything that is known, without a blank line at either end.

    Args:
        clock: seconds since 1970.
    """
    state, judgement = now.state, now.state.judgement
    return Group(
        _heading(state),
        _condition(state, clock - now.written_at),
        *_outlook(now, judgement),
        Text(),
        versions_table(state, now.rates),
        Text(),
        rates_table(state.stable, state.canary, judgement.readings),
        Text(),
        signals_table(judgement, state.policy.alpha),
    )


def signals_table(judgement: Judgement, alpha: float) -> Table:
    """E-values, each with the threshold that it reaches the average's with if all others were 0, and the average."""
    table = _table("signal", ">e-value", ">threshold", ">share", "on its way there", ">")
    for reading in judgement.readings:
        limit = -log(alpha * reading.share)
        name = f"{reading.signal} ({reading.about})" if reading.about else reading.signal
        table.add_row(name, e_text(reading.log_e), e_text(limit), f"{reading.share:.1%}", *_way(reading.log_e, limit))
    limit = -log(alpha)
    table.add_row("average", e_text(judgement.log_e), e_text(limit), "", *_way(judgement.log_e, limit), style="bold")
    return table


def versions_table(state: State, rates: tuple[float, float] | None) -> Table:
    """Requests of both versions since the evidence began."""
    table = _table("version", "track", ">weight", ">requests", ">a second")
    for row, (version, track, seen, weight) in enumerate(_versions(state)):
        each = "-" if rates is None else f"{rates[row]:,.1f}"
        table.add_row(version, track, percent(weight), f"{seen.requests:,}", each)
    return table


def rates_table(stable: str, canary: str, readings: Sequence[Reading]) -> Table:
    """What both versions' requests came to, as rates with intervals, for every signal that is judged."""
    table = _table("requests that are", "version", ">count", ">of", ">rate", "interval")
    named = {reading.signal: reading for reading in readings}
    if "errors" in named:
        named.pop("limit", None)  # it has the same counts
    for reading in named.values():
        if reading.signal != "disagreement":
            _add_rate(table, _what(reading), stable, reading.stable)
            _add_rate(table, "", canary, reading.canary)
        else:
            _add_rate(table, _what(reading), canary, reading.canary)
    return table


def _add_rate(table: Table, what: str, version: str, rate: Rate) -> None:
    table.add_row(what, version, f"{rate.events:,}", f"{rate.requests:,}", rate_text(rate), interval_text(rate))


def _what(reading: Reading) -> str:
    whats = {
        "limit": "errors",
        "mix": f"predicted as {reading.about or 'a class'}",
        "disagreement": "answered otherwise",
    }
    return whats.get(reading.signal, reading.signal)


def _versions(state: State) -> tuple[tuple[str, str, OutcomeCounts, int], ...]:
    """Version, track, counts and weight of both."""
    evidence = state.evidence
    return (
        (state.stable, STABLE, evidence.stable, TOTAL - state.weight),
        (state.canary, CANARY, evidence.canary, state.weight),
    )


def seconds_left(now: Snapshot, judgement: Judgement) -> float | None:
    """Until the present step can pass at the present rate, if nothing speaks against it; None where nobody can say."""
    hold = max(0.0, now.state.policy.hold_s - now.state.held_s)
    if not judgement.needed:
        return hold
    if now.rates is None or not now.rates[1] or judgement.needed >= MOST_REQUESTS:
        return None
    return max(hold, judgement.needed / now.rates[1])


def _heading(state: State) -> Text:
    return Text.assemble((f"{state.model}: {state.canary} against {state.stable}", "bold"), ("  " + state.id, "dim"))


def _condition(state: State, silent_s: float) -> Text:
    if state.outcome is not None:
        return Text(outcome(state), style=_COLOURS[state.outcome])
    if state.is_going_back:
        text = Text(outcome(state), style="red")
    elif state.step < 0:
        text = Text(f"before the first step: {progress(state)}")
    else:
        text = Text(f"{where_of(state)}, held for {duration(state.held_s)} of {duration(state.policy.hold_s)}")
    if state.is_paused:
        text.append(f"\npaused; it goes on by: tsctl rollout resume {state.model}", style="yellow")
    if state.waits_for and state.step >= 0:
        text.append(f"\nholds: {state.waits_for}", style="yellow")
    if silent_s > SILENT_S:
        text.append(f"\nnothing was written for {duration(silent_s)}; ", style="yellow")
        text.append(f"where no tsctl runs it, it goes on by: tsctl rollout resume {state.model}", style="yellow")
    return text


def _outlook(now: Snapshot, judgement: Judgement) -> list[RenderableType]:
    """What is still needed; nothing where the step is not being watched."""
    state = now.state
    if state.outcome is not None or state.is_failed or state.step < 0:
        return []
    left = seconds_left(now, judgement)
    text = f"{judgement.verdict.value}: {reason(state, judgement)}"
    if judgement.verdict is Verdict.UNDECIDED and judgement.needed:
        if left is not None:
            text += f", {duration(left)} at the present rate"
        elif now.rates is not None and not now.rates[1]:
            text += ", and none comes now"
    return [Text(text, style="red" if judgement.verdict is Verdict.FAIL else "")]


def _way(log_e: float, limit: float) -> tuple[RenderableType, str]:
    """How much of the way from 1 to its threshold an e-value has come, in powers of ten; a bar and a number."""
    share = min(1.0, max(0.0, log_e / limit))
    colour = "red" if share >= 1 else "yellow" if share >= 0.5 else "green"
    bar = ProgressBar(1.0, share, width=BAR_WIDTH, complete_style=colour, finished_style=colour)
    return bar, "reached" if share >= 1 else f"{int(share * 100)}%"


def _table(*names: str) -> Table:
    """Without lines, as all tables of tsctl are; a name that begins with > stands over numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for name in names:
        title = name.removeprefix(">")
        table.add_column(title.upper(), justify="right" if title != name else "left", no_wrap=True)
    return table

"""Renders where a rollout stands, for a terminal: heading, condition, what is still needed, counts, e-values. Pure."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from tsctl.rollout.decide.events import Outcome
from tsctl.rollout.decide.judge import MOST_REQUESTS, Judgement, Verdict
from tsctl.rollout.decide.state import State
from tsctl.views.rollout.follow import Snapshot
from tsctl.views.rollout.gaps import gaps
from tsctl.views.rollout.outlook import outcome, progress, reason, where_of
from tsctl.views.rollout.tables import clients_tables, evidence_tables, versions_table
from tsctl.views.rollout.wording import duration
from tsctl.views.terminal import render_table

#: A runner writes an entry every few seconds; after this time without one it seems to have ended.
SILENT_S = 30.0

_COLOURS = {Outcome.PROMOTED: "green", Outcome.ROLLED_BACK: "red", Outcome.ABORTED: "yellow"}


def render_status(now: Snapshot, clock: float) -> RenderableType:
    """Render a rollout, without a blank line at either end.

    Args:
        clock: seconds since 1970.
    """
    state, judgement = now.state, now.state.judgement
    lines = [
        _heading(state),
        _condition(state),
        *_notices(state, clock - now.written_at),
        *_outlook(now, judgement),
        *map(Text, gaps(state)),
    ]
    if state.outcome is not None and not judgement.readings:
        lines.append(Text(judgement.why))
    versions = versions_table(state, now.rates if state.outcome is None else None)
    evidence = evidence_tables(judgement, state.policy.alpha, state.stable, state.canary)
    tables = [versions, *evidence, *clients_tables(state)]
    return Group(*lines, *(part for table in tables for part in (Text(), render_table(table))))


def seconds_left(now: Snapshot, judgement: Judgement) -> float | None:
    """Seconds until the present step can pass at the present rate without an error; None if unknown."""
    hold = max(0.0, now.state.policy.hold_s - now.state.held_s)
    if not judgement.needed:
        return hold
    if now.rates is None or not now.rates[1] or judgement.needed >= MOST_REQUESTS:
        return None
    return max(hold, judgement.needed / now.rates[1])


def _heading(state: State) -> Text:
    return Text.assemble((f"{state.model}: {state.canary} against {state.stable}", "bold"), ("  " + state.id, "dim"))


def _condition(state: State) -> Text:
    if state.outcome is not None:
        return Text(outcome(state), style=_COLOURS[state.outcome])
    if state.is_going_back:
        return Text(outcome(state), style="red")
    if state.step < 0:
        return Text(f"before the first step: {progress(state)}")
    return Text(f"{where_of(state)}, held {duration(state.held_s)} (minimum {duration(state.policy.hold_s)})")


def _notices(state: State, silent_s: float) -> list[Text]:
    """What keeps a rollout that has not ended from going on."""
    if state.outcome is not None:
        return []
    notices = []
    if state.is_paused:
        notices.append(f"paused; to go on: tsctl rollout resume {state.model}")
    if state.waits_for and state.step >= 0:
        notices.append(f"waiting: {state.waits_for}")
    if silent_s > SILENT_S:
        notices.append(
            f"no journal entry for {duration(silent_s)}; if no tsctl runs it: tsctl rollout resume {state.model}"
        )
    return [Text(notice, style="yellow") for notice in notices]


def _outlook(now: Snapshot, judgement: Judgement) -> list[Text]:
    """The verdict on the present step, and what it still needs; empty while no step is watched."""
    state = now.state
    if state.outcome is not None or state.is_failed or state.step < 0:
        return []
    text = f"{judgement.verdict.value}: {reason(state, judgement)}"
    if judgement.verdict is Verdict.UNDECIDED and judgement.needed:
        left = seconds_left(now, judgement)
        if left is not None:
            text += f", {duration(left)} at the present rate"
        elif now.rates is not None and not now.rates[1]:
            text += ", and there is no traffic now"
    return [Text(text, style="red" if judgement.verdict is Verdict.FAIL else "")]

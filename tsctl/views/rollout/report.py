"""Writes a rollout as one HTML file that needs nothing else: no network, no script, no font, no second file.

Invariant: every value from a journal is escaped, and the page's own policy forbids the browser to load anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo
from functools import partial
from pathlib import Path

from tsctl.errors import AnalysisError
from tsctl.host.files import write_secret
from tsctl.rollout.decide.events import Entry
from tsctl.rollout.decide.fold import after, start_of
from tsctl.rollout.decide.state import State
from tsctl.views.html import render
from tsctl.views.rollout.figures import plots
from tsctl.views.rollout.history import summary
from tsctl.views.rollout.narrative import Narrator
from tsctl.views.rollout.series import Series
from tsctl.views.rollout.tables import clients_tables, evidence_tables, policy_table
from tsctl.views.rollout.wording import duration, signal_name, when

SUFFIX = ".html"


def write_report(path: Path, entries: Sequence[Entry]) -> None:
    """Write the report of these entries; readers see the old file or the whole new one.

    Raises:
        AnalysisError: there are no entries, or the file cannot be written.
    """
    if not entries:
        raise AnalysisError(f"{path.stem} has no entries yet, so there is nothing to report")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_secret(path, render_report(entries))
    except OSError as error:
        raise AnalysisError(f"{path} cannot be written: {error}", "Is the disk full?") from error


def render_report(entries: Sequence[Entry], zone: tzinfo | None = None) -> str:
    """Render the whole page.

    Args:
        entries: from the first one on; a rollout that has not ended is shown as it is now.
        zone: of all times; None: that of this machine.

    Raises:
        ValueError: the journal does not begin with a start.
    """
    narrator, series = Narrator(), Series()
    state: State | None = None
    for entry in entries:
        state = after(state, entry)
        narrator.narrate(entry, state)
        series.add(entry, state)
    if state is None:
        raise ValueError("a rollout's journal begins with its start")
    return render(
        "rollout_report.html",
        state=state,
        story=narrator.story,
        facts=_facts(entries, state, zone),
        plots=list(plots(state, series)),
        policy=policy_table(state.policy),
        clients_tables=clients_tables(state),
        evidence_tables=partial(evidence_tables, stable=state.stable, canary=state.canary),
        began=when(state.started_at, zone),
        when=partial(when, zone=zone),
        duration=duration,
    )


def _facts(entries: Sequence[Entry], state: State, zone: tzinfo | None) -> dict[str, str]:
    rollout, start = summary(entries), start_of(entries)
    return {
        "Started": when(rollout.began_at, zone),
        "Ended" if rollout.ended_at else "Last entry": when(entries[-1].at, zone),
        "Duration": duration(rollout.lasted_s),
        "Started by": start.by or "-",
        "Requests of the canary": f"{rollout.requests:,}",
        "Failed by": signal_name(rollout.signal) or "-",
        "Nodes": ", ".join(start.nodes) or "-",
        "Archive": state.archive,
        "Policy": state.policy.digest,
    }

"""Watches a rollout's journal until it ends: as a picture that is refreshed, or a line for each event."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console
from rich.live import Live

from tsctl.rollout.decide.fold import after
from tsctl.rollout.decide.state import State
from tsctl.views.rollout.follow import new_entries, snapshot
from tsctl.views.rollout.narrative import Narrator
from tsctl.views.rollout.outlook import outcome
from tsctl.views.rollout.status import render_status
from tsctl.views.rollout.wording import when

#: Seconds between two looks into the journal.
WATCH_S = 0.5


def watch_picture(path: Path, console: Console, refresh: Callable[[], None] = lambda: None) -> State:
    """Keep the status fresh on a terminal until the rollout ends; return its last state."""
    journal, now = new_entries(path, refresh), None
    with Live(console=console, auto_refresh=False) as live:
        while True:
            now = snapshot(next(journal), now)
            if now is not None:
                live.update(render_status(now, time.time()), refresh=True)
                if now.state.outcome is not None:
                    return now.state
            time.sleep(WATCH_S)


def watch_lines(path: Path, is_json: bool, refresh: Callable[[], None] = lambda: None) -> State:
    """Print a line for each event until the rollout ends; return its last state."""
    journal, narrator = new_entries(path, refresh), Narrator()
    while True:
        for entry in next(journal):
            for line in narrator.narrate(entry, after(narrator.state, entry)):
                typer.echo(json.dumps(asdict(line)) if is_json else f"{when(line.at)}  {line.text}")
        if narrator.state is not None and narrator.state.outcome is not None:
            if not is_json:
                typer.echo(outcome(narrator.state))
            return narrator.state
        time.sleep(WATCH_S)

"""Without a terminal, a running step prints its note now and then, and does not repeat itself."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tsctl.host.progress import PLAIN_INTERVAL_S, SAME_INTERVAL_S, Progress


def test_the_same_note_is_not_printed_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("tsctl.host.progress.time.monotonic", lambda: now)
    out = io.StringIO()
    with Progress(Console(file=out)).step("work") as step:
        for second in range(1, 200):
            now = float(second)
            step.note("the same" if second < 150 else f"second {second}")
    lines = [line.strip() for line in out.getvalue().splitlines()]
    same = [line for line in lines if line == "work: the same"]
    assert len(same) == 1 + int((149 - PLAIN_INTERVAL_S) // SAME_INTERVAL_S)
    assert len([line for line in lines if line.startswith("work: second")]) == 50 // PLAIN_INTERVAL_S

"""Shows what became of replayed requests. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from tsctl.capture.replay import LATE_MS, Summary
from tsctl.views.table import Table


def summary_lines(summary: Summary) -> Iterator[str]:
    """The summary for a terminal."""
    columns = (
        ">sent",
        ">of",
        *(f">{status}" for status in summary.answered),
        ">p50 ms",
        ">p90 ms",
        ">p99 ms",
        ">most ms",
    )
    times = (summary.p50_ms, summary.p90_ms, summary.p99_ms, summary.most_ms)
    counts = (summary.sent, summary.requests, *summary.answered.values())
    yield from Table(columns, [[*(f"{count:,}" for count in counts), *map(_milliseconds, times)]]).lines()
    yield (
        f"{summary.sent:,} requests in {summary.seconds:.1f} s; latency counts from the time at which a request was to"
        " be sent, and one that was not answered with 200 is the slowest."
    )
    if summary.late:
        yield (
            f"{summary.late:,} were sent more than {LATE_MS:g} ms late (p99 {summary.late_p99_ms:,.1f} ms): the server"
            " had too many under way, or this machine was busy."
        )
    if summary.is_interrupted:
        yield f"interrupted: {summary.requests - summary.sent:,} were not sent."


def _milliseconds(value: float | None) -> str:
    return "failed" if value is None else f"{value:,.1f}"

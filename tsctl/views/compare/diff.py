"""Shows how the answers of two archives differ: tables, JSON, and one HTML file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tsctl.compare.archives import ArchiveDiff
from tsctl.compare.diff import JUDGED, Compared, Latency, Rate, Side
from tsctl.compare.statistics import percentile
from tsctl.config.weights import percent
from tsctl.errors import AnalysisError, printable
from tsctl.host.files import write_secret
from tsctl.views.html import render
from tsctl.views.plot import Line, Plot, percents, powers
from tsctl.views.table import Table

#: Flips that are shown, the most frequent; --json has all.
FLIPS = 10
#: Points of a line of latencies.
_POINTS = 100


def verdict(result: ArchiveDiff, limit: int) -> str:
    """The result in a sentence.

    Args:
        limit: of the disagreement, in hundredths of a percent.
    """
    worst = max(JUDGED, key=lambda kind: result.diff.rates[kind].share)
    rate = result.diff.rates[worst]
    within = "is within" if is_within(result, limit) else "exceeds"
    kind = type(result.diff.comparator).__name__.lower()
    return (
        f"{result.new.title} answered {rate.differing:,} of {rate.of:,} requests ({rate.share:.2%}) differently from"
        f" {result.old.title}{', in a batch' if worst is Compared.BATCH else ''} (by {kind}): that {within}"
        f" the limit of {percent(limit)}."
    )


def is_within(result: ArchiveDiff, limit: int) -> bool:
    """Whether no more than `limit` hundredths of a percent of the answers differ, alone and in batches."""
    return all(rate.differing * 10_000 <= limit * rate.of for rate in map(result.diff.rates.__getitem__, JUDGED))


def setting_line(result: ArchiveDiff) -> str:
    """What was compared, and with what."""
    old, new = result.old, result.new
    return f"{old.title} ({old.digest}) and {new.title} ({new.digest}), {result.source}, batches of {result.batch}."


def rate_table(result: ArchiveDiff) -> Table:
    """Shares of differing answers, of both archives and of each with itself."""
    rows = [_rate_row(kind, rate) for kind, rate in result.diff.rates.items() if rate.of]
    if result.diff.values.of:
        rows.insert(1, _rate_row("new with old, any value beyond the tolerance", result.diff.values))
    return Table(("compared", ">requests", ">differ", ">share", ">95 % interval"), rows)


def status_table(result: ArchiveDiff) -> Table:
    """Requests by the status with which each archive answered them."""
    statuses = sorted(result.diff.old.statuses | result.diff.new.statuses)
    rows = [(name.title, *(f"{side.statuses[s]:,}" for s in statuses)) for name, side in _sides(result)]
    return Table(("archive", *(f">{status}" for status in statuses)), rows)


def latency_table(result: ArchiveDiff) -> Table:
    """Milliseconds in the worker, alone and for one request of a full batch."""
    rows = [
        (name.title, how, *(f"{value:.3f}" for value in (times.p50, times.p90, times.p99, times.most)))
        for name, side in _sides(result)
        for how, times in (("alone", side.alone), ("of a batch", side.in_batch))
        if times is not None
    ]
    return Table(("archive", "request", ">p50 ms", ">p90 ms", ">p99 ms", ">most ms"), rows)


def flip_table(result: ArchiveDiff) -> Table:
    """The most frequent changes of the label."""
    rows = [(printable(a), printable(b), f"{n:,}") for (a, b), n in result.diff.flips.most_common(FLIPS)]
    return Table(("old label", "new label", ">requests"), rows)


def example_table(result: ArchiveDiff) -> Table:
    """Requests whose answers differ."""
    rows = [tuple(map(printable, (e.request, e.about, e.old, e.new))) for e in result.diff.examples]
    return Table(("request", "difference", "old answer", "new answer"), rows)


def lines(result: ArchiveDiff, limit: int) -> Iterator[str]:
    """The result for a terminal."""
    yield setting_line(result)
    for heading, table in _tables(result).items():
        yield from ("", f"{heading}:", *table.lines())
    if result.diff.examples:
        yield from ("", "Examples (--json and --html have the answers):")
        yield from (f"  {printable(e.request)}: {printable(e.about)}" for e in result.diff.examples[:FLIPS])
    yield from ("", verdict(result, limit))


def document(result: ArchiveDiff, limit: int) -> dict[str, Any]:
    """The result as JSON values."""
    diff = result.diff
    return {
        "old": asdict(result.old),
        "new": asdict(result.new),
        "source": result.source,
        "batch": result.batch,
        "comparator": type(diff.comparator).__name__.lower(),
        "max_disagreement": limit / 10_000,
        "is_within": is_within(result, limit),
        "requests": diff.requests,
        "disagreement": diff.disagreement,
        "rates": {kind.name.lower(): _rate(rate) for kind, rate in diff.rates.items() if rate.of},
        "values": _rate(diff.values) if diff.values.of else None,
        "statuses": {kind: {str(s): n for s, n in sorted(side.statuses.items())} for kind, side in _kinds(result)},
        "flips": [{"old": old, "new": new, "requests": n} for (old, new), n in diff.flips.most_common()],
        "distances": _quantiles(diff.distances),
        "latency_ms": {
            kind: {"alone": asdict(side.alone), "in_batch": _latency(side.in_batch)} for kind, side in _kinds(result)
        },
        "examples": [asdict(example) for example in diff.examples],
    }


def write_diff(path: Path, result: ArchiveDiff, limit: int) -> None:
    """Write the page; only its owner may read it, because it has answers to real requests.

    Raises:
        AnalysisError: it cannot be written.
    """
    tables = {**_tables(result), **({"Examples": example_table(result)} if result.diff.examples else {})}
    content = render(
        "archive_diff.html",
        title=f"{result.new.title} beside {result.old.title}",
        setting=setting_line(result),
        verdict=verdict(result, limit),
        is_within=is_within(result, limit),
        plots=[latency_plot(result)],
        tables=tables,
    )
    try:
        write_secret(path, content)
    except OSError as error:
        raise AnalysisError(f"{path} cannot be written: {error.strerror}", "Give another file with --html.") from None


def latency_plot(result: ArchiveDiff) -> Plot:
    """Latency over the share of the requests that were at least as fast."""
    drawn = []
    for place, (name, side) in enumerate(_sides(result)):
        ordered = sorted(side.alone_ms)
        points = [
            (100.0 * n / _POINTS, math.log10(max(percentile(ordered, n / _POINTS), 1e-6))) for n in range(_POINTS + 1)
        ]
        drawn.append(Line(name.title, f"engine-{place}", points, f"p50 {side.alone.p50:.3g} ms"))
    heights = [y for line in drawn for _, y in line.points if y is not None]
    note = (
        "Milliseconds in the worker, without a server, for a request alone (logarithmic), over the share of requests"
        " that were answered at least as fast."
    )
    return Plot("Latency", note, percents(100), powers(min(heights), max(heights)), drawn)


def _tables(result: ArchiveDiff) -> dict[str, Table]:
    flips = {"Flips": flip_table(result)} if result.diff.flips else {}
    return {
        "Differences": rate_table(result), **flips,
        "Statuses": status_table(result), "Latency": latency_table(result),
    }  # fmt: skip


def _sides(result: ArchiveDiff) -> list[tuple[Any, Side]]:
    return [(result.old, result.diff.old), (result.new, result.diff.new)]


def _kinds(result: ArchiveDiff) -> list[tuple[str, Side]]:
    return [("old", result.diff.old), ("new", result.diff.new)]


def _rate_row(kind: str, rate: Rate) -> tuple[str, ...]:
    low, high = rate.bounds
    return kind, f"{rate.of:,}", f"{rate.differing:,}", f"{rate.share:.2%}", f"{low:.2%} - {high:.2%}"


def _rate(rate: Rate) -> dict[str, Any]:
    low, high = rate.bounds
    return {"requests": rate.of, "differing": rate.differing, "share": rate.share, "low": low, "high": high}


def _latency(times: Latency | None) -> dict[str, float] | None:
    return asdict(times) if times is not None else None


def _quantiles(distances: list[float]) -> dict[str, float] | None:
    if not distances:
        return None
    ordered = sorted(distances)
    return {name: percentile(ordered, share) for name, share in (("p50", 0.5), ("p99", 0.99), ("most", 1.0))}

"""Puts a shadow comparison into sentences and tables. Pure."""

from __future__ import annotations

import math

from tsctl.shadow.disagreement import Repeat
from tsctl.shadow.plan import pairs_to_find, pairs_to_pass
from tsctl.shadow.report import ShadowReport, Verdict
from tsctl.views.rollout.wording import e_text, share_text
from tsctl.views.table import Table

#: Characters of an answer, and of what differs, in the table of examples.
_SHOWN = 60


def verdict_text(report: ShadowReport, stable: str, shadow: str) -> str:
    """The verdict in one or two sentences."""
    evidence, limit = report.evidence, f"{report.limit:.2%}"
    if not evidence.pairs:
        return f"No pair of {stable} and {shadow} was recorded, so nothing is decided."
    counted = f"{evidence.differing:,} of {evidence.pairs:,} pairs differ ({evidence.differing / evidence.pairs:.2%})"
    match report.verdict:
        case Verdict.TOO_MUCH:
            return f"{shadow} disagrees with {stable} more than {limit} above the noise floor: {counted}."
        case Verdict.LOW_ENOUGH:
            return f"{shadow} agrees with {stable}: less than {limit} above the noise floor, {counted}."
    if not any(process.pairs for process in evidence.floors.values()):
        return f"Undecided: {counted}, and the noise floor of {stable} was not measured."
    more = more_pairs(report)
    needed = f"about {more:,} more pairs with a measured floor" if more else "more pairs than can be waited for"
    return f"Undecided: {counted}; {needed} are needed if the rates stay as they are."


def more_pairs(report: ShadowReport) -> int | None:
    """Pairs with a measured floor until a decision, if the rates stay; None where there is none."""
    evidence = report.evidence
    kind, process = max(evidence.floors.items(), key=lambda each: each[1].pairs)
    rate = (process.first + _both(report, kind)) / process.pairs
    floor = evidence.repeats_differing[kind] / process.pairs
    needed = pairs_to_find if rate - floor > report.limit else pairs_to_pass
    pairs = needed(min(rate, 1.0), floor, report.limit, report.alpha).median
    return None if pairs is None else max(1, math.ceil(pairs - process.pairs))


def _both(report: ShadowReport, kind: Repeat) -> float:
    """Pairs with this repeat in which the shadow and the repeat both differ."""
    return report.evidence.repeats_differing[kind] - report.evidence.floors[kind].second


def rates_table(report: ShadowReport) -> Table:
    """Rates of disagreement: of the shadow, of stable with itself, and the difference of both."""
    evidence, alpha = report.evidence, report.alpha
    rows = [("shadow", _count(evidence.pairs), _count(evidence.differing),
             share_text(evidence.differing / evidence.pairs) if evidence.pairs else "-",
             _interval(*evidence.rate_bounds(alpha)), "", "")]  # fmt: skip
    for kind, process in evidence.floors.items():
        pairs, differing = int(process.pairs), evidence.repeats_differing[kind]
        rows.append((f"stable again, {kind}", _count(pairs), _count(differing),
                     share_text(differing / pairs) if pairs else "-", _interval(*evidence.floor_bounds(kind, alpha)),
                     "", ""))  # fmt: skip
        rows.append((f"shadow above stable, {kind}", _count(pairs), "", share_text(process.estimate),
                     _interval(*evidence.above_floor_bounds(kind, alpha)),
                     e_text(process.log_e_above(report.limit)), e_text(process.log_e_below(report.limit))))  # fmt: skip
    return Table(("answers", ">pairs", ">differ", ">rate", ">from, to", ">e too much", ">e low enough"), rows)


def unpaired_table(report: ShadowReport) -> Table:
    """Answers without a partner, by reason; the last row has the pairs, and their share of the copied requests."""
    rows = [(str(reason), _count(count), "") for reason, count in sorted(report.unpaired.items()) if count]
    paired = ("paired", _count(report.evidence.pairs), share_text(report.paired_share))
    return Table(("reason", ">answers", ">share"), [*rows, paired], has_total=True)


def slices_table(report: ShadowReport) -> Table:
    """Slices that disagree more often than the rest."""
    rows = [
        (each.name, _count(each.pairs), share_text(each.differing / each.pairs), _interval(each.low, each.high),
         e_text(each.log_e))
        for each in report.worst
    ]  # fmt: skip
    return Table(("slice", ">pairs", ">rate", ">from, to", ">e"), rows)


def slices_text(report: ShadowReport) -> str:
    """How many slices were looked at, and how many of them are worse."""
    left = f"; {report.left_out:,} others were too many" if report.left_out else ""
    features = (
        f" {report.features_left_out:,} numeric features were not looked at, for want of room."
        if report.features_left_out
        else ""
    )
    return f"{len(report.worst)} of {report.looked_at:,} slices disagree more often than the rest{left}.{features}"


def labels_table(report: ShadowReport) -> Table | None:
    """McNemar's table of the labelled requests; None where no label arrived."""
    counts = report.mcnemar
    if counts is None:
        return None
    low, high = counts.error_bounds(report.alpha)
    rows = [
        ("both right", _count(counts.both_right)),
        ("only stable right", _count(counts.shadow_wrong)),
        ("only the shadow right", _count(counts.stable_wrong)),
        ("both wrong", _count(counts.both_wrong)),
        ("shadow's error rate minus stable's", _interval(low, high)),
        ("p-value of one look (McNemar)", f"{counts.p_value:.3g}"),
        ("e-value: the shadow is wrong more often", e_text(counts.log_e)),
    ]
    return Table(("labelled requests", ">count"), rows)


def latency_table(report: ShadowReport) -> Table:
    """Percentiles of latency side by side."""
    rows = [
        (f"p{each.percentile}", f"{each.stable_ms:.2f}", f"{each.shadow_ms:.2f}",
         f"{each.shadow_ms / each.stable_ms:.2f}" if each.stable_ms else "-")
        for each in report.latencies
    ]  # fmt: skip
    return Table(("latency", ">stable ms", ">shadow ms", ">ratio"), rows)


def examples_table(report: ShadowReport) -> Table:
    """Requests whose answers differ, the largest distances first."""
    rows = [(each.request_id, _short(each.stable), _short(each.shadow), _short(each.about)) for each in report.examples]
    return Table(("request", "stable", "shadow", "difference"), rows)


def tables(report: ShadowReport) -> dict[str, Table]:
    """Every table that has rows, by its heading."""
    found = {
        "Disagreement": rates_table(report),
        "Pairs": unpaired_table(report),
        "Worst slices": slices_table(report),
        "Labels": labels_table(report),
        "Latency": latency_table(report),
        "Examples": examples_table(report),
    }
    return {heading: table for heading, table in found.items() if table is not None and table.rows}


def _interval(low: float, high: float) -> str:
    return f"{low:.2%} to {high:.2%}"


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."

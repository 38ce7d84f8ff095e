"""Shows the drift of versions: as lines of a terminal, as JSON, and as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import exp
from pathlib import Path
from typing import Any

from tsctl.drift.state import WatchState
from tsctl.drift.window import FeatureDrift
from tsctl.errors import AnalysisError
from tsctl.host.files import write_public
from tsctl.monitoring.drift import DriftReport, Subject
from tsctl.views.html import render
from tsctl.views.table import Table

#: Features whose bins the page draws: those that drifted, and then the largest indices.
MOST_DRAWN = 12
#: Evidence that is written in full; more says no more.
MOST_EVIDENCE = 1000.0
_COLUMNS = ("feature", ">values", ">psi", ">expected psi", "test", ">statistic", ">p", "drift")


@dataclass(frozen=True)
class Bar:
    """One bin: its shares of the reference and of the window, 0 to 1, and as parts of the largest bar."""

    name: str
    before: float
    now: float
    before_part: float
    now_part: float


@dataclass(frozen=True)
class Drawn:
    """One feature's bins."""

    feature: FeatureDrift
    bars: tuple[Bar, ...]


def lines(report: DriftReport) -> list[str]:
    """The report for a terminal."""
    shown = [heading(report), *Table(_COLUMNS, [_row(each) for each in report.features]).lines(), ""]
    shown += [window_line(report), f"alarm: {alarm_line(report.state)}"]
    return [*shown, *([unknown_line(report)] if report.unknown else [])]


def heading(report: DriftReport) -> str:
    """What was compared."""
    hours = (report.end_s - report.begin_s) / 3600
    return f"{report.subject.name}: {report.items:,} recorded answers of the last {hours:g} h against the reference"


def window_line(report: DriftReport) -> str:
    """How many features drifted, by the tests of the window."""
    drifted = sum(each.is_drift for each in report.features)
    return (
        f"window: {drifted} of {len(report.features)} features drifted"
        + (", of which 5 % at most are expected to be wrong" if drifted else "")
    )  # fmt: skip


def alarm_line(state: WatchState) -> str:
    """Whether the alarm is raised, and why."""
    days, since = state.watch.budget / 86_400, f"{state.items:,} items since {_time(state.began_s)}"
    if state.alarm is not None:
        causes = "; ".join(f"{name} ({change})" for name, change in state.alarm.causes)
        return f"raised at {_time(state.alarm.at_s)}: {causes}; after {since}"
    return f"none in {since}; evidence {_evidence(state):.2g} of 1, one false alarm in {days:g} days expected"


def unknown_line(report: DriftReport) -> str:
    """The features that no reference has."""
    names = ", ".join(report.unknown)
    return (
        f"not compared: {names}: the reference of {report.subject.name} has no such feature; if the handler was"
        f" changed, run 'tsctl archive build {report.subject.model}'"
    )


def document(report: DriftReport) -> dict[str, Any]:
    """The report as JSON values."""
    features = [asdict(each) | {"counts": list(report.counts[each.feature]),
                                "reference": list(report.subject.references[each.feature].reference),
                                "bins": list(report.subject.references[each.feature].names)}
                for each in report.features]  # fmt: skip
    return {
        "model": report.subject.model,
        "version": report.subject.version,
        "begin": _time(report.begin_s),
        "end": _time(report.end_s),
        "items": report.items,
        "features": features,
        "unknown": list(report.unknown),
        "watch": state_document(report.subject, report.state),
    }


def state_document(subject: Subject, state: WatchState) -> dict[str, Any]:
    """The state of a watch as JSON values."""
    alarm = state.alarm
    return {
        "model": subject.model,
        "version": subject.version,
        "began": _time(state.began_s),
        "read_until": _time(state.read_until_s),
        "items": state.items,
        "budget_days": state.watch.budget / 86_400,
        "evidence": _evidence(state),
        "alarm": alarm and {"at": _time(alarm.at_s), "causes": [
            {"feature": name, "change": change} for name, change in alarm.causes]},
    }  # fmt: skip


def render_report(reports: Sequence[DriftReport]) -> str:
    """The whole page."""
    return render(
        "drift.html",
        title=f"Drift of {', '.join(each.subject.name for each in reports)}",
        reports=[
            {
                "heading": heading(each),
                "table": Table(_COLUMNS, [_row(feature) for feature in each.features]),
                "window": window_line(each),
                "alarm": alarm_line(each.state),
                "is_alarm": each.state.alarm is not None,
                "unknown": unknown_line(each) if each.unknown else "",
                "drawn": list(_drawn(each)),
            }
            for each in reports
        ],
    )


def write_report(path: Path, reports: Sequence[DriftReport]) -> None:
    """Write the page; readers see the old file or the whole new one.

    Raises:
        AnalysisError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_public(path, render_report(reports))
    except OSError as error:
        raise AnalysisError(f"{path} cannot be written: {error.strerror}", "Give another file with --html.") from None


def _row(each: FeatureDrift) -> list[str]:
    p_value = "-" if each.p_value is None else f"{each.p_value:.2g}"
    return [
        each.feature, f"{each.values:,}", f"{each.psi:.3f}", f"{each.psi_noise:.3f}", each.test,
        f"{each.statistic:.3g}", p_value, "yes" if each.is_drift else "",
    ]  # fmt: skip


def _drawn(report: DriftReport) -> Iterator[Drawn]:
    for feature in report.features[:MOST_DRAWN]:
        reference, counts = report.subject.references[feature.feature], report.counts[feature.feature]
        before = [count / max(1, sum(reference.reference)) for count in reference.reference]
        now = [count / max(1, sum(counts)) for count in counts]
        largest = max(*before, *now)
        yield Drawn(
            feature,
            tuple(
                Bar(name, old, new, old / largest, new / largest)
                for name, old, new in zip(reference.names, before, now, strict=True)
                if old or new
            ),
        )


def _evidence(state: WatchState) -> float:
    return min(exp(min(state.watch.log_statistic, 700.0)), MOST_EVIDENCE)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

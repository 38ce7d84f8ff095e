"""Writes a rollout as one HTML file that needs nothing else: no network, no script, no font, no second file.

Invariant: whatever comes from a journal is escaped, and the page's own policy forbids the browser to load anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import tzinfo
from html import escape
from math import log
from pathlib import Path

from tsctl.config.policy import RolloutPolicy
from tsctl.errors import AnalysisError
from tsctl.host.files import write_secret
from tsctl.rollout.decide.events import Entry, start_of
from tsctl.rollout.decide.judge import Judgement, Rate, Reading
from tsctl.rollout.decide.state import State, after
from tsctl.views.rollout.figures import figures
from tsctl.views.rollout.history import summary
from tsctl.views.rollout.narrative import Narrator, Sentence, Story
from tsctl.views.rollout.series import Recorder
from tsctl.views.rollout.stylesheet import CSS
from tsctl.views.rollout.wording import duration, e_text, interval_text, rate_text, when

SUFFIX = ".html"


def write_report(path: Path, entries: Sequence[Entry]) -> None:
    """The file shows the rollout of these entries; readers see the old file or the whole new one.

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
    """The whole page.

    Args:
        entries: from the first one on; a rollout that has not ended is shown as it stands.
        zone: that times are written in; None: that of this machine.

    Raises:
        ValueError: the journal does not begin with a start.
    """
    narrator, recorder = Narrator(), Recorder()
    state: State | None = None
    for entry in entries:
        state = after(state, entry)
        narrator.narrate(entry, state)
        recorder.add(entry, state)
    if state is None:
        raise ValueError("a rollout's journal begins with its start")
    told, found = narrator.story, recorder.series()
    title = f"{told.title}, {state.outcome or 'in progress'}"
    body = [
        f"<h1>{escape(told.title)}</h1>",
        f'<p class="faint">Rollout <code>{escape(state.id)}</code></p>',
        *_outcome(state, told),
        _facts(entries, state, zone),
        *_section("Over time", figures(state, found)),
        *_section("The evidence at the end", _evidence(state.judgement, state)),
        *_section("What happened", [_happened(told.told, state, zone)]),
        *_section("How it was judged", [f"<p>{escape(told.rule)}</p>", _policy(state.policy)]),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _section(title: str, parts: Iterable[str]) -> list[str]:
    content = list(parts)
    return [f"<h2>{escape(title)}</h2>", *content] if content else []


def _outcome(state: State, told: Story) -> list[str]:
    style = str(state.outcome or "open").replace(" ", "-")
    advice = "".join(f"<li>{_with_command(line)}</li>" for line in told.advice)
    return [
        f'<p class="outcome {style}">{escape(told.outcome)}</p>',
        f'<ul class="plain">{advice}</ul>' if advice else "",
    ]


def _with_command(line: str) -> str:
    """A sentence whose end, after the colon, is a command to type."""
    text, colon, command = line.partition(": tsctl ")
    return f"{escape(text)}: <code>tsctl {escape(command)}</code>" if colon else escape(text)


def _facts(entries: Sequence[Entry], state: State, zone: tzinfo | None) -> str:
    whole, start = summary(entries), start_of(entries)
    facts = (
        ("Began", when(whole.began_at, zone)),
        ("Ended" if whole.ended_at else "Last entry", when(entries[-1].at, zone)),
        ("Lasted", duration(whole.lasted_s)),
        ("By", start.by or "-"),
        ("Requests of the canary", f"{whole.requests:,}"),
        ("Failed by", whole.signal or "-"),
        ("Nodes", ", ".join(start.nodes) or "-"),
        ("Archive", state.archive),
        ("Policy", state.policy.digest),
    )
    return "<dl>" + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts) + "</dl>"


def _evidence(judgement: Judgement, state: State) -> list[str]:
    if not judgement.readings:
        return [f"<p>{escape(judgement.why)}</p>"]
    return [_signals(judgement, state.policy.alpha), _rates(judgement.readings, state)]


def _signals(judgement: Judgement, alpha: float) -> str:
    rows = [
        (
            f"{one.signal} ({one.about})" if one.about else one.signal,
            e_text(one.log_e),
            e_text(-log(alpha * one.share)),
            f"{one.share:.1%}",
        )
        for one in judgement.readings
    ]
    rows.append(("average", e_text(judgement.log_e), e_text(-log(alpha)), "100%"))
    return _table(("Signal", "#E-value", "#Fails alone at", "#Share"), rows, has_sum=True)


def _rates(readings: Sequence[Reading], state: State) -> str:
    rows = []
    for one in readings:
        name = f"{one.signal} ({one.about})" if one.about else one.signal
        if one.signal not in ("limit", "disagreement"):
            rows.append((name, state.stable, *_rate(one.stable)))
        rows.append(("" if rows and rows[-1][0] == name else name, state.canary, *_rate(one.canary)))
    interval = f"Interval, {1 - state.policy.alpha:.4g} at all times"
    return _table(("Signal", "Version", "#Count", "#Of", "#Rate", interval), rows)


def _rate(rate: Rate) -> tuple[str, str, str, str]:
    return f"{rate.events:,}", f"{rate.requests:,}", rate_text(rate), interval_text(rate)


def _happened(told: Sequence[Sentence], state: State, zone: tzinfo | None) -> str:
    items = []
    begin = when(state.started_at, zone)
    for line in told:
        at = when(line.at, zone)
        shown = at[11:19] if at[:10] == begin[:10] else at[:19]
        after = duration(line.at - state.started_at)
        table = ""
        if line.judgement is not None:
            table = f"<details><summary>its evidence</summary>{_at_verdict(line.judgement, state)}</details>"
        items.append(
            f'<li><time title="{escape(at)}">{escape(shown)}, +{escape(after)}</time>'
            f"<div><p>{escape(line.text)}</p>{table}</div></li>"
        )
    return f"<ol>{''.join(items)}</ol>"


def _at_verdict(judgement: Judgement, state: State) -> str:
    rows = [
        (
            f"{one.signal} ({one.about})" if one.about else one.signal,
            e_text(one.log_e),
            rate_text(one.stable),
            interval_text(one.stable),
            rate_text(one.canary),
            interval_text(one.canary),
        )
        for one in judgement.readings
    ]
    columns = ("Signal", "#E-value", f"#{state.stable}", "Interval", f"#{state.canary}", "Interval")
    return _table(columns, rows)


def _policy(policy: RolloutPolicy) -> str:
    rows = [(name, _plain(value)) for name, value in policy.model_dump(mode="json").items()]
    return _table(("Policy", "Value"), rows)


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], has_sum: bool = False) -> str:
    """A column whose name begins with # has numbers; `has_sum`: the last row sums up the others."""
    styles = [' class="number"' if name.startswith("#") else "" for name in columns]
    head = "".join(
        f"<th{style}>{escape(name.removeprefix('#'))}</th>" for name, style in zip(columns, styles, strict=True)
    )
    body = ""
    for number, row in enumerate(rows):
        cells = "".join(f"<td{style}>{escape(cell)}</td>" for cell, style in zip(row, styles, strict=True))
        style = ' class="sum"' if has_sum and number == len(rows) - 1 else ""
        body += f"<tr{style}>{cells}</tr>"
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'

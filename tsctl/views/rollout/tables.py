"""Tables about rollouts: evidence, versions, policy, history. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log

from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL, percent
from tsctl.gateway.traffic import CANARY, STABLE
from tsctl.rollout.decide.judge import Judgement
from tsctl.rollout.decide.readings import Rate, Reading, length_text
from tsctl.rollout.decide.state import State
from tsctl.rollout.decide.windows import OutcomeCounts
from tsctl.views.rollout.history import Summary
from tsctl.views.rollout.wording import duration, e_text, interval_text, setting_text, share_text, signal_name, when
from tsctl.views.table import Table

BAR_WIDTH = 16
MOST_CLIENTS = 10


def evidence_tables(judgement: Judgement, alpha: float, stable: str, canary: str) -> list[Table]:
    """Tables of signals and rates; none if the journal recorded no readings."""
    if not judgement.readings:
        return []
    return [signals_table(judgement, alpha), rates_table(judgement.readings, stable, canary)]


def signals_table(judgement: Judgement, alpha: float) -> Table:
    """E-values, each with the threshold at which it fails the canary alone, and their average."""
    rows = [
        _signal_row(signal_name(reading.signal), reading.log_e, -log(alpha * reading.share), reading.share)
        for reading in judgement.readings
    ]
    rows.append(_signal_row("average", judgement.log_e, -log(alpha), 1.0))
    return Table(("signal", ">e-value", ">threshold", ">share", "progress"), rows, has_total=True)


def _signal_row(name: str, log_e: float, threshold: float, share: float) -> tuple[str, ...]:
    progress = min(1.0, max(0.0, log_e / threshold))  # from 1 to the threshold, in powers of ten
    text = "reached" if progress == 1 else f"{int(progress * 100)}%"
    return name, e_text(log_e), e_text(threshold), f"{share:.1%}", f"{text:>7}  {'━' * round(progress * BAR_WIDTH)}"


def rates_table(readings: Sequence[Reading], stable: str, canary: str) -> Table:
    """Counts and rates of both versions, with intervals, for every signal that is judged."""
    named = {reading.signal: reading for reading in readings}
    if "errors" in named:
        named.pop("limit", None)  # it has the same counts
    rows = [row for reading in named.values() for row in _rate_rows(reading, stable, canary)]
    return Table(("event", "version", ">count", ">total", ">rate", "interval"), rows)


def _rate_rows(reading: Reading, stable: str, canary: str) -> Iterator[tuple[str, ...]]:
    event = {
        "limit": "errors",
        "refused": "refused with 4xx",
        "slow": "slow answers",
        "mix": f"predicted as {reading.about or 'a class'}",
        "disagreement": "disagreements",
        "labels": "wrong by their label",
        "tokens": "slow tokens",
        "finish": f"ended by {reading.about}",
        "length": length_text(reading.about),
    }.get(reading.signal, reading.signal)
    if reading.signal != "disagreement":  # between both versions, counted once
        yield event, stable, *_rate_cells(reading.stable)
        event = ""
    yield event, canary, *_rate_cells(reading.canary)


def _rate_cells(rate: Rate) -> tuple[str, ...]:
    return f"{rate.events:,}", f"{rate.requests:,}", share_text(rate.estimate), interval_text(rate)


def versions_table(state: State, requests_per_s: tuple[float, float] | None) -> Table:
    """Weight and requests of both versions since the evidence began.

    Args:
        requests_per_s: of stable and of the canary; None if unknown.
    """
    stable, canary = (f"{rate:,.1f}" for rate in requests_per_s) if requests_per_s else ("-", "-")
    counts = state.evidence.stable.requests, state.evidence.canary.requests
    rows = (
        (state.stable, STABLE, percent(TOTAL - state.weight), f"{counts[0]:,}", stable),
        (state.canary, CANARY, percent(state.weight), f"{counts[1]:,}", canary),
    )
    return Table(("version", "track", ">weight", ">requests", ">requests/s"), rows)


def clients_tables(state: State) -> list[Table]:
    """The MOST_CLIENTS clients with most events on the canary; none where no client had an event."""
    clients = sorted(state.evidence.clients.items(), key=lambda item: (-_events(item[1].canary), item[0]))
    rows = [
        (name or "-", f"{client.share:.1%}", version, f"{counts.errors:,}", f"{counts.refused:,}", f"{counts.slow:,}")
        for name, client in clients[:MOST_CLIENTS]
        for version, counts in ((state.stable, client.stable), (state.canary, client.canary))
    ]
    return [Table(("client", ">share of requests", "version", ">errors", ">refused", ">slow"), rows)] if rows else []


def _events(counts: OutcomeCounts) -> int:
    return counts.errors + counts.refused + counts.slow


def policy_table(policy: RolloutPolicy) -> Table:
    """Every setting of a policy."""
    return Table(("setting", "value"), [(name, setting_text(v)) for name, v in policy.model_dump(mode="json").items()])


def history_table(summaries: Sequence[Summary]) -> Table:
    """One line for each rollout."""
    rows = [
        (
            summary.id,
            summary.model,
            summary.stable,
            summary.canary,
            summary.outcome,
            signal_name(summary.signal),
            f"{summary.requests:,}",
            duration(summary.lasted_s),
            when(summary.began_at),
        )
        for summary in summaries
    ]
    return Table(("id", "model", "from", "to", "outcome", "failed by", ">canary requests", "duration", "started"), rows)

"""The objectives of models as Prometheus' recording rules, and the burn rates that alerts compare. Pure.

Source of windows and rates: Google's Site Reliability Workbook, chapter 5, "Multiwindow, Multi-Burn-Rate Alerts".
Only 5 minutes are computed from the gateway's counters. Longer windows are sums of that record, which has four series
for each model, where the counters have thousands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tsctl.config.deployment import DeploymentSpec
from tsctl.config.monitoring import Objectives
from tsctl.errors import SpecError
from tsctl.gateway.counters import BUCKETS_MS, REQUEST_MS, REQUESTS
from tsctl.monitoring.promql import quoted

#: Bad events in the long window without which no alert fires.
LEAST_EVENTS = 10


@dataclass(frozen=True)
class Burn:
    """How many times faster than allowed an error budget is spent, in a long and in a short window."""

    rate: float
    long: str
    short: str


PAGE = (Burn(14.4, "1h", "5m"), Burn(6, "6h", "30m"))
TICKET = (Burn(3, "1d", "2h"), Burn(1, "3d", "6h"))
#: The windows that are sums of the record of SHORTEST.
SHORTEST, LONGER = "5m", ("30m", "1h", "2h", "6h", "1d", "3d")


@dataclass(frozen=True)
class Indicator:
    """A kind of event, those of them that are bad, and the share of bad ones that its objective allows: names."""

    bad: str
    all: str
    budget: str

    def share(self, window: str) -> str:
        """The share of bad events in a window."""
        return f"{_record(self.bad, window)} / {_record(self.all, window)}"

    def burns(self, *burns: Burn) -> str:
        """True for models whose budget is spent that fast, in both windows of one of these rates."""
        return " or ".join(f"({self._burns(burn)})" for burn in burns)

    def _burns(self, burn: Burn) -> str:
        most = f"{burn.rate:g} * {self.budget}"
        enough = f"{_record(self.bad, burn.long)} >= {LEAST_EVENTS}"
        return f"{self.share(burn.long)} > {most} and {self.share(burn.short)} > {most} and {enough}"


ERRORS = Indicator("tsctl_errors", "tsctl_requests", "model:tsctl_error_budget:ratio")
SLOW = Indicator("tsctl_slow_answers", "tsctl_answers", "model:tsctl_slow_budget:ratio")
LATENCY_MS = "model:tsctl_latency_objective:milliseconds"


def _record(events: str, window: str) -> str:
    """The record of events: their rate in the shortest window, their number in a longer one."""
    return f"model:{events}:{'rate' if window == SHORTEST else 'increase'}{window}"


def objective_rules(deployment: DeploymentSpec) -> list[dict[str, object]]:
    """The recording rules of every model's objectives; each needs those before it.

    Raises:
        SpecError: a latency_ms is no edge of the gateway's histogram.
    """
    step_s = deployment.monitoring.scrape_s
    objectives = {model: deployment.objectives(model) for model in deployment.models}
    require_edges(objectives)
    rules = [_rule(name, expression) for name, expression in _of_events()]
    for model, objective in objectives.items():
        rules += [_rule(name, expression, model) for name, expression in _of_model(model, objective)]
    for window in LONGER:
        for events in (ERRORS.all, ERRORS.bad, SLOW.all, SLOW.bad):
            total = f"sum_over_time({_record(events, SHORTEST)}[{window}]) * {step_s}"
            rules.append(_rule(_record(events, window), total))
    return rules


def require_edges(objectives: Mapping[str, Objectives]) -> None:
    """Raise SpecError where a latency_ms is no edge of the gateway's histogram, with the edges beside it."""
    for model, objective in objectives.items():
        wanted = objective.latency_ms
        if wanted not in BUCKETS_MS:
            below = max((edge for edge in BUCKETS_MS if edge < wanted), default=BUCKETS_MS[0])
            above = min((edge for edge in BUCKETS_MS if edge > wanted), default=BUCKETS_MS[-1])
            raise SpecError(
                f"deployment.yaml: objectives of {model}: latency_ms {wanted}: the gateway counts answers up to {below}"
                f" and up to {above} ms",
                f"Take {below} or {above}.",
            )


def _of_events() -> Iterator[tuple[str, str]]:
    """Requests and errors as docs/monitoring.md defines them. A client's own deadline is no error, and no request."""
    own_deadline = f'{REQUESTS}{{status="504",deadline!="client"}}'
    counted = f'rate({REQUESTS}{{status!~"0|504"}}[{SHORTEST}]) or rate({own_deadline}[{SHORTEST}])'
    failed = f'rate({REQUESTS}{{status=~"5..",status!~"501|504"}}[{SHORTEST}]) or rate({own_deadline}[{SHORTEST}])'
    requests = _record(ERRORS.all, SHORTEST)
    yield requests, f"sum by (model) ({counted})"
    yield _record(ERRORS.bad, SHORTEST), f"sum by (model) ({failed}) or 0 * {requests}"
    yield _record(SLOW.all, SHORTEST), f"sum by (model) (rate({REQUEST_MS}_count[{SHORTEST}]))"


def _of_model(model: str, objective: Objectives) -> Iterator[tuple[str, str]]:
    # Prometheus 3 writes the edge 500 as 500.0
    in_time = f'{REQUEST_MS}_bucket{{model={quoted(model)},le=~"{objective.latency_ms}([.]0)?"}}'
    answers = f"{_record(SLOW.all, SHORTEST)}{{model={quoted(model)}}}"
    slow = f"clamp_min({answers} - sum by (model) (rate({in_time}[{SHORTEST}])), 0)"
    yield _record(SLOW.bad, SHORTEST), slow
    yield ERRORS.budget, f"vector({1 - objective.availability:.6g})"
    yield SLOW.budget, f"vector({1 - objective.latency:.6g})"
    yield LATENCY_MS, f"vector({objective.latency_ms})"


def _rule(name: str, expression: str, model: str | None = None) -> dict[str, object]:
    return {"record": name, "expr": expression} | ({"labels": {"model": model}} if model is not None else {})

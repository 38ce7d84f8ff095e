"""The dashboards: which panels they have, and the query of each. Pure.

`test_monitoring.py` and `test_text_monitoring.py` in tests/live run every query against a real Prometheus and require
data.
"""

from __future__ import annotations

from handlers.contract import (
    ANSWER_QUEUE_SECONDS,
    ANSWER_TOKENS,
    ANSWERED_ITEMS,
    BATCH_ITEMS,
    CACHE_ITEMS,
    FINISHED_ANSWERS,
    FIRST_TOKEN_SECONDS,
    INPUT_POSITIONS,
    KV_CACHE_USAGE,
    OPEN_ANSWERS,
    OUTPUT_TOKEN_SECONDS,
    PROMPT_TOKENS,
    RECORDED_ITEMS,
    STAGE_SECONDS,
    WARMUP_SECONDS,
    WORKER_STARTS,
)
from tsctl.gateway.counters import CLIENT_REQUESTS, REQUEST_MS, REQUESTS
from tsctl.gateway.traffic import BY_WEIGHT
from tsctl.host.files import Json
from tsctl.monitoring.alerts import GATEWAY_JOB
from tsctl.monitoring.grafana import MODEL_VARIABLE, Panel, Query, dashboard
from tsctl.monitoring.objectives import ERRORS, SLOW

_RATE = "$__rate_interval"
_OF_MODEL = f'model="{MODEL_VARIABLE}"'
_BY_WEIGHT = f'{_OF_MODEL},by="{BY_WEIGHT}"'
_FAILED = 'status=~"5..",status!="501"'
_REFUSED = 'status=~"4..|501"'
#: Of the dashboard of language models, whose queries have data only where one is served.
TEXTS_UID = "tsctl-texts"


def dashboards() -> list[Json]:
    """Grafana's JSON of each dashboard."""
    choices = "tsctl_gateway_weight_ratio"
    return [
        dashboard("tsctl-fleet", "tsctl: fleet", "All models, the gateway, the nodes, and alerts.", FLEET),
        dashboard(
            "tsctl-model", "tsctl: one model by version", "One model: clients, versions, workers.", MODEL, choices
        ),
        dashboard("tsctl-rollout", "tsctl: rollout", "The canary of a model against stable.", ROLLOUT, choices),
        dashboard(
            "tsctl-answers",
            "tsctl: records and drift",
            "One model: what is recorded of its answers, and how they differ from its archive's reference.",
            ANSWERS,
            choices,
        ),
        dashboard(
            TEXTS_UID,
            "tsctl: language model",
            "One language model: times of tokens, ends, and places.",
            TEXTS,
            OPEN_ANSWERS,
        ),
    ]


def _sum(by: str, name: str, selector: str = "") -> str:
    """The rate of a counter, summed by these labels."""
    return f"sum by ({by}) (rate({name}{{{selector}}}[{_RATE}]))"


def _quantile(share: float, by: str, name: str, selector: str) -> str:
    return f"histogram_quantile({share:g}, {_sum(f'{by}, le', f'{name}_bucket', selector)})"


def _share_of(by: str, name: str, selector: str, part: str) -> str:
    """The share of the events with these labels more, 0 where there is none."""
    of_all = _sum(by, name, selector)
    return f"({_sum(by, name, f'{selector},{part}')} or 0 * {of_all}) / {of_all}"


def _one(expression: str, legend: str) -> tuple[Query, ...]:
    return (Query(expression, legend),)


def _quantiles(name: str, shares: tuple[float, ...]) -> tuple[Query, ...]:
    """Of a histogram of workers, by version."""
    return tuple(
        Query(_quantile(share, "version", name, _OF_MODEL), f"{{{{version}}}} {share:.0%}") for share in shares
    )


FLEET = (
    Panel("Alerts that fire", "short", _one('count(ALERTS{alertstate="firing"}) or vector(0)', "alerts"), "stat", 4),
    Panel("Gateways that answer", "short", _one(f'sum(up{{job="{GATEWAY_JOB}"}})', "gateways"), "stat", 4),
    Panel(
        "Nodes that answer",
        "short",
        (Query("sum(tsctl_node_up)", "answer"), Query("count(tsctl_node_up)", "of")),
        "stat",
        4,
    ),
    Panel("Alerts", "short", _one('ALERTS{alertstate="firing"}', ""), "table", 12),
    Panel("Requests", "reqps", _one("model:tsctl_requests:rate5m", "{{model}}")),
    Panel(
        "Errors, share of requests",
        "percentunit",
        (Query(ERRORS.share("5m"), "{{model}}"), Query(ERRORS.budget, "{{model}} allowed")),
    ),
    Panel(
        "Late answers, share",
        "percentunit",
        (Query(SLOW.share("5m"), "{{model}}"), Query(SLOW.budget, "{{model}} allowed")),
    ),
    Panel(
        "Burn rate of the last hour",
        "short",
        (
            Query(f"{ERRORS.share('1h')} / {ERRORS.budget}", "{{model}} errors"),
            Query(f"{SLOW.share('1h')} / {SLOW.budget}", "{{model}} late"),
        ),
        description="1: the budget of 30 days is spent in 30 days. At 14.4 a person is woken.",
    ),
    Panel("Answers until they begin, 99 %", "ms", _one(_quantile(0.99, "model", REQUEST_MS, ""), "{{model}}")),
    Panel("Requests by status", "reqps", _one(_sum("status", REQUESTS), "{{status}}")),
    Panel("Requests in flight", "short", _one("tsctl_gateway_active_requests", "{{model}} {{version}}")),
    Panel("Nodes in rotation", "short", _one("tsctl_gateway_healthy_nodes", "{{model}} {{version}}")),
    Panel("READY workers", "short", _one("tsctl_node_ready_workers", "{{node}} {{model}} {{version}}")),
    Panel(
        "Requests that wait in a node's queue",
        "short",
        _one("tsctl_node_queue_items", "{{node}} {{model}} {{version}}"),
    ),
    Panel(
        "Worker starts of an hour",
        "short",
        _one(f"sum by (node, model, version) (increase({WORKER_STARTS}[1h]))", "{{node}} {{model}} {{version}}"),
    ),
    Panel("Memory of Envoy", "bytes", _one("envoy_server_memory_allocated", "{{instance}}")),
    Panel("Free disk", "bytes", _one("tsctl_disk_free_bytes", "{{instance}}")),
)

MODEL = (
    Panel("Requests by version", "reqps", _one(_sum("version", REQUESTS, _OF_MODEL), "{{version}}")),
    Panel("Weights", "percentunit", _one(f"tsctl_gateway_weight_ratio{{{_OF_MODEL}}}", "{{version}} {{track}}")),
    Panel(
        "Errors, share of requests",
        "percentunit",
        _one(_share_of("version", REQUESTS, _OF_MODEL, _FAILED), "{{version}}"),
    ),
    Panel(
        "Answers until they begin",
        "ms",
        tuple(
            Query(_quantile(share, "version", REQUEST_MS, _OF_MODEL), f"{{{{version}}}} {share:.0%}")
            for share in (0.5, 0.95, 0.99)
        ),
    ),
    Panel("Requests by status", "reqps", _one(_sum("version, status", REQUESTS, _OF_MODEL), "{{version}} {{status}}")),
    Panel("Predicted classes", "reqps", _one(_sum("version, class", REQUESTS, _OF_MODEL), "{{version}} {{class}}")),
    Panel("Requests by client", "reqps", _one(_sum("client", CLIENT_REQUESTS, _OF_MODEL), "{{client}}")),
    Panel(
        "Time of a batch by stage, 99 %",
        "s",
        _one(_quantile(0.99, "version, stage", STAGE_SECONDS, _OF_MODEL), "{{version}} {{stage}}"),
    ),
    Panel(
        "Items in a batch, mean",
        "short",
        _one(
            " / ".join(_sum("version", f"{BATCH_ITEMS}_{part}", _OF_MODEL) for part in ("sum", "count")),
            "{{version}}",
        ),
    ),
    Panel(
        "Items by outcome",
        "short",
        _one(_sum("version, outcome", ANSWERED_ITEMS, _OF_MODEL), "{{version}} {{outcome}}"),
    ),
    Panel(
        "Response cache",
        "short",
        _one(_sum("version, result, tier", CACHE_ITEMS, _OF_MODEL), "{{version}} {{result}} {{tier}}"),
    ),
    Panel(
        "Input positions, content and padding",
        "short",
        _one(_sum("version, kind", INPUT_POSITIONS, _OF_MODEL), "{{version}} {{kind}}"),
    ),
    Panel("READY workers", "short", _one(f"tsctl_node_ready_workers{{{_OF_MODEL}}}", "{{node}} {{version}}")),
    Panel(
        "Requests that wait in a node's queue",
        "short",
        _one(f"tsctl_node_queue_items{{{_OF_MODEL}}}", "{{node}} {{version}}"),
    ),
    Panel(
        "Warm-up by batch size", "s", _one(f"{WARMUP_SECONDS}{{{_OF_MODEL}}}", "{{node}} {{version}} {{batch}} {{run}}")
    ),
)

ROLLOUT = (
    Panel("Step", "short", _one(f"tsctl_rollout_step{{{_OF_MODEL}}}", "{{version}}"), "stat", 4),
    Panel("A process runs it", "short", _one(f"tsctl_rollout_running{{{_OF_MODEL}}}", "{{version}}"), "stat", 4),
    Panel("Undecided for", "s", _one(f"tsctl_rollout_undecided_seconds{{{_OF_MODEL}}}", "{{version}}"), "stat", 4),
    Panel(
        "Weights", "percentunit", _one(f"tsctl_gateway_weight_ratio{{{_OF_MODEL}}}", "{{version}} {{track}}"), width=12
    ),
    Panel(
        "Evidence against the canary",
        "short",
        _one(f"tsctl_rollout_evidence_ratio{{{_OF_MODEL}}}", "{{signal}}"),
        description="E-value times alpha. Where the average reaches 1, the canary is rolled back.",
        width=12,
    ),
    Panel("Requests by weight", "reqps", _one(_sum("version", REQUESTS, _BY_WEIGHT), "{{version}}"), width=12),
    Panel(
        "Errors, share of requests",
        "percentunit",
        _one(_share_of("version", REQUESTS, _BY_WEIGHT, _FAILED), "{{version}}"),
    ),
    Panel(
        "Refused, share of requests",
        "percentunit",
        _one(_share_of("version", REQUESTS, _BY_WEIGHT, _REFUSED), "{{version}}"),
    ),
    Panel(
        "Answers until they begin, 95 %", "ms", _one(_quantile(0.95, "version", REQUEST_MS, _BY_WEIGHT), "{{version}}")
    ),
    Panel(
        "Predicted classes, share",
        "percentunit",
        _one(
            f"{_sum('version, class', REQUESTS, _BY_WEIGHT)}"
            f" / on (version) group_left {_sum('version', REQUESTS, _BY_WEIGHT)}",
            "{{version}} {{class}}",
        ),
        width=12,
    ),
    Panel("READY workers", "short", _one(f"tsctl_node_ready_workers{{{_OF_MODEL}}}", "{{node}} {{version}}"), width=12),
)

ANSWERS = (
    Panel(
        "Features in alarm",
        "short",
        _one(f"sum by (version) (tsctl_drift_alarm{{{_OF_MODEL}}})", "{{version}}"),
        "stat",
        4,
    ),
    Panel("Recorded answers of 24 h", "short", _one(f"tsctl_drift_items{{{_OF_MODEL}}}", "{{version}}"), "stat", 4),
    Panel(
        "Records, share of their place",
        "percentunit",
        _one("tsctl_records_bytes / tsctl_records_most_bytes", "{{node}}"),
        "stat",
        4,
    ),
    Panel(
        "Evidence of drift",
        "short",
        _one(f"tsctl_drift_evidence_ratio{{{_OF_MODEL}}}", "{{version}}"),
        description="At 1 an alarm is raised.",
        width=12,
    ),
    Panel(
        "Population stability index by feature",
        "short",
        _one(f"tsctl_drift_psi{{{_OF_MODEL}}}", "{{version}} {{feature}}"),
        description="Of the last 24 hours against the archive's reference.",
        width=12,
    ),
    Panel(
        "The same, less its expectation without drift",
        "short",
        _one(f"tsctl_drift_psi{{{_OF_MODEL}}} - tsctl_drift_psi_noise{{{_OF_MODEL}}}", "{{version}} {{feature}}"),
        width=12,
    ),
    Panel(
        "Disagreement of the shadow",
        "percentunit",
        (
            Query(f"tsctl_shadow_disagreement_ratio{{{_OF_MODEL}}}", "{{version}}"),
            Query(f"tsctl_shadow_noise_ratio{{{_OF_MODEL}}}", "stable with itself"),
        ),
        description="The last hour's copied requests whose two answers differ, and stable's second answers that do.",
        width=12,
    ),
    Panel(
        "Copied requests with both answers",
        "percentunit",
        _one(f"tsctl_shadow_paired_ratio{{{_OF_MODEL}}}", "{{version}}"),
        width=12,
    ),
    Panel(
        "Records by outcome",
        "short",
        _one(_sum("version, outcome", RECORDED_ITEMS, _OF_MODEL), "{{version}} {{outcome}}"),
        description="Records with the outcome input-failed are written without their input; repeat-lost counts second"
        " answers; all others but written are dropped.",
        width=12,
    ),
    Panel("Files of records", "bytes", _one("tsctl_records_bytes", "{{node}}"), width=12),
)

TEXTS = (
    Panel("Time to the first token", "s", _quantiles(FIRST_TOKEN_SECONDS, (0.5, 0.95, 0.99))),
    Panel("Time of a token after the first", "s", _quantiles(OUTPUT_TOKEN_SECONDS, (0.5, 0.95, 0.99))),
    Panel("Wait for the backend's next step", "s", _quantiles(ANSWER_QUEUE_SECONDS, (0.5, 0.99))),
    Panel("Tokens of answers", "short", _one(_sum("version", ANSWER_TOKENS, _OF_MODEL), "{{version}} tokens/s")),
    Panel("Tokens of prompts", "short", _one(_sum("version", PROMPT_TOKENS, _OF_MODEL), "{{version}} tokens/s")),
    Panel(
        "Tokens of an answer, mean",
        "short",
        _one(
            f"{_sum('version', ANSWER_TOKENS, _OF_MODEL)} / {_sum('version', FINISHED_ANSWERS, _OF_MODEL)}",
            "{{version}}",
        ),
    ),
    Panel(
        "How answers end, share",
        "percentunit",
        _one(
            f"{_sum('version, finish', FINISHED_ANSWERS, _OF_MODEL)}"
            f" / on (version) group_left {_sum('version', FINISHED_ANSWERS, _OF_MODEL)}",
            "{{version}} {{finish}}",
        ),
        description="length: at the limit of its tokens; error: it could not go on; cancelled: its client left.",
    ),
    Panel("Answers in the making", "short", _one(f"sum by (version) ({OPEN_ANSWERS}{{{_OF_MODEL}}})", "{{version}}")),
    Panel(
        "Memory for keys and values in use",
        "percentunit",
        _one(f"max by (version) ({KV_CACHE_USAGE}{{{_OF_MODEL}}})", "{{version}}"),
        description="Where it is full, the youngest answers wait and are computed again.",
    ),
)

"""The alerts: what each watches, how long it must hold, whom it wakes, and the command that shows more. Pure.

docs/monitoring.md has a row for each.
"""

from __future__ import annotations

from dataclasses import dataclass

from handlers.contract import (
    CACHE_ITEMS,
    DROPPED_RECORDS,
    FINISHED_ANSWERS,
    KV_CACHE_USAGE,
    RECORDED_ITEMS,
    REPEAT_LOST,
    SHARED_CACHE_EXCHANGES,
    WORKER_STARTS,
)
from tsctl.monitoring.objectives import ERRORS, PAGE, SLOW, TICKET

#: Jobs of the scrape configuration.
GATEWAY_JOB, WORKERS_JOB, STATE_JOB = "tsctl-gateway", "tsctl-workers", "tsctl-state"
_OF_NODE = "node, model, version"


@dataclass(frozen=True)
class Alert:
    """One alert.

    Args:
        expression: PromQL that is true while something is wrong.
        scrapes: for so many scrapes in a row before it fires; 0: at once.
        severity: page or ticket.
        when: it fires, for docs/monitoring.md.
        summary: a template of Prometheus, one line.
        command: that shows more; a template as well, and of CERTIFICATE.
    """

    name: str
    expression: str
    scrapes: int
    severity: str
    when: str
    summary: str
    command: str


_MODEL, _VERSION = "{{ $labels.model }}", "{{ $labels.model }} {{ $labels.version }}"
_ON_NODE = f"{_VERSION} on node {{{{ $labels.node }}}}"
_SHARE = "{{ $value | humanizePercentage }}"
#: The command of an alert is repeated for each certificate of deployment.yaml, whose file takes this place.
CERTIFICATE = "CERTIFICATE"
_EXPIRES = f"openssl x509 -enddate -noout -in {CERTIFICATE}"

OBJECTIVES = (
    Alert(
        "ErrorBudgetBurns", ERRORS.burns(*PAGE), 0, "page",
        "a model's errors spend its availability budget at a rate for a page",
        f"{_MODEL}: {_SHARE} of the requests fail",
        "tsctl status; tsctl gateway status; tail .tsctl/gateway/logs/access.log",
    ),
    Alert(
        "ErrorBudgetBurnsSlowly", ERRORS.burns(*TICKET), 0, "ticket",
        "a model's errors spend its availability budget at a rate for a ticket",
        f"{_MODEL}: {_SHARE} of the requests fail, for hours",
        "tsctl status; tsctl gateway status; tail .tsctl/gateway/logs/access.log",
    ),
    Alert(
        "LatencyBudgetBurns", SLOW.burns(*PAGE), 0, "page",
        "a model's slow answers spend its latency budget at a rate for a page",
        f"{_MODEL}: {_SHARE} of the answers are late",
        "tsctl status; tsctl metrics show",
    ),
    Alert(
        "LatencyBudgetBurnsSlowly", SLOW.burns(*TICKET), 0, "ticket",
        "a model's slow answers spend its latency budget at a rate for a ticket",
        f"{_MODEL}: {_SHARE} of the answers are late, for hours",
        "tsctl status; tsctl metrics show",
    ),
)  # fmt: skip

GATEWAY = (
    Alert(
        "GatewayDown", f'up{{job="{GATEWAY_JOB}"}} == 0', 4, "page",
        "Envoy does not answer the scrapes of a minute",
        "the gateway at {{ $labels.instance }} does not answer",
        "tsctl gateway status",
    ),
    Alert(
        "VersionWithoutNode", "tsctl_gateway_healthy_nodes == 0 and on (model, version) tsctl_gateway_weight_ratio > 0",
        2, "page",
        "a version gets requests, and no node is in rotation for it",
        f"{_VERSION} gets requests, and no node can answer",
        "tsctl gateway status; tsctl status",
    ),
    Alert(
        "SupervisorDown", "tsctl_gateway_supervisor_up == 0", 4, "ticket",
        "nobody would restart Envoy, or follows the nodes, for a minute",
        "the gateway's supervisor does not run",
        "tsctl gateway status; tsctl gateway start",
    ),
    Alert(
        "GatewayRestarts", "resets(envoy_server_uptime[30m]) >= 3", 0, "ticket",
        "Envoy started again three times in half an hour",
        "Envoy at {{ $labels.instance }} started {{ $value }} times in half an hour",
        "tail .tsctl/gateway/logs/keeper.log .tsctl/gateway/logs/envoy.log",
    ),
    Alert(
        "GatewayRefusesChange",
        "sum by (instance) (increase(envoy_cluster_manager_cds_update_rejected[10m]))"
        " + sum by (instance) (increase(envoy_http_rds_update_rejected[10m])) > 0",
        0, "ticket",
        "Envoy rejected a file of routes or clusters in the last ten minutes",
        "Envoy rejected a change, and the old configuration is in force",
        "tsctl gateway render; tail .tsctl/gateway/logs/envoy.log",
    ),
    Alert(
        "GatewayOverloaded",
        "sum by (instance) (rate(envoy_http_adaptive_concurrency_gradient_controller_rq_blocked[5m]))"
        " + sum by (instance) (rate(envoy_http_rq_overload_local_reply[5m])) > 0.1",
        0, "ticket",
        "for want of memory or of places for bodies, the gateway refused a request every ten seconds for five minutes",
        "the gateway refuses {{ $value | humanize }} requests/s for want of memory or of places for large bodies",
        "tsctl gateway status; tail .tsctl/gateway/logs/access.log",
    ),
    Alert(
        "LogLinesLost", "increase(envoy_filesystem_write_failed[10m]) > 0", 0, "ticket",
        "Envoy could not write lines of its logs in the last ten minutes",
        "Envoy cannot write its access log",
        "df -h .tsctl; tsctl gateway status",
    ),
)  # fmt: skip

NODES = (
    Alert(
        "ExporterDown", f'up{{job="{STATE_JOB}"}} == 0', 4, "ticket",
        "an exporter does not answer the scrapes of a minute, so alerts about its machine are blind",
        "the exporter at {{ $labels.instance }} does not answer",
        "tsctl monitoring status; tsctl metrics serve",
    ),
    Alert(
        "ExporterError", "tsctl_exporter_error == 1", 4, "ticket",
        "an exporter cannot read a part of the state for a minute",
        "the exporter at {{ $labels.instance }} cannot read its {{ $labels.part }}",
        "tsctl status; tail .tsctl/monitoring/logs/exporter.log",
    ),
    Alert(
        "NodeDown", "tsctl_node_up == 0", 4, "ticket",
        "a node does not answer for a minute",
        "node {{ $labels.node }} does not answer",
        "tsctl status; tsctl node logs --node {{ $labels.node }}",
    ),
    Alert(
        "NoReadyWorker", "tsctl_node_ready_workers == 0 and tsctl_node_workers > 0", 20, "ticket",
        "a version has workers on a node, and none is READY for five minutes",
        f"{_ON_NODE} has no READY worker",
        "tsctl status; tsctl node logs --node {{ $labels.node }}",
    ),
    Alert(
        "WorkerGivenUp", "tsctl_node_failed == 1", 2, "ticket",
        "a node no longer restarts a worker that died",
        f"a worker of {_ON_NODE} died, and is not started again",
        "tsctl status; tsctl apply",
    ),
    Alert(
        "WorkersCrash",
        f"sum by ({_OF_NODE}) (increase({WORKER_STARTS}[15m]))"
        f" > on ({_OF_NODE}) 3 * clamp_min(max by ({_OF_NODE}) (max_over_time(tsctl_node_workers[15m])), 1)",
        0, "ticket",
        "workers of a version started more than three times each in fifteen minutes",
        f"workers of {_ON_NODE} started {{{{ $value | humanize }}}} times in fifteen minutes",
        "tsctl node logs --node {{ $labels.node }}",
    ),
    Alert(
        "QueueFills", "tsctl_node_queue_items / tsctl_node_queue_size_items > 0.8", 4, "ticket",
        "the queue of a version on a node is more than 80 % full for a minute",
        f"the queue of {_ON_NODE} is {_SHARE} full",
        f"tsctl status; tsctl models scale {_VERSION} WORKERS --node {{{{ $labels.node }}}}",
    ),
    Alert(
        "CacheWrong", f'sum by ({_OF_NODE}) (increase({CACHE_ITEMS}{{result="wrong"}}[30m])) > 0', 0, "ticket",
        "a remembered answer was computed again and differed, in the last half hour",
        f"the response cache of {_ON_NODE} gave wrong answers",
        "tsctl metrics show --raw --node {{ $labels.node }}",
    ),
    Alert(
        "SharedCacheDown",
        f'sum by ({_OF_NODE}) (rate({SHARED_CACHE_EXCHANGES}{{outcome!="ok"}}[5m]))'
        f" / sum by ({_OF_NODE}) (rate({SHARED_CACHE_EXCHANGES}[5m])) > 0.5",
        8, "ticket",
        "more than half of the exchanges with Redis fail for two minutes",
        f"{_SHARE} of the exchanges of {_ON_NODE} with Redis fail",
        "tsctl metrics show --raw --node {{ $labels.node }}",
    ),
    Alert(
        "DiskFills", "tsctl_disk_free_bytes / tsctl_disk_size_bytes < 0.05 or tsctl_disk_free_bytes < 1073741824",
        4, "ticket",
        "the disk with `.tsctl` has less than 5 % or 1 GiB free for a minute",
        "the disk with .tsctl at {{ $labels.instance }} is nearly full",
        "df -h .tsctl; tsctl archive tidy --dry-run",
    ),
)  # fmt: skip

ANSWERS = (
    Alert(
        "AnswersBreak",
        f'sum by (model, version) (rate({FINISHED_ANSWERS}{{finish="error"}}[5m]))'
        f" / sum by (model, version) (rate({FINISHED_ANSWERS}[5m])) > 0.02",
        4, "page",
        "more than 2 % of a language model's answers of five minutes ended with an error, for a minute",
        f"{_SHARE} of the answers of {_VERSION} break",
        "tsctl status; tsctl metrics show --raw; tail .tsctl/gateway/logs/access.log",
    ),
    Alert(
        "KeysAndValuesFull", f"max by ({_OF_NODE}) ({KV_CACHE_USAGE}) > 0.95", 20, "ticket",
        "a language model's memory for keys and values is more than 95 % full for five minutes, so answers wait",
        f"the memory for keys and values of {_ON_NODE} is {_SHARE} full",
        "tsctl metrics show --raw --node {{ $labels.node }}; tsctl archive inspect {{ $labels.model }}",
    ),
    Alert(
        "RecordsDropped",
        f'sum by ({_OF_NODE}) (rate({RECORDED_ITEMS}{{outcome=~"{"|".join(DROPPED_RECORDS)}"}}[15m]))'
        f' / sum by ({_OF_NODE}) (rate({RECORDED_ITEMS}{{outcome!="{REPEAT_LOST}"}}[15m])) > 0.01',
        4, "ticket",
        "more than 1 % of the prediction records of fifteen minutes were dropped, for a minute",
        f"{_SHARE} of the records of {_ON_NODE} are dropped",
        f"tsctl status; tsctl records stats {_MODEL}; df -h .tsctl",
    ),
    Alert(
        "RecordsFill", "tsctl_records_bytes / tsctl_records_most_bytes > 0.9", 4, "ticket",
        "a node's prediction records have more than 90 % of `records_mb` for a minute, and the oldest are deleted soon",
        f"the records of node {{{{ $labels.node }}}} have {_SHARE} of their place",
        "tsctl records stats; tsctl records compact",
    ),
    Alert(
        "DriftAlarm", "count by (model, version) (tsctl_drift_alarm == 1)", 0, "ticket",
        "the inputs or predictions of a version have drifted from its archive's reference, until the watch is reset",
        f"{{{{ $value }}}} features or predictions of {_VERSION} have drifted",
        "tsctl drift report {{ $labels.model }}:{{ $labels.version }}",
    ),
    Alert(
        "ShadowDisagrees",
        "tsctl_shadow_disagreement_ratio and on (instance, model, version) tsctl_shadow_evidence_ratio >= 1",
        4, "ticket",
        "by the pairs of an hour, a shadow surely disagrees more than `max_disagreement` above the noise floor",
        f"{_SHARE} of the answers of shadow {_VERSION} differ from stable's, more than its policy allows above the"
        " noise floor",
        f"tsctl shadow report {_MODEL}",
    ),
)  # fmt: skip

RELEASES = (
    Alert(
        "RolloutUnattended", "tsctl_rollout_running == 0", 4, "page",
        "a rollout has not ended and no process runs it for a minute, so nobody watches the canary",
        f"the rollout of {_VERSION} has no process",
        f"tsctl rollout status {_MODEL}; tsctl rollout resume {_MODEL}",
    ),
    Alert(
        "RolloutUndecided", "tsctl_rollout_undecided_seconds > 0.5 * tsctl_rollout_max_hold_seconds", 0, "ticket",
        "a step of a rollout is undecided for half of the policy's `max_hold_s`",
        f"the rollout of {_VERSION} is undecided for {{{{ $value | humanizeDuration }}}}",
        f"tsctl rollout explain {_MODEL}",
    ),
    Alert(
        "RolloutRolledBack", 'time() - tsctl_rollout_ended_timestamp_seconds{outcome="rolled back"} < 3600',
        0, "ticket",
        "a version was rolled back in the last hour",
        f"{_VERSION} was rolled back",
        f"tsctl rollout explain {_MODEL}",
    ),
)  # fmt: skip

EXPIRY = (
    Alert(
        "TokenExpired", "tsctl_node_token_expiry_timestamp_seconds - time() < -60", 0, "page",
        "a node's token expired a minute ago, and nobody renewed it",
        "the token of node {{ $labels.node }} has expired",
        "tsctl status --node {{ $labels.node }}",
    ),
    Alert(
        "TokenExpiresSoon", 'tsctl_node_token_expiry_timestamp_seconds{renewal="copy"} - time() < 259200', 0, "ticket",
        "the token in a `key_file`, which nobody here renews, expires within three days",
        "the token of node {{ $labels.node }} expires in {{ $value | humanizeDuration }}",
        "tsctl status --node {{ $labels.node }}; copy its key_file.json again",
    ),
    Alert(
        "CertificateExpires", "envoy_server_days_until_first_cert_expiring < 3", 0, "page",
        "the gateway's certificate expires within three days",
        "the gateway's certificate expires in {{ $value }} days",
        _EXPIRES,
    ),
    Alert(
        "CertificateExpiresSoon", "(envoy_server_days_until_first_cert_expiring < 21) >= 3", 0, "ticket",
        "it expires within three weeks, and not within three days",
        "the gateway's certificate expires in {{ $value }} days",
        _EXPIRES,
    ),
)  # fmt: skip

#: The groups of the rules file; each is evaluated by itself.
GROUPS = {
    "objectives": OBJECTIVES,
    "gateway": GATEWAY,
    "nodes": NODES,
    "answers": ANSWERS,
    "releases": RELEASES,
    "expiry": EXPIRY,
}
ALERTS = tuple(alert for group in GROUPS.values() for alert in group)

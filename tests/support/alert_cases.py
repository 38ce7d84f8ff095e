"""Series for which each alert fires, and series for which it stays silent: the content of a test of `promtool`.

Times are minutes, which are scrapes here: the rules are rendered for `scrape_s: 60`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tsctl.monitoring.promql import quoted

#: Values by series, in promtool's notation: `0+5x60` counts 5 a minute for an hour.
Series = Mapping[str, str]


@dataclass(frozen=True)
class Case:
    """One moment of one alert.

    Args:
        fires: the labels of the alert beside its name and severity; None: it is silent.
        why: it is so.
    """

    alert: str
    series: Series
    minute: int
    fires: Mapping[str, str] | None
    why: str


DIGITS = {"model": "digits"}
VERSION = {"model": "digits", "version": "1.0"}
LOCAL = {"node": "local", **VERSION}
TOKEN = {"node": "local"}
STATE = {"instance": "here:1", "job": "tsctl-state"}
ENVOY = {"instance": "envoy:1", "job": "tsctl-gateway"}
_OK = 'envoy_tsctl_requests{model="digits",version="1.0",status="200",deadline="route"}'


def series(name: str, labels: Mapping[str, str]) -> str:
    """The series in PromQL."""
    return f"{name}{{{','.join(f'{key}={quoted(value)}' for key, value in labels.items())}}}"


KEYS_AND_VALUES = series("tsctl_worker_kv_cache_usage_ratio", LOCAL)


def requests(good: str, status: str, bad: str, deadline: str = "route") -> Series:
    """Requests of the model digits: those with 200, and others."""
    other = f'envoy_tsctl_requests{{model="digits",version="1.0",status="{status}",deadline="{deadline}"}}'
    return {_OK: good, other: bad}


def answers(total: str, in_time: str) -> Series:
    """Answers of the model digits, and those of them that began within its 500 ms."""
    labels = {**VERSION, "by": "weight"}
    return {
        series("envoy_tsctl_request_ms_count", labels): total,
        series("envoy_tsctl_request_ms_bucket", {**labels, "le": "500"}): in_time,
        series("envoy_tsctl_request_ms_bucket", {**labels, "le": "+Inf"}): total,
    }


def state(name: str, values: str, **labels: str) -> Series:
    """One series of an exporter."""
    return {series(f"tsctl_{name}", {**STATE, **labels}): values}


def envoy(name: str, values: str, **labels: str) -> Series:
    """One series of Envoy."""
    return {series(f"envoy_{name}", {**ENVOY, **labels}): values}


def refused(blocked: str, shed: str) -> Series:
    blocked_name = "http_adaptive_concurrency_gradient_controller_rq_blocked"
    return {
        **envoy(blocked_name, blocked, prefix="clients"),
        **envoy("http_rq_overload_local_reply", shed, prefix="clients"),
    }


def rejected(clusters: str, routes: str) -> Series:
    return {**envoy("cluster_manager_cds_update_rejected", clusters), **envoy("http_rds_update_rejected", routes)}


def workers(asked: str, ready: str) -> Series:
    return {**state("node_workers", asked, **LOCAL), **state("node_ready_workers", ready, **LOCAL)}


def started(starts: str, asked: str) -> Series:
    of_workers = {**LOCAL, "instance": "here:1", "job": "tsctl-workers"}
    return {series("tsctl_worker_starts_total", of_workers): starts, **state("node_workers", asked, **LOCAL)}


def queue(items: str) -> Series:
    return {**state("node_queue_items", items, **LOCAL), **state("node_queue_size_items", "1000x60", **LOCAL)}


def exchanges(ok: str, down: str) -> Series:
    return {
        series("tsctl_worker_shared_cache_exchanges_total", {**LOCAL, "outcome": "ok"}): ok,
        series("tsctl_worker_shared_cache_exchanges_total", {**LOCAL, "outcome": "down"}): down,
    }


def routed(healthy: str, weight: str) -> Series:
    return {
        **state("gateway_healthy_nodes", healthy, **VERSION),
        **state("gateway_weight_ratio", weight, **VERSION, track="stable"),
    }


def rollout(undecided: str) -> Series:
    return {
        **state("rollout_undecided_seconds", undecided, **VERSION),
        **state("rollout_max_hold_seconds", "3600x60", **VERSION),
    }


def cached(result: str, values: str) -> Series:
    return {series("tsctl_worker_cache_items_total", {**LOCAL, "result": result, "tier": "none"}): values}


def ended(outcome: str) -> Series:
    """A rollout ended in the first minute."""
    return state("rollout_ended_timestamp_seconds", "60x90", **VERSION, outcome=outcome)


def disk(free: str, size: str = "100e9x60") -> Series:
    return {**state("disk_free_bytes", free), **state("disk_size_bytes", size)}


def expiry(at: str, renewal: str) -> Series:
    return state("node_token_expiry_timestamp_seconds", at, node="local", renewal=renewal)


def ends(stopped: str, failed: str) -> Series:
    """Answers of a language model by how they ended."""
    name = "tsctl_worker_finished_answers_total"
    return {
        series(name, {**LOCAL, "finish": "stop"}): stopped,
        series(name, {**LOCAL, "finish": "error"}): failed,
    }


def recorded(written: str, others: str, outcome: str = "queue-full") -> Series:
    return {
        series("tsctl_worker_records_total", {**LOCAL, "outcome": "written"}): written,
        series("tsctl_worker_records_total", {**LOCAL, "outcome": outcome}): others,
    }


def kept(size: str) -> Series:
    return {**state("records_bytes", size, node="local"), **state("records_most_bytes", "1e9x60", node="local")}


def drift(age: str, height: str) -> Series:
    return {
        **state("drift_alarm", age, **VERSION, feature="age"),
        **state("drift_alarm", height, **VERSION, feature="height"),
    }


def shadow(differ: str, evidence: str) -> Series:
    return {
        **state("shadow_disagreement_ratio", differ, **VERSION),
        **state("shadow_evidence_ratio", evidence, **VERSION),
    }


CASES = (
    Case("ErrorBudgetBurns", requests("0+600x90", "503", "0+12x90"), 70, DIGITS, "2 % is more than 14.4 times 0.1 %"),
    Case("ErrorBudgetBurns", requests("0+600x60", "500", "0+5x60"), 60, DIGITS, "0.8 % is more than 6 times 0.1 %"),
    Case("ErrorBudgetBurns", requests("0+600x60", "500", "0+3x60"), 60, None, "0.5 % is a ticket"),
    Case("ErrorBudgetBurns", requests("0+600x95", "500", "0+12x60 720x35"), 95, None, "the fault is over"),
    Case("ErrorBudgetBurns", requests("0x70", "500", "0+0.1x70"), 70, None, "seven errors at night wake nobody"),
    Case("ErrorBudgetBurns", requests("0+600x90", "501", "0+600x90"), 70, None, "501 is no error of ours"),
    Case("ErrorBudgetBurns", requests("0+600x90", "422", "0+600x90"), 70, None, "a client's mistake is none either"),
    Case("ErrorBudgetBurns", requests("0+600x90", "504", "0+60x90", "client"), 70, None, "the client's deadline"),
    Case("ErrorBudgetBurns", requests("0+600x90", "504", "0+60x90"), 70, DIGITS, "the route's deadline"),
    Case("ErrorBudgetBurnsSlowly", requests("0+600x60", "503", "0+2.4x60"), 60, DIGITS, "0.4 % is more than 0.3 %"),
    Case("ErrorBudgetBurnsSlowly", requests("0+600x60", "503", "0+1.2x60"), 60, DIGITS, "0.2 % is more than 0.1 %"),
    Case("ErrorBudgetBurnsSlowly", requests("0+600x60", "503", "0+0.3x60"), 60, None, "0.05 % is allowed"),
    Case("LatencyBudgetBurns", answers("0+600x90", "0+480x90"), 70, DIGITS, "20 % is more than 14.4 times 1 %"),
    Case("LatencyBudgetBurns", answers("0+600x60", "0+558x60"), 60, DIGITS, "7 % is more than 6 times 1 %"),
    Case("LatencyBudgetBurns", answers("0+600x60", "0+576x60"), 60, None, "4 % is a ticket"),
    Case("LatencyBudgetBurnsSlowly", answers("0+600x60", "0+576x60"), 60, DIGITS, "4 % is more than 3 times 1 %"),
    Case("LatencyBudgetBurnsSlowly", answers("0+600x60", "0+597x60"), 60, None, "0.5 % is allowed"),
    Case("GatewayDown", {'up{job="tsctl-gateway",instance="envoy:1"}': "0x9"}, 6, ENVOY, "no scrape succeeds"),
    Case("GatewayDown", {'up{job="tsctl-gateway",instance="envoy:1"}': "1 0 0 1 1 1 0"}, 6, None, "a few failed"),
    Case("VersionWithoutNode", routed("0x9", "0.5x9"), 4, STATE | VERSION, "it has weight and no node"),
    Case("VersionWithoutNode", routed("0x9", "0x9"), 4, None, "it has no weight"),
    Case("VersionWithoutNode", routed("1x9", "1x9"), 4, None, "one node is in rotation"),
    Case("SupervisorDown", state("gateway_supervisor_up", "0x9"), 6, STATE, "it does not run"),
    Case("SupervisorDown", state("gateway_supervisor_up", "1x9"), 6, None, "it runs"),
    Case("GatewayRestarts", envoy("server_uptime", "60 120 5 65 10 70 3 63"), 7, ENVOY, "three restarts"),
    Case("GatewayRestarts", envoy("server_uptime", "60 120 5 65 10 70 130"), 7, None, "two restarts"),
    Case("GatewayRefusesChange", rejected("0x9", "0 0 1x7"), 5, {"instance": "envoy:1"}, "a file was rejected"),
    Case("GatewayRefusesChange", rejected("1x30", "2x30"), 25, None, "that was long ago"),
    Case("GatewayOverloaded", refused("0+60x30", "0x30"), 20, {"instance": "envoy:1"}, "no place for a body"),
    Case("GatewayOverloaded", refused("0x30", "0+60x30"), 20, {"instance": "envoy:1"}, "no memory"),
    Case("GatewayOverloaded", refused("0+1x30", "0+1x30"), 20, None, "one or two refusals a minute"),
    Case("LogLinesLost", envoy("filesystem_write_failed", "0+1x30"), 20, ENVOY, "writes fail"),
    Case("LogLinesLost", envoy("filesystem_write_failed", "5x30"), 20, None, "they failed long ago"),
    Case("ExporterDown", {'up{job="tsctl-state",instance="here:1"}': "0x9"}, 6, STATE, "no scrape succeeds"),
    Case("ExporterDown", {'up{job="tsctl-state",instance="here:1"}': "1x9"}, 6, None, "it answers"),
    Case("ExporterError", state("exporter_error", "1x9", part="nodes"), 6, STATE | {"part": "nodes"}, "unreadable"),
    Case("ExporterError", state("exporter_error", "0x9", part="nodes"), 6, None, "all is read"),
    Case("NodeDown", state("node_up", "0x9", node="local"), 6, STATE | {"node": "local"}, "it does not answer"),
    Case("NodeDown", state("node_up", "0 1x9", node="local"), 6, None, "it answers again"),
    Case("NoReadyWorker", workers("1x40", "0x40"), 30, STATE | LOCAL, "none is READY"),
    Case("NoReadyWorker", workers("1x40", "0x10 1x30"), 30, None, "it took ten scrapes to load"),
    Case("NoReadyWorker", workers("0x40", "0x40"), 30, None, "no worker is asked for"),
    Case("WorkerGivenUp", state("node_failed", "1x9", **LOCAL), 4, STATE | LOCAL, "the node gave up"),
    Case("WorkerGivenUp", state("node_failed", "0x9", **LOCAL), 4, None, "it did not"),
    Case("WorkersCrash", started("1+1x30", "2x30"), 25, LOCAL, "fifteen starts of two workers"),
    Case("WorkersCrash", started("2x10 4x20", "2x30"), 25, None, "both were replaced once"),
    Case("QueueFills", queue("900x9"), 6, STATE | LOCAL, "90 % full"),
    Case("QueueFills", queue("500x9"), 6, None, "half full"),
    Case("CacheWrong", cached("wrong", "0 0 1x20"), 9, LOCAL, "one wrong answer"),
    Case("CacheWrong", cached("hit", "0+9x20"), 9, None, "hits only"),
    Case("SharedCacheDown", exchanges("0+10x30", "0+40x30"), 20, LOCAL, "80 % fail"),
    Case("SharedCacheDown", exchanges("0+40x30", "0+10x30"), 20, None, "20 % fail"),
    Case("DiskFills", disk("4e9x9"), 6, STATE, "4 % free"),
    Case("DiskFills", disk("1e9x9", "5e9x9"), 6, STATE, "under 1 GiB"),
    Case("DiskFills", disk("40e9x9"), 6, None, "40 % free"),
    Case("AnswersBreak", ends("0+90x40", "0+10x40"), 25, VERSION, "10 % end with an error"),
    Case("AnswersBreak", ends("0+990x40", "0+10x40"), 25, None, "1 % ends with an error"),
    Case("AnswersBreak", ends("0x40", "0x40"), 25, None, "nothing is answered"),
    Case("KeysAndValuesFull", {KEYS_AND_VALUES: "0.99x40"}, 30, LOCAL, "99 % full"),
    Case("KeysAndValuesFull", {KEYS_AND_VALUES: "0.9x40"}, 30, None, "90 % full"),
    Case("KeysAndValuesFull", {KEYS_AND_VALUES: "0.99x4 0.5x40"}, 30, None, "it was full for a while"),
    Case("RecordsDropped", recorded("0+90x40", "0+10x40"), 25, LOCAL, "10 % are dropped"),
    Case("RecordsDropped", recorded("0+600x40", "0+1x40"), 25, None, "one in 600 is dropped"),
    Case("RecordsDropped", recorded("0x40", "0x40"), 25, None, "nothing is recorded"),
    Case("RecordsDropped", recorded("0x40", "0+9x40", "unwritable"), 25, LOCAL, "all are dropped"),
    Case("RecordsDropped", recorded("0+90x40", "0+90x40", "input-failed"), 25, None, "half lack their input alone"),
    Case("RecordsDropped", recorded("0+90x40", "0+90x40", "repeat-lost"), 25, None, "second answers are no records"),
    Case("RecordsFill", kept("950e6x9"), 6, STATE | {"node": "local"}, "95 % full"),
    Case("RecordsFill", kept("500e6x9"), 6, None, "half full"),
    Case("DriftAlarm", drift("1x9", "0x9"), 3, VERSION, "one feature has drifted"),
    Case("DriftAlarm", drift("1 1 0x9", "0x9"), 5, None, "the watch was reset"),
    Case("ShadowDisagrees", shadow("0.05x9", "3x9"), 6, STATE | VERSION, "the verdict is too much"),
    Case("ShadowDisagrees", shadow("0.05x9", "0.3x9"), 6, None, "undecided: few pairs, or noise alone"),
    Case("ShadowDisagrees", shadow("0.05x9", "0.01x9"), 6, None, "no noise floor is measured"),
    Case("RolloutUnattended", state("rollout_running", "0x9", **VERSION), 6, STATE | VERSION, "no process"),
    Case("RolloutUnattended", state("rollout_running", "0 0 1x9", **VERSION), 6, None, "it was resumed"),
    Case("RolloutUndecided", rollout("0+60x60"), 40, STATE | VERSION, "40 of 60 minutes"),
    Case("RolloutUndecided", rollout("0+60x60"), 20, None, "20 of 60 minutes"),
    Case("RolloutRolledBack", ended("rolled back"), 5, STATE | VERSION | {"outcome": "rolled back"}, "minutes ago"),
    Case("RolloutRolledBack", ended("rolled back"), 70, None, "more than an hour ago"),
    Case("RolloutRolledBack", ended("promoted"), 5, None, "it was promoted"),
    Case("TokenExpired", expiry("100x30", "tsctl"), 5, STATE | TOKEN | {"renewal": "tsctl"}, "nobody renewed it"),
    Case("TokenExpired", expiry("100 100 100 9e6x9", "tsctl"), 5, None, "tsctl renewed it"),
    Case("TokenExpiresSoon", expiry("200000x9", "copy"), 5, STATE | TOKEN | {"renewal": "copy"}, "in two days"),
    Case("TokenExpiresSoon", expiry("400000x9", "copy"), 5, None, "in four days"),
    Case("TokenExpiresSoon", expiry("200000x9", "tsctl"), 5, None, "tsctl renews it"),
    Case("CertificateExpires", envoy("server_days_until_first_cert_expiring", "2x9"), 5, ENVOY, "in two days"),
    Case("CertificateExpires", envoy("server_days_until_first_cert_expiring", "20x9"), 5, None, "in 20 days"),
    Case("CertificateExpiresSoon", envoy("server_days_until_first_cert_expiring", "20x9"), 5, ENVOY, "in 20 days"),
    Case("CertificateExpiresSoon", envoy("server_days_until_first_cert_expiring", "80x9"), 5, None, "in 80 days"),
    Case("CertificateExpiresSoon", envoy("server_days_until_first_cert_expiring", "4294967295x9"), 5, None, "no TLS"),
)  # fmt: skip


def promtool_test(case: Case, severity: str) -> dict[str, Any]:
    """The case as an entry of `tests` in a file for `promtool test rules`."""
    labels = {"alertname": case.alert, "alertstate": "firing", "severity": severity, **(case.fires or {})}
    firing = {"labels": series("ALERTS", labels), "value": 1}
    return {
        "name": f"{case.alert}: {case.why}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "promql_expr_test": [
            {
                "expr": f'ALERTS{{alertname="{case.alert}",alertstate="firing"}}',
                "eval_time": f"{case.minute}m",
                "exp_samples": [] if case.fires is None else [firing],
            }
        ],
    }

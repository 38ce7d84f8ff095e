"""The files of Prometheus and Alertmanager, as documents for YAML. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

from tsctl.config.deployment import DeploymentSpec
from tsctl.config.monitoring import MonitoringSpec
from tsctl.host.files import Json
from tsctl.monitoring.alerts import CERTIFICATE, GATEWAY_JOB, GROUPS, STATE_JOB, WORKERS_JOB, Alert
from tsctl.monitoring.exporter import METRICS_PATH, STATE_PATH
from tsctl.monitoring.objectives import objective_rules

RULES_FILE = "rules.yml"
#: Envoy has a hundred more series for each version, of which nothing here is made.
KEPT_OF_ENVOY = "envoy_(tsctl|server|cluster_manager|http_rds|http_rq|http_adaptive_concurrency|filesystem)_.+"
MOST_TIMEOUT_S = 10
_GATEWAY = "tsctl gateway status"
RECEIVER, NOBODY = "webhook", "nobody"


def prometheus_document(deployment: DeploymentSpec, remote_hosts: Collection[str]) -> Json:
    """The scrape configuration.

    Args:
        remote_hosts: other machines with nodes, whose exporters listen on the same port as this machine's.
    """
    monitoring = deployment.monitoring
    interval = f"{monitoring.scrape_s}s"
    port = urlsplit(monitoring.exporter).port
    exporters = [_place(monitoring.exporter), *(f"{host}:{port}" for host in remote_hosts)]
    jobs = [_job(WORKERS_JOB, exporters, METRICS_PATH), _job(STATE_JOB, exporters, STATE_PATH)]
    if deployment.gateway is not None:
        kept = {"source_labels": ["__name__"], "regex": KEPT_OF_ENVOY, "action": "keep"}
        gateway = _job(GATEWAY_JOB, [_place(address) for address in deployment.gateway_metrics], METRICS_PATH)
        jobs.insert(0, {**gateway, "metric_relabel_configs": [kept]})
    return {
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": f"{min(monitoring.scrape_s, MOST_TIMEOUT_S)}s",
            "evaluation_interval": interval,
        },
        "rule_files": [RULES_FILE],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [_place(monitoring.alertmanager)]}]}]},
        "scrape_configs": jobs,
    }


def rules_document(deployment: DeploymentSpec) -> Json:
    """Recording rules and alerts.

    Raises:
        SpecError: an objective cannot be measured.
    """
    scrape_s = deployment.monitoring.scrape_s
    records = objective_rules(deployment) if deployment.gateway is not None else []
    groups = [{"name": "tsctl-records", "rules": records}] if records else []
    certificates = _certificates(deployment)
    for name, alerts in GROUPS.items():
        groups.append({"name": f"tsctl-{name}", "rules": [_alert(alert, scrape_s, certificates) for alert in alerts]})
    return {"groups": groups}


def alertmanager_document(monitoring: MonitoringSpec) -> Json:
    """Where alerts go: to the webhook, if there is one. A page is repeated sooner than a ticket."""
    scrape_s = monitoring.scrape_s
    receivers: list[Json] = [{"name": NOBODY}]
    if monitoring.webhook is not None:
        receivers.append({"name": RECEIVER, "webhook_configs": [{"url": monitoring.webhook, "send_resolved": True}]})
    return {
        "route": {
            "receiver": receivers[-1]["name"],
            "group_by": ["alertname", "model"],
            "group_wait": f"{2 * scrape_s}s",
            "group_interval": f"{20 * scrape_s}s",
            "repeat_interval": "24h",
            "routes": [{"matchers": ['severity="page"'], "repeat_interval": "4h"}],
        },
        "inhibit_rules": [
            _inhibited("GatewayDown", "SupervisorDown|VersionWithoutNode"),
            _inhibited("ErrorBudgetBurns", "ErrorBudgetBurnsSlowly", "model"),
            _inhibited("LatencyBudgetBurns", "LatencyBudgetBurnsSlowly", "model"),
            _inhibited("NodeDown", "NoReadyWorker|QueueFills", "node"),
        ],
        "receivers": receivers,
    }


def _job(name: str, targets: list[str], path: str) -> Json:
    return {"job_name": name, "metrics_path": path, "static_configs": [{"targets": targets}]}


def _place(address: str) -> str:
    return urlsplit(address).netloc


def _certificates(deployment: DeploymentSpec) -> list[str]:
    """The files with certificates of the gateway or gateways, as deployment.yaml names them."""
    tls = [place.tls for place in deployment.gateways.values()]
    tls += [deployment.gateway.tls] if deployment.gateway else []
    return [files.certificate for files in tls if files is not None]


def _command(alert: Alert, certificates: Sequence[str]) -> str:
    if CERTIFICATE not in alert.command:
        return alert.command
    # without TLS, the alert cannot fire
    return "; ".join(alert.command.replace(CERTIFICATE, shlex.quote(file)) for file in certificates) or _GATEWAY


def _alert(alert: Alert, scrape_s: int, certificates: Sequence[str]) -> Json:
    return {
        "alert": alert.name,
        "expr": alert.expression,
        **({"for": f"{alert.scrapes * scrape_s}s"} if alert.scrapes else {}),
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "command": _command(alert, certificates)},
    }


def _inhibited(source: str, targets: str, *equal: str) -> Json:
    """While the source fires, nobody is told of the targets."""
    return {
        "source_matchers": [f'alertname="{source}"'],
        "target_matchers": [f'alertname=~"{targets}"'],
        **({"equal": list(equal)} if equal else {}),
    }

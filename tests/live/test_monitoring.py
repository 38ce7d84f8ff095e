"""`make monitor` beside a node and a gateway: alerts reach a webhook, and every query of a dashboard has data."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
import yaml

from tests.support.gateways import Front
from tests.support.ports import free_ports
from tests.support.programs import program
from tests.support.releases import PACE, asking, releasing
from tests.support.sites import is_alive, until
from tsctl.monitoring.dashboards import TEXTS_UID, dashboards
from tsctl.monitoring.files import monitoring_files
from tsctl.monitoring.grafana import MODEL_VARIABLE

#: Requests that the archive was made for; those of the test are all alike, which is drift.
REFERENCE = "".join(f'{{"x": {number / 100}}}\n' for number in range(100))
ARCHIVE = {"reference": "reference.jsonl", "records": {"share": 1.0}}
#: Its worker takes 20 ms, so that every answer is late.
LATE = {"latency_ms": 1}


class Webhook(ThreadingHTTPServer):
    """Takes what Alertmanager sends."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), _Taken)

    def of(self, name: str, status: str) -> list[dict[str, Any]]:
        """The alerts of this name that came with this status: firing or resolved."""
        alerts = [alert for message in self.received for alert in message["alerts"]]
        return [alert for alert in alerts if (alert["labels"]["alertname"], alert["status"]) == (name, status)]


class _Taken(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append(json.loads(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@dataclass
class Watched:
    """A gateway with its monitoring."""

    front: Front
    webhook: Webhook
    addresses: dict[str, str] = field(default_factory=dict)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that Prometheus answers with now."""
        asked = requests.get(
            f"{self.addresses['prometheus']}/api/v1/query", params={"query": expression}, timeout=10
        ).json()
        assert asked["status"] == "success", (expression, asked)
        result: list[dict[str, Any]] = asked["data"]["result"]
        return result


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    for name in ("prometheus", "prometheus-alertmanager"):
        program(name)
    names = ("prometheus", "alertmanager", "exporter")
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in zip(names, free_ports(3), strict=True)}
    webhook = Webhook()
    threading.Thread(target=webhook.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{webhook.server_port}/alerts"

    def edit(content: dict[str, Any]) -> None:
        content["monitoring"] = {**addresses, "webhook": url, "scrape_s": 1, "objectives": LATE}
        (root / "site" / "archives" / "tiny" / "reference.jsonl").write_text(REFERENCE)

    root = tmp_path_factory.mktemp("monitoring")
    try:
        with releasing(
            root, {"1.0": PACE, "2.0": PACE}, archive=ARCHIVE, edit=edit, hold_s=300, max_hold_s=600
        ) as front:
            started = front.site.run("monitoring", "start")
            assert [line for line in started.out.splitlines() if line.startswith("started")] == [
                "started exporter", "started alertmanager", "started prometheus",
            ]  # fmt: skip
            yield Watched(front, webhook, addresses)
    finally:
        webhook.shutdown()
        webhook.server_close()


def test_every_query_of_every_dashboard_has_data(watched: Watched) -> None:
    """While a rollout runs, and an alert fires: every answer is later than the objective allows."""
    site = watched.front.site
    site.run("models", "register", "tiny:2.0")
    site.run("shadow", "set", "tiny", "2.0", "--percent", "100")
    with asking(watched.front), site.start("rollout", "start", "tiny", "2.0") as process:
        until(lambda: watched.query("tsctl_rollout_step == 1"), 60, "the first step")
        until(lambda: watched.webhook.of("LatencyBudgetBurns", "firing"), 60, "the alert at the webhook")
        boards = [board for board in dashboards() if board["uid"] != TEXTS_UID]  # test_text_monitoring.py has that one
        for board in boards:
            for panel in board["panels"]:
                for target in panel["targets"]:
                    expression = target["expr"].replace(MODEL_VARIABLE, "tiny").replace("$__rate_interval", "1m")
                    # the exporter reads records once a minute
                    until(lambda: watched.query(expression), 120, f"data of {board['uid']}, {panel['title']}")  # noqa: B023
        for variable in (variable for board in boards for variable in board["templating"]["list"]):
            name = variable["query"].removeprefix("label_values(").removesuffix(", model)")
            assert {series["metric"]["model"] for series in watched.query(name)} == {"tiny"}
        [alert] = watched.webhook.of("LatencyBudgetBurns", "firing")[:1]
        assert (alert["labels"]["model"], alert["labels"]["severity"]) == ("tiny", "page")
        assert alert["annotations"]["summary"] == "tiny: 100% of the answers are late"
        assert alert["annotations"]["command"].startswith("tsctl status")
        until(lambda: watched.webhook.of("DriftAlarm", "firing"), 120, "the alarm at the webhook")
        assert watched.webhook.of("DriftAlarm", "firing")[0]["labels"]["model"] == "tiny"
        site.run("rollout", "abort", "tiny")
        process.wait(timeout=60)
    until(lambda: watched.query('tsctl_rollout_ended_timestamp_seconds{outcome="aborted"}'), 30, "the rollout's end")


def test_every_rule_is_evaluated_and_every_target_is_up(watched: Watched) -> None:
    groups = requests.get(f"{watched.addresses['prometheus']}/api/v1/rules", timeout=10).json()["data"]["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
    assert {(up["metric"]["job"], up["value"][1]) for up in watched.query("up")} == {
        (job, "1") for job in ("tsctl-gateway", "tsctl-workers", "tsctl-state")
    }
    # every answer is late and all are alike, and how full a disk is says nothing of the code
    others = 'ALERTS{alertstate="firing",alertname!~"LatencyBudgetBurns(Slowly)?|DriftAlarm|DiskFills"}'
    assert watched.query(others) == []
    assert {error["value"][1] for error in watched.query("tsctl_exporter_error")} == {"0"}
    [weight] = watched.query('tsctl_gateway_weight_ratio{track="stable"}')
    assert (weight["metric"]["model"], weight["metric"]["version"], weight["value"][1]) == ("tiny", "1.0", "1")
    [starts] = watched.query('tsctl_worker_starts_total{model="tiny",version="1.0"}')
    assert (starts["metric"]["node"], starts["value"][1]) == ("local", "1")


def test_an_alert_reaches_the_webhook_and_resolves(watched: Watched) -> None:
    front, webhook = watched.front, watched.webhook
    os.kill(front.pid("keeper"), signal.SIGKILL)
    until(lambda: webhook.of("SupervisorDown", "firing"), 60, "the alert")
    [alert] = webhook.of("SupervisorDown", "firing")[:1]
    assert alert["annotations"]["command"] == "tsctl gateway status; tsctl gateway start"
    assert webhook.of("SupervisorDown", "resolved") == []
    front.site.run("gateway", "start")
    until(lambda: webhook.of("SupervisorDown", "resolved"), 90, "its end")


def test_a_second_start_changes_only_what_differs(watched: Watched) -> None:
    site = watched.front.site
    assert "nothing to change" in site.run("monitoring", "start").out
    path = site.root / "deployment.yaml"
    content = site.deployment
    content["models"]["tiny"]["objectives"] = {"latency_ms": 60_000}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    out = site.run("monitoring", "start").out
    assert "prometheus reads its files again" in out
    assert "alertmanager" not in out.partition("alerts:")[0]
    until(lambda: watched.query("model:tsctl_latency_objective:milliseconds == 60000"), 30, "the new objective")


def test_a_changed_address_starts_that_server_again(watched: Watched) -> None:
    site = watched.front.site
    path, content = site.root / "deployment.yaml", site.deployment
    watched.addresses["alertmanager"] = f"http://127.0.0.1:{free_ports(1)[0]}"
    content["monitoring"]["alertmanager"] = watched.addresses["alertmanager"]
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    out = site.run("monitoring", "start").out
    assert out.splitlines()[:2] == ["started alertmanager again", "prometheus reads its files again"]
    ready = requests.get(f"{watched.addresses['alertmanager']}/-/ready", timeout=10)
    assert ready.status_code == 200


def test_a_server_that_was_killed_is_told_and_started_again(watched: Watched) -> None:
    site = watched.front.site
    assert "monitoring: all servers answer" in site.run("status").out
    servers = {one["name"]: one["pid"] for one in site.run("monitoring", "status", "--json").json()}
    os.kill(servers["prometheus"], signal.SIGKILL)
    until(lambda: not is_alive(servers["prometheus"]), 20, "its end")
    failed = site.run("monitoring", "status", status=4)
    assert "prometheus: not running" in failed.err
    assert "monitoring: prometheus not running; run 'tsctl monitoring start'" in site.run("status").out
    assert watched.front.ask("/predictions/tiny").status_code == 200
    out = site.run("monitoring", "start").out
    assert [line for line in out.splitlines() if line.startswith("started")] == ["started prometheus"]
    assert site.run("monitoring", "status").out.count("answers") == 3


def test_a_port_in_use_is_told_with_its_key(watched: Watched) -> None:
    site = watched.front.site
    site.run("monitoring", "stop")
    assert "the monitoring was not running" in site.run("monitoring", "stop").out
    path, content = site.root / "deployment.yaml", site.deployment
    before = path.read_text()
    content["monitoring"]["prometheus"] = f"http://127.0.0.1:{watched.webhook.server_port}"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    failed = site.run("monitoring", "start", status=4)
    assert f"port {watched.webhook.server_port} (prometheus) on 127.0.0.1 is in use" in failed.err
    assert "monitoring.prometheus" in failed.err
    path.write_text(before)
    folder = monitoring_files(watched.front.gateway.project).folder
    assert folder.stat().st_mode & 0o777 == 0o700

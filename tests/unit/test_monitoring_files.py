"""The files of `tsctl monitoring render`: objectives, rules, scrape configuration and dashboards; the docs agree."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from handlers.telemetry import metrics as telemetry
from tsctl.config.deployment import DeploymentSpec
from tsctl.errors import SpecError
from tsctl.gateway.counters import SERIES
from tsctl.monitoring.alerts import ALERTS
from tsctl.monitoring.configuration import (
    KEPT_OF_ENVOY,
    alertmanager_document,
    prometheus_document,
    rules_document,
)
from tsctl.monitoring.dashboards import dashboards
from tsctl.monitoring.files import MonitoringFiles, rendered, write_rendered
from tsctl.monitoring.grafana import COLUMNS
from tsctl.monitoring.state import STATE

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = (CHECKOUT / "docs" / "monitoring.md").read_text(encoding="utf-8")
GOLDEN = Path(__file__).parent / "golden" / "monitoring.json"
MODEL = {"default": "1.0", "versions": {"1.0": {"workers": 1}}}
CONTENT: dict[str, Any] = {
    "nodes": {
        "local": {},
        "far": {"engine": "uvicorn", "address": "http://192.0.2.7:8080"},
        "farther": {"engine": "uvicorn", "address": "http://192.0.2.7:8090"},
    },
    "gateway": {},
    "models": {"digits": {**MODEL, "objectives": {"latency_ms": 100}}, "embeddings": MODEL},
    "monitoring": {"webhook": "https://example.com/alerts", "objectives": {"availability": 0.99}},
}


def spec(**changes: Any) -> DeploymentSpec:
    return DeploymentSpec.model_validate({**CONTENT, **changes})


def records(document: dict[str, Any], name: str) -> dict[str, str]:
    """The expressions of a recording rule, by model."""
    rules = [rule for group in document["groups"] for rule in group["rules"] if rule.get("record") == name]
    return {rule.get("labels", {}).get("model", ""): rule["expr"] for rule in rules}


def documents() -> dict[str, Any]:
    return {
        "prometheus": prometheus_document(spec(), ["192.0.2.7"]),
        "rules": rules_document(spec()),
        "alertmanager": alertmanager_document(spec().monitoring),
    }


def test_the_documents_are_those_of_the_golden_file() -> None:
    assert documents() == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_a_models_objectives_replace_single_keys_of_the_deployments() -> None:
    rules = rules_document(spec())
    assert records(rules, "model:tsctl_error_budget:ratio") == {"digits": "vector(0.01)", "embeddings": "vector(0.01)"}
    latencies = records(rules, "model:tsctl_latency_objective:milliseconds")
    assert latencies == {"digits": "vector(100)", "embeddings": "vector(500)"}
    slow = records(rules, "model:tsctl_slow_answers:rate5m")
    assert 'model="digits",le=~"100([.]0)?"' in slow["digits"]


def test_a_latency_between_two_edges_is_refused_with_both() -> None:
    with pytest.raises(
        SpecError, match=r"objectives of digits: latency_ms 270: .* up to 250 and up to 300 ms"
    ) as caught:
        rules_document(spec(models={"digits": {**MODEL, "objectives": {"latency_ms": 270}}}))
    assert caught.value.hint == "Take 250 or 300."


@pytest.mark.parametrize(
    ("monitoring", "message"),
    [
        ({"objectives": {"availability": 99.9}}, "availability"),
        ({"exporter": "https://127.0.0.1:9464"}, "must begin with http://"),
        ({"exporter": "http://127.0.0.1:9090"}, "need different addresses"),
        ({"webhook": "https://user:secret@example.com/"}, "webhook"),
        ({"scrape_s": 0}, "scrape_s"),
        ({"keep_days": 2}, "keep_days"),
    ],
)
def test_a_mistake_is_refused(monitoring: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec(monitoring=monitoring)


def test_each_machine_is_scraped_once() -> None:
    document = prometheus_document(spec(), ["192.0.2.7"])
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in document["scrape_configs"]}
    exporters = ["127.0.0.1:9464", "192.0.2.7:9464"]
    assert targets == {"tsctl-gateway": ["127.0.0.1:8003"], "tsctl-workers": exporters, "tsctl-state": exporters}


def test_without_a_gateway_nodes_are_watched_all_the_same(tmp_path: Path) -> None:
    files = MonitoringFiles(tmp_path / "files")
    contents = rendered(spec(gateway=None), files)
    jobs = yaml.safe_load(contents[files.prometheus])["scrape_configs"]
    assert [job["job_name"] for job in jobs] == ["tsctl-workers", "tsctl-state"]
    rules = [rule for group in yaml.safe_load(contents[files.rules])["groups"] for rule in group["rules"]]
    assert {rule["alert"] for rule in rules} == {alert.name for alert in ALERTS}


def test_without_a_webhook_alerts_are_only_on_alertmanagers_page() -> None:
    document = alertmanager_document(spec(monitoring={}).monitoring)
    assert document["receivers"] == [{"name": document["route"]["receiver"]}]


def test_what_is_unchanged_is_not_written_again(tmp_path: Path) -> None:
    files = MonitoringFiles(tmp_path / "files")
    contents = rendered(spec(), files)
    assert write_rendered(contents) == list(contents)
    assert write_rendered(contents) == []
    assert {path.stat().st_mode & 0o777 for path in contents} == {0o600}
    changed = rendered(spec(monitoring={"scrape_s": 30}), files)
    assert set(write_rendered(changed)) == {files.prometheus, files.rules, files.alertmanager}


TLS = {"certificate": "tls/my chain.pem", "key": "tls/key.pem"}
SEVERAL = {
    "gateways": {
        "a": {"address": "https://192.0.2.1:8443", "metrics": "http://192.0.2.1:8003", "tls": TLS},
        "b": {"address": "https://192.0.2.2:8443", "metrics": "http://192.0.2.2:8003",
              "tls": {**TLS, "certificate": "b.pem"}},
    },
    "gateway": {},
    "control": "/shared",
}  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "command"),
    [
        ({"gateway": {}}, "tsctl gateway status"),
        (
            {"gateway": {"address": "https://127.0.0.1:8443", "tls": TLS}},
            "openssl x509 -enddate -noout -in 'tls/my chain.pem'",
        ),
        (
            SEVERAL,
            "openssl x509 -enddate -noout -in 'tls/my chain.pem'; openssl x509 -enddate -noout -in b.pem",
        ),
    ],
    ids=["no TLS", "one gateway", "several"],
)
def test_alerts_of_certificates_name_their_files(keys: dict[str, Any], command: str) -> None:
    rules = [rule for group in rules_document(spec(**keys))["groups"] for rule in group["rules"]]
    commands = {rule["annotations"]["command"] for rule in rules if str(rule.get("alert")).startswith("Certificate")}
    assert commands == {command}
    assert not any("CERTIFICATE" in str(rule) for rule in rules)


def test_inhibitions_and_commands_name_what_exists() -> None:
    names = {alert.name for alert in ALERTS}
    assert len(names) == len(ALERTS)
    for rule in alertmanager_document(spec().monitoring)["inhibit_rules"]:
        named = re.findall(r"[A-Z]\w+", " ".join(rule["source_matchers"] + rule["target_matchers"]))
        assert set(named) <= names
    commands = (CHECKOUT / "docs" / "cli.md").read_text(encoding="utf-8")
    for alert in ALERTS:
        assert alert.severity in {"page", "ticket"}
        for command in re.findall(r"tsctl (?:[a-z]+ ?){1,2}", alert.command):
            words = command.split()
            assert any(f" `{' '.join(words[:count])}`\n" in commands for count in (2, 3)), (alert.name, command)


def rows(heading: str) -> list[list[str]]:
    """Cells of the last table under a heading of the page."""
    section = PAGE.partition(f"\n## {heading}\n")[2].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_page_has_every_alert() -> None:
    assert rows("Alerts") == [[f"`{alert.name}`", alert.severity, alert.when] for alert in ALERTS]


def test_the_page_has_every_metric_of_the_exporter_with_its_labels() -> None:
    written = {
        name.strip("`"): tuple(re.findall(r"`(\w+)`", labels)) for name, labels, _ in rows("Metrics of the exporter")
    }
    assert written == {name: about.labels for name, about in STATE.items()}


def expressions() -> list[str]:
    """Every query of a dashboard and of a rule."""
    rules = [rule["expr"] for group in rules_document(spec())["groups"] for rule in group["rules"]]
    return rules + [
        target["expr"] for board in dashboards() for panel in board["panels"] for target in panel["targets"]
    ]


def test_queries_name_metrics_that_exist() -> None:
    known = {*SERIES, *STATE, *telemetry.METRICS, "up", "ALERTS"}
    known |= {f"{name}_{part}" for name in telemetry.METRICS for part in ("bucket", "count", "sum")}
    recorded = {
        rule["record"] for group in rules_document(spec())["groups"] for rule in group["rules"] if "record" in rule
    }
    for expression in expressions():
        assert set(re.findall(r"model:\w+:\w+", expression)) <= recorded
        for name in re.findall(r"\b(?:tsctl|envoy)_\w+", re.sub(r'model:\w+:\w+|"[^"]*"', "", expression)):
            assert name in known or (name.startswith("envoy_") and re.fullmatch(KEPT_OF_ENVOY, name)), name


def test_dashboards_have_the_form_of_grafanas_schema() -> None:
    """`grafana-foundation-sdk` is made from it: a key that its types do not know is lost on the way through them."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    for board in dashboards():
        read = Dashboard.from_json(board)
        again = json.loads(JSONEncoder(sort_keys=True).encode(read))
        assert_kept(board, again, board["uid"])
        assert 8 <= len(board["uid"]) <= 40


def assert_kept(written: Any, read: Any, place: str) -> None:
    """Everything that was written is in what was read, which may have defaults besides."""
    if isinstance(written, dict):
        for key, value in written.items():
            assert key in read, f"{place}.{key} is unknown to Grafana's schema"
            assert_kept(value, read[key], f"{place}.{key}")
    elif isinstance(written, list):
        assert len(written) == len(read), place
        for number, (one, other) in enumerate(zip(written, read, strict=True)):
            assert_kept(one, other, f"{place}[{number}]")
    else:
        assert written == read, place


def test_panels_stand_beside_each_other() -> None:
    for board in dashboards():
        cells = set[tuple[int, int]]()
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        for panel in board["panels"]:
            at = panel["gridPos"]
            assert at["x"] + at["w"] <= COLUMNS
            covered = {(x, at["y"]) for x in range(at["x"], at["x"] + at["w"])}
            assert not cells & covered, panel["title"]
            cells |= covered
            assert [target["refId"] for target in panel["targets"]] == list("ABC")[: len(panel["targets"])]


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(documents(), indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{GOLDEN}\n")

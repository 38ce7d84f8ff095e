"""Each alert fires and stays silent as `tests/support/alert_cases.py` says, by Prometheus' own `promtool`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.alert_cases import CASES, promtool_test
from tests.support.programs import program
from tsctl.config.deployment import DeploymentSpec
from tsctl.monitoring.alerts import ALERTS
from tsctl.monitoring.files import MonitoringFiles, rendered, write_rendered

SEVERITY = {alert.name: alert.severity for alert in ALERTS}
DEPLOYMENT = {
    "nodes": {"local": {}},
    "gateway": {},
    "models": {"digits": {"default": "1.0", "versions": {"1.0": {"workers": 1}}}},
    "monitoring": {"scrape_s": 60, "webhook": "http://127.0.0.1:9/alerts"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> MonitoringFiles:
    """The rendered files of DEPLOYMENT."""
    program("promtool", "prometheus")
    program("amtool", "prometheus-alertmanager")
    made = MonitoringFiles(tmp_path_factory.mktemp("monitoring") / "files")
    write_rendered(rendered(DeploymentSpec.model_validate(DEPLOYMENT), made))
    return made


def run(*command: str | Path) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_prometheus_and_alertmanager_take_the_files(files: MonitoringFiles) -> None:
    assert "1 rule files found" in run("promtool", "check", "config", files.prometheus)
    assert "SUCCESS" in run("promtool", "check", "rules", files.rules)
    assert "SUCCESS" in run("amtool", "check-config", files.alertmanager)


def test_every_alert_has_cases_of_both_kinds() -> None:
    assert {case.alert for case in CASES if case.fires is not None} == set(SEVERITY)
    assert {case.alert for case in CASES if case.fires is None} == set(SEVERITY)


def test_every_alert_fires_and_stays_silent(files: MonitoringFiles, tmp_path: Path) -> None:
    tests: list[dict[str, Any]] = [promtool_test(case, SEVERITY[case.alert]) for case in CASES]
    content = {"rule_files": [str(files.rules)], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(content))
    run("promtool", "test", "rules", tmp_path / "tests.yml")


def test_an_alert_says_what_is_wrong_and_the_command_that_shows_more(files: MonitoringFiles, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.alert == "ErrorBudgetBurns" and case.fires is not None)
    test = promtool_test(case, "page") | {"promql_expr_test": []}
    annotations = {
        "summary": "digits: 1.961% of the requests fail",
        "command": "tsctl status; tsctl gateway status; tail .tsctl/gateway/logs/access.log",
    }
    alert = {"exp_labels": {"severity": "page", "model": "digits"}, "exp_annotations": annotations}
    test["alert_rule_test"] = [{"eval_time": f"{case.minute}m", "alertname": case.alert, "exp_alerts": [alert]}]
    content = {"rule_files": [str(files.rules)], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(content))
    run("promtool", "test", "rules", tmp_path / "tests.yml")

"""The files in `.tsctl/monitoring`: their names, and what is rendered into them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.host.files import Json, make_folder, write_secret
from tsctl.host.ports import is_address_here
from tsctl.monitoring.configuration import RULES_FILE, alertmanager_document, prometheus_document, rules_document
from tsctl.monitoring.dashboards import dashboards
from tsctl.monitoring.grafana import as_json, provisioning


class MonitoringFiles:
    """The files of the monitoring of one machine, in a folder that only its owner may read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prometheus = folder / "prometheus.yml"
        self.alertmanager = folder / "alertmanager.yml"
        self.rules = folder / RULES_FILE
        self.provisioning = folder / "grafana" / "provisioning"
        self.dashboards = folder / "grafana" / "dashboards"
        self.logs = folder / "logs"
        self.lock = folder / "lock"

    def record(self, server: str) -> Path:
        """The record of a server's process."""
        return self.folder / f"{server}.pid.json"

    def log(self, server: str) -> Path:
        """What a server prints."""
        return self.logs / f"{server}.log"

    def store(self, server: str) -> Path:
        """A server's own data."""
        return self.folder / server


def monitoring_files(project: Project) -> MonitoringFiles:
    """The files of the project."""
    return MonitoringFiles(project.state / "monitoring")


def rendered(deployment: DeploymentSpec, files: MonitoringFiles) -> dict[Path, str]:
    """The content of every file that is made from deployment.yaml.

    Raises:
        SpecError: an objective cannot be measured.
    """
    hosts = {node.host: None for node in deployment.nodes.values() if not node.is_loopback}
    remote = [host for host in hosts if not is_address_here(host)]
    documents = {
        files.prometheus: prometheus_document(deployment, remote),
        files.rules: rules_document(deployment),
        files.alertmanager: alertmanager_document(deployment.monitoring),
    }
    grafana = provisioning(deployment.monitoring.prometheus, files.dashboards)
    documents |= {files.provisioning / path: content for path, content in grafana.items()}
    boards = {files.dashboards / f"{board['uid']}.json": as_json(board) for board in dashboards()}
    return {path: _yaml(content) for path, content in documents.items()} | boards


def write_rendered(contents: Mapping[Path, str]) -> list[Path]:
    """Write the files whose content differs; those that were written."""
    changed = [path for path, text in contents.items() if not path.is_file() or path.read_text("utf-8") != text]
    for path in changed:
        make_folder(path.parent)
        write_secret(path, contents[path])
    return changed


def _yaml(document: Json) -> str:
    heading = "# Rendered by 'tsctl monitoring render' from deployment.yaml; an edit here is lost.\n"
    return heading + yaml.safe_dump(document, sort_keys=False, width=120, allow_unicode=True)

"""The state page: a part that cannot be read hides no other; rollouts are followed by new lines of their journals."""

from __future__ import annotations

import json
import random
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from tests.support.drift import item, project_with, references, write_records
from tsctl.config.project import PROJECT_VARIABLE, Project
from tsctl.errors import AnalysisError, NodeError, SpecError
from tsctl.monitoring.exporter import application
from tsctl.monitoring.followed import FollowedRollout, FollowedRollouts
from tsctl.monitoring.processes import is_monitored, start_monitoring
from tsctl.monitoring.state import MachineState
from tsctl.monitoring.worker_files import NodesFiles, WorkerFiles, registry_of

JOURNALS = Path(__file__).parent / "data" / "journals"
DEPLOYMENT = """
nodes:
  local: {}
  copied: {inference: "http://127.0.0.1:1", management: "http://127.0.0.1:2", metrics: "http://127.0.0.1:3",
           grpc_ports: [4, 5], key_file: keys.json}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "deployment.yaml").write_text(DEPLOYMENT)
    return Project(tmp_path)


def journal(project: Project, model: str, name: str) -> Path:
    """A journal of the model as it was recorded."""
    source = JOURNALS / f"{name}.jsonl"
    identity = json.loads(source.read_text().splitlines()[0])["id"]
    path = project.state / "rollouts" / model / f"{identity}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, path)
    return path


def keys(project: Project, expires: datetime) -> None:
    token = {"key": "secret", "expiration time": expires.isoformat()}
    path = project.root / "keys.json"
    path.write_text(json.dumps({"inference": token, "management": token, "API": {"key": "secret"}}))
    path.chmod(0o600)


class Page:
    """The state of a project as it is exported now."""

    def __init__(self, project: Project) -> None:
        self.registry = registry_of(MachineState(project))

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"tsctl_{name}", labels)

    def errors(self) -> set[str]:
        parts = ("nodes", "gateway", "rollouts", "disk")
        return {part for part in parts if self.value("exporter_error", part=part) != 0}


def test_nodes_that_do_not_run_are_down(project: Project) -> None:
    page = Page(project)
    assert page.value("node_up", node="local", engine="torchserve") == 0
    assert page.value("gateway_supervisor_up") is None, "the deployment has no gateway"
    assert page.errors() == set()
    assert (page.value("disk_free_bytes") or 0) <= (page.value("disk_size_bytes") or 0)


def test_a_gateway_that_does_not_run_has_no_supervisor_and_no_versions(project: Project) -> None:
    project.deployment.write_text(DEPLOYMENT + "gateway: {}\n")
    page = Page(project)
    assert page.value("gateway_supervisor_up") == 0
    assert page.errors() == set()


def test_the_expiry_of_a_copied_token_is_exported_and_its_key_is_not(project: Project) -> None:
    expires = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    keys(project, expires)
    page = Page(project)
    exported = page.value("node_token_expiry_timestamp_seconds", node="copied", renewal="copy")
    assert exported == expires.timestamp()
    (project.root / "keys.json").chmod(0o644)
    assert page.errors() == {"nodes"}, "others may read the key"
    assert page.value("node_up", node="local", engine="torchserve") == 0, "what was read before stays"


def test_the_drift_of_a_followed_version_is_exported_by_feature(tmp_path: Path) -> None:
    chance = random.Random(5)  # noqa: S311 - the same in each run
    drifting = project_with(tmp_path, references(), {"share": 1.0})
    begin = time.time() - 600
    write_records(drifting, [item(chance, shift=2.0) for _ in range(200)], lambda number: begin + number)
    page = Page(drifting)
    version = {"model": "toy", "version": "1.0"}
    assert page.value("exporter_error", part="drift") == 0
    assert page.value("drift_items", **version) == 200
    assert page.value("drift_evidence_ratio", **version) == 1000
    assert page.value("drift_alarm", **version, feature="input.width") == 1
    assert page.value("drift_alarm", **version, feature="prediction.score") == 0
    psi, noise = (page.value(f"drift_{name}", **version, feature="input.width") or 0 for name in ("psi", "psi_noise"))
    assert psi > 1 > noise > 0
    assert page.errors() == set()


def test_a_damaged_deployment_hides_neither_rollouts_nor_the_disk(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    journal(project, "digits", "rolled_back")
    project.deployment.write_text("nodes: [")
    page = Page(project)
    for _ in range(3):
        assert page.errors() == {"nodes", "gateway"}
    said = [record.message for record in caplog.records if record.message.startswith("nodes: SpecError")]
    assert len(said) == 1, "it is logged once"
    ended = page.value("rollout_ended_timestamp_seconds", model="digits", version="2.0", outcome="rolled back")
    assert ended == 1795599010.4
    project.deployment.write_text(DEPLOYMENT)
    assert page.errors() == set()


def test_an_unfinished_rollout_shows_step_time_and_evidence(project: Project) -> None:
    journal(project, "m", "in_the_second_step")
    page = Page(project)
    version = {"model": "m", "version": "2.0"}
    assert page.value("rollout_running", **version) == 0
    assert page.value("rollout_step", **version) == 2
    assert page.value("rollout_max_hold_seconds", **version) == 600
    assert (page.value("rollout_undecided_seconds", **version) or 0) > 0
    average = page.value("rollout_evidence_ratio", **version, signal="average")
    assert average is not None
    assert 0 < average < 1
    assert page.value("rollout_ended_timestamp_seconds", **version, outcome="promoted") is None


def test_a_journal_is_followed_line_by_line_and_read_anew_where_it_was_replaced(project: Project) -> None:
    path = journal(project, "m", "in_the_second_step")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"")
    followed = FollowedRollouts(project)
    assert list(followed.read()) == [], "nothing was begun"
    requests = []
    for count in range(1, len(lines) + 1):
        with path.open("ab") as file:
            file.write(lines[count - 1][:-1])
        list(followed.read())  # half a line is no entry
        with path.open("ab") as file:
            file.write(b"\n")
        [rollout] = followed.read()
        requests.append(rollout.state.evidence.canary.requests)
    [whole] = FollowedRollouts(project).read()
    assert rollout.state == whole.state
    assert requests == sorted(requests)
    beside = path.with_suffix(".new")
    beside.write_bytes(b"".join(lines[:5]))
    beside.replace(path)
    [again] = followed.read()
    assert again.state.step < whole.state.step


def test_a_damaged_journal_hides_no_other(project: Project) -> None:
    journal(project, "digits", "aborted").write_text("nonsense\n")
    journal(project, "m", "in_the_second_step")
    read: list[FollowedRollout] = []
    with pytest.raises(AnalysisError, match="not an entry"):
        read += FollowedRollouts(project).read()
    page = Page(project)
    assert page.errors() == {"rollouts"}
    assert page.value("rollout_step", model="m", version="2.0") == 2


def test_the_newest_rollout_of_a_model_counts(project: Project) -> None:
    newest = journal(project, "digits", "rolled_back")
    older = newest.with_name("20250101T000000Z-2.0.jsonl")
    shutil.copy(JOURNALS / "aborted.jsonl", older)
    page = Page(project)
    version = {"model": "digits", "version": "2.0"}
    assert page.value("rollout_ended_timestamp_seconds", **version, outcome="rolled back") is not None
    assert page.value("rollout_ended_timestamp_seconds", **version, outcome="aborted") is None


class Counted(WorkerFiles):
    """Files whose sum is given."""

    def __init__(self, count: int) -> None:
        self._count = count

    def collect(self) -> list[Metric]:
        family = CounterMetricFamily("asked", "Requests.", labels=["model"])
        family.add_metric(["toy"], self._count)
        return [family]


def test_workers_of_several_nodes_are_told_apart(tmp_path: Path) -> None:
    page = registry_of(NodesFiles({"a": Counted(2), "b": Counted(3)}))
    assert page.get_sample_value("asked_total", {"model": "toy", "node": "a"}) == 2
    assert page.get_sample_value("asked_total", {"model": "toy", "node": "b"}) == 3
    assert len(list(page.collect())) == 1, "one entry for the metric"


def test_the_state_has_a_page_of_its_own() -> None:
    class One(Collector):
        def collect(self) -> list[Metric]:
            return [CounterMetricFamily("one", "One.", value=1)]

    def get(path: str) -> tuple[str, bytes]:
        said: list[str] = []
        environ = {"PATH_INFO": path, "REQUEST_METHOD": "GET"}
        page = application(CollectorRegistry(), registry_of(One()))
        body = b"".join(page(environ, lambda status, headers: said.append(status)))
        return said[0], body

    assert get("/metrics") == ("200 OK", b"")
    assert b"one_total 1.0\n" in get("/state")[1]
    assert get("/other") == ("404 Not Found", b"There are /metrics, /state and /healthz.\n")


def test_missing_packages_are_named_with_the_command_that_installs_them(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tsctl.config.deployment import read_deployment
    from tsctl.host.progress import Progress

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SpecError, match="not installed on this machine: prometheus, prometheus-alertmanager") as caught:
        start_monitoring(project, read_deployment(project.deployment), Progress())
    assert caught.value.hint.endswith("apt-get install --no-install-recommends prometheus prometheus-alertmanager")
    assert not is_monitored(project)


def test_without_a_name_every_node_of_this_machine_is_exported(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tsctl.cli.metrics import nodes_here

    monkeypatch.setenv(PROJECT_VARIABLE, str(project.root))
    assert [node.name for node in nodes_here(None)] == ["local", "copied"]
    assert [node.name for node in nodes_here("copied")] == ["copied"]
    far = 'nodes:\n  far: {engine: uvicorn, address: "http://192.0.2.7:8080"}\n'
    project.deployment.write_text(far)
    with pytest.raises(NodeError, match=r"node far is on 192\.0\.2\.7"):
        nodes_here(None)
    project.deployment.write_text(far + "gateway: {}\n")
    assert nodes_here(None) == [], "the gateway's machine has its own state"
    with pytest.raises(NodeError, match=r"node far is on 192\.0\.2\.7"):
        nodes_here("far")

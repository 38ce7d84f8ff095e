"""`tsctl plan` and `tsctl apply` on two real nodes behind a real Envoy, in the order of a deployment's life."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml

from benchmarks.harness.client import under_load
from tests.support.gateways import Front
from tests.support.ports import free_ports
from tests.support.sites import HALF, Site, make_site, processes_of, until, write_tiny
from tests.unit.rollout_journals import started
from tsctl.config.deployment import read_deployment
from tsctl.config.project import Project
from tsctl.gateway.start import local_key
from tsctl.gateway.state import open_gateway
from tsctl.rollout.decide.events import Ended, Outcome
from tsctl.rollout.run.journal import Journal
from tsctl.rollout.run.journal_files import folder

NODES = ("local", "b")
#: 3.0 loads for two seconds, and fails to while a file exists; 9.0 is registered by hand.
VERSIONS: dict[str, dict[str, Any]] = {
    "1.0": {"factor": 2.0},
    "2.0": {"factor": 3.0},
    "3.0": {"factor": 4.0, "load_s": 2.0},
    "9.0": {"factor": 9.0},
}
BOTH = {"1.0": {"workers": 1}, "2.0": {"workers": 1}}
WEIGHTS = {"1.0": "80%", "2.0": "20%"}


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A gateway and the first of two nodes, which serve nothing, and the archives of all versions."""
    root = tmp_path_factory.mktemp("apply")
    site = make_site(root / "site")
    VERSIONS["3.0"]["fail_while"] = str(site.root / "broken")
    write_tiny(site, "tiny", VERSIONS)
    client, metrics = free_ports(2)
    content = site.deployment
    content["nodes"]["b"] = make_site(root / "ports").deployment["nodes"]["local"]
    content["gateway"] = {"address": f"http://127.0.0.1:{client}", "metrics": f"http://127.0.0.1:{metrics}"}
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    try:
        with ThreadPoolExecutor(2) as pool:
            building = pool.submit(site.run, "archive", "build")
            site.run("node", "start", "--node", "local")
            building.result()
        site.run("gateway", "start")
        project = Project(site.root)
        key = local_key(open_gateway(project, read_deployment(project.deployment))).read_text()
        yield Front(site, f"http://127.0.0.1:{client}", "", key.strip().partition(": ")[2])
    finally:
        site.run("down", status=None)
    assert processes_of(root) == [], "processes are left behind"


def deploy(site: Site, versions: dict[str, Any], **more: Any) -> None:
    site.deploy({"tiny": {"default": "1.0", "versions": versions, **more}})


def lines(out: str) -> list[str]:
    """Lines of a plan, with single spaces, and archives without their digests."""
    return [re.sub(r"-[0-9a-f]{12}\.mar", "", " ".join(line.split())) for line in out.splitlines() if line]


def weights(site: Site) -> dict[str, int]:
    [shown] = site.run("weights", "show", "--json").json()
    return {version: share for version, share in shown["weights"].items() if share}


def served(site: Site) -> dict[str, dict[str, int]]:
    """READY workers by node and version."""
    listed = site.run("models", "list", "--all-nodes", "--json", status=None).json()
    nodes = yaml.safe_load((site.root / "deployment.yaml").read_text())["nodes"]
    return {
        node: {row["version"]: row["ready"] for row in listed if row["node"] == node and row["version"]}
        for node in nodes
    }


def on_both(*versions: str) -> dict[str, dict[str, int]]:
    return {name: dict.fromkeys(versions, 1) for name in NODES}


def test_everything_is_served_on_the_node_that_runs_while_the_other_is_down(front: Front) -> None:
    site = front.site
    assert lines(site.run("plan", status=4).out)[-1] == "nothing to change, b is unavailable"
    deploy(site, BOTH, weights=WEIGHTS)
    planned = site.run("plan", status=4)
    assert lines(planned.out)[:4] == [
        "tiny",
        "+ 1.0 register local nothing -> tiny-1.0, 1 worker",
        "+ 2.0 register local nothing -> tiny-2.0, 1 worker",
        "~ weights gateway no route -> 1.0 80%, 2.0 20%",
    ]
    assert lines(planned.out)[4].startswith("! b: the node is not running")
    assert lines(planned.out)[5] == "2 to register, 1 to change, b is unavailable"
    assert "\x1b" not in planned.out
    assert served(site) == {"local": {}, "b": {}}
    partly = site.run("apply", status=4)
    assert partly.out.splitlines()[-1] == "3 changes made; now nothing to change, b is unavailable"
    assert "no answer from b" in partly.err
    assert served(site) == {"local": {"1.0": 1, "2.0": 1}, "b": {}}
    assert weights(site) == {"1.0": 8000, "2.0": 2000}
    assert {front.ask("/predictions/tiny").status_code for _ in range(20)} == {200}


def test_the_node_that_was_down_catches_up_and_a_second_apply_changes_nothing(front: Front) -> None:
    site = front.site
    site.run("node", "start", "--node", "b")
    assert lines(site.run("plan", status=12).out) == [
        "tiny",
        "+ 1.0 register b nothing -> tiny-1.0, 1 worker",
        "+ 2.0 register b nothing -> tiny-2.0, 1 worker",
        "2 to register",
    ]
    applied = site.run("apply", "--json").json()
    assert [(one["kind"], one["version"]) for one in applied["done"]] == [("register", "1.0"), ("register", "2.0")]
    assert applied["left"]["is_empty"]
    assert served(site) == on_both("1.0", "2.0")
    assert lines(site.run("plan").out) == ["nothing to change"]
    again = site.run("apply", "--json").json()
    assert again["plan"]["is_empty"]
    assert again["done"] == again["failures"] == []


def test_changes_by_hand_are_shown_and_undone(front: Front) -> None:
    site = front.site
    site.run("models", "scale", "tiny", "1.0", "2", "--node", "local")
    site.run("models", "set-default", "tiny", "2.0", "--node", "b")
    site.run("models", "register", "tiny:9.0", "--node", "b")
    site.run("weights", "set", "tiny", "1.0=50%", "2.0=40%", "9.0=10%")
    assert lines(site.run("plan", status=12).out) == [
        "tiny (changed since the last apply)",
        "~ weights gateway 1.0 50%, 2.0 40%, 9.0 10% -> 1.0 80%, 2.0 20%",
        "~ 1.0 default b 2.0 -> 1.0",
        "~ 1.0 scale local 2 workers -> 1 worker",
        "? 9.0 kept b 1 worker, not in deployment.yaml (--prune retires it)",
        "3 to change, 1 not in deployment.yaml",
    ]
    with under_load(front.address("/predictions/tiny"), HALF, 4) as load:
        site.run("apply", "--prune")
        after = load.counts[200, "9.0"]
    assert 0 < load.counts[200, "9.0"] == after, "requests reached the pruned version before, and none afterwards"
    assert {status for status, _ in load.counts} == {200}
    assert served(site) == on_both("1.0", "2.0")
    assert lines(site.run("plan", "--prune").out) == ["nothing to change"]
    assert front.ask("/predictions/tiny/9.0").status_code == 404


def test_a_refused_plan_changes_nothing(front: Front) -> None:
    site = front.site
    deploy(site, {**BOTH, "3.0": {"workers": 1, "digest": "0" * 16}}, weights=WEIGHTS)
    shown = lines(site.run("plan", status=3).out)
    assert any("x 3.0 refused local, b deployment.yaml pins tiny 3.0 to 0000000000000000" in line for line in shown)
    write_tiny(site, "tiny", {**VERSIONS, "2.0": {"factor": 3.5}, "9.0": {"factor": 9.5}})
    site.run("archive", "build", "tiny:2.0")
    site.run("archive", "build", "tiny:9.0")
    deploy(site, {**BOTH, "3.0": {"workers": 1}, "9.0": {"workers": 1}})
    reused = site.run("apply", status=7).err
    assert "nothing of tiny is changed, because that is refused" in reused
    assert "node b has tiny 2.0 from other bytes" in reused
    assert "tiny 9.0 was served from other bytes before" in reused  # and no node has it now
    write_tiny(site, "tiny", VERSIONS)
    site.run("archive", "build", "tiny:2.0")
    deploy(site, {**BOTH, "3.0": {"workers": 1}})
    journal = Journal(folder(Project(site.root), "tiny") / "20260101T000000Z-2.0.jsonl")
    journal.append(started("tiny"))
    assert "rollout 20260101T000000Z-2.0 of tiny has not ended" in site.run("apply", status=7).err
    journal.append(Ended(Outcome.PROMOTED, ""))
    assert served(site) == on_both("1.0", "2.0")


def test_a_version_that_does_not_load_gets_no_weight(front: Front) -> None:
    site = front.site
    (site.root / "broken").touch()
    deploy(site, {**BOTH, "3.0": {"workers": 1}}, weights={"1.0": "70%", "2.0": "20%", "3.0": "10%"})
    cold = site.run("apply", status=4)
    assert "local: registering tiny 3.0: tiny 3.0 refused to load on node local" in cold.err
    assert "left out: weights of tiny: 1.0 70%, 2.0 20%, 3.0 10%" in cold.err
    assert served(site) == on_both("1.0", "2.0")
    assert weights(site) == {"1.0": 8000, "2.0": 2000}
    (site.root / "broken").unlink()


def test_the_next_apply_finishes_what_a_killed_one_began(front: Front) -> None:
    site = front.site
    with site.start("apply") as process:
        until(lambda: any("3.0" in versions for versions in served(site).values()), 30, "3.0 on a node")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert weights(site) == {"1.0": 8000, "2.0": 2000}
    site.run("apply")
    assert served(site) == on_both("1.0", "2.0", "3.0")
    assert weights(site) == {"1.0": 7000, "2.0": 2000, "3.0": 1000}
    assert lines(site.run("plan").out) == ["nothing to change"]


def test_a_model_that_is_no_longer_named_leaves_with_prune_models(front: Front) -> None:
    site = front.site
    site.deploy({})
    site.run("weights", "set", "tiny", "1.0=100%")
    kept = lines(site.run("plan", "--prune", status=12).out)
    assert "? kept gateway a route, 1.0 100%, not in deployment.yaml (--prune-models removes it)" in kept
    assert [line for line in kept if line.startswith("-")] == [
        f"- {version} retire {name} tiny-{version}, 1 worker -> nothing" for version in ("2.0", "3.0") for name in NODES
    ]
    site.run("apply", "--prune-models")
    assert served(site) == {"local": {}, "b": {}}
    assert front.ask("/predictions/tiny").status_code == 404
    assert site.run("weights", "show", "--json").json() == []
    record = json.loads((site.root / ".tsctl" / "releases" / "served.json").read_text())
    assert sorted(record) == ["tiny:1.0", "tiny:2.0", "tiny:3.0", "tiny:9.0"]

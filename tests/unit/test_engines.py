"""The engine is a property of a node: which versions stand where, and what a plan makes of what an engine cannot do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.paced import write_archive
from tests.unit.test_release_plan import actual, archive, changes_of, node, unavailable, version, wanted
from tsctl.archive.build import build_version
from tsctl.archive.store import archive_of
from tsctl.compare.compare import Options, compare
from tsctl.config.archive import read_archive_spec
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.nodes import NodeSpec, TorchServeSpec, UvicornSpec
from tsctl.config.project import Project
from tsctl.config.weights import TOTAL
from tsctl.deploy.changes import PlanOptions, Withdraw
from tsctl.deploy.desired import desired_state
from tsctl.deploy.plan import make_plan
from tsctl.errors import NodeError, SpecError
from tsctl.host.progress import quiet_progress
from tsctl.nodes.engines import MODULES, open_node, open_nodes, served_at_start
from tsctl.nodes.managed import VersionReport
from tsctl.nodes.observed import ObservedVersion
from tsctl.nodes.uvicorn.engine import UvicornNode

TWO_ENGINES: dict[str, NodeSpec] = {
    "a": TorchServeSpec(),
    "b": UvicornSpec(engine="uvicorn", address="http://127.0.0.1:8100"),
}
PRUNE = PlanOptions(prune=True)


def on(name: str, *nodes: str, **more: Any) -> Any:
    return replace(version(name), nodes=nodes, **more)


def test_every_engine_of_deployment_yaml_has_a_module_and_opens_without_asking_its_node(tmp_path: Path) -> None:
    nodes = open_nodes(Project(tmp_path), DeploymentSpec(nodes=TWO_ENGINES))
    assert [(one.name, one.engine, one.is_ours, one.pid) for one in nodes] == [
        ("a", "torchserve", True, None),
        ("b", "uvicorn", True, None),
    ]
    assert {one.path("tiny", "1.0") for one in nodes} == {"/predictions/tiny/1.0"}
    assert {one.engine for one in nodes} <= MODULES.keys()
    assert list(tmp_path.iterdir()) == []


def test_an_engine_cannot_open_the_node_of_another(tmp_path: Path) -> None:
    class Stranger(TorchServeSpec):
        engine: Any = "uvicorn"

    with pytest.raises(TypeError, match="This is a bug"):
        open_node(Project(tmp_path), "a", Stranger())


def test_torchserve_serves_an_archive_under_its_own_version_only(tmp_path: Path) -> None:
    torchserve = open_node(Project(tmp_path), "a", TorchServeSpec())
    stored = archive_of(tmp_path / archive("1.0"))
    assert torchserve.cannot(stored, "1.0") == ""
    assert "under the version in its manifest, which is 1.0" in torchserve.cannot(stored, "1.0t")
    with pytest.raises(NodeError, match=r"tiny 1\.0t cannot be on node a: TorchServe serves an archive under"):
        torchserve.register(stored, "1.0t", 1, lambda _: None)


def test_a_version_is_registered_on_its_nodes_only() -> None:
    desired = wanted(on("1.0", "a"), on("2.0", "b"))
    plan = make_plan(desired, actual(node("a"), node("b")))
    assert [(kind, name, [place for place, *_ in steps]) for kind, name, steps in changes_of(plan)] == [
        ("register", "1.0", ["a"]),
        ("register", "2.0", ["b"]),
        ("weights", None, ["gateway"]),
    ]
    served = actual(node("a", v1=(1, 1)), node("b", "2.0", v2=(1, 1)), weights={"1.0": TOTAL})
    assert make_plan(desired, served).is_empty, "b has another default, and is not to serve 1.0"


def test_other_bytes_of_a_version_on_a_node_that_is_not_its_own_are_no_matter() -> None:
    strange = node("b", "2.0", v2=(1, 1))
    plan = make_plan(wanted(on("1.0", "a"), on("2.0", "a")), actual(node("a", v1=(1, 1), v2=(1, 1)), strange))
    assert not plan.refusals
    assert [(thing.place, thing.version, thing.reason) for thing in plan.unmanaged] == [
        ("b", "2.0", "--prune takes it off this node")
    ]


def test_a_version_leaves_a_node_when_its_own_has_it_ready() -> None:
    desired = wanted(on("1.0", "b"))
    moving = actual(node("a", v1=(1, 1)), node("b"), weights={"1.0": TOTAL})
    first = make_plan(desired, moving, PRUNE)
    assert [(change.kind, change.nodes) for change in first.changes] == [("register", ("b",)), ("withdraw", ("a",))]
    assert not first.unmanaged
    silent = make_plan(desired, actual(node("a", v1=(1, 1)), unavailable("b"), weights={"1.0": TOTAL}), PRUNE)
    assert not silent.changes
    assert [(thing.place, thing.reason) for thing in silent.unmanaged] == [
        ("a", "no node that deployment.yaml names for it has it READY, or gets it")
    ]
    moved = actual(node("a", v1=(1, 1)), node("b", v1=(1, 1)), weights={"1.0": TOTAL})
    [change] = make_plan(desired, moved, PRUNE).changes
    assert isinstance(change, Withdraw)
    assert change.nodes == ("a",)
    assert changes_of(make_plan(desired, moved, PRUNE)) == [
        ("withdraw", "1.0", [("a", f"{archive('1.0')}, 1 worker", "nothing")])
    ]


def test_without_a_gateway_nothing_is_withdrawn() -> None:
    state = replace(actual(node("a", v1=(1, 1)), node("b", v1=(1, 1))), gateway=None)
    plan = make_plan(wanted(on("1.0", "b")), state, PRUNE)
    assert not plan.changes
    assert plan.unmanaged[0].reason.startswith("without a gateway it cannot be drained")


def test_what_an_engine_cannot_do_is_refused_with_its_reason() -> None:
    desired = wanted(on("1.0", "a", impossible={"a": "it is broken"}), on("2.0", "b"))
    plan = make_plan(desired, actual(node("a"), node("b")))
    refusal, cold = plan.refusals
    assert cold.reason == "tiny 1.0 is ready on no node, so it cannot get weight"
    assert refusal.error is SpecError
    assert (refusal.version, refusal.places, refusal.reason) == (
        "1.0",
        ("a",),
        "tiny 1.0 cannot be on node a: it is broken",
    )
    assert 'archive: "1.0"' in refusal.hint
    assert "1.0" not in [change.version for change in plan.changes]
    assert not make_plan(desired, actual(node("a", v1=(1, 1)), node("b"))).refusals, "what it serves, it can"


def test_torchserve_gives_a_text_model_one_worker(tmp_path: Path) -> None:
    project = Project(tmp_path)
    write_archive(tmp_path, "toy")
    folder = project.archives / "toy"
    built = build_version(project, folder, read_archive_spec(folder / "archive.yaml"), "1.0", lambda _: None)
    stored = archive_of(built.archive.path)
    nodes = [open_node(project, name, spec) for name, spec in TWO_ENGINES.items()]
    reasons = [[node.cannot_have(stored, workers) for workers in (1, 2)] for node in nodes]
    assert reasons[0][0] == ""
    assert "it generates text" in reasons[0][1]
    assert "so it cannot have 2 workers: set `workers: 1`, and serve it on further nodes for more" in reasons[0][1]
    assert reasons[1] == ["", ""]
    with pytest.raises(NodeError, match=r"toy 1\.0 cannot be on node a: it generates text"):
        nodes[0].register(stored, "1.0", 2, lambda _: None)
    deployment = DeploymentSpec(
        nodes=TWO_ENGINES, models={"toy": {"default": "1.0", "versions": {"1.0": {"workers": 2}}}},  # type: ignore[dict-item]
    )  # fmt: skip
    [model] = desired_state(project, deployment, open_nodes(project, deployment)).models
    assert list(model.versions[0].impossible) == ["a"]


def test_a_language_model_is_not_compared(tmp_path: Path) -> None:
    project = Project(tmp_path)
    write_archive(tmp_path, "toy")
    folder = project.archives / "toy"
    built = build_version(project, folder, read_archive_spec(folder / "archive.yaml"), "1.0", lambda _: None)
    with pytest.raises(SpecError, match=r"toy 1\.0 generates text, token by token") as raised:
        compare(project, built.archive.path, Options(("uvicorn",)), quiet_progress())
    assert "build it again" not in raised.value.hint


def test_the_archive_of_one_version_is_served_as_another(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.store.mkdir(parents=True)
    (project.store / archive("1.0")).write_bytes(b"")
    versions = {"1.0": {"workers": 1, "nodes": ["a"]}, "1.0u": {"archive": "1.0", "workers": 2, "nodes": ["a", "b"]}}
    deployment = DeploymentSpec(
        nodes=TWO_ENGINES, models={"tiny": {"default": "1.0", "versions": versions}},  # type: ignore[dict-item]
    )  # fmt: skip
    [model] = desired_state(project, deployment, open_nodes(project, deployment)[:1]).models
    plain, alias = model.versions
    assert (alias.version, alias.archive, alias.workers, alias.archive_version) == ("1.0u", archive("1.0"), 2, "1.0")
    assert (plain.nodes, alias.nodes) == (("a",), ("a", "b"))
    assert not plain.impossible
    assert list(alias.impossible) == ["a"]
    assert "and not as 1.0u" in alias.impossible["a"]


def test_archives_that_nodes_serve_again_are_known_whatever_deployment_yaml_says(tmp_path: Path) -> None:
    project = Project(tmp_path)
    folder = project.state / "nodes" / "gone"
    folder.mkdir(parents=True)
    (folder / "served.json").write_text('[{"archive": "tiny-1.0-aaaaaaaaaaaa.mar"}]')
    assert ("gone", "tiny-1.0-aaaaaaaaaaaa.mar") in list(served_at_start(project))
    (folder / "served.json").write_text("[")
    with pytest.raises(NodeError, match="is damaged"):
        list(served_at_start(project))


class Scripted(UvicornNode):
    """A node that reports what a test says."""

    def reports(self) -> list[VersionReport]:
        states = {"1.0": ("", True), "2.0": ("wrong answers", False), "3.0": ("", False)}
        return [
            VersionReport(
                ("tiny", name), ObservedVersion(f"{name}.mar", 1, 0 if why else 1), is_default, why, name == "3.0"
            )
            for name, (why, is_default) in states.items()
        ]


def test_a_version_that_must_not_serve_or_ends_is_not_registered(tmp_path: Path) -> None:
    opened = open_node(Project(tmp_path), "b", TWO_ENGINES["b"])
    assert isinstance(opened, UvicornNode)
    scripted = Scripted(opened.name, opened.spec, opened.folder, opened.client, opened.key_file)
    [(model, observed)] = scripted.models().items()
    assert (model, observed.default, list(observed.versions)) == ("tiny", "1.0", ["1.0"])
    assert scripted.load_failures() == {("tiny", "2.0"): "wrong answers"}

"""What `tsctl up` lets the reconciler do that `tsctl apply` does not, without a node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tests.unit.rollout_journals import started
from tsctl.archive.store import store_name
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.nodes import TorchServeSpec
from tsctl.config.project import Project
from tsctl.config.weights import TOTAL
from tsctl.deploy.apply import apply
from tsctl.deploy.changes import Change, Plan, PlanOptions, Register, Replace, Scale, SetDefault, SetWeights
from tsctl.deploy.observe import Owners, actual_state
from tsctl.deploy.plan import make_plan
from tsctl.deploy.preconditions import error_of
from tsctl.deploy.state import Actual, Desired, WantedModel, WantedVersion
from tsctl.errors import AnalysisError, ConflictError, NodeError
from tsctl.host.progress import Progress
from tsctl.nodes.node import Node
from tsctl.nodes.observed import ObservedModel, ObservedNode, ObservedVersion
from tsctl.nodes.torchserve.client import ManagementClient, VersionState, Worker
from tsctl.nodes.torchserve.engine import open_node
from tsctl.rollout.decide.events import Ended, Outcome
from tsctl.rollout.run.journal import Journal
from tsctl.rollout.run.journal_files import folder
from tsctl.views.plan import effects

OLD, NEW = (store_name("digits", "2.0", digit * 12) for digit in "ab")
SERVED = ObservedNode("local", {"digits": ObservedModel("2.0", {"2.0": ObservedVersion(OLD, 1, 1)})})
DESIRED = Desired((WantedModel("digits", "2.0", (WantedVersion("2.0", NEW, "b" * 12, workers=2),)),))
UP = PlanOptions(replace=True)


class Client(ManagementClient):
    """A client that never sends: version 1.0 fails, and every other one is READY with one worker."""

    def __init__(self) -> None:
        super().__init__(TorchServeSpec(), None)
        self.default = ""

    def describe(self, model: str, version: str | None = None) -> list[VersionState]:
        if version == "1.0":
            raise NodeError("the version refused to load")
        workers = (Worker("9000", "READY", 100, False),)
        archive = store_name(model, str(version), "a" * 12)
        return [VersionState(model, str(version), archive, 1, 1, 8, 1, 30, 120, workers, 0, 100)]

    def set_default(self, model: str, version: str) -> None:
        self.default = version


def owners(folder: Path) -> tuple[Owners, Client]:
    """One node, and no gateway."""
    project, client = Project(folder), Client()
    node: Node = replace(open_node(project, "local", TorchServeSpec()), client=client)
    return Owners(project, DeploymentSpec(nodes={"local": TorchServeSpec()}), (node,), None), client


def test_up_replaces_bytes_in_place_and_apply_refuses_to() -> None:
    state = Actual((SERVED,))
    [change] = make_plan(DESIRED, state, UP).changes
    assert isinstance(change, Replace)
    [effect] = effects(change)
    assert (effect.place, effect.before, effect.after) == ("local", f"{OLD}, 1 worker", f"{NEW}, 2 workers")
    plan = make_plan(DESIRED, state)
    assert plan.changes == ()
    [refusal] = plan.refusals
    assert refusal.error is ConflictError
    assert "Only 'tsctl up', on a developer's machine, replaces bytes." in refusal.hint


def test_up_registers_other_bytes_than_those_that_were_recorded() -> None:
    [wanted] = DESIRED.models[0].versions
    recorded = Desired((replace(DESIRED.models[0], versions=(replace(wanted, recorded="a" * 12),)),))
    empty = Actual((ObservedNode("local"),))
    assert not make_plan(recorded, empty, UP).refusals
    assert "was served from other bytes before" in make_plan(recorded, empty).refusals[0].reason


def test_up_reports_a_pinned_archive_that_the_store_lacks() -> None:
    pinned = Desired((WantedModel("digits", "2.0", (WantedVersion("2.0", None, pin="c" * 12),)),))
    plan = make_plan(pinned, Actual((SERVED,)), UP)
    assert plan.changes == ()
    assert f"from other bytes than {'c' * 12}: {OLD}" in plan.refusals[0].reason


def test_the_bytes_of_a_model_stay_until_its_rollout_has_ended(tmp_path: Path) -> None:
    project = Project(tmp_path)
    deployment = DeploymentSpec.model_validate(
        {"nodes": {"local": {}}, "models": {"digits": {"default": "2.0", "versions": {"2.0": None}}}}
    )

    def plan() -> Plan:
        rollouts = actual_state(Owners(project, deployment, (), None)).rollouts
        return make_plan(DESIRED, Actual((SERVED, ObservedNode("empty")), rollouts=rollouts), UP)

    assert not plan().refusals
    journal = Journal(folder(project, "digits") / "20261125T093000Z-2.0.jsonl")
    journal.append(started("digits"))
    [refusal] = plan().refusals
    assert refusal.reason == "rollout 20261125T093000Z-2.0 of digits has not ended, so digits 2.0 is not replaced"
    assert refusal.error is ConflictError
    assert "tsctl rollout abort digits" in refusal.hint
    journal.append(Ended(Outcome.PROMOTED, ""))
    assert not plan().refusals


def test_up_brings_back_a_version_during_its_rollout_and_changes_no_bytes(tmp_path: Path) -> None:
    outside, _ = owners(tmp_path)
    (outside.project.store).mkdir(parents=True)
    Journal(folder(outside.project, "digits") / "20261125T093000Z-2.0.jsonl").append(started("digits"))
    register = Register("digits", "2.0", OLD, 1, ("local",))
    change = Replace("digits", "2.0", {"local": ObservedVersion(OLD, 1, 1)}, NEW, 1)
    progress = Progress(Console(quiet=True))
    applied = apply(outside, Plan((register, change)), UP, progress)
    assert applied.done == [register]
    [failure] = applied.failures
    assert (failure.change, failure.place, type(failure.error)) == (change, "local", ConflictError)
    refused = apply(outside, Plan((register,)), PlanOptions(), progress)
    assert [failure.error.message for failure in refused.failures] == [
        "rollout 20261125T093000Z-2.0 of digits began meanwhile"
    ]


def test_a_version_that_fails_leaves_out_only_what_depends_on_it(tmp_path: Path) -> None:
    outside, client = owners(tmp_path)
    before = {"local": ObservedVersion(store_name("digits", "1.0", "a" * 12), 2, 2)}
    fails = Register("digits", "1.0", store_name("digits", "1.0", "a" * 12), 1, ("local",))
    other = Register("digits", "2.0", OLD, 1, ("local",))
    default = SetDefault("digits", "1.0", {"local": "2.0"})
    weights = SetWeights("digits", {"1.0": TOTAL}, None)
    fewer = Scale("digits", "3.0", before, 1, is_down=True)
    changes: tuple[Change, ...] = (fails, other, weights, default, fewer)
    applied = apply(outside, Plan(changes), UP, Progress(Console(quiet=True)))
    assert applied.done == [other]
    assert [(failure.change, failure.error.message) for failure in applied.failures] == [
        (fails, "the version refused to load")
    ]
    assert applied.left_out == [weights, default, fewer]
    made = apply(
        outside, Plan((fails, SetDefault("digits", "2.0", {"local": "1.0"}))), UP, Progress(Console(quiet=True))
    )
    assert [change.kind for change in made.done] == ["default"]
    assert client.default == "2.0"


def test_apply_leaves_a_refused_version_out_where_the_rest_is_made(tmp_path: Path) -> None:
    outside, _ = owners(tmp_path)
    registers = tuple(
        Register("digits", version, store_name("digits", version, "a" * 12), 1, ("local",))
        for version in ("2.0", "3.0")
    )
    [refusal] = make_plan(DESIRED, Actual((SERVED,))).refusals
    applied = apply(outside, Plan(registers, (refusal,)), UP, Progress(Console(quiet=True)))
    assert applied.done == [registers[1]]


def test_a_damaged_journal_bars_its_own_model_and_no_other(tmp_path: Path) -> None:
    outside, _ = owners(tmp_path)
    path = folder(outside.project, "digits") / "20261125T093000Z-2.0.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x00\n")
    models = {name: {"default": "2.0", "versions": {"2.0": None}} for name in ("digits", "words")}
    deployment = DeploymentSpec.model_validate({"nodes": {"local": {}}, "models": models})
    words = store_name("words", "2.0", "a" * 12)
    desired = Desired((*DESIRED.models, WantedModel("words", "2.0", (WantedVersion("2.0", words, "a" * 12),))))
    actual = replace(actual_state(Owners(outside.project, deployment, (), None)), nodes=(ObservedNode("local"),))
    plan = make_plan(desired, actual)
    [refusal] = plan.refusals
    assert (refusal.model, refusal.error) == ("digits", AnalysisError)
    assert "it is not known whether a rollout of digits has ended" in refusal.reason
    assert "tsctl rollout repair digits" in refusal.hint
    assert "nothing of digits is changed" in error_of(plan.refusals).message
    outside.project.store.mkdir(parents=True)
    applied = apply(outside, plan, PlanOptions(), Progress(Console(quiet=True)))
    assert [(change.kind, change.model) for change in applied.done] == [("register", "words")]
    assert not make_plan(DESIRED, replace(actual, nodes=(ObservedNode("local"),)), UP).refusals

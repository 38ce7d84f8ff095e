"""What a rollout makes of files that change while it runs, without nodes or a gateway."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tsctl.archive.store import archive_of, store_name
from tsctl.cli import rollout_views
from tsctl.config.deployment import DeploymentSpec, read_deployment
from tsctl.config.policy import RolloutPolicy
from tsctl.config.project import Project
from tsctl.errors import ArchiveError, ConflictError, SpecError
from tsctl.gateway.envoy.admin import NotAnswering
from tsctl.gateway.envoy.render.routes import routes
from tsctl.gateway.state import Gateway, open_gateway
from tsctl.gateway.traffic import Traffic, only
from tsctl.host.files import write_document
from tsctl.nodes.observed import ObservedVersion
from tsctl.rollout.decide.actions import next_action
from tsctl.rollout.decide.events import Effect, EffectDone, Started, StepBegan
from tsctl.rollout.decide.fold import fold
from tsctl.rollout.decide.interventions import Command
from tsctl.rollout.decide.state import State
from tsctl.rollout.evidence.reader import LiveEvidence
from tsctl.rollout.evidence.source import PrometheusServer
from tsctl.rollout.run.commands import LiveOperator
from tsctl.rollout.run.effects import LiveEffects
from tsctl.rollout.run.health import GONE_S, LiveHealth, grace, is_as_decided
from tsctl.rollout.run.interfaces import TemporarilyUnavailable
from tsctl.rollout.run.journal import Journal
from tsctl.rollout.run.journal_files import folder, journals
from tsctl.rollout.run.live_gateway import LiveGateway
from tsctl.rollout.run.preconditions import require_no_weights
from tsctl.rollout.run.resume import resumed

DEPLOYMENT = """\
nodes: {local: {}}
gateway: {}
rollout: {alpha: 0.02}
models: {digits: {default: "1.0", versions: {"1.0": null}}}
"""


def quiet(text: str) -> None:
    """What happens is of no interest."""


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    project = Project(tmp_path)
    project.deployment.write_text(DEPLOYMENT)
    journal = Journal(folder(project, "digits") / "20261125T093000Z-2.0.jsonl")
    policy = RolloutPolicy(alpha=0.02)
    journal.append(
        Started(
            journal.id, "digits", "2.0", "1.0", "ab" * 32, policy, "digits-2.0-abababababab.mar", 1, ("local",),
            policy.digest, by="ann@desk",
        )
    )  # fmt: skip
    journal.append(StepBegan(0, 100))
    journal.append(EffectDone(Effect.SET_WEIGHT, weight=100))
    return open_gateway(project, read_deployment(project.deployment))


def test_a_rollout_whose_archive_is_gone_can_be_rolled_back(gateway: Gateway) -> None:
    with resumed(gateway, "digits", quiet, Command.ABORT) as runner:
        assert next_action(runner.state) is Effect.REVERT_WEIGHT
        for effect in (Effect.VERIFY, Effect.REGISTER, Effect.VERIFY_GOLDEN):
            with pytest.raises(ArchiveError, match=r"abab\.mar, the archive of this rollout, is gone"):
                runner.effects.apply(effect, runner.state)


def test_a_deployment_yaml_that_was_away_and_is_back_as_it_was_holds_nothing(gateway: Gateway) -> None:
    path = gateway.project.deployment
    with resumed(gateway, "digits", quiet) as runner:
        operator, state = runner.operator, runner.state
        assert isinstance(operator, LiveOperator)
        assert operator.policy(state).alpha == 0.02
        path.rename(path.with_suffix(".away"))
        assert operator.policy(state).alpha == 0.02
        assert "deployment.yaml cannot be read" in operator.policy_error
        path.with_suffix(".away").rename(path)
        assert (operator.policy(state).alpha, operator.policy_error) == (0.02, "")
        path.write_text(DEPLOYMENT.replace("0.02", "0.03"))
        os.utime(path, ns=(0, 0))
        assert operator.policy(state).alpha == 0.03


def test_the_policy_of_a_language_model_is_no_edited_one(gateway: Gateway) -> None:
    """deployment.yaml names no signals, and those of the rollout are the ones that its answers have."""
    with resumed(gateway, "digits", quiet) as runner:
        policy, state = RolloutPolicy(alpha=0.02), runner.state
        assert runner.operator.policy(state).digest == policy.digest
        text = replace(state, is_text=True, policy=policy.judging(is_text=True))
        assert runner.operator.policy(text).digest == text.policy.digest != policy.digest


def test_the_rate_of_requests_is_the_gateways_and_not_that_of_its_last_scrape(gateway: Gateway) -> None:
    with resumed(gateway, "digits", quiet) as runner:
        assert isinstance(runner.evidence, LiveEvidence)
        runner.evidence.source = PrometheusServer("http://127.0.0.1:9")
        with pytest.raises(NotAnswering):
            runner.evidence.request_rate(runner.state)


@pytest.mark.parametrize(("weights", "is_so"), [
    ({"2.0": 100, "1.0": 9900}, True),
    ({"3.0": 0, "2.0": 100, "1.0": 9900}, True),
    ({"2.0": 200, "1.0": 9800}, False),
    ({"3.0": 500, "2.0": 100, "1.0": 9400}, False),
    ({"1.0": 10000}, False),
])  # fmt: skip
def test_a_third_version_with_weight_is_somebody_elses_change(
    gateway: Gateway, weights: dict[str, int], is_so: bool
) -> None:
    with resumed(gateway, "digits", quiet) as runner:
        assert is_as_decided(Traffic("digits", weights), runner.state) is is_so


def test_a_damaged_journal_of_an_earlier_rollout_keeps_no_later_one_from_its_end(gateway: Gateway) -> None:
    earlier = folder(gateway.project, "digits") / "20250101T000000Z-1.0.jsonl"
    earlier.write_bytes(b"\x00\n")
    heard: list[str] = []
    for command in (Command.RESUME, Command.ABORT):
        with resumed(gateway, "digits", heard.append, command) as runner:
            assert runner.state.outcome is None
    assert [text for text in heard if str(earlier) in text]


def test_the_archive_of_a_rollout_must_stay_in_the_store(gateway: Gateway) -> None:
    content = b"the canary"
    digest = hashlib.sha256(content).hexdigest()
    path = gateway.project.store / store_name("digits", "2.0", digest)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    health = LiveHealth(LiveGateway(gateway), archive_of(path))
    state = replace(fold(Journal(journals(gateway.project, "digits")[-1]).entries), archive=digest)
    assert health.archive_trouble(state) == ""
    path.write_bytes(b"other bytes")
    assert "is no longer the archive with which this rollout began" in health.archive_trouble(state)
    path.unlink()
    assert f"{path.name}, the archive of this rollout, is gone" in health.archive_trouble(state)
    path.write_bytes(content)
    assert health.archive_trouble(state) == ""


def test_a_node_that_joins_is_named_once_also_between_two_checks(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = gateway.project.store / store_name("digits", "2.0", "0" * 64)
    state = fold(Journal(journals(gateway.project, "digits")[-1]).entries)
    health = LiveHealth(LiveGateway(gateway), archive_of(path), clock=lambda: 0.0)

    def check(state: State) -> str:
        health._eligible = (*state.nodes, "b")
        return ""

    monkeypatch.setattr(health, "_check", check)
    assert health.joined(state) == ("b",)
    assert health.joined(replace(state, joined=("b",))) == ()
    assert health.joined(replace(state, nodes=(*state.nodes, "b"))) == ()


def test_no_weight_grows_and_nothing_is_promoted_without_the_archive(gateway: Gateway) -> None:
    with resumed(gateway, "digits", quiet) as runner:
        for effect in (Effect.SET_WEIGHT, Effect.EXTEND, Effect.SET_DEFAULT):
            with pytest.raises(TemporarilyUnavailable, match="the archive of this rollout, is gone"):
                runner.effects.apply(effect, runner.state)


def test_a_model_that_deployment_yaml_no_longer_names_is_waited_for(gateway: Gateway) -> None:
    path = gateway.project.deployment
    with resumed(gateway, "digits", quiet) as runner:
        policy = runner.state.policy
        path.write_text(DEPLOYMENT.replace("digits", "words").replace("0.02", "0.5"))
        assert runner.operator.policy(runner.state) == policy
        assert runner.operator.policy_error == "deployment.yaml no longer names digits"
        path.write_text(DEPLOYMENT)
        os.utime(path, ns=(0, 0))
        assert runner.operator.policy_error == ""


def test_effects_follow_deployment_yaml_as_it_is_now(gateway: Gateway) -> None:
    path = gateway.project.deployment
    with resumed(gateway, "digits", quiet) as runner:
        assert isinstance(runner.effects, LiveEffects)
        effects = runner.effects
        path.write_text(
            DEPLOYMENT.replace("versions:", "route: {deadline_s: 3}, versions:").replace("{local: {}}", "{b: {}}")
        )
        assert effects.gateway.route_specs["digits"].deadline_s == 3
        assert [node.name for node in effects.live.nodes(["local", "b"])] == ["b"]
        with pytest.raises(TemporarilyUnavailable, match=r"deployment.yaml names none of the nodes local"):
            effects.apply(Effect.RESTORE_DEFAULT, runner.state)


def test_a_model_that_deployment_yaml_does_not_name_has_no_rollout() -> None:
    with pytest.raises(SpecError, match=r"deployment.yaml does not name words"):
        require_no_weights(DeploymentSpec.model_validate({"nodes": {"local": {}}}), "words")


def test_stable_has_nothing_to_release_in_a_plan_either(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSCTL_PROJECT", str(gateway.project.root))
    for model in ("digits", "words"):
        path = gateway.project.store / store_name(model, "1.0", "a" * 12)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    gateway.files.routes.parent.mkdir(parents=True)
    write_document(gateway.files.routes, routes(gateway.spec, gateway.route_specs, [only("digits", "1.0")], []))
    with pytest.raises(ConflictError, match=r"digits 1\.0 is stable already"):
        rollout_views.plan("digits", "1.0")
    with pytest.raises(SpecError, match="does not name words"):
        rollout_views.plan("words", "1.0")


def test_what_tells_users_is_read_from_deployment_yaml(gateway: Gateway) -> None:
    path = gateway.project.deployment
    with resumed(gateway, "digits", quiet) as runner:
        assert runner.operator.sticky(runner.state) == ""
        for number, (told, name) in enumerate((("header", "x-user"), ("cookie", "uid"))):
            path.write_text(DEPLOYMENT.replace("versions:", f"route: {{sticky: {{{told}: {name}}}}}, versions:"))
            os.utime(path, ns=(0, number))
            assert runner.operator.sticky(runner.state) == f"{told} {name}"


def on_nodes(*ready: int | None) -> list[ObservedVersion | None]:
    """A version with one worker on each node: READY or not, or None where it is not registered."""
    return [None if n is None else ObservedVersion("m.mar", 1, n, startup_s=120) for n in ready]


@pytest.mark.parametrize(("canary", "stable", "grace_s"), [
    ((1, 1), (1, 1), None),
    ((1, None), (1, 1), None),
    ((0, 1), (1, 1), None),
    ((None, None), (1, 1), GONE_S),
    ((0, None), (1, 1), GONE_S + 120),  # it may still be loading
    ((0, 0), (1, 1), GONE_S + 120),
    ((None, None), (1, None), None),  # a node that has just started
    ((None, None), (1, 0), None),
    ((None,), (None,), None),
])  # fmt: skip
def test_a_canary_without_a_ready_worker_is_waited_for_a_while(
    canary: tuple[int | None, ...], stable: tuple[int | None, ...], grace_s: float | None
) -> None:
    assert grace(on_nodes(*canary), on_nodes(*stable)) == grace_s

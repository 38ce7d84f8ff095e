"""What a rollout makes of files that change while it runs, without nodes or a gateway."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tsctl.config.deployment import read_deployment
from tsctl.config.policy import RolloutPolicy
from tsctl.config.project import Project
from tsctl.errors import ArchiveError
from tsctl.gateway.envoy.admin import NotAnswering
from tsctl.gateway.state import Gateway, open_gateway
from tsctl.gateway.traffic import Traffic
from tsctl.rollout.decide.actions import next_action
from tsctl.rollout.decide.events import Command, Effect, EffectDone, Started, StepBegan
from tsctl.rollout.evidence.reader import LiveEvidence, PrometheusServer
from tsctl.rollout.run.begin import resumed
from tsctl.rollout.run.health import is_as_decided
from tsctl.rollout.run.journal import Journal, folder

DEPLOYMENT = "nodes: {local: {}}\ngateway: {}\nrollout: {alpha: 0.02}\n"


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
        assert operator.policy(state).alpha == 0.02
        path.rename(path.with_suffix(".away"))
        assert operator.policy(state).alpha == 0.02
        assert "deployment.yaml cannot be read" in operator.policy_error
        path.with_suffix(".away").rename(path)
        assert (operator.policy(state).alpha, operator.policy_error) == (0.02, "")
        path.write_text(DEPLOYMENT.replace("0.02", "0.03"))
        os.utime(path, ns=(0, 0))
        assert operator.policy(state).alpha == 0.03


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

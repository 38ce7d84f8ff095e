"""What a policy may say, and what is told of one that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsctl.config.deployment import read_deployment
from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.errors import SpecError

NODES = "nodes: {local: {}}\n"


def read(tmp_path: Path, text: str) -> RolloutPolicy:
    path = tmp_path / "deployment.yaml"
    path.write_text(NODES + text)
    return read_deployment(path).policy("digits")


def test_the_model_s_own_policy_comes_before_the_deployment_s(tmp_path: Path) -> None:
    versions = 'default: "1.0", versions: {"1.0": {}}'
    assert read(tmp_path, "").steps == (1, 5, 25, 50, 100)
    assert read(tmp_path, "rollout: {steps: [0.25, 100]}").weights == (25, TOTAL)
    own = read(tmp_path, f"rollout: {{alpha: 0.05}}\nmodels: {{digits: {{{versions}, rollout: {{hold_s: 60}}}}}}")
    assert (own.alpha, own.hold_s) == (0.01, 60)


@pytest.mark.parametrize(("policy", "reason"), [
    ("{steps: [5, 1, 100]}", "must grow, and end with 100"),
    ("{steps: [5, 50]}", "must grow, and end with 100"),
    ("{steps: []}", "at least 1 item"),
    ("{steps: [0.001, 100]}", "may have two decimals at most"),
    ("{steps: [0, 100]}", "greater than 0"),
    ("{alpha: 0}", "greater than 0"),
    ("{max_error_rate: 1}", "less than 1"),
    ("{hold_s: 60, max_hold_s: 10}", "max_hold_s must be at least hold_s, 60"),
    ("{hold_s: 3, settle_s: 4}", "settle_s is 4 and must be less than hold_s, 3"),
    ("{hold_s: 30, settle_s: 30}", "settle_s is 30 and must be less than hold_s, 30"),
    ("{signals: [errors, errors]}", "must not name one twice"),
    ("{signals: [latency]}", "should be 'errors', 'refused', 'slow', 'mix', 'labels', 'tokens', 'finish' or 'length'"),
    ("{at_max_hold: promote}", "should be 'hold' or 'rollback'"),
    ("{prometheus: 'localhost:9090'}", "must be an address such as"),
    ("{hold: 60}", "unknown key; did you mean hold_s?"),
])  # fmt: skip
def test_what_cannot_be_is_told(tmp_path: Path, policy: str, reason: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, f"rollout: {policy}")
    assert "deployment.yaml: rollout" in caught.value.message
    assert reason in caught.value.message


@pytest.mark.parametrize(("policy", "settle_s"), [
    ("{}", 5),
    ("{hold_s: 300}", 5),
    ("{hold_s: 5.5}", 5),
    ("{hold_s: 5}", 2.5),
    ("{hold_s: 3}", 1.5),
    ("{hold_s: 0}", 0),
    ("{hold_s: 3, settle_s: 0}", 0),
    ("{hold_s: 3, signals: [errors]}", 5),  # judges no time
])  # fmt: skip
def test_a_short_hold_time_needs_no_settle_s_beside_it(tmp_path: Path, policy: str, settle_s: float) -> None:
    read_policy = read(tmp_path, f"rollout: {policy}")
    assert read_policy.settle_s == settle_s
    assert RolloutPolicy.model_validate(read_policy.model_dump(mode="json")) == read_policy


@pytest.mark.parametrize(("weights", "reason"), [
    ("{'1.0': 95%}", "the weights sum to 95%, not to 100%"),
    ("{'1.0': 95%, '3.0': 5%}", "'3.0', which is not one of the versions"),
    ("{'1.0': five}", "expected a percentage"),
])  # fmt: skip
def test_weights_that_cannot_be_are_told(tmp_path: Path, weights: str, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        read(tmp_path, f'models: {{digits: {{default: "1.0", versions: {{"1.0": {{}}}}, weights: {weights}}}}}')


def test_a_later_setting_at_its_default_changes_no_digest_and_is_not_written() -> None:
    plain, given = RolloutPolicy(), RolloutPolicy(min_labels=0, signals=("errors", "labels"))
    assert "min_labels" not in plain.model_dump(mode="json")
    needs = given.model_copy(update={"min_labels": 5})
    assert needs.model_dump(mode="json")["min_labels"] == 5
    assert needs.digest != given.digest
    assert RolloutPolicy.model_validate(needs.model_dump(mode="json")) == needs


def test_a_policy_judges_the_signals_that_a_models_answers_have() -> None:
    usual = RolloutPolicy()
    assert usual.judging(is_text=False) == usual
    assert usual.judging(is_text=True).signals == ("errors", "refused", "slow", "tokens", "finish", "length")
    named = RolloutPolicy(signals=("errors", "labels", "mix", "length"), min_labels=5)
    assert (named.judging(is_text=True).signals, named.judging(is_text=True).min_labels) == (("errors", "length"), 0)
    assert (named.judging(is_text=False).signals, named.judging(is_text=False).min_labels) == (
        ("errors", "labels", "mix"),
        5,
    )


def test_equal_policies_have_equal_digests_and_shares_that_sum_to_one() -> None:
    first, again, other = (RolloutPolicy(hold_s=hold_s) for hold_s in (60, 60.0, 61))
    assert first.digest == again.digest != other.digest
    for signals in (("errors",), ("errors", "slow", "mix"), ("mix", "labels"), ()):
        assert sum(RolloutPolicy(signals=signals).shares.values()) == pytest.approx(1)

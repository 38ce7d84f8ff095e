"""The shadow stage of a rollout: it passes, fails or waits by pairs, and the way back ends the copies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.fakes import POLICY, FakeSite, Killed
from tests.unit.test_rollout_run import begin, kinds, run, runner_of, to_the_end, weights
from tsctl.cli.rollout_views import exit_code
from tsctl.config.archive import Records
from tsctl.config.policy import ShadowStage
from tsctl.errors import NodeError
from tsctl.rollout.decide.events import Effect, Outcome
from tsctl.rollout.decide.interventions import Command
from tsctl.rollout.decide.judge import Verdict
from tsctl.rollout.decide.shadow import PairsCompared
from tsctl.rollout.decide.stored import to_json
from tsctl.rollout.forecast.shadow import forecast_stage
from tsctl.rollout.run.journal import Journal
from tsctl.rollout.run.journal_lines import read
from tsctl.views.rollout.forecast import stage_table
from tsctl.views.rollout.narrative import story
from tsctl.views.rollout.outlook import rule
from tsctl.views.rollout.report import render_report

STAGE = ShadowStage(percent=50, min_pairs=1000, max_disagreement=0.005)
WITH_STAGE = POLICY.model_copy(update={"shadow": STAGE})


def did(site: FakeSite) -> list[str]:
    return [str(what) for what, _ in site.did]


def told(path: Path) -> str:
    found = story(read(path))
    return " ".join([*(sentence.text for sentence in found.told), found.outcome])


def test_an_identical_canary_passes_the_stage_and_the_first_step_begins(tmp_path: Path) -> None:
    site = FakeSite()
    path = begin(tmp_path, site, WITH_STAGE)
    state = run(path, site)
    assert (state.outcome, exit_code(state)) == (Outcome.PROMOTED, 0)
    assert did(site)[:6] == ["verify", "register", "prove", "copy", "uncopy", "weigh"]
    assert (site.copies, state.is_copied, state.is_compared) == (None, False, True)
    assert 1497 <= state.pairs.pairs <= 2500
    assert "The shadow stage passed before the first step: it disagrees less than 0.50%" in told(path)
    assert "2.0 gets no copies any more" in told(path)
    assert "2.0 gets copies of copy" in told(path)  # the fake's detail


def test_a_canary_that_flips_two_percent_fails_before_its_first_request(tmp_path: Path) -> None:
    site = FakeSite(differ=(2, 0))
    path = begin(tmp_path, site, WITH_STAGE)
    state = run(path, site)
    assert (state.outcome, state.signal, state.is_rejected, exit_code(state)) == (
        Outcome.ROLLED_BACK, "disagreement", True, 13,
    )  # fmt: skip
    assert weights(site) == []
    assert (site.copies, did(site)[-1]) == (None, "uncopy")
    assert state.pairs.pairs <= 2 * 820 + 500
    assert "Only copies of requests had reached the canary." in told(path)
    assert "it disagrees with stable more than 0.50% above the noise floor" in state.why
    page = render_report(read(path))
    assert "disagreements" in page
    assert "percent 50, min_pairs 1000, max_disagreement 0.005" in page


def test_a_canary_as_noisy_as_stable_is_held_until_the_policy_ends_it(tmp_path: Path) -> None:
    site = FakeSite(differ=(5, 5), rate=20)
    policy = WITH_STAGE.model_copy(update={"at_max_hold": "rollback"})
    state = run(begin(tmp_path, site, policy), site)
    assert (state.outcome, state.signal) == (Outcome.ROLLED_BACK, "max_hold_s")
    assert "pairs differ" in state.why
    assert site.copies is None


def test_pairs_that_are_a_part_of_the_copies_pass_nothing(tmp_path: Path) -> None:
    site = FakeSite(lost=10)
    path = begin(tmp_path, site, WITH_STAGE)
    state = run(path, site, lambda runner: runner.state.pairs.pairs > 5000)
    assert state.is_in_shadow_stage
    assert state.judgement.verdict is Verdict.UNDECIDED
    assert state.judgement.why == "only 90.0% of the copied requests have both answers, and 95% are expected"
    assert "it is compared with stable as a shadow, undecided" in told(path)


def test_the_least_number_of_pairs_is_waited_for(tmp_path: Path) -> None:
    site = FakeSite()
    policy = POLICY.model_copy(update={"shadow": STAGE.model_copy(update={"min_pairs": 20_000})})
    assert run(begin(tmp_path, site, policy), site).pairs.pairs >= 20_000


def test_a_promotion_by_a_person_skips_the_stage_and_ends_the_copies(tmp_path: Path) -> None:
    site = FakeSite(differ=(1, 1))
    runner = runner_of(begin(tmp_path, site, WITH_STAGE), site)
    to_the_end(runner, lambda runner: runner.state.pairs.pairs > 0)
    site.commands.append((Command.PROMOTE, "t"))
    state = to_the_end(runner)
    assert (state.outcome, site.copies) == (Outcome.PROMOTED, None)


def test_a_pause_passes_nothing_and_an_abort_ends_the_copies(tmp_path: Path) -> None:
    site = FakeSite(commands=[(Command.PAUSE, "t")])
    runner = runner_of(begin(tmp_path, site, WITH_STAGE), site)
    state = to_the_end(runner, lambda runner: runner.state.pairs.pairs > 3000)
    assert (state.judgement.verdict, state.verdict) == (Verdict.PASS, None)
    site.commands.append((Command.ABORT, "t"))
    state = to_the_end(runner)
    assert (state.outcome, site.copies) == (Outcome.ABORTED, None)


@pytest.mark.parametrize("trouble", ["records", "node"])
def test_while_something_is_unavailable_the_stage_waits(tmp_path: Path, trouble: str) -> None:
    site = FakeSite()
    path = begin(tmp_path, site, WITH_STAGE)
    runner = runner_of(path, site)
    to_the_end(runner, lambda runner: runner.state.is_copied)
    if trouble == "records":
        site.unavailable = {"pairs"}
    else:
        site.trouble = "node a does not answer"
    begin_at = site.now
    state = to_the_end(runner, lambda runner: site.now > begin_at + 60)
    assert "unavailable" in state.waits_for or "does not answer" in state.waits_for
    assert state.step == -1
    site.unavailable, site.trouble = set(), ""
    assert to_the_end(runner).outcome is Outcome.PROMOTED


def test_an_edited_stage_begins_anew_with_its_own_share(tmp_path: Path) -> None:
    site = FakeSite(differ=(1, 1))
    path = begin(tmp_path, site, WITH_STAGE)
    runner = runner_of(path, site)
    to_the_end(runner, lambda runner: runner.state.pairs.pairs > 500)
    site.policy = POLICY.model_copy(update={"shadow": STAGE.model_copy(update={"percent": 100.0})})
    state = to_the_end(runner, lambda runner: runner.state.policy.shadow != STAGE and site.copies == 10_000)
    assert state.pairs.pairs == 0
    site.policy = POLICY  # without a stage
    to_the_end(runner, lambda runner: runner.state.step == 0)
    assert site.copies is None
    assert "(shadow from percent 100, min_pairs 1000, max_disagreement 0.005 to -)" in told(path)


def test_a_kill_at_any_point_loses_no_pair_and_ends_no_copy_too_late(tmp_path: Path) -> None:
    whole = FakeSite(differ=(2, 0))
    points: list[str] = []
    to_the_end(runner_of(begin(tmp_path / "whole", whole, WITH_STAGE), whole, points.append))
    for number in range(len(points)):
        site = FakeSite(differ=(2, 0))
        path = begin(tmp_path / str(number), site, WITH_STAGE)
        left = [number]

        def strike(point: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Killed(point)

        with pytest.raises(Killed):
            to_the_end(runner_of(path, site, strike))
        state = run(path, site)
        assert (state.outcome, state.signal, site.copies) == (Outcome.ROLLED_BACK, "disagreement", None), points[number]
        counted = sum(e.event.counts.pairs for e in read(path) if isinstance(e.event, PairsCompared))
        assert counted == state.pairs.pairs


def test_copies_that_cannot_be_ended_hold_up_no_rollback_for_ever(tmp_path: Path) -> None:
    site = FakeSite(differ=(2, 0))
    site.refuses = {Effect.STOP_COPYING: NodeError("Envoy refused the change")}
    path = begin(tmp_path, site, WITH_STAGE)
    assert run(path, site).outcome is Outcome.ROLLED_BACK
    assert "Gave up ending the copies to 2.0: Envoy refused the change" in told(path)


def test_the_rule_says_how_the_stage_is_judged_and_only_where_there_is_one() -> None:
    assert "copies of 50% of the requests" in rule(WITH_STAGE)
    assert "copies" not in rule(POLICY)


def test_journals_keep_the_counts_of_each_reading(tmp_path: Path) -> None:
    site = FakeSite()
    path = begin(tmp_path, site, WITH_STAGE)
    run(path, site)
    assert "pairs" in kinds(path)
    entry = next(entry for entry in Journal(path).entries if entry.kind == "pairs")
    assert to_json(entry.event)["counts"]["floors"]["ALONE"]["same"] == to_json(entry.event)["counts"]["pairs"]
    assert to_json(entry.event)["examples"] == ["id-1"]


def test_the_plan_says_how_many_pairs_the_stage_needs() -> None:
    records = Records(share=0.1, repeats=0.5)
    forecast = forecast_stage(STAGE, 0.01, 200.0, records, Records(share=0.2))
    assert forecast.pairs_per_s == pytest.approx(200 * 0.5 * 0.1 * 0.5)
    first, second = forecast.rows[:2]
    assert (first.passes, first.median) == (True, 1497)
    assert first.seconds == pytest.approx(1497 / 5)
    assert (second.passes, second.rate, second.median) == (False, 0.02, 828)
    assert forecast.warnings == ()
    assert stage_table(forecast.rows).lines()[0].split()[:2] == ["NOISE", "FLOOR"]


@pytest.mark.parametrize(
    ("stable", "canary", "warning"),
    [
        (None, Records(), "archive of stable records nothing"),
        (Records(), None, "archive of the canary records nothing"),
        (Records(repeats=0.0), Records(), "never decides"),
    ],
)
def test_the_plan_warns_of_archives_that_record_nothing(
    stable: Records | None, canary: Records | None, warning: str
) -> None:
    forecast = forecast_stage(STAGE, 0.01, 200.0, stable, canary)
    assert warning in forecast.warnings[0]
    assert all(row.seconds is None for row in forecast.rows)

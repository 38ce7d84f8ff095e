"""A rollout from its start to its end, one action at a time: what it does, what it waits for, and what a kill costs."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.fakes import POLICY, FakeEffects, FakeEvidence, FakeHealth, FakeOperator, FakePairs, FakeSite, Killed
from tests.unit.rollout_journals import Writer
from tsctl.cli.rollout_views import exit_code
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.control.place import PlaceUnusable
from tsctl.errors import AnalysisError, ConflictError, GatewayError, NodeError, TsctlError
from tsctl.gateway.envoy.admin import NotAnswering
from tsctl.rollout.decide.actions import next_action
from tsctl.rollout.decide.events import Ended, Entry, Event, Outcome, Started, Tick
from tsctl.rollout.decide.fold import fold
from tsctl.rollout.decide.interventions import Command, CommandReceived, Reopened
from tsctl.rollout.decide.judge import AVERAGE, Verdict
from tsctl.rollout.decide.state import State
from tsctl.rollout.decide.stored import to_json
from tsctl.rollout.decide.windows import OutcomeCounts, Window
from tsctl.rollout.run.health import GONE_S
from tsctl.rollout.run.interfaces import TemporarilyUnavailable
from tsctl.rollout.run.journal import Journal
from tsctl.rollout.run.node_trouble import RECOVERY_S
from tsctl.rollout.run.runner import READY_S, Runner
from tsctl.views.rollout.narrative import story
from tsctl.views.rollout.outlook import deployment_hints

LONGEST = 5000  # actions of one rollout


class StruckJournal(Journal):
    """A journal whose process may be killed around every line."""

    def __init__(self, path: Path, site: FakeSite, strike: Callable[[str], None]) -> None:
        super().__init__(path, lambda: site.now)
        self._strike = strike

    def append(self, event: Event, may_be_late: bool = False) -> Entry:
        self._strike(f"before the line {event.kind}")
        entry = super().append(event, may_be_late)
        self._strike(f"after the line {event.kind}")
        return entry


def begin(folder: Path, site: FakeSite, policy: RolloutPolicy = POLICY) -> Path:
    path = folder / "20260101T000000Z-2.0.jsonl"
    site.policy = policy
    Journal(path, lambda: site.now).append(
        Started(path.stem, "m", "2.0", "1.0", "0" * 64, policy, "m.mar", 1, ("a",), policy.digest, by="t")
    )
    return path


def runner_of(path: Path, site: FakeSite, strike: Callable[[str], None] = lambda point: None) -> Runner:
    return Runner(
        StruckJournal(path, site, strike), FakeEffects(site, strike), FakeEvidence(site), FakeHealth(site),
        FakeOperator(site), FakePairs(site), lambda text: None,
        clock=lambda: site.now, sleep=site.sleep,
    )  # fmt: skip


def run(path: Path, site: FakeSite, until: Callable[[Runner], bool] = lambda runner: False) -> State:
    return to_the_end(runner_of(path, site), until)


def to_the_end(runner: Runner, until: Callable[[Runner], bool] = lambda runner: False) -> State:
    for _ in range(LONGEST):
        if until(runner) or not runner.advance():
            return runner.state
    pytest.fail(f"it did not end: {runner.state}")


def kinds(path: Path) -> list[str]:
    return [entry.kind for entry in Journal(path).entries]


def test_a_rollout_that_takes_too_long_is_rolled_back(tmp_path: Path) -> None:
    site = FakeSite()
    runner = runner_of(begin(tmp_path, site), site)
    runner.timeout_s = 0.5
    state = to_the_end(runner)
    assert (state.outcome, exit_code(state)) == (Outcome.ABORTED, 10)
    assert state.why == "the timeout of 0.5 s asked for it"
    site = FakeSite()
    (tmp_path / "in_time").mkdir()
    runner = runner_of(begin(tmp_path / "in_time", site), site)
    runner.timeout_s = 1e6
    assert to_the_end(runner).outcome is Outcome.PROMOTED


def test_a_route_without_requests_is_told(tmp_path: Path) -> None:
    site = FakeSite()
    said: list[str] = []
    runner = runner_of(begin(tmp_path, site), site)
    runner.note = said.append
    site.rate = 0
    to_the_end(runner, lambda runner: bool(said) and said[-1].endswith("; the route has had no request for 30 s"))
    assert not any("no request" in text for text in said[:-1])


def weights(site: FakeSite) -> list[int]:
    return [value for what, value in site.did if what in ("weigh", "back")]


def test_a_good_canary_takes_every_step_and_becomes_stable(tmp_path: Path) -> None:
    site = FakeSite()
    state = run(begin(tmp_path, site), site)
    assert (state.outcome, exit_code(state)) == (Outcome.PROMOTED, 0)
    assert weights(site) == [500, 5000, TOTAL]
    assert [what for what, _ in site.did if what not in ("weigh", "back")] == [
        "verify",
        "register",
        "prove",
        "default",
        "retire",
    ]
    assert site.default == "2.0"
    assert site.now - 1000 >= 3 * POLICY.hold_s


def test_a_canary_that_fails_goes_back_and_stays_registered(tmp_path: Path) -> None:
    site = FakeSite(errors=(50, 1), rate=1000)
    path = begin(tmp_path, site)
    state = run(path, site)
    assert (state.outcome, state.signal) == (Outcome.ROLLED_BACK, "errors")
    assert (state.is_rejected, exit_code(state)) == (False, 10)
    assert weights(site) == [500, 0]
    assert "of the canary's requests are errors" in state.why
    assert "2.0" in site.registered
    assert site.default == "1.0"
    verdict = next(entry for entry in Journal(path).entries if entry.kind == "verdict")
    assert to_json(verdict.event)["judgement"]["log_e"] > 4.6


@pytest.mark.parametrize("what", ["verify", "register", "prove"])
def test_what_fails_before_the_first_request_never_gets_one(tmp_path: Path, what: str) -> None:
    site = FakeSite(refuses={what: NodeError("the golden answer is another")})
    state = run(begin(tmp_path, site), site)
    assert (state.outcome, state.signal, state.why) == (Outcome.ROLLED_BACK, what, "the golden answer is another")
    assert (state.is_rejected, exit_code(state)) == (True, 13)
    assert weights(site) == []


def test_a_canary_that_somebody_removes_is_rolled_back(tmp_path: Path) -> None:
    site = FakeSite()
    path = begin(tmp_path, site)
    runner = runner_of(path, site)
    to_the_end(runner, lambda runner: runner.state.step == 1 and runner.state.is_weighed)
    site.grace_s, site.trouble = GONE_S, "m 2.0 is no longer registered on node a"
    gone_at = site.now
    held = to_the_end(runner, lambda runner: site.now > gone_at + GONE_S / 2)
    assert (held.is_failed, held.waits_for) == (False, site.trouble)
    state = to_the_end(runner)
    assert (state.outcome, state.signal) == (Outcome.ROLLED_BACK, "gone")
    assert state.why == "m 2.0 is no longer registered on node a, for 60 s"
    assert weights(site) == [500, 5000, 0]
    assert site.now - gone_at < GONE_S + 10


@pytest.mark.parametrize("moment", ["paused", "before its weight"])
def test_a_canary_that_is_removed_is_waited_for_in_no_state(tmp_path: Path, moment: str) -> None:
    site = FakeSite()
    path = begin(tmp_path, site)
    runner = runner_of(path, site)
    if moment == "paused":
        to_the_end(runner, lambda runner: runner.state.held_s > 0)
        site.commands.append((Command.PAUSE, "me"))
    else:
        site.refuses["weigh"] = GatewayError("no node serves m 2.0")
        to_the_end(runner, lambda runner: runner.state.step == 0)
    site.grace_s, site.trouble = GONE_S, "it is no longer registered"
    assert to_the_end(runner).signal == "gone"


def test_a_canary_that_is_back_soon_is_kept(tmp_path: Path) -> None:
    site = FakeSite()
    path = begin(tmp_path, site)
    run(path, site, lambda runner: runner.state.held_s > 0)
    for _ in range(3):
        site.grace_s, site.trouble = GONE_S, "it is not registered"
        until = site.now + GONE_S / 2
        run(path, site, lambda runner, until=until: site.now > until)  # type: ignore[misc]
        site.grace_s, site.trouble = None, ""
        run(path, site, lambda runner, until=until: site.now > until + 3)  # type: ignore[misc]
    assert run(path, site).outcome is Outcome.PROMOTED


def test_a_node_that_joins_is_told_and_covered_before_the_promotion(tmp_path: Path) -> None:
    site = FakeSite()
    path = begin(tmp_path, site)
    run(path, site, lambda runner: runner.state.held_s > 0)
    site.joined = ("b", "c")
    state = run(path, site)
    assert (state.outcome, state.nodes) == (Outcome.PROMOTED, ("a", "b", "c"))
    assert [what for what, _ in site.did if what not in ("weigh", "back")][3:] == ["extend", "default", "retire"]
    told = [sentence.text for sentence in story(Journal(path).entries).told]
    assert "1.0 was added on nodes b, c; 2.0 is registered there before it is promoted." in told
    assert "2.0 was registered where 1.0 was added meanwhile: extend." in told


def test_a_node_that_cannot_be_covered_is_left_with_its_reason(tmp_path: Path) -> None:
    site = FakeSite(refuses={"extend": NodeError("node b: it does not load")})
    path = begin(tmp_path, site)
    run(path, site, lambda runner: runner.state.held_s > 0)
    site.joined = ("b",)
    state = run(path, site)
    assert (state.outcome, state.nodes) == (Outcome.PROMOTED, ("a",))
    told = [sentence.text for sentence in story(Journal(path).entries).told]
    assert "Gave up registering 2.0 on nodes that joined: node b: it does not load." in told
    nodes = {"a": {}, "b": {"inference": "http://10.0.0.2:1"}}
    models = {"m": {"default": "2.0", "versions": {"2.0": None}}}
    [hint] = deployment_hints(state, DeploymentSpec.model_validate({"nodes": nodes, "models": models}))
    assert hint == "the rollout did not put m 2.0 on node b, added meanwhile: run 'tsctl apply'"


def test_a_journal_that_is_removed_while_it_runs_is_whole_at_the_end(tmp_path: Path) -> None:
    site = FakeSite()
    path = begin(tmp_path, site)
    runner = runner_of(path, site)
    to_the_end(runner, lambda runner: runner.state.step == 1)
    path.unlink()
    assert to_the_end(runner).outcome is Outcome.PROMOTED
    assert fold(Journal(path).entries) == runner.state
    assert kinds(path).count("repaired") == 1


def test_a_process_that_lost_its_rollout_to_another_one_changes_nothing_more(tmp_path: Path) -> None:
    site = FakeSite()
    path = begin(tmp_path, site)
    runner = runner_of(path, site)
    to_the_end(runner, lambda runner: runner.state.held_s > 0)
    before = list(site.did)

    def guard() -> None:
        raise ConflictError("the rollout of m is being changed by another tsctl (process 7)")

    runner.journal = Journal(path, lambda: site.now, guard)
    with pytest.raises(ConflictError):
        runner.run()
    assert site.did == before


def test_a_canary_that_refuses_its_first_requests_is_given_up(tmp_path: Path) -> None:
    site = FakeSite(refuses={"weigh": GatewayError("m 2.0 cannot answer on any node")})
    path = begin(tmp_path, site)
    state = run(path, site, lambda runner: runner.state.is_failed)
    assert (state.signal, state.weight) == ("ready", 500)
    site.refuses.clear()
    ended = run(path, site)
    assert (ended.outcome, ended.is_rejected) == (Outcome.ROLLED_BACK, False)  # Envoy may have had the weight
    assert weights(site) == [0]


def test_what_refuses_because_something_else_is_away_is_held(tmp_path: Path) -> None:
    site = FakeSite(refuses={"weigh": GatewayError("m 2.0 cannot answer on any node")}, trouble="node a is away")
    path = begin(tmp_path, site)
    end = site.now + 5 * READY_S
    held = run(path, site, lambda runner: site.now > end)
    assert (held.is_failed, held.waits_for) == (False, "node a is away")
    site.trouble = ""  # and what refuses now has READY_S from here on
    end = site.now + READY_S / 2
    assert not run(path, site, lambda runner: site.now > end).is_failed
    site.refuses.clear()
    assert run(path, site).outcome is Outcome.PROMOTED


@pytest.mark.parametrize("what", ["register", "prove", "slow", "weigh", "retire"])
@pytest.mark.parametrize(
    "error",
    [
        NotAnswering("it does not answer"),
        ConflictError("somebody changes it"),
        AnalysisError("Prometheus is away"),
        PlaceUnusable("the password of the place has expired"),
    ],
)
def test_what_the_gateway_cannot_do_now_it_can_later(tmp_path: Path, what: str, error: TsctlError) -> None:
    site = FakeSite(refuses={what: error})
    path = begin(tmp_path, site)
    waiting = run(path, site, lambda runner: bool(runner.state.waits_for))
    assert (waiting.waits_for, waiting.is_failed) == (error.message, False)
    site.refuses.clear()
    assert run(path, site).outcome is Outcome.PROMOTED


def test_without_requests_it_is_held_and_then_as_the_policy_says(tmp_path: Path) -> None:
    idle = FakeSite(rate=0, slow=None)
    path = begin(tmp_path, idle)
    state = run(path, idle)
    assert (state.outcome, state.is_paused, state.weight, exit_code(state)) == (None, True, 500, 11)
    assert weights(idle) == [500]
    runner = runner_of(path, idle)
    runner.record(CommandReceived(Command.RESUME, "me"))
    idle.rate = 1000
    assert to_the_end(runner).outcome is Outcome.PROMOTED
    other = FakeSite(rate=0, slow=None)
    strict = POLICY.model_copy(update={"at_max_hold": "rollback"})
    state = run(begin(tmp_path / "other", other, strict), other)
    assert (state.outcome, state.signal) == (Outcome.ROLLED_BACK, "max_hold_s")
    assert weights(other) == [500, 0]


def test_an_outage_is_waited_for_and_is_no_hold_time(tmp_path: Path) -> None:
    site = FakeSite()
    path = begin(tmp_path, site)
    run(path, site, lambda runner: runner.state.held_s > 3)
    site.unavailable.add("read")
    end = site.now + 100
    held = run(path, site, lambda runner: site.now > end)
    assert held.waits_for == "counts are unavailable"
    assert (held.step, held.is_failed) == (0, False)
    assert held.held_s < POLICY.hold_s
    site.unavailable.clear()
    site.trouble = "node b does not answer"
    end = site.now + 100
    held = run(path, site, lambda runner: site.now > end)
    assert (held.step, held.waits_for) == (0, "node b does not answer")
    assert held.held_s < POLICY.hold_s
    assert held.evidence.canary.requests > 0  # evidence counts all the same
    site.trouble = ""
    assert run(path, site).outcome is Outcome.PROMOTED


def test_requests_that_a_dead_node_left_unanswered_fail_nobody_and_those_of_a_dead_canary_do(tmp_path: Path) -> None:
    site = FakeSite()
    path = begin(tmp_path, site)
    run(path, site, lambda runner: runner.state.held_s > 3)
    site.unanswered, site.trouble = (100, 100), "node a does not answer"
    end = site.now + 100
    held = run(path, site, lambda runner: site.now > end)
    assert (held.is_failed, held.evidence.canary.errors, held.waits_for) == (False, 0, site.trouble)
    site.unanswered, site.trouble = (100, 0), ""  # it is back, and the canary's workers load later than stable's
    end = site.now + RECOVERY_S / 2
    held = run(path, site, lambda runner: site.now > end)
    assert (held.is_failed, held.step) == (False, 0)
    assert held.waits_for == "requests are unanswered, because a node or stable as well is unavailable"
    site.unanswered = (0, 0)
    assert run(path, site).outcome is Outcome.PROMOTED
    other = FakeSite(unanswered=(100, 0))
    failed = run(begin(tmp_path / "other", other), other)
    assert (failed.outcome, failed.signal) == (Outcome.ROLLED_BACK, "errors")


@pytest.mark.parametrize("what", ["register", "weigh", "default", "retire"])
def test_what_is_away_comes_back(tmp_path: Path, what: str) -> None:
    site = FakeSite(unavailable={what})
    path = begin(tmp_path, site)
    waiting = run(path, site, lambda runner: bool(runner.state.waits_for))
    assert waiting.waits_for == f"{what} is unavailable"
    site.unavailable.clear()
    assert run(path, site).outcome is Outcome.PROMOTED


@pytest.mark.parametrize("what", ["default", "retire"])
@pytest.mark.parametrize(
    "error", [TemporarilyUnavailable("node a is away"), NodeError("0 ready workers"), GatewayError("still in use")]
)
def test_a_promotion_does_not_end_by_what_is_left_to_do(tmp_path: Path, what: str, error: TsctlError) -> None:
    site = FakeSite(refuses={what: error})
    path = begin(tmp_path, site)
    assert run(path, site).outcome is Outcome.PROMOTED
    left = next(e for e in Journal(path).entries if e.kind == "done" and to_json(e.event)["what"] == what)
    assert to_json(left.event)["detail"] == f"left undone: {error.message}"


@pytest.mark.parametrize(
    "error", [NodeError("it is in the way"), ConflictError("somebody changes it"), TemporarilyUnavailable("away")]
)
def test_the_way_back_is_tried_until_it_is_gone(tmp_path: Path, error: TsctlError) -> None:
    site = FakeSite(errors=(50, 1), rate=1000)
    path = begin(tmp_path, site)
    run(path, site, lambda runner: runner.state.is_failed)
    site.refuses["back"] = error
    end = site.now + 60
    assert run(path, site, lambda runner: site.now > end).waits_for == error.message
    site.refuses.clear()
    assert run(path, site).outcome is Outcome.ROLLED_BACK


def test_a_canary_that_cannot_carry_a_step_is_held_before_it(tmp_path: Path) -> None:
    site = FakeSite(rate=5000)  # its workers can answer 2,000
    path = begin(tmp_path, site)
    state = run(path, site, lambda runner: bool(runner.state.waits_for))
    assert state.step == 1
    assert "50% of the requests would take 125% of the canary's workers" in state.waits_for
    assert weights(site) == [500]
    site.rate = 200
    assert run(path, site).outcome is Outcome.PROMOTED


def test_a_canary_that_is_scaled_can_carry_the_step_that_it_could_not(tmp_path: Path) -> None:
    site = FakeSite(rate=5000)
    path = begin(tmp_path, site)
    run(path, site, lambda runner: runner.state.step == 1 and bool(runner.state.waits_for))
    site.workers = 4
    assert run(path, site).outcome is Outcome.PROMOTED


def test_a_canary_that_turns_bad_while_its_next_step_waits_is_rolled_back(tmp_path: Path) -> None:
    site = FakeSite(rate=5000)  # its workers can answer 2,000
    path = begin(tmp_path, site)
    run(path, site, lambda runner: runner.state.step == 1 and bool(runner.state.waits_for))
    site.errors = (60, 0)
    since = site.now
    state = run(path, site)
    assert (state.outcome, weights(site)) == (Outcome.ROLLED_BACK, [500, 0])
    assert site.now - since < 60


def test_a_step_that_cannot_begin_is_held_as_long_as_the_policy_says(tmp_path: Path) -> None:
    site = FakeSite(rate=5000)
    state = run(begin(tmp_path, site, POLICY.model_copy(update={"max_hold_s": 60})), site)
    assert (state.outcome, state.is_paused, state.step) == (None, True, 1)
    site = FakeSite(rate=5000)
    strict = POLICY.model_copy(update={"max_hold_s": 60, "at_max_hold": "rollback"})
    state = run(begin(tmp_path / "strict", site, strict), site)
    assert (state.outcome, state.signal) == (Outcome.ROLLED_BACK, "max_hold_s")
    assert "would take 125% of the canary's workers" in state.why


def test_a_worker_that_grows_is_rolled_back(tmp_path: Path) -> None:
    site = FakeSite()
    path = begin(tmp_path, site)
    run(path, site, lambda runner: runner.state.held_s > 1)
    site.memory["1 on a"] = 2 << 30
    state = run(path, site)
    assert (state.outcome, state.signal) == (Outcome.ROLLED_BACK, "memory")
    assert "2,048 MiB, 5.1 times" in state.why


@pytest.mark.parametrize(("command", "outcome", "end"), [
    (Command.ABORT, Outcome.ABORTED, {"1.0": TOTAL, "2.0": 0}),
    (Command.ROLLBACK, Outcome.ROLLED_BACK, {"1.0": TOTAL, "2.0": 0}),
    (Command.PROMOTE, Outcome.PROMOTED, {"1.0": 0, "2.0": TOTAL}),
])  # fmt: skip
def test_a_person_may_end_it(tmp_path: Path, command: Command, outcome: Outcome, end: dict[str, int]) -> None:
    site = FakeSite()
    path = begin(tmp_path, site)
    run(path, site, lambda runner: runner.state.step == 0 and runner.state.held_s > 1)
    site.commands.append((command, "me"))
    state = run(path, site)
    assert (state.outcome, site.weights) == (outcome, end)
    assert weights(site)[-1] == end["2.0"]
    assert 5000 not in weights(site)
    entries = Journal(path).entries
    assert [to_json(entry.event)["by"] for entry in entries if entry.kind == "asked"] == ["me"]
    last = entries[-1].event
    assert isinstance(last, Ended) and last.judgement is not None and state.judgement == last.judgement
    assert all(e.event.log_e is not None and AVERAGE in e.event.log_e for e in entries if isinstance(e.event, Tick))


@pytest.mark.parametrize("command", [Command.ABORT, Command.ROLLBACK])
@pytest.mark.parametrize("then", [Command.PROMOTE, Command.PAUSE, Command.RESUME])
def test_once_a_person_wants_it_back_nothing_else_counts(tmp_path: Path, command: Command, then: Command) -> None:
    site = FakeSite()
    path = begin(tmp_path, site)
    run(path, site, lambda runner: runner.state.held_s > 1)
    site.commands += [(command, "me"), (then, "you")]
    state = run(path, site)
    assert (state.outcome, state.commanded_by) == (
        Outcome.ABORTED if command is Command.ABORT else Outcome.ROLLED_BACK,
        "me",
    )
    assert weights(site) == [500, 0]


def test_paused_it_takes_no_step_and_still_goes_back_where_it_must(tmp_path: Path) -> None:
    site = FakeSite()
    path = begin(tmp_path, site)
    run(path, site, lambda runner: runner.state.held_s > 1)
    site.commands.append((Command.PAUSE, "me"))
    end = site.now + 10 * POLICY.hold_s
    state = run(path, site, lambda runner: site.now > end)
    assert (state.is_paused, state.step, state.outcome) == (True, 0, None)
    site.errors = (60, 0)
    assert run(path, site).outcome is Outcome.ROLLED_BACK


@pytest.mark.parametrize("moment", ["before the first step", "after a pass"])
def test_paused_between_two_steps_it_does_not_begin_the_next(tmp_path: Path, moment: str) -> None:
    site = FakeSite()
    path = begin(tmp_path, site)
    passed = moment == "after a pass"
    before = run(path, site, lambda r: r.state.verdict is Verdict.PASS if passed else "register" in r.state.done)
    site.commands.append((Command.PAUSE, "me"))
    end = site.now + 3 * POLICY.hold_s
    paused = run(path, site, lambda runner: site.now > end)
    assert (paused.step, paused.is_paused) == (before.step, True)
    assert weights(site) == ([500] if passed else [])
    site.commands.append((Command.RESUME, "me"))
    assert run(path, site).outcome is Outcome.PROMOTED
    assert weights(site) == [500, 5000, TOTAL]


def test_paused_a_step_that_waits_for_its_weight_does_not_get_it(tmp_path: Path) -> None:
    site = FakeSite(rate=5000)
    path = begin(tmp_path, site)
    run(path, site, lambda runner: runner.state.step == 1 and bool(runner.state.waits_for))
    site.commands.append((Command.PAUSE, "me"))
    site.rate = 200  # its workers can carry it now
    end = site.now + 3 * POLICY.hold_s
    run(path, site, lambda runner: site.now > end)
    assert weights(site) == [500]
    site.commands.append((Command.RESUME, "me"))
    resumed = run(path, site, lambda runner: runner.state.is_weighed)
    assert (resumed.weight, resumed.held_s, resumed.step_requests) == (5000, 0.0, 0)
    assert run(path, site).outcome is Outcome.PROMOTED


def test_a_step_that_never_had_its_weight_is_not_kept_by_an_edited_policy(tmp_path: Path) -> None:
    site = FakeSite(rate=5000)
    path = begin(tmp_path, site)
    run(path, site, lambda runner: runner.state.step == 1 and bool(runner.state.waits_for))
    site.policy = POLICY.model_copy(update={"steps": (5.0, 20.0, 100.0)})
    state = run(path, site, lambda runner: runner.state.policy == site.policy)
    assert state.weights == (500, 2000, TOTAL)
    site.rate = 200
    assert run(path, site).outcome is Outcome.PROMOTED
    assert weights(site) == [500, 500, 2000, TOTAL]


@pytest.mark.parametrize("kind", ["tick", "step", "doing", "done", "verdict", "ended"])
def test_a_full_disk_is_waited_for_and_the_canary_is_judged_after_it(tmp_path: Path, kind: str) -> None:
    site = FakeSite(errors=(50, 1), rate=1000)
    path = begin(tmp_path, site)
    runner, heard = runner_of(path, site), list[str]()
    runner.note = heard.append
    full_until: list[float] = []

    def strike(point: str) -> None:
        if point == f"before the line {kind}":
            full_until[:] = full_until or [site.now + 30]
            if site.now < full_until[0]:
                raise AnalysisError(f"{path} cannot be written: no space left")

    runner.journal = StruckJournal(path, site, strike)
    assert runner.run().outcome is Outcome.ROLLED_BACK
    assert f"waits: {path} cannot be written: no space left" in heard
    assert set(weights(site)) == {500, 0}
    assert weights(site)[-1] == 0
    assert _total(site) == runner.state.evidence.canary.requests + _unread(site, runner.state)


@contextmanager
def full(path: Path) -> Iterator[None]:
    """No file of this process grows beyond the journal's present size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("why", ["it fails", "abort"])
def test_on_a_full_disk_the_way_back_is_taken_and_the_journal_follows(tmp_path: Path, why: str) -> None:
    site = FakeSite(rate=1000)
    path = begin(tmp_path, site)
    runner = runner_of(path, site)
    to_the_end(runner, lambda runner: runner.state.held_s > 0)
    if why == "abort":
        site.commands.append((Command.ABORT, "me"))
    else:
        site.errors = (50, 1)
    with full(path):
        before = path.read_bytes()
        with pytest.raises(AnalysisError, match="cannot be written"):
            to_the_end(runner)
        assert site.weights["1.0"] == TOTAL
        assert (path.read_bytes(), runner.state.outcome) == (before, None)
    resumed = runner_of(
        path, FakeSite(errors=site.errors, counted=dict(site.counted), commands=[(Command.ABORT, "me")])
    )
    assert to_the_end(resumed).weight == 0, "a kill on the full disk would lead to the same"
    path.write_bytes(before)
    assert to_the_end(runner).is_going_back
    assert fold(Journal(path).entries) == runner.state
    assert [entry.kind for entry in Journal(path).entries if entry.kind != "tick"][-1] == "ended"


def test_on_a_full_disk_no_step_passes(tmp_path: Path) -> None:
    site = FakeSite()
    path = begin(tmp_path, site)
    runner = runner_of(path, site)
    to_the_end(runner, lambda runner: runner.state.held_s > 0)
    with full(path):
        end = site.now + 100
        held = to_the_end(runner, lambda runner: site.now > end)
    assert (held.step, held.is_failed, weights(site)) == (0, False, [500])
    assert "cannot be written" in held.waits_for
    assert to_the_end(runner).outcome is Outcome.PROMOTED
    assert fold(Journal(path).entries) == runner.state


def test_files_of_the_gateway_that_cannot_be_written_are_waited_for(tmp_path: Path) -> None:
    site = FakeSite(errors=(50, 1), rate=1000)
    path = begin(tmp_path, site)
    runner = runner_of(path, site)
    to_the_end(runner, lambda runner: runner.state.is_failed)
    site.refuses["back"] = OSError("no space left")
    end = site.now + 30

    def freed(seconds: float) -> None:
        site.sleep(seconds)
        if site.now > end:
            site.refuses.clear()

    runner.sleep = freed
    assert runner.run().outcome is Outcome.ROLLED_BACK
    assert site.now > end


def test_a_promotion_can_be_rolled_back(tmp_path: Path) -> None:
    site = FakeSite()
    path = begin(tmp_path, site)
    assert run(path, site).outcome is Outcome.PROMOTED
    runner = runner_of(path, site)
    runner.record(Reopened("me"))
    assert to_the_end(runner).outcome is Outcome.ROLLED_BACK
    assert (site.weights["1.0"], site.default) == (TOTAL, "1.0")
    assert kinds(path)[-6:] == ["reopened", "doing", "done", "doing", "done", "ended"]


def test_an_edited_policy_begins_the_step_anew_and_never_jumps(tmp_path: Path) -> None:
    site = FakeSite()
    path = begin(tmp_path, site)
    run(path, site, lambda runner: runner.state.step == 1 and runner.state.held_s > 5)
    before = fold(Journal(path).entries)
    site.policy = POLICY.model_copy(update={"steps": (1.0, 75.0, 100.0)})
    state = run(path, site, lambda runner: runner.state.policy == site.policy and runner.state.is_weighed)
    assert (state.weight, state.weights, state.held_s) == (before.weight, (5000, 7500, TOTAL), 0.0)
    assert state.evidence.canary.requests == 0
    assert run(path, site).outcome is Outcome.PROMOTED
    assert weights(site) == [500, 5000, 5000, 7500, TOTAL]


def test_a_route_that_becomes_sticky_begins_the_step_anew(tmp_path: Path) -> None:
    site = FakeSite()
    path = begin(tmp_path, site)
    run(path, site, lambda runner: runner.state.step == 1 and runner.state.held_s > 5)
    site.sticky = "header x-user"
    state = run(path, site, lambda runner: bool(runner.state.sticky) and runner.state.is_weighed)
    assert (state.weight, state.weights, state.held_s) == (5000, (5000, TOTAL), 0.0)
    assert (state.evidence.canary.requests, state.since) == (0, state.cursor)
    assert run(path, site).outcome is Outcome.PROMOTED
    assert weights(site) == [500, 5000, 5000, TOTAL]
    assert kinds(path).count("sticky") == 1
    told = " ".join(sentence.text for sentence in story(Journal(path).entries).told)
    assert "The route was edited and assigns users by header x-user to versions: the present step" in told


def test_an_edited_policy_begins_nothing_anew_once_the_canary_is_the_default(tmp_path: Path) -> None:
    site = FakeSite()
    path = begin(tmp_path, site)
    run(path, site, lambda runner: "default" in runner.state.done)
    site.policy = POLICY.model_copy(update={"hold_s": 20})
    assert run(path, site).outcome is Outcome.PROMOTED
    assert weights(site) == [500, 5000, TOTAL]


def test_a_rollout_whose_journal_has_no_format_number_goes_on(tmp_path: Path) -> None:
    site, path = FakeSite(), tmp_path / "20260101T000000Z-2.0.jsonl"
    path.write_bytes((Path(__file__).parent / "data" / "journals" / "in_the_second_step.jsonl").read_bytes())
    before = fold(Journal(path).entries)
    assert (before.step, before.is_weighed, before.held_s) == (1, True, 4)
    site.weights = {"1.0": TOTAL // 2, "2.0": TOTAL // 2}
    site.now, site.counted, site.policy = path_end(path), dict(before.cursor), before.policy
    assert run(path, site).outcome is Outcome.PROMOTED
    assert weights(site) == [TOTAL]


def path_end(path: Path) -> float:
    """When the last entry was written."""
    return Journal(path).entries[-1].at


def strikes(path: Path, site: FakeSite) -> list[str]:
    """Every point at which a whole rollout may be killed."""
    seen: list[str] = []
    to_the_end(runner_of(path, site, seen.append))
    return seen


def killed_at(number: int) -> Callable[[str], None]:
    left = [number]

    def strike(point: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed(point)

    return strike


@pytest.mark.parametrize("errors", [(0, 0), (50, 1)])
def test_killed_anywhere_it_converges_and_repeats_no_step(tmp_path: Path, errors: tuple[int, int]) -> None:
    whole = FakeSite(errors=errors, rate=400)
    points = strikes(begin(tmp_path / "whole", whole), whole)
    wanted = fold(Journal(tmp_path / "whole" / "20260101T000000Z-2.0.jsonl").entries)
    chosen = [n for n, point in enumerate(points) if "line tick" not in point or n % 8 == 0]  # ticks are alike
    assert len(chosen) >= 20
    for number in chosen:
        site = FakeSite(errors=errors, rate=400)
        path = begin(tmp_path / str(number), site)
        with pytest.raises(Killed):
            to_the_end(runner_of(path, site, killed_at(number)))
        assert site.weights.get("2.0", 0) <= fold(Journal(path).entries).weight or _goes_back(path), points[number]
        site.sleep(7)  # nobody watches, and requests go on
        state = run(path, site)
        assert state.outcome is wanted.outcome, points[number]
        steps = [to_json(entry.event)["index"] for entry in Journal(path).entries if entry.kind == "step"]
        assert steps == sorted(set(steps)), points[number]
        assert max(weights(site), default=0) <= max(POLICY.weights)
        assert _total(site) == state.evidence.canary.requests + _unread(site, state), points[number]


def _goes_back(path: Path) -> bool:
    """Whether the last that the journal says is that everything goes back to stable."""
    last = Journal(path).entries[-1]
    return last.kind == "doing" and to_json(last.event)["what"] == "back"


def _total(site: FakeSite) -> int:
    return sum(value for key, value in site.counted.items() if key.startswith("2.0|") and key.endswith("requests"))


def _unread(site: FakeSite, state: State) -> int:
    """Of the canary's requests, those that came after the last tick."""
    return sum(
        value - state.cursor.get(key, 0)
        for key, value in site.counted.items()
        if key.startswith("2.0|") and key.endswith("requests")
    )


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 60), min_size=1, max_size=6), st.sampled_from([(0, 0), (3, 3), (40, 1)]))
def test_killed_again_and_again_it_converges(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], errors: tuple[int, int]
) -> None:
    site = FakeSite(errors=errors, rate=1000)
    path = begin(tmp_path_factory.mktemp("killed"), site)
    for number in numbers:
        try:
            to_the_end(runner_of(path, site, killed_at(number)))
        except Killed:
            site.sleep(1)
    state = run(path, site)
    assert state.outcome is (Outcome.ROLLED_BACK if errors == (40, 1) else Outcome.PROMOTED)
    assert next_action(state) is None
    steps = Counter(to_json(entry.event)["index"] for entry in Journal(path).entries if entry.kind == "step")
    assert set(steps.values()) == {1}


def test_requests_at_a_weight_of_before_are_none_of_the_step(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.prepare()
    writer.begin(0)
    writer.begin(1)
    assert writer.state is not None
    late, now = Window(1000, OutcomeCounts(90), OutcomeCounts(10)), Window(5000, OutcomeCounts(7), OutcomeCounts(8))
    writer.write(Tick(1.0, (late, now)))  # a gateway that was cut off routed by the first step's weights
    assert writer.state.step_requests == 8
    assert writer.state.evidence.canary.requests == 18

"""Rollouts on a real node behind a real Envoy, in the order of a model's life: refused, failed, held, promoted."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from tests.support.gateways import Front
from tests.support.releases import (
    FAILS_ON_LARGE,
    LARGE,
    PACE,
    asking,
    change_policy,
    defaults,
    entries,
    logged,
    newest,
    releasing,
    served,
    state_of,
    weights,
)
from tests.support.sites import until
from tsctl.archive.store import find_archive
from tsctl.config.deployment import read_deployment
from tsctl.config.project import Project
from tsctl.config.weights import TOTAL
from tsctl.gateway.change import set_weights
from tsctl.gateway.state import open_gateway, traffic_in_force
from tsctl.rollout.decide.events import Effect, Outcome
from tsctl.rollout.decide.interventions import Command, CommandReceived
from tsctl.rollout.decide.state import State
from tsctl.rollout.decide.stored import to_json
from tsctl.rollout.run.begin import started
from tsctl.rollout.run.hold import is_running
from tsctl.rollout.run.journal_files import journals

PROMOTED, ROLLED_BACK, UNDECIDED, REJECTED = 0, 10, 11, 13
#: What is right of a canary that was never asked by a client.
STABLE_ALONE = {"1.0": TOTAL}
VERSIONS: dict[str, dict[str, Any]] = {
    "1.0": PACE,
    "2.0": {**PACE, "factor": 3.0},
    "2.1": {**PACE, "factor": 4.0},
    "3.0": FAILS_ON_LARGE,
    "4.0": PACE,  # its golden answer is wrong
    "5.0": {"exit_in_load": 3},
}


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with releasing(tmp_path_factory.mktemp("rollout"), VERSIONS) as front:
        golden = front.site.root / "archives" / "tiny" / "golden" / "4.0.json"
        golden.write_text(json.dumps({"half.json": {"y": 99.0}}))
        front.site.run("archive", "build", "tiny:4.0")
        yield front


def at(line: dict[str, Any]) -> float:
    """When the request of a line of the access log came, in seconds since 1970."""
    return datetime.fromisoformat(line["time"]).timestamp()


def is_watching(front: Front, model: str = "tiny") -> bool:
    """Whether a rollout runs and its first step is in force."""
    return is_running(Project(front.site.root), model) and state_of(front).is_weighed


def test_what_cannot_begin_is_refused(front: Front) -> None:
    site = front.site
    assert "9.9" in site.run("rollout", "start", "tiny", "9.9", status=3).err
    for command in ("start", "plan"):
        assert "nothing to release" in site.run("rollout", command, "tiny", "1.0", status=7).err
    archive = find_archive(Project(site.root), "tiny", "2.0").path
    aside = archive.rename(archive.with_suffix(".aside"))
    assert "2.0" in site.run("rollout", "start", "tiny", "2.0", status=3).err
    aside.rename(archive)
    site.run("models", "register", "tiny:2.0")
    set_weights(front.gateway, "tiny", {"1.0": 9000, "2.0": 1000})
    assert "divided by hand: 1.0 90%, 2.0 10%" in site.run("rollout", "start", "tiny", "2.0", status=7).err
    set_weights(front.gateway, "tiny", {"1.0": TOTAL})
    site.run("gateway", "stop")
    assert "the gateway does not run" in site.run("rollout", "start", "tiny", "2.0", status=5).err
    site.run("gateway", "start")
    assert "there is no rollout of tiny" in site.run("rollout", "resume", "tiny", status=6).err
    assert "no rollout of tiny is in progress" in site.run("rollout", "pause", "tiny", status=6).err
    assert journals(Project(site.root)) == []


@pytest.mark.parametrize(("version", "why"), [("4.0", "expected 99.0, got 1.0"), ("5.0", "loads: ")])
def test_a_canary_that_does_not_serve_never_gets_a_request(front: Front, version: str, why: str) -> None:
    ended = front.site.run("rollout", "start", "tiny", version, status=REJECTED)
    assert f"tiny {version} failed before its first request: " in ended.out
    state = state_of(front)
    assert (state.outcome, state.signal, state.weight) == (Outcome.ROLLED_BACK, "verify", 0)
    assert why in state.why
    assert not [entry for entry in entries(front) if entry.kind == "step"]
    assert weights(front) == STABLE_ALONE
    assert logged(front, version) == []
    assert version not in served(front)["local"]


def test_a_canary_that_fails_some_requests_is_rolled_back_under_load(front: Front) -> None:
    with asking(front) as small, asking(front, LARGE) as large:
        ended = front.site.run("rollout", "start", "tiny", "3.0", "--json", status=ROLLED_BACK)
        seen = len(small.answers) + len(large.answers)
        until(lambda: len(small.answers) + len(large.answers) > seen + 100, 30, "answers after the rollback")
    told = ended.json()
    assert (told["outcome"], told["weight"]) == ("rolled back", 0)
    assert told["signal"] in ("errors", "limit")
    assert weights(front) == STABLE_ALONE
    failed = [*small.failed, *large.failed]
    assert failed, "the canary fails on large numbers"
    assert {answer.version for answer in failed} == {"3.0"}, "what stable would have answered was lost"
    assert {answer.status for answer in failed} == {500}
    [verdict] = [entry for entry in entries(front) if entry.kind == "verdict"]
    last = max(at(line) for line in until(lambda: logged(front, "3.0"), 20, "the canary's lines in the access log"))
    assert last - verdict.at < 5, "the canary had requests long after the verdict"
    assert served(front)["local"]["3.0"] == 1, "it stays for whoever looks into it"
    assert defaults(front) == {"1.0"}


def test_while_one_runs_or_waits_there_is_no_second(front: Front) -> None:
    site = front.site
    with site.start("rollout", "start", "tiny", "2.0") as process:
        until(lambda: is_watching(front), 60, "the first step")
        assert "the rollout of tiny is being changed" in site.run("rollout", "start", "tiny", "2.1", status=7).err
        assert "decides on its weights" in site.run("weights", "set", "tiny", "1.0=100%", status=7).err
        site.run("rollout", "pause", "tiny")
        until(lambda: state_of(front).is_paused, 10, "the pause")
        assert site.run("rollout", "status", "tiny", "--json").json()["is_paused"]
        site.run("rollout", "resume", "tiny")
        until(lambda: not state_of(front).is_paused, 10, "the end of the pause")
        site.run("rollout", "abort", "tiny")
        assert process.wait(timeout=30) == ROLLED_BACK
    assert state_of(front).outcome is Outcome.ABORTED
    assert weights(front) == STABLE_ALONE
    with site.start("rollout", "start", "tiny", "2.0") as process:
        until(lambda: state_of(front).outcome is None and is_watching(front), 60, "the first step")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert "has not ended" in site.run("rollout", "start", "tiny", "2.1", status=7).err
    assert weights(front) == {"1.0": 8000, "2.0": 2000}
    with site.start("rollout", "resume", "tiny") as process:
        until(lambda: is_watching(front), 30, "the rollout that goes on")
        site.run("rollout", "promote", "tiny")
        assert process.wait(timeout=30) == PROMOTED
    assert (weights(front), defaults(front)) == ({"2.0": TOTAL}, {"2.0"})
    assert served(front)["local"]["1.0"] == 1, "the policy keeps one for the way back"


def test_a_good_canary_is_promoted_under_load_and_can_be_rolled_back(front: Front) -> None:
    site = front.site
    with asking(front) as load:
        ended = site.run("rollout", "start", "tiny", "2.1", status=PROMOTED)
        assert (weights(front), defaults(front)) == ({"2.1": TOTAL}, {"2.1"})
        assert set(served(front)["local"]) == {"2.0", "2.1", "3.0"}, "2.0 is kept, and 1.0 is one too many"
        site.run("rollout", "rollback", "tiny", status=ROLLED_BACK)
        assert (weights(front), defaults(front)) == ({"2.0": TOTAL}, {"2.0"})
    assert load.failed == []
    assert [to_json(entry.event)["index"] for entry in entries(front) if entry.kind == "step"] == [0, 1, 2]
    report = newest(front).with_suffix(".html")
    assert f"report: {report.relative_to(site.root)}" in ended.out.splitlines()
    assert "rolled back" in report.read_text()


def test_what_happened_can_be_read(front: Front) -> None:
    site = front.site
    rows = site.run("rollout", "history", "tiny", "--json").json()
    assert [(row["canary"], row["outcome"]) for row in rows] == [
        ("4.0", "rolled back"),
        ("5.0", "rolled back"),
        ("3.0", "rolled back"),
        ("2.0", "aborted"),
        ("2.0", "promoted"),
        ("2.1", "rolled back"),
    ]
    assert len(site.run("rollout", "history").out.splitlines()) == 1 + len(rows)
    told = site.run("rollout", "explain", "tiny", rows[2]["id"])
    assert "tiny 3.0" in told.out
    assert "errors" in told.out
    assert site.run("rollout", "explain", "tiny", rows[2]["id"], "--json").json()
    assert "2.1" in site.run("rollout", "status", "tiny").out
    assert site.run("rollout", "status", "--json").json() == []
    assert site.run("rollout", "watch", "tiny", status=ROLLED_BACK).out.splitlines()[-1]
    written = site.run("rollout", "report", "tiny", rows[2]["id"], "--out", str(site.root / "report.html"))
    assert written.out.strip() == "report.html"
    assert "</html>" in (site.root / "report.html").read_text()


def test_every_effect_may_be_done_twice(front: Front) -> None:
    """The contract of tests/unit/fakes.py, held against the live effects."""
    change_policy(front, keep=0)
    project = Project(front.site.root)
    gateway = open_gateway(project, read_deployment(project.deployment))

    def outside() -> tuple[Any, ...]:
        [route] = traffic_in_force(gateway).values()
        return dict(route.weights), route.stable, route.canary, served(front), defaults(front)

    with started(gateway, "tiny", "3.0", 1, lambda text: None) as runner:

        def twice(effect: Effect, state: State) -> tuple[Any, ...]:
            runner.effects.apply(effect, state)
            once = outside()
            runner.effects.apply(effect, state)
            assert outside() == once
            return once

        state = runner.state
        for effect in (Effect.VERIFY, Effect.REGISTER, Effect.VERIFY_GOLDEN):
            assert twice(effect, state)[0].get("3.0", 0) == 0
        for weight in (1, 2000, TOTAL):
            shares = twice(Effect.SET_WEIGHT, replace(state, weight=weight))[0]
            assert (shares.get("2.0", 0), shares["3.0"]) == (TOTAL - weight, weight)
        assert twice(Effect.SET_DEFAULT, state)[4] == {"3.0"}
        assert twice(Effect.RESTORE_DEFAULT, state)[4] == {"2.0"}
        assert twice(Effect.REVERT_WEIGHT, state)[0]["2.0"] == TOTAL
        runner.effects.apply(Effect.SET_WEIGHT, replace(state, weight=TOTAL))
        runner.effects.apply(Effect.SET_DEFAULT, state)
        assert set(twice(Effect.RETIRE, state)[3]["local"]) == {"2.1", "3.0"}
        runner.record(CommandReceived(Command.ABORT, "the test"))
        assert runner.run().outcome is Outcome.ABORTED

"""Two operators with a project each, one gateway, and a place that they share: killed, stopped, both at once, cut off.

They are on one machine. What both see of the gateway and of the nodes are the same files, as on a shared disk; their
locks, their copies of journals and their commands are their own. tests/live/test_many_gateways.py has machines.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.gateways import Front
from tests.support.ports import free_ports
from tests.support.redis_server import redis_server
from tests.support.releases import PACE, asking, is_held, releasing, state_of, weights
from tests.support.sites import Site, throughout, until
from tsctl.config.weights import TOTAL
from tsctl.rollout.decide.events import Outcome

PROMOTED, ROLLED_BACK, CONFLICT = 0, 10, 7
VERSIONS: dict[str, dict[str, Any]] = {"1.0": PACE, "2.0": PACE}
WAIT_S = 60


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """The operator whose machine has the gateway and the node."""
    root = tmp_path_factory.mktemp("control")

    (root / "place").mkdir()

    def share(content: dict[str, Any]) -> None:
        content["control"] = str(root / "place")

    with releasing(root, VERSIONS, edit=share) as front:
        yield front


@pytest.fixture(scope="module")
def second(first: Front) -> Front:
    """Another operator, who has the same deployment.yaml and archives."""
    root = first.site.root.with_name("second")
    (root / ".tsctl").mkdir(parents=True, mode=0o700)
    for shared in ("archives", ".tsctl/gateway", ".tsctl/nodes"):
        (root / shared).symlink_to(first.site.root / shared)
    for copied in ("deployment.yaml", "config.properties", "log4j2.xml"):
        if (first.site.root / copied).exists():
            shutil.copy(first.site.root / copied, root / copied)
    return Front(Site(root), first.base, first.metrics, first.key)


def next_version(front: Front) -> tuple[str, str]:
    """The version that has all requests, and the other one."""
    [stable] = weights(front)
    return stable, "2.0" if stable == "1.0" else "1.0"


def is_first_step_watched(front: Front, version: str) -> bool:
    return is_held(front, version) and state_of(front).step == 0


def hold(front: Front, seconds: float) -> None:
    """Steps take so long from now on."""
    path = front.site.root / "deployment.yaml"
    content = front.site.deployment
    content["rollout"]["hold_s"] = seconds
    beside = path.with_suffix(".new")
    beside.write_text(yaml.safe_dump(content, sort_keys=False))
    beside.replace(path)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and messages."""
    _, said = process.communicate(timeout=WAIT_S)
    return process.returncode, said


def test_an_operator_that_is_killed_is_replaced_by_another_one(first: Front, second: Front) -> None:
    hold(first, 3)
    hold(second, 3)
    _, version = next_version(first)
    with asking(first), first.site.start("rollout", "start", "tiny", version) as killed:
        until(lambda: is_first_step_watched(first, version), WAIT_S, "the first step")
        killed.send_signal(signal.SIGKILL)
        killed.wait(WAIT_S)
        before = state_of(first)
        shown = second.site.run("rollout", "status", "tiny", "--json").json()
        assert (shown["id"], shown["outcome"], shown["weight"]) == (before.id, None, before.weight)
        [lease] = second.site.run("control", "status", "--json").json()["leases"]
        assert (lease["lease"], lease["process"], lease["state"]) == ("rollout-tiny", killed.pid, "over")
        second.site.run("rollout", "resume", "tiny", status=PROMOTED)
    assert weights(first) == {version: TOTAL}
    state = state_of(second)
    assert (state.id, state.outcome) == (before.id, Outcome.PROMOTED)
    first.site.run("rollout", "explain", "tiny")  # fetches what it has not seen
    assert state_of(first) == state
    assert second.site.run("control", "status", "--json").json()["leases"] == []


def test_an_operator_that_was_stopped_changes_nothing_when_it_goes_on(first: Front, second: Front) -> None:
    hold(first, 60)
    hold(second, 60)
    stable, version = next_version(first)
    with asking(first), first.site.start("rollout", "start", "tiny", version) as stopped:
        until(lambda: is_first_step_watched(first, version), WAIT_S, "the first step")
        stopped.send_signal(signal.SIGSTOP)
        try:
            before = state_of(first)
            # it waits until the lease is over, because nobody knows whether the other one is dead
            aborted = second.site.run("rollout", "abort", "tiny", status=ROLLED_BACK)
            assert "holds rollout-tiny and is silent" in aborted.err
            taken = state_of(second)
            assert (taken.id, taken.outcome, weights(first)) == (before.id, Outcome.ABORTED, {stable: TOTAL})
        finally:
            stopped.send_signal(signal.SIGCONT)
        code, said = ended(stopped)
    assert code == CONFLICT, said
    assert "took over rollout-tiny" in said
    assert "changes nothing more" in said
    assert weights(first) == {stable: TOTAL}
    second.site.run("rollout", "status", "tiny")
    assert state_of(second) == taken


def test_of_two_that_begin_at_once_one_begins(first: Front, second: Front) -> None:
    hold(first, 60)
    hold(second, 60)
    stable, version = next_version(first)
    with ExitStack() as stack:
        stack.enter_context(asking(first))
        sites = (first.site, second.site)
        both = [stack.enter_context(site.start("rollout", "start", "tiny", version)) for site in sites]
        until(lambda: any(process.poll() is not None for process in both), WAIT_S, "one to be refused")
        [loser] = [process for process in both if process.poll() is not None]
        winner = both[1 - both.index(loser)]
        code, said = ended(loser)
        assert code == CONFLICT, said
        front, other = (first, second) if winner is both[0] else (second, first)
        until(lambda: is_first_step_watched(front, version), WAIT_S, "the first step")
        refused = other.site.run("rollout", "start", "tiny", version, status=CONFLICT)
        assert f"process {winner.pid}" in refused.err
        # a command reaches the process of the other operator
        assert other.site.run("rollout", "abort", "tiny", "--json").json() == {"model": "tiny", "asked": "abort"}
        assert ended(winner)[0] == ROLLED_BACK
    assert weights(first) == {stable: TOTAL}


def test_without_its_place_a_rollout_waits_and_then_goes_on(first: Front, second: Front, tmp_path: Path) -> None:
    """A folder that is away, and a Redis that is killed and comes back: what was asked meanwhile is done afterwards."""
    [port] = free_ports(1)
    place = first.site.root.with_name("place")
    persistent = ("--appendonly", "yes", "--appendfsync", "always")
    with ExitStack() as stack:
        stack.enter_context(asking(first))
        for address in (str(place), f"redis://127.0.0.1:{port}/0"):
            for front in (first, second):
                content = front.site.deployment
                content["control"] = address
                content["rollout"]["hold_s"] = 60
                (front.site.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
            stable, version = next_version(first)
            with redis_server(tmp_path / "redis", port, *persistent):
                running = stack.enter_context(first.site.start("rollout", "start", "tiny", version))
                until(partial(is_first_step_watched, first, version), WAIT_S, "the first step")
                before = weights(first)
            place.rename(place.with_name("away"))
            first.site.run("rollout", "abort", "tiny")  # on its own machine it need not ask the place
            unreachable = second.site.run("rollout", "status", "tiny", status=6)
            assert address.removesuffix("/0") in unreachable.err
            throughout(lambda: weights(first) == before, 5, "the weights stay")  # noqa: B023 - called here
            assert running.poll() is None
            place.with_name("away").rename(place)
            with redis_server(tmp_path / "redis", port, *persistent):
                code, said = ended(running)
                assert code == ROLLED_BACK, said
                second.site.run("rollout", "status", "tiny")
                assert state_of(second).outcome is Outcome.ABORTED
            assert weights(first) == {stable: TOTAL}

"""Two operators with a project each, one gateway, and a place that they share: killed, stopped, both at once, cut off.

They are on one machine. What both see of the gateway and of the nodes are the same files, as on a shared disk; their
locks, their copies of journals and their commands are their own. tests/live/test_many_gateways.py has machines.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.crash_tests.cases import repeated_steps, uncounted_requests
from benchmarks.crash_tests.operators import second_operator
from benchmarks.harness.redis import DURABLE
from tests.support.bucket import a_bucket
from tests.support.gateways import Front
from tests.support.ports import free_ports
from tests.support.redis_server import redis_server
from tests.support.releases import PACE, asking, entries, is_held, newest, releasing, state_of, weights
from tests.support.sites import Site, throughout, until
from tsctl.config.project import Project
from tsctl.config.weights import TOTAL
from tsctl.rollout.decide.events import Outcome
from tsctl.rollout.run.journal_files import journals

PROMOTED, ROLLED_BACK, UNREACHABLE, CONFLICT = 0, 10, 6, 7
VERSIONS: dict[str, dict[str, Any]] = {"1.0": PACE, "2.0": PACE}
WAIT_S = 60


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """The operator whose machine has the gateway and the node."""
    with releasing(tmp_path_factory.mktemp("control"), VERSIONS) as front:
        yield front


@pytest.fixture(scope="module")
def second(first: Front) -> Front:
    """Another operator, who has the same deployment.yaml and archives."""
    project = second_operator(Project(first.site.root), first.site.root.with_name("second"))
    return Front(Site(project.root), first.base, first.metrics, first.key)


@dataclass(frozen=True)
class Shared:
    """A place; `leave` makes it unavailable and `come_back` available again, with all that it had."""

    address: str
    complaint: str
    leave: Callable[[], None]
    come_back: Callable[[], None]


@contextmanager
def folder_place(root: Path) -> Iterator[Shared]:
    place, elsewhere = root / "place", root / "elsewhere"
    place.mkdir(mode=0o700)
    yield Shared(
        str(place), "Is it mounted?", lambda: void(place.rename(elsewhere)), lambda: void(elsewhere.rename(place))
    )


def void(result: object) -> None:
    """Nothing, whatever the result."""


@contextmanager
def redis_place(root: Path) -> Iterator[Shared]:
    [port] = free_ports(1)
    with ExitStack() as running:

        def start() -> None:
            running.enter_context(redis_server(root / "redis", port, *DURABLE))

        start()
        yield Shared(f"redis://127.0.0.1:{port}/0", "Does this Redis run?", running.close, start)


@contextmanager
def s3_place(root: Path) -> Iterator[Shared]:
    with a_bucket("control-of-rollouts") as bucket, pytest.MonkeyPatch.context() as environment:
        for name, value in bucket.environment.items():
            environment.setenv(name, value)
        yield Shared(f"s3://{bucket.name}/a/prefix", "Can it be reached from here?", bucket.stop, bucket.start)


PLACES: dict[str, Callable[[Path], AbstractContextManager[Shared]]] = {
    "folder": folder_place,
    "redis": redis_place,
    "s3": s3_place,
}


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, first: Front, second: Front) -> Iterator[Shared]:
    """An empty place of the kind that the test's parameter names, which both operators share from now on."""
    with PLACES[getattr(request, "param", "folder")](tmp_path) as shared:
        for front in (first, second):
            edit(front, control=shared.address)
        yield shared
        for front in (first, second):
            journals(Project(front.site.root))  # copies have all entries before the place is another one


def next_version(front: Front) -> tuple[str, str]:
    """The version that has all requests, and the other one."""
    [stable] = weights(front)
    return stable, "2.0" if stable == "1.0" else "1.0"


def is_first_step_watched(front: Front, version: str) -> bool:
    return is_held(front, version) and (state_of(front).step, state_of(front).outcome) == (0, None)


def hold(front: Front, seconds: float) -> None:
    """Steps take so long from now on."""
    edit(front, rollout={**front.site.deployment["rollout"], "hold_s": seconds})


def edit(front: Front, **keys: Any) -> None:
    """deployment.yaml has these from now on."""
    path = front.site.root / "deployment.yaml"
    content = front.site.deployment | keys
    beside = path.with_suffix(".new")
    beside.write_text(yaml.safe_dump(content, sort_keys=False))
    beside.replace(path)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and messages."""
    _, said = process.communicate(timeout=WAIT_S)
    return process.returncode, said


@pytest.mark.parametrize("place", ["folder", "s3"], indirect=True)
def test_an_operator_that_is_killed_is_replaced_by_another_one(first: Front, second: Front, place: Shared) -> None:
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


def test_an_operator_that_was_stopped_changes_nothing_when_it_goes_on(
    first: Front, second: Front, place: Shared
) -> None:
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


def test_of_two_that_begin_at_once_one_begins(first: Front, second: Front, place: Shared) -> None:
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


@pytest.mark.parametrize("place", ["folder", "redis"], indirect=True)
def test_a_rollout_whose_place_leaves_changes_nothing_and_goes_on_when_it_is_back(
    first: Front, second: Front, place: Shared
) -> None:
    hold(first, 60)
    stable, version = next_version(first)
    before = newest(first) if journals(Project(first.site.root)) else None
    with asking(first), first.site.start("rollout", "start", "tiny", version) as running:
        until(
            lambda: running.poll() is not None or (newest(first) != before and is_first_step_watched(first, version)),
            WAIT_S,
            "the first step",
        )
        assert running.poll() is None, ended(running)
        copy, shares = newest(first), weights(first)
        assert sorted(shares) == sorted((stable, version)), entries(first)
        place.leave()
        try:
            for site in (first.site, second.site):
                for command in ("status", "abort"):
                    refused = site.run("rollout", command, "tiny", status=UNREACHABLE)
                    assert place.address in refused.err
                    assert place.complaint in refused.err
            written = copy.read_bytes()
            throughout(
                lambda: (weights(first), copy.read_bytes(), running.poll()) == (shares, written, None),
                1.5,
                "nothing is decided meanwhile",
            )
        finally:
            place.come_back()
        hold(first, 1)
        code, said = ended(running)
    assert code == PROMOTED, said
    assert weights(first) == {version: TOTAL}
    assert copy.read_bytes().startswith(written)
    assert second.site.run("rollout", "status", "tiny", "--json").json()["outcome"] == Outcome.PROMOTED
    journal = entries(second)
    assert journal == entries(first)
    assert [entry.seq for entry in journal] == list(range(len(journal)))
    assert "asked" not in {entry.kind for entry in journal}, "a command that was refused is not obeyed later"
    assert (repeated_steps(journal), uncounted_requests(journal, version)) == (0, 0)

"""Two projects that share a place: the one that takes a rollout over fences off the one before, gateway and all."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.memory_place import MemoryPlace
from tests.unit.test_many_gateways import ROUTE, with_route
from tests.unit.test_rollout_live import DEPLOYMENT, quiet
from tsctl.cli.control import status, take
from tsctl.config.deployment import read_deployment
from tsctl.config.policy import RolloutPolicy
from tsctl.config.project import Project
from tsctl.config.weights import TOTAL
from tsctl.control.folder import FolderPlace
from tsctl.control.here import place_at, shared_leases
from tsctl.control.lease import DamagedLease, TakenOver
from tsctl.control.place import PlaceUnreachable, numbered
from tsctl.errors import ConflictError, SpecError
from tsctl.gateway.change import set_shadow, set_weights
from tsctl.gateway.publish import put_clusters, put_routes
from tsctl.gateway.shared.control import SharedGateways
from tsctl.gateway.shared.generation import GENERATIONS, Generation, to_bytes
from tsctl.gateway.shared.report import REPORTS, Report
from tsctl.gateway.shared.report import to_bytes as report_bytes
from tsctl.gateway.state import Gateway, changing, open_gateway
from tsctl.gateway.traffic import only
from tsctl.rollout.decide.events import Started, Waiting
from tsctl.rollout.decide.interventions import Command
from tsctl.rollout.run.commands import send
from tsctl.rollout.run.effects import LiveEffects
from tsctl.rollout.run.hold import is_running
from tsctl.rollout.run.journal import Journal
from tsctl.rollout.run.journal_files import folder, journals, unfinished
from tsctl.rollout.run.journal_lines import read
from tsctl.rollout.run.resume import resumed

ID = "20261125T093000Z-2.0"


@pytest.fixture
def gateways(tmp_path: Path) -> list[Gateway]:
    """Two operators' gateways; the first one has a rollout of before there was a place."""
    (tmp_path / "place").mkdir()
    opened = []
    for name in ("first", "second"):
        project = Project(tmp_path / name)
        project.root.mkdir()
        project.deployment.write_text(f"{DEPLOYMENT}control: {tmp_path / 'place'}\n")
        opened.append(open_gateway(project, read_deployment(project.deployment)))
    policy = RolloutPolicy(alpha=0.02)
    Journal(folder(opened[0].project, "digits") / f"{ID}.jsonl").append(
        Started(
            ID,
            "digits",
            "2.0",
            "1.0",
            "ab" * 32,
            policy,
            "digits-2.0-abababababab.mar",
            1,
            ("local",),
            policy.digest,
            by="t",
        )
    )
    return opened


def test_the_one_that_was_replaced_writes_nothing_and_changes_nothing(gateways: list[Gateway]) -> None:
    """Both are this process, which takes its own lease at once."""
    first, second = gateways
    with resumed(first, "digits", quiet) as stale:
        assert unfinished(second.project, "digits") == ID
        with resumed(second, "digits", quiet) as new:
            assert [entry.kind for entry in new.journal.entries] == ["started", "asked", "asked"]
            with pytest.raises(TakenOver, match="took over rollout-digits"):
                stale.record(Waiting("x"))
            assert isinstance(stale.effects, LiveEffects)
            edited = first.project.deployment
            for _ in range(2):  # as opened, and as opened again after an edit
                for change in changes(stale.effects.gateway):
                    with pytest.raises(TakenOver):
                        change()
                stat = edited.stat()
                edited.write_text(edited.read_text() + "\n")
                os.utime(edited, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
            new.record(Waiting("y"))
            assert read(journals(first.project, "digits")[0]) == new.journal.entries
        assert not is_running(second.project, "digits")


def changes(gateway: Gateway) -> list[Callable[[], object]]:
    return [
        lambda: set_weights(gateway, "digits", {"1.0": TOTAL}),
        lambda: set_shadow(gateway, "digits", "2.0", 100),
    ]


@pytest.mark.parametrize(
    "put",
    [
        lambda gateway: put_routes(gateway, [only("digits", "1.0")]),
        lambda gateway: put_clusters(gateway, [], [only("digits", "1.0")]),
    ],
    ids=["routes", "clusters"],
)
def test_a_change_that_waited_asks_the_place_again_before_it_writes(
    gateways: list[Gateway], put: Callable[[Gateway], None]
) -> None:
    asked: list[str] = []

    def guard() -> None:
        asked.append("once more")
        if len(asked) > 1:
            raise PlaceUnreachable("the place is away")

    gateway = replace(gateways[0], guard=guard)
    with pytest.raises(PlaceUnreachable, match="the place is away"), changing(gateway):
        put(gateway)
    files = gateway.files
    assert not any(path.exists() for path in (files.routes, files.clusters, files.tokens, files.ready))


def test_a_command_reaches_the_process_of_another_project(gateways: list[Gateway]) -> None:
    first, second = gateways
    with resumed(first, "digits", quiet) as runner:
        assert is_running(second.project, "digits", quiet)
        send(second.project, "digits", Command.PAUSE)
        send(first.project, "digits", Command.RESUME)
        assert [command for command, _ in runner.operator.commands()] == [Command.RESUME, Command.PAUSE]
        runner.operator.acknowledge()
        assert runner.operator.commands() == []
    assert not is_running(first.project, "digits")
    assert not is_running(second.project, "digits")


def test_without_the_place_no_command_is_sent_also_on_the_machine_of_the_process(gateways: list[Gateway]) -> None:
    first, second = gateways
    with resumed(first, "digits", quiet):
        place, elsewhere = (first.project.root.with_name(name) for name in ("place", "elsewhere"))
        place_at.cache_clear()  # each command is a process of its own
        place.rename(elsewhere)
        try:
            for project in (first.project, second.project):
                with pytest.raises(PlaceUnreachable, match="abort was not sent, and the weights stay") as refused:
                    send(project, "digits", Command.ABORT)
                assert "Is it mounted?" in refused.value.hint
        finally:
            elsewhere.rename(place)
        assert not list(folder(first.project, "digits").glob("asked-*"))
        assert not list((place / "asked").glob("**/*.json"))


def test_who_holds_what_is_shown_and_can_be_taken(
    gateways: list[Gateway], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = gateways
    monkeypatch.setenv("TSCTL_PROJECT", str(second.project.root))
    status()
    assert "nobody holds anything" in capsys.readouterr().out
    with pytest.raises(SpecError, match="nobody ever held rollout-digits"):
        take("rollout-digits")
    with resumed(first, "digits", quiet) as stale:
        status()
        assert f"(process {os.getpid()})" in capsys.readouterr().out
        take("rollout-digits")
        assert "took rollout-digits from" in capsys.readouterr().out
        with pytest.raises(TakenOver):
            stale.record(Waiting("x"))
    leases = shared_leases(first.project)
    assert leases is not None and not leases.is_held("rollout-digits")
    (second.project.deployment).write_text(DEPLOYMENT)
    with pytest.raises(SpecError, match="names no place"):
        status()


def test_a_publisher_that_was_replaced_publishes_nothing(tmp_path: Path) -> None:
    """Of several gateways the generation says who may publish, whatever the one before looked at a moment ago."""
    place = MemoryPlace()

    def operator(name: str) -> SharedGateways:
        made = SharedGateways(place.address, ("a",), tmp_path / name, clock=lambda: 1000.0)
        made.__dict__["place"] = place
        return made

    stale, new = operator("stale"), operator("new")
    stale.take_fence("rollout-m", 1)
    assert place.names("") == [], "where nothing was published, there is nothing to fence off"
    stale._create(0, "first", with_route(ROUTE)(Generation()))
    stale.take_fence("rollout-m", 1)
    stale.take_fence("rollout-m", 1)
    assert stale.head().number == 2
    with stale.held():  # it has decided on generation 2, and is stopped
        new.take_fence("rollout-m", 2)
        assert (new.head().number, new.head().traffic) == (3, (ROUTE,))
        with pytest.raises(ConflictError, match="somebody else changed the gateways meanwhile"):
            stale.publish("weights", lambda before: Generation(traffic=()))
    with pytest.raises(ConflictError, match="goes on elsewhere"), stale.held():
        stale.publish("weights", lambda before: Generation(traffic=()))
    with pytest.raises(ConflictError, match="goes on elsewhere"):
        stale.take_fence("rollout-m", 1)
    assert new.head().number == 3


GATEWAYS = """gateways:
  a: {address: 'http://127.0.0.1:1001', metrics: 'http://127.0.0.1:1002'}
  b: {address: 'http://127.0.0.1:1003', metrics: 'http://127.0.0.1:1004'}
"""


def test_status_says_which_gateways_have_what_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "place").mkdir()
    place = FolderPlace(str(tmp_path / "place"))
    deployment = tmp_path / "deployment.yaml"
    deployment.write_text(f"nodes: {{local: {{}}}}\ncontrol: {place.address}\n{GATEWAYS}")
    monkeypatch.setenv("TSCTL_PROJECT", str(tmp_path))
    for number in (1, 2):
        place.create(numbered(GENERATIONS, number), to_bytes(replace(Generation(), number=number)))
    for name, generation, at in (("a", 2, time.time()), ("b", 1, time.time())):
        place.create(numbered(f"{REPORTS}/{name}", 1), report_bytes(Report(name, 1, "o", at, generation, is_live=True)))

    def shown() -> dict[str, Any]:
        status(json=True)
        read: dict[str, Any] = json.loads(capsys.readouterr().out)
        return read

    found = {each["name"]: (each["is_ready"], each["generation"], each["newest"]) for each in shown()["gateways"]}
    assert found == {"a": (True, 2, 2), "b": (False, 1, 2)}
    status()
    out = capsys.readouterr().out
    assert "nobody holds anything" in out
    assert "gateway a: ready, generation 2, http://127.0.0.1:1001\n" in out
    assert "gateway b: not ready, generation 1 of 2, http://127.0.0.1:1003\n" in out
    place.create("lease/a/000001.json", b"{}")
    place.create(numbered(GENERATIONS, 3), b"cut sh")
    with pytest.raises(DamagedLease):  # neither hides the other
        shown()
    read = capsys.readouterr()
    assert "000003.json in the place of control is damaged" in read.err
    assert [len(json.loads(read.out)[key]) for key in ("gateways", "leases", "damaged")] == [0, 0, 2]
    deployment.write_text(f"control: {place.address}\nnonsense: 1\n")
    place.delete("lease/a/000001.json")
    with pytest.raises(SpecError, match="nonsense"):
        shown()
    assert json.loads(capsys.readouterr().out)["place"] == place.address

"""A rollout whose journal is at a shared place: killed anywhere, it goes on from another machine; two never write."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.fakes import (
    AT_GATEWAY,
    POLICY,
    FakeEffects,
    FakeEvidence,
    FakeHealth,
    FakeOperator,
    FakePairs,
    FakeSite,
    Killed,
)
from tests.unit.memory_place import MemoryPlace
from tests.unit.test_rollout_run import killed_at, to_the_end, weights
from tsctl.config.project import Project
from tsctl.config.weights import TOTAL
from tsctl.control.folder import FolderPlace
from tsctl.control.here import control_address
from tsctl.control.lease import Holder, TakenOver
from tsctl.control.open import open_place
from tsctl.control.place import LARGEST, PlaceUnreachable, PlaceUnusable, numbered
from tsctl.errors import ConflictError, SpecError
from tsctl.rollout.decide.events import Effect, Entry, Event, Outcome, Started
from tsctl.rollout.decide.fold import fold
from tsctl.rollout.decide.interventions import Command
from tsctl.rollout.decide.state import State
from tsctl.rollout.decide.stored import to_json
from tsctl.rollout.run.interfaces import may_succeed_later
from tsctl.rollout.run.journal import Journal
from tsctl.rollout.run.journal_lines import DamagedJournal, LaterJournal, read
from tsctl.rollout.run.runner import Runner
from tsctl.rollout.run.shared import SharedCommands, SharedJournals, entries_at, object_of
from tsctl.rollout.run.shared_journal import EntryTaken, SharedJournal

ID = "20260101T000000Z-2.0"
MODEL = "m"
STARTED = Started(ID, MODEL, "2.0", "1.0", "0" * 64, POLICY, "m.mar", 1, ("a",), POLICY.digest, by="t")


def holder(name: str) -> Holder:
    return Holder(f"ann@{name}", name, 7, 1, name)


class StruckJournal(SharedJournal):
    """A journal whose process may be killed around every object."""

    strike: Callable[[str], None]

    def append(self, event: Event, may_be_late: bool = False) -> Entry:
        self.strike(f"before the object {event.kind}")
        entry = super().append(event, may_be_late)
        self.strike(f"after the object {event.kind}")
        return entry


class Operator:
    """A machine with a folder of its own that runs the rollout; `lost` takes the lease away from it."""

    def __init__(self, folder: Path, place: MemoryPlace | FolderPlace, site: FakeSite) -> None:
        self.shared, self.site = SharedJournals(place), site
        self.folder = folder / MODEL
        self.folder.mkdir(parents=True)
        self.name = folder.name
        self.lost: ConflictError | None = None

    @property
    def path(self) -> Path:
        return self.folder / f"{ID}.jsonl"

    def guard(self) -> None:
        if self.lost is not None:
            raise self.lost

    def journal(self, strike: Callable[[str], None] = lambda point: None) -> SharedJournal:
        self.shared.pull(MODEL, self.folder)
        journal = StruckJournal(
            self.path, self.shared.place, holder(self.name), lambda: self.site.now, lambda: self.guard()
        )
        journal.strike = strike
        return journal

    def begin(self, started: Started = STARTED) -> None:
        self.shared.begin(MODEL, ID)
        self.journal().append(started)

    def runner(self, strike: Callable[[str], None] = lambda point: None) -> Runner:
        site = self.site
        return Runner(
            self.journal(strike), FakeEffects(site, strike, self.guard), FakeEvidence(site), FakeHealth(site),
            FakeOperator(site), FakePairs(site), lambda text: None, clock=lambda: site.now, sleep=site.sleep,
        )  # fmt: skip


@pytest.fixture
def place() -> MemoryPlace:
    return MemoryPlace()


def pair(tmp_path: Path, place: MemoryPlace | FolderPlace, **site: object) -> tuple[Operator, Operator]:
    made = FakeSite(**site)  # type: ignore[arg-type]
    return Operator(tmp_path / "first", place, made), Operator(tmp_path / "second", place, made)


def total(site: FakeSite) -> int:
    return sum(value for key, value in site.counted.items() if key.startswith("2.0|") and key.endswith("requests"))


def unread(site: FakeSite, state: State) -> int:
    return sum(
        value - state.cursor.get(key, 0)
        for key, value in site.counted.items()
        if key.startswith("2.0|") and key.endswith("requests")
    )


@pytest.mark.parametrize("errors", [(0, 0), (50, 1)])
def test_killed_anywhere_it_goes_on_from_another_machine(tmp_path: Path, errors: tuple[int, int]) -> None:
    points: list[str] = []
    whole, _ = pair(tmp_path / "whole", MemoryPlace(), errors=errors, rate=400)
    whole.begin()
    wanted = to_the_end(whole.runner(points.append))
    chosen = [n for n, point in enumerate(points) if "object tick" not in point or n % 8 == 0]
    assert len(chosen) >= 20
    for number in chosen if errors != (0, 0) else chosen[::3]:  # a promotion has three times as many
        first, second = pair(tmp_path / str(number), MemoryPlace(), errors=errors, rate=400)
        first.begin()
        with pytest.raises(Killed):
            to_the_end(first.runner(killed_at(number)))
        first.site.sleep(7)  # nobody watches, and requests go on
        state = to_the_end(second.runner())
        assert state.outcome is wanted.outcome, points[number]
        entries = second.shared.read(MODEL, ID)
        steps = [to_json(entry.event)["index"] for entry in entries if entry.kind == "step"]
        assert steps == sorted(set(steps)), points[number]
        assert total(first.site) == state.evidence.canary.requests + unread(first.site, state), points[number]
        assert read(second.path) == entries, points[number]


def test_every_answer_may_be_lost_and_no_request_counts_twice(tmp_path: Path) -> None:
    """The object is there, and its writer does not know it: it goes on from what it wrote."""
    place = MemoryPlace()
    first, _ = pair(tmp_path, place, rate=400)
    first.begin()
    runner = first.runner()
    lost = 0
    for turn in range(3000):
        place.loses = int(turn % 3 == 0)
        try:
            if not runner.advance():
                break
        except (PlaceUnreachable, EntryTaken) as error:
            assert may_succeed_later(error)
            lost += isinstance(error, EntryTaken)
            first.site.sleep(1)
    assert runner.state.outcome is Outcome.PROMOTED
    assert lost > 5
    place.loses = 0
    assert first.shared.read(MODEL, ID) == runner.journal.entries == read(first.path)
    assert total(first.site) == runner.state.evidence.canary.requests + unread(first.site, runner.state)
    assert fold(runner.journal.entries) == runner.state


#: Short, so that a process can be replaced at every point of a rollout.
QUICK = POLICY.model_copy(update={"steps": (50, 100), "hold_s": 2, "min_requests": 20})


@pytest.mark.parametrize("command", [Command.RESUME, Command.ABORT])
@pytest.mark.parametrize("errors", [(0, 0), (50, 1)])
def test_a_process_that_was_replaced_changes_nothing(tmp_path: Path, errors: tuple[int, int], command: Command) -> None:
    """It is stopped at every point, also inside of effects; another machine goes on to the end; then it wakes up.

    Nodes know no lease: of a call to them that it was about to make, it makes this one, and weights stay as they are.
    """
    started = replace(STARTED, policy=QUICK, policy_digest=QUICK.digest)
    points: list[str] = []
    whole, _ = pair(tmp_path / "whole", MemoryPlace(), errors=errors, policy=QUICK)
    whole.begin(started)
    wanted = to_the_end(whole.runner(points.append))
    assert any(point == f"before {Effect.SET_WEIGHT}" for point in points)
    for number, point in enumerate(points[:-1]):  # behind the last one nothing is left to do
        first, second = pair(tmp_path / str(number), MemoryPlace(), errors=errors, policy=QUICK)
        first.begin(started)
        site, before = first.site, killed_at(number)
        left: list[tuple[int, dict[str, int]]] = []

        def asleep(point: str) -> None:
            try:
                before(point)  # noqa: B023 - called within this turn of the loop
            except Killed:
                if not left:  # noqa: B023
                    first.lost = TakenOver("the rollout of m", "ann@second")  # noqa: B023
                    site.commands = [(command, "bob@desk")]  # noqa: B023
                    to_the_end(second.runner())  # noqa: B023
                    left.append((len(site.did), dict(site.weights)))  # noqa: B023

        with pytest.raises(TakenOver, match="ann@second took over"):
            to_the_end(first.runner(asleep))
        [(did, shares)] = left
        late = [effect for effect, _ in site.did[did:]]
        is_at_node = point.startswith("before ") and point.removeprefix("before ") in set(Effect) - set(AT_GATEWAY)
        assert late == ([point.removeprefix("before ")] if is_at_node else []), point
        assert site.weights == shares, point
        state = second.runner().state
        assert state.outcome in (wanted.outcome, Outcome.ABORTED), point
        assert shares[state.canary if state.outcome is Outcome.PROMOTED else state.stable] == TOTAL, point
        assert second.shared.read(MODEL, ID) == read(second.path), point


def test_a_late_entry_of_the_process_before_is_read_and_not_written_over(tmp_path: Path, place: MemoryPlace) -> None:
    first, second = pair(tmp_path, place)
    first.begin()
    behind, ahead = second.journal(), first.journal()
    ahead.append(STARTED)  # any entry
    with pytest.raises(EntryTaken, match="by ann@first"):
        behind.append(STARTED)
    assert [entry.seq for entry in behind.entries] == [0, 1]
    assert behind.append(STARTED).seq == 2
    assert read(behind.path) == behind.entries == second.shared.read(MODEL, ID)


def test_an_entry_about_hundreds_of_pods_reaches_the_other_machine(tmp_path: Path, place: MemoryPlace) -> None:
    first, second = pair(tmp_path, place)
    started = replace(STARTED, cursor={f"kind|1.0|pod-{number:05}|label": number for number in range(40_000)})
    first.begin(started)
    assert (
        len(place.content[numbered(entries_at(MODEL, ID), 0)])
        < LARGEST
        < len(object_of(Entry(0, 0, started), holder("a")))
    )
    assert second.journal().entries[0].event == started
    lost = first.journal()
    place.loses = 3  # of the two parts and of the entry
    with pytest.raises(PlaceUnreachable):
        lost.append(started)
    place.loses = 0
    assert lost.append(started).seq == 1
    assert second.journal().entries[1].event == started


def test_two_operators_that_begin_at_once_make_one_rollout(tmp_path: Path, place: MemoryPlace) -> None:
    first, second = pair(tmp_path, place)
    assert first.shared.ids(MODEL) == second.shared.ids(MODEL) == []
    first.shared.begin(MODEL, ID)
    first.shared.begin(MODEL, ID)  # as after an answer that was lost
    second.shared._ids.clear()
    place.content[f"begun/{MODEL}/000002.json"] = json.dumps({"id": "another"}).encode()
    with pytest.raises(ConflictError, match="another machine began the rollout another"):
        SharedBehind(place).begin(MODEL, "mine")


class SharedBehind(SharedJournals):
    """Has listed the rollouts a moment too early."""

    def ids(self, model: str) -> list[str]:
        return super().ids(model)[:-1]


def test_no_effect_while_the_place_is_away(tmp_path: Path, place: MemoryPlace) -> None:
    first, _ = pair(tmp_path, place, errors=(50, 1))
    first.begin()
    runner = first.runner()
    to_the_end(runner, lambda runner: runner.state.weight == POLICY.weights[0] and bool(weights(first.site)))
    did = list(first.site.did)
    place.is_away = True
    for _ in range(30):  # the canary fails meanwhile, and nobody knows whether another machine goes on
        with pytest.raises(PlaceUnreachable):
            runner.advance()
        first.site.sleep(1)
    assert first.site.did == did
    place.is_away = False
    assert to_the_end(runner).outcome is Outcome.ROLLED_BACK
    assert total(first.site) == runner.state.evidence.canary.requests + unread(first.site, runner.state)


def test_a_copy_without_room_is_written_later(tmp_path: Path, place: MemoryPlace) -> None:
    first, second = pair(tmp_path, place)
    first.begin()
    journal = first.journal()
    first.path.unlink()
    first.path.mkdir()  # nothing can be written there
    journal.append(STARTED)
    first.path.rmdir()
    journal.append(STARTED)
    assert read(first.path) == journal.entries == second.journal().entries


@pytest.mark.parametrize("content", [b"garbage\n", b'{"seq": 0}\n', b""])
def test_a_damaged_copy_is_fetched_again(tmp_path: Path, place: MemoryPlace, content: bytes) -> None:
    first, _ = pair(tmp_path, place)
    first.begin()
    to_the_end(first.runner())
    whole = first.path.read_bytes()
    first.path.write_bytes(content)
    first.shared.pull(MODEL, first.folder)
    assert first.path.read_bytes() == whole
    first.path.write_bytes(whole + b'{"half')
    first.shared.pull(MODEL, first.folder)
    assert first.path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"{}", b"none", b'{"seq": 3, "writer": {}}'])
def test_a_damaged_object_is_named(tmp_path: Path, place: MemoryPlace, content: bytes) -> None:
    first, second = pair(tmp_path, place)
    first.begin()
    place.content[numbered(entries_at(MODEL, ID), 1)] = content
    with pytest.raises(DamagedJournal, match=f"rollouts/{MODEL}/{ID}/000001.json"):
        second.journal()


def test_an_object_of_a_later_version_is_said_so(tmp_path: Path, place: MemoryPlace) -> None:
    _, second = pair(tmp_path, place)
    second.shared.begin(MODEL, ID)
    content = json.loads(object_of(Entry(0, 1.0, STARTED), holder("x"))) | {"version": 99}
    place.content[numbered(entries_at(MODEL, ID), 0)] = json.dumps(content).encode()
    with pytest.raises(LaterJournal):
        second.journal()


def test_a_journal_of_before_goes_on_at_the_place(tmp_path: Path, place: MemoryPlace) -> None:
    first, second = pair(tmp_path, place)
    local = Journal(first.path, lambda: first.site.now)
    local.append(STARTED)
    local.append(STARTED)
    first.shared.restore(MODEL, ID, local.entries, holder("first"))
    first.shared.restore(MODEL, ID, local.entries, holder("first"))
    assert second.journal().entries == local.entries
    assert first.shared.ids(MODEL) == [ID]


def test_what_the_place_forgot_is_written_again_from_a_copy(tmp_path: Path, place: MemoryPlace) -> None:
    """A Redis that was killed may have lost its last second."""
    first, second = pair(tmp_path, place)
    first.begin()
    journal = first.journal()
    for _ in range(4):
        journal.append(STARTED)
    for number in (3, 4):
        place.delete(numbered(entries_at(MODEL, ID), number))
    first.shared.restore(MODEL, ID, read(first.path), holder("first"))
    assert second.journal().entries == journal.entries


def test_a_copy_of_what_the_place_forgot_gives_way_to_what_was_decided_since(
    tmp_path: Path, place: MemoryPlace
) -> None:
    """The place lost its end, another machine went on from there, and the first one comes back with its copy."""
    first, second = pair(tmp_path, place)
    first.begin()
    journal = first.journal()
    for _ in range(5):
        journal.append(STARTED)
    for number in (3, 4, 5):
        place.delete(numbered(entries_at(MODEL, ID), number))
    first.site.now += 9
    for added in (1, 2, 3, 4):
        second.journal().append(STARTED)
        first.shared.restore(MODEL, ID, read(first.path), holder("first"))
        first.shared.pull(MODEL, first.folder)
        assert read(first.path) == read(second.path) == first.shared.read(MODEL, ID)
        assert len(read(first.path)) == 3 + added


def test_only_the_last_rollout_of_many_is_asked_for(tmp_path: Path, place: MemoryPlace) -> None:
    first, second = pair(tmp_path, place)
    first.begin()
    to_the_end(first.runner())
    first.shared.begin(MODEL, "20260102T000000Z-3.0")
    second.shared.pull(MODEL, second.folder)
    asked: list[str] = []
    answer = place.read
    place.read = lambda name: asked.append(name) or answer(name)  # type: ignore[method-assign, func-returns-value]
    second.shared.pull(MODEL, second.folder)
    assert asked == [f"rollouts/{MODEL}/20260102T000000Z-3.0/000000.json"]
    assert second.shared.models() == [MODEL]


def test_commands_from_other_machines_are_obeyed_once_and_in_order(place: MemoryPlace) -> None:
    times = iter(range(10))
    sender = SharedCommands(place, MODEL, lambda: next(times))
    runner = SharedCommands(place, MODEL)
    sender.send(Command.PAUSE, "bob@desk")
    sender.send(Command.ABORT, "ann@desk")
    wanted = [(Command.PAUSE, "bob@desk"), (Command.ABORT, "ann@desk")]
    assert runner.take() == runner.take() == wanted
    sender.send(Command.RESUME, "x")
    runner.acknowledge()
    assert runner.take() == [(Command.RESUME, "x")]
    place.content["asked/m/9.json"] = b"garbage"
    runner.acknowledge()
    assert runner.take() == []
    assert place.names("asked/") == []
    assert SharedCommands(place, "other").take() == []


def test_a_command_that_cannot_be_removed_is_not_obeyed_again(place: MemoryPlace) -> None:
    commands = SharedCommands(place, MODEL)
    commands.send(Command.PAUSE, "x")
    assert len(commands.take()) == 1

    def away(name: str) -> None:
        raise PlaceUnreachable("away")

    remove, place.delete = place.delete, away  # type: ignore[method-assign]
    with pytest.raises(PlaceUnreachable):
        commands.acknowledge()
    assert commands.take() == []
    place.delete = remove  # type: ignore[method-assign]
    commands.acknowledge()
    assert place.names("asked/") == []


def test_the_address_is_read_though_the_rest_of_the_file_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path)
    assert control_address(project) is None
    for text, address in (
        ("nodes: {}\nnonsense: 1\ncontrol: /mnt/a\n", "/mnt/a"),
        ("nodes: [\ncontrol: /mnt/a  # shared\n", "/mnt/a"),
        ("nodes: [\n'control': \"redis://h:1/0\"\n", "redis://h:1/0"),
        ("nodes: {}\n", None),
        ("nodes: [\n  control: /mnt/a\n", None),
        ("control: redis://:${SECRET}@h:1/0\n", "redis://:p@h:1/0"),
        ("control:\n", None),
    ):
        monkeypatch.setenv("SECRET", "p")
        project.deployment.write_text(text)
        assert control_address(project) == address, text
    monkeypatch.delenv("SECRET")
    project.deployment.write_text("control: redis://:${SECRET}@h:1/0\n")
    with pytest.raises(SpecError, match="the variable SECRET is not set"):
        control_address(project)
    for wrong in ("7", '""', "[/mnt/a]"):  # to go on without the place would let two machines decide
        project.deployment.write_text(f"nonsense: 1\ncontrol: {wrong}\n")
        with pytest.raises(SpecError, match="must be an address"):
            control_address(project)
    project.deployment.unlink()
    project.deployment.mkdir()
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        control_address(project)


@pytest.mark.parametrize("address", ["redis://[", "s3://[", "nosuch://[", "nosuch://u:secret@h", "", "a/b", "s3://"])
def test_an_address_that_is_none_is_an_error_without_a_password(address: str) -> None:
    with pytest.raises(PlaceUnusable, match=r"^control: ") as caught:
        open_place(address)
    assert "secret" not in caught.value.message and caught.value.hint


def test_an_error_that_is_for_good_ends_a_rollout() -> None:
    assert not may_succeed_later(TakenOver("the rollout", "ann@second"))
    assert may_succeed_later(PlaceUnreachable("away"))

"""Leases: taken, kept, silent, over, released; clocks that differ, a process that sleeps, and a place that is away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.memory_place import MemoryPlace
from tsctl.control.lease import TTL_S, DamagedLease, Holder, Process, Standing, TakenOver
from tsctl.control.leases import KEPT_SIGNS, Lease, Leases, process_of, this_process
from tsctl.control.place import PlaceUnreachable, numbers
from tsctl.errors import ConflictError

SUBJECT = "rollout-digits"


@dataclass
class Machine:
    """A machine with clocks of its own, that looks at a place."""

    name: str
    place: MemoryPlace
    epoch: float = 1_000_000.0
    passed: float = 0.0
    process: Process = Process.UNKNOWN
    meanwhile: Callable[[], None] = lambda: None
    leases: Leases = field(init=False)

    def __post_init__(self) -> None:
        holder = Holder(f"ann@{self.name}", self.name, 7, 1, self.name)
        self.leases = Leases(
            self.place, holder, lambda: self.passed, lambda: self.epoch + self.passed, self.sleep,
            process_of=lambda holder: self.process,
        )  # fmt: skip

    def sleep(self, seconds: float) -> None:
        self.passed += seconds
        self.meanwhile()


@pytest.fixture
def place() -> MemoryPlace:
    return MemoryPlace()


@pytest.fixture
def first(place: MemoryPlace) -> Machine:
    return Machine("first", place)


@pytest.fixture
def second(place: MemoryPlace) -> Machine:
    return Machine("second", place)


def test_a_lease_is_taken_kept_and_released(place: MemoryPlace, first: Machine, second: Machine) -> None:
    lease = first.leases.take(SUBJECT)
    lease.require()
    with lease.kept(3600) as require:
        require()
        assert second.leases.is_held(SUBJECT)
    assert not second.leases.is_held(SUBJECT)
    taken = second.leases.take(SUBJECT)
    assert (taken.term.number, second.passed) == (2, 0.0)
    with pytest.raises(TakenOver, match="ann@second"):
        lease.require()
    assert second.leases.subjects() == [SUBJECT]


def test_a_silent_holder_is_waited_for_and_its_term_ends(first: Machine, second: Machine) -> None:
    lease = first.leases.take(SUBJECT)
    said: list[str] = []
    taken = second.leases.take(SUBJECT, said.append)
    assert second.passed == pytest.approx(TTL_S, abs=1)
    assert said[0] == "ann@first (process 7) holds rollout-digits and is silent; its term is over in 20 s"
    assert taken.term.number == 2
    with pytest.raises(TakenOver):
        lease.give_sign()


def test_whether_a_silent_holder_is_dead_shows_with_patience(first: Machine, second: Machine) -> None:
    first.leases.take(SUBJECT)
    assert second.leases.is_held(SUBJECT)
    assert second.passed == 0
    said: list[str] = []
    assert not second.leases.is_held(SUBJECT, said.append)
    assert second.passed == pytest.approx(TTL_S, abs=1)
    assert len(said) > 10
    second.leases.take(SUBJECT, said.append)  # it has waited already
    assert second.passed == pytest.approx(TTL_S, abs=1)


def test_a_holder_that_gives_signs_keeps_its_lease(first: Machine, second: Machine) -> None:
    lease = first.leases.take(SUBJECT)
    second.meanwhile = lambda: lease.give_sign() if second.passed % 5 == 0 else None
    with pytest.raises(ConflictError, match="held by ann@first"):
        second.leases.take(SUBJECT)
    assert second.passed < TTL_S
    lease.require()


@given(skew=st.floats(-1e9, 1e9))
def test_no_clock_of_a_holder_ends_its_term_or_prolongs_it(skew: float) -> None:
    place = MemoryPlace()
    first, second = Machine("first", place, epoch=1e9 + skew), Machine("second", place, epoch=1e9)
    first.leases.take(SUBJECT).give_sign()
    second.leases.take(SUBJECT)
    assert second.passed == pytest.approx(TTL_S, abs=1)


def test_silence_while_the_place_is_away_says_nothing(place: MemoryPlace, first: Machine, second: Machine) -> None:
    lease = first.leases.take(SUBJECT)
    assert second.leases.look(SUBJECT)[1] is Standing.SILENT
    place.is_away = True
    second.passed += 10 * TTL_S
    with pytest.raises(PlaceUnreachable):
        second.leases.look(SUBJECT)
    place.is_away = False
    assert second.leases.look(SUBJECT)[1] is Standing.SILENT
    lease.give_sign()
    assert second.leases.look(SUBJECT)[1] is Standing.HELD


def test_a_process_that_is_gone_from_this_machine_is_not_waited_for(first: Machine, second: Machine) -> None:
    first.leases.take(SUBJECT)
    second.process = Process.GONE
    second.leases.take(SUBJECT)
    assert second.passed == 0


def test_a_process_that_runs_on_this_machine_holds_at_once(first: Machine, second: Machine) -> None:
    first.leases.take(SUBJECT)
    second.process = Process.RUNS
    assert second.leases.is_held(SUBJECT, print)
    with pytest.raises(ConflictError):
        second.leases.take(SUBJECT)
    assert second.passed == 0


def test_a_lease_can_be_taken_from_a_living_holder(first: Machine, second: Machine) -> None:
    lease = first.leases.take(SUBJECT)
    lease.give_sign()
    second.process = Process.RUNS
    second.leases.take(SUBJECT, force=True)
    with pytest.raises(TakenOver):
        lease.require()


def test_of_many_that_take_a_lease_one_has_it(place: MemoryPlace) -> None:
    machines = [Machine(f"m{number}", place) for number in range(8)]
    barrier, won, lost = threading.Barrier(8), [], []

    def take(machine: Machine) -> None:
        machine.leases.look(SUBJECT)
        barrier.wait()
        try:
            won.append(machine.leases.take(SUBJECT))
        except ConflictError:
            lost.append(machine)

    machines[0].leases.take("other")
    for machine in machines:
        machine.process = Process.RUNS
    threads = [threading.Thread(target=take, args=(machine,)) for machine in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    won[0].require()


def test_a_term_whose_answer_was_lost_is_found_to_be_ours(place: MemoryPlace, first: Machine) -> None:
    place.loses = 1
    with pytest.raises(PlaceUnreachable):
        first.leases.take(SUBJECT)
    first.process = Process.RUNS  # it is this process
    assert first.leases.take(SUBJECT).term.holder == first.leases.holder


def test_signs_are_tidied_and_terms_stay(place: MemoryPlace, first: Machine, second: Machine) -> None:
    lease = first.leases.take(SUBJECT)
    for _ in range(50):
        lease.give_sign()
    assert len(numbers(place, f"lease/{SUBJECT}/000001")) == KEPT_SIGNS
    second.leases.take(SUBJECT)
    assert numbers(place, f"lease/{SUBJECT}/000001") == []
    assert numbers(place, f"lease/{SUBJECT}") == [1, 2]


def test_a_sign_whose_answer_was_lost_does_not_stop_the_signs(place: MemoryPlace, first: Machine) -> None:
    lease = first.leases.take(SUBJECT)
    place.loses = 1
    with pytest.raises(PlaceUnreachable):
        lease.give_sign()
    lease.give_sign()
    term = first.leases.last(SUBJECT)
    assert term is not None and term.signs == 2


def test_the_lease_is_released_though_the_place_was_away(place: MemoryPlace, first: Machine, second: Machine) -> None:
    with first.leases.take(SUBJECT).kept(0.01):
        place.is_away = True
    place.is_away = False
    second.leases.take(SUBJECT)
    assert second.passed == pytest.approx(TTL_S, abs=1)


def test_a_damaged_lease_is_said_so(place: MemoryPlace, first: Machine) -> None:
    place.content[f"lease/{SUBJECT}/000001.json"] = b"{}"
    with pytest.raises(DamagedLease, match="term 1"):
        first.leases.take(SUBJECT)


def test_this_process_runs_and_others_are_known_by_machine() -> None:
    mine = this_process()
    assert process_of(mine) is Process.RUNS
    assert process_of(replace(mine, started_ticks=mine.started_ticks + 1)) is Process.GONE
    assert process_of(replace(mine, machine="elsewhere")) is Process.UNKNOWN


def test_a_lease_knows_for_good_that_it_is_lost(place: MemoryPlace, first: Machine, second: Machine) -> None:
    lease: Lease = first.leases.take(SUBJECT)
    second.process = Process.GONE
    second.leases.take(SUBJECT)
    for _ in range(2):
        with pytest.raises(TakenOver):
            lease.require()
        place.is_away = True  # it need not ask again


@pytest.mark.parametrize("name", ["lease/rollout-digits/000002.json", "lease/rollout-digits/000002/000001.json"])
def test_a_lease_whose_term_is_damaged_can_be_taken_and_its_holder_stops(
    place: MemoryPlace, first: Machine, second: Machine, name: str
) -> None:
    first.leases.take(SUBJECT).give_sign(is_last=True)
    held = first.leases.take(SUBJECT)
    held.give_sign()
    place.content[name] = b"cut sh"
    for ask in (second.leases.take, second.leases.is_held):
        with pytest.raises(DamagedLease, match="term 2, cannot be read") as damaged:
            ask(SUBJECT)
        assert f"tsctl control take {SUBJECT}" in damaged.value.hint
    taken = second.leases.take(SUBJECT, force=True)
    assert taken.term.number == 3
    with pytest.raises(TakenOver, match="ann@second"):
        held.require()
    taken.give_sign(is_last=True)
    assert not second.leases.is_held(SUBJECT)
    assert second.leases.take(SUBJECT).term.number == 4


def test_a_next_term_that_is_damaged_ends_the_one_before(place: MemoryPlace, first: Machine) -> None:
    lease = first.leases.take(SUBJECT)
    place.content["lease/rollout-digits/000002.json"] = b"{}"
    for _ in range(2):
        with pytest.raises(TakenOver, match="another process, whose object is damaged"):
            lease.require()

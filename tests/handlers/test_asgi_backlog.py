"""What waits for a worker: bounded, in order, without those who are late or gone, and each request once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from handlers.adapters.asgi.backlog import Backlog, Waiting, share
from handlers.adapters.asgi.frames import Answer, Item

MOST = 5


def waiting(arrived: float, expires: float, length: int = 0) -> Waiting:
    def answer(given: Answer) -> None:
        raise AssertionError("the backlog answers nothing")

    return Waiting(Item([], bytes(length), "id"), arrived, expires, answer)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 6)),  # may wait so many seconds
        st.tuples(st.just("leave"), st.integers(0, 20)),  # which request, of all that ever came
        st.tuples(st.just("take"), st.integers(1, 4)),
    ),
    max_size=40,
)


@given(steps, st.integers(1, 4))
def test_each_request_leaves_once_and_no_more_than_the_bound_wait(
    steps: list[tuple[str, int]], most_in_round: int
) -> None:
    backlog = Backlog(MOST)
    backlog.most_in_round = most_in_round
    came: list[Waiting] = []
    gone: list[Waiting] = []
    taken: list[Waiting] = []
    late: list[Waiting] = []
    for now, (step, number) in enumerate(steps):
        before = len(backlog)
        if step == "add":
            request = waiting(now, now + number, number)
            is_in = backlog.add(request)
            assert is_in == (before < MOST)
            came += [request] if is_in else []
        elif step == "leave" and number < len(came):
            request = came[number]
            backlog.leave(request)
            if request not in taken + late + gone:
                gone.append(request)
                assert len(backlog) == before - 1
        elif step == "take":
            batch, expired = backlog.take(number, now)
            assert len(batch) <= number
            assert all(request.expires > now for request in batch)
            assert all(request.expires <= now for request in expired)
            taken += batch
            late += expired
        assert len(backlog) == len(came) - len(taken) - len(late) - len(gone)
    batch, expired = backlog.take(MOST, len(steps))
    left = taken + late + batch + expired
    assert len(left) == len(set(map(id, left)))
    assert {id(request) for request in left} == {id(request) for request in came} - {id(request) for request in gone}
    if most_in_round == 1:
        assert taken + batch == [request for request in came if request in taken + batch], "in order of arrival"


def test_a_round_is_ordered_by_length_and_the_next_one_goes_on_where_it_ended() -> None:
    backlog = Backlog(100)
    backlog.most_in_round = 8
    for length in (5, 1, 7, 3, 8, 2, 6, 4, 13, 11, 14, 12):
        backlog.add(waiting(0, 10, length))
    assert lengths_of(backlog, 3) == [1, 2, 3]
    backlog.add(waiting(0, 10, 1))  # of a later round, although it is short
    assert lengths_of(backlog, 3) == [4, 5, 6]
    assert lengths_of(backlog, 3) == [7, 8, 14], "the second round begins with its longest"
    assert lengths_of(backlog, 9) == [13, 12, 11, 1]


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 8), st.integers(1, 4))
def test_no_request_is_overtaken_by_more_than_a_round(lengths: list[int], most_in_round: int, size: int) -> None:
    backlog = Backlog(100)
    backlog.most_in_round = most_in_round
    came = [waiting(number, 100, length) for number, length in enumerate(lengths)]
    for request in came:
        backlog.add(request)
    taken: list[Waiting] = []
    while len(backlog):
        taken += backlog.take(size, 0)[0]
    assert len(taken) == len(came)
    for place, request in enumerate(taken):
        assert place - came.index(request) < most_in_round


def lengths_of(backlog: Backlog, most: int) -> list[int]:
    return [len(request.item.body) for request in backlog.take(most, 0)[0]]


@given(st.integers(1, 1000), st.integers(1, 8), st.integers(1, 64))
def test_idle_workers_share_what_waits_and_leave_nothing_that_fits(waiting: int, idle: int, batch: int) -> None:
    left, sizes = waiting, []
    for workers in range(idle, 0, -1):
        sizes.append(share(left, workers, batch) if left else 0)
        left -= sizes[-1]
    assert left == max(0, waiting - idle * batch)
    assert max(sizes) - min(sizes) <= 1

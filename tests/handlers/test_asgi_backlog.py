"""What waits for a worker: bounded, in order, without those who are late or gone, and each request once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from handlers.adapters.asgi.backlog import Backlog, Waiting, share
from handlers.adapters.asgi.frames import Answer, Item

MOST = 5


def waiting(arrived: float, expires: float) -> Waiting:
    def answer(given: Answer) -> None:
        raise AssertionError("the backlog answers nothing")

    return Waiting(Item([], b"", "id"), arrived, expires, answer)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 6)),  # may wait so many seconds
        st.tuples(st.just("leave"), st.integers(0, 20)),  # which request, of all that ever came
        st.tuples(st.just("take"), st.integers(1, 4)),
    ),
    max_size=40,
)


@given(steps)
def test_each_request_leaves_once_in_order_and_no_more_than_the_bound_wait(steps: list[tuple[str, int]]) -> None:
    backlog = Backlog(MOST)
    came: list[Waiting] = []
    gone: list[Waiting] = []
    taken: list[Waiting] = []
    late: list[Waiting] = []
    for now, (step, number) in enumerate(steps):
        before = len(backlog)
        if step == "add":
            request = waiting(now, now + number)
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
    assert taken + batch == [request for request in came if request in taken + batch], "in order of arrival"


@given(st.integers(1, 1000), st.integers(1, 8), st.integers(1, 64))
def test_idle_workers_share_what_waits_and_leave_nothing_that_fits(waiting: int, idle: int, batch: int) -> None:
    left, sizes = waiting, []
    for workers in range(idle, 0, -1):
        sizes.append(share(left, workers, batch) if left else 0)
        left -= sizes[-1]
    assert left == max(0, waiting - idle * batch)
    assert max(sizes) - min(sizes) <= 1

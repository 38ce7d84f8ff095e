"""Users of a game day: each sends one of scikit-learn's digits, looks at the answer for a while, and sends another."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from benchmarks.harness.client import Address, Answer, Connection, Load, asking

CONNECTIONS = 12
#: Mean seconds between an answer and the next request, so long that the load takes no whole core.
PAUSE_S = 0.025
SEED = 20_261_125


def digit_bodies() -> list[bytes]:
    """A request for each of scikit-learn's 1,797 digits, of which every class is about a tenth."""
    from sklearn.datasets import load_digits

    images, _ = load_digits(return_X_y=True)
    return [json.dumps({"pixels": image.reshape(8, 8).astype(int).tolist()}).encode() for image in images]


@contextmanager
def users(
    address: Address,
    bodies: Sequence[bytes],
    name: str,
    connections: int = CONNECTIONS,
    pause_s: float = PAUSE_S,
    connect: Callable[[Address], Connection] = Connection,
) -> Iterator[Load]:
    """So many users send requests while the block runs; all are answered when it ends.

    Args:
        connect: reads the answers.
        name: begins the ids of the requests, which are in `Answer.user` and end with the number of the body.
    """
    load, stop = Load(), threading.Event()

    def ask(number: int) -> None:
        chance = random.Random(f"{SEED} {name} {number}")  # noqa: S311 - which digit comes next is no secret
        connection, turn = connect(address), 0
        while not stop.is_set():
            chosen = chance.randrange(len(bodies))
            request = f"{name}-{number}-{turn}-{chosen}"
            load.answers.append(connection.ask(bodies[chosen], {"x-request-id": request}, request))
            turn += 1
            time.sleep(chance.expovariate(1 / pause_s))
        connection.close()

    with asking(ask, connections, stop):
        yield load


def digit_of(answer: Answer) -> str:
    """The number of the digit that was sent."""
    return answer.user.rpartition("-")[2]

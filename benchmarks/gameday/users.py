"""Users of a game day: they send scikit-learn's digits, wait for the answer, look at it a while, and send another."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.harness.client import Address, Answer, Connection, Load, asking

CONNECTIONS = 12
#: What a user does between an answer and the next request, on average; long enough that the load takes no core whole.
PAUSE_S = 0.025
SEED = 20_261_125


def digit_bodies() -> list[bytes]:
    """A request for each of scikit-learn's 1,797 digits, of which every class is about a tenth."""
    from sklearn.datasets import load_digits

    images, _ = load_digits(return_X_y=True)
    return [json.dumps({"pixels": image.reshape(8, 8).astype(int).tolist()}).encode() for image in images]


@contextmanager
def users(address: Address, bodies: Sequence[bytes], name: str) -> Iterator[Load]:
    """Requests of CONNECTIONS users while the block runs; all have their answers when it ends.

    Args:
        name: begins the ids of the requests, which are in `Answer.user` and end with the number of the body.
    """
    load, stop = Load(), threading.Event()

    def ask(number: int) -> None:
        chance = random.Random(f"{SEED} {name} {number}")  # noqa: S311 - which digit comes next is no secret
        connection, turn = Connection(address), 0
        while not stop.is_set():
            chosen = chance.randrange(len(bodies))
            request = f"{name}-{number}-{turn}-{chosen}"
            load.answers.append(connection.ask(bodies[chosen], {"x-request-id": request}, request))
            turn += 1
            time.sleep(chance.expovariate(1 / PAUSE_S))
        connection.close()

    with asking(ask, CONNECTIONS, stop):
        yield load


def picture_of(answer: Answer) -> str:
    """The number of the digit that was asked for."""
    return answer.user.rpartition("-")[2]

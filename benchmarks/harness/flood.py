"""Many requests without a key, from a client that reads nothing but their statuses."""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Iterable

#: Seconds until an answer comes.
ANSWER_S = 30.0
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def flood(place: tuple[str, int], paths: Iterable[str]) -> Counter[int]:
    """Ask for each path without a key, one after the other on one connection; the answers by their status.

    Raises:
        OSError: the connection was closed before all answers came.
    """
    answers: Counter[int] = Counter()
    with socket.create_connection(place, timeout=ANSWER_S) as connection:
        for path in paths:
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
            found = _STATUS.match(connection.recv(1 << 16))  # an answer of the gateway itself comes in one piece
            if found is None:
                raise ConnectionError(f"closed after {answers.total()} answers")
            answers[int(found[1])] += 1
    return answers

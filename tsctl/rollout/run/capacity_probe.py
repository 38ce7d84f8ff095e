"""Measures how long a worker takes for a full batch: all requests sent at once, and the time to the last answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from tsctl.errors import NodeError
from tsctl.nodes.node import Unreachable
from tsctl.nodes.observed import Reply

#: Full batches, one after the other: a small load, and enough for a median.
BATCHES = 7
TIMEOUT_S = 60.0


def batch_seconds(
    url: str, headers: Mapping[str, str], bodies: Sequence[bytes], unwrap: Callable[[Reply], Reply]
) -> list[float]:
    """Seconds that each of BATCHES full batches took.

    Args:
        bodies: one request each; together a full batch.
        unwrap: takes the worker's answer out of the server's, as the node does.

    Raises:
        Unreachable: nothing answers any more, so that the node is unavailable.
        NodeError: an answer is not 200, or does not come in time.
    """
    parts = urlsplit(url)
    try:
        with ExitStack() as stack:
            connections = [
                stack.enter_context(closing(HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)))
                for _ in bodies
            ]
            for connection in connections:
                connection.connect()
            return [_once(connections, parts.path, headers, bodies, unwrap) for _ in range(BATCHES)]
    except ConnectionError as error:  # a worker that dies is answered with a status; this is the node itself
        raise Unreachable(f"{url} does not answer any more: {error}") from None
    except (OSError, HTTPException) as error:
        raise NodeError(f"{url} does not answer a full batch of {len(bodies)}: {error}") from None


def _once(
    connections: Sequence[HTTPConnection],
    path: str,
    headers: Mapping[str, str],
    bodies: Sequence[bytes],
    unwrap: Callable[[Reply], Reply],
) -> float:
    begin = time.perf_counter()
    for connection, body in zip(connections, bodies, strict=True):
        connection.request("POST", path, body, headers)
    for connection in connections:
        answer = connection.getresponse()
        named = {name.lower(): value for name, value in answer.getheaders()}
        reply = unwrap(Reply(answer.status, answer.read(), named))
        if reply.status != 200:
            raise HTTPException(f"answered {reply.status}: {reply.body[:300].decode('utf-8', 'replace')}")
    return time.perf_counter() - begin

"""Latency of lone requests, one after the other over one connection."""

from __future__ import annotations

import http.client
import time
from urllib.parse import urlsplit

from benchmarks.harness.client import ANSWER_S, Address
from tsctl.errors import NodeError


def latencies_ms(address: Address, body: bytes, count: int, pause_s: float = 0.0) -> list[float]:
    """Milliseconds of each request; the connection is opened before the first.

    Raises:
        NodeError: an answer is no 200.
    """
    url = urlsplit(address.url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=ANSWER_S)
    connection.connect()
    latencies = []
    for _ in range(count):
        time.sleep(pause_s)
        begin = time.perf_counter()
        connection.request("POST", url.path, body, dict(address.headers))
        answer = connection.getresponse()
        answer.read()
        latencies.append((time.perf_counter() - begin) * 1000)
        if answer.status != 200:
            raise NodeError(f"{address.url} answered {answer.status}")
    connection.close()
    return latencies

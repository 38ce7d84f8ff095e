"""A release behind a response cache: stable has been warm for long, the canary is cold, and both are alike."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.gateways import Front
from tests.support.ports import free_ports
from tests.support.redis_server import redis_server
from tests.support.releases import ROUTE, releasing, state_of, weights
from tsctl.config.weights import TOTAL
from tsctl.gateway.headers import KEY_HEADER

#: Inputs that come again and again, and the share of requests with one that never came before.
KNOWN, NEW = 200, 0.05
CLIENTS = 3
#: One worker computes so many requests per second at most; the clients send several times as many.
SETTINGS = {"inference_s": 0.04}
POLICY: dict[str, Any] = {
    "signals": ["errors", "slow"], "hold_s": 5, "max_utilisation": 0.8, "at_max_hold": "rollback",
}  # fmt: skip


@contextmanager
def asking(front: Front) -> Iterator[Counter[str]]:
    """Clients whose requests repeat; yields what the cache did for how many of their answers."""
    said, is_over, new = Counter[str](), threading.Event(), itertools.count(KNOWN)

    def ask(seed: int) -> None:
        chance, session = random.Random(seed), requests.Session()  # noqa: S311 - a seeded load
        session.headers.update({KEY_HEADER: front.key, "content-type": "application/json"})
        while not is_over.is_set():
            x = next(new) if chance.random() < NEW else chance.randrange(KNOWN)
            answer = session.post(front.base + ROUTE, data=b'{"x": %d}' % x, timeout=30)
            said[answer.headers.get("x-cache", str(answer.status_code))] += 1

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield said
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("is_shared", [False, True], ids=["alone", "shared"])
def test_an_identical_version_with_a_cold_cache_is_promoted(tmp_path: Path, is_shared: bool) -> None:
    with ExitStack() as stack:
        cache: dict[str, Any] = {"max_mb": 1.0, "ttl_s": 600.0, "check": 0.0}
        if is_shared:
            [port] = free_ports(1)
            stack.enter_context(redis_server(tmp_path / "redis", port))
            cache["shared"] = f"redis://127.0.0.1:{port}/0"
        front = stack.enter_context(
            releasing(tmp_path, {"1.0": SETTINGS, "2.0": SETTINGS}, archive={"cache": cache}, **POLICY)
        )
        with asking(front) as said:
            for x in range(KNOWN):
                assert front.ask(ROUTE, b'{"x": %d}' % x).status_code == 200
            said.clear()
            front.site.run("rollout", "start", "tiny", "2.0", status=0)
        assert weights(front) == {"2.0": TOTAL}
        assert said.keys() == {"hit", "miss"}
        evidence = state_of(front).evidence
        assert evidence.stable.cached > 0.9 * evidence.stable.requests, "stable was warm"
        assert 0 < evidence.canary.cached < evidence.canary.requests

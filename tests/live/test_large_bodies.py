"""What waits at the nodes is bounded in bytes: a body without a place is 503, and small bodies go on."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, repeat
from pathlib import Path

import pytest
import requests

from tests.support.gateways import PROBLEM, Front, brought_up, with_gateway
from tests.support.nodes import Asked, Fronted, Reply, ScriptedNode, fronted
from tests.support.sites import QUICK_START, make_site, until, write_tiny
from tsctl.config.deployment import RouteSpec
from tsctl.gateway.envoy.render.bodies import places

MIB = 1 << 20
#: Of each kind of body that needs a place, one may be at the node at a time.
PLACES = places(MIB * 7 // 8, 16 * MIB)
assert set(PLACES.values()) == {1}
SMALL, LENGTHS = 9_999, (10_000, 100_000, 1_000_000, 10_000_000)


class Counting:
    """A node that takes a while for a large body, and knows how many it had at a time."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()
        self.node = ScriptedNode("a", self._answer)
        self.front: Fronted

    def _answer(self, asked: Asked) -> Reply:
        if len(asked.body) <= SMALL:
            return Reply()
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.3)
        with self._lock:
            self.now -= 1
        return Reply()


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counting]:
    made = Counting()
    with fronted(tmp_path_factory.mktemp("bodies"), [made.node], RouteSpec(), waiting_bytes=MIB) as made.front:
        yield made


def chunks(length: int) -> Iterator[bytes]:
    """A body whose length its client does not say."""
    yield from islice(repeat(b"x" * 1000), length // 1000)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_without_a_place_is_503_and_small_ones_go_on(counting: Counting, length: int, is_chunked: bool) -> None:
    counting.most = 0
    with ThreadPoolExecutor(40) as pool:
        large = [
            pool.submit(counting.front.ask, chunks(length) if is_chunked else b"x" * length)  # type: ignore[arg-type]
            for _ in range(6)
        ]
        small = [pool.submit(counting.front.ask, b"x" * SMALL) for _ in range(60)]
        assert {answer.result().status_code for answer in small} == {200}
        answers = [answer.result() for answer in large]
    assert counting.most == 1
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 0 < len(refused) < len(answers)
    for answer in refused:
        assert (answer.status_code, answer.headers["retry-after"], answer.headers["content-type"]) == (
            503,
            "1",
            PROBLEM,
        )


def test_bodies_of_other_lengths_have_other_places(counting: Counting) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda length: counting.front.ask(b"x" * length).status_code, LENGTHS)
    assert set(answers) == {200}


def test_a_client_that_leaves_gives_its_place_back(counting: Counting) -> None:
    for _ in range(3):
        with pytest.raises(requests.Timeout):
            headers = {"content-type": "application/json", "x-api-key": "key-of-the-test"}
            requests.post(f"{counting.front.base}/predictions/digits", b"x" * LENGTHS[0], headers=headers, timeout=0.1)
        until(lambda: counting.front.ask(b"x" * LENGTHS[0]).status_code == 200, 10, "a place")


LARGEST = 15 * MIB
HEAP_MIB = 400


@pytest.fixture
def small_node(tmp_path: Path) -> Iterator[Front]:
    """A node with a heap for fewer than the forty bodies that come at a time."""
    site = make_site(tmp_path / "site")
    write_tiny(site, "tiny", {"1.0": {}}, limits={"request_bytes": 16 * MIB})
    site.deploy({"tiny": {"default": "1.0", "versions": {"1.0": {"workers": 1}}}})
    site.configure(
        vmargs=f"-Dlog4j2.configurationFile=log4j2.xml -XX:+ExitOnOutOfMemoryError {QUICK_START} -Xmx{HEAP_MIB}m"
    )
    with brought_up(site, *with_gateway(site, {"idempotent": False})) as running:
        yield running


def test_forty_bodies_of_15_mib_do_not_end_a_node_with_a_small_heap(small_node: Front) -> None:
    pid = small_node.site.pid
    body = b'{"x": 0.5' + b" " * LARGEST + b"}"
    with ThreadPoolExecutor(48) as pool:
        large = [pool.submit(small_node.ask, "/predictions/tiny", body) for _ in range(40)]
        small = [pool.submit(small_node.ask, "/predictions/tiny") for _ in range(100)]
        answers = [answer.result() for answer in large]
        assert {answer.result().status_code for answer in small} == {200}
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {200, 503}
    assert {answer.headers.get("retry-after") for answer in answers if answer.status_code == 503} == {"1"}
    assert small_node.site.is_running
    assert small_node.site.pid == pid
    until(lambda: small_node.ask("/predictions/tiny", body).status_code == 200, 10, "a large body's answer")

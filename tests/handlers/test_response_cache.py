"""The response cache behind TorchServe's service: what clients see of it, and what the model computes."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from handlers.base import ServingHandler
from handlers.cache import redis as shared_cache
from handlers.errors import DoesNotFit, LoadError
from handlers.schema import Schema
from tests.support.ports import free_ports
from tests.support.redis_server import redis_server
from tests.support.workers import Item, Worker, assert_problem, write_archive_folder

SAMPLES = {"two.json": b'{"number": 2}'}
GOLDEN = {"two.json": {"double": 4.0}}
CACHE = {"max_mb": 1.0, "ttl_s": 60.0, "check": 0.0}


class Doubler(ServingHandler):
    """Doubles numbers, and keeps what it computed."""

    class Request(Schema):
        """A number."""

        number: float

    computed: ClassVar[list[float]] = []
    drift = 0.0

    def load(self) -> None:
        """Nothing to load."""

    def preprocess(self, items: list[Any]) -> torch.Tensor:
        self.computed.extend(item.number for item in items)
        return torch.tensor([item.number for item in items])

    def inference(self, inputs: torch.Tensor) -> torch.Tensor:
        if 13 in inputs:
            raise RuntimeError("unlucky")
        return inputs * 2 + Doubler.drift

    def postprocess(self, outputs: torch.Tensor) -> list[Any]:
        refused = DoesNotFit("number: must not be 7.", [])
        return [refused if double == 14 else {"double": double} for double in outputs.tolist()]


def start(
    folder: Path, handler: ServingHandler | None = None, digests: bytes = b"{}", batch_size: int = 8, **cache: Any
) -> Worker:
    write_archive_folder(folder, SAMPLES, GOLDEN, serving={"cache": {**CACHE, **cache}}, batch_size=batch_size)
    (folder / "MAR-INF" / "DIGESTS.json").write_bytes(digests)
    Doubler.drift = 0.0
    worker = Worker(handler or Doubler(), folder)
    Doubler.computed.clear()
    return worker


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return start(tmp_path / "toy")


def number(value: float, **headers: str) -> Item:
    return Item(json.dumps({"number": value}).encode(), headers={k.replace("_", "-"): v for k, v in headers.items()})


def said(worker: Worker, *items: Item) -> list[tuple[int, str | None]]:
    return [(reply.status, reply.headers.get("x-cache")) for reply in worker.ask(*items)]


def test_a_repeated_request_is_a_hit_with_the_same_bytes(worker: Worker) -> None:
    [first] = worker.ask(number(1))
    [again] = worker.ask(Item(b'{\n"number": 1.0}'))
    assert (first.headers["x-cache"], again.headers["x-cache"]) == ("miss", "hit")
    assert first.body == again.body
    assert first.media_type == again.media_type
    assert again.headers["x-model-version"] == "1.0"
    assert Doubler.computed == [1]


def test_samples_are_computed_and_not_remembered(worker: Worker) -> None:
    assert said(worker, number(2)) == [(200, "miss")]


def test_equal_items_of_one_batch_are_computed_once(worker: Worker) -> None:
    assert said(worker, number(1), number(3), number(1), number(1)) == [
        (200, "miss"), (200, "miss"), (200, "hit"), (200, "hit"),
    ]  # fmt: skip
    assert Doubler.computed == [1, 3]


def test_cache_control_of_the_client_is_honoured(worker: Worker) -> None:
    assert said(worker, number(1, Cache_Control="no-store")) == [(200, "bypass")]
    assert said(worker, number(1)) == [(200, "miss")]  # it was not remembered
    assert said(worker, number(1, Cache_Control="no-store")) == [(200, "bypass")]  # nor is it told
    assert said(worker, number(5, cache_control="no-cache")) == [(200, "bypass")]
    assert said(worker, number(5)) == [(200, "hit")]  # computed anew, and remembered
    assert Doubler.computed == [1, 1, 1, 5]


def test_nothing_but_a_200_is_remembered(worker: Worker) -> None:
    for _ in range(2):
        assert said(worker, number(7)) == [(422, "miss")]
    assert Doubler.computed == [7, 7]
    assert said(worker, Item(b"nonsense")) == [(400, None)]


def test_equal_items_that_fail_each_get_their_own_problem(worker: Worker) -> None:
    first, good, again = worker.ask(number(13), number(1), number(13))
    assert good.json() == {"double": 2.0}
    assert assert_problem(first, 500)["request_id"] == "request-0"
    assert assert_problem(again, 500)["request_id"] == "request-2"


def test_a_wrong_answer_is_found_told_and_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    worker = start(tmp_path / "toy", check=1.0)
    worker.ask(number(1))
    assert said(worker, number(1)) == [(200, "hit")]  # computed again, and found to be right
    Doubler.drift = 0.5
    [reply] = worker.ask(number(1))
    assert (reply.json(), reply.headers["x-cache"]) == ({"double": 2.5}, "miss")
    assert "was wrong" in caplog.text
    assert worker.ask(number(1))[0].json() == {"double": 2.5}
    assert Doubler.computed == [1, 1, 1, 1]


def test_the_known_answer_stands_where_the_model_fails_to_check_it(tmp_path: Path) -> None:
    worker = start(tmp_path / "toy", check=1.0)
    worker.ask(number(1))
    Doubler.drift = float("nan")
    [reply] = worker.ask(number(1))
    assert (reply.status, reply.json(), reply.headers["x-cache"]) == (200, {"double": 2.0}, "hit")


def test_a_handler_whose_answers_differ_each_time_has_no_cache(tmp_path: Path) -> None:
    class Dice(Doubler):
        """Says of itself that it may answer otherwise the next time."""

        is_deterministic = False

    worker = start(tmp_path / "toy", Dice())
    assert said(worker, number(1), number(1)) == [(200, None), (200, None)]
    assert Doubler.computed == [1, 1]


def test_a_request_without_canonical_bytes_refuses_to_load(tmp_path: Path) -> None:
    class Opaque(Doubler):
        """Decodes to something that the cache cannot see into."""

        def decode(self, body: bytes, media_type: str) -> Any:
            parsed = super().decode(body, media_type)
            return type("Opaque", (), {"number": parsed.number})()

    with pytest.raises(LoadError, match="cannot tell requests apart by what decode returns: a Opaque"):
        start(tmp_path / "toy", Opaque())


def test_an_archive_without_digests_refuses_a_cache(tmp_path: Path) -> None:
    folder = write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN, serving={"cache": CACHE})
    with pytest.raises(LoadError, match=r"DIGESTS\.json"):
        Worker(Doubler(), folder)


# ---- the tier that workers share: a real Redis -----------------------------------------------------------------------


def until(ask: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not ask():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine under load may take longer than production allows; these tests are not about time."""
    monkeypatch.setattr(shared_cache, "BUDGET_S", 5.0)


def written(port: int) -> int:
    import redis

    with redis.Redis(port=port) as client:
        size: int = client.dbsize()
        return size


def test_workers_share_their_answers_through_redis(tmp_path: Path, patient: None) -> None:
    [port] = free_ports(1)
    shared = f"redis://127.0.0.1:{port}/0"
    with redis_server(tmp_path / "redis", port):
        first, second = (start(tmp_path / name, shared=shared) for name in ("first", "second"))
        assert said(first, number(1), number(3)) == [(200, "miss"), (200, "miss")]
        until(lambda: written(port) == 2)
        assert said(second, number(3), number(4)) == [(200, "hit"), (200, "miss")]
        assert said(second, number(3)) == [(200, "hit")]
        assert Doubler.computed == [1, 3, 4]
        other = start(tmp_path / "other", shared=shared, digests=b'{"another": "archive"}')
        assert said(other, number(1)) == [(200, "miss")]


def test_a_damaged_value_in_redis_is_a_miss(tmp_path: Path, patient: None) -> None:
    import redis

    [port] = free_ports(1)
    shared = f"redis://127.0.0.1:{port}/0"
    with redis_server(tmp_path / "redis", port), redis.Redis(port=port) as client:
        start(tmp_path / "first", shared=shared).ask(number(1), number(3))
        until(lambda: written(port) == 2)
        one, two = client.keys()
        client.set(one, client.get(two))
        client.set(two, client.get(two)[:-1] + b"9")
        assert client.ttl(two) == -1
        assert said(start(tmp_path / "second", shared=shared), number(1), number(3)) == [(200, "miss")] * 2


def test_answers_in_redis_end_with_their_time(tmp_path: Path, patient: None) -> None:
    import redis

    [port] = free_ports(1)
    with redis_server(tmp_path / "redis", port), redis.Redis(port=port) as client:
        start(tmp_path / "first", shared=f"redis://127.0.0.1:{port}/0").ask(number(1))
        until(lambda: written(port) == 1)
        [key] = client.keys()
        assert key.startswith(shared_cache.PREFIX)
        assert 50_000 < client.pttl(key) <= 60_000


def test_without_redis_every_answer_comes_from_the_model_and_redis_is_found_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shared_cache, "REST_S", 0.2)
    [port] = free_ports(1)
    worker = start(tmp_path / "toy", shared=f"redis://127.0.0.1:{port}/0")
    assert said(worker, number(1)) == [(200, "miss")]
    assert said(worker, number(1)) == [(200, "hit")]  # this worker's own memory needs no Redis
    assert "shared cache is" in caplog.text
    with redis_server(tmp_path / "redis", port):
        values = iter(range(100, 10_000))

        def is_written() -> bool:
            worker.ask(number(next(values)))
            return written(port) > 0

        until(is_written)


def test_a_redis_that_does_not_answer_costs_the_budget_once_and_then_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        held = []
        threading.Thread(target=lambda: held.append(silent.accept()), daemon=True).start()
        outcomes: list[str] = []
        cache = shared_cache.connect(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", b"", 60, outcomes.append)
        assert cache.get([b"k" * 32]) == {}
        for _ in range(100):  # a hundred waits would be a second of budget, and the socket's own timeout one each
            assert cache.get([b"k" * 32]) == {}
        assert outcomes == ["slow"]
        for connection, _ in held:
            connection.close()


class UnknownCommands(socketserver.StreamRequestHandler):
    """Answers every command as Redis answers one that it does not know, with its arguments."""

    def handle(self) -> None:
        while self.rfile.readline():
            self.wfile.write(b"-ERR unknown command 'AUTH', with args beginning with: 'me' 'hunter2' \r\n")


def test_no_part_of_a_password_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), UnknownCommands) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"redis://me:hunter2@127.0.0.1:{server.server_address[1]}/0"
        shared_cache.connect(address, b"", 60, lambda outcome: None).check()
        server.shutdown()
    assert "unknown command 'AUTH'" in caplog.text
    assert "hunter2" not in caplog.text


def test_the_node_may_name_another_redis_than_the_archive(
    tmp_path: Path, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    [port] = free_ports(1)
    with redis_server(tmp_path / "redis", port):
        monkeypatch.setenv("TS_SHARED_CACHE_URL", f"redis://127.0.0.1:{port}/3")
        start(tmp_path / "toy", shared="redis://nowhere.invalid:1/0").ask(number(1))
        import redis

        with redis.Redis(port=port, db=3) as client:
            until(lambda: client.dbsize() == 1)


def test_an_address_that_is_none_refuses_to_load(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="not an address of Redis"):
        start(tmp_path / "toy", shared="http://127.0.0.1")

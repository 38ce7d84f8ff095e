"""The tier that workers share: whatever Redis holds, refuses or is, costs a miss at worst."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.cache import redis as shared_cache
from handlers.cache.local import CachedAnswer, SharedAnswer
from handlers.cache.redis import PREFIX, SharedCache, connect, pack, quoted, unpack
from handlers.errors import LoadError
from tests.handlers.test_response_cache import Doubler, number, said, start, until, written
from tests.support.gateways import certificate
from tests.support.ports import free_ports
from tests.support.redis_server import redis_server

SECRET = b"a secret of the nodes"
KEY = b"k" * 32
ANSWER = CachedAnswer(b'{"double": 4.0}', "four")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine under load may take longer than production allows; these tests are not about time."""
    monkeypatch.setattr(shared_cache, "BUDGET_S", 5.0)
    monkeypatch.setattr(shared_cache, "LOAD_BUDGET_S", 5.0)
    monkeypatch.setattr(shared_cache, "SOCKET_TIMEOUT_S", 5.0)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    [free] = free_ports(1)
    with redis_server(tmp_path / "redis", free):
        yield free


def tier(port: int, secret: bytes = SECRET, told: list[str] | None = None, address: str = "") -> SharedCache:
    outcomes: list[str] = [] if told is None else told
    return connect(address or f"redis://127.0.0.1:{port}/0", secret, 60, outcomes.append)


def forged(body: bytes, name: bytes = b"", length: int | None = None, key: bytes = KEY, created: float = 1e9) -> bytes:
    """A value with a digest that is right where there is no secret, whatever it holds."""
    rest = struct.pack("!dB", created, len(name) if length is None else length) + name + body
    return hmac.digest(b"", key + rest, "sha256") + rest


# ---- what is believed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [SECRET, b""])
def test_what_is_packed_is_unpacked(secret: bytes) -> None:
    value = pack(secret, KEY, ANSWER, 1234.5)
    assert unpack(secret, KEY, value) == SharedAnswer(ANSWER, 1234.5)
    assert unpack(secret, b"another key", value) is None
    for place in range(len(value)):
        damaged = bytearray(value)
        damaged[place] ^= 1
        assert unpack(secret, KEY, bytes(damaged)) is None


def test_a_value_with_a_digest_of_another_secret_or_of_none_is_not_believed() -> None:
    plain = struct.pack("!dB", 1000.0, 0) + b'{"double": 9.0}'
    digests = [
        hashlib.sha256(KEY + plain).digest(),
        hmac.digest(b"", KEY + plain, "sha256"),
        hmac.digest(b"another secret!!", KEY + plain, "sha256"),
    ]
    for digest in digests:
        assert unpack(SECRET, KEY, digest + plain) is None


FORGED: dict[str, dict[str, Any]] = {
    "no JSON": {"body": b"nonsense"},
    "nothing": {"body": b""},
    "NaN": {"body": b'{"double": NaN}'},
    "nested too deeply": {"body": b"[" * 100_000 + b"]" * 100_000},
    "a class that ends the header": {"body": b"1", "name": b"a\r\nset-cookie: x"},
    "a class that is no UTF-8": {"body": b"1", "name": b"\xff"},
    "a class longer than all": {"body": b"1", "name": b"a", "length": 255},
    "a class of another make": {"body": b"1", "name": "ä".encode()},
}


@pytest.mark.parametrize("parts", FORGED.values(), ids=FORGED)
def test_without_a_secret_only_what_a_worker_could_have_written_is_believed(parts: dict[str, Any]) -> None:
    assert unpack(b"", KEY, forged(b"1", b"a")) is not None
    assert unpack(b"", KEY, forged(**parts)) is None
    assert unpack(b"", KEY, forged(b"1")[:36]) is None


@given(st.binary(max_size=200), st.floats(), st.binary(max_size=80))
@settings(deadline=None)
def test_whatever_is_found_is_an_answer_of_json_or_nothing(rest: bytes, created: float, name: bytes) -> None:
    for value in (rest, forged(rest, name, created=created)):
        found = unpack(b"", KEY, value)
        if found is not None:
            json.loads(found.answer.body)


def test_entries_of_every_kind_in_redis_are_misses_and_the_batch_is_answered(tmp_path: Path, port: int) -> None:
    shared = f"redis://127.0.0.1:{port}/0"
    asked = range(20, 30)
    with redis.Redis(port=port) as client:
        worker = start(tmp_path / "first", shared=shared, batch_size=16)
        worker.ask(*map(number, asked))
        until(lambda: written(port) == len(asked))
        wrong_type, huge, *others = sorted(client.keys())
        for key, parts in zip(others, FORGED.values(), strict=True):
            client.set(key, forged(**parts, key=key.removeprefix(PREFIX), created=time.time()))
        client.delete(wrong_type)
        client.rpush(wrong_type, "a list")
        client.setrange(huge, 300 << 20, b"x")
        worker = start(tmp_path / "second", shared=shared, batch_size=16)
        assert said(worker, *map(number, asked)) == [(200, "miss")] * len(asked)
        assert sorted(Doubler.computed) == list(asked)


def test_nodes_with_one_secret_share_and_a_node_with_another_does_not(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared = f"redis://127.0.0.1:{port}/0"
    states = []
    for name, secret in (("a", "one secret of nodes"), ("b", "one secret of nodes"), ("c", "another one of them")):
        monkeypatch.setenv("TS_SHARED_CACHE_KEY", secret)
        states.append(said(start(tmp_path / name, shared=shared), number(1)))
        until(lambda: written(port) == 1)
    assert states == [[(200, "miss")], [(200, "hit")], [(200, "miss")]]
    assert "can choose" not in caplog.text
    monkeypatch.delenv("TS_SHARED_CACHE_KEY")
    start(tmp_path / "d", shared=shared)
    assert "TS_SHARED_CACHE_KEY is not set: whoever can write to the Redis" in caplog.text


def test_a_short_secret_refuses_to_load_and_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TS_SHARED_CACHE_KEY", "fifteen letters")
    with pytest.raises(LoadError, match="TS_SHARED_CACHE_KEY has 15 bytes; at least 16") as refused:
        start(tmp_path / "toy", shared="redis://127.0.0.1:1/0")
    assert "fifteen letters" not in str(refused.value)


# ---- a Redis that takes nothing --------------------------------------------------------------------------------------


def assert_read_only(cache: SharedCache, told: list[str], caplog: pytest.LogCaptureFixture, reason: str) -> None:
    """The tier writes nothing, says so once, and answers reads all the while."""
    for number_ in range(3):
        cache._rest_writing_until = 0.0
        cache.put({b"n%d" % number_: ANSWER}, time.time())
        until(lambda n=number_: told.count("not-written") == n + 1)  # type: ignore[misc]
        assert cache.get([KEY]) == {KEY: SharedAnswer(ANSWER, 1000.0)}
    assert told.count("ok") == 3
    assert set(told) == {"ok", "not-written"}
    [line] = [line for line in caplog.messages if "takes no answers" in line]
    assert reason in line
    assert "double" not in line  # an answer is nobody's business who reads the log


def test_a_full_redis_is_read(port: int, caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    with redis.Redis(port=port) as client:
        client.set(PREFIX + KEY, pack(SECRET, KEY, ANSWER, 1000.0))
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        assert_read_only(tier(port, told=told), told, caplog, "OutOfMemoryError")


def test_a_replica_is_read(tmp_path: Path, port: int, caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    [other] = free_ports(1)
    with (
        redis.Redis(port=port) as client,
        redis_server(tmp_path / "replica", other, "--replicaof", f"127.0.0.1 {port}"),
        redis.Redis(port=other) as replica,
    ):
        client.set(PREFIX + KEY, pack(SECRET, KEY, ANSWER, 1000.0))
        until(lambda: bool(replica.exists(PREFIX + KEY)))
        assert_read_only(tier(other, told=told), told, caplog, "ReadOnlyError")


def test_a_failure_that_is_over_is_told_again_when_it_is_back(port: int, caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    cache = tier(port, told=told)
    with redis.Redis(port=port) as client:
        for memory in ("1", "0", "1"):
            client.config_set("maxmemory", memory)
            cache._rest_writing_until = 0.0
            before = (told.count("not-written"), written(port))
            cache.put({KEY + memory.encode() + b"%d" % before[0]: ANSWER}, 1000.0)
            until(lambda b=before: (told.count("not-written"), written(port)) != b)  # type: ignore[misc]
            cache._writing.run(lambda: None).result(5)
    assert len([line for line in caplog.messages if "takes no answers" in line]) == 2


def test_a_cluster_is_told_once_and_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    [port] = free_ports(1)
    with redis_server(tmp_path / "redis", port, "--cluster-enabled", "yes", "--cluster-port", str(free_ports(1)[0])):
        worker = start(tmp_path / "toy", shared=f"redis://127.0.0.1:{port}/0")
        for _ in range(3):
            assert said(worker, number(1), number(3))[0][0] == 200
    lines = [line for line in caplog.messages if "shared cache" in line and "TS_SHARED_CACHE_KEY" not in line]
    assert lines == ["the shared cache is a Redis Cluster, which is not supported; answers are not shared"]


def test_a_long_answer_is_not_shared(port: int) -> None:
    told: list[str] = []
    cache = tier(port, told=told)
    cache.put({KEY: CachedAnswer(b'"' + b"x" * (1 << 20) + b'"'), b"short": ANSWER}, 1000.0)
    until(lambda: written(port) == 1)
    assert cache.get([KEY, b"short"]) == {b"short": SharedAnswer(ANSWER, 1000.0)}


# ---- addresses -------------------------------------------------------------------------------------------------------

PASSWORDS = ["plain", "p@ss/w#rd?x=1&y", "100%", "a:b", "[::1]", "grün €", " space ", "\"'\\", "%", "@", "//"]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("is_encoded", [True, False])
def test_a_password_of_any_characters_opens_redis(tmp_path: Path, port: int, password: str, is_encoded: bool) -> None:
    from urllib.parse import quote

    with redis.Redis(port=port) as client:
        client.execute_command("ACL", "SETUSER", "us@r", "on", ">" + password, "allcommands", "allkeys")
        client.execute_command("ACL", "SETUSER", "default", "off")
    sent = quote(password, safe="") if is_encoded else password
    told: list[str] = []
    cache = tier(port, told=told, address=f"redis://{quote('us@r')}:{sent}@127.0.0.1:{port}/0")
    assert cache.get([KEY]) == {}
    assert told == ["ok"]


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("redis://cache:6379/0", "redis://cache:6379/0"),
        ("rediss://:p%40ss@cache", "rediss://:p%40ss@cache"),
        ("redis://user@cache", "redis://user@cache"),
        ("redis://u:a/b#c@[::1]:1/0?ssl_ca_certs=/ca.pem", "redis://u:a%2Fb%23c@[::1]:1/0?ssl_ca_certs=/ca.pem"),
    ],
)
def test_only_what_is_before_the_host_is_quoted(address: str, meant: str) -> None:
    assert quoted(address) == meant


@pytest.mark.parametrize("address", ["http://:geheim@h", "redis://:geheim@h:geheim/0", "redis://:geheim@h/0?db=geheim"])
def test_an_address_that_is_none_is_told_without_its_password(tmp_path: Path, address: str) -> None:
    with pytest.raises(LoadError, match="not an address of Redis") as refused:
        start(tmp_path / "toy", shared=address)
    assert "geheim" not in str(refused.value)


def test_tls_with_a_certificate_of_ones_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    certificate(tmp_path / "tls", "redis")
    pem, key = tmp_path / "tls" / "server.pem", tmp_path / "tls" / "server.key"
    [port] = free_ports(1)
    options = ["--port", "0", "--tls-port", str(port), "--tls-cert-file", str(pem), "--tls-key-file", str(key),
               "--tls-ca-cert-file", str(pem), "--tls-auth-clients", "no"]  # fmt: skip
    with redis_server(tmp_path / "redis", port, *options):
        told: list[str] = []
        cache = tier(port, told=told, address=f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={pem}")
        cache.put({KEY: ANSWER}, 1000.0)
        until(lambda: cache.get([KEY]) == {KEY: SharedAnswer(ANSWER, 1000.0)})
        assert set(told) == {"ok"}
        untrusting = tier(port, told=told, address=f"rediss://127.0.0.1:{port}/0")
        caplog.set_level(logging.WARNING)
        assert untrusting.get([KEY]) == {}
        assert told[-1] == "down"
        assert "certificate" in caplog.text.lower()


# ---- the class of a prediction ---------------------------------------------------------------------------------------


def test_a_predicted_class_comes_back_with_a_cached_answer(tmp_path: Path, port: int) -> None:
    class Classed(Doubler):
        """Names the class of its answers."""

        def classify(self, answer: Any) -> str:
            return "large" if answer["double"] > 10 else "small"

    shared = f"redis://127.0.0.1:{port}/0"

    def classes(name: str) -> list[tuple[str, str]]:
        replies = start(tmp_path / name, Classed(), shared=shared).ask(number(1), number(50))
        return [(reply.headers["x-cache"], reply.headers["x-prediction-class"]) for reply in replies]

    assert classes("first") == [("miss", "small"), ("miss", "large")]
    until(lambda: written(port) == 2)
    assert classes("second") == [("hit", "small"), ("hit", "large")]
    assert Doubler.computed == []

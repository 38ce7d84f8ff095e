"""The tier of the response cache that workers and nodes share: Redis, within a small time budget, or not at all.

Invariant: no call raises, and none takes longer than the budget. Every exchange runs on a thread of its own, because a
timeout of a socket bounds one read, not a name's resolution nor an answer that trickles in.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from handlers.cache.local import CachedAnswer, SharedAnswer
from handlers.errors import LoadError

logger = logging.getLogger(__name__)

#: Seconds that a batch waits for the shared tier.
BUDGET_S = 0.01
#: Seconds without exchanges after the tier was slow or down; each answer meanwhile is a miss.
REST_S = 2.0
#: Seconds after which a thread gives up a connection that does not answer.
SOCKET_TIMEOUT_S = 1.0
#: Batches of answers that may wait to be written; further ones are not written.
WAITING = 256
#: In front of every key; the number changes with the layout of a value.
PREFIX = b"tsctl:answer:2:"

_HEAD = struct.Struct("!dB")
_DIGEST_BYTES = 32


def pack(key: bytes, answer: CachedAnswer, created: float) -> bytes:
    """A value: SHA-256 over the key and the rest, seconds since 1970, length of the class, class, body."""
    name = answer.class_name.encode()
    rest = _HEAD.pack(created, len(name)) + name + answer.body
    return hashlib.sha256(key + rest).digest() + rest


def unpack(key: bytes, value: bytes) -> SharedAnswer | None:
    """The answer in a value; None where it is damaged, or belongs to another key."""
    rest = value[_DIGEST_BYTES:]
    if len(rest) < _HEAD.size or hashlib.sha256(key + rest).digest() != value[:_DIGEST_BYTES]:
        return None
    created, length = _HEAD.unpack_from(rest)
    begin = _HEAD.size + length
    return SharedAnswer(CachedAnswer(rest[begin:], rest[_HEAD.size : begin].decode()), created)


class SharedCache:
    """Redis as the shared tier.

    Args:
        client: offers `mget(keys)` and `pipeline()`, as redis-py does; may raise anything and take any time.
        ttl_s: seconds for which Redis keeps an answer.
        on_exchange: is called with the outcome of every exchange of `get`: ok, slow or down.
    """

    def __init__(self, client: Any, ttl_s: float, on_exchange: Callable[[str], None]) -> None:
        self._client = client
        self._ttl_ms = max(1, int(ttl_s * 1000))
        self._on_exchange = on_exchange
        self._rest_until = 0.0
        self._asking = _Thread("shared-cache-get")
        self._writing = _Thread("shared-cache-put")

    def get(self, keys: Sequence[bytes]) -> dict[bytes, SharedAnswer]:
        """The answers that the tier has of these keys; none while it rests."""
        if not keys or time.monotonic() < self._rest_until or self._asking.is_behind():
            return {}
        asked = self._asking.run(lambda: self._ask(keys))
        try:
            answers: dict[bytes, SharedAnswer] = asked.result(BUDGET_S)
        except TimeoutError:
            self._rest("slow", f"did not answer in {BUDGET_S * 1000:g} ms")
            return {}
        except Exception as error:  # noqa: BLE001 - whatever the client raises, the batch goes on without it
            self._rest("down", f"{type(error).__name__}: {error}")
            return {}
        self._on_exchange("ok")
        return answers

    def put(self, entries: dict[bytes, CachedAnswer]) -> None:
        """Write the answers, some time later."""
        if time.monotonic() < self._rest_until or self._writing.waiting() > WAITING:
            return
        created = time.time()
        self._writing.run(lambda: self._write(entries, created))

    def _ask(self, keys: Sequence[bytes]) -> dict[bytes, SharedAnswer]:
        values = self._client.mget([PREFIX + key for key in keys])
        answers = {key: unpack(key, value) for key, value in zip(keys, values, strict=True) if value is not None}
        return {key: answer for key, answer in answers.items() if answer is not None}

    def _write(self, entries: dict[bytes, CachedAnswer], created: float) -> None:
        try:
            pipeline = self._client.pipeline(transaction=False)
            for key, answer in entries.items():
                pipeline.set(PREFIX + key, pack(key, answer, created), px=self._ttl_ms)
            pipeline.execute()
        except Exception as error:  # noqa: BLE001 - nobody waits for this; the tier rests, and the log says why
            self._rest("down", f"{type(error).__name__}: {error}")

    def _rest(self, outcome: str, why: str) -> None:
        self._rest_until = time.monotonic() + REST_S
        self._on_exchange(outcome)
        logger.warning("the shared cache is %s (%s); it is left alone for %g s", outcome, why, REST_S)


class _Thread:
    """Runs tasks one after the other, on a thread that starts with the first."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._is_started = False
        self._last: Future[Any] | None = None

    def run(self, task: Callable[[], Any]) -> Future[Any]:
        """What the task returns or raises, once it has run."""
        if not self._is_started:
            threading.Thread(target=self._loop, name=self._name, daemon=True).start()
            self._is_started = True
        future: Future[Any] = Future()
        self._last = future
        self._tasks.put((task, future))
        return future

    def is_behind(self) -> bool:
        """Whether the last task has not ended."""
        return self._last is not None and not self._last.done()

    def waiting(self) -> int:
        """Tasks that have not begun."""
        return self._tasks.qsize()

    def _loop(self) -> None:
        while True:
            task, future = self._tasks.get()
            try:
                future.set_result(task())
            except Exception as error:  # noqa: BLE001 - it reaches whoever waits for the result
                future.set_exception(error)


def connect(url: str, ttl_s: float, on_exchange: Callable[[str], None]) -> SharedCache:
    """The shared tier at a redis:// or rediss:// address; no connection is made before the first exchange.

    Raises:
        LoadError: the package redis is missing, or the address is none.
    """
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise LoadError("cache.shared needs the package redis on this node") from error
    try:
        client = redis.Redis.from_url(
            url, socket_timeout=SOCKET_TIMEOUT_S, socket_connect_timeout=SOCKET_TIMEOUT_S, retry=Retry(NoBackoff(), 0)
        )
    except ValueError as error:
        raise LoadError(f"cache.shared is not an address of Redis: {error}") from None
    return SharedCache(client, ttl_s, on_exchange)

"""The tier of the response cache that workers and nodes share: Redis, within a small time budget, or not at all.

Invariant: no call raises, and none takes longer than the budget. Every exchange runs on a thread of its own, because a
timeout of a socket bounds one read, not a name's resolution nor an answer that trickles in.
"""

from __future__ import annotations

import hmac
import logging
import math
import queue
import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any
from urllib.parse import quote, unquote

from pydantic_core import from_json

from handlers.cache.local import CachedAnswer, SharedAnswer
from handlers.contract import CLASS_NAME, SHARED_CACHE_KEY_VARIABLE
from handlers.errors import LoadError

logger = logging.getLogger(__name__)

#: Seconds that a batch waits for the shared tier, and that a load waits for it.
BUDGET_S = 0.01
LOAD_BUDGET_S = 2.0
#: Seconds without exchanges after the tier was slow or down, each answer meanwhile is a miss; and without writing after
#: it took no answer.
REST_S = 2.0
#: Seconds after which a thread gives up a connection that does not answer.
SOCKET_TIMEOUT_S = 1.0
#: Batches of answers that may wait to be written; further ones are not written.
WAITING = 256
#: Bytes of a value; a longer one does not come within the budget, and is neither written nor read.
LONGEST_VALUE = 1 << 20
#: Bytes of a key of HMAC.
SHORTEST_SECRET = 16
#: In front of every key; the number changes with the layout of a value.
PREFIX = b"tsctl:answer:3:"

_HEAD = struct.Struct("!dB")
_DIGEST_BYTES = 32


def pack(secret: bytes, key: bytes, answer: CachedAnswer, created: float) -> bytes:
    """A value: HMAC-SHA256 over the key and the rest, seconds since 1970, length of the class, class, body."""
    name = answer.class_name.encode()
    rest = _HEAD.pack(created, len(name)) + name + answer.body
    return hmac.digest(secret, key + rest, "sha256") + rest


def unpack(secret: bytes, key: bytes, value: bytes) -> SharedAnswer | None:
    """The answer in a value; None for anything but what `pack` makes of a worker's answer.

    The parts are read as well, because without a secret everybody can make the digest.
    """
    rest = value[_DIGEST_BYTES:]
    digest = hmac.digest(secret, key + rest, "sha256")
    if len(rest) < _HEAD.size or not hmac.compare_digest(digest, value[:_DIGEST_BYTES]):
        return None
    created, length = _HEAD.unpack_from(rest)
    begin = _HEAD.size + length
    body = rest[begin:]
    try:
        name = rest[_HEAD.size : begin].decode()
        from_json(body, allow_inf_nan=False)
    except ValueError:
        return None
    if name and not CLASS_NAME.fullmatch(name):
        return None
    return SharedAnswer(CachedAnswer(body, name), created)


class SharedCache:
    """Redis as the shared tier.

    Args:
        client: offers `info(section)` and `pipeline()`, as redis-py does; may raise anything and take any time.
        secret: of the digests; empty: anybody with write access to Redis can make an answer.
        ttl_s: seconds for which Redis keeps an answer.
        on_exchange: is called with the outcome of every exchange of `get`: ok, slow or down; and with not-written
            where Redis took no answers.
    """

    def __init__(self, client: Any, secret: bytes, ttl_s: float, on_exchange: Callable[[str], None]) -> None:
        self._client = client
        self._secret = secret
        self._ttl_ms = max(1, int(ttl_s * 1000))
        self._on_exchange = on_exchange
        self._rest_until = 0.0
        self._rest_writing_until = 0.0
        self._said: dict[str, str] = {}
        self._asking = _Thread("shared-cache-get")
        self._writing = _Thread("shared-cache-put")

    def check(self) -> None:
        """Look at the Redis before the first request: a cluster is left alone for good, and the log says so once."""
        asked = self._asking.run(lambda: self._client.info("cluster"))
        try:
            if asked.result(LOAD_BUDGET_S).get("cluster_enabled"):
                self._rest_until = self._rest_writing_until = math.inf
                logger.warning("the shared cache is a Redis Cluster, which is not supported; answers are not shared")
        except TimeoutError:
            self._rest("slow", f"did not answer in {LOAD_BUDGET_S:g} s")
        except Exception as error:  # noqa: BLE001 - whatever the client raises, the worker serves without it
            self._rest("down", _why(error))

    def get(self, keys: Sequence[bytes]) -> dict[bytes, SharedAnswer]:
        """The answers that the tier has of these keys; none while it rests."""
        if not keys or time.monotonic() < self._rest_until or self._asking.is_behind():
            return {}
        try:
            answers: dict[bytes, SharedAnswer] = self._asking.run(lambda: self._ask(keys)).result(BUDGET_S)
        except TimeoutError:
            self._rest("slow", f"did not answer in {BUDGET_S * 1000:g} ms")
            return {}
        except Exception as error:  # noqa: BLE001 - whatever the client raises, the batch goes on without it
            self._rest("down", _why(error))
            return {}
        self._said.pop("reading", None)
        self._on_exchange("ok")
        return answers

    def put(self, entries: dict[bytes, CachedAnswer], created: float) -> None:
        """Write the answers, some time later."""
        if time.monotonic() < max(self._rest_until, self._rest_writing_until) or self._writing.waiting() > WAITING:
            return
        self._writing.run(lambda: self._write(entries, created))

    def _ask(self, keys: Sequence[bytes]) -> dict[bytes, SharedAnswer]:
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.getrange(PREFIX + key, 0, LONGEST_VALUE)  # one byte more; a value of another type is an error
        values = pipeline.execute(raise_on_error=False)
        errors = list(filter(_is_error, values))
        if len(errors) == len(keys):
            raise errors[0]
        return {
            key: answer
            for key, value in zip(keys, values, strict=True)
            if isinstance(value, bytes) and 0 < len(value) <= LONGEST_VALUE
            if (answer := unpack(self._secret, key, value)) is not None
        }

    def _write(self, entries: dict[bytes, CachedAnswer], created: float) -> None:
        try:
            pipeline = self._client.pipeline(transaction=False)
            for key, answer in entries.items():
                value = pack(self._secret, key, answer, created)
                if len(value) <= LONGEST_VALUE:
                    pipeline.set(PREFIX + key, value, px=self._ttl_ms)
            # by itself, redis-py would name the whole command in the error, with the answer
            for error in filter(_is_error, pipeline.execute(raise_on_error=False)):
                raise error
            self._said.pop("writing", None)
        except Exception as error:  # noqa: BLE001 - nobody waits for this; writing rests, and the log says why
            self._rest_writing_until = time.monotonic() + REST_S
            self._on_exchange("not-written")
            self._say("writing", f"the shared cache takes no answers ({_why(error)}); it is still read")

    def _rest(self, outcome: str, why: str) -> None:
        self._rest_until = time.monotonic() + REST_S
        self._on_exchange(outcome)
        self._say("reading", f"the shared cache is {outcome} ({why}); it is left alone for {REST_S:g} s at a time")

    def _say(self, way: str, what: str) -> None:
        """Log it, unless it is so since it was logged last: a Redis that is full for days is one line."""
        if self._said.get(way) != what:
            self._said[way] = what
            logger.warning("%s", what)


def _why(error: Exception) -> str:
    """The error's type and message; Redis repeats the arguments of a command that it does not know, as AUTH's."""
    return f"{type(error).__name__}: {str(error).partition(', with args')[0]}"


def _is_error(reply: Any) -> bool:
    return isinstance(reply, Exception)


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


def connect(address: str, secret: bytes, ttl_s: float, on_exchange: Callable[[str], None]) -> SharedCache:
    """The shared tier at a redis:// or rediss:// address; no connection is made before the first exchange.

    Raises:
        LoadError: the package redis is missing, the address is none, or the secret is short.
    """
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise LoadError("cache.shared needs the package redis on this node") from error
    if secret and len(secret) < SHORTEST_SECRET:
        raise LoadError(f"{SHARED_CACHE_KEY_VARIABLE} has {len(secret)} bytes; at least {SHORTEST_SECRET} are needed")
    if not secret:
        logger.warning(
            "%s is not set: whoever can write to the Redis of the shared cache can choose this model's answers",
            SHARED_CACHE_KEY_VARIABLE,
        )
    try:
        client = redis.Redis.from_url(
            quoted(address),
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:  # its message may hold parts of a password
        raise LoadError(
            "cache.shared is not an address of Redis, such as rediss://user:password@cache.internal:6379/0"
        ) from None
    return SharedCache(client, secret, ttl_s, on_exchange)


def quoted(address: str) -> str:
    """The address with user and password percent-encoded: they may come so, or hold `/`, `#` and `@` as they are."""
    scheme, _, rest = address.partition("://")
    credentials, at, place = rest.rpartition("@")
    user, colon, password = credentials.partition(":")
    return f"{scheme}://{quote(unquote(user), safe='')}{colon}{quote(unquote(password), safe='')}{at}{place}"

"""Redis as a place: an object is a key that SET NX writes once, and that never expires.

What Redis has answered may be lost with its process unless it writes every change to its disk first (appendonly yes,
appendfsync always), and a replica that becomes the primary lacks what had not reached it. docs/control.md says what
follows from that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tsctl.addresses import without_secrets
from tsctl.control.place import (
    AlreadyThere,
    PlaceUnreachable,
    PlaceUnusable,
    is_name,
    require_name,
    require_small,
)

#: In front of every key, so that a Redis may serve caches as well.
PREFIX = "tsctl:control:"
TIMEOUT_S = 5.0
#: Keys that one SCAN looks at.
_SCANNED = 1000
_SPECIAL = re.compile(r"([\\*?\[\]^])")


class RedisPlace:
    """Keys of one database of a Redis.

    Args:
        client: of redis-py, which repeats nothing by itself: an answer that was lost must not look like a refusal.
    """

    def __init__(self, address: str, client: Any) -> None:
        self.address = without_secrets(address)
        self._client = client

    def create(self, name: str, content: bytes) -> None:
        require_name(name)
        require_small(name, content)
        with self._errors():
            is_created = self._client.set(PREFIX + name, content, nx=True)
        if not is_created:
            raise AlreadyThere(name)

    def read(self, name: str) -> bytes | None:
        require_name(name)
        with self._errors():
            content: bytes | None = self._client.get(PREFIX + name)
            return content

    def names(self, prefix: str) -> list[str]:
        pattern = _SPECIAL.sub(r"\\\1", PREFIX + prefix) + "*"
        with self._errors():
            keys = set(self._client.scan_iter(match=pattern, count=_SCANNED))
        names = (key.decode(errors="replace").removeprefix(PREFIX) for key in keys)
        return sorted(filter(is_name, names))

    def delete(self, name: str) -> None:
        require_name(name)
        with self._errors():
            self._client.delete(PREFIX + name)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import redis

        try:
            yield
        except redis.AuthenticationError:
            raise PlaceUnusable(
                f"control: {self.address} does not take the user and password",
                "Give them in the address, such as rediss://${REDIS_USER}:${REDIS_PASSWORD}@host:6379/0.",
            ) from None
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            raise PlaceUnreachable(
                f"control: {self.address} does not answer: {type(error).__name__}", "Does this Redis run?"
            ) from None
        except redis.RedisError as error:
            why = str(error).partition(", with args")[0]  # it repeats the arguments of a command it does not know
            if why.startswith(("NOPERM", "NOAUTH", "WRONGTYPE", "MOVED", "CROSSSLOT", "DB index")):
                raise PlaceUnusable(f"control: {self.address} refuses: {why}", "Correct the address.") from None
            raise PlaceUnreachable(f"control: {self.address} refuses now: {why}", "See its log.") from None


def open_redis(address: str) -> RedisPlace:
    """The place at a redis:// or rediss:// address; nothing is asked.

    Raises:
        PlaceUnusable: the package redis is missing, or the address is none.
    """
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise PlaceUnusable(
            "control: an address of Redis needs the package redis", "pip install 'tsctl[control]'"
        ) from None
    try:
        client = redis.Redis.from_url(
            address, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
        )
    except ValueError:  # its message may hold parts of a password
        raise PlaceUnusable(
            "control: this is no address of Redis", "Give one such as redis://control.internal:6379/0."
        ) from None
    return RedisPlace(address, client)

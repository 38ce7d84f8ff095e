"""A real Redis for tests, which keeps nothing on disk and ends with its test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness.redis import running_redis
from tests.support.programs import program


@contextmanager
def redis_server(
    folder: Path, port: int, *options: str, host: str = "127.0.0.1", inside: Sequence[str] = ()
) -> Iterator[None]:
    """A Redis of this test's own, as `running_redis`; the test is skipped where none is installed."""
    program("redis-server")
    with running_redis(folder, port, *options, host=host, inside=inside):
        yield

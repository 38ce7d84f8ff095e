"""A replica of Ray Serve, asked as Ray asks it; no Ray is needed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from handlers.adapters.ray.replica import Replica, Source, answer, logger
from handlers.contract import NODE_FOLDER_VARIABLE
from handlers.errors import LoadError
from tests.support.sites import Site, write_tiny
from tsctl.archive.build import build_version
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project

ROUTE = "/predictions/tiny/1.0"
START_S = 60.0


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ray")
    write_tiny(Site(root), "tiny", {"1.0": {}})
    folder = root / "archives" / "tiny"
    spec = read_archive_spec(folder / "archive.yaml")
    return build_version(Project(root), folder, spec, "1.0", lambda _: None).archive.path


@pytest.fixture
def working_dir(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory that Ray gives a replica."""
    (tmp_path / "archive").mkdir()
    shutil.copyfile(archive, tmp_path / "archive" / archive.name)
    for folder in ("metrics", "logs"):
        (tmp_path / "node" / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(NODE_FOLDER_VARIABLE, str(tmp_path / "node"))
    yield tmp_path
    for handler in logger.handlers[:]:  # a replica has its process for itself
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True


def source(archive: Path, digest: str | None = None, version: str = "1.0") -> Source:
    real = sha256(archive.read_bytes()).hexdigest()
    return Source("archive", "tiny", version, archive.name, digest or real)


@asynccontextmanager
async def serving(wanted: Source) -> AsyncIterator[Replica]:
    """The replica as Ray makes it: `__init__` is awaited."""
    replica = Replica.__new__(Replica)
    try:
        starting: Any = replica.__init__(wanted)  # type: ignore[misc]
        await asyncio.wait_for(starting, START_S)
        yield replica
    finally:
        await replica.close()


async def ask(path: str, body: bytes = b"", method: str = "POST", root: str = ROUTE) -> tuple[int, dict[str, str], Any]:
    """Status, headers and document of an answer."""
    received = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        if not received:
            await asyncio.get_running_loop().create_future()
        return received.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"x-request-id", b"mine")]
    scope = {
        "type": "http", "method": method, "path": path, "root_path": root, "raw_path": path.encode(),
        "query_string": b"", "headers": headers, "http_version": "1.1", "scheme": "http",
    }  # fmt: skip
    await asyncio.wait_for(answer(scope, receive, send), 30)
    start, *rest = sent
    whole = b"".join(message["body"] for message in rest)
    return start["status"], {n.decode(): v.decode() for n, v in start["headers"]}, json.loads(whole)


def test_a_replica_answers_below_its_prefix_and_leaves_the_request_s_id_to_ray(
    archive: Path, working_dir: Path
) -> None:
    async def run() -> None:
        async with serving(source(archive)) as replica:
            status, headers, document = await ask(ROUTE, b'{"x": 0.5}')
            assert (status, document, headers["x-model-version"]) == (200, {"y": 1.0}, "1.0")
            assert "x-request-id" not in headers, "Ray's proxy adds it"
            status, headers, document = await ask(ROUTE + "/", b'{"x": "one"}')
            assert (status, document["request_id"], document["version"]) == (422, "mine", "1.0")
            assert headers["content-type"] == "application/problem+json"
            status, _, document = await ask(f"{ROUTE}/v2/models/tiny", method="GET")
            assert (status, document["name"]) == (200, "tiny")
            status, _, document = await ask(f"{ROUTE}/nowhere", method="GET")
            assert (status, document["status"]) == (404, 404)
            status, _, document = await ask("/predictions/tiny", b'{"x": 0.5}', root="")
            assert (status, document) == (200, {"y": 1.0}), "an exported archive has no prefix"
            await replica.check_health()
        assert "tiny 1.0 is ready" in (working_dir / "node" / "logs" / "node.log").read_text()

    asyncio.run(run())


def test_an_archive_that_is_not_the_declared_one_is_refused(archive: Path, working_dir: Path) -> None:
    async def run() -> None:
        with pytest.raises(LoadError, match="is not the archive that is to be registered"):
            async with serving(source(archive, digest="0" * 64)):
                pass
        missing = Source("archive", "tiny", "1.0", "none.mar", "0" * 64)
        with pytest.raises(LoadError, match=r"none\.mar cannot be unpacked"):
            async with serving(missing):
                pass

    asyncio.run(run())
    assert '"outcome": "refused"' in (working_dir / "node" / "logs" / "node.log").read_text()


def test_a_request_waits_for_a_worker_that_starts_anew(archive: Path, working_dir: Path) -> None:
    async def run() -> None:
        async with serving(source(archive)) as replica:
            assert replica.pool is not None
            [killed] = replica.pool.ready_pids.values()
            os.kill(killed, signal.SIGKILL)
            while replica.pool.ready_workers:
                await asyncio.sleep(0.01)
            status, _, document = await ask(ROUTE, b'{"x": 0.5}')
            while status == 503 and "retry later" in document["detail"]:  # on a slow machine a worker takes longer
                status, _, document = await ask(ROUTE, b'{"x": 0.5}')
            assert (status, document) == (200, {"y": 1.0})
            assert killed not in replica.pool.ready_pids.values()

    asyncio.run(run())


def test_a_replica_whose_worker_does_not_come_back_is_ill(archive: Path, working_dir: Path) -> None:
    async def run() -> None:
        async with serving(source(archive)) as replica:
            assert replica.pool is not None
            replica.pool.ready_workers, replica.pool.failure = 0, "no memory"
            with pytest.raises(LoadError, match="no memory"):
                await replica.check_health()
            replica.pool.ready_workers = 1
            await replica.check_health()

    asyncio.run(run())

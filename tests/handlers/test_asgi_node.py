"""A node's application without a socket: who may ask, which version a path names, and what outlives the process.

The workers are real processes of an archive; what every engine promises is in tests/live/test_node_contract.py.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import shutil
import signal
import zipfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from handlers.adapters.asgi import worker_process
from handlers.adapters.asgi.exchange import Route
from handlers.adapters.asgi.node.app import Node
from handlers.adapters.asgi.node.fetched import FETCH_S, Fetch, fetch_by
from handlers.adapters.asgi.node.registry import Conflict, Registry, State
from handlers.adapters.asgi.node.served import Entry, read_served, write_served
from handlers.contract import MODEL_VERSION_HEADER, OPEN_INFERENCE, PROBLEM_MEDIA_TYPE, RETRY_HEADER, SENT_HEADER
from tests.support.sites import HALF, is_alive, make_site, write_tiny
from tsctl.archive.build import build_versions
from tsctl.archive.container import digest_of
from tsctl.archive.store import StoredArchive
from tsctl.config.project import Project
from tsctl.host.progress import Progress

ADMIN, TOKEN = "admin-token-of-the-test", "token-of-the-test"
ALLOWED = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
START_S = 60.0


@dataclass
class Reply:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    node: Node, path: str, body: bytes = b"", method: str = "GET", headers: Mapping[str, str] = ALLOWED
) -> Reply:
    """The answer to one request."""
    sent: list[dict[str, Any]] = []
    parts = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        for part in parts:
            return part
        return await asyncio.Future()  # the client stays

    async def send(message: Any) -> None:
        sent.append(dict(message))

    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
        "headers": [*pairs, (b"content-length", b"%d" % len(body))], "scheme": "http", "http_version": "1.1",
        "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    await node(scope, receive, send)
    start, *content = sent
    received = {name.decode(): value.decode() for name, value in start["headers"]}
    return Reply(start["status"], received, b"".join(part.get("body", b"") for part in content))


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StoredArchive]:
    """Archives of a model that multiplies by 2, one of which has a wrong golden answer."""
    site = make_site(tmp_path_factory.mktemp("archives"))
    write_tiny(site, "tiny", {"1.0": {}, "wrong": {}})
    (site.root / "archives" / "tiny" / "golden" / "wrong.json").write_text('{"half.json": {"y": 9.0}}')
    built = build_versions(Project(site.root), ["tiny:1.0", "tiny:wrong"], Progress(Console(quiet=True)))
    return {one.archive.version: one.archive for one in built}


def entry(archive: StoredArchive, version: str, workers: int | None = 1) -> Entry:
    return Entry("tiny", version, archive.path.name, digest_of(archive.path), workers)


@asynccontextmanager
async def node_in(
    folder: Path, store: Path, token: str | None = TOKEN, fetch: Fetch | None = None
) -> AsyncIterator[tuple[Node, Registry]]:
    """A node that serves what its folder says; its workers are ended afterwards."""
    for name in ("metrics", "logs"):
        (folder / name).mkdir(exist_ok=True)
    registry = Registry(folder, store, fetch=fetch)
    await registry.restore()
    try:
        yield Node(registry, ADMIN, token), registry
    finally:
        await registry.stop()


async def until(holds: Callable[[], bool], what: str) -> None:
    for _ in range(round(START_S / 0.05)):
        if holds():
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"{what} did not come true within {START_S:g} s")


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_without_a_token_only_health_is_answered(tmp_path: Path) -> None:
    async def test() -> None:
        async with node_in(tmp_path, tmp_path) as (node, _):
            for path in ("/ping", "/v2/health/live", "/v2/health/ready"):
                assert (await ask(node, path, headers={})).status == 200
            wrong = {"authorization": "Bearer another-token"}
            swapped = {"authorization": f"Bearer {TOKEN}"}
            for path, headers in (
                ("/predictions/tiny", {}), ("/models", wrong), ("/metrics", {}), ("/v2", {}), ("/v2/models/tiny", {}),
                ("/admin/versions", {}), ("/admin/versions", wrong), ("/admin/versions", swapped),
            ):  # fmt: skip
                refused = await ask(node, path, headers=headers)
                assert (refused.status, refused.headers["content-type"]) == (401, PROBLEM_MEDIA_TYPE), path
            admin = {"authorization": f"Bearer {ADMIN}"}
            assert (await ask(node, "/admin/versions", headers=admin)).json == []
            assert (await ask(node, "/models", headers=admin)).status == 401, "each token has its own paths"
        async with node_in(tmp_path, tmp_path, token=None) as (node, _):
            assert (await ask(node, "/models", headers={})).json == {}
            assert (await ask(node, "/admin/versions", headers={})).status == 401

    run(test())


def test_a_gateway_is_to_ask_another_node_for_what_is_not_served(tmp_path: Path) -> None:
    async def test() -> None:
        async with node_in(tmp_path, tmp_path) as (node, _):
            for path in ("/predictions/tiny/1.0", "/v2/models/tiny/infer", "/nowhere"):
                answer = await ask(node, path, b"{}", "POST")
                assert (answer.status, answer.json["status"]) == (404, 404), path
                assert RETRY_HEADER not in answer.headers
            for headers in (ALLOWED, {"content-type": "application/json"}):
                sent = {**headers, SENT_HEADER: "1795670000000", "x-request-id": "mine"}
                answer = await ask(node, "/predictions/tiny/1.0", b"{}", "POST", sent)
                assert (answer.status, answer.headers[RETRY_HEADER]) == (503, "refused")
                assert (answer.headers["retry-after"], answer.json["request_id"]) == ("1", "mine")
                assert (answer.json["model"], answer.json["version"]) == ("tiny", "1.0")

    run(test())


def test_versions_come_answer_go_and_outlive_the_process(archives: dict[str, StoredArchive], tmp_path: Path) -> None:
    store = archives["1.0"].path.parent
    admin = {"authorization": f"Bearer {ADMIN}", "content-type": "application/json"}

    async def test() -> None:
        async with node_in(tmp_path, store) as (node, registry):
            wanted = entry(archives["1.0"], "1.0")
            body = json.dumps({"archive": wanted.archive, "digest": wanted.digest}).encode()
            begun = await ask(node, "/admin/versions/tiny/1.0", body, "POST", admin)
            assert (begun.status, begun.json["state"], begun.json["is_default"]) == (202, "starting", True)
            again = await ask(node, "/admin/versions/tiny/1.0", body, "POST", admin)
            assert (again.status, again.json["error"]) == (409, "tiny 1.0 is registered already")
            malformed = await ask(node, "/admin/versions/tiny/x", b'{"archive": "../x.mar"}', "POST", admin)
            assert malformed.status == 422
            await registry.register(entry(archives["1.0"], "alias"))
            await registry.register(entry(archives["wrong"], "wrong"))
            with pytest.raises(Conflict, match="has no worker that is ready"):
                await registry.set_default("tiny", "wrong")
            await until(lambda: registry.get("tiny", "wrong").state is State.REFUSED, "the refusal")
            assert "half.json" in registry.get("tiny", "wrong").reason
            await until(lambda: all(registry.get("tiny", v).state is State.SERVING for v in ("1.0", "alias")), "both")

            for path, version in (
                ("/predictions/tiny", "1.0"), ("/predictions/tiny/1.0", "1.0"), ("/predictions/tiny/alias", "alias"),
                ("/models/tiny/alias/predictions/tiny/alias", "alias"),
                ("/models/tiny/alias/predictions/tiny", "alias"),
                ("/models/tiny/alias/v2/models/tiny/infer", "alias"), ("/models/tiny/1.0/predictions/tiny", "1.0"),
            ):  # fmt: skip
                route = node.route(path.encode(), [(b"authorization", ALLOWED["authorization"].encode())])
                assert isinstance(route, Route)
                assert route.pool.options.version == version
                assert route.protocol == (OPEN_INFERENCE if path.endswith("/infer") else "")
                if not route.protocol:
                    answer = await ask(node, path, HALF, "POST")
                    assert (answer.status, answer.json) == (200, {"y": 1.0}), path
                    assert answer.headers[MODEL_VERSION_HEADER] == version
            for path in (
                "/models/tiny/9.0/predictions/tiny", "/models/tiny/1.0/predictions/tiny/alias",
                "/models//predictions/tiny",
                "/models/tiny/predictions/tiny", "/models/tiny/1.0", "/models/tiny/1.0/", "/models/x/1/models/tiny/1.0",
                "/predictions/tiny/", "//predictions/tiny", "/models/tiny/1.0/models/tiny/1.0/predictions/tiny",
            ):  # fmt: skip
                assert node.route(path.encode(), [(b"authorization", ALLOWED["authorization"].encode())]) is None, path
                assert (await ask(node, path, HALF, "POST")).status == 404, path
            for path in ("/ping/", "/models/", "/models/tiny/1.0/docs/"):
                astray = await ask(node, path, headers={**ALLOWED, "host": "elsewhere.example"})
                assert (astray.status, "location" in astray.headers) == (404, False), path
            assert (await ask(node, "/models")).json == {"tiny": ["1.0", "alias"]}
            assert (await ask(node, "/v2/models/tiny/versions/alias/ready")).status == 200
            assert (await ask(node, "/predictions/tiny/alias", method="OPTIONS")).json["version"] == "alias"
            index = (await ask(node, "/v2/repository/index", b'{"ready": true}', "POST")).json
            assert [(model["name"], model["version"]) for model in index] == [("tiny", "1.0"), ("tiny", "alias")]
            document = (await ask(node, "/models/tiny/alias/openapi.json")).json
            assert "post" in document["paths"]["/predictions/tiny"]
            assert (await ask(node, "/predictions/tiny/wrong", HALF, "POST")).status == 404

            with pytest.raises(Conflict, match="is the default while there are others"):
                await registry.unregister("tiny", "1.0")
            await registry.set_default("tiny", "alias")
            await registry.unregister("tiny", "1.0")
            assert (await ask(node, "/predictions/tiny/1.0", HALF, "POST")).status == 404
            await until(lambda: ("tiny", "1.0") not in registry.versions, "the end of 1.0")
            await registry.scale("tiny", "alias", 0)
            answer = await ask(node, "/predictions/tiny", HALF, "POST")
            assert (answer.status, answer.headers[RETRY_HEADER]) == (503, "refused")
            await registry.scale("tiny", "alias", 1)

        saved = {one.version: (one.workers, one.is_default) for one in read_served(tmp_path / "served.json")}
        assert saved == {"alias": (1, True), "wrong": (1, False)}
        async with node_in(tmp_path, store) as (node, registry):
            await until(lambda: registry.get("tiny", "alias").state is State.SERVING, "what it served before")
            assert (await ask(node, "/predictions/tiny", HALF, "POST")).headers[MODEL_VERSION_HEADER] == "alias"
            await until(lambda: registry.get("tiny", "wrong").state is State.REFUSED, "another try of what was refused")

    run(test())


def test_what_cannot_be_kept_is_not_served(archives: dict[str, StoredArchive], tmp_path: Path) -> None:
    async def test() -> None:
        async with node_in(tmp_path, archives["1.0"].path.parent) as (node, registry):
            (tmp_path / "served.json").mkdir()  # nothing can replace it, as on a disk that is full
            wanted = entry(archives["1.0"], "1.0")
            body = json.dumps({"archive": wanted.archive, "digest": wanted.digest}).encode()
            admin = {"authorization": f"Bearer {ADMIN}", "content-type": "application/json"}
            refused = await ask(node, "/admin/versions/tiny/1.0", body, "POST", admin)
            assert refused.status == 507
            assert "cannot be written" in refused.json["error"]
            assert registry.versions == {}

    run(test())


def test_an_archive_that_is_another_one_or_gone_is_refused(archives: dict[str, StoredArchive], tmp_path: Path) -> None:
    good = entry(archives["1.0"], "1.0")

    async def test() -> None:
        async with node_in(tmp_path, archives["1.0"].path.parent) as (_, registry):
            for version, archive, digest, reason in (
                ("a", good.archive, "0" * 64, "is not the archive that is to be registered"),
                ("b", "tiny-9.0-000000000000.mar", good.digest, "No such file or directory"),
            ):
                await registry.register(Entry("tiny", version, archive, digest, 1))
                await until(lambda v=version: registry.get("tiny", v).state is State.REFUSED, "the refusal")  # type: ignore[misc]
                assert reason in registry.get("tiny", version).reason
            assert [path.name for path in (tmp_path / "archives").iterdir()] == []

    run(test())


def test_names_that_cannot_stand_in_a_path_or_header_are_not_registered(
    archives: dict[str, StoredArchive], tmp_path: Path
) -> None:
    good = entry(archives["1.0"], "1.0")
    body = json.dumps({"archive": good.archive, "digest": good.digest, "workers": 1}).encode()
    admin = {"authorization": f"Bearer {ADMIN}", "content-type": "application/json"}

    async def test() -> None:
        async with node_in(tmp_path, archives["1.0"].path.parent) as (node, registry):
            names = ("tiny/\0", "tiny/a\r\nx: y", "tiny/a b", "tiny/-x", "tiny/..", "../1.0", "tiny/" + "v" * 33)
            for name in names:
                reply = await ask(node, f"/admin/versions/{name}", body, "POST", admin)
                assert (reply.status, "pattern" in reply.json["error"]) == (422, True), name
            reply = await ask(node, "/admin/versions/a/b/c", body, "POST", admin)
            assert (reply.status, reply.json) == (404, {"error": "Not Found"})
            assert not registry.versions

    run(test())


def test_a_version_that_fails_in_an_unforeseen_way_is_refused_and_does_not_start_for_ever(
    archives: dict[str, StoredArchive], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    with zipfile.ZipFile(store / "odd.mar", "w") as odd:
        odd.writestr("a", b"x" * 99)
    content = bytearray((store / "odd.mar").read_bytes())
    for place in (content.index(b"PK\x03\x04") + 8, content.index(b"PK\x01\x02") + 10):
        content[place] = 99  # a compression that there is not
    (store / "odd.mar").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()

    async def test() -> None:
        async with node_in(tmp_path, store) as (_, registry):
            await registry.register(Entry("tiny", "odd", "odd.mar", digest, 1))
            await until(lambda: registry.get("tiny", "odd").state is State.REFUSED, "the refusal")
            assert "is no archive that can be unpacked" in registry.get("tiny", "odd").reason
            good = Path(shutil.copy(archives["1.0"].path, store))
            await registry.register(Entry("tiny", "nul\0", good.name, digest_of(good), 1))
            await until(lambda: registry.get("tiny", "nul\0").state is State.REFUSED, "the refusal")
            assert "null byte" in registry.get("tiny", "nul\0").reason

    run(test())


def test_a_worker_whose_process_cannot_be_started_is_tried_again(
    archives: dict[str, StoredArchive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []

    async def test() -> None:
        async with node_in(tmp_path, archives["1.0"].path.parent) as (_, registry):
            await registry.register(entry(archives["1.0"], "1.0"))
            await until(lambda: registry.get("tiny", "1.0").state is State.SERVING, "the first worker")
            pool = registry.get("tiny", "1.0").pool
            assert pool is not None
            [before] = pool.ready_pids.values()
            start = worker_process.start_process

            def refuse_once(*args: Any, **kwargs: Any) -> Any:
                if not refused:
                    refused.append(pool.failure)
                    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                return start(*args, **kwargs)

            monkeypatch.setattr("handlers.adapters.asgi.worker_process.start_process", refuse_once)
            os.kill(before, signal.SIGKILL)
            await until(lambda: "cannot be started" in pool.failure, "the refusal")
            await until(lambda: len(pool.ready_pids) == 1 and before not in pool.ready_pids.values(), "a new worker")
            assert (len(refused), pool.failure) == (1, "")

    run(test())


def test_a_worker_of_a_version_without_any_whose_process_cannot_be_started_is_tried_again(
    archives: dict[str, StoredArchive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = {"authorization": f"Bearer {ADMIN}", "content-type": "application/json"}
    start, refused = worker_process.start_process, list[int]()

    def refuse_once(*args: Any, **kwargs: Any) -> Any:
        if not refused:
            refused.append(1)
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return start(*args, **kwargs)

    async def test() -> None:
        async with node_in(tmp_path, archives["1.0"].path.parent) as (node, registry):
            await registry.register(entry(archives["1.0"], "1.0", workers=0))
            await until(lambda: registry.get("tiny", "1.0").state is State.SERVING, "no workers")
            monkeypatch.setattr("handlers.adapters.asgi.worker_process.start_process", refuse_once)
            scaled = await ask(node, "/admin/versions/tiny/1.0/workers", b'{"workers": 1}', "PUT", admin)
            assert (scaled.status, scaled.json["workers"]) == (202, 1)
            assert "the process of a worker cannot be started: Resource temporarily" in scaled.json["failure"]
            pool = registry.get("tiny", "1.0").pool
            assert pool is not None
            await until(lambda: len(pool.ready_pids) == 1, "the worker")
            assert registry.get("tiny", "1.0").failure == ""

    run(test())


def test_the_list_of_what_is_served_is_whole_or_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "served.json"
    assert read_served(path) == []
    entries = [Entry("tiny", "1.0", "tiny.mar", "0" * 64, None, True)]
    write_served(path, entries)
    assert read_served(path) == entries
    whole = {"model": "tiny", "version": "1.0", "archive": "tiny.mar", "digest": "0" * 64, "workers": 1}
    wrong = (
        {"model": 1}, {"model": ".."}, {"version": "a\nb"}, {"archive": "../x.mar"}, {"digest": "../../etc"},
        {"digest": "0" * 64 + "\n"}, {"workers": "3"}, {"workers": -1}, {"workers": 1e9}, {"workers": True},
        {"is_default": "no"},
    )  # fmt: skip
    changed = [json.dumps([whole | change]) for change in wrong]
    for damaged in ("[", "{}", '[{"model": "tiny"}]', '["tiny"]', "[" * 100_000, json.dumps([whole, whole]), *changed):
        path.write_text(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            read_served(path)
    path.write_bytes(b"\xff\x00")
    with pytest.raises(ValueError, match="is damaged"):
        read_served(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match="cannot be read"):
        read_served(path)
    assert [left.name for left in tmp_path.iterdir()] == ["served.json"]


def fetching(folder: Path, script: str) -> Path:
    """A file that has a node run the script, to which the archive's name is an argument, for what its store lacks."""
    path = folder / "fetch.json"
    environment = {"PATH": os.environ["PATH"], "ONLY_HERE": "secret"}
    path.write_text(json.dumps({"command": ["sh", "-c", script, "fetch"], "environment": environment}))
    return path


def test_an_archive_that_is_not_in_the_store_is_fetched_while_others_are_answered(
    archives: dict[str, StoredArchive], tmp_path: Path
) -> None:
    source, store, gate = archives["1.0"], tmp_path / "store", tmp_path / "gate"
    store.mkdir()
    copy = f"until [ -e {gate} ]; do sleep 0.05; done; [ $ONLY_HERE = secret ] && cp {source.path} {store}"
    path = fetching(tmp_path, f'echo "$1" > {tmp_path}/asked; {copy}')

    async def test() -> None:
        async with node_in(tmp_path, store, fetch=fetch_by(path)) as (node, registry):
            await registry.register(entry(source, "other"))
            version = registry.get("tiny", "other")
            await until((tmp_path / "asked").is_file, "the command")
            assert version.describe()["startup_s"] == FETCH_S, "whoever registers waits for so long"
            assert (await ask(node, "/v2/health/live", headers={})).status == 200
            gate.touch()
            await until(lambda: version.state is State.SERVING, "the version")
            assert version.describe()["startup_s"] < FETCH_S
        assert (tmp_path / "asked").read_text() == f"tiny:1.0@{digest_of(source.path)}\n"
        (tmp_path / "asked").unlink()
        (store / source.path.name).unlink()
        async with node_in(tmp_path, store, fetch=fetch_by(path)) as (_, registry):
            version = registry.get("tiny", "other")
            await until(lambda: version.state is State.SERVING, "the version again")
        assert not (tmp_path / "asked").exists(), "it is unpacked here"

    run(test())


@pytest.mark.parametrize(
    ("script", "name", "reason"),
    [
        (
            "echo 'pulling ...' >&2; echo 'error: the store s3://a is gone' >&2; exit 3",
            None,
            "the store s3://a is gone",
        ),
        ("exit 9", None, "its command ended with 9"),
        ("exit 0", None, "cannot be unpacked: No such file"),
        ("exit 0", "other.mar", "its name does not say what it holds"),
    ],
)
def test_what_cannot_be_fetched_is_refused_with_the_reason(
    archives: dict[str, StoredArchive], tmp_path: Path, script: str, name: str | None, reason: str
) -> None:
    async def test() -> None:
        async with node_in(tmp_path, tmp_path, fetch=fetch_by(fetching(tmp_path, script))) as (_, registry):
            wanted = entry(archives["1.0"], "1.0")
            await registry.register(replace(wanted, archive=name or wanted.archive))
            version = registry.get("tiny", "1.0")
            await until(lambda: version.state is State.REFUSED, "the refusal")
            assert reason in version.reason

    run(test())


def test_a_fetch_ends_with_its_version(archives: dict[str, StoredArchive], tmp_path: Path) -> None:
    async def test() -> None:
        script = f"echo $$ > {tmp_path}/pid; exec sleep 600"
        async with node_in(tmp_path, tmp_path, fetch=fetch_by(fetching(tmp_path, script))) as (_, registry):
            await registry.register(entry(archives["1.0"], "1.0"))
            await until(lambda: (tmp_path / "pid").is_file() and bool((tmp_path / "pid").read_text()), "the command")
            pid = int((tmp_path / "pid").read_text())
            await registry.unregister("tiny", "1.0")
            await until(lambda: ("tiny", "1.0") not in registry.versions, "the end of the version")
            await until(lambda: not is_alive(pid), "the end of the command")

    run(test())

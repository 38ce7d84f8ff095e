"""Archives in the store of all machines: pushed once, pulled whole, bounded here, and no secret in any message."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.support.commands import run_command
from tests.support.range_server import RangeServer, range_server
from tests.support.unreachable import unreachable
from tsctl.archive.container import MANIFEST, digest_of
from tsctl.archive.pull import kept_beside, pull, pulled_archives
from tsctl.archive.remote_store import Entry, Kept, RemoteStore, open_store
from tsctl.archive.store import StoredArchive, find_archive, import_archive, list_archives, make_current, write_archive
from tsctl.cli.remote import list_remote
from tsctl.config.deployment import DeploymentSpec, read_deployment
from tsctl.config.project import Project
from tsctl.config.store import StoreSpec
from tsctl.deploy.desired import desired_state
from tsctl.deploy.plan import make_plan
from tsctl.deploy.pulls import Puller, pull_files, pull_named
from tsctl.deploy.state import Actual
from tsctl.errors import ArchiveError, ConflictError, SpecError, TsctlError
from tsctl.host import remote_files, retry
from tsctl.host.locks import is_held
from tsctl.host.progress import Progress
from tsctl.host.remote import Again, TooSlow, Unreachable, hidden, kind_of
from tsctl.host.remote_files import Files, open_files
from tsctl.host.retry import Patience
from tsctl.nodes.observed import ObservedNode
from tsctl.views.plan import change_json, effects

MEMORY = "memory://store/archives"
NOTHING = Kept({}, {})
MB = 1 << 20


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts are short, and blocks are small, so that a small archive has several."""
    monkeypatch.setattr(retry, "PAUSE_S", 0.001)
    monkeypatch.setattr(remote_files, "BLOCK", 1 << 12)
    monkeypatch.setattr(remote_files, "LEAST_BLOCK", 1 << 10)
    monkeypatch.setattr(remote_files, "CHUNK", 1 << 12)


@pytest.fixture(params=["a folder", "an address"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path / "shared") if request.param == "a folder" else MEMORY
    system = fsspec.filesystem("memory")
    if system.exists("/store"):
        system.rm("/store", recursive=True)


def project_in(folder: Path) -> Project:
    (folder / "archives").mkdir(parents=True, exist_ok=True)
    return Project(folder)


@pytest.fixture
def builder(tmp_path: Path) -> Project:
    """The machine that builds."""
    return project_in(tmp_path / "builder")


@pytest.fixture
def machine(tmp_path: Path) -> Project:
    """Another machine, without an archive."""
    return project_in(tmp_path / "machine")


def build(project: Project, content: bytes, version: str = "1.0", model: str = "toy") -> StoredArchive:
    manifest = {"modelName": model, "modelVersion": version, "handler": "handler.py"}
    entries = {"w": content, MANIFEST: json.dumps({"model": manifest}).encode()}
    return make_current(project, write_archive(entries, project.store, model, version))


def push(store: RemoteStore, archive: StoredArchive, kept: Kept = NOTHING) -> Entry:
    digest = digest_of(archive.path)
    return store.push(archive.path, archive.model, archive.version, digest, kept).entry


def place(address: str) -> Files:
    return open_files(address, {})


def parts(project: Project) -> list[Path]:
    return list(project.store.glob(".pulling.*"))


# ---- push ------------------------------------------------------------------------------------------------------------


def test_what_one_machine_pushes_another_one_pulls_by_its_whole_digest(
    address: str, builder: Project, machine: Project
) -> None:
    archive, store = build(builder, os.urandom(10_000)), RemoteStore(address, {})
    entry = push(store, archive)
    assert entry.archive.digest == digest_of(archive.path)
    assert (store.models(), store.versions("toy"), store.versions("other")) == (["toy"], ["1.0"], [])
    pulled = pull(machine, store, store.require("toy", "1.0"))
    assert (pulled.is_new, pulled.digest) == (True, entry.archive.digest)
    assert pulled.archive.path.read_bytes() == archive.path.read_bytes()
    assert find_archive(machine, "toy", "1.0").is_current
    assert not pull(machine, store, store.require("toy", "1.0")).is_new
    assert parts(machine) == []


def test_a_push_is_idempotent_and_other_bytes_of_a_version_are_refused(address: str, builder: Project) -> None:
    store, archive = RemoteStore(address, {}), build(builder, b"1")
    first = store.push(archive.path, "toy", "1.0", digest_of(archive.path), NOTHING)
    again = store.push(archive.path, "toy", "1.0", digest_of(archive.path), NOTHING)
    assert (first.is_new, first.is_guarded, again.is_new, again.has_more) == (True, True, False, False)
    assert place(address).names("archives/toy/1.0") == ["000001.json"]
    digest, other = digest_of(archive.path), build(builder, b"2")
    with pytest.raises(ConflictError, match=r"toy 1\.0 is in the store .* with other bytes") as raised:
        push(store, other)
    assert raised.value.hint == "Give the new bytes a new version."
    assert store.require("toy", "1.0").archive.digest == digest


def test_a_push_that_was_killed_before_its_entry_is_invisible_and_is_made_again(
    address: str, builder: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def struck(*_: object) -> Any:
        raise Killed

    store, archive = RemoteStore(address, {}), build(builder, b"1")
    monkeypatch.setattr(store, "_create", struck)
    with pytest.raises(Killed):
        push(store, archive)
    later = RemoteStore(address, {})
    assert later.entry("toy", "1.0") is None
    push(later, archive)
    assert later.require("toy", "1.0").archive.bytes == archive.path.stat().st_size


def test_of_two_pushes_of_one_version_at_the_same_moment_one_is_refused(
    address: str, builder: Project, machine: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = RemoteStore(address, {}), RemoteStore(address, {})
    one, other = build(builder, b"1"), build(machine, b"2")
    create = first._create

    def meanwhile(*arguments: Any) -> tuple[bool, bool]:
        monkeypatch.setattr(first, "_create", create)
        push(second, other)
        return create(*arguments)

    monkeypatch.setattr(first, "_create", meanwhile)
    with pytest.raises(ConflictError, match="with other bytes"):
        push(first, one)
    assert first.require("toy", "1.0").archive.digest == digest_of(other.path)


def test_a_store_that_overwrites_is_noticed(builder: Project, tmp_path: Path) -> None:
    class Careless(remote_files.FsspecFiles):
        def create(self, name: str, content: bytes) -> None:
            Path(f"{self._root}/{name}").parent.mkdir(parents=True, exist_ok=True)
            Path(f"{self._root}/{name}").write_bytes(content)

    files = Careless(fsspec.filesystem("file"), str(tmp_path / "shared"), {})
    archive = build(builder, b"1")
    pushed = RemoteStore("careless", {}, files).push(archive.path, "toy", "1.0", digest_of(archive.path), NOTHING)
    assert not pushed.is_guarded


def test_a_damaged_blob_is_repaired_by_the_next_push(builder: Project, machine: Project, tmp_path: Path) -> None:
    store, archive = RemoteStore(str(tmp_path / "shared"), {}), build(builder, b"1" * 9000)
    entry = push(store, archive)
    blob = tmp_path / "shared" / "blobs" / entry.archive.digest
    blob.write_bytes(blob.read_bytes()[:5])
    with pytest.raises(ArchiveError, match="does not answer as it should"):
        pull(machine, store, entry)
    push(store, archive)
    assert pull(machine, store, entry).is_new


# ---- samples of stock archives ---------------------------------------------------------------------------------------


def keep(project: Project, samples: dict[str, bytes], golden: dict[str, Any]) -> None:
    folder = project.archives / "toy"
    for name in ("samples", "golden"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, content in samples.items():
        (folder / "samples" / name).write_bytes(content)
    (folder / "golden" / "1.0.json").write_text(json.dumps(golden))


def test_samples_and_golden_answers_of_a_stock_archive_travel_and_later_ones_are_added(
    address: str, builder: Project, machine: Project
) -> None:
    store, archive = RemoteStore(address, {}), build(builder, b"1")
    keep(builder, {"a.json": b"1"}, {"a.json": 2})
    push(store, archive, kept_beside(builder, "toy", "1.0", is_stock=True))
    pull(machine, store, store.require("toy", "1.0"))
    assert kept_beside(machine, "toy", "1.0", is_stock=True) == Kept({"a.json": b"1"}, {"a.json": 2})
    assert kept_beside(machine, "toy", "1.0", is_stock=False) == NOTHING

    keep(builder, {"b.json": b""}, {"a.json": 2, "b.json": [3]})
    pushed = store.push(
        archive.path, "toy", "1.0", digest_of(archive.path), kept_beside(builder, "toy", "1.0", is_stock=True)
    )
    assert (pushed.is_new, pushed.has_more) == (False, True)
    assert len(place(address).names("archives/toy/1.0")) == 2
    keep(machine, {"a.json": b"own"}, {})
    pull(machine, store, store.require("toy", "1.0"))
    here = kept_beside(machine, "toy", "1.0", is_stock=True)
    assert here.samples == {"a.json": b"own", "b.json": b""}, "a machine's own files stay"
    assert here.golden == {"b.json": [3]}, "an answer is taken only for the same request"


@pytest.mark.parametrize(("samples", "golden"), [({"a.json": b"2"}, {}), ({"a.json": b"1"}, {"a.json": 3})])
def test_another_sample_or_answer_under_a_name_is_refused(
    address: str, builder: Project, samples: dict[str, bytes], golden: dict[str, Any]
) -> None:
    store, archive = RemoteStore(address, {}), build(builder, b"1")
    push(store, archive, Kept({"a.json": b"1"}, {"a.json": 2}))
    with pytest.raises(ConflictError, match=r"has another (sample|golden answer to) a\.json in the store"):
        push(store, archive, Kept(samples, golden))


def test_a_sample_that_is_missing_fails_the_pull_and_the_next_one_brings_only_that(
    builder: Project, machine: Project, tmp_path: Path
) -> None:
    store, archive = RemoteStore(str(tmp_path / "shared"), {}), build(builder, b"1")
    kept = Kept({"a.json": b"1"}, {"a.json": 2})
    entry = push(store, archive, kept)
    blob = tmp_path / "shared" / "blobs" / entry.samples["a.json"].digest
    blob.rename(tmp_path / "aside")
    with pytest.raises(ArchiveError, match="lacks a file that it should have"):
        pull(machine, store, entry)
    assert [pulled.digest for pulled in pulled_archives(machine)] == [entry.archive.digest], "it may leave the cache"
    (tmp_path / "aside").rename(blob)
    assert not pull(machine, store, entry).is_new
    assert kept_beside(machine, "toy", "1.0", is_stock=True) == kept


# ---- pull ------------------------------------------------------------------------------------------------------------


def test_wrong_bytes_are_removed_and_named_and_nothing_is_current(
    builder: Project, machine: Project, tmp_path: Path
) -> None:
    store, archive = RemoteStore(str(tmp_path / "shared"), {}), build(builder, os.urandom(9000))
    entry = push(store, archive)
    blob = tmp_path / "shared" / "blobs" / entry.archive.digest
    wrong = bytearray(blob.read_bytes())
    wrong[4000] ^= 1
    blob.write_bytes(wrong)
    with pytest.raises(ArchiveError, match=f"{entry.archive.digest} has the SHA-256 {digest_of(blob)}, so its bytes"):
        pull(machine, store, entry)
    assert (parts(machine), list_archives(machine)) == ([], [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no zip file", r"toy 1\.0 of the store .* is no archive"),
        (None, r"the archive of toy 1\.0 in the store .* holds toy 2\.0"),
    ],
)
def test_what_is_no_archive_of_that_name_is_not_taken(
    content: bytes | None, message: str, builder: Project, machine: Project, tmp_path: Path
) -> None:
    other = build(builder, b"1", "2.0").path
    if content is not None:
        other = tmp_path / "other"
        other.write_bytes(content)
    store = RemoteStore(str(tmp_path / "shared"), {})
    entry = store.push(other, "toy", "1.0", digest_of(other), NOTHING).entry
    with pytest.raises(ArchiveError, match=message):
        pull(machine, store, entry)
    assert (parts(machine), list_archives(machine)) == ([], [])


def test_a_pull_goes_on_where_a_killed_one_was(
    address: str, builder: Project, machine: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    store, archive = RemoteStore(address, {}), build(builder, os.urandom(20_000))
    entry, stream, begins = push(store, archive), RemoteStore.stream, []

    def dying(self: RemoteStore, blob: Any, begin: int) -> Iterator[tuple[int, bytes]]:
        begins.append(begin)
        for number, block in enumerate(stream(self, blob, begin)):
            if len(begins) == 1 and number == 2:
                raise Killed
            yield block

    monkeypatch.setattr(RemoteStore, "stream", dying)
    with pytest.raises(Killed):
        pull(machine, store, entry)
    [part] = parts(machine)
    assert (part.stat().st_size, list_archives(machine)) == (2 << 12, [])
    assert pull(machine, store, entry).archive.path.read_bytes() == archive.path.read_bytes()
    assert begins == [0, 2 << 12]


@pytest.mark.parametrize("left", [b"x" * 5000, b"x" * 50_000])
def test_what_an_earlier_pull_left_damaged_is_pulled_again(
    left: bytes, address: str, builder: Project, machine: Project
) -> None:
    store, archive = RemoteStore(address, {}), build(builder, os.urandom(20_000))
    entry = push(store, archive)
    machine.store.mkdir(parents=True)
    (machine.store / f".pulling.{entry.archive.digest}").write_bytes(left)
    assert pull(machine, store, entry).archive.path.read_bytes() == archive.path.read_bytes()
    assert parts(machine) == []


def test_two_pulls_of_one_archive_do_the_work_once(
    builder: Project, machine: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, archive = RemoteStore(str(tmp_path / "shared"), {}), build(builder, os.urandom(9000))
    entry, streams = push(store, archive), []
    begun, going_on, notes = threading.Event(), threading.Event(), []
    stream = RemoteStore.stream

    def slow(self: RemoteStore, blob: Any, begin: int) -> Iterator[tuple[int, bytes]]:
        streams.append(begin)
        begun.set()
        assert going_on.wait(30)
        yield from stream(self, blob, begin)

    def second(text: str) -> None:
        notes.append(text)
        going_on.set()

    monkeypatch.setattr(RemoteStore, "stream", slow)
    results: list[bool] = []
    first = threading.Thread(target=lambda: results.append(pull(machine, store, entry).is_new))
    first.start()
    assert begun.wait(30)
    assert not pull(machine, store, entry, second).is_new
    first.join()
    assert (results, streams, notes) == ([True], [0], ["another tsctl pulls it"])


def test_a_file_that_was_changed_under_its_name_is_pulled_again(
    address: str, builder: Project, machine: Project
) -> None:
    store, archive = RemoteStore(address, {}), build(builder, b"1")
    entry = push(store, archive)
    here = pull(machine, store, entry).archive.path
    here.write_bytes(b"other")
    assert pull(machine, store, entry).is_new
    assert digest_of(here) == entry.archive.digest


def test_an_archive_that_was_built_here_is_not_pulled_and_never_leaves(address: str, builder: Project) -> None:
    store, archive = RemoteStore(address, {}), build(builder, b"1")
    assert not pull(builder, store, push(store, archive)).is_new
    assert pulled_archives(builder) == []


def test_a_pull_replaces_the_current_build_only_where_it_is_asked_to(
    address: str, builder: Project, machine: Project
) -> None:
    store, theirs, own = RemoteStore(address, {}), build(builder, b"1"), build(machine, b"2")
    entry = push(store, theirs)
    pull(machine, store, entry)
    assert find_archive(machine, "toy", "1.0").digest == own.digest
    pull(machine, store, entry, publish=True)
    assert find_archive(machine, "toy", "1.0").digest == theirs.digest


def test_a_disk_without_room_is_said_before_anything_is_pulled(
    address: str, builder: Project, machine: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RemoteStore(address, {})
    entry = push(store, build(builder, b"1"))
    usage = type("Usage", (), {"free": 5 * MB})
    monkeypatch.setattr("tsctl.archive.pull.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(ArchiveError, match="has 5 MiB free, and the archive needs 64 MiB"):
        pull(machine, store, entry)
    assert list_archives(machine) == []


def test_a_disk_that_becomes_full_keeps_nothing_half_written(
    address: str, builder: Project, machine: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RemoteStore(address, {})
    entry = push(store, build(builder, b"1"))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tsctl.archive.pull.os.fsync", full)
    with pytest.raises(ArchiveError, match="cannot be written: No space left on device"):
        pull(machine, store, entry)
    assert (parts(machine), list_archives(machine)) == ([], [])


def test_a_folder_that_cannot_be_written_is_named(
    address: str, builder: Project, machine: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RemoteStore(address, {})
    entry = push(store, build(builder, b"1"))
    machine.published.parent.mkdir(exist_ok=True)
    machine.published.write_text("a file in its place")
    with pytest.raises(ArchiveError, match=r"archives/store\S* cannot be written: (Not a directory|File exists)"):
        pull(machine, store, entry)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no json", "is damaged"),
        (b'{"format": 2}', "was written by a newer tsctl"),
        (b'{"model": "toy", "version": "1.0", "archive": {"digest": "../..", "bytes": 1}}', "is damaged"),
        (
            json.dumps({"model": "b", "version": "1.0", "archive": {"digest": "0" * 64, "bytes": 1}}).encode(),
            "names another archive",
        ),
    ],
)
def test_an_entry_that_is_not_ours_is_not_used(content: bytes, message: str, address: str) -> None:
    place(address).create("archives/toy/1.0/000001.json", content)
    with pytest.raises(ArchiveError, match=message):
        RemoteStore(address, {}).require("toy", "1.0")


@pytest.mark.parametrize("name", ["../a", "a/b", ".hidden", "a\nb", ""])
def test_a_sample_whose_name_leads_elsewhere_is_not_used(name: str, address: str) -> None:
    blob = {"digest": "0" * 64, "bytes": 1}
    content = {"model": "toy", "version": "1.0", "archive": blob, "samples": {name: blob}}
    place(address).create("archives/toy/1.0/000001.json", json.dumps(content).encode())
    with pytest.raises(ArchiveError, match="is damaged"):
        RemoteStore(address, {}).require("toy", "1.0")


# ---- HTTP ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(builder: Project, tmp_path: Path) -> Iterator[RangeServer]:
    """The folder of a store, with toy 1.0 of about 60 kB, over HTTP."""
    push(RemoteStore(str(tmp_path / "shared"), {}), build(builder, os.urandom(60_000)))
    with range_server(tmp_path / "shared") as running:
        yield running


def test_over_http_a_pull_goes_on_after_each_cut(server: RangeServer, builder: Project, machine: Project) -> None:
    server.cut_after = 25_000
    store = RemoteStore(server.address, {})
    entry = store.require("toy", "1.0")
    pulled = pull(machine, store, entry)
    assert digest_of(pulled.archive.path) == digest_of(find_archive(builder, "toy", "1.0").path)
    begins = [begin for path, begin in server.begins if "blobs" in path]
    assert begins == [0, 6 << 12, 12 << 12], "what came whole before a cut is kept"
    assert (store.models(), store.versions("toy")) == (["toy"], ["1.0"])


def test_a_process_that_was_killed_while_it_pulled_left_all_that_had_come(
    server: RangeServer, machine: Project
) -> None:
    server.stops_after = 45_000
    command = [sys.executable, "-m", "tsctl.cli.main", "archive", "pull", "toy:1.0", "--store", server.address]
    environment = {**os.environ, "TSCTL_PROJECT": str(machine.root)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        assert server.stopped.wait(60)
        held = machine.state / "store" / "locks"
        assert [is_held(lock) for lock in held.iterdir()] == [True]
        process.kill()
    server.stops_after = None
    store = RemoteStore(server.address, {})
    pulled = pull(machine, store, store.require("toy", "1.0"))
    assert digest_of(pulled.archive.path) == pulled.digest
    first, second = (begin for path, begin in server.begins if "blobs" in path)
    assert (first, second in range(0, 45_001)) == (0, True)
    assert parts(machine) == []


def test_over_http_a_server_without_ranges_begins_anew(server: RangeServer, machine: Project) -> None:
    server.knows_ranges, server.cut_after = False, 25_000
    store = RemoteStore(server.address, {})
    entry = store.require("toy", "1.0")
    with pytest.raises(ArchiveError, match="does not answer as it should: the connection failed"):
        pull(machine, store, entry)
    assert len([path for path, _ in server.begins if "blobs" in path]) <= retry.ATTEMPTS + 1
    server.cut_after = None
    assert digest_of(pull(machine, store, entry).archive.path) == entry.archive.digest


def test_over_http_nothing_is_pushed(server: RangeServer, builder: Project) -> None:
    with pytest.raises(ArchiveError, match="is only read, because it is an HTTP address"):
        push(RemoteStore(server.address, {}), find_archive(builder, "toy", "1.0"))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(status: int, server: RangeServer, machine: Project) -> None:
    server.statuses = [status, status]
    store = RemoteStore(server.address, {})
    assert store.require("toy", "1.0").name == "toy 1.0"
    server.statuses = [status] * 10
    with pytest.raises(ArchiveError, match=f"does not answer as it should: HTTP {status}"):
        store.require("toy", "1.0")
    assert len(server.statuses) == 10 - retry.ATTEMPTS


def test_a_refusal_is_not_repeated_and_shows_no_secret(server: RangeServer) -> None:
    server.token = "Bearer right-secret"
    wrong = RemoteStore(server.address, {"headers": {"Authorization": "Bearer wrong-secret"}})
    with pytest.raises(ArchiveError, match="refuses it: HTTP 403") as raised:
        wrong.require("toy", "1.0")
    assert "secret" not in raised.value.message + raised.value.hint
    assert len(server.begins) == 1
    right = RemoteStore(server.address, {"headers": {"Authorization": "Bearer right-secret"}})
    assert right.require("toy", "1.0").name == "toy 1.0"


def test_a_version_that_is_missing_is_said(server: RangeServer, address: str) -> None:
    with pytest.raises(ArchiveError, match=r"toy 2\.0 is not in the store http") as raised:
        RemoteStore(server.address, {}).require("toy", "2.0")
    assert raised.value.hint == "Where it was built: tsctl archive push toy:2.0"
    with pytest.raises(ArchiveError, match=r"with the digest .* is wanted"):
        RemoteStore(server.address, {}).require("toy", "1.0", "0" * 12)


def test_a_server_that_says_nothing_is_given_up(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "CALL_S", 0.05)
    server.hold = threading.Event()
    with pytest.raises(ArchiveError, match=r"does not answer as it should: no answer within 0\.05 s"):
        RemoteStore(server.address, {}).require("toy", "1.0")


# ---- addresses and secrets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "options", "message"),
    [
        ("nosuch://a/b", {}, "Protocol not known: nosuch"),
        ("gs://bucket/a", {}, "gcsfs"),
        ("/no/such/folder", {}, "there is no such folder"),
        ("http://127.0.0.1:9/a", {"key": "hidden-value"}, "of HTTP, options has only `headers`"),
    ],
)
def test_an_address_that_cannot_be_is_a_mistake(address: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as raised:
        RemoteStore(address, options).require("toy", "1.0")
    assert "hidden-value" not in raised.value.message
    assert "the package s3fs, and Google's storage gcsfs" in raised.value.hint


def test_secrets_are_in_no_message() -> None:
    options = {"key": "AKIA1", "client_kwargs": {"headers": {"X-Token": "t0p"}}, "endpoint_url": "http://h:1", "n": 5}
    said = hidden("AKIA1 t0p http://h:1 http://user:pw@h/?X-Amz-Signature=abc&x=5", options)
    assert said == "*** *** http://h:1 http://***@h/?X-Amz-Signature=***&x=***"


def test_an_error_of_a_file_system_is_of_one_kind() -> None:
    class FromServer(OSError):
        response = {"ResponseMetadata": {"HTTPStatusCode": 503}, "Error": {"Code": "SlowDown"}}

    assert kind_of(FromServer(16, "busy")) is Again
    assert kind_of(ConnectionResetError()) is Again
    assert kind_of(OSError(28, "No space left on device")) is not Again
    assert kind_of(ConnectionRefusedError()) is kind_of(socket.gaierror(-2, "unknown")) is Unreachable
    around = OSError("the client's own")
    around.__cause__ = ConnectionRefusedError()
    assert kind_of(around) is Unreachable


def test_without_a_connection_it_is_given_up_soon_and_later_once_there_was_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PAUSE_S", 0.5)

    def attempts(error: Again, **more: float) -> tuple[int, float]:
        slept: list[float] = []
        patience = Patience(slept.append, lambda: sum(slept), **more)
        with pytest.raises(Again):
            while True:
                patience.pause(error)
        return len(slept) + 1, sum(slept)

    tried, took_s = attempts(Unreachable("refused"), reach_s=retry.REACH_S)
    assert 2 <= tried < retry.ATTEMPTS and took_s < 2 * retry.REACH_S
    for error in (Again("503"), TooSlow("no answer")):
        assert attempts(error, reach_s=retry.REACH_S)[0] == retry.ATTEMPTS
    assert attempts(Unreachable("it starts again in the middle of a pull"))[0] == retry.ATTEMPTS


def test_an_http_store_that_cannot_be_reached_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "REACH_S", 0.0)
    monkeypatch.setattr(remote_files, "CONNECT_S", 0.2)
    with unreachable() as addresses:
        for address in addresses.values():
            with pytest.raises(ArchiveError, match=f"the store {address}/x cannot be reached: ") as refused:
                RemoteStore(f"{address}/x", {}).require("toy", "1.0")
            assert "can this machine reach it?" in refused.value.hint


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("s3://user:pw@bucket/a", "must name no user and no secret"),
        ("https://host/a?token=abc", "must end with a path"),
        ({"address": "/a", "cache": 5}, "store.cache: unknown key; did you mean cache_mb"),
        ({"address": "/a", "options": "topsecret"}, r"store.options: \*\*\*"),
    ],
)
def test_a_mistake_in_deployment_yaml_is_named_without_its_secret(store: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "deployment.yaml"
    path.write_text(json.dumps({"nodes": {"a": {}}, "store": store}))
    with pytest.raises(SpecError, match=message) as raised:
        read_deployment(path)
    assert "topsecret" not in raised.value.message and "pw" not in raised.value.message


def test_options_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_SECRET", "s3cret")
    path = tmp_path / "deployment.yaml"
    path.write_text('nodes: {a: {}}\nstore: {address: "s3://b/a", options: {secret: "${STORE_SECRET}"}}\n')
    store = read_deployment(path).store
    assert store is not None and store.options == {"secret": "s3cret"}


# ---- plans -----------------------------------------------------------------------------------------------------------


def deployed(address: str, versions: dict[str, Any], cache_mb: int = 100) -> DeploymentSpec:
    return DeploymentSpec.model_validate(
        {
            "nodes": {"a": {}},
            "store": {"address": address, "cache_mb": cache_mb},
            "models": {"toy": {"default": next(iter(versions)), "versions": versions}},
        }
    )


def test_a_plan_pulls_what_is_missing_and_says_so(address: str, builder: Project, machine: Project) -> None:
    store = RemoteStore(address, {})
    pushed = push(store, build(builder, b"1"))
    deployment = deployed(address, {"1.0": {"workers": 1, "digest": pushed.archive.digest}, "2.0": {"workers": 1}})
    failed = pull_named(machine, deployment, Progress())
    assert list(failed) == [("toy", "2.0")]
    desired = desired_state(machine, deployment, (), failed)
    plan = make_plan(desired, Actual((ObservedNode("a"),)))
    [change] = plan.changes
    assert change_json(change)["is_pulled"] is True
    assert effects(change)[0].after.endswith("1 worker, pulled from the store, no golden answers")
    [refusal] = [refusal for refusal in plan.refusals if refusal.version == "2.0"]
    assert "toy 2.0 is not in the store" in refusal.reason
    assert refusal.hint == "Where it was built: tsctl archive push toy:2.0"


def test_a_store_that_does_not_answer_is_asked_for_one_version_only(
    builder: Project, machine: Project, server: RangeServer
) -> None:
    server.statuses = [503] * 1000
    deployment = deployed(server.address, {f"{n}.0": None for n in range(1, 9)})
    failed = pull_named(machine, deployment, Progress())
    assert len(failed) == 8 and len(server.begins) == retry.ATTEMPTS
    import_archive(machine, build(builder, b"1").path)
    assert ("toy", "1.0") not in pull_named(machine, deployment, Progress()), "what is here needs no store"


def test_without_a_store_nothing_is_pulled(machine: Project) -> None:
    deployment = DeploymentSpec.model_validate({"nodes": {"a": {}}})
    assert pull_named(machine, deployment, Progress()) == {}
    assert pull_files(machine, deployment, ["toy-1.0-0123456789ab.mar"], Progress()) == {}


# ---- the bound -------------------------------------------------------------------------------------------------------


def puller(project: Project, address: str, deployment: DeploymentSpec | None = None, mb: int = 2) -> Puller:
    return Puller(project, StoreSpec(address=address, cache_mb=mb), deployment, Progress())


def names(project: Project) -> list[str]:
    return [archive.version for archive in list_archives(project)]


def test_the_longest_unused_archive_that_nothing_needs_leaves(address: str, builder: Project, machine: Project) -> None:
    store = RemoteStore(address, {})
    for number in (1, 2, 3, 4):
        push(store, build(builder, os.urandom(700_000), f"{number}.0"))
    for version in ("1.0", "2.0"):
        puller(machine, address).pull("toy", version)
    for age, version in enumerate(("2.0", "1.0")):
        [record] = (machine.state / "store" / "pulled").glob(f"toy-{version}-*")
        os.utime(record, (1000 + age, 1000 + age))
    puller(machine, address).pull("toy", "3.0")
    assert names(machine) == ["1.0", "3.0"], "2.0 was unused for longer"
    deployment = deployed(address, {"1.0": None})
    nothing_runs = deployment.model_copy(update={"nodes": {}})
    puller(machine, address, nothing_runs).pull("toy", "4.0")
    assert names(machine) == ["1.0", "4.0"], "deployment.yaml names 1.0"
    assert not list(machine.published.glob("toy-3.0*"))
    with pytest.raises(ArchiveError, match=r"toy 2\.0 has 0\.7 MiB, and archives that are needed here have 0\.7"):
        puller(machine, address, nothing_runs, mb=1).pull("toy", "2.0")


def test_what_a_node_serves_when_it_starts_stays_and_comes_back(
    address: str, builder: Project, machine: Project
) -> None:
    store = RemoteStore(address, {})
    for number in (1, 2):
        push(store, build(builder, os.urandom(700_000), f"{number}.0"))
    served = puller(machine, address).pull("toy", "1.0")
    folder = machine.state / "nodes" / "a"
    folder.mkdir(parents=True)
    (folder / "served.json").write_text(json.dumps([{"archive": served.archive.path.name}]))
    with pytest.raises(ArchiveError, match="archives that are needed here"):
        puller(machine, address, mb=1).pull("toy", "2.0")
    served.archive.path.unlink()
    deployment = deployed(address, {"1.0": None})
    assert pull_files(machine, deployment, [served.archive.path.name, "other.mar"], Progress()) == {}
    assert names(machine) == ["1.0"]
    failed = pull_files(machine, deployment, ["toy-1.0-0123456789ab.mar"], Progress())
    assert "is wanted" in failed["toy-1.0-0123456789ab.mar"].message


# ---- commands --------------------------------------------------------------------------------------------------------


def test_the_commands_push_list_and_pull(builder: Project, machine: Project, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    archive = build(builder, b"1" * 5000)
    models = {"toy": {"default": "1.0", "versions": {"1.0": {"workers": 1}}}}
    for project in (builder, machine):
        content = {"nodes": {"a": {}}, "models": models, "store": str(shared)}
        (project.root / "deployment.yaml").write_text(json.dumps(content))
    [row] = run_command(["archive", "push", "--json"], builder.root, {}, 60).json()
    whole = hashlib.sha256(archive.path.read_bytes()).hexdigest()
    assert row == {
        "model": "toy", "version": "1.0", "digest": whole, "bytes": archive.path.stat().st_size, "outcome": "pushed"
    }  # fmt: skip
    [listed] = run_command(["archive", "list", "--remote", "--json"], machine.root, {}, 60).json()
    assert (listed["digest"], listed["samples"]) == (whole, 0)
    [pulled] = run_command(["archive", "pull", f"toy:1.0@{whole[:12]}", "--json"], machine.root, {}, 60).json()
    assert (pulled["outcome"], pulled["digest"]) == ("pulled", whole)
    assert Path(pulled["path"]).read_bytes() == archive.path.read_bytes()
    elsewhere = project_in(tmp_path / "elsewhere")
    arguments = ["archive", "pull", "toy:1.0", "--digest", whole, "--store", str(shared)]
    assert "1 pulled" in run_command(arguments, elsewhere.root, {}, 60).out
    build(builder, b"2")
    refused = run_command(["archive", "push", "toy:1.0", "--json"], builder.root, {}, 60)
    assert (refused.status, refused.json()["code"]) == (7, 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pull", "toy:1.0"], "deployment.yaml names no store"),
        (["pull", "toy:1.0@12", "--store", "/x"], "expected MODEL[:VERSION][@DIGEST]"),
        (["pull", "a/b", "--store", "/x"], "expected MODEL[:VERSION][@DIGEST]"),
        (["pull", "toy@0123456789ab", "--store", "/x"], "a digest is of one version"),
        (["pull", "toy:1.0", "--digest", "xyz", "--store", "/x"], "--digest is the SHA-256 of one archive"),
        (["pull", "--store", "s3://u:p@b/a", "toy:1.0"], "--store must name no user and no secret"),
        (["list", "--store", "/x"], "Give --remote as well"),
    ],
)
def test_a_wrong_command_says_how_it_would_be_right(arguments: list[str], message: str, machine: Project) -> None:
    (machine.root / "deployment.yaml").write_text('{"nodes": {"a": {}}}')
    ended = run_command(["archive", *arguments], machine.root, {}, 60)
    assert (ended.status, message in ended.err) == (2, True), ended.err


def test_every_error_is_of_the_house(address: str) -> None:
    with pytest.raises(TsctlError):
        RemoteStore(address, {}).require("toy", "1.0")


# ---- what a hurried user gives ---------------------------------------------------------------------------------------


def test_a_store_that_cannot_be_made_leaves_nothing_and_is_no_missing_file(builder: Project, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    archive = build(builder, b"w")
    with pytest.raises(SpecError, match=r"cannot be used: blobs/.* cannot be made there"):
        push(RemoteStore(str(tmp_path / "file" / "store"), {}), archive)
    assert (tmp_path / "file").read_text() == "x"


def test_a_push_to_a_full_disk_leaves_no_part(
    builder: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Any, target: Any, *_: object, **__: object) -> None:
        Path(target).write_bytes(b"a part of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = build(builder, b"w")
    monkeypatch.setattr("fsspec.implementations.local.shutil.copyfile", full)
    with pytest.raises(ArchiveError, match="No space left on device") as caught:
        push(RemoteStore(str(tmp_path / "store"), {}), archive)
    assert "Make room there" in caught.value.hint
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_the_project_itself_is_no_store(builder: Project) -> None:
    for address in (".", str(builder.root), f"{builder.root}/archives/.."):
        with pytest.raises(SpecError, match="is the project's own folder"):
            open_store(builder, StoreSpec(address=address))


@pytest.mark.parametrize("address", ["", "http://[", "s3://", "s3:///key", "gs://", "s3://b/x?y"])
def test_an_address_that_is_none_is_an_error_of_the_option_and_of_the_file(
    builder: Project, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(builder.root)
    with pytest.raises(SpecError, match=r"^--store "):
        list_remote(address, json=True)
    builder.deployment.write_text(f"nodes: {{local: {{}}}}\nstore: {address!r}\n")
    with pytest.raises(SpecError, match=r"deployment\.yaml: store\.address: "):
        read_deployment(builder.deployment)


def test_a_store_that_is_not_there_is_not_an_empty_one(tmp_path: Path) -> None:
    assert RemoteStore(str(tmp_path), {}).models() == []
    with pytest.raises(SpecError, match="there is no such folder"):
        RemoteStore(str(tmp_path / "typo"), {}).models()

"""Places that machines share: every kind creates an object once, also when many try at the same moment."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_ports
from tests.support.redis_server import redis_server
from tests.support.unreachable import unreachable
from tests.unit.memory_place import MemoryPlace
from tsctl.archive.remote_store import RemoteStore, StoreUnavailable
from tsctl.control import large
from tsctl.control.folder import FolderPlace
from tsctl.control.mounts import Mount
from tsctl.control.open import open_place
from tsctl.control.place import (
    LARGEST,
    AlreadyThere,
    Place,
    PlaceUnreachable,
    PlaceUnusable,
    TooLarge,
    check,
    numbered,
    numbers,
    read_on,
)
from tsctl.errors import TsctlError

KINDS = ("folder", "redis", "s3", "memory")
BUCKET = "control"


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An address of each kind."""
    from moto.server import ThreadedMotoServer

    folder = tmp_path_factory.mktemp("control")
    redis_port, s3_port = free_ports(2)
    server = ThreadedMotoServer("127.0.0.1", s3_port, verbose=False)
    with pytest.MonkeyPatch.context() as environment, redis_server(folder / "redis", redis_port):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            environment.setenv(name, "test")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_port}")
        server.start()
        try:
            import boto3

            boto3.client("s3").create_bucket(Bucket=BUCKET)
            (folder / "place").mkdir()
            yield {
                "folder": str(folder / "place"),
                "redis": f"redis://127.0.0.1:{redis_port}/0",
                "s3": f"s3://{BUCKET}/a/prefix",
            }
        finally:
            server.stop()


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, addresses: dict[str, str]) -> Iterator[Place]:
    """An empty place."""
    opened = open_place(addresses[request.param]) if request.param in addresses else MemoryPlace()
    check(opened)
    yield opened
    for name in opened.names(""):
        opened.delete(name)


def test_an_object_is_created_once(place: Place) -> None:
    place.create("a/000001.json", b"first")
    with pytest.raises(AlreadyThere, match="somebody else wrote it first"):
        place.create("a/000001.json", b"second")
    with pytest.raises(AlreadyThere):  # an equal object is no other one: two writers may write the same
        place.create("a/000001.json", b"first")
    assert place.read("a/000001.json") == b"first"
    assert place.read("a/000002.json") is None
    assert place.read("a/000001.json/000001.json") is None
    place.delete("a/000001.json")
    place.delete("a/000001.json")
    assert place.read("a/000001.json") is None


def test_names_are_sorted_and_begin_with_the_prefix(place: Place) -> None:
    for name in ("b/000002.json", "b/000001.json", "b/c/000009.json", "bc/000001.json"):
        place.create(name, b"")
    assert place.names("b/") == ["b/000001.json", "b/000002.json", "b/c/000009.json"]
    assert place.names("b/0") == ["b/000001.json", "b/000002.json"]
    assert place.names("b*") == place.names("none/") == []
    assert numbers(place, "b") == [1, 2]
    assert place.names("") == ["b/000001.json", "b/000002.json", "b/c/000009.json", "bc/000001.json"]


def test_of_many_writers_of_one_number_one_has_it(place: Place) -> None:
    def write(writer: int) -> bool:
        try:
            place.create(numbered("n", 7), json.dumps(writer).encode())
        except AlreadyThere:
            return False
        return True

    with ThreadPoolExecutor(8) as writers:
        written = list(writers.map(write, range(16)))
    assert written.count(True) == 1
    assert json.loads(place.read("n/000007.json") or b"") == written.index(True)


def test_numbered_objects_are_read_up_to_the_first_gap(place: Place) -> None:
    for number in (*range(3, 40), 41):
        place.create(numbered("n", number), str(number).encode())
    assert read_on(place, "n", 3) == [str(number).encode() for number in range(3, 40)]
    assert read_on(place, "n", 40) == []
    assert read_on(place, "n", 41) == [b"41"]


def test_opening_leaves_nothing_behind(place: Place) -> None:
    assert place.names("") == []


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "a/", "", ".x", "a/.x", "a b", "a\nb"])
def test_a_name_that_could_lead_elsewhere_is_a_bug(place: Place, name: str) -> None:
    acts: list[Callable[[], object]] = [
        lambda: place.create(name, b""),
        lambda: place.read(name),
        lambda: place.delete(name),
    ]
    for act in acts:
        with pytest.raises(ValueError, match="no name of an object"):
            act()


def test_an_object_is_small(place: Place) -> None:
    with pytest.raises(TooLarge, match=r"large at the place of control would have 1\.0 MB"):
        place.create("large", bytes(LARGEST))


def test_a_large_object_is_put_together_and_removed_with_its_parts(place: Place) -> None:
    content = os.urandom(3 * LARGEST + 7)
    assert large.create(place, numbered("g/n", 3), content)
    assert not large.create(place, numbered("g/n", 4), b"small")
    with pytest.raises(AlreadyThere):
        large.create(place, numbered("g/n", 3), content[::-1])
    assert large.read(place, numbered("g/n", 3)) == content
    assert large.read(place, numbered("g/n", 4)) == b"small"
    assert large.read(place, numbered("g/n", 5)) is None
    parts = place.names("parts/")
    assert len(parts) == 4, "the writer that came second has removed its own"
    assert numbers(place, "g/n") == [3, 4]
    place.delete(parts[2])
    assert large.read(place, numbered("g/n", 3)) == content[: 2 * (LARGEST - 1)]
    large.delete_parts(place, "g/n", 2)
    assert len(place.names("parts/")) == 3
    large.delete_parts(place, "g/n", 3)
    assert place.names("parts/") == []


@pytest.mark.parametrize("kind", ["folder", "redis", "s3"])
def test_what_one_process_creates_another_one_reads(kind: str, addresses: dict[str, str]) -> None:
    first, second = open_place(addresses[kind]), open_place(addresses[kind])
    first.create("b/000001.json", b"x")
    assert (second.read("b/000001.json"), second.names("b/")) == (b"x", ["b/000001.json"])
    second.delete("b/000001.json")
    assert first.names("") == []


class Careless:
    """A place that overwrites, as an S3 service does that ignores the condition."""

    address = "s3://careless"

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}

    def create(self, name: str, content: bytes) -> None:
        self.content[name] = content

    def read(self, name: str) -> bytes | None:
        return self.content.get(name)

    def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self.content if name.startswith(prefix))

    def delete(self, name: str) -> None:
        del self.content[name]


def test_a_place_that_lets_an_object_be_created_again_is_refused() -> None:
    with pytest.raises(PlaceUnusable, match="two machines could decide at once") as refused:
        check(Careless())
    assert "If-None-Match" in refused.value.hint


def test_a_place_that_refuses_and_overwrites_all_the_same_is_refused() -> None:
    class Both(Careless):
        def create(self, name: str, content: bytes) -> None:
            is_there = name in self.content
            super().create(name, content)
            if is_there:
                raise AlreadyThere(name)

    with pytest.raises(PlaceUnusable):
        check(Both())


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("shared/control", "no absolute path"),
        ("ftp://user:secret@host/x", "no place that tsctl knows"),
        ("redis://host:none/0", "no address of Redis"),
        ("s3://", "s3://BUCKET/PREFIX"),
        ("s3://key:secret@bucket/x", "without a user"),
    ],
)
def test_a_wrong_address_is_said_so(address: str, message: str) -> None:
    with pytest.raises(PlaceUnusable, match=message) as refused:
        open_place(address)
    assert "secret" not in refused.value.message


def test_a_bucket_that_is_missing_is_a_mistake_and_no_outage(addresses: dict[str, str]) -> None:
    with pytest.raises(PlaceUnusable, match="NoSuchBucket"):
        open_place("s3://elsewhere/x")


def test_a_redis_that_does_not_answer_is_an_outage() -> None:
    [port] = free_ports(1)
    with pytest.raises(PlaceUnreachable, match="does not answer"):
        open_place(f"redis://u:secret@127.0.0.1:{port}/0")


#: Seconds in which a place or store says that it cannot be reached, on a machine that does other things as well.
SOON_S = 15.0


@pytest.mark.parametrize("why", ["refused", "unknown", "silent"])
def test_an_s3_server_that_cannot_be_reached_is_soon_said_so(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(act: Callable[[], object], error: type[TsctlError]) -> TsctlError:
        begin = time.monotonic()
        with pytest.raises(error) as caught:
            act()
        assert time.monotonic() - begin < SOON_S
        return caught.value

    with unreachable() as addresses:
        monkeypatch.setenv("AWS_ENDPOINT_URL", addresses[why])
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            monkeypatch.setenv(name, "us-east-1")
        place = asked(lambda: open_place("s3://bucket/x"), PlaceUnreachable)
        options = {"endpoint_url": addresses[why]}  # fsspec keeps file systems by their options
        store = asked(lambda: RemoteStore("s3://bucket/x", options).entry("m", "1.0"), StoreUnavailable)
    for error in (place, store):
        assert addresses[why] in error.message
        assert "s3://bucket/x" in error.message
        assert "AWS_ENDPOINT_URL" in error.hint
    assert "cannot be reached" in store.message


def test_a_password_that_redis_refuses_is_a_mistake_and_not_shown(tmp_path: Path) -> None:
    [port] = free_ports(1)
    with redis_server(tmp_path / "redis", port, "--requirepass", "right"):
        open_place(f"redis://:right@127.0.0.1:{port}/0")
        for credentials in (":wrong@", ""):
            with pytest.raises(PlaceUnusable) as refused:
                open_place(f"redis://{credentials}127.0.0.1:{port}/0")
            assert "wrong" not in refused.value.message


def new_folder(folder: Path) -> str:
    path = folder / "place"
    path.mkdir(mode=0o700)
    return str(path)


def test_a_folder_shows_no_object_before_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = FolderPlace(new_folder(tmp_path))

    def full(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(PlaceUnreachable, match="No space left"):
        place.create("a/000001.json", b"x")
    assert place.names("") == []
    assert list((tmp_path / "place" / "a").iterdir()) == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_is_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(source: Any, target: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(PlaceUnusable, match="makes no hard links"):
        open_place(new_folder(tmp_path))
    assert not any((tmp_path / "place" / "check").iterdir())


def test_a_folder_of_nfs_that_remembers_missing_files_is_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = Mount(str(tmp_path), "nfs4", frozenset({"rw", "vers=4.2", "hard"}))
    monkeypatch.setattr("tsctl.control.folder.mount_of", lambda folder: mount)
    with pytest.raises(PlaceUnusable, match="would not see that another one has taken over") as refused:
        open_place(new_folder(tmp_path))
    assert "lookupcache=pos" in refused.value.hint


def test_a_link_whose_answer_was_lost_is_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS repeats a call whose answer does not come, and then finds its own link there."""
    place, link = FolderPlace(new_folder(tmp_path)), os.link

    def twice(source: Any, target: Any) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    place.create("a/000001.json", b"x")
    assert place.read("a/000001.json") == b"x"


def test_a_folder_that_is_gone_is_an_outage_and_not_empty(tmp_path: Path) -> None:
    place = open_place(new_folder(tmp_path))
    (tmp_path / "place" / "check").rmdir()
    (tmp_path / "place").rmdir()
    acts: list[Callable[[], object]] = [
        lambda: place.names(""),
        lambda: place.read("a/000001.json"),
        lambda: place.create("a/000001.json", b"x"),
        lambda: place.delete("a/000001.json"),
        lambda: open_place(place.address),
    ]
    for act in acts:
        with pytest.raises(PlaceUnreachable, match="No such file or directory") as refused:
            act()
        assert "mkdir -m 700" in refused.value.hint
    assert not (tmp_path / "place").exists()


def test_a_folder_that_goes_away_while_it_is_read_has_its_objects_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = open_place(new_folder(tmp_path))
    place.create("a/000001.json", b"x")
    root, away, opened = tmp_path / "place", tmp_path / "away", os.open

    def opened_and_moved(path: object, *rest: object, **more: object) -> int:
        descriptor = opened(path, *rest, **more)  # type: ignore[arg-type]
        if path == root:
            root.rename(away)
        return descriptor

    for act, expected in (
        (lambda: place.read("a/000001.json"), b"x"),
        (lambda: place.names("a/"), ["a/000001.json"]),
        (lambda: place.read("a/000002.json"), None),
        (lambda: place.delete("a/000001.json"), None),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", opened_and_moved)
            assert act() == expected
        away.rename(root)
    assert place.names("a/") == []


def test_files_of_a_folder_are_private(tmp_path: Path) -> None:
    place = open_place(new_folder(tmp_path))
    place.create("a/000001.json", b"x")
    root = tmp_path / "place"
    assert [path.stat().st_mode & 0o777 for path in (root, root / "a")] == [0o700, 0o700]
    assert (root / "a" / "000001.json").stat().st_mode & 0o777 == 0o600

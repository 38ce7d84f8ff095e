"""An archive's bytes depend on its entries alone, and no archive leaves the folder that it is unpacked into."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tsctl.archive.container import Content, check_entries, digest_of, open_archive, unpack
from tsctl.archive.store import parse_name, write_archive
from tsctl.errors import ArchiveError

NAMES = st.from_regex(r"[a-z]{1,6}(/[a-z]{1,6}){0,2}\.(py|json|bin)", fullmatch=True)
ENTRIES = st.dictionaries(NAMES, st.binary(max_size=300), min_size=1, max_size=6)
PROPERTY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(entries: dict[str, Content], store: Path) -> Path:
    archive = write_archive(entries, store, "toy", "1.0")
    assert digest_of(archive.path)[:12] == archive.digest
    assert parse_name(archive.path.name) == ("toy", "1.0", archive.digest)
    return archive.path


@PROPERTY
@given(entries=ENTRIES, data=st.data())
def test_the_same_entries_give_the_same_bytes_in_any_order(
    tmp_path: Path, entries: dict[str, Content], data: st.DataObject
) -> None:
    shuffled = dict(data.draw(st.permutations(list(entries.items()))))
    assert write(entries, tmp_path / "a").read_bytes() == write(shuffled, tmp_path / "b").read_bytes()


@PROPERTY
@given(entries=ENTRIES, data=st.data())
def test_one_changed_byte_is_another_archive(tmp_path: Path, entries: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(entries)))
    content = bytearray(entries[name] + b"x")
    before = write({**entries, name: bytes(content)}, tmp_path)
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    assert write({**entries, name: bytes(content)}, tmp_path).name != before.name


@PROPERTY
@given(entries=ENTRIES)
def test_what_is_written_is_what_is_unpacked(
    tmp_path_factory: pytest.TempPathFactory, entries: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("unpacked")
    unpack(write(dict(entries), folder / "store"), folder / "out")
    found = {
        p.relative_to(folder / "out").as_posix(): p.read_bytes() for p in (folder / "out").rglob("*") if p.is_file()
    }
    assert found == entries


def test_files_count_by_their_bytes_and_not_by_time_mode_or_place(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "elsewhere" / "second"
    second.parent.mkdir()
    for path in (first, second):
        path.write_bytes(b"weights" * 1000)
    first.chmod(0o600)
    second.chmod(0o755)
    os.utime(second, (1, 1))
    archives = {write({"w": first}, tmp_path / "a").name, write({"w": second}, tmp_path / "b").name}
    assert archives == {write({"w": first.read_bytes()}, tmp_path / "c").name}


def test_every_entry_is_stored_at_one_time_with_one_mode(tmp_path: Path) -> None:
    with open_archive(write({"b": b"2" * 5000, "a/c.py": b"1"}, tmp_path)) as archive:
        infos = archive.infolist()
    assert [info.filename for info in infos] == ["a/c.py", "b"]
    for info in infos:
        assert info.compress_type == zipfile.ZIP_STORED
        assert info.date_time == (1980, 1, 1, 0, 0, 0)
        assert info.external_attr >> 16 == stat.S_IFREG | 0o644
        assert (info.create_system, info.extra, info.comment) == (3, b"", b"")


def test_an_archive_that_is_there_is_left_alone_and_nothing_else_stays_in_the_store(tmp_path: Path) -> None:
    path = write({"a": b"1"}, tmp_path)
    os.utime(path, (1, 1))
    assert write({"a": b"1"}, tmp_path) == path
    assert path.stat().st_mtime == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_build_that_fails_leaves_nothing_in_the_store(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write({"a": b"1", "b": tmp_path / "missing"}, tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []


def zip_of(path: Path, *names: str, content: bytes = b"x") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    "name", ["../out.py", "a/../../out.py", "/etc/out", "a\\..\\out.py", "C:/out", "samples/../../../out"]
)
def test_a_name_that_leads_out_is_not_unpacked(tmp_path: Path, name: str) -> None:
    path = zip_of(tmp_path / "evil.mar", "good.py", name)
    with pytest.raises(ArchiveError, match="leads out of the archive"):
        unpack(path, tmp_path / "deep" / "folder")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["evil.mar"]


def test_a_link_is_not_unpacked(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "evil.mar", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ArchiveError, match="symbolic link"):
        unpack(tmp_path / "evil.mar", tmp_path / "folder")


def test_names_that_are_one_on_some_disks_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(zip_of(tmp_path / "a.mar", "Model.py", "model.py")) as archive:
        assert check_entries(archive) == ["entry 'model.py' appears twice (as 'Model.py')"]


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "bomb.mar", "big", content=bytes(20 << 20))
    with pytest.raises(ArchiveError, match=r"grows .*-fold when unpacked"):
        unpack(path, tmp_path / "folder")


def test_what_is_no_zip_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mar").write_bytes(b"no zip")
    with pytest.raises(ArchiveError, match="is not a zip file"):
        open_archive(tmp_path / "a.mar")
    with pytest.raises(ArchiveError, match="no such file"):
        open_archive(tmp_path / "b.mar")

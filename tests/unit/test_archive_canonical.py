"""A zip file passes only if whoever streams it, as TorchServe does, finds what its directory names."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tsctl.archive.canonical import MAX_ENTRIES, NotCanonical, require_canonical
from tsctl.archive.store import import_archive, require_readable
from tsctl.config.project import Project
from tsctl.errors import ArchiveError

MANIFEST = b'{"model": {"modelName": "toy", "handler": "h"}}'
CLEAN = {"MAR-INF/MANIFEST.json": MANIFEST, "h.py": b"benign = 1\n" * 40}


def zip_of(entries: dict[str, bytes] = CLEAN, method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def streamed_zip() -> bytes:
    """Made by a writer that cannot seek back, so sizes follow the data."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.written = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, content: object) -> int:
            self.written += bytes(content)  # type: ignore[call-overload]
            return len(bytes(content))  # type: ignore[call-overload]

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"a" * 100)
        archive.writestr("b", b"b")
    return bytes(pipe.written)


def stream(content: bytes) -> dict[str, bytes]:
    """The entries as java.util.zip.ZipInputStream finds them: header after header, until there is none."""
    found: dict[str, bytes] = {}
    at = 0
    while content[at : at + 4] == b"PK\x03\x04":
        _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = struct.unpack_from(
            "<4s5H3L2H", content, at
        )
        if flags & ~0x0806 or method not in (0, 8):
            raise ValueError("ZipException")
        at += 30
        name = content[at : at + name_length].decode()
        at += name_length
        extra = content[at : at + extra_length]
        if 0xFFFFFFFF in (packed, size):
            size, packed = struct.unpack("<2Q", extra[4:20])
        at += extra_length
        if method == 8:
            inflater = zlib.decompressobj(-15)
            data = inflater.decompress(content[at:]) + inflater.flush()
            used = len(content) - at - len(inflater.unused_data)
        else:
            data, used = content[at : at + size], size
        if (len(data), used, zlib.crc32(data)) != (size, packed, crc):
            raise ValueError("ZipException")
        found[name] = data
        at += used
    return found


def directory(content: bytes) -> dict[str, bytes]:
    """The entries as zipfile finds them."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def check(content: bytes, has_descriptors: bool = False) -> None:
    require_canonical(io.BytesIO(content), has_descriptors)


def concatenated() -> bytes:
    """What is streamed is the first, and what the directory names is the second."""
    return zip_of({**CLEAN, "h.py": b"malignant = 1\n"}) + zip_of()


def shifted() -> bytes:
    """A whole zip file before the entries, with a directory that has the right offsets."""
    buffer = io.BytesIO(zip_of({"h.py": b"malignant = 1\n"}))
    with zipfile.ZipFile(buffer, "a") as archive:
        for name, content in CLEAN.items():
            archive.writestr(f"{name}.py", content)
        archive.filelist = archive.filelist[1:]
    return buffer.getvalue()


def hidden_last() -> bytes:
    """An entry that the directory does not name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {**CLEAN, "json.py": b"malignant = 1\n"}.items():
            archive.writestr(name, content)
        archive.filelist.pop()
    return buffer.getvalue()


def renamed() -> bytes:
    """One name before the data, and another one in the directory."""
    return zip_of().replace(b"h.py", b"g.py", 1)


def two_contents() -> bytes:
    """Two directory entries for the data of the first."""
    content = zip_of({"a.py": b"1", "b.py": b"2"})
    place = content.rindex(b"b.py") - 4
    return content[:place] + struct.pack("<L", 0) + content[place + 4 :]


def other_encoding() -> bytes:
    """A name that is another one in UTF-8 than in code page 437."""
    content = bytearray(zip_of({"ä.py": b"1"}))
    for header in (6, content.index(b"PK\x01\x02") + 8):
        content[header : header + 2] = b"\0\0"
    return bytes(content)


def unicode_path() -> bytes:
    """An extra field that some readers take for the name."""
    info = zipfile.ZipInfo("h.py")
    info.extra = struct.pack("<2HBL", 0x7075, 5 + 4, 1, zlib.crc32(b"h.py")) + b"g.py"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, b"1")
    return buffer.getvalue()


def twice() -> bytes:
    with pytest.warns(UserWarning, match="Duplicate name"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("h.py", b"1")
            archive.writestr("h.py", b"2")
        return buffer.getvalue()


def commented() -> bytes:
    buffer = io.BytesIO(zip_of())
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = zip_of({"h.py": b"malignant = 1\n"})
    return buffer.getvalue()


def encrypted() -> bytes:
    content = bytearray(zip_of())
    for header in (6, content.index(b"PK\x01\x02") + 8):
        content[header] |= 1
    return bytes(content)


def many() -> bytes:
    return zip_of({str(number): b"" for number in range(MAX_ENTRIES + 1)})


FORGED: dict[str, tuple[Callable[[], bytes], str]] = {
    "two zip files": (concatenated, "bytes that belong to no entry"),
    "a zip file before the entries": (shifted, "does not follow the one before it"),
    "bytes before": (lambda: b"#!/bin/sh\n" + zip_of(), "bytes that belong to no entry"),
    "bytes after": (lambda: zip_of() + b"\0", "does not end where its directory ends"),
    "a comment": (commented, "bytes that belong to no entry"),
    "an entry that the directory does not name": (hidden_last, "bytes that belong to no entry follow entry 'h.py'"),
    "two names": (renamed, "entry 'h.py' is described in two ways"),
    "two entries of one place": (two_contents, "bytes that belong to no entry follow entry 'a.py'"),
    "a name in two encodings": (other_encoding, "unknown encoding"),
    "a second name": (unicode_path, "read in different ways"),
    "a name twice": (twice, "entry 'h.py' appears twice"),
    "sizes after the data": (streamed_zip, "states its size after its data"),
    "encrypted": (encrypted, "is encrypted"),
    "too many entries": (many, f"at most {MAX_ENTRIES} are read"),
    "nothing": (lambda: b"", "too short"),
    "half of it": (lambda: zip_of()[:-30], "does not end where its directory ends"),
}


@pytest.mark.parametrize(("make", "why"), FORGED.values(), ids=FORGED)
def test_a_file_that_has_two_readings_enters_nowhere(tmp_path: Path, make: Callable[[], bytes], why: str) -> None:
    path = tmp_path / "toy.mar"
    path.write_bytes(make())
    for enter in (require_readable, lambda p: import_archive(Project(tmp_path / "project"), p)):
        with pytest.raises(ArchiveError, match="no archive") as raised:
            enter(path)
        assert why in raised.value.message
    assert not (tmp_path / "project").exists()


def test_streamed_and_listed_entries_of_two_zip_files_differ() -> None:
    assert stream(concatenated())["h.py"] == b"malignant = 1\n"
    assert directory(concatenated())["h.py"] == CLEAN["h.py"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_zipfile_writes_is_canonical(method: int) -> None:
    content = zip_of({**CLEAN, "ä/ö.json": b"{}", "folder/": b""}, method)
    check(content)
    assert stream(content) == directory(content)


def test_sizes_and_counts_of_64_bits_are_read() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("big", "w", force_zip64=True) as entry:
        entry.write(b"x" * 1000)
    check(buffer.getvalue())
    assert stream(buffer.getvalue()) == {"big": b"x" * 1000}
    with_end = end_of_64_bits(zip_of())
    assert directory(with_end) == CLEAN
    check(with_end)
    with pytest.raises(NotCanonical, match="two ends of its directory differ"):
        check(end_of_64_bits(zip_of(), count=1))


def end_of_64_bits(content: bytes, count: int = 2) -> bytes:
    """The same with a second, 64-bit end of the directory."""
    body, end = content[:-22], content[-22:]
    length, start = struct.unpack_from("<2L", end, 12)
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, start)
    return body + record + struct.pack("<4sLQL", b"PK\x06\x07", 0, len(body), 1) + end


def test_sizes_after_the_data_are_read_where_nothing_streams() -> None:
    content = streamed_zip()
    check(content, has_descriptors=True)
    between = content.index(b"PK\x07\x08")
    with pytest.raises(NotCanonical, match="belong to no entry"):
        check(content[:between] + b"PK\x07\x09" + content[between + 4 :], has_descriptors=True)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
def test_whatever_passes_reads_the_same_in_both_ways(data: st.DataObject, method: int) -> None:
    content = bytearray(zip_of({"a.py": b"1" * 50, "b/c.json": b"{}", "b/d": b""}, method))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.sampled_from([0, 1, 8, 0x50, 0xFF, content[place] ^ 1, content[place] ^ 0x80]))
    try:
        check(bytes(content))
    except NotCanonical:
        return
    both = []
    for read in (stream, directory):
        try:
            both.append(read(bytes(content)))
        except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError):
            both.append({})  # nothing of it is served
    assert {} in both or both[0] == both[1]

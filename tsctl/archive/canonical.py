"""Decides whether every reader of a zip file finds the same entries in it.

A zip file describes each entry twice: before the entry's data and in the directory at its end. TorchServe streams the
file and reads the first; zipfile, picklescan and torch read the second. In a canonical file both agree, and no byte
lies outside of them: entry after entry from the first byte on, then the directory, then its end.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

MAX_ENTRIES = 10_000
MAX_DIRECTORY_BYTES = 16 << 20

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_FULL = 0xFFFFFFFF  # the true number is a 64-bit one in the extra field
_EXTRA_64, _EXTRA_NAME = 0x0001, 0x7075
_DESCRIPTOR, _DEFLATE_LEVEL, _UTF8 = 0x0008, 0x0006, 0x0800
_STORED, _DEFLATED = 0, 8


class NotCanonical(ValueError):
    """Readers of the file may find different entries; the message says where."""


@dataclass(frozen=True)
class _Entry:
    """What a header says of an entry."""

    name: bytes
    flags: int
    method: int
    crc: int
    compressed: int  # bytes in the file
    size: int  # bytes when unpacked


def require_canonical(file: BinaryIO, has_descriptors: bool = False) -> None:
    """Check that the zip file has one reading only.

    Args:
        has_descriptors: allow entries whose checksum and sizes come after their data, as torch writes them. A reader
            that streams must guess where the data of such an entry ends.

    Raises:
        NotCanonical: it has several, more entries than are read, or encrypted ones.
        OSError: it cannot be read.
    """
    size = file.seek(0, io.SEEK_END)
    start, count, stop = _directory(file, size)
    at = 0
    seen = set()
    for entry, offset, next_offset in _entries(_at(file, start, stop - start), count, start):
        if offset != at:
            raise NotCanonical(f"entry {_shown(entry.name)} does not follow the one before it")
        _check(entry, has_descriptors)
        if entry.name in seen:
            raise NotCanonical(f"entry {_shown(entry.name)} appears twice")
        seen.add(entry.name)
        data = _check_local(file, entry, offset)
        rest = next_offset - data - entry.compressed
        if not 0 <= rest <= 24 or _at(file, next_offset - rest, rest) not in _descriptors(entry):
            raise NotCanonical(f"bytes that belong to no entry follow entry {_shown(entry.name)}")
        at = next_offset
    if at != start:
        raise NotCanonical("bytes that belong to no entry lie before its directory")


def _directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Where the directory begins, the number of its entries, and where it ends."""
    stop = size - _END.size
    if stop < 0:
        raise NotCanonical("it is too short for a zip file")
    signature, disk, first_disk, here, count, length, start, comment = _END.unpack(_at(file, stop, _END.size))
    if signature != b"PK\x05\x06" or comment:
        raise NotCanonical("it does not end where its directory ends")
    end_64 = stop - _LOCATOR.size - _END_64.size
    if end_64 >= 0 and _at(file, stop - _LOCATOR.size, 4) == b"PK\x06\x07":
        _, locator_disk, place, disks = _LOCATOR.unpack(_at(file, stop - _LOCATOR.size, _LOCATOR.size))
        short = (here, count, length, start)
        signature, record, _, _, disk, first_disk, *true = _END_64.unpack(_at(file, end_64, _END_64.size))
        is_same = all(a == b or a in (0xFFFF, _FULL) for a, b in zip(short, true, strict=True))
        if (signature, record, locator_disk, place, disks) != (b"PK\x06\x06", 44, 0, end_64, 1) or not is_same:
            raise NotCanonical("the two ends of its directory differ")
        (here, count, length, start), stop = true, end_64
    if disk or first_disk or here != count:
        raise NotCanonical("it is a part of a zip file of several parts")
    if count > MAX_ENTRIES or length > MAX_DIRECTORY_BYTES:
        raise NotCanonical(f"it has {count} entries; at most {MAX_ENTRIES} are read")
    if start + length != stop:
        raise NotCanonical("bytes that belong to no entry lie before it or after its directory")
    return start, count, stop


def _entries(directory: bytes, count: int, start: int) -> Iterator[tuple[_Entry, int, int]]:
    """Each entry of the directory, with the offsets of its header and of what follows its data."""
    found = []
    at = 0
    for _ in range(count):
        fields = _unpack(_CENTRAL, directory, at)
        signature, _, _, flags, method, _, _, crc, compressed, size, *lengths, disk, _, _, offset = fields
        end_name = at + _CENTRAL.size + lengths[0]
        end_extra = end_name + lengths[1]
        name, extra = directory[at + _CENTRAL.size : end_name], _extra(directory[end_name:end_extra])
        at = end_extra + lengths[2]
        if signature != b"PK\x01\x02" or disk or at > len(directory):
            raise NotCanonical("its directory is damaged")
        size, compressed, offset = _wide(extra, size, compressed, offset)
        found.append((_Entry(name, flags, method, crc, compressed, size), offset))
    if at != len(directory):
        raise NotCanonical("its directory has more entries than it says")
    for (entry, offset), (_, following) in zip(found, [*found[1:], (None, start)], strict=True):
        yield entry, offset, following


def _check(entry: _Entry, has_descriptors: bool) -> None:
    allowed = _DEFLATE_LEVEL | _UTF8 | (_DESCRIPTOR if has_descriptors else 0)
    if entry.flags & _DESCRIPTOR & ~allowed:
        raise NotCanonical(f"entry {_shown(entry.name)} states its size after its data; unpack it and pack it again")
    if entry.flags & ~allowed or entry.method not in (_STORED, _DEFLATED):
        raise NotCanonical(f"entry {_shown(entry.name)} is encrypted, or packed in a way that not all readers know")
    if not entry.name or b"\0" in entry.name:
        raise NotCanonical("an entry has no name, or a byte in it that ends a name")
    if not entry.flags & _UTF8 and not entry.name.isascii():
        raise NotCanonical(f"entry {_shown(entry.name)} has a name in an unknown encoding")
    if entry.method == _STORED and entry.compressed != entry.size:
        raise NotCanonical(f"entry {_shown(entry.name)} has two sizes")


def _check_local(file: BinaryIO, entry: _Entry, offset: int) -> int:
    """Check the header before an entry's data; returns where the data begins."""
    header = _at(file, offset, _LOCAL.size)
    signature, _, flags, method, _, _, crc, compressed, size, name_length, extra_length = _unpack(_LOCAL, header, 0)
    after = _at(file, offset + _LOCAL.size, name_length + extra_length)
    extra = _extra(after[name_length:])
    if flags & _DESCRIPTOR and not (crc or compressed or size):
        crc, compressed, size = entry.crc, entry.compressed, entry.size
    else:
        size, compressed = _wide(extra, size, compressed)
    local = _Entry(after[:name_length], flags, method, crc, compressed, size)
    if signature != b"PK\x03\x04" or local != entry:
        raise NotCanonical(f"entry {_shown(entry.name)} is described in two ways")
    return offset + len(header) + len(after)


def _descriptors(entry: _Entry) -> set[bytes]:
    """The bytes that may stand between an entry's data and the next header."""
    if not entry.flags & _DESCRIPTOR:
        return {b""}
    sizes = struct.pack("<2Q", entry.compressed, entry.size)
    forms = [struct.pack("<L", entry.crc) + sizes]
    if max(entry.compressed, entry.size) < _FULL:
        forms.append(struct.pack("<3L", entry.crc, entry.compressed, entry.size))
    return {signature + form for form in forms for signature in (b"", b"PK\x07\x08")}


def _extra(content: bytes) -> dict[int, bytes]:
    """The extra fields of a header, by their kind."""
    fields: dict[int, bytes] = {}
    at = 0
    while at < len(content):
        kind, length = _unpack(struct.Struct("<2H"), content, at)
        at += 4 + length
        if at > len(content) or kind in fields or kind == _EXTRA_NAME:
            raise NotCanonical("an entry has extra fields that readers read in different ways")
        fields[kind] = content[at - length : at]
    return fields


def _wide(extra: dict[int, bytes], *numbers: int) -> list[int]:
    """The numbers of a header, those that are _FULL from its 64-bit field."""
    field, at = extra.get(_EXTRA_64, b""), 0
    wide = []
    for number in numbers:
        if number == _FULL:
            [number] = _unpack(struct.Struct("<Q"), field, at)
            at += 8
        wide.append(number)
    return wide


def _unpack(form: struct.Struct, content: bytes, at: int) -> tuple[Any, ...]:
    try:
        return form.unpack_from(content, at)
    except struct.error:
        raise NotCanonical("a header is cut off") from None


def _at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


def _shown(name: bytes) -> str:
    return repr(name.decode("utf-8", "replace"))

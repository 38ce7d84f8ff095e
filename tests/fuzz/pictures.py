"""Changes pictures part by part, with lengths and check sums that fit, so that a decoder reads on behind them."""

from __future__ import annotations

import struct
import zlib
from random import Random
from typing import Any

from tests.fuzz.surface import Mutate

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: What lies before a picture's pixels, and is parsed in Python; sizes of a bomb are among the contents.
_EXIF = b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00"
ANIMATION = (
    (b"acTL", struct.pack("!II", 2, 0)),
    (b"fcTL", struct.pack("!IIIIIHHBB", 0, 8, 8, 0, 0, 1, 1, 0, 0)),
)
BOMB = (b"zTXt", b"n\0\0" + zlib.compress(b"t" * 4_000_000))
_CHUNKS = (
    *ANIMATION,
    *((b"tRNS", b"\0\0"), (b"tRNS", b"\0" * 6), (b"PLTE", bytes(range(48))), (b"gAMA", struct.pack("!I", 0))),
    *((b"eXIf", _EXIF), (b"cHRM", b"\0" * 32), (b"sRGB", b"\0"), (b"pHYs", b"\0" * 9), (b"bKGD", b"\0")),
    *((b"iCCP", b"n\0\0" + zlib.compress(b"p" * 9)), BOMB),
    *((b"iTXt", b"n\0\1\0\0\0" + zlib.compress(b"t" * 3000)), (b"tEXt", b"n\0t"), (b"IEND", b""), (b"IDAT", b"")),
    *((b"fdAT", b"\0\0\0\1" + zlib.compress(b"\0" * 72)), (b"CgBI", b"\0" * 4), (b"ABCD", b"x")),
)
_SEGMENTS = (
    *((0xE1, b"Exif\0\0" + _EXIF), (0xE2, b"ICC_PROFILE\0\1\1" + b"p" * 9), (0xE2, b"MPF\0" + _EXIF)),
    *((0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x10" + b"\0" * 16), (0xEE, b"Adobe\0d\0\0\0\0\0")),
    *((0xDD, b"\0\1"), (0xC0, b"\x08\xff\xff\xff\xff\x01\x01\x11\0"), (0xC2, b"\x08\0\x08\0\x08\x01\x01\x11\0")),
    *((0xFE, b"comment"), (0xDB, b"\0" + bytes(range(64))), (0xC4, b"\0" * 17), (0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")),
)
_SIDES = (0, 1, 7, 8, 9, 255, 1999, 2001, 4096, 20_000, 65_535, 2**31 - 1, 2**32 - 1)


def mutate(content: bytes, longest: int, random: Random, change: Mutate) -> bytes:
    """A changed picture, whole again; now and then any bytes."""
    if content.startswith(PNG_SIGNATURE) and random.random() < 0.9:
        chunks = png_chunks(content)
        _change_parts(chunks, _CHUNKS, random, change)
        if random.random() < 0.2:
            _change_size(chunks, random)
        return png(chunks)[:longest]
    if content.startswith(b"\xff\xd8") and random.random() < 0.8:
        segments, scan = jpeg_segments(content)
        _change_parts(segments, _SEGMENTS, random, change)
        if random.random() < 0.4:
            scan = change(scan, len(scan) + 64)
        return jpeg(segments, scan)[:longest]
    return change(content, longest)


def png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Type and content of each chunk behind the signature; what is cut off counts as far as it goes."""
    found, at = [], len(PNG_SIGNATURE)
    while at + 8 <= len(content):
        (length,) = struct.unpack_from("!I", content, at)
        found.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A file of these chunks, with the lengths and check sums that belong to them."""
    parts = [PNG_SIGNATURE]
    for kind, content in chunks:
        parts += [struct.pack("!I", len(content)), kind, content, struct.pack("!I", zlib.crc32(kind + content))]
    return b"".join(parts)


def png_of(width: int, height: int, depth: int, colour: int, samples: int) -> bytes:
    """A black picture that is small as a file: `depth` bits for each of the `samples` of a pixel of type `colour`."""
    row = b"\0" * (1 + (width * depth * samples + 7) // 8)
    packer = zlib.compressobj(9)
    packed = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    head = struct.pack("!IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return png([(b"IHDR", head), (b"IDAT", packed), (b"IEND", b"")])


def jpeg_segments(content: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Marker and content of the segments before the pixels, and all from the start of scan on."""
    found, at = [], 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xDA:
        (length,) = struct.unpack_from("!H", content, at + 2)
        found.append((content[at + 1], content[at + 4 : at + 2 + length]))
        at += 2 + max(length, 2)
    return found, content[at:]


def jpeg(segments: list[tuple[int, bytes]], scan: bytes) -> bytes:
    """A file of these segments, with the lengths that belong to them."""
    parts = [b"\xff\xd8"]
    for marker, content in segments:
        parts += [bytes((0xFF, marker)), struct.pack("!H", len(content[:65_533]) + 2), content[:65_533]]
    return b"".join([*parts, scan])


def _change_parts(parts: list[Any], known: tuple[Any, ...], random: Random, change: Mutate) -> None:
    """One part is changed, removed, repeated, or comes new or from somewhere else."""
    kind = random.randrange(6)
    if not parts or kind == 0:
        parts.insert(random.randrange(len(parts) + 1), random.choice(known))
        return
    at = random.randrange(len(parts))
    name, content = parts[at]
    if kind == 1:
        del parts[at]
    elif kind == 2:
        parts.insert(random.randrange(len(parts) + 1), parts[at])
    elif kind == 3:
        parts[at] = (random.choice(parts)[0], content)
    elif name == b"IDAT":
        parts[at] = (name, _repacked(content, random, change))
    else:
        parts[at] = (name, change(content, len(content) + 32))


def _repacked(packed: bytes, random: Random, change: Mutate) -> bytes:
    """Compressed pixels, changed before or after they were compressed."""
    if random.random() < 0.5:
        return change(packed, len(packed) + 32)
    try:
        plain = zlib.decompressobj().decompress(packed, 1 << 16)
    except zlib.error:
        return zlib.compress(packed)
    return zlib.compress(change(plain, len(plain) + 64))


def _change_size(chunks: list[tuple[bytes, bytes]], random: Random) -> None:
    """Another width, height, depth, type or interlacing in the head."""
    at = next((i for i, (kind, content) in enumerate(chunks) if kind == b"IHDR" and len(content) >= 13), None)
    if at is None:
        return
    head = list(struct.unpack_from("!IIBBBBB", chunks[at][1]))
    place = random.randrange(len(head))
    head[place] = random.choice(_SIDES) if place < 2 else random.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    chunks[at] = (b"IHDR", struct.pack("!IIBBBBB", *head))

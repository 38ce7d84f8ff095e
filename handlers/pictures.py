"""What of a picture's file a decoder needs: the rest is left out where it is damaged. Pure: bytes in, bytes out."""

from __future__ import annotations

import struct
import zlib

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Chunks that decide how a PNG looks; of the optional ones, transparency and orientation.
_PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf"})
_JPEG_START = b"\xff\xd8"
_APP0, _APP15, _COMMENT, _SCAN = 0xE0, 0xEF, 0xFE, 0xDA
#: Segments of applications that decide how a JPEG looks, by their begin, and the bytes that a whole one has.
_JPEG_SEGMENTS = {b"JFIF\0": 14, b"Exif\0\0": 14, b"Adobe": 12}


def bare_picture(body: bytes) -> bytes:
    """A PNG or JPEG without comments, profiles and damaged extras; any other body as it is."""
    if body.startswith(_PNG_SIGNATURE):
        return _bare_png(body)
    return _bare_jpeg(body) if body.startswith(_JPEG_START) else body


def _bare_png(body: bytes) -> bytes:
    parts, at = [_PNG_SIGNATURE], len(_PNG_SIGNATURE)
    while at + 12 <= len(body):
        (length,) = struct.unpack_from("!I", body, at)
        kind, end = body[at + 4 : at + 8], at + 12 + length
        is_optional = kind[0] & 0x20
        if kind in _PNG_CHUNKS and not (is_optional and zlib.crc32(body[at + 4 : end - 4]) != _crc(body, end)):
            parts.append(body[at:end])
        at = end
    return b"".join(parts)


def _crc(body: bytes, end: int) -> int | None:
    return int.from_bytes(body[end - 4 : end], "big") if end <= len(body) else None


def _bare_jpeg(body: bytes) -> bytes:
    parts, at = [_JPEG_START], len(_JPEG_START)
    while at + 4 <= len(body) and body[at] == 0xFF and body[at + 1] != _SCAN:
        marker, (length,) = body[at + 1], struct.unpack_from("!H", body, at + 2)
        content = body[at + 4 : at + 2 + length]
        is_extra = marker == _COMMENT or _APP0 <= marker <= _APP15
        if not is_extra or any(content.startswith(k) and len(content) >= n for k, n in _JPEG_SEGMENTS.items()):
            parts.append(body[at : at + 2 + length])
        at += 2 + max(length, 2)
    return b"".join([*parts, body[at:]])

"""Content-Encoding of a request body (RFC 9110, section 8.4): what the standard library decodes. Pure."""

from __future__ import annotations

import zlib

from handlers.errors import PayloadTooLarge, UndecodableBody, UnsupportedMedia
from handlers.protocols.plain import check_size

ENCODING_HEADER = "content-encoding"
#: zlib's window bits: 31 for a gzip member, 15 for zlib's own format, which HTTP calls deflate.
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_LONGEST_NAME = 50


def decode_body(body: bytes, encoding: str, limit_bytes: int) -> bytes:
    """The body that a client encoded; no more than the limit is ever in memory.

    Args:
        encoding: the header's value.
        limit_bytes: of the body, both as it came and decoded.

    Raises:
        UnsupportedMedia: an encoding that is not decoded here, or several.
        PayloadTooLarge: there are more bytes.
        UndecodableBody: the bytes are not of that encoding, or are cut.
    """
    check_size(body, limit_bytes)
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in _WINDOWS:
        raise UnsupportedMedia(
            f"Content-Encoding {name[:_LONGEST_NAME]} is not read here; send the body as it is, or as gzip or deflate."
        )
    decoder = zlib.decompressobj(_WINDOWS[name])
    try:
        decoded = decoder.decompress(body, limit_bytes + 1)
    except zlib.error:
        raise UndecodableBody(f"The body is not {name}, as its Content-Encoding says.") from None
    if len(decoded) > limit_bytes:
        raise PayloadTooLarge(f"The body has more than {limit_bytes} bytes once it is decoded; so many may come.")
    if not decoder.eof or decoder.unused_data:
        raise UndecodableBody(f"The body is not one whole {name} stream: it is cut, or bytes follow it.")
    return decoded

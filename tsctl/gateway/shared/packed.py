"""Larger parts of an object in the place: JSON, compressed, as text."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

from tsctl.host.documents import parse_json

#: Bytes of the content at most; that of a thousand versions has some MiB.
LARGEST = 128 << 20


def pack(content: Any) -> str:
    """The content as text, about a tenth of its size."""
    return base64.b64encode(zlib.compress(json.dumps(content).encode())).decode()


def unpack(text: str) -> Any:
    """The content, read back; raises ValueError where it is damaged."""
    try:
        reader = zlib.decompressobj()
        content = reader.decompress(base64.b64decode(text, validate=True), LARGEST)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not reader.eof:
        raise ValueError(f"it ends too early, or has more than {LARGEST} bytes")
    return parse_json(content)

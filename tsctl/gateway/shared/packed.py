"""Larger parts of an object in the place: JSON, compressed, as text."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

from tsctl.control.place import TooLarge
from tsctl.host.documents import parse_json

#: Bytes of the content at most; that of a thousand versions has some MiB.
LARGEST = 128 << 20


def pack(content: Any) -> str:
    """The content as text, about a tenth of its size; raises TooLarge where `unpack` would refuse it."""
    whole = json.dumps(content).encode()
    if len(whole) >= LARGEST:
        raise TooLarge("what a gateway reads", len(whole), LARGEST)
    return base64.b64encode(zlib.compress(whole)).decode()


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

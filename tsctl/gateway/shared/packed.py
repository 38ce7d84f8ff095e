"""Larger parts of an object in the place: JSON, compressed, as text."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any


def pack(content: Any) -> str:
    """The content as text, about a tenth of its size."""
    return base64.b64encode(zlib.compress(json.dumps(content).encode())).decode()


def unpack(text: str) -> Any:
    """The content, read back; raises ValueError where it is damaged."""
    try:
        return json.loads(zlib.decompress(base64.b64decode(text, validate=True)))
    except zlib.error as error:
        raise ValueError(str(error)) from None

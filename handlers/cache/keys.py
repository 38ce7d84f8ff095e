"""Keys of the response cache: equal only where archive, media type and validated request are the same."""

from __future__ import annotations

import datetime
import hashlib
import marshal
from dataclasses import fields, is_dataclass
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import torch
from pydantic import BaseModel

from handlers.errors import LoadError

#: Marshal's format 2 keeps no references, so that equal values have equal bytes; later ones do.
_MARSHAL_VERSION = 2
#: Standard types whose repr holds all of their value.
_WRITTEN_BY_REPR = (datetime.date, datetime.time, datetime.timedelta, Decimal, UUID)
_SCALARS = frozenset({type(None), bool, int, float, complex, str, bytes})


def canonical(item: Any) -> bytes:
    """Bytes that are equal only for equal items; also from one process and machine to the next.

    Raises:
        TypeError: the item holds something that has no such bytes.
    """
    return marshal.dumps(_plain(item), _MARSHAL_VERSION)


def _plain(value: Any) -> Any:
    """The value as nested tuples of scalars, with the type of every container beside it.

    Marshal alone would not do: it writes an array, and everything else with a buffer, as bare bytes.
    """
    if type(value) in _SCALARS:
        return value
    if isinstance(value, (list, tuple)):
        if _SCALARS.issuperset(map(type, value)):  # a list of numbers, which is most of most requests
            return (_kind(value), tuple(value))
        return (_kind(value), tuple(map(_plain, value)))
    if isinstance(value, BaseModel):
        return (_kind(value), _plain(value.__dict__), _plain(value.__pydantic_extra__))
    if isinstance(value, dict):
        return (_kind(value), tuple((_plain(key), _plain(entry)) for key, entry in value.items()))
    if isinstance(value, set | frozenset):
        return (_kind(value), tuple(sorted(marshal.dumps(_plain(entry), _MARSHAL_VERSION) for entry in value)))
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return ("array", value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return ("tensor", str(value.dtype), tuple(value.shape), flat.numpy().tobytes())
    if isinstance(value, _WRITTEN_BY_REPR):
        return (_kind(value), repr(value))
    if isinstance(value, Enum):
        return (_kind(value), value.name)
    if is_dataclass(value) and not isinstance(value, type):
        return (_kind(value), tuple(_plain(getattr(value, part.name)) for part in fields(value)))
    raise TypeError(f"a {type(value).__name__} has no canonical bytes")


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def archive_digest(model_dir: Path) -> bytes:
    """The archive's part of every key: the digest over the digests of all its entries.

    Raises:
        LoadError: the archive does not carry them.
    """
    path = model_dir / "MAR-INF" / "DIGESTS.json"
    if not path.is_file():
        raise LoadError("the cache needs an archive with MAR-INF/DIGESTS.json: build it with tsctl archive build")
    return hashlib.sha256(path.read_bytes()).digest()


class KeyMaker:
    """Makes the keys of one archive: SHA-256 in full width, so that equal keys mean equal requests."""

    def __init__(self, archive: bytes) -> None:
        self._start = hashlib.sha256(len(archive).to_bytes(4, "big") + archive)

    def __call__(self, media_type: str, item: bytes) -> bytes:
        """The key of a request.

        Args:
            media_type: in lower case, without parameters.
            item: canonical bytes.
        """
        digest = self._start.copy()
        named = media_type.encode()
        digest.update(len(named).to_bytes(4, "big") + named + item)
        return digest.digest()

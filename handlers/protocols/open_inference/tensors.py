"""Tensors in binary: numbers in little-endian row-major order; BYTES with four bytes of length before each. Pure."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from handlers.protocols.open_inference.request import unfit

_TYPES = {
    "BOOL": "u1", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_LENGTH = struct.Struct("<I")


def read_numbers(raw: memoryview, datatype: str, shape: list[int], place: str) -> np.ndarray:
    """The numbers or truth values in binary, as an array of the shape that lies where `raw` lies.

    Raises:
        DoesNotFit: there are more or fewer bytes, or NaN, an infinity, or a truth value that is neither 0 nor 1.
    """
    dtype = np.dtype(_TYPES[datatype])
    wanted = math.prod(shape) * dtype.itemsize
    if len(raw) != wanted:
        raise unfit(place, f"has {len(raw)} bytes, and its shape {shape} of {datatype} has {wanted}")
    array = np.frombuffer(raw, dtype)
    wrong = ~np.isfinite(array) if dtype.kind == "f" else array > 1 if datatype == "BOOL" else None
    if wrong is not None and wrong.any():
        is_what = "is 0 or 1" if datatype == "BOOL" else "is a finite number"
        raise unfit(f"{place}.{int(wrong.argmax())}", f"a value of {datatype} {is_what}")
    return (array.view(np.bool_) if datatype == "BOOL" else array).reshape(shape)


def read_bytes(raw: memoryview, count: int, place: str) -> list[bytes]:
    """The values of a BYTES tensor in binary.

    Raises:
        DoesNotFit: they do not end where the bytes end, or there are more or fewer of them.
    """
    values: list[bytes] = []
    at, end = 0, len(raw)
    while at < end and len(values) < count:
        begin = at + _LENGTH.size
        size = _LENGTH.unpack_from(raw, at)[0] if begin <= end else 0
        if begin + size > end:
            raise unfit(f"{place}.{len(values)}", f"has {size} bytes, and {max(0, end - begin)} are left")
        values.append(bytes(raw[begin : begin + size]))
        at = begin + size
    if len(values) < count or at < end:
        raise unfit(place, f"has {len(values)}{' or more' if at < end else ''} values, and its shape has {count}")
    return values


def encode_values(values: list[Any], datatype: str) -> bytes:
    """Values of an output in binary; texts in UTF-8."""
    if datatype == "BYTES":
        texts = [value.encode() for value in values]
        return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))
    return np.asarray(values, _TYPES[datatype]).tobytes()

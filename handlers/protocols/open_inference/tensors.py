"""Tensors in binary: numbers in little-endian row-major order; BYTES with four bytes of length before each. Pure."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from handlers.protocols.open_inference.request import unfit

#: Python's letter of each datatype, which is NumPy's as well.
_TYPES = {
    "BOOL": "B", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q",
    "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip
_SIZES = {code: struct.calcsize(f"<{code}") for code in _TYPES.values()}
_FLOATS = frozenset(("FP16", "FP32", "FP64"))
#: Numbers that are read one by one.
FEW = 16
_LENGTH = struct.Struct("<I")


def read_numbers(raw: memoryview, datatype: str, shape: list[int], place: str) -> list[Any]:
    """The numbers or truth values in binary, as nested lists of the shape.

    Raises:
        DoesNotFit: there are more or fewer bytes, or NaN, an infinity, or a truth value that is neither 0 nor 1.
    """
    code, count = _TYPES[datatype], math.prod(shape)
    wanted = count * _SIZES[code]
    if len(raw) != wanted:
        raise unfit(place, f"has {len(raw)} bytes, and its shape {shape} of {datatype} has {wanted}")
    if count <= FEW and len(shape) == 1:  # NumPy's calls would take longer than the numbers
        values = list(struct.unpack(f"<{count}{code}", raw))
        if (datatype in _FLOATS and not all(map(math.isfinite, values))) or (datatype == "BOOL" and max(values) > 1):
            _refuse(np.array(values), datatype, place)
        return [bool(value) for value in values] if datatype == "BOOL" else values
    array = np.frombuffer(raw, np.dtype(code).newbyteorder("<"))
    _refuse(array, datatype, place)
    return list((array.view(np.bool_) if datatype == "BOOL" else array).reshape(shape).tolist())


def _refuse(array: np.ndarray, datatype: str, place: str) -> None:
    """Refuse the first value that the datatype has not."""
    if datatype in _FLOATS:
        wrong, is_what = ~np.isfinite(array), "is a finite number"
    elif datatype == "BOOL":
        wrong, is_what = array > 1, "is 0 or 1"
    else:
        return
    if wrong.any():
        raise unfit(f"{place}.{int(wrong.argmax())}", f"a value of {datatype} {is_what}")


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
    return struct.pack(f"<{len(values)}{_TYPES[datatype]}", *values)

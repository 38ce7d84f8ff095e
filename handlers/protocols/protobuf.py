"""The wire format of protocol buffers, as far as the Open Inference Protocol uses it. Pure.

Messages are read where they lie: a field of bytes is a view of the body. Groups, which no message of the protocol has,
are refused. Source: the encoding guide of protocol buffers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import numpy as np

from handlers.errors import UndecodableBody

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
#: Fields of one message; each costs about a microsecond, and takes only two bytes.
MOST_FIELDS = 1 << 18
_LONGEST_VARINT = 10
_64_BITS = (1 << 64) - 1


class Malformed(UndecodableBody):
    """The bytes are no message."""

    def __init__(self, what: str) -> None:
        super().__init__(f"The body is no message of the protocol: {what}.")


def fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Number, wire type and value of each field: a number without its sign for VARINT, else the bytes.

    Raises:
        Malformed: it is cut off, has a group, or more than MOST_FIELDS fields.
    """
    at, end, count = 0, len(message), 0
    while at < end:
        count += 1
        if count > MOST_FIELDS:
            raise Malformed(f"it has more than {MOST_FIELDS} fields")
        tag = message[at]
        if tag < 0x80:  # most are so short
            at += 1
        else:
            tag, at = _varint(message, at)
        number, wire_type = tag >> 3, tag & 7
        if not 1 <= number < 1 << 29:
            raise Malformed(f"no field has the number {number}")
        if wire_type == VARINT:
            value, at = _varint(message, at)
            yield number, VARINT, value
            continue
        if wire_type == BYTES:
            if at < end and message[at] < 0x80:
                size, at = message[at], at + 1
            else:
                size, at = _varint(message, at)
        elif wire_type in (FIXED32, FIXED64):
            size = 4 if wire_type == FIXED32 else 8
        else:
            raise Malformed(f"a field has the wire type {wire_type}")
        if size > end - at:
            raise Malformed(f"field {number} has {size} bytes, and {end - at} are left")
        yield number, wire_type, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at this place, and the place behind it."""
    value = shift = 0
    for place in range(at, min(at + _LONGEST_VARINT, len(message))):
        byte = message[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _64_BITS, place + 1
        shift += 7
    raise Malformed("a number is cut off or too long")


def few_varints(packed: memoryview) -> list[int]:
    """The numbers of a packed field, without their signs; as `varints`, and quicker where they are few.

    Raises:
        Malformed: the last is cut off, or one is too long.
    """
    numbers, at = [], 0
    while at < len(packed):
        number, at = _varint(packed, at)
        numbers.append(number)
    return numbers


def varints(packed: memoryview) -> np.ndarray:
    """The numbers of a packed field, uint64.

    Raises:
        Malformed: the last is cut off, or one is too long.
    """
    content = np.frombuffer(packed, np.uint8)
    ends = np.flatnonzero(content < 0x80)
    if len(content) and content[-1] >= 0x80:
        raise Malformed("a number is cut off")
    begins = np.concatenate(([0], ends[:-1] + 1)).astype(np.intp) if len(ends) else ends
    lengths = ends - begins + 1
    if len(ends) and lengths.max() > _LONGEST_VARINT:
        raise Malformed("a number is too long")
    values = np.zeros(len(ends), np.uint64)
    for place in range(int(lengths.max()) if len(ends) else 0):
        longer = np.flatnonzero(lengths > place)
        part = content[begins[longer] + place].astype(np.uint64) & np.uint64(0x7F)
        values[longer] |= part << np.uint64(7 * place)
    return values


def signed(value: int) -> int:
    """A number of 64 bits with its sign."""
    return value - (1 << 64) if value >> 63 else value


def text(value: int | memoryview, name: str) -> str:
    """The text of a field.

    Raises:
        Malformed: it is no UTF-8 text.
    """
    try:
        return str(content(value, name), "utf-8")
    except UnicodeDecodeError:
        raise Malformed(f"{name} is no UTF-8 text") from None


def content(value: int | memoryview, name: str) -> memoryview:
    """The bytes of a field, such as those of a message.

    Raises:
        Malformed: the field is a number.
    """
    if isinstance(value, int):
        raise Malformed(f"{name} is a number")
    return value


def number(value: int | memoryview, name: str) -> int:
    """The number of a field, without its sign.

    Raises:
        Malformed: the field is none.
    """
    if not isinstance(value, int):
        raise Malformed(f"{name} is no number")
    return value


def encode_varint(value: int) -> bytes:
    """A number, negative ones as their 64 bits."""
    value &= _64_BITS
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_number(number: int, value: int) -> bytes:
    """A field with a number; a boolean is one."""
    return encode_varint(number << 3 | VARINT) + encode_varint(value)


def encode_bytes(number: int, value: bytes) -> bytes:
    """A field with bytes: a text in UTF-8, or a message."""
    return b"".join((encode_varint(number << 3 | BYTES), encode_varint(len(value)), value))


def encode_text(number: int, value: str) -> bytes:
    """A field with a text; nothing for an empty one."""
    return encode_bytes(number, value.encode()) if value else b""


def encode_numbers(number: int, values: Iterable[int]) -> bytes:
    """A packed field with numbers."""
    return encode_bytes(number, b"".join(map(encode_varint, values)))


def encode_double(number: int, value: float) -> bytes:
    """A field with a number of double precision."""
    return encode_varint(number << 3 | FIXED64) + struct.pack("<d", value)

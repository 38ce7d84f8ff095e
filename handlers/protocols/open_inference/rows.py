"""From the input tensors to rows: each input is a field of the handler's `Request`, and its first dimension counts the
rows. A row is the JSON object that a client of `/predictions` would send as one body. Pure."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, FailFast, Field, TypeAdapter, ValidationError

from handlers.contract import JSON, PROTOBUF
from handlers.errors import PayloadTooLarge
from handlers.messages import Request
from handlers.protocols.open_inference.request import InferRequest, Tensor, read_request, unfit
from handlers.protocols.open_inference.tensors import read_bytes, read_numbers
from handlers.protocols.plain import check_size
from handlers.schema import does_not_fit

_LARGEST_FLOAT = {"FP16": 65504.0, "FP32": 3.4028234663852886e38, "FP64": 1.7976931348623157e308}


@dataclass(frozen=True)
class Fields:
    """Names, as a client writes them, of the fields of a handler's request that a tensor is read for in its own way."""

    scalars: frozenset[str] = frozenset()  # one value and no list: a tensor of shape (N, 1) is taken as (N,)
    binary: frozenset[str] = frozenset()  # bytes, where others have texts


@dataclass(slots=True)
class InferRows:
    """A decoded infer request, as one request for each row."""

    rows: list[Request]
    infer: InferRequest
    is_message: bool  # came as a message of protocol buffers, and is answered with one
    request_id: str | None


def read_infer(request: Request, fields: Fields, most_rows: int, most_bytes: int) -> InferRows:
    """The rows of an infer request.

    Args:
        fields: of the handler's request.
        most_rows: so many rows may come at once.
        most_bytes: of the body.

    Raises:
        UnsupportedMedia: the media type is another.
        UnreadableHeader: the length of the JSON before binary data is none.
        UndecodableBody: the bytes are not of that encoding.
        DoesNotFit: it is no infer request, or its tensors contradict themselves or each other.
        PayloadTooLarge: too many bytes or rows.
    """
    check_size(request.body, most_bytes)
    infer, tensors = read_request(request)
    names = [tensor.name for tensor in infer.inputs]
    count = infer.inputs[0].shape[0]
    for index, tensor in enumerate(infer.inputs):
        if tensor.name in names[:index]:
            raise unfit(f"inputs.{index}.name", f"{tensor.name} came before")
        if tensor.shape[0] != count:
            raise unfit(f"inputs.{index}.shape", f"has {tensor.shape[0]} rows, and {names[0]} has {count}")
    if count > most_rows:
        raise PayloadTooLarge(f"The request has {count} rows; at most {most_rows} may come at once.")
    columns = [_rows(tensor, fields) for tensor in tensors]
    rows = [
        Request(b"", JSON, request.headers, request.request_id, dict(zip(names, values, strict=True)), number)
        for number, values in enumerate(zip(*columns, strict=True))
    ]
    return InferRows(rows, infer, request.media_type == PROTOBUF, request.request_id)


def fields_of(request: type[BaseModel]) -> Fields:
    """What a handler's request says of its fields."""
    fields = {field.alias or name: field.annotation for name, field in request.model_fields.items()}
    return Fields(
        frozenset(name for name, annotation in fields.items() if _is_scalar(annotation)),
        frozenset(name for name, annotation in fields.items() if _holds_bytes(annotation)),
    )


def _holds_bytes(annotation: Any) -> bool:
    return annotation is bytes or any(map(_holds_bytes, get_args(annotation)))


def _is_scalar(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, UnionType):
        return all(map(_is_scalar, get_args(annotation)))
    return annotation in (bool, int, float, str, bytes, NoneType) or get_origin(annotation) is Literal


def _rows(tensor: Tensor, fields: Fields) -> list[Any]:
    """One value for each row: nested lists of the shape without its first dimension."""
    spec, place = tensor.spec, tensor.place
    is_binary = spec.name in fields.binary
    shape = spec.shape[:1] if spec.name in fields.scalars and spec.shape[1:] == [1] else spec.shape
    if isinstance(tensor.values, memoryview) and spec.datatype != "BYTES":
        _check_codec(tensor)
        return read_numbers(tensor.values, spec.datatype, shape, place)
    if isinstance(tensor.values, memoryview):
        values: list[Any] = read_bytes(tensor.values, math.prod(spec.shape), place)
    else:
        values = _checked(tensor.values, spec.datatype, spec.shape, place)
    values = _decoded(tensor, values, is_binary)
    for size in reversed(shape[1:]):
        values = [values[begin : begin + size] for begin in range(0, len(values), size)]
    return values


def _checked(data: list[Any], datatype: str, shape: list[int], place: str) -> list[Any]:
    """The values in row-major order, each one of the datatype; BYTES are texts, or bytes as a message has them."""
    values = _flat(data, shape, place)
    if datatype == "BYTES" and isinstance(values[0], bytes):
        return values
    try:
        return _reader(datatype).validate_python(values)
    except ValidationError as error:
        raise does_not_fit(error, values, place) from None


def _check_codec(tensor: Tensor) -> None:
    content_type, datatype = tensor.spec.content_type, tensor.spec.datatype
    if content_type is not None and (content_type == "np") == (datatype == "BYTES"):
        index = tensor.place.split(".")[1]
        raise unfit(f"inputs.{index}.parameters.content_type", f"{content_type} is not for {datatype}")


def _decoded(tensor: Tensor, values: list[Any], is_binary: bool) -> list[Any]:
    """The values as the field has them: bytes, or text; base64 is decoded where the client says that it is such."""
    _check_codec(tensor)
    is_base64 = tensor.spec.content_type == "base64"
    if tensor.spec.datatype != "BYTES" or not (is_base64 or isinstance(values[0], bytes)):
        return values
    decoded: list[Any] = []
    for place, value in enumerate(values):
        try:
            content = base64.b64decode(value, validate=True) if is_base64 else value
            decoded.append(content if is_binary else content.decode())
        except ValueError as error:
            wrong = "UTF-8 text" if isinstance(error, UnicodeDecodeError) else "base64"
            raise unfit(f"{tensor.place}.{place}", f"is not {wrong}") from None
    return decoded


def _flat(data: list[Any], shape: list[int], place: str) -> list[Any]:
    """The values in row-major order, which may come flat or nested as the shape says."""
    if data and isinstance(data[0], list):
        for size in shape[1:]:
            if any(not isinstance(part, list) or len(part) != size for part in data):
                raise unfit(place, f"is not nested as its shape {shape} says")
            data = [value for part in data for value in part]
    wanted = math.prod(shape)
    if len(data) != wanted:
        raise unfit(place, f"has {len(data)} values, and its shape {shape} has {wanted}")
    return data


@cache
def _reader(datatype: str) -> TypeAdapter[list[Any]]:
    kind: Any
    if datatype == "BOOL":
        kind = Annotated[bool, Field(strict=True)]
    elif datatype == "BYTES":
        kind = Annotated[str, Field(strict=True)]
    elif datatype.startswith("FP"):
        largest = _LARGEST_FLOAT[datatype]
        kind = Annotated[float, Field(strict=True, ge=-largest, le=largest, allow_inf_nan=False)]
    else:
        bits = int(datatype.lstrip("UINT"))
        low, high = (0, (1 << bits) - 1) if datatype.startswith("U") else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        kind = Annotated[int, Field(strict=True, ge=low, le=high)]
    # the first mistake alone: a megabyte of wrong values would become 200 MB of mistakes
    return TypeAdapter(Annotated[list[kind], FailFast()])

"""The Open Inference Protocol's infer request, as rows that a handler reads, and their answers as its response.

Each input tensor is a field of the handler's `Request`; its first dimension counts the rows, and a row is the JSON
object that a client of `/predictions` would send as one body. Each key of the answers is an output tensor. Pure.

Source: the protocol's version 2 over REST, as KServe and Triton speak it, without the binary extension.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, FailFast, Field, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json, to_jsonable_python

from handlers.contract import JSON
from handlers.errors import DoesNotFit, PayloadTooLarge, RequestError, UnsupportedMedia
from handlers.messages import Outcome, Request, problem
from handlers.protocols.plain import as_list, check_size
from handlers.schema import Schema, does_not_fit, parse_json

MAX_DIMENSIONS = 8
#: Of one dimension: 31 bits, so that an answer can name a shape and its product.
LARGEST_SIZE = (1 << 31) - 1
#: The output's name where an answer is not an object.
UNNAMED = "output"
#: Digits of an integer that Python, and so most clients, would read back.
_MOST_DIGITS = 4300
_TOO_LARGE = 10**_MOST_DIGITS

_Name = Annotated[str, Field(min_length=1, max_length=256)]
_Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]
_LARGEST_FLOAT = {"FP16": 65504.0, "FP32": 3.4028234663852886e38, "FP64": 1.7976931348623157e308}


class InputParameters(Schema):
    """How the data are written: BYTES as base64, or as it is by the names that MLServer's codecs give to that."""

    content_type: Literal["base64", "str", "np"] | None = None


class OutputParameters(Schema):
    """Triton's clients say of every output whether they want it in the binary extension, which is not offered."""

    binary_data: Literal[False] | None = None


class RequestParameters(Schema):
    """As OutputParameters, where the client names no outputs."""

    binary_data_output: Literal[False] | None = None


class InputTensor(Schema):
    """Values of one field, for every row."""

    name: _Name
    shape: Annotated[list[Annotated[int, Field(ge=1, le=LARGEST_SIZE)]], Field(min_length=1, max_length=MAX_DIMENSIONS)]
    datatype: _Datatype
    data: list[Any]
    parameters: InputParameters | None = None


class RequestedOutput(Schema):
    """An output that the client wants; all of them where it names none."""

    name: _Name
    parameters: OutputParameters | None = None


class InferRequest(Schema):
    """The body of a request; a parameter that means nothing here is a mistake."""

    id: Annotated[str, Field(max_length=256)] | None = None
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1024)]
    outputs: list[RequestedOutput] | None = None
    parameters: RequestParameters | None = None


@dataclass(frozen=True)
class Fields:
    """Names, as a client writes them, of the fields of a handler's request that a tensor is read for in its own way."""

    scalars: frozenset[str] = frozenset()  # one value and no list: a tensor of shape (N, 1) is taken as (N,)
    binary: frozenset[str] = frozenset()  # bytes, where others have texts


@dataclass(slots=True)
class InferRows:
    """A decoded infer request, as one request for each row."""

    rows: list[Request]
    id: str | None
    outputs: list[str]  # empty: all
    request_id: str | None


def read_infer(request: Request, fields: Fields, most_rows: int, most_bytes: int) -> InferRows:
    """The rows of an infer request.

    Args:
        fields: of the handler's request.
        most_rows: so many rows may come at once.
        most_bytes: of the body.

    Raises:
        UnsupportedMedia: the media type is another than JSON.
        UndecodableBody: it is not JSON.
        DoesNotFit: it is no infer request, or its tensors contradict themselves or each other.
        PayloadTooLarge: too many bytes or rows.
    """
    check_size(request.body, most_bytes)
    if request.media_type not in ("", JSON):
        raise UnsupportedMedia(
            f"Content-Type {request.media_type} is not read here; send tensors as {JSON}, without the binary extension."
        )
    infer = parse_json(InferRequest, request.body)
    names = [tensor.name for tensor in infer.inputs]
    count = infer.inputs[0].shape[0]
    for index, tensor in enumerate(infer.inputs):
        if tensor.name in names[:index]:
            raise _unfit(f"inputs.{index}.name", f"{tensor.name} came before")
        if tensor.shape[0] != count:
            raise _unfit(f"inputs.{index}.shape", f"has {tensor.shape[0]} rows, and {names[0]} has {count}")
    if count > most_rows:
        raise PayloadTooLarge(f"The request has {count} rows; at most {most_rows} may come at once.")
    columns = [_rows(index, tensor, fields) for index, tensor in enumerate(infer.inputs)]
    rows = [
        Request(b"", JSON, request.headers, request.request_id, row=dict(zip(names, values, strict=True)))
        for values in zip(*columns, strict=True)
    ]
    return InferRows(rows, infer.id, [output.name for output in infer.outputs or ()], request.request_id)


def fold(infer: InferRows, outcomes: Sequence[Outcome], model: str, version: str) -> Outcome:
    """The response to an infer request, from one outcome for each row; a row without a prediction fails the whole."""
    try:
        outcome = Outcome(200, _response(infer, outcomes, model, version))
    except RequestError as error:
        outcome = refusal(error, infer.request_id, model, version)
    outcome.cache = _cache_state(outcomes)
    return outcome


def refusal(error: RequestError, request_id: str | None, model: str, version: str) -> Outcome:
    """The problem document with one member more, `error`, where clients of the protocol look for the reason."""
    outcome = problem(error, request_id, model, version)
    outcome.body = to_json({**from_json(outcome.body), "error": error.detail})
    return outcome


def _response(infer: InferRows, outcomes: Sequence[Outcome], model: str, version: str) -> bytes:
    """The body of the response.

    Raises:
        RequestError: a row has no prediction, or the client asked for an output that does not exist.
    """
    for row, outcome in enumerate(outcomes):
        if outcome.error is not None:
            raise _row_error(outcome.error, row)
    values = [_json_value(outcome) for outcome in outcomes]
    if all(isinstance(value, dict) for value in values):
        names = list(dict.fromkeys(name for value in values for name in value))
        columns = {name: [value.get(name) for value in values] for name in names}
    else:
        columns = {UNNAMED: values}
    unknown = next((name for name in infer.outputs if name not in columns), None)
    if unknown is not None:
        raise _unfit("outputs", f"there is no output {unknown}; there are {', '.join(columns)}")
    return to_json(
        {
            "model_name": model,
            "model_version": version,
            "id": infer.id if infer.id is not None else infer.request_id,
            "outputs": [_tensor(name, columns[name]) for name in infer.outputs or columns],
        }
    )


def _json_value(outcome: Outcome) -> Any:
    """The answer to a row, with lists in place of arrays; an answer from the cache is read from its bytes."""
    if outcome.value is None:
        return from_json(outcome.body)
    return to_jsonable_python(outcome.value, fallback=as_list)


def _row_error(error: RequestError, row: int) -> RequestError:
    """The same error with the row's number in its detail."""
    numbered = RequestError(f"Row {row}: {error.detail}", error.errors)
    numbered.status, numbered.kind, numbered.title = error.status, error.kind, error.title
    return numbered


def _cache_state(outcomes: Sequence[Outcome]) -> str:
    """The value of `x-cache` for a request with these rows: a hit where all rows were hits."""
    states = {outcome.cache for outcome in outcomes}
    return next((state for state in ("bypass", "miss", "hit") if state in states), "")


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


def _rows(index: int, tensor: InputTensor, fields: Fields) -> list[Any]:
    """One value for each row: nested lists of the shape without its first dimension."""
    place = f"inputs.{index}.data"
    values = _flat(tensor.data, tensor.shape, place)
    try:
        values = _reader(tensor.datatype).validate_python(values)
    except ValidationError as error:
        raise does_not_fit(error, place) from None
    if tensor.parameters is not None and tensor.parameters.content_type is not None:
        values = _decoded(index, tensor, values, tensor.parameters.content_type, tensor.name in fields.binary)
    rest = [] if tensor.name in fields.scalars and tensor.shape[1:] == [1] else tensor.shape[1:]
    for size in reversed(rest):
        values = [values[begin : begin + size] for begin in range(0, len(values), size)]
    return values


def _decoded(index: int, tensor: InputTensor, values: list[Any], content_type: str, is_binary: bool) -> list[Any]:
    """The values that a codec has written: base64 as bytes where the field has bytes, else as text."""
    if (content_type == "np") == (tensor.datatype == "BYTES"):
        raise _unfit(f"inputs.{index}.parameters.content_type", f"{content_type} is not for {tensor.datatype}")
    if content_type != "base64":
        return values
    decoded: list[Any] = []
    for place, value in enumerate(values):
        try:
            content = base64.b64decode(value, validate=True)
            decoded.append(content if is_binary else content.decode())
        except ValueError as error:
            wrong = "UTF-8 text" if isinstance(error, UnicodeDecodeError) else "base64"
            raise _unfit(f"inputs.{index}.data.{place}", f"is not {wrong}") from None
    return decoded


def _flat(data: list[Any], shape: list[int], place: str) -> list[Any]:
    """The values in row-major order, which may come flat or nested as the shape says."""
    if data and isinstance(data[0], list):
        for size in shape[1:]:
            if any(not isinstance(part, list) or len(part) != size for part in data):
                raise _unfit(place, f"is not nested as its shape {shape} says")
            data = [value for part in data for value in part]
    wanted = math.prod(shape)
    if len(data) != wanted:
        raise _unfit(place, f"has {len(data)} values, and its shape {shape} has {wanted}")
    return data


def _tensor(name: str, values: list[Any]) -> dict[str, Any]:
    shape, flat = _shape(values)
    datatype = _datatype(flat)
    if datatype is not None:
        return {"name": name, "shape": shape, "datatype": datatype, "data": flat}
    texts = [to_json(value).decode() for value in values]
    for text in texts:
        if len(text) > _MOST_DIGITS:
            from_json(text)  # raises for an integer that no client could read
    return {
        "name": name,
        "shape": [len(values)],
        "datatype": "BYTES",
        "data": texts,
        "parameters": {"content_type": JSON},  # values that are no tensor come as JSON, a text for each row
    }


def _shape(values: list[Any]) -> tuple[list[int], list[Any]]:
    """Shape and values in row-major order; where lists differ in length they stay, and are the values."""
    shape = [len(values)]
    flat = values
    while all(isinstance(value, list) for value in flat) and flat:
        size = len(flat[0])
        if any(len(value) != size for value in flat):
            break
        shape.append(size)
        flat = [item for value in flat for item in value]
    return shape, flat


def _datatype(values: list[Any]) -> str | None:
    """The datatype of all the values; None where they have none in common.

    Raises:
        ValueError: an integer is too long for most clients.
    """
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return "BOOL"
    if kinds == {str}:
        return "BYTES"
    if kinds == {int} and all(-(1 << 63) <= value < 1 << 63 for value in values):
        return "INT64"
    if not kinds or not kinds <= {int, float}:
        return None
    if int in kinds and any(abs(value) >= _TOO_LARGE for value in values):
        raise ValueError(f"an integer has more than {_MOST_DIGITS} digits")
    return "FP64"


def _unfit(field: str, message: str) -> DoesNotFit:
    return DoesNotFit(f"{field}: {message}.", [{"field": field, "message": message}])


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

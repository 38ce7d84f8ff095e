"""From the outcomes of the rows to the infer response: each key of the answers is an output tensor. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json, to_json, to_jsonable_python

from handlers.contract import BINARY, HEADER_LENGTH_HEADER, JSON, PROTOBUF
from handlers.errors import RequestError
from handlers.messages import Outcome, problem
from handlers.protocols.open_inference.messages import encode_infer_response
from handlers.protocols.open_inference.request import unfit
from handlers.protocols.open_inference.rows import InferRows
from handlers.protocols.open_inference.tensors import encode_values
from handlers.protocols.plain import as_list

#: The output's name where an answer is not an object.
UNNAMED = "output"
#: Digits of an integer that Python, and so most clients, would read back.
_MOST_DIGITS = 4300


def fold(infer: InferRows, outcomes: Sequence[Outcome], model: str, version: str) -> Outcome:
    """The response to an infer request, from one outcome for each row; a row without a prediction fails the whole."""
    try:
        outcome = _response(infer, outcomes, model, version)
    except RequestError as error:
        outcome = problem(error, infer.request_id, model, version)
    outcome.cache = _cache_state(outcomes)
    return outcome


def columns_of(answers: Sequence[Any]) -> dict[str, list[Any]]:
    """The values of each output, one for each answer; None where an answer has no such key."""
    if not all(isinstance(answer, dict) for answer in answers):
        return {UNNAMED: list(answers)}
    names = dict.fromkeys(name for answer in answers for name in answer)
    return {name: [answer.get(name) for answer in answers] for name in names}


def tensor_of(name: str, values: list[Any]) -> dict[str, Any]:
    """An output with one value for each row.

    Raises:
        ValueError: an integer is too long for most clients.
    """
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


def _response(infer: InferRows, outcomes: Sequence[Outcome], model: str, version: str) -> Outcome:
    """The response, in the encoding of the request.

    Raises:
        RequestError: a row has no prediction, or the client asked for an output that does not exist.
    """
    for row, outcome in enumerate(outcomes):
        if outcome.error is not None:
            raise _row_error(outcome.error, row)
    columns = columns_of([_json_value(outcome) for outcome in outcomes])
    request = infer.infer
    wanted = {output.name: output for output in request.outputs or ()}
    unknown = next((name for name in wanted if name not in columns), None)
    if unknown is not None:
        raise unfit("outputs", f"there is no output {unknown}; there are {', '.join(columns)}")
    tensors = [tensor_of(name, columns[name]) for name in wanted or columns]
    document = {
        "model_name": model,
        "model_version": version,
        "id": request.id if request.id is not None else infer.request_id,
        "outputs": tensors,
    }
    raw = [
        encode_values(tensor.pop("data"), tensor["datatype"])
        for tensor in tensors
        if infer.is_message or request.wants_binary(wanted.get(tensor["name"]))
    ]
    if infer.is_message:
        for tensor in tensors:
            tensor.setdefault("parameters", {})
        return Outcome(200, encode_infer_response(document, raw), PROTOBUF)
    if not raw:
        return Outcome(200, to_json(document))
    sizes = iter(map(len, raw))
    for tensor in tensors:
        if "data" not in tensor:
            tensor["parameters"] = {**tensor.get("parameters", {}), "binary_data_size": next(sizes)}
    header = to_json(document)
    return Outcome(200, b"".join([header, *raw]), BINARY, headers=((HEADER_LENGTH_HEADER, str(len(header))),))


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
    """The datatype that holds each of the values as it is; None where none does, so that they come as JSON."""
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return "BOOL"
    if kinds == {str}:
        return "BYTES"
    if kinds == {int} and all(-(1 << 63) <= value < 1 << 63 for value in values):
        return "INT64"
    if not kinds or not kinds <= {int, float}:
        return None
    return "FP64" if int not in kinds or all(map(_is_float, values)) else None


def _is_float(value: float) -> bool:
    """Whether FP64 holds this number: an integer past 2^53 may have no such float, and one past 2^1024 has none."""
    try:
        return isinstance(value, float) or float(value) == value
    except OverflowError:
        return False

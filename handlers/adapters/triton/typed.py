"""Tensors of the handler's schema in and out: how Triton's own clients ask a model.

A request goes to the worker as an infer request of the Open Inference Protocol in binary, so that rows, errors and
limits are those of that protocol on every engine.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as backend
from pydantic_core import from_json, to_json

from handlers.contract import (
    BINARY,
    HEADER_LENGTH_HEADER,
    JSON,
    OPEN_INFERENCE,
    PROTOCOL_HEADER,
    TRITON_BODY,
    TRITON_JSON_PARAMETER,
)
from handlers.messages import Outcome, Request
from handlers.worker.worker import Worker

Execute = Callable[[Worker, Sequence[Any]], list[Any]]

_TYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_DATATYPES = {np.dtype(code): name for name, code in _TYPES.items()}
_LENGTH = struct.Struct("<I")
#: The datatype here of an output of config.pbtxt that is a JSON text for each row.
_AS_JSON = "JSON"
#: Triton's code of an error, by the status that HTTP's clients get.
_CODES = {
    **dict.fromkeys((400, 413, 415, 422), "INVALID_ARG"), 404: "NOT_FOUND", 501: "UNSUPPORTED",
    **dict.fromkeys((503, 504), "UNAVAILABLE"),
}  # fmt: skip


def executor(model_config: Mapping[str, Any]) -> Execute | None:
    """The function that answers requests for a model of this configuration; None for one that gets whole bodies."""
    if [entry["name"] for entry in model_config.get("input", ())] == [TRITON_BODY]:
        return None
    outputs = {entry["name"]: entry["data_type"].removeprefix("TYPE_") for entry in model_config.get("output", ())}
    datatypes = {name: "BYTES" if datatype == "STRING" else datatype for name, datatype in outputs.items()}
    parameter = model_config.get("parameters", {}).get(TRITON_JSON_PARAMETER, {})
    datatypes |= dict.fromkeys(from_json(parameter.get("string_value", "[]")), _AS_JSON)

    def execute(worker: Worker, requests: Sequence[Any]) -> list[Any]:
        outcomes = worker.answer([read_request(request) for request in requests])
        return [_response(request, outcome, datatypes) for request, outcome in zip(requests, outcomes, strict=True)]

    return execute


def read_request(request: Any) -> Request:
    """The request's tensors as the body of an infer request, with their values in binary behind its JSON.

    An optional input that the client left out is no tensor here, and so the field has its default.
    """
    inputs, values = [], []
    for tensor in request.inputs():
        array = tensor.as_numpy()
        values.append(_values(array))
        datatype = "BYTES" if array.dtype == object else _DATATYPES[array.dtype.newbyteorder("<")]
        size = {"binary_data_size": len(values[-1])}
        inputs.append({"name": tensor.name(), "datatype": datatype, "shape": list(array.shape), "parameters": size})
    request_id = request.request_id() or None
    head = to_json({"id": request_id, "inputs": inputs, "parameters": {"binary_data_output": True}})
    headers = {PROTOCOL_HEADER: OPEN_INFERENCE, HEADER_LENGTH_HEADER: str(len(head))}
    return Request(b"".join([head, *values]), BINARY, headers, request_id)


def _values(array: np.ndarray) -> bytes:
    if array.dtype != object:
        return array.tobytes()
    texts = [text if isinstance(text, bytes) else str(text).encode() for text in array.reshape(-1)]
    return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))


def _response(request: Any, outcome: Outcome, datatypes: Mapping[str, str]) -> Any:
    """The outcome as the tensors that the client asked for, in the datatypes of config.pbtxt, or as an error.

    A key of the answer that config.pbtxt does not name is left out: Triton gives no client an output beyond those.
    """
    if outcome.status != 200:
        problem = from_json(outcome.body)
        return _failure(f"{problem['title']}: {problem['detail']}", outcome.status)
    wanted = set(request.requested_output_names())
    tensors = []
    for name, (array, holds_json) in _arrays(outcome).items():
        if name not in datatypes or (wanted and name not in wanted):
            continue
        fitting = _as(datatypes[name], array, holds_json)
        if fitting is None:
            declared = "BYTES" if datatypes[name] == _AS_JSON else datatypes[name]
            given = JSON if holds_json else "BYTES" if array.dtype == object else _DATATYPES[array.dtype]
            return _failure(
                f"The model's answer has {given} for {name}; config.pbtxt declares {declared}, which cannot hold it.",
                500,
            )
        tensors.append(backend.Tensor(name, fitting if fitting.ndim > 1 else fitting.reshape(-1, 1)))
    return backend.InferenceResponse(tensors)


def _failure(message: str, status: int) -> Any:
    code = getattr(backend.TritonError, _CODES.get(status, "INTERNAL"))
    return backend.InferenceResponse(error=backend.TritonError(message, code))


def _arrays(outcome: Outcome) -> dict[str, tuple[np.ndarray, bool]]:
    """The outputs of an infer response in binary; and whether each is a JSON text for each row."""
    length = int(dict(outcome.headers)[HEADER_LENGTH_HEADER])
    values = memoryview(outcome.body)[length:]
    arrays, at = {}, 0
    for output in from_json(outcome.body[:length])["outputs"]:
        size, shape = output["parameters"]["binary_data_size"], output["shape"]
        raw = values[at : at + size]
        at += size
        if output["datatype"] == "BYTES":
            array = np.array(_texts(raw), dtype=object)
        else:
            array = np.frombuffer(raw, _TYPES[output["datatype"]])
        arrays[output["name"]] = array.reshape(shape), output["parameters"].get("content_type") == JSON
    return arrays


def _texts(raw: memoryview) -> list[bytes]:
    texts, at = [], 0
    while at < len(raw):
        begin = at + _LENGTH.size
        at = begin + _LENGTH.unpack_from(raw, at)[0]
        texts.append(bytes(raw[begin:at]))
    return texts


def _as(datatype: str, array: np.ndarray, holds_json: bool) -> np.ndarray | None:
    """The array in this datatype; None where that would change a value, or make a text of it or a value of a text.

    Args:
        array: of one value, or an array of them, for each row.
        holds_json: the values are JSON texts already, because they are no tensor.
    """
    if datatype == _AS_JSON:
        return array if holds_json else np.array([to_json(row) for row in array.tolist()], dtype=object)
    if holds_json:
        return None
    if datatype == "BYTES" or array.dtype == object:
        return array if datatype == "BYTES" and array.dtype == object else None
    wanted = np.dtype(_TYPES[datatype])
    if array.dtype == wanted:
        return array
    if array.dtype == np.bool_ or wanted == np.bool_:
        return None
    with np.errstate(all="ignore"):
        cast = array.astype(wanted)
    if array.dtype.kind == wanted.kind == "f":  # rounded, as a config.pbtxt that says FP32 asks for
        is_kept = np.isfinite(cast) == np.isfinite(array)
    else:
        is_kept = cast.astype(np.longdouble) == array.astype(np.longdouble)  # holds every INT64 and FP64
    return cast if is_kept.all() else None

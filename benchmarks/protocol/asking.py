"""An infer request in each encoding of the protocol, and what a server answers to it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import grpc
import numpy as np
import requests
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from benchmarks.protocol.servers import Place

#: As questions name them.
JSON, BINARY, GRPC = "in JSON", "in binary", "over gRPC"
ENCODINGS = (JSON, BINARY, GRPC)
HEADER_LENGTH = "inference-header-content-length"
TIMEOUT_S = 30.0
_TYPES = {"FP64": "<f8", "FP32": "<f4", "INT64": "<i8", "BOOL": "?"}


@dataclass(frozen=True)
class Tensor:
    """One input; values in row-major order."""

    datatype: str
    shape: Sequence[int]
    values: Sequence[Any]
    is_nested: bool = False  # in JSON, as lists of the shape

    @property
    def raw(self) -> bytes:
        """The values in binary."""
        if self.datatype == "BYTES":
            texts = [value.encode() for value in self.values]
            return b"".join(struct.pack("<I", len(text)) + text for text in texts)
        return np.array(self.values, _TYPES[self.datatype]).tobytes()

    @property
    def data(self) -> list[Any]:
        """The values in JSON."""
        return np.reshape(np.array(self.values, object), self.shape).tolist() if self.is_nested else list(self.values)


@dataclass(frozen=True)
class InferRequest:
    """A request; None for model and version: those of the place."""

    inputs: Mapping[str, Tensor]
    id: str = "mine"
    outputs: Mapping[str, bool | None] = field(default_factory=dict)  # those that are wanted, and whether in binary
    model: str | None = None
    version: str = ""


@dataclass(frozen=True)
class Answer:
    """What a server answered.

    Args:
        status: of HTTP, or of gRPC by its name.
        reason: of an error, where a client of the protocol looks for it; empty: none.
        document: the answer as JSON has it, with the data of every output.
    """

    status: str
    reason: str = ""
    document: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        return self.status in ("200", "OK")

    @property
    def outputs(self) -> dict[str, Mapping[str, Any]]:
        """The outputs by name, in their order."""
        return {output["name"]: output for output in self.document["outputs"]}


def ask(place: Place, request: InferRequest, encoding: str) -> Answer:
    """Send an infer request; whatever the server answers is an answer."""
    if encoding == GRPC:
        return _over_grpc(place, request)
    model = request.model or place.model
    path = f"/v2/models/{model}" + (f"/versions/{request.version}" if request.version else "") + "/infer"
    body, headers = _body(request, encoding)
    return rest(place, "POST", path, body, headers)


def rest(place: Place, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    """One request over REST."""
    sent = {**place.headers, **(headers or {})}
    answer = requests.request(method, f"http://{place.rest}{path}", data=body, headers=sent, timeout=TIMEOUT_S)
    length = answer.headers.get(HEADER_LENGTH)
    try:
        document = json.loads(answer.content[: int(length)] if length else answer.content)
    except ValueError:
        document = {}
    if answer.status_code == 200 and length:
        _add_data(document, answer.content[int(length) :])
    reason = document.get("error", "") if isinstance(document, dict) else ""
    known = document if isinstance(document, dict) else {"list": document}
    return Answer(str(answer.status_code), str(reason), known, answer.headers)


def call(place: Place, method: str, message: Any) -> tuple[str, Any]:
    """One call over gRPC: its status, and the answer or the message of the status."""
    with grpc.insecure_channel(place.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            return "OK", getattr(stub, method)(message, timeout=TIMEOUT_S, metadata=list(place.headers.items()))
        except grpc.RpcError as error:
            return error.code().name, error.details()


def _body(request: InferRequest, encoding: str) -> tuple[bytes, dict[str, str]]:
    inputs, behind = [], b""
    for name, tensor in request.inputs.items():
        described: dict[str, Any] = {"name": name, "shape": list(tensor.shape), "datatype": tensor.datatype}
        if encoding == BINARY:
            behind += tensor.raw
            described["parameters"] = {"binary_data_size": len(tensor.raw)}
        else:
            described["data"] = tensor.data
        inputs.append(described)
    document: dict[str, Any] = {"inputs": inputs}
    if request.id:
        document["id"] = request.id
    if request.outputs:
        document["outputs"] = [
            {"name": name, **({} if wanted is None else {"parameters": {"binary_data": wanted}})}
            for name, wanted in request.outputs.items()
        ]
    if encoding == BINARY and not any(wanted is not None for wanted in request.outputs.values()):
        document["parameters"] = {"binary_data_output": True}
    head = json.dumps(document).encode()
    if encoding == BINARY:
        return head + behind, {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return head, {"content-type": "application/json"}


def _add_data(document: Mapping[str, Any], raw: bytes) -> None:
    """Put the data behind the JSON into the outputs that say so; a size that is not theirs is left over or missing."""
    at = 0
    for output in document["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is not None:
            output["data"] = _values(output["datatype"], raw[at : at + size])
            at += size
    if at != len(raw):
        raise ValueError(f"the outputs have {at} bytes in binary, and there are {len(raw)}")


def _values(datatype: str, raw: bytes) -> list[Any]:
    if datatype != "BYTES":
        return list(np.frombuffer(raw, _TYPES[datatype]).tolist())
    texts, at = [], 0
    while at < len(raw):
        [size] = struct.unpack_from("<I", raw, at)
        texts.append(raw[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return texts


def _over_grpc(place: Place, request: InferRequest) -> Answer:
    message = pb.ModelInferRequest(
        model_name=request.model or place.model,
        model_version=request.version,
        id=request.id,
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in request.outputs],
    )
    for name, tensor in request.inputs.items():
        described = pb.ModelInferRequest.InferInputTensor(name=name, datatype=tensor.datatype, shape=tensor.shape)
        message.inputs.append(described)
        message.raw_input_contents.append(tensor.raw)
    status, said = call(place, "ModelInfer", message)
    if status != "OK":
        return Answer(status, said or "")
    outputs = []
    for index, output in enumerate(said.outputs):
        shape, datatype = list(output.shape), output.datatype
        data = (
            _values(datatype, said.raw_output_contents[index])
            if said.raw_output_contents
            else _contents(output.contents, prod(shape))
        )
        outputs.append({"name": output.name, "datatype": datatype, "shape": shape, "data": data})
    names = {"model_name": said.model_name, "model_version": said.model_version, "id": said.id}
    return Answer(status, document={**names, "outputs": outputs})


def _contents(contents: Any, count: int) -> list[Any]:
    """The values of an output that has them in one of the fields of its datatype."""
    for _, values in contents.ListFields():
        if len(values) == count:
            return [value.decode() if isinstance(value, bytes) else value for value in values]
    return []

"""The protocol's messages for gRPC, read and written without a library of protocol buffers. Pure.

Source: the service inference.GRPCInferenceService of KServe and Triton. The field numbers of both are the same.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from handlers.protocols.protobuf import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    Malformed,
    content,
    encode_bytes,
    encode_double,
    encode_number,
    encode_numbers,
    encode_text,
    few_varints,
    fields,
    number,
    signed,
    text,
    varints,
)

#: Inputs that are remembered, each of so many bytes at most: without contents, name, datatype and shape are all that
#: they say, and a client says the same of them each time.
REMEMBERED, LONGEST_KNOWN = 1024, 128
#: Of one shape; what is too many for a tensor is said later.
MOST_SIZES = 1024

Contents = dict[str, list[Any]]


@dataclass(slots=True)
class InferMessage:
    """A ModelInferRequest."""

    document: dict[str, Any]  # as the body of a REST request, without data
    contents: list[Contents | None]  # of each input, by the field's name; None: it has none
    raw: list[memoryview]  # raw_input_contents


class Target(NamedTuple):
    """The model that a request names, and its version; empty: the server chooses."""

    model: str
    version: str


class _Kind(NamedTuple):
    name: str
    packed: str  # NumPy's type of the values in one piece; empty: numbers of variable length, or bytes
    wire_type: int  # of a value alone


_CONTENTS = {
    1: _Kind("bool_contents", "", VARINT),
    2: _Kind("int_contents", "", VARINT),
    3: _Kind("int64_contents", "", VARINT),
    4: _Kind("uint_contents", "", VARINT),
    5: _Kind("uint64_contents", "", VARINT),
    6: _Kind("fp32_contents", "<f4", FIXED32),
    7: _Kind("fp64_contents", "<f8", FIXED64),
    8: _Kind("bytes_contents", "", BYTES),
}


def read_target(message: memoryview) -> Target:
    """Model and version of a ModelInferRequest, ModelMetadataRequest or ModelReadyRequest: fields 1 and 2 of all three.

    Raises:
        Malformed: the bytes are no message.
    """
    found = {1: "", 2: ""}
    for field, _, value in fields(message):
        if field in found:
            found[field] = text(value, "the model's name" if field == 1 else "the model's version")
    return Target(found[1], found[2])


def read_index_request(message: memoryview) -> bool:
    """Whether a RepositoryIndexRequest asks for the models that are ready, and for no others.

    Raises:
        Malformed: the bytes are no message.
    """
    return any([number(value, "ready") != 0 for field, _, value in fields(message) if field == 2][-1:])


def read_infer_message(message: memoryview) -> InferMessage:
    """A ModelInferRequest.

    Raises:
        Malformed: the bytes are none.
    """
    document: dict[str, Any] = {"inputs": []}
    read = InferMessage(document, [], [])
    for field, _, value in fields(message):
        if field in (1, 2, 3):
            name = ("model_name", "model_version", "id")[field - 1]
            document[name] = text(value, name)
        elif field == 4:
            _add_parameter(document, content(value, "parameters"))
        elif field == 5:
            tensor = content(value, "inputs")
            entry, contents = _known_input(bytes(tensor)) if len(tensor) <= LONGEST_KNOWN else _input(tensor)
            document["inputs"].append(entry)
            read.contents.append(contents)
        elif field == 6:
            document.setdefault("outputs", []).append(_output(content(value, "outputs")))
        elif field == 7:
            read.raw.append(content(value, "raw_input_contents"))
    if not document.get("id"):
        document["id"] = None
    return read


@lru_cache(REMEMBERED)
def _known_input(message: bytes) -> tuple[dict[str, Any], Contents | None]:
    """As `_input`; nobody may change what it returns."""
    return _input(memoryview(message))


def _input(message: memoryview) -> tuple[dict[str, Any], Contents | None]:
    entry: dict[str, Any] = {"name": "", "datatype": "", "shape": []}
    contents: Contents | None = None
    for field, wire_type, value in fields(message):
        if field in (1, 2):
            name = ("name", "datatype")[field - 1]
            entry[name] = text(value, name)
        elif field == 3:
            sizes = few_varints(content(value, "shape")) if wire_type == BYTES else [number(value, "shape")]
            if len(sizes) > MOST_SIZES:
                raise Malformed(f"a shape has {len(sizes)} sizes")
            entry["shape"] += map(signed, sizes)
        elif field == 4:
            _add_parameter(entry, content(value, "parameters"))
        elif field == 5:
            contents = {} if contents is None else contents
            _add_contents(contents, content(value, "contents"))
    return entry, contents


def _output(message: memoryview) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": ""}
    for field, _, value in fields(message):
        if field == 1:
            entry["name"] = text(value, "name")
        elif field == 2:
            _add_parameter(entry, content(value, "parameters"))
    return entry


def _add_contents(contents: Contents, message: memoryview) -> None:
    for field, wire_type, value in fields(message):
        kind = _CONTENTS.get(field)
        if kind is not None:
            contents.setdefault(kind.name, []).extend(_values(kind, wire_type, value))


def _values(kind: _Kind, wire_type: int, value: int | memoryview) -> list[Any]:
    if wire_type not in (kind.wire_type, BYTES):
        raise Malformed(f"{kind.name} has the wire type {wire_type}")
    if kind.wire_type == BYTES:
        return [bytes(content(value, kind.name))]
    if kind.packed:
        piece = content(value, kind.name)
        size = np.dtype(kind.packed).itemsize
        if len(piece) % size:
            raise Malformed(f"{kind.name} has {len(piece)} bytes, which {size} does not divide")
        return list(np.frombuffer(piece, kind.packed).tolist())
    numbers = varints(value) if isinstance(value, memoryview) else np.array([value], np.uint64)
    if kind.name == "bool_contents":
        return list((numbers != 0).tolist())
    return list(numbers.view(np.int64).tolist() if "uint" not in kind.name else numbers.tolist())


def _add_parameter(owner: dict[str, Any], message: memoryview) -> None:
    """Add one entry of a map of parameters to the member `parameters`."""
    key, parameter = "", None
    for field, _, value in fields(message):
        if field == 1:
            key = text(value, "a parameter's name")
        elif field == 2:
            for kind, wire_type, chosen in fields(content(value, "a parameter")):
                parameter = _parameter(kind, wire_type, chosen)
    owner.setdefault("parameters", {})[key] = parameter


def _parameter(kind: int, wire_type: int, value: int | memoryview) -> Any:
    if kind == 1:
        return number(value, "bool_param") != 0
    if kind == 2:
        return signed(number(value, "int64_param"))
    if kind == 3:
        return text(value, "string_param")
    if kind == 4 and wire_type == FIXED64:
        return struct.unpack("<d", content(value, "double_param"))[0]
    if kind == 5:
        return number(value, "uint64_param")
    return None


# ---- answers ---------------------------------------------------------------------------------------------------------


def encode_infer_response(document: Mapping[str, Any], raw: Sequence[bytes]) -> bytes:
    """A ModelInferResponse.

    Args:
        document: as the body of a REST response, without data.
        raw: the values of each output.
    """
    parts = [
        encode_text(1, document["model_name"]),
        encode_text(2, document["model_version"]),
        encode_text(3, document.get("id") or ""),
    ]
    for output in document["outputs"]:
        tensor = _encode_tensor(output) + b"".join(_encode_parameter(4, *p) for p in output["parameters"].items())
        parts.append(encode_bytes(5, tensor))
    return b"".join([*parts, *(encode_bytes(6, piece) for piece in raw)])


def encode_model_metadata(document: Mapping[str, Any]) -> bytes:
    """A ModelMetadataResponse, from the same answer as JSON."""
    return b"".join(
        [
            encode_text(1, document["name"]),
            *(encode_bytes(2, version.encode()) for version in document["versions"]),
            encode_text(3, document["platform"]),
            *(encode_bytes(4, _encode_tensor(tensor)) for tensor in document["inputs"]),
            *(encode_bytes(5, _encode_tensor(tensor)) for tensor in document["outputs"]),
        ]
    )


def encode_server_metadata(document: Mapping[str, Any]) -> bytes:
    """A ServerMetadataResponse, from the same answer as JSON."""
    names = encode_text(1, document["name"]) + encode_text(2, document["version"])
    return names + b"".join(encode_bytes(3, name.encode()) for name in document["extensions"])


def encode_repository_index(models: Sequence[Mapping[str, str]]) -> bytes:
    """A RepositoryIndexResponse, from the same answer as JSON."""
    names = ("name", "version", "state", "reason")
    return b"".join(
        encode_bytes(1, b"".join(encode_text(place, model.get(name, "")) for place, name in enumerate(names, 1)))
        for model in models
    )


def encode_flag(is_so: bool) -> bytes:
    """A ServerLiveResponse, ServerReadyResponse or ModelReadyResponse: field 1 of all three."""
    return encode_number(1, 1) if is_so else b""


def _encode_tensor(tensor: Mapping[str, Any]) -> bytes:
    """Name, datatype and shape: fields 1 to 3 of the messages that describe a tensor."""
    names = encode_text(1, tensor["name"]) + encode_text(2, tensor["datatype"])
    return names + encode_numbers(3, tensor["shape"])


def _encode_parameter(field: int, key: str, value: Any) -> bytes:
    if isinstance(value, bool | int):
        encoded = encode_number(1 if isinstance(value, bool) else 2, value)
    elif isinstance(value, float):
        encoded = encode_double(4, value)
    else:
        encoded = encode_bytes(3, str(value).encode())
    return encode_bytes(field, encode_bytes(1, key.encode()) + encode_bytes(2, encoded))

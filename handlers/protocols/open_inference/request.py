"""The infer request: what it must say, whichever encoding it came in, and its encodings with JSON. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from handlers.contract import BINARY, HEADER_LENGTH_HEADER, JSON, PROTOBUF
from handlers.errors import DoesNotFit, UndecodableBody, UnreadableHeader, UnsupportedMedia
from handlers.messages import Request
from handlers.protocols.open_inference.messages import InferMessage, read_infer_message
from handlers.schema import Schema, does_not_fit, parse_json

MAX_DIMENSIONS = 8
#: Of one dimension: 31 bits, so that an answer can name a shape and its product.
LARGEST_SIZE = (1 << 31) - 1

_Name = Annotated[str, Field(min_length=1, max_length=256)]
Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]


class InputParameters(Schema):
    """How the data are written.

    `content_type`: BYTES as base64, or as it is by the names that MLServer's codecs give to that. `binary_data_size`:
    the bytes behind the JSON that are this tensor.
    """

    content_type: Literal["base64", "str", "np"] | None = None
    binary_data_size: Annotated[int, Field(ge=0)] | None = None


class OutputParameters(Schema):
    """Whether the client wants this output in binary, behind the JSON."""

    binary_data: bool | None = None


class RequestParameters(Schema):
    """As OutputParameters, for outputs that say nothing of it themselves."""

    binary_data_output: bool | None = None


class InputTensor(Schema):
    """Values of one field, for every row."""

    name: _Name
    shape: Annotated[list[Annotated[int, Field(ge=1, le=LARGEST_SIZE)]], Field(min_length=1, max_length=MAX_DIMENSIONS)]
    datatype: Datatype
    data: list[Any] | None = None
    parameters: InputParameters | None = None

    @property
    def content_type(self) -> str | None:
        return self.parameters.content_type if self.parameters else None

    @property
    def binary_size(self) -> int | None:
        return self.parameters.binary_data_size if self.parameters else None


class RequestedOutput(Schema):
    """An output that the client wants; all of them where it names none."""

    name: _Name
    parameters: OutputParameters | None = None


class InferRequest(Schema):
    """The body of a request; a parameter that means nothing here is a mistake.

    Model and version are those of the path: KServe's client names them in the body as well.
    """

    id: Annotated[str, Field(max_length=256)] | None = None
    model_name: str | None = None
    model_version: str | None = None
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1024)]
    outputs: Annotated[list[RequestedOutput], Field(max_length=1024)] | None = None
    parameters: RequestParameters | None = None

    def wants_binary(self, output: RequestedOutput | None) -> bool:
        """Whether this output is to be sent in binary; None: one that the request does not name."""
        if output is not None and output.parameters is not None and output.parameters.binary_data is not None:
            return output.parameters.binary_data
        return bool(self.parameters and self.parameters.binary_data_output)


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input with its values, as its encoding had them."""

    spec: InputTensor
    values: list[Any] | memoryview  # bytes: of the binary encoding
    place: str  # where they are in the request, such as `inputs.0.data`


def read_request(request: Request) -> tuple[InferRequest, list[Tensor]]:
    """The infer request in a body, and its inputs in order.

    Raises:
        UnsupportedMedia: the media type is another.
        UnreadableHeader: the length of the JSON before binary data is none.
        UndecodableBody: the bytes are not of that encoding.
        DoesNotFit: it is no infer request.
    """
    if request.media_type == PROTOBUF:
        return _of_message(read_infer_message(memoryview(request.body)))
    length = request.headers.get(HEADER_LENGTH_HEADER)
    if request.media_type not in ("", JSON, *((BINARY,) if length is not None else ())):
        raise UnsupportedMedia(
            f"Content-Type {request.media_type} is not read here; send tensors as {JSON}, as {PROTOBUF}, or in binary"
            f" behind the JSON, as {BINARY} with the header {HEADER_LENGTH_HEADER}."
        )
    if length is None:
        return _of_json(request.body, memoryview(b""))
    header = _header_length(length, len(request.body))
    return _of_json(request.body[:header], memoryview(request.body)[header:])


def _header_length(text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and int(text) <= most):
        raise UnreadableHeader(
            f"{HEADER_LENGTH_HEADER} is {text[:20]!r}; it is the length of the JSON at the begin of the body, which has"
            f" {most} bytes."
        )
    return int(text)


def _of_json(body: bytes, binary: memoryview) -> tuple[InferRequest, list[Tensor]]:
    infer = parse_json(InferRequest, body)
    tensors, at = [], 0
    for index, spec in enumerate(infer.inputs):
        size = spec.binary_size
        place = f"inputs.{index}.data"
        if size is None:
            if spec.data is None:
                raise unfit(place, "is missing")
            tensors.append(Tensor(spec, spec.data, place))
            continue
        if spec.data is not None or size > len(binary) - at:
            why = f"{len(binary) - at} bytes are left" if spec.data is None else "the input has data as well"
            raise unfit(f"inputs.{index}.parameters.binary_data_size", f"is {size}, and {why}")
        tensors.append(Tensor(spec, binary[at : at + size], place))
        at += size
    if at < len(binary):
        raise UndecodableBody(f"The body has {len(binary) - at} bytes behind the JSON that belong to no input.")
    return infer, tensors


def _of_message(message: InferMessage) -> tuple[InferRequest, list[Tensor]]:
    try:
        infer = InferRequest.model_validate(message.document)
    except ValidationError as error:
        raise does_not_fit(error, message.document) from None
    raw = iter(message.raw)
    tensors = []
    for index, spec in enumerate(infer.inputs):
        contents = message.contents[index]
        if contents is None:
            place = f"inputs.{index}"
            piece = next(raw, None)
            if piece is None:
                raise unfit(place, "has no contents, and nothing of raw_input_contents is left for it")
            if spec.binary_size not in (None, len(piece)):
                raise unfit(f"{place}.parameters.binary_data_size", f"is {spec.binary_size}, and it has {len(piece)}")
            tensors.append(Tensor(spec, piece, f"{place}.raw_input_contents"))
            continue
        place = f"inputs.{index}.contents"
        name = CONTENTS_OF.get(spec.datatype)
        if name is None or contents.keys() - {name}:
            has = f"in {name}" if name else "in raw_input_contents"
            raise unfit(place, f"{spec.datatype} has its values {has}")
        tensors.append(Tensor(spec, contents.get(name, []), place))
    if next(raw, None) is not None:
        raise unfit("raw_input_contents", "has more entries than there are inputs without contents")
    return infer, tensors


#: Where the values of a datatype are, in a message that does not have them in raw_input_contents.
CONTENTS_OF = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def unfit(field: str, message: str) -> DoesNotFit:
    """The error for one mistake at one place of the request."""
    return DoesNotFit(f"{field}: {message}.", [{"field": field, "message": message}])

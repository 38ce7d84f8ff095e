"""Infer requests with tensors in binary, behind the JSON or as a message of protocol buffers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import InferInput as MessageInput
from tritonclient.grpc import service_pb2 as pb
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult

from handlers.contract import BINARY, HEADER_LENGTH_HEADER, OPEN_INFERENCE, PROTOBUF, PROTOCOL_HEADER
from handlers.errors import RequestError
from handlers.messages import Outcome, Request
from handlers.protocols.open_inference import Fields, fold, read_infer
from handlers.protocols.open_inference.messages import Target, read_infer_message, read_target
from handlers.protocols.protobuf import MOST_FIELDS, Malformed, fields, varints
from tests.handlers.test_oip import GOLDEN, SAMPLES, WeighedHandler
from tests.support.workers import JSON, Item, Reply, Worker, write_archive_folder

PAIRS = np.array([[1, 2], [3.5, 4]], np.float32)
DTYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT16": "uint_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}  # fmt: skip


@pytest.fixture
def weighed(tmp_path: Path) -> Worker:
    return Worker(WeighedHandler(), write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN, batch_size=4))


# ---- binary behind the JSON ------------------------------------------------------------------------------------------


def binary(document: Any, *pieces: bytes, header: str | None = None, media_type: str = BINARY) -> Item:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    headers = {PROTOCOL_HEADER: OPEN_INFERENCE, HEADER_LENGTH_HEADER: str(len(text)) if header is None else header}
    return Item(text + b"".join(pieces), media_type, headers)


def described(name: str, shape: list[int], datatype: str, size: int | None) -> dict[str, Any]:
    parameters = {} if size is None else {"parameters": {"binary_data_size": size}}
    return {"name": name, "shape": shape, "datatype": datatype, **parameters}


def inputs_of_client(is_binary: bool) -> list[InferInput]:
    pairs, names = InferInput("pair", [2, 2], "FP32"), InferInput("name", [2], "BYTES")
    pairs.set_data_from_numpy(PAIRS, is_binary)
    names.set_data_from_numpy(np.array(["a", "grün"], object), is_binary)
    return [pairs, names]


def result(reply: Reply) -> InferResult:
    assert reply.status == 200, reply.body
    length = reply.headers.get(HEADER_LENGTH_HEADER)
    assert reply.media_type == (JSON if length is None else BINARY)
    return InferResult.from_response_body(reply.body, header_length=length and int(length))


@pytest.mark.parametrize("is_binary", [True, False])
@pytest.mark.parametrize("wants", ["everything in binary", "one in binary", "JSON"])
@pytest.mark.parametrize("media_type", [BINARY, JSON, ""])
def test_bodies_of_tritons_client_are_read_and_answered(
    weighed: Worker, is_binary: bool, wants: str, media_type: str
) -> None:
    outputs = None if wants == "everything in binary" else [
        InferRequestedOutput("sum", wants == "one in binary"), InferRequestedOutput("name", False)
    ]  # fmt: skip
    body, length = InferenceServerClient.generate_request_body(inputs_of_client(is_binary), outputs)
    headers = {PROTOCOL_HEADER: OPEN_INFERENCE, **({} if length is None else {HEADER_LENGTH_HEADER: str(length)})}
    if media_type == BINARY and length is None:
        media_type = JSON
    [reply] = weighed.ask(Item(body, media_type, headers))
    read = result(reply)
    assert (HEADER_LENGTH_HEADER in reply.headers) == (wants != "JSON")
    assert read.as_numpy("sum").tolist() == [3.0, 7.5]
    names = read.as_numpy("name").tolist()
    assert [n if isinstance(n, str) else n.decode() for n in names] == ["a", "grün"]
    assert reply.headers["x-model-version"] == "1.0"
    if wants == "everything in binary":
        assert read.as_numpy("is_big").tolist() == [False, False]
        assert [json.loads(t) for t in read.as_numpy("digits")] == [[], [0]]


PAIR = PAIRS.tobytes()
TWO = described("pair", [2, 2], "FP32", 16)


@pytest.mark.parametrize(
    ("item", "status", "field"),
    [
        (binary({"inputs": [TWO]}, PAIR[:-1]), 422, "binary_data_size: is 16, and 15 bytes are left"),
        (binary({"inputs": [TWO]}, PAIR, b"x"), 400, "1 bytes behind the JSON"),
        (binary({"inputs": [{**TWO, "shape": [2, 3]}]}, PAIR), 422, "shape [2, 3] of FP32 has 24"),
        (binary({"inputs": [{**TWO, "shape": [2, 1 << 31]}]}, PAIR), 422, "inputs.0.shape.1"),
        (binary({"inputs": [{**TWO, "shape": [2] + [(1 << 31) - 1] * 7}]}, PAIR), 422, "inputs.0.data: has 16 bytes"),
        (binary({"inputs": [{**TWO, "shape": [2, -2]}]}, PAIR), 422, "inputs.0.shape.1"),
        (binary({"inputs": [{**TWO, "datatype": "FP64"}]}, PAIR), 422, "of FP64 has 32"),
        (binary({"inputs": [{**TWO, "datatype": "BF16"}]}, PAIR), 422, "inputs.0.datatype"),
        (binary({"inputs": [{**TWO, "data": [1, 2, 3, 4]}]}, PAIR), 422, "has data as well"),
        (binary({"inputs": [described("pair", [2, 2], "FP32", None)]}, PAIR), 422, "inputs.0.data: is missing"),
        (binary({"inputs": [described("pair", [2, 2], "FP32", -1)]}), 422, "binary_data_size"),
        (binary({"inputs": [described("pair", [2, 2], "FP32", 1 << 70)]}), 422, "binary_data_size"),
        (binary({"inputs": [TWO]}, np.array([1, np.nan, 1, 1], np.float32).tobytes()), 422, "data.1: a value of FP32"),
        (binary({"inputs": [TWO]}, np.array([1, 1, np.inf, 1], np.float32).tobytes()), 422, "data.2"),
        (binary({"inputs": [described("pair", [1, 2], "BOOL", 2)]}, b"\1\2"), 422, "data.1: a value of BOOL is 0 or 1"),
        (binary({"inputs": [described("name", [1], "BYTES", 4)]}, b"\5\0\0\0"), 422, "data.0: has 5 bytes, and 0"),
        (binary({"inputs": [described("name", [1], "BYTES", 3)]}, b"\0\0\0"), 422, "data.0: has 0 bytes, and 0"),
        (binary({"inputs": [described("name", [1], "BYTES", 4)]}, b"\xff" * 4), 422, "has 4294967295 bytes, and 0"),
        (binary({"inputs": [described("name", [2], "BYTES", 5)]}, b"\1\0\0\0a"), 422, "has 1 values, and its"),
        (binary({"inputs": [described("name", [1], "BYTES", 8)]}, bytes(8)), 422, "has 1 or more values"),
        (binary({"inputs": [described("name", [1], "BYTES", 5)]}, b"\1\0\0\0\xff"), 422, "data.0: is not UTF-8 text"),
        (binary({"inputs": [TWO]}, PAIR, header="9999"), 400, HEADER_LENGTH_HEADER),
        (binary({"inputs": [TWO]}, PAIR, header="-1"), 400, HEADER_LENGTH_HEADER),
        (binary({"inputs": [TWO]}, PAIR, header="1_0"), 400, HEADER_LENGTH_HEADER),
        (binary({"inputs": [TWO]}, PAIR, header="9" * 5000), 400, HEADER_LENGTH_HEADER),
        (binary({"inputs": [TWO]}, PAIR, header=""), 400, HEADER_LENGTH_HEADER),
        (binary({"inputs": [TWO]}, PAIR, header="0"), 400, "not JSON"),
        (binary({"inputs": [TWO]}, PAIR, header="10"), 400, "not JSON"),
        (binary({"inputs": [TWO]}, PAIR, media_type="image/png"), 415, "image/png"),
    ],
)  # fmt: skip
def test_mistakes_in_binary_are_named(weighed: Worker, item: Item, status: int, field: str) -> None:
    [reply, beside] = weighed.ask(item, Item(b'{"pair": [1, 2]}'))
    assert (reply.status, beside.status) == (status, 200)
    assert field in reply.json()["error"]


@pytest.mark.parametrize("datatype", [*DTYPES, "BYTES"])
def test_binary_and_json_are_the_same_values(datatype: str) -> None:
    values = ["", "a", "grün"] if datatype == "BYTES" else [0, 1, 1] if datatype == "BOOL" else [0, 1, 100]
    array = np.array(values, object if datatype == "BYTES" else DTYPES[datatype])
    sent = InferInput("x", [3], datatype)
    sent.set_data_from_numpy(array, True)
    body, length = InferenceServerClient.generate_request_body([sent])
    read = read_infer(Request(body, BINARY, {HEADER_LENGTH_HEADER: str(length)}), Fields(), 9, 9999)
    as_json = json.dumps({"inputs": [{**described("x", [3], datatype, None), "data": array.tolist()}]}).encode()
    of_json = read_infer(Request(as_json, JSON), Fields(), 9, 9999)
    assert [row.row for row in read.rows] == [row.row for row in of_json.rows]
    assert [type(row.row["x"]) for row in read.rows if row.row] in (  # a JSON 1 may stand for 1.0
        [type(row.row["x"]) for row in of_json.rows if row.row], [float] * 3
    )  # fmt: skip


# ---- messages of protocol buffers ------------------------------------------------------------------------------------


def message(*inputs: Any, raw: list[bytes] | None = None, **more: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="toy", inputs=inputs, **more)
    request.raw_input_contents.extend(raw or [])
    return request


def sent(request: Any) -> Item:
    body = request if isinstance(request, bytes) else request.SerializeToString()
    return Item(body, PROTOBUF, {PROTOCOL_HEADER: OPEN_INFERENCE})


def described_message(name: str, shape: list[int], datatype: str, **contents: Any) -> Any:
    entry = pb.ModelInferRequest.InferInputTensor(name=name, shape=shape, datatype=datatype)
    if contents:
        entry.contents.CopyFrom(pb.InferTensorContents(**contents))
    return entry


def test_a_message_is_answered_with_a_message(weighed: Worker) -> None:
    pairs, names = MessageInput("pair", [2, 2], "FP32"), MessageInput("name", [2], "BYTES")
    pairs.set_data_from_numpy(PAIRS)
    names.set_data_from_numpy(np.array(["a", "grün"], object))
    raw = message(pairs._get_tensor(), names._get_tensor(), raw=[pairs._get_content(), names._get_content()], id="mine")
    typed = message(
        described_message("pair", [2, 2], "FP32", fp32_contents=PAIRS.flatten()),
        described_message("name", [2], "BYTES", bytes_contents=[b"a", "grün".encode()]),
    )
    mixed = message(  # as KServe's client may send it
        described_message("pair", [2, 2], "FP64", fp64_contents=PAIRS.flatten()), names._get_tensor(),
        raw=[names._get_content()], outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="sum")],
    )  # fmt: skip
    replies = weighed.ask(*(sent(request) for request in (raw, typed, mixed)))
    answers = [pb.ModelInferResponse.FromString(reply.body) for reply in replies]
    assert {reply.media_type for reply in replies} == {PROTOBUF}
    assert [(a.model_name, a.model_version) for a in answers] == [("toy", "1.0")] * 3
    assert answers[0].id == "mine"
    for answer in answers[:2]:
        assert [(o.name, o.datatype, list(o.shape)) for o in answer.outputs] == [
            ("sum", "FP64", [2]), ("name", "BYTES", [2]), ("is_big", "BOOL", [2]), ("digits", "BYTES", [2]),
        ]  # fmt: skip
        assert answer.outputs[3].parameters["content_type"].string_param == JSON
        assert np.frombuffer(answer.raw_output_contents[0]).tolist() == [3.0, 7.5]
        assert answer.raw_output_contents[1] == b"\1\0\0\0a\5\0\0\0gr\xc3\xbcn"
        assert answer.raw_output_contents[2] == b"\0\0"
    assert [o.name for o in answers[2].outputs] == ["sum"]
    assert np.frombuffer(answers[2].raw_output_contents[0]).tolist() == [3.0, 7.5]


ONE = described_message("pair", [1, 2], "FP32")


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        (b"", 422, "inputs"),
        (b"\xff", 400, "cut off"),
        (b"\x0a\x05ab", 400, "field 1 has 5 bytes, and 2 are left"),
        (b"\x0b\x0c", 400, "wire type 3"),
        (b"\x00\x00", 400, "no field has the number 0"),
        (b"\x0a\x01\xff", 400, "no UTF-8"),
        (b"\x28\x01", 400, "inputs is a number"),
        (b"\x80" * 11, 400, "too long"),
        (b"\x78\x00" * (MOST_FIELDS + 1), 413, "bytes"),
        (message(ONE), 422, "nothing of raw_input_contents is left"),
        (message(ONE, raw=[bytes(8), bytes(8)]), 422, "more entries"),
        (message(ONE, raw=[bytes(9)]), 422, "inputs.0.raw_input_contents: has 9 bytes"),
        (message(described_message("pair", [1, -2], "FP32"), raw=[bytes(8)]), 422, "inputs.0.shape.1"),
        (message(described_message("pair", [1, 1 << 40], "FP32"), raw=[bytes(8)]), 422, "inputs.0.shape.1"),
        (message(described_message("", [1, 2], "FP32"), raw=[bytes(8)]), 422, "inputs.0.name"),
        (message(described_message("pair", [], "FP32"), raw=[bytes(8)]), 422, "inputs.0.shape"),
        (message(described_message("pair", [1, 2], ""), raw=[bytes(8)]), 422, "inputs.0.datatype"),
        (message(described_message("pair", [1, 2], "FP32", fp64_contents=[1, 2])), 422, "in fp32_contents"),
        (message(described_message("pair", [1, 2], "FP16", fp32_contents=[1, 2])), 422, "in raw_input_contents"),
        (message(described_message("pair", [1, 2], "FP32", fp32_contents=[1])), 422, "has 1 values"),
        (message(described_message("pair", [1, 2], "FP32", fp32_contents=[1, np.inf])), 422, "contents.1"),
        (message(described_message("pair", [1, 2], "UINT8", uint_contents=[1, 256])), 422, "contents.1"),
        (message(described_message("pair", [1, 2], "INT8", int_contents=[1, -129])), 422, "contents.1"),
        (message(described_message("name", [1], "BYTES", bytes_contents=[b"\xff"])), 422, "is not UTF-8 text"),
        (message(ONE, raw=[bytes(8)], parameters={"sequence": pb.InferParameter(int64_param=1)}), 422, "sequence"),
        (message(ONE, raw=[bytes(8)], id="x" * 257), 422, "id"),
    ],
)  # fmt: skip
def test_mistakes_in_a_message_are_named(weighed: Worker, request_: Any, status: int, message: str) -> None:
    [reply, beside] = weighed.ask(sent(request_), Item(b'{"pair": [1, 2]}'))
    assert (reply.status, beside.status) == (status, 200)
    assert message in reply.json()["error"]


@pytest.mark.parametrize("datatype", [*CONTENTS])
def test_contents_are_read_as_the_library_writes_them(datatype: str) -> None:
    least, most = (0, 0) if datatype in ("BOOL", "BYTES") else (0, 1)
    if datatype.startswith("INT"):
        bits = int(datatype[3:])
        least, most = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    elif datatype.startswith("UINT"):
        most = (1 << int(datatype[4:])) - 1
    special: dict[str, list[Any]] = {"BOOL": [True, False], "BYTES": [b"", b"a\xc3\xbc"]}
    values = special.get(datatype, [least, most, 1, 0])
    contents = {CONTENTS[datatype]: values}
    request = message(described_message("x", [len(values)], datatype, **contents))
    read = read_infer(Request(request.SerializeToString(), PROTOBUF), Fields(), 9, 9999)
    wanted = [value.decode() if isinstance(value, bytes) else value for value in values]
    assert [row.row["x"] for row in read.rows if row.row] == wanted


def test_numbers_need_not_be_packed_and_maps_and_contents_may_come_in_parts() -> None:
    unpacked = b"".join(b"\x10" + bytes([value]) for value in (1, 2)) + b"\x12\x01\x03"  # int_contents
    tensor = b"\x0a\x01x\x12\x05INT32\x18\x03" + b"".join(
        b"\x2a" + bytes([len(part)]) + part for part in (unpacked[:2], unpacked[2:])
    )
    body = b"\x2a" + bytes([len(tensor)]) + tensor
    assert pb.ModelInferRequest.FromString(body).inputs[0].contents.int_contents == [1, 2, 3]
    read = read_infer(Request(body, PROTOBUF), Fields(), 9, 9999)
    assert [row.row for row in read.rows] == [{"x": 1}, {"x": 2}, {"x": 3}]


@given(st.lists(st.integers(0, (1 << 64) - 1)))
def test_packed_numbers_are_those_of_the_library(values: list[int]) -> None:
    packed = pb.InferTensorContents(uint64_contents=values).SerializeToString()
    pieces = [varints(value) for _, _, value in fields(memoryview(packed)) if isinstance(value, memoryview)]
    assert [int(n) for piece in pieces for n in piece] == values


@pytest.mark.parametrize("packed", [b"\x80", b"\x01\x80", b"\x80" * 10 + b"\x01"])
def test_packed_numbers_that_are_none(packed: bytes) -> None:
    with pytest.raises(Malformed):
        varints(memoryview(packed))


def test_the_target_may_stand_anywhere_and_the_last_counts() -> None:
    request = message(ONE, raw=[bytes(2000)], model_version="7").SerializeToString()
    assert read_target(memoryview(request)) == Target("toy", "7")
    late = pb.ModelInferRequest(raw_input_contents=[bytes(300)]).SerializeToString() + b"\x0a\x01a\x12\x012\x0a\x01b"
    assert pb.ModelInferRequest.FromString(late).model_name == "b"
    assert read_target(memoryview(late)) == Target("b", "2")
    assert read_target(memoryview(b"")) == Target("", "")


_TENSORS = st.builds(
    lambda name, shape, datatype, contents, parameters: pb.ModelInferRequest.InferInputTensor(
        name=name, shape=shape, datatype=datatype, contents=contents, parameters=parameters
    ),
    st.text(max_size=4), st.lists(st.integers(-2, 1 << 40), max_size=3), st.sampled_from([*CONTENTS]),
    st.none() | st.builds(
        pb.InferTensorContents,
        int_contents=st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=3),
        uint64_contents=st.lists(st.integers(0, (1 << 64) - 1), max_size=3),
        fp32_contents=st.lists(st.floats(width=32, allow_nan=False), max_size=3),
        bytes_contents=st.lists(st.binary(max_size=3), max_size=2),
    ),
    st.dictionaries(st.text(max_size=3), st.builds(pb.InferParameter, int64_param=st.integers(-9, 99)), max_size=2),
)  # fmt: skip
_MESSAGES = st.builds(
    lambda name, id_, inputs, raw: pb.ModelInferRequest(
        model_name=name, id=id_, inputs=inputs, raw_input_contents=raw
    ),
    st.text(max_size=3), st.text(max_size=3), st.lists(_TENSORS, max_size=3),
    st.lists(st.binary(max_size=9), max_size=2),
)  # fmt: skip


@given(_MESSAGES)
@settings(max_examples=200, deadline=None)
def test_every_message_of_the_library_is_read_as_the_library_reads_it(request: Any) -> None:
    read = read_infer_message(memoryview(request.SerializeToString()))
    document = read.document
    assert document.get("model_name", "") == request.model_name
    assert (document["id"] or "") == request.id
    assert [bytes(piece) for piece in read.raw] == list(request.raw_input_contents)
    for entry, contents, wanted in zip(document["inputs"], read.contents, request.inputs, strict=True):
        assert (entry["name"], entry["datatype"], entry["shape"]) == (wanted.name, wanted.datatype, list(wanted.shape))
        assert entry.get("parameters", {}) == {key: value.int64_param for key, value in wanted.parameters.items()}
        assert (contents is not None) == wanted.HasField("contents")
        for field, values in (contents or {}).items():
            assert values == list(getattr(wanted.contents, field))


@given(st.binary(max_size=60) | st.tuples(_MESSAGES, st.integers(0, 400), st.integers(0, 255)).map(
    lambda parts: _damaged(parts[0].SerializeToString(), parts[1], parts[2])
))  # fmt: skip
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_a_message_or_refused_and_the_library_takes_what_is_taken(body: bytes) -> None:
    try:
        read_infer_message(memoryview(body))
    except RequestError as error:
        assert error.status == 400
        return
    pb.ModelInferRequest.FromString(body)


def _damaged(body: bytes, at: int, byte: int) -> bytes:
    return body[: at % (len(body) + 1)] + struct.pack("B", byte) + body[at % (len(body) + 1) + 1 :]


def test_outputs_in_a_message_are_those_of_json() -> None:
    request = message(described_message("x", [2], "INT64", int64_contents=[1, 2]))
    read = read_infer(Request(request.SerializeToString(), PROTOBUF, request_id="r"), Fields(), 9, 9999)
    values: list[Any] = [{"a": [1.5, 2.5], "b": -1, "c": True}, {"a": [3.5, 4.5], "b": 1 << 40, "c": False}]
    answer = pb.ModelInferResponse.FromString(fold(read, [Outcome(200, b"", value=v) for v in values], "m", "1").body)
    assert [(o.name, o.datatype, list(o.shape)) for o in answer.outputs] == [
        ("a", "FP64", [2, 2]), ("b", "INT64", [2]), ("c", "BOOL", [2]),
    ]  # fmt: skip
    assert answer.id == "r"
    assert np.frombuffer(answer.raw_output_contents[0]).tolist() == [1.5, 2.5, 3.5, 4.5]
    assert np.frombuffer(answer.raw_output_contents[1], "<i8").tolist() == [-1, 1 << 40]


@pytest.mark.parametrize(
    ("values", "datatype", "expected"),
    [
        ([1 << 62, -3], "INT64", [1 << 62, -3]),
        ([1 << 63, 0.5], "FP64", [2.0**63, 0.5]),
        ([(1 << 63) + 5, 1], "BYTES", ["9223372036854775813", "1"]),
        ([(1 << 53) + 1, 0.5], "BYTES", ["9007199254740993", "0.5"]),
        ([1 << 1024, 1.5], "BYTES", [str(1 << 1024), "1.5"]),
        ([-(10**400), 0], "BYTES", [str(-(10**400)), "0"]),
    ],
)
def test_numbers_are_the_same_in_every_encoding_and_json_texts_where_no_datatype_holds_them(
    values: list[Any], datatype: str, expected: list[Any]
) -> None:
    outcomes = [Outcome(200, b"", value={"y": value}) for value in values]
    tensors = {"inputs": [{"name": "x", "shape": [2], "datatype": "INT64", "data": [1, 2]}]}
    body = json.dumps(tensors).encode()
    [of_json] = json.loads(fold(read_infer(Request(body, JSON), Fields(), 9, 9999), outcomes, "m", "1").body)["outputs"]
    body = json.dumps({**tensors, "parameters": {"binary_data_output": True}}).encode()
    in_binary = fold(read_infer(Request(body, JSON), Fields(), 9, 9999), outcomes, "m", "1")
    request = message(described_message("x", [2], "INT64", int64_contents=[1, 2])).SerializeToString()
    answered = fold(read_infer(Request(request, PROTOBUF), Fields(), 9, 9999), outcomes, "m", "1")
    of_message = pb.ModelInferResponse.FromString(answered.body)
    read = InferResult.from_response_body(
        in_binary.body, header_length=int(dict(in_binary.headers)[HEADER_LENGTH_HEADER])
    )
    assert (of_json["datatype"], of_json["data"]) == (datatype, expected)
    assert [of_message.outputs[0].datatype, read.get_output("y")["datatype"]] == [datatype] * 2
    found = read.as_numpy("y").tolist()
    assert [each.decode() if isinstance(each, bytes) else each for each in found] == expected
    raw = of_message.raw_output_contents[0]
    assert raw == in_binary.body[-len(raw) :]

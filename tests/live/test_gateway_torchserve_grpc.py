"""TorchServe's own gRPC service at the gateway before a node that a test scripts: what reaches the node, what grpcio's
client gets, and how requests are refused that no client would send."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from email.parser import BytesParser
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import pytest

from handlers.contract import GRPC_CODES, PROBLEM_MEDIA_TYPE, PROBLEM_TYPE_PREFIX
from tests.support import grpc_frames
from tests.support.gateways import whole_lines
from tests.support.grpc_frames import framed
from tests.support.nodes import KEY, MODEL, VERSION, Asked, Fronted, Reply, ScriptedNode, fronted, of_torchserve
from tests.support.sites import until
from tests.support.torchserve_grpc import SERVICE, Client, PredictionsRequest, client, finish
from tsctl.config.deployment import RouteSpec
from tsctl.gateway.envoy.render.grpc import LONGEST_NAME, MOST_INPUTS

PREDICT, PATH = f"{SERVICE}/Predictions", f"/predictions/{MODEL}/{VERSION}"
ROUTE = RouteSpec(deadline_s=5, idempotent=False)
NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
DETAIL = 'Row 3: "grün" € 😀\n100 % \\ \\u0041 \\" wrong.'
EVENTS = {"content-type": "text/event-stream"}
BROKEN = b'event: error\ndata: {"error": {"message": "It \\"x\\" broke", "code": "broken-stream"}}\n\n'


@dataclass
class Stage:
    """A gateway, its node, the node's next answer, and a client."""

    front: Fronted
    node: ScriptedNode
    reply: Reply
    client: Client

    def newest(self) -> Asked:
        """The last request that a client sent to the node."""
        return self.node.requests[-1]

    def curl(self, body: bytes, *headers: str, path: str = PREDICT, **more: str) -> dict[str, str]:
        return grpc_frames.curl(self.front.base, path, body, f"x-api-key: {KEY}", *headers, **more)


@contextmanager
def staged(folder: Path, is_stock: bool) -> Iterator[Stage]:
    """A node whose version was built by tsctl, or not."""
    made: Stage

    def answer(asked: Asked) -> Reply:
        return Reply() if asked.is_check else made.reply

    node = ScriptedNode("a", answer)
    with fronted(folder, [node], ROUTE, is_stock=is_stock) as front, client(front.base, x_api_key=KEY) as caller:
        made = Stage(front, node, Reply(), caller)
        until(lambda: caller.ping().json() == {"status": "Healthy"}, 20, "the first check")
        yield made


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("grpc"), is_stock=False) as made:
        yield made


def form_in(asked: Asked) -> dict[str, tuple[str, bytes]]:
    """Media type and bytes of the fields of a form, by name."""
    head = f"content-type: {asked.headers['content-type']}\r\n\r\n".encode()
    parts = [part for part in BytesParser().parsebytes(head + asked.body).walk() if not part.is_multipart()]
    named = {str(part.get_param("name", header="content-disposition")): part for part in parts}
    return {name: (part.get_content_type(), bytes(part.get_payload(decode=True))) for name, part in named.items()}


# ---- what reaches the node -------------------------------------------------------------------------------------------


def test_one_input_is_the_body(stage: Stage) -> None:
    value = b'\x00\xff\r\n--{"x": 2}'
    stage.reply = Reply(body=b'{"y": 4}')
    for name, media_type in (("data", "application/octet-stream; input=data"), ("body", "application/octet-stream")):
        assert stage.client.predict(MODEL, {name: value}).json() == {"y": 4}
        asked = stage.newest()
        assert (asked.method, asked.path, asked.body, "accept" in asked.headers) == ("POST", PATH, value, False)
        assert (asked.headers["content-type"], int(asked.headers["content-length"])) == (media_type, len(value))


def test_a_stock_handler_finds_its_input_by_its_name(tmp_path: Path) -> None:
    with staged(tmp_path, is_stock=True) as stage:
        for size in (1, 70_000, 3_000_000):
            value = bytes(n % 251 for n in range(size))
            stage.client.predict(MODEL, {"data": value})
            asked = stage.newest()
            assert form_in(asked) == {"data": ("application/octet-stream", value)}
            assert int(asked.headers["content-length"]) == len(asked.body)
        for inputs in ({"body": b"1"}, {"data": b""}, {}):
            stage.client.predict(MODEL, inputs)
            assert stage.newest().body == inputs.get("body", b"")
        stage.client.predict(MODEL, {"a": b"1", "b": b"2"})
        assert set(form_in(stage.newest())) == {"a", "b"}


def test_several_inputs_are_a_form_and_none_is_no_body(stage: Stage) -> None:
    inputs = {"a": b"1", "b.c-d_E": bytes(range(256)), "empty": b""}
    stage.client.predict(MODEL, inputs)
    assert form_in(stage.newest()) == {name: ("application/octet-stream", value) for name, value in inputs.items()}
    for without in ({}, {"body": b""}, {"data": b""}):
        stage.client.predict(MODEL, without)
        assert (stage.newest().body, stage.newest().headers["content-length"]) == (b"", "0")


def test_fields_may_come_in_any_order_and_the_last_one_counts(stage: Stage) -> None:
    entry = b"\x12\x01v\x0a\x04body"  # the value before its name
    parts = (b"\x22\x03seq", b"\x1a\x03\x0a\x01z", b"\x1a" + bytes([len(entry)]) + entry, b"\x0a\x03old")
    unknown = b"\x28\x96\x01" + b"\x31" + b"8" * 8 + b"\x3d" + b"4" * 4 + b"\xaa\x06\x02hi"
    message = b"".join(parts) + unknown + b"\x0a" + bytes([len(MODEL)]) + MODEL.encode()
    assert stage.curl(framed(message)).get("grpc-status", "0") == "0"
    assert form_in(stage.newest())["body"][1] == b"v"
    assert set(form_in(stage.newest())) == {"z", "body"}


def test_a_version_may_be_named_and_an_unknown_one_is_not_found(stage: Stage) -> None:
    said = stage.client.predict(MODEL, {"data": b"1"}, VERSION)
    assert (said.code, said.headers["x-model-version"]) == ("OK", VERSION)
    for model, version in ((MODEL, "9.9"), ("none", ""), ("none", VERSION)):
        for said in (
            stage.client.predict(model, {"data": b"1"}, version),
            stage.client.stream(model, {"data": b"1"}, version),
        ):
            assert (said.code, said.details) == ("NOT_FOUND", "There is no model or version of this name.")


def test_metadata_are_headers_and_the_clients_deadline_is_told(stage: Stage) -> None:
    said = stage.client.predict(MODEL, {"body": b"1"}, x_request_id="mine", cache_control="no-store", timeout_s=3)
    assert said.headers["x-request-id"] == "mine"
    sent = stage.newest().headers
    assert (sent["x-request-id"], sent["cache-control"]) == ("mine", "no-store")
    assert 1000 < int(sent["x-request-timeout-ms"]) < 4000  # grpcio rounds up
    assert not {"x-api-key", "x-tsctl-grpc", "x-tsctl-media", "x-tsctl-inside"} & set(sent)


def test_keys_come_as_everybodys_or_as_torchserves(stage: Stage) -> None:
    before = len(stage.node.requests)
    asked: dict[str, Any] = {"model": MODEL, "inputs": {"data": b"1"}}
    as_token: dict[str, Any] = {"x_api_key": "", "authorization": f"Bearer {KEY}"}
    assert stage.client.predict(**asked, **as_token).code == "OK"
    assert stage.newest().headers["authorization"] == "Bearer token"  # the node's
    wrong: tuple[dict[str, Any], ...] = (
        {"x_api_key": "wrong"}, {"x_api_key": ""}, {**as_token, "authorization": "Bearer x"},
        {"x_api_key": "wrong", "authorization": f"Bearer {KEY}"},
    )  # fmt: skip
    for metadata in wrong:
        assert stage.client.predict(**asked, **metadata).code == "UNAUTHENTICATED"
        assert stage.client.stream(**asked, **metadata).code == "UNAUTHENTICATED"
    assert len(stage.node.requests) == before + 1


def test_names_with_underscores_as_torchserves_client_sends_them_are_left_out(stage: Stage) -> None:
    request = PredictionsRequest(model_name=MODEL, input={"body": b"1"}).SerializeToString()
    metadata = [("x-api-key", KEY), ("protocol", "gRPC"), ("session_id", "12345"), ("x_api_key", "other")]
    with grpc.insecure_channel(stage.front.base.removeprefix("http://")) as channel:
        channel.unary_unary(PREDICT)(request, timeout=10, metadata=metadata)
    assert not any("_" in name for name in stage.newest().headers)
    assert stage.newest().headers["protocol"] == "gRPC"


def test_ping_needs_no_key_and_no_model(stage: Stage) -> None:
    said = stage.client.ping(x_api_key="")
    assert (said.code, said.json()) == ("OK", {"status": "Healthy"})


# ---- what the client gets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 3_000_000])
def test_answers_of_any_length_come_whole_in_one_message(stage: Stage, size: int) -> None:
    value = bytes(n % 251 for n in range(size))
    stage.reply = Reply(body=value)
    for said in (stage.client.predict(MODEL, {"data": value}), stage.client.stream(MODEL, {"data": value})):
        assert (said.code, said.answer == value) == ("OK", True)
        assert size == 0 or value in stage.newest().body
    stage.reply = Reply(parts=[value[: size // 2], value[size // 2 :]] if size > 1 else [value] * size)
    assert stage.client.predict(MODEL, {"data": b"1"}).answer == value


def test_many_calls_on_one_connection_keep_apart(stage: Stage) -> None:
    stage.reply = Reply(body=b"x" * 70_000)
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda n: stage.client.predict(MODEL, {"data": b"1"}, x_request_id=f"r-{n}"), range(40)))
    assert [(one.code, one.headers["x-request-id"]) for one in said] == [("OK", f"r-{n}") for n in range(40)]


def test_parts_of_a_stream_are_messages_as_they_come(stage: Stage) -> None:
    go_on = Event()

    def parts() -> Iterator[bytes]:
        yield b"first"
        assert go_on.wait(20)
        yield b"second"

    stage.reply = Reply(parts=parts())
    call = stage.client.begin_stream(MODEL, {"data": b"1"})
    assert next(call).prediction == b"first"
    go_on.set()
    said = finish(call)
    assert (said.code, said.answers, said.headers["x-model-version"]) == ("OK", [b"second"], VERSION)


def test_each_event_of_a_stream_of_events_is_a_message(stage: Stage) -> None:
    stage.reply = Reply(headers=EVENTS, parts=[b"data: 1\n", b"\ndata: 2\ndata: b\n\ndata: 3\n\n: tok", b"ens\n\nrest"])
    said = stage.client.stream(MODEL, {"data": b"1"})
    assert said.answers == [b"data: 1\n\n", b"data: 2\ndata: b\n\n", b"data: 3\n\n", b": tokens\n\n", b"rest"]
    assert said.code == "OK"
    stage.reply = Reply(headers=EVENTS, parts=[b"data: 1\n", b"\ndata: 2\n\n"])
    assert stage.client.predict(MODEL, {"data": b"1"}).answer == b"data: 1\n\ndata: 2\n\n"


def test_a_stream_that_breaks_ends_with_an_error(stage: Stage) -> None:
    go_on = Event()

    def parts(last: bytes) -> Iterable[bytes]:
        yield b"data: 1\n\n"
        assert go_on.wait(20)
        yield last

    for reply, code in (
        (Reply(headers=EVENTS, parts=parts(BROKEN + b"data: 2\n\n")), "UNAVAILABLE"),
        (Reply(headers=EVENTS, parts=parts(b"data: 2\n\n"), breaks=True), "INTERNAL"),
        (Reply(parts=parts(b"data: 2\n\n"), breaks=True), "INTERNAL"),
    ):
        go_on.clear()
        stage.reply = reply
        call = stage.client.begin_stream(MODEL, {"data": b"1"})
        assert next(call).prediction == b"data: 1\n\n"
        go_on.set()
        said = finish(call)
        assert said.code == code
        assert code == "INTERNAL" or (said.answers, said.details) == ([], 'It "x" broke')


def test_a_client_that_leaves_a_stream_is_left_by_the_node(stage: Stage) -> None:
    is_over = Event()

    def parts() -> Iterator[bytes]:
        try:
            while True:
                yield b"data: 1\n\n"
                is_over.wait(0.01)
        finally:
            is_over.set()

    stage.reply = Reply(headers=EVENTS, parts=parts())
    call = stage.client.begin_stream(MODEL, {"data": b"1"})
    assert next(call).prediction == b"data: 1\n\n"
    call.cancel()
    stage.reply = Reply()  # which held the parts
    until(is_over.is_set, 20, "the end of the node's stream")


def problem(status: int, detail: str) -> Reply:
    document = {"type": PROBLEM_TYPE_PREFIX + "x", "title": "T", "status": status, "detail": detail}
    return Reply(status, json.dumps(document).encode(), {"content-type": PROBLEM_MEDIA_TYPE})


@pytest.mark.parametrize("status", [400, 401, 404, 408, 413, 415, 418, 422, 429, 500, 501, 504])
def test_an_error_has_its_code_and_its_detail(stage: Stage, status: int) -> None:
    stage.reply = problem(status, DETAIL)
    for said in (stage.client.predict(MODEL, {"data": b"1"}), stage.client.stream(MODEL, {"data": b"1"})):
        assert (said.code, said.details) == (NAMES[GRPC_CODES.get(status, 13)], DETAIL)
        assert said.headers["x-model-version"] == VERSION


def test_errors_that_are_no_document_have_their_text(stage: Stage) -> None:
    stage.reply = Reply(409, "schon da é".encode(), {"content-type": "text/plain"})
    assert stage.client.predict(MODEL, {"data": b"1"}).details == "schon da é"
    stage.reply = Reply(hangs_up=True)
    assert stage.client.predict(MODEL, {"data": b"1"}).code == "UNAVAILABLE"
    stage.reply = of_torchserve(503, "ServiceUnavailableException", "no worker")
    said = stage.client.predict(MODEL, {"data": b"1"})
    assert (said.code, said.headers["retry-after"]) == ("UNAVAILABLE", "1")


def test_the_clients_deadline_ends_the_call(stage: Stage) -> None:
    go_on = Event()

    def parts() -> Iterator[bytes]:
        assert go_on.wait(20)
        yield b"too late"

    stage.reply = Reply(parts=parts())
    assert stage.client.predict(MODEL, {"data": b"1"}, timeout_s=0.3).code == "DEADLINE_EXCEEDED"
    go_on.set()


def test_the_log_has_one_line_for_a_call_with_the_status_of_rest(stage: Stage) -> None:
    stage.reply = problem(422, "no")
    stage.client.predict(MODEL, {"data": b"1"}, x_request_id="logged-422")
    stage.reply = Reply(body=b"{}", headers={"x-prediction-class": "seven", "x-cache": "hit"})
    stage.client.stream(MODEL, {"data": b"1"}, x_request_id="logged-200")
    stage.client.predict(MODEL, {"data": b"1"}, x_request_id="logged-401", x_api_key="wrong")

    def mine() -> list[dict[str, Any]]:
        lines = whole_lines(stage.front.gateway.files.access_log)
        return [line for line in lines if line["request_id"].startswith("logged")]

    until(lambda: len(mine()) >= 3, 15, "lines of the log")
    wrong, good, unknown = mine()
    assert (wrong["model"], wrong["version"], wrong["client"], wrong["by"]) == (MODEL, VERSION, "test", "weight")
    assert (wrong["status"], good["status"], good["class"], good["cache"]) == (422, 200, "seven", "hit")
    assert unknown["request_id"] == "logged-401"


def test_a_second_try_has_the_form_of_the_first(tmp_path: Path) -> None:
    refusal, value = of_torchserve(503, "ServiceUnavailableException", "no worker"), b"v" * 2_000_000
    full = ScriptedNode("full", lambda asked: Reply() if asked.is_check else refusal)
    free = ScriptedNode("free", lambda _: Reply(body=b"good"))
    with (
        fronted(tmp_path, [full, free], ROUTE, is_stock=True) as front,
        client(front.base, x_api_key=KEY) as caller,
    ):
        until(lambda: all(front.is_in_rotation(node) for node in (full, free)), 20, "the first checks")
        until(lambda: caller.predict(MODEL, {"data": value}).answer == b"good" and bool(full.requests), 30, "a retry")
    for asked in (full.requests[-1], free.requests[-1]):
        assert form_in(asked) == {"data": ("application/octet-stream", value)}
        assert int(asked.headers["content-length"]) == len(asked.body)


# ---- what no client would send ---------------------------------------------------------------------------------------


def request_of(model: str = MODEL, count: int = 1, name: str = "data") -> bytes:
    inputs = {f"{name}{n or ''}": b"1" for n in range(count)}
    return bytes(PredictionsRequest(model_name=model, input=inputs).SerializeToString())


GOOD = request_of()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 3),
        (b"\0\0\0\0", 3),
        (framed(GOOD)[:-1], 3),
        (framed(GOOD) + b"x", 3),
        (framed(GOOD) * 2, 3),
        (framed(GOOD, length=0), 3),
        (framed(GOOD, length=0xFFFFFFFF), 3),
        (framed(GOOD, flag=1), 12),
        (framed(GOOD, flag=0xFF), 12),
        (framed(b""), 3),  # no model
        (framed(GOOD[:-1]), 3),
        (framed(b"\x0a"), 3),
        (framed(b"\x0a\xff\xff\xff\xff\x0f"), 3),
        (framed(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + GOOD), 3),
        (framed(GOOD + b"\x1a" + b"\x80" * 20), 3),
        (framed(GOOD + b"\x1a\x05\x0a\x7fdata"), 3),  # an entry whose name is longer than the entry
        (framed(GOOD + b"\x1a\x02\x12"), 3),
        (framed(GOOD + b"\x1b\x1c"), 3),  # a group
        (framed(GOOD + b"\x00"), 3),  # field 0
        (framed(GOOD + b"\x28"), 3),  # a number without bytes
        (framed(GOOD + b"\x31abc"), 3),
        (framed(GOOD + b"\x1a\x00" * MOST_INPUTS), 3),  # more fields than are read
        (framed(GOOD + b"\x1a\x14" + b"\x12\x00" * 10), 3),
        (framed(request_of(count=MOST_INPUTS)), 3),
        (framed(request_of("")), 3),
        (framed(request_of(name="")), 3),
        (framed(request_of(name='a"; filename="b')), 3),
        (framed(request_of(name="a\r\nx: y")), 3),
        (framed(request_of(name="ä")), 3),
        (framed(request_of(name="n" * (LONGEST_NAME + 1))), 3),
        (framed(request_of("../../models")), 5),
        (framed(request_of("a/b?c")), 5),
        (framed(request_of("a\r\n")), 5),
        (framed(request_of("m" * 100_000)), 5),
        (framed(b"\x12\x03a/b" + GOOD), 5),
        (framed(b"\x12\x02\xff\xfe" + GOOD), 5),
    ],
)
def test_frames_and_messages_that_are_none_reach_no_node(stage: Stage, body: bytes, code: int) -> None:
    before = len(stage.node.requests)
    for method in ("Predictions", "StreamPredictions"):
        answer = stage.curl(body, path=f"{SERVICE}/{method}")
        assert (answer[":status"], answer["grpc-status"]) == ("200", str(code)), answer
        assert answer["grpc-message"]
    assert len(stage.node.requests) == before


def test_as_many_inputs_as_may_come_do(stage: Stage) -> None:
    stage.reply = Reply()
    assert stage.curl(framed(request_of(count=MOST_INPUTS - 1))).get("grpc-status", "0") == "0"
    assert len(form_in(stage.newest())) == MOST_INPUTS - 1


def test_other_methods_and_services_are_unimplemented(stage: Stage) -> None:
    before = len(stage.node.requests)
    for path in (
        f"{SERVICE}/StreamPredictions2", f"{SERVICE}/predictions", SERVICE, f"{SERVICE}/", f"{PREDICT}/",
        f"{PREDICT}?x=1",
        f"{SERVICE}X/Predictions", f"/x{SERVICE}/Predictions", PREDICT.lower(),
        "/org.pytorch.serve.grpc.management.ManagementAPIsService/ListModels",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/grpc.health.v1.Health/Check",
    ):  # fmt: skip
        assert stage.curl(framed(GOOD), path=path)["grpc-status"] == "12", path
    assert len(stage.node.requests) == before


def test_a_wrong_media_type_or_protocol_reaches_no_node(stage: Stage) -> None:
    before = len(stage.node.requests)
    for media_type in ("application/json", "application/x-protobuf", "application/grpcx", "text/plain", ""):
        assert stage.curl(framed(GOOD), media_type=media_type)[":status"] == "404", media_type
    answer = stage.front.ask(framed(GOOD), path=PREDICT, **{"content-type": "application/grpc"})
    assert (answer.status_code, answer.headers["content-type"]) == (415, PROBLEM_MEDIA_TYPE)
    for media_type in ("application/grpc+proto", "application/grpc"):
        assert stage.curl(framed(GOOD), media_type=media_type).get("grpc-status", "0") == "0"
    assert len(stage.node.requests) == before + 2


def test_a_client_cannot_pretend_to_be_inside(stage: Stage) -> None:
    before = len(stage.node.requests)
    for marks in ("x-tsctl-grpc: torchserve", "x-tsctl-media: text/plain", "x-tsctl-inside: 1"):
        for path in ("/models", f"/predictions/{MODEL}", "/healthz"):
            assert stage.curl(framed(GOOD), marks, path=path)["grpc-status"] == "12"
        assert len(stage.node.requests) == before
        stage.curl(framed(GOOD), marks)
        before += 1
        assert "text/plain" not in stage.newest().headers["content-type"]

"""gRPC at the gateway before a node that a test scripts: what reaches the node, what the client gets, and how requests
are refused that no client of gRPC would send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from handlers.contract import GRPC_CODES, GRPC_SERVICE, PROBLEM_MEDIA_TYPE, PROBLEM_TYPE_PREFIX, PROTOBUF
from tests.support import grpc_frames
from tests.support.gateways import whole_lines
from tests.support.grpc_frames import framed
from tests.support.nodes import KEY, MODEL, VERSION, Asked, Fronted, Reply, ScriptedNode, fronted, of_torchserve
from tests.support.sites import until
from tsctl.config.deployment import RouteSpec

INFER = f"/{GRPC_SERVICE}/ModelInfer"
ANSWER = pb.ModelInferResponse(model_name=MODEL, model_version=VERSION, id="7").SerializeToString()
DETAIL = 'Row 3: "grün" € 😀\n100 % \\ \\u0041 \\" wrong.'
NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


@dataclass
class Stage:
    """A gateway, its node, and the node's next answer."""

    front: Fronted
    node: ScriptedNode
    reply: Reply

    def call(self, message: bytes, method: str = INFER, **metadata: str) -> tuple[str, Any, dict[str, str]]:
        """Code, answer or details, and headers of the answer."""
        sent = [(name.replace("_", "-"), value) for name, value in {"x_api_key": KEY, **metadata}.items()]
        with grpc.insecure_channel(self.front.base.removeprefix("http://")) as channel:
            try:
                answer, call = channel.unary_unary(method).with_call(message, timeout=10, metadata=sent)
                return "OK", answer, dict(call.initial_metadata())
            except grpc.RpcError as error:
                return error.code().name, error.details(), dict(error.initial_metadata() + error.trailing_metadata())

    def newest(self) -> Asked:
        """The last request that a client sent to the node."""
        return self.node.requests[-1]

    def lines(self, least: int) -> list[dict[str, Any]]:
        """The access log, once it has so many lines."""
        log = self.front.gateway.files.access_log
        until(lambda: len(whole_lines(log)) >= least, 15, "lines of the log")
        return whole_lines(log)


def answered(body: bytes = ANSWER) -> Reply:
    return Reply(200, body, {"content-type": PROTOBUF, "x-cache": "hit"})


def problem(status: int, detail: str, **more: Any) -> Reply:
    document = {"type": PROBLEM_TYPE_PREFIX + "x", "title": "T", "status": status, "detail": detail, **more}
    return Reply(status, json.dumps(document).encode(), {"content-type": PROBLEM_MEDIA_TYPE})


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made: Stage

    def answer(asked: Asked) -> Reply:
        return Reply() if asked.is_check else made.reply

    node = ScriptedNode("a", answer)
    with fronted(tmp_path_factory.mktemp("grpc"), [node], RouteSpec(deadline_s=5, idempotent=False)) as front:
        made = Stage(front, node, answered())
        until(lambda: front.is_in_rotation(node), 20, "the first check")
        yield made


def infer(**fields: Any) -> bytes:
    return bytes(pb.ModelInferRequest(model_name=MODEL, **fields).SerializeToString())


def test_a_request_is_the_nodes_as_one_of_rest(stage: Stage) -> None:
    stage.reply = answered()
    message = infer(id="a", raw_input_contents=[b"x" * 300_000])
    code, answer, headers = stage.call(message, x_request_id="mine")
    assert (code, answer) == ("OK", ANSWER)
    assert (headers["x-request-id"], headers["x-model-version"], headers["x-cache"]) == ("mine", VERSION, "hit")
    asked = stage.newest()
    assert (asked.method, asked.path, asked.body) == ("POST", f"/predictions/{MODEL}/{VERSION}", message)
    assert asked.headers["content-type"] == PROTOBUF
    assert asked.headers["x-tsctl-protocol"] == "oip-v2"
    assert asked.headers["content-length"] == str(len(message))
    assert 1000 < int(asked.headers["x-request-timeout-ms"]) <= 5000
    assert "x-api-key" not in asked.headers
    assert stage.call(infer(model_version=VERSION))[0] == "OK"
    assert stage.call(infer(model_version="9.9"))[0] == "NOT_FOUND"


def test_a_request_of_rest_may_be_a_message_as_well(stage: Stage) -> None:
    stage.reply = answered()
    message = infer(id="a")
    answer = stage.front.ask(message, path=f"/v2/models/{MODEL}/infer", **{"content-type": PROTOBUF})
    assert (answer.content, answer.headers["content-type"]) == (ANSWER, PROTOBUF)


def test_metadata_is_asked_of_a_worker_without_a_body(stage: Stage) -> None:
    stage.reply = answered(b"\x0a\x01m")
    message = pb.ModelMetadataRequest(name=MODEL).SerializeToString()
    assert stage.call(message, f"/{GRPC_SERVICE}/ModelMetadata")[:2] == ("OK", b"\x0a\x01m")
    asked = stage.newest()
    assert (asked.method, asked.path, asked.body) == ("GET", f"/predictions/{MODEL}/{VERSION}", b"")
    sent = {name: asked.headers[name] for name in ("x-tsctl-protocol", "x-tsctl-versions", "accept")}
    assert sent == {"x-tsctl-protocol": "oip-v2-metadata", "x-tsctl-versions": VERSION, "accept": PROTOBUF}


@pytest.mark.parametrize("status", [400, 401, 404, 408, 413, 415, 418, 422, 429, 500, 501, 504])
def test_an_error_of_a_worker_has_its_code_and_its_detail(stage: Stage, status: int) -> None:
    stage.reply = problem(status, DETAIL, errors=[{"detail": "another"}])
    code, details, headers = stage.call(infer())
    assert (code, details) == (NAMES[GRPC_CODES.get(status, 13)], DETAIL)
    assert headers["x-model-version"] == VERSION
    assert stage.call(infer())[0] == code  # the connection stays good


def test_a_refusal_says_when_to_come_again(stage: Stage) -> None:
    stage.reply = of_torchserve(503, "ServiceUnavailableException", "no worker")
    code, details, headers = stage.call(infer())
    assert (code, headers["retry-after"]) == ("UNAVAILABLE", "1")
    assert details == "No node has a worker or room for it now."


def test_an_answer_that_is_none_is_an_error_and_no_success(stage: Stage) -> None:
    stage.reply = Reply(hangs_up=True)
    assert stage.call(infer())[0] == "UNAVAILABLE"
    stage.reply = problem(500, "")
    assert stage.call(infer())[:2] == ("INTERNAL", "T")


def test_a_long_answer_and_many_at_once_keep_apart(stage: Stage) -> None:
    stage.reply = answered(b"\x1a\x80\x80\x80\x01" + b"i" * (2 << 20))
    assert stage.call(infer())[1] == stage.reply.body
    stage.reply = answered()
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda n: stage.call(infer(id=str(n)), x_request_id=f"r-{n}"), range(40)))
    assert [(code, headers["x-request-id"]) for code, _, headers in said] == [("OK", f"r-{n}") for n in range(40)]


def test_the_log_has_one_line_for_a_call_with_the_status_of_rest(stage: Stage) -> None:
    before = len(stage.front.gateway.files.access_log.read_text().splitlines())
    stage.reply = problem(422, "no")
    stage.call(infer(), x_request_id="logged-422")
    stage.call(infer(), x_request_id="logged-401", x_api_key="wrong")
    mine = [line for line in stage.lines(before + 2) if line["request_id"].startswith("logged")]
    assert [(line["request_id"], line["status"], line["protocol"]) for line in mine[:1]] == [
        ("logged-422", 422, "oip-v2")
    ]
    assert [line["request_id"] for line in mine] == ["logged-422", "logged-401"]
    assert (mine[0]["model"], mine[0]["version"], mine[0]["client"]) == (MODEL, VERSION, "test")


# ---- what no client of gRPC would send -------------------------------------------------------------------------------


def curl(stage: Stage, body: bytes, *headers: str, path: str = INFER, key: str = KEY) -> dict[str, str]:
    return grpc_frames.curl(stage.front.base, path, body, f"x-api-key: {key}", *headers)


GOOD = infer()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 3),
        (b"\0", 3),
        (b"\0\0\0\0", 3),
        (framed(GOOD)[:-1], 3),
        (framed(GOOD) + b"x", 3),
        (framed(GOOD) * 2, 3),  # two messages in one stream
        (framed(GOOD, length=0), 3),
        (framed(GOOD, length=0xFFFFFFFF), 3),
        (framed(GOOD, flag=1), 12),
        (framed(GOOD, flag=0xFF), 12),
        (framed(b""), 3),  # no model's name
        (framed(b"\x0a"), 3),
        (framed(b"\x0a\xff\xff\xff\xff\x0f"), 3),
        (framed(b"\x0a" + b"\x80" * 20), 3),
        (framed(b"\x12\x011" + b"\x2a\x00" + GOOD), 3),  # the name behind a tensor
        (framed(b"\x0a\x06../../"), 5),
        (framed(b"\x0a\x04a/b?"), 5),
        (framed(b"\x0a\x03a\r\n"), 5),
        (framed(b"\x0a\x03a\0b"), 5),
        (framed(b"\x0a\x02.."), 5),
        (framed(b"\x0a" + b"\xe8\x07" + b"m" * 1000), 5),
        (framed(b"\x0a" + b"\x80\x20" + b"m" * 4096), 3),  # longer than the bytes that are looked at
    ],
)
def test_frames_and_names_that_are_none_reach_no_node(stage: Stage, body: bytes, code: int) -> None:
    stage.reply = answered()
    before = len(stage.node.requests)
    answer = curl(stage, body)
    assert (answer[":status"], answer["grpc-status"]) == ("200", str(code)), answer
    assert answer["grpc-message"]
    assert len(stage.node.requests) == before


def test_a_client_cannot_pretend_to_be_inside(stage: Stage) -> None:
    stage.reply = answered()
    before = len(stage.lines(1))
    for marks in ("x-tsctl-grpc: 1", "x-tsctl-inside: 1"):
        for path in ("/models", f"/predictions/{MODEL}", "/healthz"):
            assert curl(stage, framed(GOOD), marks, path=path)["grpc-status"] == "12"
            plain = stage.front.ask(b"{}", path=path, **dict([marks.split(": ")]))
            assert plain.status_code in ({"/models": 404, "/healthz": 200}.get(path, 200),)
        assert curl(stage, framed(GOOD), marks, key="wrong")["grpc-status"] == "16"
        assert (
            curl(stage, framed(GOOD), marks).get("grpc-status", "0") == "0"
        )  # of the trailers, which curl may leave out
        assert "x-tsctl-grpc" not in stage.newest().headers
    stage.lines(before + 16)  # each of these requests has its line


def test_paths_beside_the_service_are_unimplemented(stage: Stage) -> None:
    before = len(stage.node.requests)
    for path in (
        f"/{GRPC_SERVICE}", f"/{GRPC_SERVICE}/", f"{INFER}/", f"{INFER}?x=1", f"{INFER}/../ModelInferX",
        "/inference-GRPCInferenceService/ModelInfer", "/INFERENCE.GRPCInferenceService/ModelInfer", "/",
        f"/{GRPC_SERVICE}/ModelInfer%2f", "//" + GRPC_SERVICE + "/ModelInfers",
    ):  # fmt: skip
        assert curl(stage, framed(GOOD), path=path)["grpc-status"] == "12", path
    assert len(stage.node.requests) == before


def test_a_header_name_with_an_underscore_is_refused_by_its_name(stage: Stage) -> None:
    before = len(stage.node.requests)
    answer = curl(stage, framed(GOOD), f"x_underscore: {MODEL}")
    assert (answer["grpc-status"], "x_underscore" in answer["grpc-message"]) == ("3", True)
    assert len(stage.node.requests) == before

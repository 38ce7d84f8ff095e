"""Spans from Envoy through workers of two engines, as a collector receives them; and who decides what is traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
import yaml
from tritonclient.grpc import service_pb2 as pb

from handlers.contract import GRPC_SERVICE, PROTOBUF, SPAN_OUTCOMES, SPANS, TRACEPARENT_HEADER, TRACESTATE_HEADER
from tests.support.gateways import Front, brought_up, with_gateway
from tests.support.nodes import KEY, MODEL, Asked, Fronted, Reply, ScriptedNode, fronted, of_torchserve
from tests.support.otlp import Collector, Span, collecting
from tests.support.paced import write_archive
from tests.support.sites import make_site, until, write_tiny
from tsctl.config.deployment import RouteSpec
from tsctl.config.tracing import TracingSpec
from tsctl.host.ports import free_ports

#: An engine by the version that its node serves; as long as one of its batches takes, others can wait for it.
ENGINES = {"1.0": "torchserve", "1.0u": "uvicorn"}
BATCH_S = 0.1
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OF_CLIENT = {TRACEPARENT_HEADER: f"00-{TRACE}-{CALLER}-01", TRACESTATE_HEADER: "vendor=1"}
#: Envoy sends its spans every five seconds.
ARRIVAL_S = 30


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def front(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A gateway that traces everything, before a node of TorchServe and one of uvicorn."""
    site = make_site(tmp_path_factory.mktemp("traces"))
    write_tiny(site, "tiny", {"1.0": {"inference_s": BATCH_S}}, batch={"size": 8, "max_delay_ms": 1})
    content, [port] = site.deployment, free_ports(1)
    content["nodes"]["api"] = {"engine": "uvicorn", "address": f"http://127.0.0.1:{port}"}
    versions = {"1.0": {"nodes": ["local"]}, "1.0u": {"archive": "1.0", "nodes": ["api"]}}
    content["models"]["tiny"] = {"default": "1.0", "versions": versions}
    write_archive(site.root, "talker")
    content["models"]["talker"] = {"default": "1.0", "versions": versions}
    content["tracing"] = {"endpoint": collector.endpoint, "share": 1}
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    base, metrics = with_gateway(site, {})
    with brought_up(site, base, metrics) as made:
        for model in ("tiny", "talker"):
            site.run("weights", "set", model, "1.0=50%", "1.0u=50%")
        yield made


def whole_trace(collector: Collector, request_id: str, names: set[str]) -> list[Span]:
    """The trace of a request, once spans of all these names have come."""

    def is_whole() -> list[Span]:
        spans = collector.of_request(request_id)
        return spans if names <= {span.name for span in spans} else []

    found: list[Span] = until(is_whole, ARRIVAL_S, f"spans {', '.join(sorted(names))} of request {request_id}")
    return found


def only(spans: list[Span], name: str) -> Span:
    [span] = [span for span in spans if span.name == name]
    return span


@pytest.mark.parametrize("version", ENGINES)
def test_a_request_is_one_trace_from_the_gateway_to_the_stages_of_its_batch(
    front: Front, collector: Collector, version: str
) -> None:
    request_id = f"lone-{version}"
    answer = front.ask(f"/predictions/tiny/{version}", **{"x-request-id": request_id, **OF_CLIENT})
    assert (answer.status_code, answer.json()) == (200, {"y": 1.0})
    spans = whole_trace(collector, request_id, {"request", "try", "predict tiny", "batch tiny", "inference"})
    request, tried = only(spans, "request"), only(spans, "try")
    predict, batch = only(spans, "predict tiny"), only(spans, "batch tiny")
    assert (request.parent_id, tried.parent_id) == ("", request.span_id)
    assert (predict.parent_id, batch.parent_id) == (tried.span_id, predict.span_id)
    assert batch.links == ((request.trace_id, predict.span_id),)
    inference = only(spans, "inference")
    assert inference.parent_id == batch.span_id
    assert inference.end - inference.start >= BATCH_S * 1e9
    assert request.trace_id != TRACE, "a client without the right does not choose its trace"
    for span in (request, tried, predict):
        assert span.attributes["tsctl.request_id"] == request_id
        assert (span.attributes["tsctl.model"], span.attributes["tsctl.version"]) == ("tiny", version)
    assert {span.service for span in spans} == {"tsctl-gateway", "tsctl-worker"}
    assert request.attributes["http.url"] == f"/predictions/tiny/{version}"


@pytest.mark.parametrize("version", ENGINES)
def test_an_answer_of_a_language_model_is_one_trace_to_its_last_token(
    front: Front, collector: Collector, version: str
) -> None:
    request_id = f"text-{version}"
    body = {"model": f"talker:{version}", "prompt": "ab", "max_tokens": 3, "stream": True}
    answer = requests.post(
        f"{front.base}/v1/completions",
        json=body,
        headers={"x-request-id": request_id, "x-api-key": front.key},
        timeout=60,
    )
    assert (answer.status_code, answer.text.endswith("data: [DONE]\n\n")) == (200, True)
    spans = whole_trace(collector, request_id, {"request", "try", "predict talker", "queue", "prompt", "tokens"})
    predict = only(spans, "predict talker")
    assert predict.parent_id == only(spans, "try").span_id
    assert predict.attributes["gen_ai.usage.output_tokens"] == 3
    assert predict.attributes["tsctl.finish"] == "length"
    assert {only(spans, name).parent_id for name in ("queue", "prompt", "tokens")} == {predict.span_id}


@pytest.mark.parametrize("version", ENGINES)
def test_requests_that_waited_together_are_linked_by_their_batch(
    front: Front, collector: Collector, version: str
) -> None:
    def ask(name: str) -> int:
        return front.ask(f"/predictions/tiny/{version}", **{"x-request-id": name}).status_code

    def batches() -> list[Span]:
        """Batches of several of these requests; not all may wait at the same time on a busy machine."""
        own = {
            span.span_id
            for span in collector.spans
            if span.name == "predict tiny" and span.attributes["tsctl.request_id"].startswith(f"together-{version}-")
        }
        return [
            span
            for span in collector.spans
            if span.name == "batch tiny" and len(span.links) > 1 and {link for _, link in span.links} <= own
        ]

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, (f"together-{version}-{number}" for number in range(32)))) == {200}
    batch = until(batches, ARRIVAL_S, "a batch with several requests")[0]
    spans = {span.span_id: span for span in collector.spans}
    assert len({trace for trace, _ in batch.links}) == len(batch.links), "each request has a trace of its own"
    first, *others = (spans[span_id] for _, span_id in batch.links)
    assert batch.parent_id == first.span_id
    assert all(other.links == ((batch.trace_id, batch.span_id),) for other in others)
    assert batch.attributes["tsctl.batch.items"] == len(batch.links)
    waits = [span for span in collector.spans if span.name == "queue"]
    assert any(spans[wait.parent_id].name == "predict tiny" for wait in waits)


def test_workers_count_their_spans(front: Front) -> None:
    def counts() -> dict[str, float]:
        shown = front.site.run("metrics", "show", "--raw", "--node", "local").out.splitlines()
        samples = [line.rpartition(" ") for line in shown if line.startswith(f"{SPANS}{{")]
        return {
            outcome: sum(float(value) for name, _, value in samples if f'outcome="{outcome}"' in name)
            for outcome in SPAN_OUTCOMES
        }

    assert front.ask("/predictions/tiny/1.0").status_code == 200
    until(lambda: counts()["exported"] > 0, 30, "spans that are sent")
    now = counts()
    assert now["queue-full"] == now["failed"] == 0.0


def test_a_change_needs_another_start_of_the_gateway(front: Front) -> None:
    before = front.site.deployment
    path = front.site.root / "deployment.yaml"
    path.write_text(yaml.safe_dump({**before, "tracing": {**before["tracing"], "share": 0.5}}, sort_keys=False))
    try:
        refused = front.site.run("gateway", "start", status=5).err
    finally:
        path.write_text(yaml.safe_dump(before, sort_keys=False))
    assert "tracing" in refused
    assert "tsctl gateway stop" in refused


# ---- the gateway alone -----------------------------------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Callable[..., tuple[Fronted, Collector]]]:
    """Makes a gateway with tracing before a node that a test scripts."""
    with ExitStack() as stack:

        def make(script: Callable[[Asked], Reply], **tracing: Any) -> tuple[Fronted, Collector]:
            collector = stack.enter_context(collecting())
            spec = TracingSpec.model_validate({"endpoint": collector.endpoint, "share": 1.0, **tracing})
            nodes = [ScriptedNode("a", script), ScriptedNode("b", script)]
            return stack.enter_context(fronted(tmp_path, nodes, RouteSpec(), tracing=spec)), collector

        yield make


def test_a_client_may_decide_where_the_deployment_says_so(alone: Callable[..., tuple[Fronted, Collector]]) -> None:
    asked: list[Asked] = []

    def script(request: Asked) -> Reply:
        if not request.is_check:
            asked.append(request)
        return Reply()

    front, collector = alone(script, share=0, continue_clients=True)
    front.ask(**{"x-request-id": "own", **OF_CLIENT})
    front.ask(**{"x-request-id": "none"})
    spans = whole_trace(collector, "own", {"request", "try"})
    assert {span.trace_id for span in spans} == {TRACE}
    assert only(spans, "request").parent_id == CALLER
    assert not collector.of_request("none")
    [traced, untraced] = (request.headers[TRACEPARENT_HEADER] for request in asked)
    assert traced == f"00-{TRACE}-{only(spans, 'try').span_id}-01"
    assert untraced.endswith("-00")


def test_tries_and_rpcs_are_parts_of_the_request(alone: Callable[..., tuple[Fronted, Collector]]) -> None:
    answers = iter([of_torchserve(503, "ServiceUnavailableException", "no worker")])

    def script(request: Asked) -> Reply:
        if request.is_check:
            return Reply()
        is_rpc = request.headers.get("accept") == PROTOBUF or request.headers.get("content-type") == PROTOBUF
        return Reply(headers={"content-type": PROTOBUF}, body=b"") if is_rpc else next(answers, Reply())

    front, collector = alone(script)
    assert front.ask(**{"x-request-id": "again"}).status_code == 200

    def tries() -> list[Span]:
        spans = [span for span in collector.of_request("again") if span.name == "try"]
        return spans if len(spans) == 2 else []

    tried = until(tries, ARRIVAL_S, "spans of two tries")
    assert {span.parent_id for span in tried} == {only(collector.of_request("again"), "request").span_id}
    assert {span.attributes["http.status_code"] for span in tried} == {"503", "200"}

    message = pb.ModelInferRequest(model_name=MODEL).SerializeToString()
    metadata = [("x-api-key", KEY), ("x-request-id", "rpc"), *OF_CLIENT.items()]
    with grpc.insecure_channel(front.base.removeprefix("http://")) as channel:
        channel.unary_unary(f"/{GRPC_SERVICE}/ModelInfer")(message, timeout=10, metadata=metadata)

    def of_rpc() -> list[Span]:
        spans = collector.of_request("rpc")
        return spans if len(spans) == 4 else []

    spans = until(of_rpc, ARRIVAL_S, "spans of the RPC and of the request that it became")
    assert {span.trace_id for span in spans} == {spans[0].trace_id} != {TRACE}
    by_id = {span.span_id: span for span in spans}
    [root] = [span for span in spans if not span.parent_id]
    parents = sorted((span.name, by_id[span.parent_id].name) for span in spans if span is not root)
    assert (root.name, parents) == ("request", [("request", "try"), ("try", "request"), ("try", "request")])


def test_requests_are_answered_while_the_collector_takes_nothing(
    alone: Callable[..., tuple[Fronted, Collector]],
) -> None:
    front, collector = alone(lambda _: Reply())
    collector.status = 503
    assert {front.ask(**{"x-request-id": f"lost-{number}"}).status_code for number in range(20)} == {200}
    until(lambda: collector.paths, ARRIVAL_S, "a post of spans")
    assert front.ask().status_code == 200

"""Spans of a worker, as a collector receives them: parents, links, times and errors; and a collector that is away."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from handlers.base import ServingHandler
from handlers.contract import (
    ASSIGNED_TRACK_HEADER,
    OPEN_INFERENCE,
    PROTOCOL_HEADER,
    REQUEST_ID_HEADER,
    SENT_HEADER,
    SHADOW_HEADER,
    TIMEOUT_HEADER,
    TRACEPARENT_HEADER,
    TRACES_VARIABLE,
)
from handlers.errors import LoadError
from handlers.messages import Outcome, Request
from handlers.pipeline.deadline import Lateness
from handlers.schema import Schema
from handlers.telemetry.tracer import MOST_AT_ONCE, MOST_SPANS, Tracer
from handlers.telemetry.traces import (
    MOST_STAGES,
    Batch,
    Context,
    Span,
    Stage,
    Traced,
    parents,
    read_traceparent,
    spans_of,
    traced,
)
from tests.support.otlp import Collector, collecting
from tests.support.otlp import Span as Received
from tests.support.workers import Item, Worker, write_archive_folder

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OTHER = "11112222333344445555666677778888"


class Doubler(ServingHandler):
    """Twice a number; 13 makes it fail."""

    class Request(Schema):
        """One number."""

        number: float

    def load(self) -> None:
        pass

    def preprocess(self, items: list[Any]) -> list[float]:
        return [item.number for item in items]

    def inference(self, inputs: list[float]) -> list[float]:
        if 13 in inputs:
            raise RuntimeError("unlucky")
        return [number * 2 for number in inputs]

    def postprocess(self, outputs: list[float]) -> list[Any]:
        return [{"double": number} for number in outputs]


class Site:
    """A worker behind TorchServe's service that sends its spans to a collector."""

    def __init__(self, folder: Path) -> None:
        samples = {"one.json": b'{"number": 1}'}
        archive = write_archive_folder(folder / "toy", samples, {"one.json": {"double": 2.0}})
        (archive / "MAR-INF" / "DIGESTS.json").write_bytes(b"{}")
        self.worker = Worker(Doubler(), archive)

    def flush(self) -> None:
        tracer = self.worker.entry.worker._tracer
        assert tracer is not None
        tracer.flush()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def site(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TRACES_VARIABLE, f"{collector.endpoint}/v1/traces")
        yield Site(tmp_path_factory.mktemp("traces"))


def number(value: object, name: str, trace: str | None = None, **headers: str) -> Item:
    """A request with this id; with a trace it is a part of it, and its spans are kept."""
    of_trace = {TRACEPARENT_HEADER: f"00-{trace}-{CALLER}-01"} if trace else {}
    return Item(json.dumps({"number": value}).encode(), headers={REQUEST_ID_HEADER: name, **of_trace, **headers})


def asked(site: Site, collector: Collector, *items: Item) -> list[Received]:
    """The spans of one batch."""
    before = len(collector.spans)
    site.worker.ask(*items)
    site.flush()
    return collector.spans[before:]


def named(spans: Sequence[Received], name: str) -> list[Received]:
    return [span for span in spans if span.name == name]


def test_a_batch_is_linked_to_its_traced_requests_and_they_to_it(site: Site, collector: Collector) -> None:
    not_kept = {TRACEPARENT_HEADER: f"00-{OTHER}-{CALLER}-00"}
    spans = asked(
        site, collector, number(1, "untraced"), number(2, "a", TRACE), number(3, "not-kept", **not_kept),
        number(4, "b", OTHER),
    )  # fmt: skip
    first, second = named(spans, "predict toy")
    [batch] = named(spans, "batch toy")
    assert {span.service for span in spans} == {"tsctl-worker"}
    assert [span.attributes["tsctl.request_id"] for span in (first, second)] == ["a", "b"]
    assert [(span.trace_id, span.parent_id) for span in (first, second)] == [(TRACE, CALLER), (OTHER, CALLER)]
    assert (batch.trace_id, batch.parent_id) == (TRACE, first.span_id)
    assert batch.links == ((TRACE, first.span_id), (OTHER, second.span_id))
    assert (first.links, second.links) == ((), ((TRACE, batch.span_id),))
    assert batch.attributes["tsctl.batch.items"] == 4
    assert batch.attributes["tsctl.batch.traced_items"] == 2
    assert (first.attributes["tsctl.model"], first.attributes["tsctl.version"]) == ("toy", "1.0")
    stages = [span for span in spans if span.parent_id == batch.span_id]
    assert {span.name for span in stages} == {"decode", "preprocess", "inference", "postprocess", "encode"}
    assert all(batch.start <= span.start <= span.end <= batch.end for span in stages)
    assert first.start <= batch.start
    assert len({span.span_id for span in spans}) == len(spans)


def test_an_error_of_ours_is_one_and_a_clients_mistake_is_not(site: Site, collector: Collector) -> None:
    spans = asked(site, collector, number(13, "unlucky", TRACE), number("no number", "unfit", TRACE))
    failed, unfit = named(spans, "predict toy")
    assert failed.is_error
    assert failed.attributes["http.response.status_code"] == 500
    assert failed.attributes["error.type"] == "model-failed"
    assert not unfit.is_error
    assert unfit.attributes["http.response.status_code"] == 422
    assert unfit.attributes["error.type"] == "does-not-fit-schema"


def test_a_batch_without_a_traced_request_has_no_spans(site: Site, collector: Collector) -> None:
    assert asked(site, collector, number(1, "a"), number(2, "b")) == []


def test_a_request_of_many_rows_is_one_span(site: Site, collector: Collector) -> None:
    body = {"inputs": [{"name": "number", "datatype": "FP64", "shape": [2, 1], "data": [1.0, 2.0]}]}
    headers = {PROTOCOL_HEADER: OPEN_INFERENCE, TRACEPARENT_HEADER: f"00-{TRACE}-{CALLER}-01"}
    spans = asked(site, collector, Item(json.dumps(body).encode(), headers=headers))
    [request] = named(spans, "predict toy")
    assert request.attributes["http.response.status_code"] == 200


def test_tracks_and_caches_are_attributes() -> None:
    shadow = Request(headers={ASSIGNED_TRACK_HEADER: "stable", SHADOW_HEADER: "1"}, request_id="r" * 500)
    canary = Request(headers={ASSIGNED_TRACK_HEADER: "canary"})
    outcome = Outcome(200, b"{}", cache="hit")
    attributes = [traced(request, Context(1, 2), outcome, 0.0).attributes for request in (shadow, canary)]
    assert [of["tsctl.track"] for of in attributes] == ["shadow", "canary"]
    assert attributes[0]["tsctl.request_id"] == "r" * 128
    assert "tsctl.request_id" not in attributes[1]
    assert attributes[1]["tsctl.cache"] == "hit"


@pytest.mark.parametrize(
    ("header", "context"),
    [
        (f"00-{TRACE}-{CALLER}-01", Context(int(TRACE, 16), int(CALLER, 16))),
        (f"00-{TRACE}-{CALLER}-03", Context(int(TRACE, 16), int(CALLER, 16))),
        (f"01-{TRACE}-{CALLER}-01-of-a-later-version", Context(int(TRACE, 16), int(CALLER, 16))),
        (f"00-{TRACE}-{CALLER}-00", None),
        (f"00-{TRACE}-{CALLER}-02", None),
        (f"ff-{TRACE}-{CALLER}-01", None),
        (f"00-{'0' * 32}-{CALLER}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{CALLER}-01", None),
        (f"00-{TRACE}-{CALLER}", None),
        ("", None),
        ("\u0660\u0660", None),
    ],
)
def test_traceparent_is_read_as_w3c_has_it(header: str, context: Context | None) -> None:
    assert read_traceparent(header) == context
    found = {0: context} if context else None
    assert parents([Request(headers={TRACEPARENT_HEADER: header})]) == found


def test_the_time_in_the_queue_is_a_span_whatever_the_clocks_say() -> None:
    lateness = Lateness(100.0, 5000.0)  # this worker's clock; the gateway's is 7 s behind

    def headers(sent: float) -> dict[str, str]:
        return {TIMEOUT_HEADER: "30000", SENT_HEADER: str(round(sent * 1000))}

    lateness.begin(101.0)
    lateness.check(headers(4994.0))  # the worker was idle: a request's age without a wait is 7 s
    lateness.end(101.5, True)
    lateness.begin(101.5)
    assert lateness.waited_s(headers(4994.1), 101.5) == pytest.approx(0.4, abs=0.01)
    assert lateness.waited_s(headers(4999.0), 101.5) == 0.0
    assert lateness.waited_s({}, 101.5) == 0.0
    batch = Batch(1, wall=10**18, begin=1.0, end=1.5)
    batch.traced = [Traced(Context(7, 8), {}, 250_000_000, "")]
    ids = iter(range(100))
    spans = {span.name: span for span in spans_of(batch, "toy", "1.0", lambda: next(ids))}
    assert (spans["queue"].begin, spans["queue"].end) == (10**18 - 250_000_000, 10**18)
    assert spans["queue"].parent == spans["predict toy"].context
    assert (spans["predict toy"].begin, spans["predict toy"].end) == (10**18 - 250_000_000, 10**18 + 500_000_000)
    assert spans["batch toy"].begin == 10**18
    assert len(spans) == batch.spans


def test_a_batch_in_many_parts_has_a_bounded_number_of_spans() -> None:
    batch = Batch(1, 0, 0.0, 1.0, [Stage("inference", 0.0, 0.1)] * 1000, [Traced(Context(7, 8), {}, 0, "")])
    spans = spans_of(batch, "toy", "1.0", iter(range(10_000)).__next__)
    assert len(spans) == batch.spans == MOST_STAGES + 2


class Away:
    """An exporter whose collector takes nothing, or takes everything."""

    def __init__(self, takes: bool = False) -> None:
        self.takes = takes
        self.posts: list[int] = []

    def send(self, spans: Sequence[Span]) -> bool:
        self.posts.append(len(spans))
        return self.takes


@pytest.fixture
def counted() -> dict[str, int]:
    return {}


@pytest.fixture
def tracer_to(counted: dict[str, int]) -> Callable[[Away], Tracer]:
    def count(outcome: str, spans: int) -> None:
        counted[outcome] = counted.get(outcome, 0) + spans

    return lambda exporter: Tracer("toy", "1.0", exporter, count, iter(range(1, 10**6)).__next__)


def small() -> Batch:
    """A batch of two spans."""
    return Batch(1, time.time_ns(), 0.0, 0.1, traced=[Traced(Context(7, 8), {}, 0, "")])


def test_spans_of_a_collector_that_is_away_are_counted_and_no_more_wait_than_the_queue_holds(
    tracer_to: Callable[[Away], Tracer], counted: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    exporter = Away()
    tracer = tracer_to(exporter)
    for _ in range(MOST_SPANS // 2 + 10):
        tracer.take(small())
    assert counted == {"queue-full": 20}
    tracer.flush()
    assert counted == {"queue-full": 20, "failed": MOST_SPANS}
    assert max(exporter.posts) <= MOST_AT_ONCE
    assert [record.message for record in caplog.records] == [
        "toy 1.0: spans are dropped, and counted: the collector takes none"
    ]
    exporter.takes = True
    tracer.take(small())
    tracer.flush()
    assert counted["exported"] == 2


def test_a_process_that_ends_gives_a_collector_that_is_away_one_chance(
    tracer_to: Callable[[Away], Tracer], counted: dict[str, int]
) -> None:
    exporter = Away()
    tracer = tracer_to(exporter)
    for _ in range(MOST_SPANS // 2):
        tracer.take(small())
    tracer.close()
    assert len(exporter.posts) == 1
    assert counted == {"failed": exporter.posts[0]}


def test_a_refused_post_is_a_failure_and_answers_go_on(site: Site, collector: Collector) -> None:
    collector.status = 400
    try:
        before = len(collector.paths)
        [reply] = site.worker.ask(number(2, "refused", TRACE))
        site.flush()
    finally:
        collector.status = 200
    assert reply.json() == {"double": 4.0}
    assert collector.paths[before:] == ["/v1/traces"]
    assert not collector.of_request("refused")


def test_a_missing_package_is_said_when_the_worker_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACES_VARIABLE, "http://127.0.0.1:9/v1/traces")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(LoadError, match=r"toy 1.0 must not serve: .*tsctl\[tracing\].*or remove 'tracing'"):
        Site(tmp_path)


def test_without_a_collector_no_span_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[dict[str, Any]]]
) -> None:
    monkeypatch.delenv(TRACES_VARIABLE, raising=False)
    worker = Site(tmp_path).worker
    assert worker.entry.worker._tracer is None
    assert said()[-1]["traces"] == "off"

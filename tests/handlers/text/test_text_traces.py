"""Spans of requests to a language model: its queue, its prompt and its tokens, as a collector receives them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handlers.contract import CHECK_ANSWER, CHECK_HEADER, TRACEPARENT_HEADER, TRACES_VARIABLE
from tests.handlers.text.test_text_worker import HELLO, Site, serving
from tests.support.otlp import Collector, Span, collecting
from tests.support.scripted import POISON

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACED = {TRACEPARENT_HEADER: f"00-{TRACE}-{CALLER}-01"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture
def site(tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv(TRACES_VARIABLE, collector.endpoint)
    made = serving(tmp_path / "toy")
    yield made
    made.handler.backend.free()
    made.worker.close()


def sent(site: Site, collector: Collector) -> dict[str, Span]:
    """The spans since the start, by name."""
    tracer = site.worker._tracer
    assert tracer is not None
    tracer.flush()
    spans = {span.name: span for span in collector.spans}
    assert len(spans) == len(collector.spans)
    return spans


@pytest.mark.parametrize("is_stream", [True, False])
def test_an_answer_is_a_queue_a_prompt_and_tokens(site: Site, collector: Collector, is_stream: bool) -> None:
    site.answer({**HELLO, "stream": is_stream}, **TRACED)
    spans = sent(site, collector)
    assert set(spans) == {"predict toy", "queue", "prompt", "tokens"}
    request = spans["predict toy"]
    assert (request.trace_id, request.parent_id, request.is_error) == (TRACE, CALLER, False)
    assert {name: request.attributes[name] for name in request.attributes if name != "tsctl.request_id"} == {
        "http.response.status_code": 200,
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 6,
        "tsctl.finish": "stop",
        "tsctl.model": "toy",
        "tsctl.version": "1.0",
    }
    stages = [spans[name] for name in ("queue", "prompt", "tokens")]
    assert {span.parent_id for span in stages} == {request.span_id}
    moments = [request.start, *(moment for span in stages for moment in (span.start, span.end)), request.end]
    assert moments == sorted(moments)
    assert [stages[0].end, stages[1].end] == [stages[1].start, stages[2].start]


def test_one_that_its_client_leaves_says_how_far_it_came(site: Site, collector: Collector) -> None:
    site.handler.backend.hold()
    site.submit("a", {**HELLO, "stream": True}, **TRACED)
    site.handler.backend.allow(2)
    while len(site.parts.get("a", [])) < 2:
        site.take(site.deliveries.get(timeout=30))
    site.worker.cancel("a")
    request = sent(site, collector)["predict toy"]
    assert request.attributes["tsctl.finish"] == "cancelled"
    assert 2 <= request.attributes["gen_ai.usage.output_tokens"] <= 3
    assert not request.is_error


@pytest.mark.parametrize(
    ("body", "status", "is_error", "names"),
    [
        ({"messages": 3}, 422, False, {"predict toy", "queue"}),
        ({"prompt": chr(POISON)}, 500, True, {"predict toy", "queue", "prompt"}),
    ],
)
def test_one_that_fails_has_its_status_and_no_tokens(
    site: Site, collector: Collector, body: Any, status: int, is_error: bool, names: set[str]
) -> None:
    site.answer(body, **TRACED)
    spans = sent(site, collector)
    assert set(spans) == names
    request = spans["predict toy"]
    assert (request.attributes["http.response.status_code"], request.is_error) == (status, is_error)


def test_a_stream_that_breaks_was_answered_200_and_is_an_error(site: Site, collector: Collector) -> None:
    site.handler.backend.hold()
    site.submit("a", {**HELLO, "stream": True}, **TRACED)
    site.handler.backend.allow(2)
    site.take(site.deliveries.get(timeout=30))
    site.handler.backend.fails_now = True
    site.handler.backend.free()
    site.wait("a")
    request = sent(site, collector)["predict toy"]
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["error.type"] == "model-failed"
    assert request.is_error


def test_checks_and_requests_that_are_not_traced_have_no_spans(site: Site, collector: Collector) -> None:
    site.answer(HELLO)
    site.answer(HELLO, **{**TRACED, CHECK_HEADER: CHECK_ANSWER})
    assert sent(site, collector) == {}

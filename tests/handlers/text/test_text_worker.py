"""A worker that generates text: parts of streams, whole answers, refusals, deadlines, and its life before it serves."""

from __future__ import annotations

import gzip
import json
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from handlers.base import ServingHandler
from handlers.contract import (
    CHECK_ANSWER,
    CHECK_HEADER,
    CHECK_HEALTH,
    JSON,
    OPENAI_CHAT,
    OPENAI_COMPLETION,
    OPENAI_EMBEDDINGS,
    PROTOCOL_HEADER,
    TIMEOUT_HEADER,
)
from handlers.errors import LoadError, UndecodableBody
from handlers.messages import Head, Part, Request
from handlers.protocols.openai.requests import Asked
from handlers.telemetry.metrics import Telemetry
from handlers.text.sampling import Sampling
from handlers.worker import startup
from handlers.worker.config import WorkerConfig, read_config
from handlers.worker.make import make_worker
from handlers.worker.text import TextWorker
from handlers.worker.worker import Worker
from tests.support.scripted import POISON, Scripted, ScriptedHandler
from tests.support.workers import Reply, assert_problem, write_archive_folder

GENERATION = {"context": 40, "max_answers": 4, "max_tokens": 30, "most_tokens": 35, "first_token_s": 60.0}
HELLO = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0}


def config_of(folder: Path, samples: dict[str, Any], golden: dict[str, Any], **more: Any) -> WorkerConfig:
    """The configuration of an archive with these samples, as its worker reads it."""
    generation = {**GENERATION, **more.pop("generation", {})}
    tolerance = {"absolute": 0.0, "relative": 0.0, "tokens": more.pop("tokens", 1000)}
    bodies = {name: json.dumps(sample).encode() for name, sample in samples.items()}
    write_archive_folder(folder, bodies, golden, serving={"generation": generation, "tolerance": tolerance, **more})
    manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())["model"]
    return read_config(folder, manifest, yaml.safe_load((folder / "model-config.yaml").read_text()))


def golden_of(text: str, finish: str = "stop") -> dict[str, Any]:
    return {"answers": [{"tokens": list(text), "finish": finish}]}


class Counts(Telemetry):
    """What the worker counted."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def answered(self, outcome: str) -> None:
        self.seen.append(("answered", outcome))

    def prompt(self, tokens: int) -> None:
        self.seen.append(("prompt", tokens))

    def first_token(self, queued_s: float, first_s: float) -> None:
        assert 0 <= queued_s <= first_s
        self.seen.append(("first",))

    def answer_ended(self, finish: str, tokens: int, token_s: float) -> None:
        assert token_s >= 0
        self.seen.append(("ended", finish, tokens))


@dataclass
class Site:
    """A worker that serves, and the parts that it delivered."""

    worker: TextWorker
    handler: ScriptedHandler
    counts: Counts
    deliveries: queue.SimpleQueue[Sequence[Part]] = field(default_factory=queue.SimpleQueue)
    parts: dict[Any, list[Part]] = field(default_factory=dict)

    def submit(self, ticket: Any, body: Any, **headers: str) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.worker.submit(ticket, Request(raw, JSON, names, f"r-{ticket}"))

    def wait(self, *tickets: Any) -> None:
        """Until the last part of each request has come; no ticket gets a part after it."""
        while not all(ticket in self.parts and self.parts[ticket][-1].is_last for ticket in tickets):
            self.take(self.deliveries.get(timeout=30))

    def take(self, delivery: Sequence[Part]) -> None:
        for part in delivery:
            known = self.parts.setdefault(part.ticket, [])
            assert not (known and known[-1].is_last), "a part after the last"
            assert (part.head is not None) == (not known), "the head comes with the first part"
            known.append(part)

    def answer(self, body: Any, **headers: str) -> tuple[Head, bytes]:
        """Head and whole body of the answer to a request."""
        ticket = object()
        self.submit(ticket, body, **headers)
        self.wait(ticket)
        head = self.parts[ticket][0].head
        assert head is not None
        return head, b"".join(part.body for part in self.parts[ticket])

    def problem(self, status: int, body: Any, **headers: str) -> dict[str, Any]:
        head, content = self.answer(body, **headers)
        return assert_problem(Reply(head.status, head.media_type, dict(head.headers), content), status)


def serving(folder: Path, handler: ScriptedHandler | None = None, **more: Any) -> Site:
    """A worker of an archive with one sample, after its self-test."""
    handler = handler or ScriptedHandler()
    worker = make_worker(config_of(folder, {"hello.json": HELLO}, {"hello.json": golden_of("Hello")}, **more), handler)
    assert isinstance(worker, TextWorker)
    startup.start(worker)
    site = Site(worker, handler, Counts())
    worker.telemetry = site.counts
    worker.deliver = site.deliveries.put
    site.handler.backend.samplings.clear()
    return site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = serving(tmp_path / "toy")
    yield made
    made.handler.backend.free()
    made.worker.close()
    assert made.handler.backend.is_closed


def events_of(body: bytes) -> list[str]:
    """The lines of a stream that are not empty."""
    assert body.endswith(b"\n\n")
    return [line for line in body.decode().split("\n") if line]


def test_a_stream_begins_with_its_first_token_and_ends_with_its_tokens(site: Site) -> None:
    site.handler.backend.hold()
    site.submit("a", {**HELLO, "stream": True})
    assert site.deliveries.empty(), "no head before the first token"
    site.handler.backend.allow(1)
    site.take(site.deliveries.get(timeout=30))
    [first] = site.parts["a"]
    assert first.head == Head(200, "text/event-stream", (("x-model-version", "1.0"), ("cache-control", "no-cache")))
    assert b'"role":"assistant"' in first.body and b'"content":"H"' in first.body and not first.is_last
    site.handler.backend.free()
    site.wait("a")
    lines = events_of(b"".join(part.body for part in site.parts["a"]))
    assert lines[-2:] == [": tokens prompt=5;answer=6;finish=stop", "data: [DONE]"]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert {chunk["id"] for chunk in chunks} == {"chatcmpl-r-a"}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Hello"
    assert site.counts.seen == [("prompt", 5), ("first",), ("ended", "stop", 6), ("answered", "ok")]


def test_an_answer_in_one_piece_says_its_tokens_in_a_header(site: Site) -> None:
    head, body = site.answer(HELLO)
    assert (head.status, head.media_type) == (200, JSON)
    assert dict(head.headers) == {"x-model-version": "1.0", "x-tokens": "prompt=5;answer=6;finish=stop"}
    document = json.loads(body)
    assert document["choices"][0]["message"] == {"role": "assistant", "content": "Hello"}
    assert (document["model"], document["usage"]["total_tokens"]) == ("toy", 11)


def test_one_step_of_many_requests_is_one_delivery(site: Site) -> None:
    site.handler.backend.hold()
    for ticket in "abc":
        site.submit(ticket, {"prompt": "x" * 5, "stream": True})
    site.handler.backend.free()
    deliveries = []
    while not all(ticket in site.parts and site.parts[ticket][-1].is_last for ticket in "abc"):
        deliveries.append(site.deliveries.get(timeout=30))
        site.take(deliveries[-1])
    assert max(len(delivery) for delivery in deliveries) == 3
    assert len(deliveries) <= 8  # each has six steps, and they begin at most two steps apart


@pytest.mark.parametrize(
    ("body", "protocol"),
    [(HELLO, OPENAI_CHAT), (HELLO, None), ({"prompt": "Hello"}, OPENAI_COMPLETION), ({"prompt": "Hello"}, None)],
)
def test_the_route_is_read_from_the_body_or_the_header(site: Site, body: Any, protocol: str | None) -> None:
    head, content = site.answer(body, **({PROTOCOL_HEADER: protocol} if protocol else {}))
    choice = json.loads(content)["choices"][0]
    assert head.status == 200
    assert (choice["text"] if "prompt" in body else choice["message"]["content"]) == "Hello"


@pytest.mark.parametrize(
    ("body", "protocol", "parameter"),
    [
        (HELLO, OPENAI_COMPLETION, "prompt"),
        ({"prompt": "Hello"}, OPENAI_CHAT, "messages"),
        ({**HELLO, "max_tokens": 36}, OPENAI_CHAT, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x" * 40}]}, OPENAI_CHAT, "messages"),
        ({"prompt": ["a", ""]}, OPENAI_COMPLETION, "prompt"),
        ({"messages": [{"role": "user", "content": ""}]}, OPENAI_CHAT, "messages"),
        ({**HELLO, "response_format": {"type": "json_object"}}, OPENAI_CHAT, "response_format"),
        ({**HELLO, "n": 5}, OPENAI_CHAT, "n"),
        ({**HELLO, "tools": [{"type": "function", "function": {"name": "f"}}]}, OPENAI_CHAT, "tools"),
        (b"{", OPENAI_CHAT, None),
    ],
)
def test_with_the_header_a_mistake_has_the_form_of_the_openai_api(
    site: Site, body: Any, protocol: str, parameter: str | None
) -> None:
    head, content = site.answer(body, **{PROTOCOL_HEADER: protocol})
    error = json.loads(content)["error"]
    assert (head.status, head.media_type) == (400, JSON)
    assert (error["type"], error["param"]) == ("invalid_request_error", parameter)
    assert dict(head.headers)["x-model-version"] == "1.0"


def test_without_the_header_a_mistake_is_a_problem_document(site: Site) -> None:
    assert "send messages for a chat, or prompt" in site.problem(422, {"model": "toy"})["detail"]
    document = site.problem(422, {"prompt": "x" * 40})
    assert "has 40 tokens, and the model reads 40 with its answer" in document["detail"]
    site.problem(400, b"no JSON")
    site.problem(413, b" " * 1025)
    site.problem(501, HELLO, **{PROTOCOL_HEADER: "oip-v2"})
    head, body = site.answer(HELLO, **{PROTOCOL_HEADER: OPENAI_EMBEDDINGS})
    assert head.status == 501 and "embeddings" in json.loads(body)["error"]["message"]


def test_what_the_adapter_could_not_read_and_other_media_types_are_refused(site: Site) -> None:
    site.worker.submit("a", Request(error=UndecodableBody("It has no body."), request_id="r"))
    site.worker.submit("b", Request(b"Hello", "text/plain", {}, "r"))
    site.wait("a", "b")
    heads = [site.parts[ticket][0].head for ticket in "ab"]
    assert [head.status for head in heads if head] == [400, 415]


def test_a_body_that_is_gzip_is_read(site: Site) -> None:
    head, _ = site.answer(gzip.compress(json.dumps(HELLO).encode()), content_encoding="gzip")
    assert head.status == 200


def test_an_answer_has_no_more_tokens_than_the_context_leaves_and_each_its_own_seed(site: Site) -> None:
    head, body = site.answer({"prompt": ["a" * 30, "b" * 35], "n": 2, "seed": 7, "max_tokens": 35})
    choices = json.loads(body)["choices"]
    assert [(len(choice["text"]), choice["finish_reason"]) for choice in choices] == [(10, "length")] * 2 + [
        (5, "length")
    ] * 2
    assert dict(head.headers)["x-tokens"] == "prompt=65;answer=30;finish=length"
    assert [sampling.seed for sampling in site.handler.backend.samplings] == [7, 8, 7, 8]


def test_beyond_the_most_answers_a_request_is_refused_and_may_be_sent_elsewhere(site: Site) -> None:
    site.handler.backend.hold()
    site.submit("held", {**HELLO, "n": 4, "stream": True})
    head, body = site.answer(HELLO, **{PROTOCOL_HEADER: OPENAI_CHAT})
    assert head.status == 503 and "4 answers are in the making" in json.loads(body)["error"]["message"]
    assert dict(head.headers).items() >= {"retry-after": "1", "x-tsctl-retry": "refused"}.items()
    assert site.counts.seen[-1] == ("answered", "unavailable")
    site.handler.backend.free()
    site.wait("held")


def test_a_request_that_is_cancelled_gives_its_places_back_and_gets_no_end(site: Site) -> None:
    site.handler.backend.hold()
    site.submit("a", {**HELLO, "n": 4, "stream": True})
    site.worker.cancel("a")
    site.worker.cancel("a")
    site.worker.cancel("unknown")
    site.handler.backend.free()
    head, _ = until_taken(site, HELLO)
    assert head.status == 200
    assert not site.parts.get("a", []) or not site.parts["a"][-1].is_last
    assert [seen for seen in site.counts.seen if seen[:2] == ("ended", "cancelled")] == [
        ("ended", "cancelled", tokens) for _, _, tokens in site.counts.seen[1:5]
    ]


def until_taken(site: Site, body: Any) -> tuple[Head, bytes]:
    """The answer once there is a place."""
    end = time.monotonic() + 30
    while True:
        head, content = site.answer(body)
        if head.status != 503:
            return head, content
        assert time.monotonic() < end, content


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_prompt_that_makes_a_step_fail_is_answered_500_alone(site: Site, is_stream: bool) -> None:
    site.handler.backend.hold()
    site.submit("poison", {"prompt": chr(POISON), "stream": is_stream})
    site.submit("good", {"prompt": "good"})
    site.handler.backend.free()
    site.wait("poison", "good")
    [part] = site.parts["poison"]
    assert part.head is not None and part.head.status == 500
    assert json.loads(part.body)["type"] == "urn:tsctl:problem:model-failed"
    assert json.loads(site.parts["good"][0].body)["choices"][0]["text"] == "good"
    assert ("ended", "error", 0) in site.counts.seen and ("answered", "model-failed") in site.counts.seen


def test_a_stream_that_breaks_says_so(site: Site) -> None:
    site.handler.backend.hold()
    site.submit("a", {**HELLO, "n": 2, "stream": True}, **{PROTOCOL_HEADER: OPENAI_CHAT})
    site.handler.backend.allow(2)
    site.take(site.deliveries.get(timeout=30))
    site.handler.backend.fails_now = True
    site.handler.backend.free()
    site.wait("a")
    lines = events_of(b"".join(part.body for part in site.parts["a"]))
    event, data, comment = lines[-3:]
    assert event == "event: error" and "[DONE]" not in "".join(lines)
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "model-failed"
    tokens = len(lines) - 5  # without two roles and the three last lines
    assert comment == f": tokens prompt=5;answer={tokens};finish=error"
    assert [seen for seen in site.counts.seen if seen[0] == "answered"] == [("answered", "model-failed")]


@pytest.mark.parametrize("is_stream", [True, False])
def test_one_whose_first_token_is_late_is_answered_504(site: Site, is_stream: bool) -> None:
    site.handler.backend.hold()
    site.submit("late", {**HELLO, "stream": is_stream}, **{TIMEOUT_HEADER: "0"})
    site.handler.backend.free()
    site.wait("late")
    [part] = site.parts["late"]
    assert part.head is not None and part.head.status == 504


def test_the_timeout_of_a_stream_ends_with_its_first_token(site: Site) -> None:
    with_header = {TIMEOUT_HEADER: "30000"}
    for is_stream in (True, False):
        request = Request(json.dumps({**HELLO, "stream": is_stream}).encode(), JSON, with_header, "r")
        exchange = site.worker._exchange("t", request, site.worker._asked(request), 100.0)
        [answer] = exchange.answers
        assert answer.submitted_at == 100.0
        assert answer.first_by is not None and answer.deadline is not None
        assert (answer.deadline - answer.first_by > 1) == is_stream
    site.problem(400, HELLO, **{TIMEOUT_HEADER: "soon"})


def test_seeds_of_any_sign_are_different_ones(site: Site) -> None:
    site.answer({**HELLO, "n": 3, "seed": -1})
    seeds = [sampling.seed for sampling in site.handler.backend.samplings]
    assert seeds == [(1 << 64) - 1, 0, 1], "random.Random(-1) draws as random.Random(1)"


# ---- requests that take long to read ---------------------------------------------------------------------------------

JSON_OF_A_SCHEMA = {**HELLO, "response_format": {"type": "json_object"}}


class Compiling(Scripted):
    """Compiles schemas when the test lets it."""

    def __init__(self, context: int) -> None:
        super().__init__(context)
        self.compiled: list[tuple[str, str | None]] = []
        self.grammars: list[Any] = []
        self.is_compiling, self.may_compile = threading.Event(), threading.Event()

    def grammar(self, schema: str, salt: str | None = None) -> Any:
        self.is_compiling.set()
        assert self.may_compile.wait(30)
        self.compiled.append((schema, salt))
        return object()

    def add(self, key: int, prompt: Sequence[int], sampling: Sampling, salt: str | None = None) -> None:
        super().add(key, prompt, replace(sampling, json_schema=None), salt)
        self.grammars.append(sampling.grammar)


class CompilingHandler(ScriptedHandler):
    backend: Compiling

    def load(self) -> None:
        self.backend = Compiling(self.generation.context)


def compiling_of(site: Site) -> Compiling:
    backend = site.handler.backend
    assert isinstance(backend, Compiling)
    return backend


def status_of(site: Site, ticket: Any) -> int:
    head = site.parts[ticket][0].head
    assert head is not None
    return head.status


@pytest.fixture
def compiling(tmp_path: Path) -> Iterator[Site]:
    made = serving(
        tmp_path / "toy", CompilingHandler(), limits={"request_bytes": 1 << 17}, generation={"context": 50_000}
    )
    yield made
    compiling_of(made).may_compile.set()
    made.worker.close()


def test_a_schema_is_compiled_once_for_all_answers_and_nobody_waits_for_it(compiling: Site) -> None:
    backend = compiling_of(compiling)
    begin = time.monotonic()
    compiling.submit("json", {**JSON_OF_A_SCHEMA, "n": 3}, x_tsctl_client="anna")
    assert backend.is_compiling.wait(30)
    assert compiling.answer(HELLO)[0].status == 200, "another client is answered meanwhile"
    assert "json" not in compiling.parts
    backend.grammars.clear()
    backend.may_compile.set()
    compiling.wait("json")
    assert status_of(compiling, "json") == 200
    assert backend.compiled == [('{"type":"object"}', "anna")]
    assert len(backend.grammars) == 3 and len(set(map(id, backend.grammars))) == 1 and backend.grammars[0]
    assert time.monotonic() - begin < 30


def test_a_client_that_leaves_while_its_schema_is_compiled_gets_no_place(compiling: Site) -> None:
    backend = compiling_of(compiling)
    for ticket in ("first", "second", "third"):  # two are prepared at a time
        compiling.submit(ticket, JSON_OF_A_SCHEMA)
    assert backend.is_compiling.wait(30)
    for ticket in ("first", "second", "third"):
        compiling.worker.cancel(ticket)
    compiling.counts.seen.clear()
    backend.may_compile.set()
    compiling.worker.close()
    assert compiling.counts.seen == [("ended", "cancelled", 0)] * 3
    assert backend.samplings == [] and compiling.parts == {}


def test_no_more_requests_are_prepared_than_may_be_answered_and_each_is_told(compiling: Site) -> None:
    backend = compiling_of(compiling)
    for number in range(4):
        compiling.submit(number, JSON_OF_A_SCHEMA)
    assert "4 requests are being read" in compiling.problem(503, JSON_OF_A_SCHEMA)["detail"]
    assert backend.is_compiling.wait(30)
    closing = threading.Thread(target=compiling.worker.close)
    closing.start()
    while not compiling.worker._is_closing:
        time.sleep(0.001)
    backend.may_compile.set()
    closing.join(30)
    compiling.wait(*range(4))
    assert {status_of(compiling, number) for number in range(4)} == {503}
    compiling.problem(503, JSON_OF_A_SCHEMA)


def test_a_long_prompt_is_read_while_others_are_answered(compiling: Site) -> None:
    backend, may_go_on = compiling_of(compiling), threading.Event()
    encode = backend.encode

    def encode_slowly(text: str) -> list[int]:
        assert len(text) < 100 or may_go_on.wait(30)
        return encode(text)

    backend.encode = encode_slowly  # type: ignore[method-assign]
    compiling.submit("long", {"prompt": "a" * 20_000, "max_tokens": 2})
    assert compiling.answer(HELLO)[0].status == 200
    may_go_on.set()
    compiling.wait("long")
    head = compiling.parts["long"][0].head
    assert head is not None and dict(head.headers)["x-tokens"] == "prompt=20000;answer=2;finish=length"
    assert "deeper" in compiling.problem(422, {"prompt": "a" * 20_000, "deeper": 1})["detail"]


def test_checks_are_answered_and_not_counted(site: Site) -> None:
    site.worker._token_at = -1e9  # long ago
    head, body = site.answer(HELLO, **{CHECK_HEADER: CHECK_HEALTH})
    assert head.status == 200 and b"Hello" in body, "an idle worker computes the check"
    assert site.answer(HELLO, **{CHECK_HEADER: CHECK_HEALTH})[1] == b'{"healthy":true}'
    assert b"Hello" in site.answer(HELLO, **{CHECK_HEADER: CHECK_ANSWER})[1]
    assert site.counts.seen == []


def test_it_describes_its_limits_and_both_routes(site: Site) -> None:
    site.worker.submit("d", Request(wants_description=True))
    site.wait("d")
    description = json.loads(site.parts["d"][0].body)
    assert description["generation"]["context"] == 40 and description["generation"]["backend"] == "scripted"
    names = [each["$ref"].rpartition("/")[2] for each in description["request_schema"]["anyOf"]]
    assert names == ["ChatCompletion", "Completion"]


def test_an_author_changes_prompts_and_checks_requests(tmp_path: Path) -> None:
    class Polite(ScriptedHandler):
        def chat_prompt(self, messages: Sequence[Any], tools: Sequence[Any]) -> list[int]:
            return self.backend.encode("please")

        def check(self, asked: Asked, headers: Any) -> Asked:
            if asked.tools:
                raise UndecodableBody("No tools here.")
            return asked

    config = config_of(tmp_path / "toy", {"a.json": HELLO}, {"a.json": golden_of("please")})
    worker = make_worker(config, Polite())
    assert isinstance(worker, TextWorker)
    startup.start(worker)
    requests = [{**HELLO}, {**HELLO, "tools": [{"type": "function"}]}]
    outcomes = worker.answer([Request(json.dumps(body).encode(), JSON) for body in requests])
    assert [outcome.status for outcome in outcomes] == [200, 400]
    worker.close()


def test_those_in_hand_are_told_when_the_worker_ends(tmp_path: Path) -> None:
    site = serving(tmp_path / "toy")
    site.handler.backend.hold()
    site.submit("a", {**HELLO, "stream": True})
    site.handler.backend.allow(1)
    site.take(site.deliveries.get(timeout=30))
    site.handler.backend.free()
    site.worker.close()
    site.wait("a")  # it ended by itself, or was told
    assert site.parts["a"][-1].body.endswith((b"finish=error\n\n", b"[DONE]\n\n"))
    head, _ = site.answer(HELLO)
    assert head.status == 503


# ---- before it serves ------------------------------------------------------------------------------------------------


def start(folder: Path, golden: dict[str, Any], sample: dict[str, Any] = HELLO, **more: Any) -> dict[str, Any]:
    worker = make_worker(config_of(folder, {"hello.json": sample}, {"hello.json": golden}, **more), ScriptedHandler())
    assert isinstance(worker, TextWorker)
    facts = startup.start(worker)
    worker.close()
    return facts


def test_a_worker_whose_golden_answers_are_right_is_ready(tmp_path: Path) -> None:
    facts = start(tmp_path / "toy", golden_of("Hello"))
    assert (facts["backend"], facts["context"], facts["device"]) == ("scripted", 40, "cpu")


@pytest.mark.parametrize(
    ("golden", "reason"),
    [
        (golden_of("Help!"), "after 3 tokens, expected 'p', got 'lo'"),
        (golden_of("Hell"), "expected the end, 'stop' after 4 tokens, got 'stop' after 'o'"),
        (golden_of("Hello", "length"), "expected the end, 'length'"),
        ({"answers": golden_of("Hello")["answers"] * 2}, "expected 2 choices, got 1"),
    ],
)
def test_a_worker_with_a_wrong_answer_must_not_serve(tmp_path: Path, golden: dict[str, Any], reason: str) -> None:
    with pytest.raises(LoadError) as refused:
        start(tmp_path / "toy", golden)
    assert reason in str(refused.value)


def test_only_so_many_first_tokens_must_agree_as_the_archive_says(tmp_path: Path) -> None:
    start(tmp_path / "three", golden_of("Help!"), tokens=3)
    with pytest.raises(LoadError, match="after 3 tokens"):
        start(tmp_path / "four", golden_of("Help!"), tokens=4)


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        ({**HELLO, "temperature": 1}, 'needs "temperature": 0'),
        ({**HELLO, "stream": True}, "must not ask for a stream"),
        ({**HELLO, "max_tokens": 1000}, "is more than 35"),
        ({**HELLO, "n": 5}, "asks for 5 answers, and max_answers is less"),
        ({"prompt": "x" * 50, "temperature": 0}, "answered 422: prompt has 50 tokens"),
    ],
)
def test_a_sample_that_cannot_be_compared_is_refused(tmp_path: Path, sample: dict[str, Any], reason: str) -> None:
    with pytest.raises(LoadError) as refused:
        start(tmp_path / "toy", golden_of("Hello"), sample)
    assert reason in str(refused.value)


def test_golden_answers_are_kept_token_by_token(tmp_path: Path) -> None:
    samples = {"a.json": HELLO, "b.json": {"prompt": "é!", "n": 2, "max_tokens": 2, "temperature": 0}}
    worker = make_worker(config_of(tmp_path / "toy", samples, {}), ScriptedHandler())
    made = startup.golden_answers(worker)
    assert made["a.json"] == golden_of("Hello")
    assert made["b.json"] == {"answers": [{"tokens": ["é"], "finish": "length"}] * 2}


def test_samples_with_many_answers_are_answered_in_groups(tmp_path: Path) -> None:
    sample = {**HELLO, "n": 3}
    golden = {"answers": golden_of("Hello")["answers"] * 3}
    samples = dict.fromkeys(("a.json", "b.json", "c.json"), sample)
    worker = make_worker(config_of(tmp_path / "toy", samples, dict.fromkeys(samples, golden)), ScriptedHandler())
    assert isinstance(worker, TextWorker)
    startup.start(worker)
    worker.close()


def test_a_handler_and_its_archive_agree_that_it_generates_text(tmp_path: Path) -> None:
    config = config_of(tmp_path / "toy", {"a.json": HELLO}, {})
    with pytest.raises(LoadError, match=r"ScriptedHandler needs the section generation of archive\.yaml"):
        make_worker(replace(config, generation=None), ScriptedHandler())
    with pytest.raises(LoadError, match="ServingHandler cannot use the section generation"):
        make_worker(config, ServingHandler())


def test_an_archive_that_embeds_has_a_handler_that_counts_tokens(tmp_path: Path) -> None:
    class Counting(ServingHandler):
        def count_tokens(self, texts: Sequence[str]) -> int:
            return len(texts)

    config = replace(config_of(tmp_path / "toy", {"a.json": HELLO}, {}), generation=None, embeddings=True)
    with pytest.raises(LoadError, match=r"embeddings: true, and the handler ServingHandler defines no count_tokens"):
        make_worker(config, ServingHandler())
    assert isinstance(make_worker(config, Counting()), Worker)

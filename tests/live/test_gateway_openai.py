"""The OpenAI API at the gateway: real Envoy before nodes that answer by script."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import openai
import pytest
import requests

from tests.support.gateways import Front, with_gateway
from tests.support.scripted_text import PROMPT, Script, ScriptedNode, scripted_node
from tests.support.sites import TINY, make_site, processes_of, until
from tsctl.gateway.counters import ANSWER_TOKENS, ANSWERS, PROMPT_TOKENS, parse_page
from tsctl.gateway.envoy.render.openai import SLACK_S
from tsctl.gateway.envoy.render.upstreams import EMBEDDINGS, TEXT, Endpoint, Offer, Upstream
from tsctl.gateway.publish import put_clusters, put_routes
from tsctl.gateway.state import changing
from tsctl.gateway.traffic import Shadow, Traffic, only

CHAT = "/v1/chat/completions"
FIRST_S = 2.0
OFFERS = {"m": Offer(TEXT, FIRST_S, 20.0), "vectors": Offer(EMBEDDINGS, 30.0, 30.0)}


#: Starts Envoy alone: a supervisor would ask the nodes what they serve.
START = """
from tsctl.cli.context import open_gateway_here
from tsctl.gateway.start import start_gateway
from tsctl.host.progress import Progress
start_gateway(open_gateway_here(), Progress(), with_supervisor=False)
"""


class Place:
    """The gateway and its nodes, by version."""

    def __init__(self, front: Front, nodes: dict[str, ScriptedNode]) -> None:
        self.front, self.nodes = front, nodes

    def route(self, weights: dict[str, int], shadow: str | None = None) -> None:
        """These weights of the model m; the other models stay."""
        gateway = self.front.gateway
        canary = next((version for version in weights if version != list(weights)[-1]), None)
        traffic = {
            "m": Traffic("m", weights, canary, Shadow(shadow, 10_000) if shadow else None),
            "vectors": only("vectors", "1.0"),
            "plain": only("plain", "1.0"),
        }
        with changing(gateway):
            put_clusters(gateway, self.upstreams(), traffic.values())
            put_routes(gateway, traffic.values())

    def upstreams(self) -> list[Upstream]:
        [node] = self.front.gateway.nodes()

        def place(name: str) -> tuple[Endpoint, ...]:
            return (Endpoint(node.name, "127.0.0.1", self.nodes[name].port, "token"),)

        return [
            Upstream("m", "1.0", place("1.0"), None, None, OFFERS["m"]),
            Upstream("m", "2.0", place("2.0"), None, None, OFFERS["m"]),
            Upstream("vectors", "1.0", place("1.0"), None, None, OFFERS["vectors"]),
            Upstream("plain", "1.0", place("1.0"), None),
        ]

    def ask(
        self, script: Script | None = None, /, model: str = "m", path: str = CHAT, key: str | None = None, **body: Any
    ) -> requests.Response:
        content = {"model": model, "messages": [{"role": "user", "content": (script or Script()).text()}], **body}
        headers = {"authorization": f"Bearer {key or self.front.key}"}
        return requests.post(
            self.front.base + path, json=content, headers=headers, timeout=60, stream=bool(body.get("stream"))
        )

    def line(self, answer: requests.Response) -> dict[str, Any]:
        """The line of the access log of an answer."""
        wanted = answer.headers["x-request-id"]
        line: dict[str, Any] = until(
            lambda: next((one for one in self.front.log() if one["request_id"] == wanted), None), 20, "its line"
        )
        return line

    def counted(self, name: str, **labels: str) -> int:
        page = parse_page(requests.get(f"{self.front.metrics}/metrics", timeout=10).text)
        return sum(s.value for s in page if s.name == name and labels.items() <= s.labels.items())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    site = make_site(tmp_path_factory.mktemp("openai") / "site")
    site.deploy(TINY)
    base, metrics = with_gateway(site, {})
    with ExitStack() as stack:
        nodes = {version: stack.enter_context(scripted_node(version[0])) for version in ("1.0", "2.0")}
        try:
            subprocess.run([sys.executable, "-c", START], cwd=site.root, check=True, timeout=60)
            key = site.run("keys", "add", "alice").out.strip()
            made = Place(Front(site, base, metrics, key), nodes)
            made.route({"2.0": 0, "1.0": 10_000})
            until(lambda: made.ask().status_code == 200, 20, "an answer")
            yield made
        finally:
            site.run("gateway", "stop")
    assert processes_of(site.root) == [], "processes are left behind"


def events(answer: requests.Response) -> list[str]:
    """The data of a stream's events."""
    return [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]


def error_of(answer: requests.Response) -> dict[str, Any]:
    """The error of an answer, in the form of the OpenAI API."""
    assert answer.headers["content-type"] == "application/json", answer.text
    assert answer.json().keys() == {"error"}
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


def test_a_stream_comes_token_by_token_and_its_tokens_are_logged_and_counted(place: Place) -> None:
    before = place.counted(ANSWER_TOKENS, client="alice"), place.counted(PROMPT_TOKENS, client="alice")
    answers = place.counted(ANSWERS, version="1.0", finish="stop")
    with place.ask(Script(tokens=4, gap_s=0.4), stream=True) as answer:
        assert answer.status_code == 200, answer.text
        times = [time.monotonic() for line in answer.iter_lines(1) if line.startswith(b"data: ")]
    assert len(times) == 6  # four tokens, the end, and [DONE]
    assert times[3] - times[0] > 0.8  # not all at once
    line = place.line(answer)
    assert (line["tokens_in"], line["tokens_out"], line["finish"]) == (PROMPT, 4, "stop")
    assert line["answer_ms"] < line["duration_ms"] - 800
    assert (line["model"], line["version"], line["protocol"], line["client"]) == ("m", "1.0", "openai-chat", "alice")
    assert place.counted(ANSWERS, version="1.0", finish="stop") == answers + 1
    now = place.counted(ANSWER_TOKENS, client="alice"), place.counted(PROMPT_TOKENS, client="alice")
    assert now == (before[0] + 4, before[1] + PROMPT)


@pytest.mark.parametrize("style", ["worker", "vllm"])
@pytest.mark.parametrize("stream", [True, False])
def test_usage_is_read_from_what_workers_and_what_vllm_say(place: Place, style: str, stream: bool) -> None:
    line = place.line(place.ask(Script(tokens=9, style=style), stream=stream))
    finish = "stop" if stream else "length"
    assert (line["tokens_in"], line["tokens_out"], line["finish"]) == (PROMPT, 9, finish)


def test_a_request_reaches_the_version_that_it_names_and_the_models_own_path(place: Place) -> None:
    for model, version in (("m", "1.0"), ("m:1.0", "1.0"), ("m:2.0", "2.0")):
        answer = place.ask(model=model)
        assert answer.json()["choices"][0]["message"]["content"] == version[0]
        assert answer.headers["x-model-version"] == version
        seen = place.nodes[version].requests[-1]
        assert seen["path"] == f"/predictions/m/{version}"
        assert seen["headers"]["x-tsctl-protocol"] == "openai-chat"
        assert seen["headers"]["authorization"] == "Bearer token"  # the node's; the client's key stays at the gateway
    assert place.line(answer)["by"] == "path"
    tested = requests.post(
        place.front.base + "/v1/completions",
        json={"model": "m", "prompt": "x"},
        headers={"x-api-key": place.front.key, "x-track": "canary"},
        timeout=20,
    )
    assert tested.headers["x-model-version"] == "2.0"
    assert place.nodes["2.0"].requests[-1]["headers"]["x-tsctl-protocol"] == "openai-completion"


def test_embeddings_are_asked_as_embeddings_and_only_there(place: Place) -> None:
    answer = place.ask(model="vectors", path="/v1/embeddings", input="x")
    assert answer.status_code == 200
    assert place.nodes["1.0"].requests[-1]["headers"]["x-tsctl-protocol"] == "openai-embeddings"
    line = place.line(answer)
    assert (line["model"], line["tokens_in"], line["tokens_out"]) == ("vectors", PROMPT, 5)
    refused = place.ask(model="m", path="/v1/embeddings", input="x")
    assert (refused.status_code, error_of(refused)["code"]) == (404, "model_not_found")
    assert error_of(refused)["message"].endswith("There are: vectors, vectors:1.0.")


def test_the_list_names_models_and_their_versions(place: Place) -> None:
    def get(path: str, **headers: str) -> requests.Response:
        return requests.get(place.front.base + path, headers=headers, timeout=10)

    key = {"authorization": f"Bearer {place.front.key}"}
    listed = get("/v1/models", **key).json()
    assert listed["object"] == "list"
    assert [one["id"] for one in listed["data"]] == ["m", "m:2.0", "m:1.0", "vectors", "vectors:1.0"]
    assert get("/v1/models/m:2.0", **key).json() == listed["data"][1]
    assert error_of(get("/v1/models"))["type"] == "authentication_error"
    assert error_of(get("/v1/models/plain", **key))["code"] == "not-found"


@pytest.mark.parametrize(
    ("body", "media_type", "status", "code"),
    [
        (b'{"model": "m"', "application/json", 400, "undecodable-body"),
        (b'{"messages": []}', "application/json", 400, "undecodable-body"),
        (b"[1]", "application/json", 400, "undecodable-body"),
        (b"", "application/json", 400, "undecodable-body"),
        (b'{"model": "m"}', "text/plain", 400, "undecodable-body"),
        (b'{"model": "plain"}', "application/json", 404, "model_not_found"),
        (b'{"model": "m:3.0"}', "application/json", 404, "model_not_found"),
        (b'{"model": 3}', "application/json; charset=utf-8", 404, "model_not_found"),
    ],
)
def test_a_body_that_names_no_model_here_is_refused_in_the_apis_form(
    place: Place, body: bytes, media_type: str, status: int, code: str
) -> None:
    before = sum(len(node.requests) for node in place.nodes.values())
    headers = {"authorization": f"Bearer {place.front.key}", "content-type": media_type}
    answer = requests.post(place.front.base + CHAT, data=body, headers=headers, timeout=20)
    error = error_of(answer)
    assert (answer.status_code, error["type"], error["code"]) == (status, "invalid_request_error", code)
    assert "m" in error["message"]
    assert sum(len(node.requests) for node in place.nodes.values()) == before


def test_a_compressed_body_is_refused_and_a_media_type_may_have_any_case(place: Place) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}).encode()
    headers = {"authorization": f"Bearer {place.front.key}", "content-type": "Application/JSON; Charset=UTF-8"}
    assert requests.post(place.front.base + CHAT, data=body, headers=headers, timeout=20).status_code == 200
    headers["content-encoding"] = "gzip"
    refused = requests.post(place.front.base + CHAT, data=gzip.compress(body), headers=headers, timeout=20)
    error = error_of(refused)
    assert (refused.status_code, error["type"], error["code"]) == (
        415,
        "invalid_request_error",
        "unsupported-media-type",
    )
    assert "send it without Content-Encoding" in error["message"]


def test_other_refusals_have_the_apis_form_too(place: Place) -> None:
    unknown = place.ask(key="no")
    assert (unknown.status_code, error_of(unknown)["code"]) == (401, "unauthorized")
    assert "authorization: Bearer" in error_of(unknown)["message"]
    busy = place.ask(Script(status=503))
    assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
    assert error_of(busy) == {
        "message": 'All are "busy".\n',
        "type": "server_error",
        "param": None,
        "code": "unavailable",
    }
    misfit = place.ask(Script(status=422))
    assert (misfit.status_code, error_of(misfit)["type"]) == (400, "invalid_request_error")
    method = requests.get(place.front.base + CHAT, timeout=10)
    assert (method.status_code, error_of(method)["code"]) == (405, "method-not-allowed")
    header = {"authorization": f"Bearer {place.front.key}", "a_b": "1"}
    refused = requests.post(place.front.base + CHAT, json={"model": "m"}, headers=header, timeout=10)
    assert "a_b" in error_of(refused)["message"]
    large = requests.post(
        place.front.base + CHAT,
        data=b'{"model": "m", "x": "' + b"x" * (place.front.gateway.spec.request_bytes + 1) + b'"}',
        headers={"authorization": f"Bearer {place.front.key}", "content-type": "application/json"},
        timeout=30,
    )
    assert (large.status_code, error_of(large)["code"]) == (413, "payload-too-large")


def test_a_plain_path_keeps_its_own_errors_and_counts_tokens_as_well(place: Place) -> None:
    def ask(script: Script) -> requests.Response:
        body = {"messages": [{"role": "user", "content": script.text()}], "stream": True}
        headers = {"x-api-key": place.front.key}
        return requests.post(place.front.base + "/predictions/m", json=body, headers=headers, timeout=20)

    assert ask(Script(status=503)).headers["content-type"] == "application/problem+json"
    line = place.line(ask(Script(tokens=3)))
    assert (line["tokens_out"], line["finish"]) == (3, "stop")
    headers = {"x-api-key": place.front.key}
    other = requests.post(place.front.base + "/predictions/plain", json={}, headers=headers, timeout=20)
    assert "finish" not in place.line(other)


def test_a_stream_that_ends_without_an_end_gets_an_error_event(place: Place) -> None:
    broken = place.counted(ANSWERS, version="1.0", finish="broken")
    answer = place.ask(Script(tokens=3, end="early"), stream=True)
    text = answer.text
    event, _, data = text[text.index("event: ") :].partition("\n")
    assert event == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "broken-stream"
    line = place.line(answer)
    assert (line["status"], line["finish"], line["tokens_out"]) == (200, "broken", 3)
    assert place.counted(ANSWERS, version="1.0", finish="broken") == broken + 1


def test_a_connection_that_breaks_is_no_silent_end_and_is_broken_in_the_log(place: Place) -> None:
    answer = place.ask(Script(tokens=9, end="cut", after=2), stream=True)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        _ = answer.content
    line = place.line(answer)
    assert (line["finish"], line["tokens_out"]) == ("broken", 2)
    assert line["flags"] not in ("-", "DC")


def test_an_error_that_the_worker_tells_passes_and_is_an_error(place: Place) -> None:
    answer = place.ask(Script(tokens=9, end="failed", after=2), stream=True)
    assert answer.text.count("event: error") == 1
    line = place.line(answer)
    assert (line["finish"], line["tokens_in"], line["tokens_out"]) == ("error", PROMPT, 2)


def test_a_client_that_hangs_up_frees_the_node_and_is_no_error_of_the_version(place: Place) -> None:
    answer = place.ask(Script(tokens=1000, gap_s=0.05), stream=True)
    assert next(answer.iter_lines(1)).startswith(b"data: ")
    answer.close()
    wanted = answer.headers["x-request-id"]
    until(lambda: wanted in place.nodes["1.0"].left, 20, "the node's notice")
    assert "DC" in place.line(answer)["flags"]


def test_a_first_token_that_is_late_is_504_and_a_gap_ends_the_stream(place: Place) -> None:
    patience = FIRST_S + SLACK_S
    with ThreadPoolExecutor() as pool:
        late = pool.submit(place.ask, Script(wait_s=patience + 3), stream=True)
        gap = pool.submit(place.ask, Script(after=2, hold_s=patience + 3), stream=True)
        in_one_piece = pool.submit(place.ask, Script(wait_s=patience + 1))
        assert (late.result().status_code, error_of(late.result())["code"]) == (504, "deadline-passed")
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            _ = gap.result().content
        assert place.line(gap.result())["finish"] == "broken"
        assert in_one_piece.result().status_code == 200  # it has the time of a whole answer


def test_weights_change_under_streams_and_none_breaks(place: Place) -> None:
    try:
        with ThreadPoolExecutor(16) as pool:
            streams = [pool.submit(place.ask, Script(tokens=60, gap_s=0.05), stream=True) for _ in range(16)]
            for turn in range(20):
                place.route({"2.0": 10_000 * (turn % 2), "1.0": 10_000 * (1 - turn % 2)})
                streams.append(pool.submit(place.ask, Script(tokens=20, gap_s=0.05), stream=True))
            ended = [events(stream.result())[-1] for stream in streams]
        assert ended == ["[DONE]"] * len(streams)
        assert {stream.result().headers["x-model-version"] for stream in streams} == {"1.0", "2.0"}
    finally:
        place.route({"2.0": 0, "1.0": 10_000})


def test_a_shadow_gets_a_copy_of_a_stream_and_the_client_one_answer(place: Place) -> None:
    try:
        place.route({"1.0": 10_000}, shadow="2.0")
        before = len(place.nodes["2.0"].requests)
        answer = place.ask(Script(tokens=3), stream=True)
        assert len(events(answer)) == 5
        until(lambda: len(place.nodes["2.0"].requests) > before, 20, "the copy")
        copy = place.nodes["2.0"].requests[-1]["headers"]
        assert (copy["x-tsctl-shadow"], copy["x-tsctl-protocol"]) == ("1", "openai-chat")
    finally:
        place.route({"2.0": 0, "1.0": 10_000})


def test_a_client_over_its_budget_of_tokens_waits_until_it_has_paid(place: Place) -> None:
    site = place.front.site
    keys = {name: site.run("keys", "add", name, "--tokens-per-minute", "6000").out.strip() for name in ("bob", "eve")}
    assert place.ask(Script(tokens=6100 - PROMPT), key=keys["bob"]).status_code == 200  # 100 more than it has
    refused = refusal(place, keys["bob"])
    error = error_of(refused)
    assert (error["type"], error["code"]) == ("rate_limit_error", "over-budget")
    assert refused.headers["retry-after"] in ("1", "2")  # 100 tokens are a second
    assert place.ask(key=keys["eve"]).status_code == 200
    plain = {"x-api-key": keys["bob"]}
    assert requests.post(place.front.base + "/predictions/plain", json={}, headers=plain, timeout=10).status_code == 200
    until(lambda: place.ask(key=keys["bob"]).status_code == 200, 20, "the end of the debt")
    row = next(row for row in site.run("keys", "list", "--json").json() if row["client"] == "bob")
    assert row["tokens/min"] == 6000


def refusal(place: Place, key: str) -> requests.Response:
    """The answer to the client once it is over its budget."""
    answers: list[requests.Response] = []

    def is_refused() -> bool:
        answers.append(place.ask(key=key))
        return answers[-1].status_code == 429

    until(is_refused, 20, "the refusal")
    return answers[-1]


def test_a_budget_of_tokens_outlives_a_change_of_weights_and_hanging_up_is_not_free(place: Place) -> None:
    key = place.front.site.run("keys", "add", "dan", "--tokens-per-minute", "60").out.strip()
    answer = place.ask(Script(tokens=200, hold_s=20), key=key, stream=True)
    lines = (line for line in answer.iter_lines(1) if line.startswith(b"data: "))
    for _ in range(200):
        next(lines)
    answer.close()
    refusal(place, key)
    place.route({"2.0": 5000, "1.0": 5000})
    place.route({"2.0": 0, "1.0": 10_000})
    refused = place.ask(key=key)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 60


def test_openais_own_client_streams_embeds_and_raises_its_errors(place: Place) -> None:
    with openai.OpenAI(base_url=f"{place.front.base}/v1", api_key=place.front.key, max_retries=0) as client:
        asked: Any = {"model": "m", "messages": [{"role": "user", "content": Script(tokens=3).text()}]}
        chunks = list(client.chat.completions.create(**asked, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "10 11 12 "
        assert client.chat.completions.create(**asked).choices[0].message.content == "1"
        assert [model.id for model in client.models.list()][:2] == ["m", "m:2.0"]
        with pytest.raises(openai.NotFoundError, match="There are: m, m:2"):
            client.chat.completions.create(**{**asked, "model": "nobody"})
        broken: dict[str, Any] = {
            **asked,
            "messages": [{"role": "user", "content": Script(tokens=3, end="early").text()}],
        }
        with pytest.raises(openai.APIError, match="ended before it was complete"):
            list(client.chat.completions.create(**broken, stream=True))

"""The OpenAI API at the gateway before a real node of our own server, with a model that writes at a steady pace."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Semaphore
from typing import Any

import openai
import pytest
import requests
import yaml

from tests.support.gateways import Front, brought_up, with_gateway
from tests.support.paced import write_archive
from tests.support.ports import free_ports
from tests.support.sites import make_site, until
from tests.support.streams import texts


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    site = make_site(tmp_path_factory.mktemp("textnode") / "site")
    write_archive(site.root, places=32)
    versions = {"1.0": {"workers": 1}, "2.0": {"workers": 1}}
    content = {**site.deployment, "models": {"toy": {"default": "1.0", "versions": versions}}}
    content["nodes"] = {"local": {"engine": "uvicorn", "address": f"http://127.0.0.1:{free_ports(1)[0]}"}}
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    site.run("archive", "build", "toy")
    base, metrics = with_gateway(site, {})
    with brought_up(site, base, metrics) as made:
        site.run("weights", "set", "toy", "1.0=100%", "2.0=0%")
        yield made


@pytest.fixture(scope="module")
def client(front: Front) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{front.base}/v1", api_key=front.key, max_retries=0) as made:
        yield made


def streamed(
    client: openai.OpenAI, tokens: int, model: str = "toy", begun: Semaphore | None = None
) -> tuple[int, str | None]:
    """Characters of a streamed answer, each a token, and how it ended; `begun` is released at the first."""
    length, finish = 0, None
    for chunk in client.completions.create(model=model, prompt="ab", max_tokens=tokens, temperature=0, stream=True):
        if begun is not None and not length:
            begun.release()
        length += len(chunk.choices[0].text)
        finish = chunk.choices[0].finish_reason or finish
    return length, finish


def test_tokens_of_a_workers_own_stream_and_answer_are_in_the_log(front: Front, client: openai.OpenAI) -> None:
    assert streamed(client, 40) == (40, "length")
    answer = client.completions.create(model="toy:2.0", prompt="ab", max_tokens=5, temperature=0)
    assert answer.choices[0].text == "ababa"
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="toy", prompt="", temperature=0)
    assert refused.value.param == "prompt"

    def lines() -> list[dict[str, Any]]:
        return [line for line in front.log() if line["protocol"] == "openai-completion"]

    until(lambda: len(lines()) >= 3, 20, "the lines of the log")
    stream, whole, wrong = lines()[:3]
    assert [(one["version"], one["tokens_in"], one["tokens_out"], one["finish"]) for one in (stream, whole)] == [
        ("1.0", 2, 40, "length"),
        ("2.0", 2, 5, "length"),
    ]
    assert stream["answer_ms"] < stream["duration_ms"]
    assert (wrong["status"], wrong["finish"]) == (400, None)


def test_curl_reads_a_stream_through_the_gateway(front: Front) -> None:
    curl = shutil.which("curl")
    assert curl is not None
    body = json.dumps({"model": "toy", "prompt": "ab", "max_tokens": 5, "temperature": 0, "stream": True})
    command = [
        curl, "-sSNi", "--max-time", "60", "-H", f"authorization: Bearer {front.key}",
        "-H", "content-type: application/json", "-d", body, f"{front.base}/v1/completions",
    ]  # fmt: skip
    head, _, events = subprocess.run(command, capture_output=True, check=True).stdout.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and b"content-type: text/event-stream" in head
    assert texts(events) == "ababa"
    assert events.endswith(b": tokens prompt=2;answer=5;finish=length\n\ndata: [DONE]\n\n")


def test_a_client_that_reads_events_by_the_standard_needs_to_know_no_more(front: Front) -> None:
    """As litellm and others do: fields that it has no use for in the body, comments left out, the usage at the end."""
    body = {
        "model": "toy", "messages": [{"role": "user", "content": "xy"}], "max_tokens": 4, "temperature": 0,
        "stream": True, "stream_options": {"include_usage": True}, "user": "u", "metadata": {"trace": "1"}, "n": 1,
        "stop": None, "tools": None, "logit_bias": {}, "response_format": {"type": "text"},
    }  # fmt: skip
    headers = {"authorization": f"Bearer {front.key}", "user-agent": "litellm/1.80", "accept": "text/event-stream"}
    with requests.post(f"{front.base}/v1/chat/completions", json=body, headers=headers, timeout=60, stream=True) as got:
        assert got.status_code == 200, got.text
        events = list(events_of(got.iter_lines()))
    assert {kind for kind, _ in events} == {"message"} and events[-1][1] == "[DONE]"
    chunks = [json.loads(data) for _, data in events[:-1]]
    assert "".join(each["choices"][0]["delta"].get("content") or "" for each in chunks if each["choices"]) == "xyxy"
    assert [each["choices"][0]["finish_reason"] for each in chunks if each["choices"]][-1] == "length"
    assert chunks[-1]["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}
    wrong = requests.post(f"{front.base}/v1/chat/completions", json={**body, "n": 33}, headers=headers, timeout=60)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "n")


def events_of(lines: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Kind and data of each event of a stream, as the HTML standard reads them (section 9.2)."""
    kind, data = "message", list[str]()
    for line in lines:
        name, _, value = line.decode().partition(":")
        if not line and data:
            yield kind, "\n".join(data)
        if not line:
            kind, data = "message", []
        elif name == "event":
            kind = value.removeprefix(" ")
        elif name == "data":
            data.append(value.removeprefix(" "))


def test_no_stream_breaks_through_twenty_changes_of_weights_and_a_retired_version(
    front: Front, client: openai.OpenAI
) -> None:
    begun = Semaphore(0)
    running: list[Future[tuple[int, str | None]]] = []
    with ThreadPoolExecutor(24) as pool:
        for turn in range(20):
            running.append(pool.submit(streamed, client, 300))
            share = 100 * (turn % 2)
            front.site.run("weights", "set", "toy", f"1.0={100 - share}%", f"2.0={share}%")
        front.site.run("weights", "set", "toy", "1.0=100%", "2.0=0%")
        running += [pool.submit(streamed, client, 300, "toy:2.0", begun) for _ in range(3)]
        assert all(begun.acquire(timeout=30) for _ in range(3))
        front.site.run("models", "retire", "toy", "2.0", "--timeout", "60")
        ended = [one.result() for one in running]
    assert ended == [(300, "length")] * 23

"""`tsctl serve` with a real language model: SmolLM2 by OpenVINO, asked by OpenAI's client and by curl."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.live.test_serve import Server, served
from tests.support.sites import copy_archives, make_site

MODEL = "smollm2"
FOLDER = Path(__file__).resolve().parents[2] / "archives" / MODEL
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "large": {"type": "boolean"}},
    "required": ["city", "large"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    site = make_site(tmp_path_factory.mktemp("text") / "site")
    copy_archives(site, MODEL)
    with served(site, f"{MODEL}:1.0") as server:  # its worker has answered the golden prompts, alone and together
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def golden(sample: str) -> str:
    answers = json.loads((FOLDER / "golden" / "1.0.json").read_text())[sample]["answers"]
    return "".join(answers[0]["tokens"])


def asked(sample: str) -> Any:
    return json.loads((FOLDER / "samples" / sample).read_text())


def test_a_stream_is_the_golden_answer_token_by_token(client: openai.OpenAI) -> None:
    events = list(
        client.chat.completions.create(
            model=MODEL, **asked("capital.json"), stream=True, stream_options={"include_usage": True}
        )
    )
    texts = [event.choices[0].delta.content for event in events if event.choices and event.choices[0].delta.content]
    assert "".join(texts) == golden("capital.json") == "The capital of Japan is Tokyo."
    assert len(texts) == 7
    assert events[-1].usage is not None
    assert events[-1].usage.completion_tokens in (7, 8)  # with the token that ends it


def test_an_answer_does_not_depend_on_the_others_in_its_batch(client: openai.OpenAI) -> None:
    def answer(word: str) -> str:
        text = client.completions.create(model=MODEL, prompt=f"{word} is", max_tokens=12, temperature=0).choices[0].text
        return str(text)

    words = ["Water", "The sun", "A dog", "Music", "Bread", "Winter"]
    alone = [answer(word) for word in words]
    with ThreadPoolExecutor(len(words)) as pool:
        together = list(pool.map(answer, words))
    assert together == alone
    assert len(set(alone)) == len(words)


def test_an_answer_follows_a_schema_and_its_seed(client: openai.OpenAI) -> None:
    question: Any = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Name a city, and whether it is large, as JSON."}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}},
        "max_tokens": 60, "seed": 7,
    }  # fmt: skip
    first, second = (client.chat.completions.create(**question).choices[0].message.content for _ in range(2))
    assert first is not None
    answer = json.loads(first)
    assert set(answer) == {"city", "large"}
    assert isinstance(answer["large"], bool)
    assert first == second


def test_a_user_cannot_end_his_own_message(client: openai.OpenAI) -> None:
    def tokens(content: str) -> int:
        usage = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": content}], max_tokens=1, temperature=0
        ).usage
        assert usage is not None
        return usage.prompt_tokens

    assert tokens("<|im_end|>") - tokens("a") > 3, "a special token would be one"


def test_a_prompt_beyond_the_context_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="the model reads 2048") as raised:
        client.completions.create(model=MODEL, prompt="word " * 3000, max_tokens=1)
    assert raised.value.param == "prompt"


def test_tools_that_the_chat_template_leaves_out_are_refused(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "weather_of", "parameters": {"type": "object"}}}
    with pytest.raises(openai.BadRequestError, match="not in this model's chat template") as refused:
        client.chat.completions.create(model=MODEL, **asked("capital.json"), tools=[tool])
    assert refused.value.param == "tools"


def test_the_smallest_temperature_and_top_p_are_greedy(client: openai.OpenAI) -> None:
    question = {name: value for name, value in asked("capital.json").items() if name != "temperature"}
    smallest: list[Any] = [{"temperature": 1e-39}, {"temperature": 1e-300}, {"top_p": 1e-46}]
    for fields in smallest:
        answer = client.chat.completions.create(model=MODEL, **question, **fields).choices[0].message.content
        assert answer == golden("capital.json"), fields


def test_a_large_schema_is_followed_and_a_larger_one_refused(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(400)}}
    question: Any = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "JSON, please."}],
        "max_tokens": 3,
        "n": 4,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "large", "schema": schema}}
    answers = client.chat.completions.create(**question, response_format=form).choices
    assert len(answers) == 4
    assert all((answer.message.content or "").startswith("{") for answer in answers)
    large: Any = {"type": "json_schema", "json_schema": {"name": "large", "schema": {"enum": ["x" * 70_000]}}}
    with pytest.raises(openai.BadRequestError, match="65536 may be") as refused:
        client.chat.completions.create(**question, response_format=large)
    assert refused.value.param == "response_format.json_schema.schema"


def test_curl_reads_a_stream_as_it_comes(server: Server) -> None:
    curl = shutil.which("curl")
    assert curl is not None
    body = json.dumps({"model": MODEL, "prompt": "Once upon a time", "max_tokens": 5, "stream": True})
    command = [
        curl, "-sSN", "--max-time", "60", "-H", "content-type: application/json", "-d", body,
        f"{server.url}/v1/completions",
    ]  # fmt: skip
    events = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n\n")
    assert [json.loads(event.removeprefix("data: "))["object"] for event in events[:5]] == ["text_completion"] * 5
    assert events[-2:] == ["data: [DONE]", ""]

"""`/embeddings` of the OpenAI API on a worker with a model of sentence embeddings."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from tests.support.workers import Item, Reply, Worker

TEXTS = ["A man is playing a guitar.", "Rain."]


def ask(worker: Worker, **body: Any) -> Reply:
    content = json.dumps({"model": "embeddings:1.0", **body}).encode()
    [reply] = worker.ask(Item(content, headers={"x-tsctl-protocol": "openai-embeddings"}))
    return reply


def plain(worker: Worker, texts: list[str]) -> list[list[float]]:
    [reply] = worker.ask(Item(json.dumps({"text": texts}).encode()))
    vectors: list[list[float]] = reply.json()["embeddings"]
    return vectors


@pytest.mark.parametrize("sent", [TEXTS, TEXTS[0]])
def test_the_vectors_are_the_models_in_the_apis_form(embeddings: Worker, sent: str | list[str]) -> None:
    reply = ask(embeddings, input=sent)
    assert reply.status == 200, reply.body
    answer = reply.json()
    vectors = plain(embeddings, TEXTS if sent == TEXTS else TEXTS[:1])
    assert answer["data"] == [
        {"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)
    ]
    assert (answer["object"], answer["model"]) == ("list", "embeddings:1.0")
    tokens = answer["usage"]["prompt_tokens"]
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert tokens == (13 if sent == TEXTS else 9)  # with the two that stand around each sentence
    assert reply.headers["x-tokens"] == f"prompt={tokens};answer=0;finish=stop"
    assert reply.headers["x-model-version"] == "1.0"


def test_base64_is_the_same_in_float32(embeddings: Worker) -> None:
    [entry] = ask(embeddings, input=TEXTS[:1], encoding_format="base64").json()["data"]
    found = np.frombuffer(base64.b64decode(entry["embedding"]), "<f4")
    assert found == pytest.approx(plain(embeddings, TEXTS[:1])[0], abs=1e-6)
    assert ask(embeddings, input="x", dimensions=384).status == 200


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"input": [1, 2]}, "input", "token numbers"),
        ({"input": [[1, 2]]}, "input", "token numbers"),
        ({"input": []}, "input", "1 to 2048"),
        ({"input": ""}, "input", ""),
        ({"input": "x", "dimensions": 5}, "dimensions", "must be 384"),
        ({"input": "x", "what": 1}, "what", ""),
        ({"input": ["x"] * 65}, "input", ""),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(embeddings: Worker, body: dict[str, Any], param: str, says: str) -> None:
    reply = ask(embeddings, **body)
    assert reply.status == 400, reply.body
    error = reply.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert says in error["message"]


def test_it_may_stand_beside_others_in_a_batch_and_other_models_have_none(
    embeddings: Worker, breast_cancer: Worker
) -> None:
    asked = json.dumps({"model": "m", "input": TEXTS}).encode()
    mixed = embeddings.ask(
        Item(json.dumps({"text": TEXTS[1]}).encode()),
        Item(asked, headers={"x-tsctl-protocol": "openai-embeddings"}),
        Item(b"{", headers={"x-tsctl-protocol": "openai-embeddings"}),
    )
    assert [reply.status for reply in mixed] == [200, 200, 400]
    assert len(mixed[1].json()["data"]) == 2
    assert mixed[2].json()["error"]["code"] == "undecodable-body"
    [other] = breast_cancer.ask(Item(asked, headers={"x-tsctl-protocol": "openai-embeddings"}))
    assert (other.status, other.json()["error"]["param"]) == (400, "model")

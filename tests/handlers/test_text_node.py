"""Versions that generate text on a node of our own server: found by the body's model, pinned, and taken off."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from handlers.adapters.asgi.node.app import Node
from handlers.adapters.asgi.node.registry import State
from handlers.adapters.asgi.node.served import Entry
from handlers.adapters.asgi.text_pool import TextPool
from handlers.contract import JSON, MODEL_VERSION_HEADER, SENT_HEADER, TOKENS_HEADER
from tests.handlers.test_asgi_node import ALLOWED, Reply, ask, node_in, run, until
from tests.support.paced import packed, write_paced
from tests.support.streams import CHAT, COMPLETION, completion, texts
from tsctl.archive.container import digest_of

MESSAGES = [{"role": "user", "content": "xy"}]


def stored(store: Path, version: str) -> Entry:
    """An archive in the store."""
    path = packed(write_paced(store / f"toy-{version}", version=version), store / f"toy-{version}.mar")
    return Entry("toy", version, path.name, digest_of(path), None)


async def post(node: Node, path: str, body: Any, headers: dict[str, str] = ALLOWED) -> Reply:
    return await ask(node, path, json.dumps(body).encode(), "POST", headers)


def test_a_request_names_its_model_and_a_version_that_is_taken_off_ends_its_streams(tmp_path: Path) -> None:
    async def test() -> None:
        store, folder = tmp_path / "store", tmp_path / "node"
        folder.mkdir()
        async with node_in(folder, store) as (node, registry):
            for version in ("1.0", "2.0"):
                await registry.register(stored(store, version))
            await until(lambda: all(v.state is State.SERVING for v in registry.versions.values()), "both versions")

            listed = await ask(node, "/v1/models")
            assert [model["id"] for model in listed.json["data"]] == ["toy:1.0", "toy", "toy:2.0"]
            for path, name, version in (
                (COMPLETION, "toy", "1.0"), (COMPLETION, "toy:2.0", "2.0"), (COMPLETION, "toy:1.0", "1.0"),
                ("/models/toy/2.0/v1/completions", "toy", "2.0"), ("/predictions/toy/2.0", "any", "2.0"),
            ):  # fmt: skip
                answer = await post(node, path, completion("ab", 5, model=name))
                assert (answer.status, answer.headers[MODEL_VERSION_HEADER]) == (200, version), (path, name)
                assert texts(answer.body) == "ababa"
            chat = await post(node, CHAT, {"model": "toy:2.0", "messages": MESSAGES, "max_tokens": 3})
            assert chat.json["choices"][0]["message"]["content"] == "xyx"
            assert chat.headers[TOKENS_HEADER] == "prompt=2;answer=3;finish=length"

            for body, status, words in (
                (completion("ab", 1, model="toy:3.0"), 404, "'toy:3.0'; this path has toy:1.0, toy, toy:2.0"),
                ({"prompt": "ab"}, 400, "model"),
            ):
                refused = await post(node, COMPLETION, body)
                assert (refused.status, refused.headers["content-type"]) == (status, JSON)
                assert words in refused.json["error"]["message"]
            stranger = await post(node, COMPLETION, completion("ab", 1), {"authorization": "Bearer no"})
            assert (stranger.status, stranger.json["error"]["type"]) == (401, "authentication_error")

            streaming = asyncio.create_task(post(node, COMPLETION, completion("ab", 150, model="toy:2.0")))
            pool = registry.get("toy", "2.0").pool
            assert isinstance(pool, TextPool)
            await until(lambda: pool._has_work, "the stream")
            await registry.unregister("toy", "2.0")
            gone = await post(node, COMPLETION, completion("ab", 1, model="toy:2.0"))
            assert gone.status == 404
            sent = await post(node, "/predictions/toy/2.0", completion("ab", 1), {**ALLOWED, SENT_HEADER: "1"})
            assert sent.status == 503, "a gateway is to ask another node"
            stream = await streaming
            assert stream.body.endswith(b"answer=150;finish=length\n\ndata: [DONE]\n\n")
            await until(lambda: len(registry.versions) == 1, "the end of the version")

    run(test())

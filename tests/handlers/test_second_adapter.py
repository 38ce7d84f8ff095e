"""The worker needs no server: a bare ASGI application, written here, answers as TorchServe's adapter does."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from handlers.contract import CLASS_HEADER, MODEL_VERSION_HEADER, OPEN_INFERENCE, PROTOCOL_HEADER, difference
from handlers.messages import Request, bare_media_type, request_id_of
from handlers.worker import startup, worker
from handlers.worker.config import handler_class, read_config
from tests.support.workers import JSON, Item, Reply, unpacked
from tests.support.workers import Worker as TorchServe
from tsctl.archive.container import CONFIG, MANIFEST


class Application:
    """One unpacked archive as an ASGI application: the whole adapter of a second server."""

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())["model"]
        config = read_config(folder, manifest, yaml.safe_load((folder / CONFIG).read_text()))
        self.worker = worker.Worker(handler_class(config.handler)(), config)
        with startup.reported_load(config.model, config.version) as facts:
            facts |= startup.start(self.worker)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer one request; a GET asks for the description."""
        body = b""
        while True:
            part = await receive()
            body += part["body"]
            if not part["more_body"]:
                break
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request = Request(
            body,
            bare_media_type(headers.get("content-type", "")),
            headers,
            request_id_of(headers, "request-0"),
            wants_description=scope["method"] == "GET",
        )
        [outcome] = self.worker.answer([request])
        sent = [("content-type", outcome.media_type), *outcome.headers]
        encoded = [(name.encode(), value.encode()) for name, value in sent]
        await send({"type": "http.response.start", "status": outcome.status, "headers": encoded})
        await send({"type": "http.response.body", "body": outcome.body})


# ---- the adapter ends here -------------------------------------------------------------------------------------------


def ask(application: Application, item: Item, method: str = "POST") -> Reply:
    """The reply to one request, in two parts as a server hands them over."""
    messages: list[dict[str, Any]] = []
    half = len(item.body) // 2
    parts = iter([{"body": item.body[:half], "more_body": True}, {"body": item.body[half:], "more_body": False}])

    async def receive() -> dict[str, Any]:
        return next(parts)

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    named = {**({"content-type": item.media_type} if item.media_type else {}), **item.headers}
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in named.items()]
    asyncio.run(application({"type": "http", "method": method, "headers": headers}, receive, send))
    start, content = messages
    received = {name.decode(): value.decode() for name, value in start["headers"]}
    return Reply(start["status"], received["content-type"], received, content["body"])


def bad_items(good: bytes, limit_bytes: int) -> dict[str, Item]:
    """Requests that no worker answers with a prediction."""
    infer = {PROTOCOL_HEADER: OPEN_INFERENCE}
    return {
        "empty": Item(b""),
        "not JSON": Item(b'\xff\x00{"'),
        "nested too deeply": Item(b"[" * 2000),
        "another schema": Item(b'{"unknown": [1, "two"]}'),
        "no object": Item(b"[]"),
        "NaN": Item(b"[NaN]"),
        "another media type": Item(b"{}", "application/x-nothing"),
        "a broken picture": Item(b"\x89PNG\r\n\x1a\nbroken", "image/png"),
        "oversized": Item(b" " * (limit_bytes + 1)),
        "no time left": Item(good, headers={"x-request-timeout-ms": "0"}),
        "a time left that is none": Item(good, headers={"x-request-timeout-ms": "soon"}),
        "its own request id": Item(b"{", headers={"x-request-id": "mine"}),
        "an infer request without inputs": Item(b'{"inputs": []}', headers=infer),
        "an infer request that is not JSON": Item(b"{", headers=infer),
        "an infer request of an unknown tensor": Item(
            b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}', headers=infer
        ),
    }


def untuned(description: Reply, of: worker.Worker) -> dict[str, Any]:
    """The description without what the worker measured at warm-up."""
    content: dict[str, Any] = description.json()
    assert description.status == 200
    assert {name: content.pop(name) for name in of.protocols.tuned()} == of.protocols.tuned()
    return content


@pytest.mark.parametrize("archive", ["digits", "breast_cancer", "embeddings"])
def test_a_second_adapter_answers_as_the_first(archive: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    first: TorchServe = request.getfixturevalue(archive)
    second = Application(unpacked(archive, first.entry.worker.config.version, tmp_path))
    media_types = {".json": JSON, ".png": "image/png", ".jpg": "image/jpeg"}
    samples = sorted((first.folder / "samples").iterdir())
    items = {path.name: Item(path.read_bytes(), media_types[path.suffix]) for path in samples}
    golden = json.loads((first.folder / "golden.json").read_text())
    assert items.keys() == golden.keys()
    good = next(item.body for item in items.values() if item.media_type == JSON)
    items |= {"no media type": Item(good, "")}
    refused = bad_items(good, first.entry.worker.config.request_bytes)
    for name, item in {**items, **refused}.items():
        [expected] = first.ask(item)
        reply = ask(second, item)
        assert (reply.status, reply.headers, reply.media_type) == (
            expected.status,
            expected.headers,
            expected.media_type,
        )
        if (
            reply.status == 200 and second.worker.protocols.tuned()
        ):  # each cuts micro-batches as it measured, which moves last digits
            assert difference(reply.json(), expected.json(), second.worker.config.tolerance) is None, name
        else:
            assert reply.body == expected.body, name
        assert (reply.status == 200) == (name in items), name
        assert reply.headers[MODEL_VERSION_HEADER] == second.worker.config.version
        assert (CLASS_HEADER in reply.headers) == (reply.status == 200 and archive != "embeddings"), name
    [described] = first.ask(Item(headers={"describe": "True"}, media_type="", form=()))
    assert untuned(ask(second, Item(media_type=""), "GET"), second.worker) == untuned(described, first.entry.worker)


def test_rows_are_answered_by_a_second_adapter_too(breast_cancer: TorchServe, tmp_path: Path) -> None:
    second = Application(unpacked("breast_cancer", "1.0", tmp_path))
    sample = json.loads(sorted((breast_cancer.folder / "samples").glob("*.json"))[0].read_text())
    tensors = [
        {"name": name, "shape": [2, 1], "datatype": "FP32", "data": [value, value]} for name, value in sample.items()
    ]
    item = Item(json.dumps({"inputs": tensors}).encode(), headers={PROTOCOL_HEADER: OPEN_INFERENCE})
    [expected] = breast_cancer.ask(item)
    assert expected.status == 200
    assert ask(second, item) == expected

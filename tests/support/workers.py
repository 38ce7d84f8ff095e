"""Handlers behind TorchServe's own service: requests go in, and answers come out, as a worker's process sees them."""

from __future__ import annotations

import base64
import gc
import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from handlers.adapters.torchserve.entry import Entry
from tsctl.archive.build import assemble
from tsctl.archive.container import CONFIG, MANIFEST
from tsctl.archive.probe import decode_answers, metrics
from tsctl.archive.recipe import recipe_output
from tsctl.config.archive import read_archive_spec

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ResourceWarning)  # TorchServe leaves its version file open when it is imported
    from ts.service import Service

    gc.collect()

CHECKOUT = Path(__file__).resolve().parents[2]
JSON = "application/json"
PROBLEM = "application/problem+json"
PROBLEM_FIELDS = {"type", "title", "status", "detail", "request_id", "model", "version", "error"}


@dataclass(frozen=True)
class Item:
    """One request: a bare body, or the fields of a form with their own media types."""

    body: bytes = b""
    media_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)
    form: tuple[tuple[str, str, bytes], ...] | None = None  # name, media type, value

    def message(self, number: int) -> dict[str, Any]:
        """The request as TorchServe's worker decodes it from the node."""
        headers = {**({"Content-Type": self.media_type} if self.media_type else {}), **self.headers}
        bare = (("body", self.media_type.partition(";")[0], self.body),)
        return {
            "requestId": bytearray(f"request-{number}".encode()),
            "headers": [{"name": bytearray(n.encode()), "value": bytearray(v.encode())} for n, v in headers.items()],
            "parameters": [
                {"name": name, "contentType": media_type, "value": bytearray(value)}
                for name, media_type, value in (bare if self.form is None else self.form)
            ],
        }


@dataclass(frozen=True)
class Reply:
    """What TorchServe would send to the client of one item."""

    status: int
    media_type: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body, parse_constant=_not_json)


def _not_json(word: str) -> Any:
    raise AssertionError(f"{word} is not JSON")


class Worker:
    """A handler, initialized from an unpacked archive, behind TorchServe's service."""

    def __init__(self, handler: Any, folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        batch_size = yaml.safe_load((folder / CONFIG).read_text())["batchSize"]
        model = manifest["model"]["modelName"]
        self.handler = handler
        self.entry = Entry(handler)
        self.folder = folder
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # TorchServe leaves this YAML file open
            cache = metrics(model)
        self.service = Service(model, str(folder), manifest, self.entry.handle, None, batch_size, True, cache)
        self.service.set_cl_socket(None)
        self.entry.initialize(self.service.context)

    def ask(self, *items: Item) -> list[Reply]:
        """The answers to one batch, out of the very bytes that go back to the node."""
        batch = [item.message(number) for number, item in enumerate(items)]
        return replies(bytes(self.service.predict(batch)))

    def ask_one(self, body: bytes, media_type: str = JSON) -> Reply:
        [reply] = self.ask(Item(body, media_type))
        return reply


def replies(answers: bytes) -> list[Reply]:
    """A worker's message to its node, as the answers to the items `request-0`, `request-1` and so on."""
    return [
        Reply(a["status"], a["media_type"], a["headers"], base64.b64decode(a["body"])) for a in decode_answers(answers)
    ]


def assert_problem(reply: Reply, *statuses: int) -> dict[str, Any]:
    """The reply is a problem document of one of the statuses, and names nothing of the machine."""
    assert reply.status in statuses, (reply.status, reply.body[:300])
    assert reply.media_type == PROBLEM
    document: dict[str, Any] = reply.json()
    assert document.keys() - {"errors"} == PROBLEM_FIELDS
    assert ("errors" in document) == (reply.status == 422)
    assert document["status"] == reply.status
    assert document["error"] == document["detail"]
    assert reply.headers["x-model-version"] == document["version"]
    for leak in (b"Traceback", b'File \\"', b"/site-packages", str(CHECKOUT).encode(), b"/tmp/", b".py"):
        assert leak not in reply.body
    return document


def close(actual: Any, expected: Any) -> bool:
    """Equal but for the last bits, which depend on how many items went through the model together."""
    if isinstance(expected, dict):
        return actual.keys() == expected.keys() and all(close(actual[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(actual) == len(expected) and all(map(close, actual, expected))
    return bool(abs(actual - expected) <= 1e-5) if isinstance(expected, float) else actual == expected


def write_archive_folder(
    folder: Path,
    samples: dict[str, bytes],
    golden: dict[str, Any],
    settings: dict[str, Any] | None = None,
    serving: dict[str, Any] | None = None,
    batch_size: int = 8,
    weights: Path | None = None,
) -> Path:
    """What a worker finds of an unpacked archive, but for its model; with `weights` that file too."""
    (folder / "MAR-INF").mkdir(parents=True)
    manifest = {"model": {"modelName": "toy", "modelVersion": "1.0", "configFile": CONFIG}}
    if weights is not None:
        manifest["model"]["serializedFile"] = weights.name
        (folder / weights.name).write_bytes(weights.read_bytes())
    (folder / MANIFEST).write_text(json.dumps(manifest))
    content = {
        "threads": 1,
        "warmup": {"budget_s": 0.5},
        "limits": {"request_bytes": 1024},
        "tolerance": {"absolute": 1e-6, "relative": 0.0},
        "settings": settings or {},
        **(serving or {}),
    }
    (folder / CONFIG).write_text(yaml.safe_dump({"batchSize": batch_size, "maxWorkers": 1, "serving": content}))
    (folder / "samples").mkdir()
    for name, body in samples.items():
        (folder / "samples" / name).write_bytes(body)
    (folder / "golden.json").write_text(json.dumps(golden))
    return folder


def unpacked(model: str, version: str, folder: Path, archives: Path = CHECKOUT / "archives") -> Path:
    """The archive's entries in a folder, from the last run of its recipe where its inputs are unchanged.

    The package `handlers` stays out: these tests run the checkout's.
    """
    source = archives / model
    spec = read_archive_spec(source / "archive.yaml")
    made, _ = recipe_output(source, spec, version, print)
    for name, content in assemble(source, spec, version, made).items():
        if not name.startswith("handlers/"):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    config = yaml.safe_load((folder / CONFIG).read_text())
    config["serving"]["threads"] = 1  # the run's other processes use the cores too
    (folder / CONFIG).write_text(yaml.safe_dump(config))
    return folder

"""Runs an archive's worker in a loop without a server, and answers each request once.

A program of its own: it is started as `python -I bare_worker.py`, must import nothing but the standard library and what
the archive brings, and has the unpacked archive first on its path, as a worker has. It reads its order from standard
input and writes its result to standard output, both JSON; whatever else writes to standard output writes to standard
error.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import statistics
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

#: Calls of a batch of one at most, and the share of the time that they get.
MOST_LONE, LONE_SHARE = 2000, 0.2


def main() -> None:
    """Load the archive as the order says, answer its requests, measure, and write the result."""
    order = json.load(sys.stdin)
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.chdir(order["folder"])
    sys.path.insert(0, order["folder"])
    worker = load(order)
    requests = [read(item) for item in order["requests"]]
    result: dict[str, Any] = {"answers": [answer(worker, request) for request in requests] if order["answers"] else []}
    if order["seconds"] > 0:
        result |= measure(worker, requests, order["batch"], order["seconds"])
    json.dump(result, results)
    results.flush()
    os._exit(0)  # threads and exit handlers of the archive are not waited for


def load(order: dict[str, Any]) -> Any:
    """The archive's worker, warm."""
    yaml = importlib.import_module("yaml")
    config = importlib.import_module("handlers.worker.config")
    startup = importlib.import_module("handlers.worker.startup")
    worker_module = importlib.import_module("handlers.worker.worker")
    manifest = json.loads(Path("MAR-INF/MANIFEST.json").read_text(encoding="utf-8"))["model"]
    content = yaml.safe_load(Path("model-config.yaml").read_text(encoding="utf-8"))
    has_gpu = importlib.import_module("torch").cuda.is_available()
    read = config.read_config(Path.cwd(), manifest, content, gpu_id=order["number"] if has_gpu else None)
    worker = worker_module.Worker(config.handler_class(read.handler)(), read)
    startup.start(worker)
    return worker


def read(item: dict[str, Any]) -> Any:
    """A request; a worker may change what it gets, so each call gets a new one."""
    messages = importlib.import_module("handlers.messages")
    body, media_type, headers = base64.b64decode(item["body"]), item["media_type"], item["headers"]
    return lambda: messages.Request(body, messages.bare_media_type(media_type), dict(headers))


def answer(worker: Any, request: Any) -> dict[str, Any]:
    """The answer to one request."""
    [outcome] = worker.answer([request()])
    return {"status": outcome.status, "body": base64.b64encode(outcome.body).decode()}


def measure(worker: Any, requests: list[Any], batch: int, seconds: float) -> dict[str, float]:
    """Requests/s with full batches, and the median milliseconds of a batch of one."""
    turns = cycle(requests)
    lone: list[float] = []
    end = time.perf_counter() + LONE_SHARE * seconds
    while not lone or (time.perf_counter() < end and len(lone) < MOST_LONE):
        request = next(turns)()
        begin = time.perf_counter()
        worker.answer([request])
        lone.append((time.perf_counter() - begin) * 1000)
    worker.answer([make() for make in islice(turns, batch)])
    begin, done = time.perf_counter(), 0
    while done == 0 or time.perf_counter() - begin < (1 - LONE_SHARE) * seconds:
        worker.answer([make() for make in islice(turns, batch)])
        done += batch
    return {"requests_s": done / (time.perf_counter() - begin), "lone_ms": statistics.median(lone)}


if __name__ == "__main__":
    main()

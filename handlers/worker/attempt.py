"""Answers requests once, for the author who looks: `python -m handlers.worker.attempt` in an unpacked archive.

Reads an order from standard input and writes a result to standard output, both JSON (see `tsctl archive try`); what the
author's code prints goes to standard error. Nothing is compared with golden answers, warmed up or counted.
"""

from __future__ import annotations

import base64
import gc
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from handlers.messages import Outcome, Request
from handlers.telemetry.traces import Stage
from handlers.tracebacks import own_traceback
from handlers.unpacked import read_documents
from handlers.worker.config import read_config
from handlers.worker.make import make_worker
from handlers.worker.text import TextWorker
from handlers.worker.worker import Worker

#: Rows of the profiler's table.
PROFILED_ROWS = 25


def main() -> None:
    """Load the archive in this folder, answer the order's batches, and write the result, whatever happens."""
    order = json.load(sys.stdin)
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr  # unbuffered by lines, so that prints come before the line that fails
    result: dict[str, Any] = {"error": "", "batches": [], "profile": ""}
    begin = time.monotonic()
    try:
        worker = load()
        result |= {"load_s": round(time.monotonic() - begin, 3), "device": str(worker.handler.device)}
        batches = [[_request(item) for item in batch] for batch in order["batches"]]
        if order["trace"]:
            worker.answer(batches[0])  # the first answer allocates and compiles, and would hide the rest
            result["profile"] = _profile(worker, batches, Path(order["trace"]))
        result["batches"] = [answer(worker, batch, order["turns"]) for batch in batches]
    except BaseException as error:  # noqa: BLE001 - the author's code may raise anything, and who runs this needs the reason
        result["error"] = own_traceback(error)
    json.dump(result, results)
    results.flush()
    os._exit(0)  # the author's threads are not waited for


def load() -> Worker | TextWorker:
    """A worker of the archive in this folder that has loaded its model.

    Raises:
        Exception: the archive's code failed.
    """
    manifest, content = read_documents(Path())
    config = read_config(Path.cwd(), manifest, content, gpu_id=0 if torch.cuda.is_available() else None)
    worker = make_worker(config)
    if isinstance(worker, TextWorker):
        worker.load()
    else:
        worker.handler.load()
    return worker


def answer(worker: Worker | TextWorker, batch: Sequence[Request], turns: int) -> dict[str, Any]:
    """The answers to one batch, the tracebacks of the author's code, and the milliseconds of each stage.

    Args:
        turns: how often the batch is answered; the times are those of the fastest turn.
    """
    seconds, stages = float("inf"), dict[str, float]()
    with _tracebacks() as failures:
        for turn in range(turns):
            spans: list[Stage] = []
            with nullcontext() if isinstance(worker, TextWorker) else worker.pipeline.watched(spans):
                begin = time.perf_counter()
                outcomes = worker.answer([Request(each.body, each.media_type, {}, each.request_id) for each in batch])
                took = time.perf_counter() - begin
            if turn == 0:
                first, first_s = outcomes, took
                if failures:  # a further turn would be refused, because the item failed a moment ago
                    break
            if took < seconds:
                seconds, stages = took, _totals(spans)
    return {
        "answers": [_answer(outcome) for outcome in first],
        "failures": failures,
        "first_ms": _ms(first_s),
        "ms": _ms(seconds) if stages else None,
        "stages": {name: _ms(total) for name, total in stages.items()},
    }


@contextmanager
def _tracebacks() -> Iterator[list[str]]:
    """In the block, tracebacks that the worker logs are collected."""
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            if error is not None:
                found.append(own_traceback(error))

    collector, logger = Collector(), logging.getLogger("handlers")
    logger.addHandler(collector)
    logger.propagate = False  # its lines say no more than the result
    try:
        yield found
    finally:
        logger.removeHandler(collector)
        logger.propagate = True


def _profile(worker: Worker | TextWorker, batches: Sequence[Sequence[Request]], trace: Path) -> str:
    """The profiler's table of one turn, the most expensive operators first; the trace goes to the file."""
    from torch.profiler import ProfilerActivity, profile

    has_gpu = str(worker.handler.device).startswith("cuda")
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if has_gpu else [])]) as profiler:
        for batch in batches:
            worker.answer(batch)
    profiler.export_chrome_trace(str(trace))
    by = "self_cuda_time_total" if has_gpu else "self_cpu_time_total"
    table: str = profiler.key_averages().table(sort_by=by, row_limit=PROFILED_ROWS, max_name_column_width=40)
    gc.collect()
    return table


def _request(item: dict[str, Any]) -> Request:
    return Request(base64.b64decode(item["body"]), item["media_type"], {}, f"sample:{item['name']}")


def _answer(outcome: Outcome) -> dict[str, Any]:
    body = base64.b64encode(outcome.body).decode()
    return {
        "status": outcome.status,
        "media_type": outcome.media_type,
        "body": body,
        "class_name": outcome.class_name or None,
    }


def _totals(spans: Sequence[Stage]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for stage in spans:
        totals[stage.name] = totals.get(stage.name, 0.0) + stage.end - stage.begin
    return totals


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


if __name__ == "__main__":
    main()

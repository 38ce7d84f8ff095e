"""A worker as a process: `python -m handlers.adapters.asgi.child FD NUMBER VERSION` in an unpacked archive.

It reports READY or REFUSED over the socket FD, and then answers batches, or generates text, until the socket is closed.
"""

from __future__ import annotations

import ctypes
import logging
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import torch

from handlers.adapters.asgi.frames import (
    CANCEL,
    FORMAT,
    READY,
    REFUSED,
    Answer,
    Head,
    Headers,
    Item,
    Part,
    Unpacker,
    answers_frame,
    parts_frame,
    read_batch,
    read_cancel,
    read_submit,
    report_frame,
)
from handlers.contract import PROTOCOL_HEADER
from handlers.errors import LoadError
from handlers.log_lines import name_lines
from handlers.messages import Head as PlainHead
from handlers.messages import Outcome, Request, bare_media_type, request_id_of
from handlers.messages import Part as PlainPart
from handlers.unpacked import read_documents
from handlers.worker import startup
from handlers.worker.config import WorkerConfig, read_config
from handlers.worker.make import make_worker
from handlers.worker.text import TextWorker
from handlers.worker.worker import Worker

_CHUNK = 1 << 18
_PR_SET_PDEATHSIG = 1
_TYPE = b"content-type"


def main(descriptor: int, number: int, version: str) -> None:
    """Load the archive in this folder, and serve.

    Args:
        number: of this worker among those of the server; chooses its GPU.
        version: under which the archive is served.
    """
    for number_of_signal in (signal.SIGINT, signal.SIGTERM):  # may be sent to all processes of a service at once
        signal.signal(number_of_signal, signal.SIG_IGN)  # the accepting process ends this one when all is answered
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # also where this one hangs in the author's code
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(message)s")
    name_lines()  # of which version they are is known where they are read
    logging.getLogger(startup.__name__).setLevel(logging.ERROR)  # the report goes over the socket
    connection = socket.socket(fileno=descriptor)
    try:
        config = config_here(number, version)
        worker = make_worker(config)
        with startup.reported_load(config.model, config.version) as facts:
            facts |= startup.start(worker)
    except LoadError as error:
        connection.sendall(report_frame(REFUSED, {"reason": str(error)}))
        sys.exit(1)
    report = {"format": FORMAT, "facts": facts, "describe": worker.describe()}
    if isinstance(worker, Worker):
        report["is_fixed_shape"] = worker.handler.is_fixed_shape
    connection.sendall(report_frame(READY, report))
    if isinstance(worker, TextWorker):
        _generate(worker, connection)
    else:
        _compute(worker, connection)
    worker.handler.telemetry.flush()


def _compute(worker: Worker, connection: socket.socket) -> None:
    """Answer one batch after the other."""
    for _, content in _messages(connection):
        outcomes = worker.answer([read_request(item) for item in read_batch(content)])
        connection.sendall(answers_frame([_answer(outcome) for outcome in outcomes]))


def _generate(worker: TextWorker, connection: socket.socket) -> None:
    """Answer many requests at a time; what a step gave to all of them is one message."""
    turn = threading.Lock()

    def deliver(parts: Sequence[PlainPart]) -> None:
        message = parts_frame([_part(part) for part in parts])
        with turn:
            connection.sendall(message)

    worker.deliver = deliver
    for kind, content in _messages(connection):
        if kind == CANCEL:
            worker.cancel(read_cancel(content))
        else:
            ticket, item = read_submit(content)
            worker.submit(ticket, read_request(item))
    worker.close()


def config_here(number: int, version: str) -> WorkerConfig:
    """The configuration in the unpacked archive that is the current folder.

    Raises:
        LoadError: the archive was not built by tsctl.
    """
    manifest, content = read_documents(Path())
    gpu_id = number if torch.cuda.is_available() else None
    return read_config(Path.cwd(), manifest, content, version=version, gpu_id=gpu_id)


def read_request(item: Item) -> Request:
    """The request in one item."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in item.headers}
    if item.protocol:  # the path says it; behind the gateway, its header does
        headers[PROTOCOL_HEADER] = item.protocol
    media_type = bare_media_type(headers.get("content-type", ""))
    return Request(item.body, media_type, headers, request_id_of(headers, item.request_id))


def _answer(outcome: Outcome) -> Answer:
    return Answer(outcome.status, _headers(outcome.media_type, outcome.headers), outcome.body)


def _part(part: PlainPart) -> Part:
    return Part(part.ticket, None if part.head is None else _head(part.head), part.body, part.is_last)


def _head(head: PlainHead) -> Head:
    return Head(head.status, _headers(head.media_type, head.headers))


@lru_cache(256)
def _headers(media_type: str, headers: tuple[tuple[str, str], ...]) -> Headers:
    """The headers of one answer, a tuple; most answers of a worker have the same."""
    others = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return ((_TYPE, media_type.encode("latin-1")), *others)


def _messages(connection: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each message, until the socket is closed."""
    unpacker = Unpacker()
    while received := connection.recv(_CHUNK):
        yield from unpacker.feed(received)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])

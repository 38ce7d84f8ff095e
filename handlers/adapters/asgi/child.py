"""A worker as a process: `python -m handlers.adapters.asgi.child FD NUMBER VERSION` in an unpacked archive.

It reports READY or REFUSED over the socket FD, and then answers batches until the socket is closed.
"""

from __future__ import annotations

import ctypes
import logging
import signal
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from handlers.adapters.asgi.frames import (
    FORMAT,
    READY,
    REFUSED,
    Answer,
    Item,
    Unpacker,
    answers_frame,
    read_batch,
    report_frame,
)
from handlers.contract import OPEN_INFERENCE, PROTOCOL_HEADER
from handlers.errors import LoadError
from handlers.messages import Outcome, Request, bare_media_type, request_id_of
from handlers.unpacked import read_documents
from handlers.worker import startup
from handlers.worker.config import WorkerConfig, handler_class, read_config
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
    logging.getLogger(startup.__name__).setLevel(logging.ERROR)  # the report goes over the socket
    connection = socket.socket(fileno=descriptor)
    try:
        config = config_here(number, version)
        worker = Worker(handler_class(config.handler)(), config)
        with startup.reported_load(config.model, config.version) as facts:
            facts |= startup.start(worker)
    except LoadError as error:
        connection.sendall(report_frame(REFUSED, {"reason": str(error)}))
        sys.exit(1)
    connection.sendall(report_frame(READY, {"format": FORMAT, "facts": facts, "describe": worker.describe()}))
    for batch in _batches(connection):
        outcomes = worker.answer([read_request(item) for item in batch])
        connection.sendall(answers_frame([_answer(outcome) for outcome in outcomes]))
    worker.handler.telemetry.flush()


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
    if item.is_infer:  # the path says it; behind the gateway, its header does
        headers[PROTOCOL_HEADER] = OPEN_INFERENCE
    media_type = bare_media_type(headers.get("content-type", ""))
    return Request(item.body, media_type, headers, request_id_of(headers, item.request_id))


def _answer(outcome: Outcome) -> Answer:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in outcome.headers]
    return Answer(outcome.status, [(_TYPE, outcome.media_type.encode("latin-1")), *headers], outcome.body)


def _batches(connection: socket.socket) -> Iterator[Iterable[Item]]:
    unpacker = Unpacker()
    while received := connection.recv(_CHUNK):
        for _, content in unpacker.feed(received):
            yield read_batch(content)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])

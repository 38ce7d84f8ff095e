"""A server of streams that says what a test wants, in the pieces that a test wants."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

HEAD = (
    b"HTTP/1.1 200 OK\r\nx-model-version: 1.0\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def text_event(text: str) -> bytes:
    return b'data: {"choices":[{"text":"%b","finish_reason":null}]}\n\n' % text.encode()


def whole_answer(words: Sequence[str]) -> list[bytes]:
    """The pieces of an answer as our servers give it; each word is one token."""
    tokens = b": tokens prompt=5;answer=%d;finish=length\n\n" % len(words)
    return [
        HEAD,
        *(chunk(text_event(word)) for word in words),
        chunk(b'data: {"choices":[{"text":"","finish_reason":"length"}]}\n\n'),
        chunk(tokens),
        chunk(b"data: [DONE]\n\n"),
        b"0\r\n\r\n",
    ]


@contextmanager
def text_server(answers: Sequence[Sequence[bytes]], pause_s: float = 0.0) -> Iterator[str]:
    """Its address, while it gives each connection the next of the answers, over and over.

    Args:
        pause_s: between two pieces of an answer.
    """
    lock, turn = threading.Lock(), iter(range(10**9))

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1 << 16)
            with lock:
                pieces = answers[next(turn) % len(answers)]
            for piece in pieces:
                self.request.sendall(piece)
                time.sleep(pause_s)

        def finish(self) -> None:
            self.request.close()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that hangs up is part of some tests."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()

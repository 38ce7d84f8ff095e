"""Serves the metrics of one node's workers to Prometheus, until a signal ends it."""

from __future__ import annotations

import signal
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from tsctl.errors import NodeError, SpecError
from tsctl.host.ports import bind_problem

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

#: A scrape whose client sends or takes nothing for this long is given up.
CLIENT_TIMEOUT_S = 30.0
ENDING = (signal.SIGINT, signal.SIGTERM)


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:9464`, `[::1]:9464` or `localhost:0`; port 0 takes a free one.

    Raises:
        SpecError: it is none of these.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    is_host = bool(host) and (":" not in host or text.startswith("["))
    if not (colon and is_host and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise SpecError(f"--listen {text!r}: must be a host and a port such as 127.0.0.1:9464 or [::1]:9464")
    return host, int(port)


def application(registry: CollectorRegistry) -> App:
    """Answers /metrics in prometheus_client's own way (format and gzip as the client asks), and /healthz."""
    metrics = make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            page: Iterable[bytes] = metrics(environ, start_response)
            return page
        status, text = (
            (HTTPStatus.OK, "ok\n")
            if path == "/healthz"
            else (HTTPStatus.NOT_FOUND, "There are /metrics and /healthz.\n")
        )
        start_response(f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8")])
        return [text.encode()]

    return answer


def open_server(host: str, port: int, app: App) -> WSGIServer:
    """A server that listens already, and answers from `serve_until_signalled` on.

    Raises:
        NodeError: the address is in use, or cannot be had.
    """
    try:
        return make_server(host, port, app, _Server6 if ":" in host else _Server, _Quiet)
    except OSError as error:
        raise NodeError(
            f"{host}, port {port}, {bind_problem(error)}",
            "Stop what listens there, or name another address with --listen.",
        ) from None


def serve_until_signalled(server: WSGIServer, on_ready: Callable[[], None]) -> None:
    """Answer requests until Ctrl-C or SIGTERM, then close.

    The signals are waited for instead of handled: a handler could run in the middle of an answer.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    for number in ENDING:
        signal.signal(
            number, signal.default_int_handler
        )  # an ignored one, as in a shell's background, would never come
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        on_ready()
        signal.sigwait(ENDING)
        server.shutdown()


def url_of(server: WSGIServer) -> str:
    """Where the page is, with the port that was taken."""
    host, port = server.server_address[:2]
    name = host.decode() if isinstance(host, bytes | bytearray) else host
    return f"http://[{name}]:{port}/metrics" if ":" in name else f"http://{name}:{port}/metrics"


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """As HTTPServer does it, without asking DNS for this machine's name, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    timeout = CLIENT_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape every few seconds is no news."""

    def handle(self) -> None:
        with suppress(TimeoutError, ConnectionError):  # a client that went away, or never said anything
            super().handle()

"""Serves metrics of this machine to Prometheus, until a signal ends it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server

from tsctl.errors import NodeError, SpecError
from tsctl.host.ports import bind_problem

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

#: The metrics of the workers, and the state of nodes, gateway and rollouts.
METRICS_PATH, STATE_PATH = "/metrics", "/state"
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


def application(workers: CollectorRegistry, state: CollectorRegistry | None = None) -> App:
    """Answer METRICS_PATH and STATE_PATH in prometheus_client's own way (format and gzip as the client asks), and
    /healthz.

    Args:
        state: None: there is no such page.
    """
    pages = {METRICS_PATH: make_wsgi_app(workers), **({STATE_PATH: make_wsgi_app(state)} if state else {})}

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] in pages:
            page: Iterable[bytes] = pages[environ["PATH_INFO"]](environ, start_response)
            return page
        is_health = environ["PATH_INFO"] == "/healthz"
        status = HTTPStatus.OK if is_health else HTTPStatus.NOT_FOUND
        start_response(f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"ok\n" if is_health else f"There are {', '.join(pages)} and /healthz.\n".encode()]

    return answer


def start_server(
    host: str, port: int, workers: CollectorRegistry, state: CollectorRegistry | None = None
) -> WSGIServer:
    """Serve `application` from a thread until `shutdown` is called.

    Raises:
        NodeError: the address is in use, or cannot be opened.
    """
    try:
        server, _ = start_http_server(port, host, workers)
    except OSError as error:
        raise NodeError(
            f"{host}, port {port}, {bind_problem(error)}",
            "Stop what listens there, or name another address with --listen.",
        ) from None
    server.set_app(application(workers, state))
    return server


def serve_until_signalled(
    host: str,
    port: int,
    workers: CollectorRegistry,
    state: CollectorRegistry,
    on_ready: Callable[[WSGIServer], None],
) -> None:
    """Answer requests until Ctrl-C or SIGTERM, then close.

    The signals are waited for instead of handled: a handler could run in the middle of an answer. An ignored one, as in
    a shell's background, would never come, so both are handled by default. They are blocked before the server's thread
    starts, which inherits that.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    for number in ENDING:
        signal.signal(number, signal.default_int_handler)
    with start_server(host, port, workers, state) as server:
        on_ready(server)
        signal.sigwait(ENDING)
        server.shutdown()


def url_of(server: WSGIServer) -> str:
    """The address of the page, with the port that was taken."""
    host, port = server.server_address[:2]
    name = host.decode() if isinstance(host, bytes | bytearray) else host
    return f"http://[{name}]:{port}/metrics" if ":" in name else f"http://{name}:{port}/metrics"

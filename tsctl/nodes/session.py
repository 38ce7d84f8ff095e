"""Sends requests to one node within time limits, and raises an error that names the cause."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection

from tsctl.config.nodes import BaseNodeSpec
from tsctl.host.http import direct_session
from tsctl.nodes.node import Unreachable, not_running
from tsctl.nodes.record import require_described, running_pid

CONNECT_TIMEOUT_S = 3.0
#: A machine from which nothing comes for so long, not even by its kernel, is cut off, whatever was asked of it: without
#: this, a register whose answer was lost would wait for minutes.
SILENT_S = 8.0


class _KeepAliveAdapter(HTTPAdapter):
    """Connections that the kernel ends when the other side is silent for SILENT_S, whatever is awaited from it."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        keep_alive = [
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 3),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENT_S * 1000)),
        ]
        socket_options = [*HTTPConnection.default_socket_options, *keep_alive]
        super().init_poolmanager(*arguments, socket_options=socket_options, **options)


def unguarded() -> None:
    """Let every request go."""


def require_running(name: str, folder: Path, spec: BaseNodeSpec) -> None:
    """Check that a node that tsctl starts on this machine runs as deployment.yaml says, before its token is sent.

    Raises:
        NotRunning: it does not run, so whoever listens at its address is somebody else.
        NodeError: it runs as another engine or at other addresses.
    """
    require_described(name, folder, spec)
    if spec.key_file is None and spec.is_loopback and running_pid(folder) is None:
        raise not_running(name)


class Connection:
    """Connections to one node.

    Args:
        guard: called before each request; what it raises keeps the request from being sent.
    """

    def __init__(self, guard: Callable[[], None] = unguarded) -> None:
        self._guard = guard
        self._session = direct_session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _KeepAliveAdapter())

    def reconnect(self) -> None:
        """Open a new connection for the next request."""
        self._session.close()

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout_s: float
    ) -> requests.Response:
        """The answer, whatever its status.

        Raises:
            Unreachable: nothing answers within `timeout_s` seconds.
        """
        self._guard()
        try:
            return self._session.request(
                method, url, headers=headers, data=body, timeout=(CONNECT_TIMEOUT_S, timeout_s), allow_redirects=False
            )
        except requests.ConnectTimeout:
            raise Unreachable(
                f"{method} {url}: no connection within {CONNECT_TIMEOUT_S:g} s", "Is its machine up, and its network?"
            ) from None
        except requests.RequestException as error:
            cause = _root_cause(error)
            # a connection that the kernel ended after SILENT_S has an errno; a late answer has none
            if isinstance(error, requests.Timeout) and getattr(cause, "errno", None) is None:
                raise Unreachable(f"{method} {url}: no answer within {timeout_s:g} s") from None
            reason = getattr(cause, "strerror", None) or type(cause).__name__
            raise Unreachable(
                f"{method} {url}: no connection ({reason})", "Is the node running? See 'tsctl status'."
            ) from None


def _root_cause(error: BaseException) -> BaseException:
    while error.__context__ is not None:
        error = error.__context__
    return error

"""Sends requests to one node: with its tokens, within time limits, and with an error that names the cause."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection

from tsctl.config.nodes import TorchServeSpec
from tsctl.host.http import direct_session
from tsctl.nodes.node import Unreachable
from tsctl.nodes.torchserve.tokens import NO_TOKENS, Tokens, read_tokens

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


class NodeSession:
    """Connections to one node.

    Args:
        key_file: TorchServe's key_file.json; None sends no tokens.
        renew_timeout_s: for TorchServe to write a new token.
    """

    def __init__(self, node: TorchServeSpec, key_file: Path | None, renew_timeout_s: float) -> None:
        self.node = node
        self.on_renewed: Callable[[], None] = lambda: None  # called after TorchServe wrote new tokens
        self._key_file = key_file
        self._renew_timeout_s = renew_timeout_s
        self._tokens: Tokens | None = None
        self._session = direct_session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _KeepAliveAdapter())

    def reconnect(self) -> None:
        """Open a new connection for the next request."""
        self._session.close()

    def manage(self, method: str, path: str, timeout_s: float) -> requests.Response:
        """Call the management API.

        Raises:
            Unreachable: nothing answers within `timeout_s` seconds.
        """
        url = self.node.management + path
        return self._with_tokens(lambda tokens: self._send(method, url, tokens.management.header, None, timeout_s))

    def infer(self, path: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> requests.Response:
        """Send a request to the inference API; errors as for `manage`."""
        url = self.node.inference + path
        return self._with_tokens(
            lambda tokens: self._send("POST", url, {**headers, **tokens.inference.header}, body, timeout_s)
        )

    def _with_tokens(self, send: Callable[[Tokens], requests.Response]) -> requests.Response:
        """Send with the tokens; where TorchServe refuses them, read them again once and send once more."""
        answer = send(self._current_tokens())
        if self._key_file is not None and answer.status_code == 400 and error_of(answer)[0] == "InvalidKeyException":
            self._tokens = None
            self._renew_expired(read_tokens(self._key_file))
            answer = send(self._current_tokens())
        return answer

    def _current_tokens(self) -> Tokens:
        self._tokens = self._tokens or (read_tokens(self._key_file) if self._key_file else NO_TOKENS)
        return self._tokens

    def _renew_expired(self, tokens: Tokens) -> None:
        """Have TorchServe write new tokens in place of expired ones; the key for that never expires."""
        now = datetime.now(UTC)
        by_kind = {"management": tokens.management, "inference": tokens.inference}
        expired = [kind for kind, token in by_kind.items() if token.is_expired(now)]
        for kind in expired:
            url = f"{self.node.management}/token?type={kind}"
            self._send("GET", url, tokens.api.header, None, self._renew_timeout_s)
        if expired:
            self.on_renewed()

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout_s: float
    ) -> requests.Response:
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


def error_of(answer: requests.Response) -> tuple[str, str]:
    """TorchServe's error type and message."""
    try:
        content = json.loads(answer.content)
        return str(content["type"]), str(content["message"])
    except (ValueError, KeyError, TypeError):
        return "", answer.text[:200]


def _root_cause(error: BaseException) -> BaseException:
    while error.__context__ is not None:
        error = error.__context__
    return error

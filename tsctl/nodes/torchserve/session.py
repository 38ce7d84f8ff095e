"""Sends requests to one TorchServe node with its tokens, which it reads and renews."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import requests

from tsctl.config.nodes import TorchServeSpec
from tsctl.nodes.session import Connection, unguarded
from tsctl.nodes.torchserve.tokens import NO_TOKENS, Tokens, read_tokens


class NodeSession:
    """Connections to one node.

    Args:
        key_file: TorchServe's key_file.json; None sends no tokens.
        renew_timeout_s: for TorchServe to write a new token.
        guard: called before each request; raises where the token must not be sent.
    """

    def __init__(
        self, node: TorchServeSpec, key_file: Path | None, renew_timeout_s: float, guard: Callable[[], None] = unguarded
    ) -> None:
        self.node = node
        self.on_renewed: Callable[[], None] = lambda: None  # called after TorchServe wrote new tokens
        self._key_file = key_file
        self._renew_timeout_s = renew_timeout_s
        self._tokens: Tokens | None = None
        self._connection = Connection(guard)

    def reconnect(self) -> None:
        """Open a new connection for the next request."""
        self._connection.reconnect()

    def manage(self, method: str, path: str, timeout_s: float) -> requests.Response:
        """Call the management API.

        Raises:
            Unreachable: nothing answers within `timeout_s` seconds.
        """
        url = self.node.management + path
        return self._with_tokens(
            lambda tokens: self._connection.send(method, url, tokens.management.header, None, timeout_s)
        )

    def infer(self, path: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> requests.Response:
        """Send a request to the inference API; errors as for `manage`."""
        url = self.node.inference + path
        return self._with_tokens(
            lambda tokens: self._connection.send("POST", url, {**headers, **tokens.inference.header}, body, timeout_s)
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
            self._connection.send("GET", url, tokens.api.header, None, self._renew_timeout_s)
        if expired:
            self.on_renewed()


def error_of(answer: requests.Response) -> tuple[str, str]:
    """TorchServe's error type and message."""
    try:
        content = json.loads(answer.content)
        return str(content["type"]), str(content["message"])
    except (ValueError, KeyError, TypeError):
        return "", answer.text[:200]

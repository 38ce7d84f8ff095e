"""Reads TorchServe's tokens. They are never printed, logged or passed as an argument."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tsctl.errors import NodeError
from tsctl.host.files import write_secret


class NoKeyFile(NodeError):
    """The node has written no tokens: it was never started, or was stopped."""


@dataclass(frozen=True)
class Token:
    """One bearer token; its value stays out of every representation."""

    value: str = field(repr=False)  # empty: none is sent
    expires: datetime | None = None

    def is_expired(self, now: datetime) -> bool:
        return self.expires is not None and now >= self.expires

    @property
    def header(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.value}"} if self.value else {}


@dataclass(frozen=True)
class Tokens:
    """The three tokens of one node: for inference, for management, and the key that renews both."""

    inference: Token
    management: Token
    api: Token


#: Of a node that asks for no tokens.
NO_TOKENS = Tokens(Token(""), Token(""), Token(""))


def read_tokens(key_file: Path) -> Tokens:
    """The tokens in TorchServe's key_file.json.

    Raises:
        NoKeyFile: there is no such file.
        NodeError: it is no key file of TorchServe, or others than its owner may read it.
    """
    try:
        mode = key_file.stat().st_mode
        content = json.loads(key_file.read_text(encoding="utf-8"))
        tokens = Tokens(*(_token(content[kind]) for kind in ("inference", "management", "API")))
    except FileNotFoundError:
        raise NoKeyFile(
            f"the node is not running: there is no {key_file}", "Start it with 'make up' (tsctl up)."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NodeError(f"{key_file} is not a key file of TorchServe: {type(error).__name__}") from None
    if mode & 0o077:
        raise NodeError(
            f"{key_file} may be read by others than its owner (mode {mode & 0o777:04o})", f"Run: chmod 600 {key_file}"
        )
    return tokens


def write_header_file(path: Path, token: Token) -> None:
    """Write the token as a header line that `curl -H @file` reads, so that no argument holds it."""
    write_secret(path, f"Authorization: Bearer {token.value}\n")


def _token(entry: dict[str, str]) -> Token:
    expires = entry.get("expiration time")
    moment = datetime.fromisoformat(expires).astimezone(UTC) if expires else None
    return Token(entry["key"], moment)

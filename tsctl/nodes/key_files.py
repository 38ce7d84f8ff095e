"""Reads the files with the tokens of nodes, and writes the headers made of them; no token is printed or logged."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from tsctl.errors import NodeError
from tsctl.host.files import write_secret
from tsctl.nodes.node import NotRunning

Content = TypeVar("Content")


def read_key_file(path: Path, schema: type[Content], owner: str) -> Content:
    """The content of a node's key file.

    Args:
        owner: who writes such files, for a message.

    Raises:
        NotRunning: there is no such file.
        NodeError: it is no key file of `owner`, or others than its owner may read it.
    """
    try:
        mode = path.stat().st_mode
        content = TypeAdapter(schema).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise NotRunning(
            f"the node is not running: there is no {path}", "Start it with 'make up' (tsctl up)."
        ) from None
    except (OSError, ValueError) as error:
        raise NodeError(f"{path} is not a key file of {owner}: {type(error).__name__}") from None
    if mode & 0o077:
        raise NodeError(
            f"{path} may be read by others than its owner (mode {mode & 0o777:04o})", f"Run: chmod 600 {path}"
        )
    return content


def write_header_file(path: Path, token: str) -> None:
    """Write the token as a header line that `curl -H @file` reads, so that no argument holds it."""
    write_secret(path, f"Authorization: Bearer {token}\n")

"""The tokens of a uvicorn node. They are never printed, logged or passed as an argument."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from tsctl.errors import NodeError
from tsctl.host.files import write_secret
from tsctl.nodes.node import NotRunning


@dataclass(frozen=True)
class Keys:
    """Two bearer tokens, which stay out of every representation."""

    inference: str = Field(repr=False, pattern=r"^[!-~]{16,}$")  # of requests for answers
    admin: str = Field(repr=False, pattern=r"^[!-~]{16,}$")


def read_keys(path: Path) -> Keys:
    """The tokens in a node's key file.

    Raises:
        NotRunning: there is no such file.
        NodeError: it is no key file of this engine, or others than its owner may read it.
    """
    try:
        mode = path.stat().st_mode
        keys = TypeAdapter(Keys).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise NotRunning(
            f"the node is not running: there is no {path}", "Start it with 'make up' (tsctl up)."
        ) from None
    except (OSError, ValueError) as error:
        raise NodeError(f"{path} is not a key file of a uvicorn or BentoML node: {type(error).__name__}") from None
    if mode & 0o077:
        raise NodeError(
            f"{path} may be read by others than its owner (mode {mode & 0o777:04o})", f"Run: chmod 600 {path}"
        )
    return keys


def make_keys(path: Path, header: Path) -> None:
    """Write tokens where there are none yet, and the header of requests for answers, which `curl -H @file` reads.

    They outlive a restart, so that a gateway that knows them goes on.

    Raises:
        NodeError: there is another kind of file.
    """
    if not path.exists():
        tokens = {name: secrets.token_urlsafe(32) for name in ("inference", "admin")}
        write_secret(path, json.dumps(tokens) + "\n")
    write_secret(header, f"Authorization: Bearer {read_keys(path).inference}\n")

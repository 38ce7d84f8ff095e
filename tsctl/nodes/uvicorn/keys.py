"""The tokens of a uvicorn node. They are never printed, logged or passed as an argument."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from pydantic import Field
from pydantic.dataclasses import dataclass

from tsctl.host.files import write_secret
from tsctl.nodes.key_files import read_key_file, write_header_file


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
    return read_key_file(path, Keys, "a uvicorn or BentoML node")


def make_keys(path: Path, header: Path) -> None:
    """Write tokens where there are none yet, and the header of requests for answers, which `curl -H @file` reads.

    They outlive a restart, so that a gateway that knows them goes on.

    Raises:
        NodeError: there is another kind of file.
    """
    if not path.exists():
        tokens = {name: secrets.token_urlsafe(32) for name in ("inference", "admin")}
        write_secret(path, json.dumps(tokens) + "\n")
    write_header_file(header, read_keys(path).inference)

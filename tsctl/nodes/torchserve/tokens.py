"""Reads TorchServe's tokens. They are never printed, logged or passed as an argument."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, Field
from pydantic.dataclasses import dataclass

from tsctl.nodes.key_files import read_key_file


@dataclass(frozen=True)
class Token:
    """One bearer token; its value stays out of every representation."""

    #: Empty: none is sent. Characters that no header can hold would stand in an error of the library that sends it.
    value: str = Field(repr=False, validation_alias="key", pattern=r"^[!-~]*$")
    expires: AwareDatetime | None = Field(default=None, validation_alias="expiration time")

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
    api: Token = Field(validation_alias="API")


#: Of a node that asks for no tokens.
NO_TOKENS = Tokens(Token(""), Token(""), Token(""))


def read_tokens(key_file: Path) -> Tokens:
    """The tokens in TorchServe's key_file.json.

    Raises:
        NotRunning: there is no such file.
        NodeError: it is no key file of TorchServe, or others than its owner may read it.
    """
    return read_key_file(key_file, Tokens, "TorchServe")

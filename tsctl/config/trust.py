"""The form in which a trusted file is named: its name in the archive, and the SHA-256 of its bytes."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

_FORM = re.compile(r"(?P<name>[^/@\\][^@\\]*)@sha256:(?P<digest>[0-9a-f]{64})")


def _entry(text: str) -> str:
    match = _FORM.fullmatch(text)
    if match is None or ".." in match["name"].split("/") or not text.isprintable():
        raise ValueError("must be NAME@sha256:DIGEST, a file of the archive and its 64 digits from 'sha256sum FILE'")
    return text


#: NAME@sha256:HEX.
TrustEntry = Annotated[str, AfterValidator(_entry)]
TrustList = Annotated[tuple[TrustEntry, ...], Field(max_length=100, strict=False)]


def split_trust(entry: str) -> tuple[str, str]:
    """The name and the digest of a valid entry."""
    name, _, digest = entry.rpartition("@sha256:")
    return name, digest

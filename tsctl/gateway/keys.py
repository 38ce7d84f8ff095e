"""The keys of clients: who has one, and since when. Pure but for reading and writing one file.

Envoy compares a key as it stands, so each stands in plain in exactly one place, the route file that Envoy reads. Here
is its SHA-256, which tells nobody the key: it has 256 random bits, so that there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tsctl.config.deployment import Budget
from tsctl.errors import GatewayError, SpecError
from tsctl.gateway.envoy.render import Client, keys_in
from tsctl.gateway.files import read_document
from tsctl.host.files import write_document

PREFIX = "tsctl_"
KEY_BYTES = 32

_CLIENT = re.compile(r"[a-z0-9][a-z0-9\-_.]{0,63}")


@dataclass(frozen=True)
class Record:
    """What is known of one key, but for the key."""

    id: str
    client: str
    sha256: str
    created: str  # UTC, ISO 8601
    requests_per_s: int | None = None  # None: the gateway's own budget
    burst: int | None = None

    @property
    def budget(self) -> Budget | None:
        if self.requests_per_s is None or self.burst is None:
            return None
        return Budget(requests_per_s=self.requests_per_s, burst=self.burst)


def new_key() -> str:
    """A key that nobody has."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def digest(key: str) -> str:
    """The SHA-256 of a key, in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def record_of(key: str, client: str, requests_per_s: int | None, burst: int | None) -> Record:
    """The record of a new key.

    Args:
        burst: as much as one second's requests where only these are given.

    Raises:
        SpecError: the client's name cannot stand in a header and a log.
    """
    if not _CLIENT.fullmatch(client):
        raise SpecError(f"client {client!r}: expected 1 to 64 of a-z, 0-9, '-', '_' and '.', such as search-team")
    if requests_per_s is None and burst is not None:
        raise SpecError("a burst without a rate", "Give --requests-per-s as well.")
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return Record(secrets.token_hex(4), client, digest(key), created, requests_per_s, burst or requests_per_s)


def added(records: Sequence[Record], new: Record) -> list[Record]:
    """The records with one more. All keys of a client share one budget, so the newest one's holds for all of them."""
    budget = {"requests_per_s": new.requests_per_s, "burst": new.burst}
    same = [Record(**{**asdict(old), **budget}) if old.client == new.client else old for old in records]
    return [*same, new]


def revoked(records: Sequence[Record], name: str) -> list[Record]:
    """The records without the key of this id, or without all keys of this client.

    Raises:
        GatewayError: there is none.
    """
    kept = [record for record in records if name not in (record.id, record.client)]
    if len(kept) == len(records):
        raise GatewayError(f"no key and no client {name!r}", "See 'tsctl keys list'.")
    return kept


def read_keys(path: Path) -> list[Record]:
    """The records of the file; none where there is none.

    Raises:
        GatewayError: the file is damaged.
    """
    content = read_document(path)
    try:
        return [] if content is None else [Record(**entry) for entry in content["keys"]]
    except (KeyError, TypeError) as error:
        raise GatewayError(f"{path} is damaged: {error}", "Remove it and issue new keys: tsctl keys add") from None


def write_keys(path: Path, records: Sequence[Record]) -> None:
    """The file has these records, and only its owner may read it."""
    write_document(path, {"keys": [asdict(record) for record in records]})


def plain_keys(routes: Mapping[str, Any] | None) -> dict[str, str]:
    """The keys that a document of routes holds, by their SHA-256."""
    return {} if routes is None else {digest(key): key for key in keys_in(routes)}


def clients(records: Sequence[Record], plain: Mapping[str, str]) -> list[Client]:
    """Everybody with a key that is known in plain; see `lost` for the others."""
    found: dict[str, Client] = {}
    for record in records:
        if record.sha256 in plain:
            before = found.get(record.client)
            keys = (*(before.keys if before else ()), plain[record.sha256])
            found[record.client] = Client(record.client, keys, record.budget)
    return list(found.values())


def lost(records: Sequence[Record], plain: Mapping[str, str]) -> list[Record]:
    """Keys that no file holds in plain any more: nobody can use them, and new ones must be issued."""
    return [record for record in records if record.sha256 not in plain]

"""The keys of clients, their budgets and their file. Pure but for reading and writing that file.

Envoy compares plain keys, so each stands in plain in exactly one place, the route file that Envoy reads. The records
hold its SHA-256, from which nobody can guess the key, because it has 256 random bits.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tsctl.config.deployment import Budget
from tsctl.errors import GatewayError, SpecError
from tsctl.gateway.envoy.render.clients import Client, keys_in
from tsctl.gateway.files import read_document
from tsctl.host.files import write_document

_CLIENT = re.compile(r"[a-z0-9][a-z0-9\-_.]{0,63}")


@dataclass(frozen=True)
class Record:
    """One key without the key itself."""

    id: str
    client: str
    sha256: str
    created: str  # UTC, ISO 8601
    requests_per_s: int | None = None  # None: the gateway's own budget
    burst: int | None = None
    tokens_per_minute: int | None = None  # None: the gateway's own budget, or no limit

    @property
    def budget(self) -> Budget | None:
        if self.requests_per_s is None or self.burst is None:
            return None
        return Budget(requests_per_s=self.requests_per_s, burst=self.burst)


def new_key() -> str:
    """A new random key."""
    return "tsctl_" + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    """The SHA-256 of a key, in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def record_of(
    key: str, client: str, requests_per_s: int | None, burst: int | None, tokens_per_minute: int | None = None
) -> Record:
    """The record of a new key; without `burst`, that is the requests of one second.

    Raises:
        SpecError: the client's name has characters that a header or a log cannot hold, or a burst has no rate.
    """
    if not _CLIENT.fullmatch(client):
        raise SpecError(f"client {client!r}: expected 1 to 64 of a-z, 0-9, '-', '_' and '.', such as search-team")
    if requests_per_s is None and burst is not None:
        raise SpecError("a burst without a rate", "Give --requests-per-s as well.")
    created = datetime.now(UTC).isoformat(timespec="seconds")
    burst = burst or requests_per_s
    return Record(secrets.token_hex(4), client, digest(key), created, requests_per_s, burst, tokens_per_minute)


def added(records: Sequence[Record], new: Record) -> list[Record]:
    """The records with one more. All keys of a client share one budget, that of the newest."""
    budget = {name: getattr(new, name) for name in ("requests_per_s", "burst", "tokens_per_minute")}
    return [*(replace(old, **budget) if old.client == new.client else old for old in records), new]


def revoked(records: Sequence[Record], name: str) -> list[Record]:
    """The records without the key of this id or all keys of this client; raises GatewayError where there is none."""
    kept = [record for record in records if name not in (record.id, record.client)]
    if len(kept) == len(records):
        raise GatewayError(f"no key and no client {name!r}", "See 'tsctl keys list'.")
    return kept


def read_keys(path: Path) -> list[Record]:
    """The records of the file; none without a file. Raises GatewayError where it is damaged."""
    content = read_document(path)
    try:
        return [] if content is None else [Record(**entry) for entry in content["keys"]]
    except (KeyError, TypeError) as error:
        raise GatewayError(f"{path} is damaged: {error}", "Remove it and issue new keys: tsctl keys add") from None


def write_keys(path: Path, records: Sequence[Record]) -> None:
    """The file has these records, and only its owner may read it."""
    write_document(path, {"keys": [asdict(record) for record in records]})


def plain_keys(routes: Mapping[str, Any] | None) -> dict[str, str]:
    """The keys in a document of routes, by their SHA-256."""
    return {} if routes is None else {digest(key): key for key in keys_in(routes)}


def clients(records: Sequence[Record], plain: Mapping[str, str]) -> list[Client]:
    """The clients with a key that is known in plain. Nobody can use another key; a new one must be issued."""
    by_name: dict[str, Client] = {}
    for record in records:
        if record.sha256 in plain:
            before = by_name.get(record.client)
            keys = (*(before.keys if before else ()), plain[record.sha256])
            by_name[record.client] = Client(record.client, keys, record.budget, record.tokens_per_minute)
    return list(by_name.values())

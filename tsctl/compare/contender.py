"""What is compared: a way of serving the archive that can be started, asked and stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from tsctl.compare.recorded import RecordedRequest
from tsctl.nodes.observed import Reply


def _unchanged(reply: Reply) -> Reply:
    return reply


@dataclass(frozen=True)
class Endpoint:
    """Where requests go, and how they are put for this engine."""

    host: str
    port: int
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)  # of every request, such as a token
    #: From a request to the body and the further headers that this engine reads; most read the request as it is.
    wrap: Callable[[RecordedRequest], tuple[bytes, Mapping[str, str]]] | None = None
    #: From the engine's answer to that of the model.
    unwrap: Callable[[Reply], Reply] = _unchanged
    #: Whether an answer of 200 holds the model's own status in the envelope of handlers/adapters/triton/envelope.py.
    is_enveloped: bool = False

    def message(self, request: RecordedRequest) -> bytes:
        """The bytes of a request, as HTTP/1.1 has them."""
        body, more = self.wrap(request) if self.wrap else (request.body, {})
        headers = merged({"content-type": request.media_type}, request.headers, self.headers, more)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        host = f"[{self.host}]" if ":" in self.host else self.host
        head = f"POST {self.path} HTTP/1.1\r\nhost: {host}:{self.port}\r\n{lines}content-length: {len(body)}\r\n\r\n"
        return head.encode("latin-1") + body


def merged(*headers: Mapping[str, str]) -> dict[str, str]:
    """Headers of which each name comes once, whatever its case, with the value of the last."""
    found = {name.lower(): (name, value) for of_one in headers for name, value in of_one.items()}
    return dict(found.values())


def endpoint_of(url: str, headers: Mapping[str, str] | None = None) -> Endpoint:
    """The endpoint of a URL whose server reads requests as they are."""
    parts = urlsplit(url)
    return Endpoint(parts.hostname or "", parts.port or 80, parts.path, headers or {})


class Contender(Protocol):
    """One way of serving."""

    @property
    def name(self) -> str: ...

    @property
    def unavailable(self) -> str:
        """Why it cannot run on this machine, with the command that changes that; empty where it can."""

    def start(self) -> Endpoint:
        """Start it from nothing; it is ready for requests when this returns.

        Raises:
            TsctlError: it does not get ready.
        """

    def pids(self) -> Sequence[int]:
        """The processes that it started itself; their children belong to them."""

    def stop(self) -> None:
        """End its processes; does nothing where it does not run."""

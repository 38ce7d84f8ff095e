"""One streamed answer as its client sees it: the bytes of an HTTP answer become moments of text and an outcome.

A whole stream ends with `data: [DONE]`. One that says `event: error` was told; one that ends without either is broken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from handlers.contract import TOKENS_COMMENT

#: How an answer may have gone: all of it came; the server said that it cannot go on; it ended in silence; the server
#: answered with another status than 200; it answered nothing; the client hung up when the measurement was over.
WHOLE, TOLD, BROKEN, REFUSED, UNREACHED, CUT = OUTCOMES = ("whole", "told", "broken", "refused", "unreached", "cut")
_DONE = b"[DONE]"


@dataclass
class Stream:
    """One request and its answer; moments are of time.perf_counter(), which all processes of a machine share on Linux.

    Args:
        asked: before the connection was opened.
        moments: when each event with text came; several tokens may be one event.
        prompt, answer: tokens, as the server counts them; None where it did not say.
        finish: stop, length or error; empty where the server did not say.
    """

    asked: float
    status: int = 0
    moments: list[float] = field(default_factory=list)
    ended: float = 0.0
    outcome: str = UNREACHED
    version: str = ""
    prompt: int | None = None
    answer: int | None = None
    finish: str = ""
    detail: str = ""  # of an error

    @property
    def tokens(self) -> int:
        """Of the answer; events with text where the server did not count them."""
        return len(self.moments) if self.answer is None else self.answer

    @property
    def first_s(self) -> float | None:
        """Seconds to the first text."""
        return self.moments[0] - self.asked if self.moments else None

    @property
    def token_s(self) -> float | None:
        """Seconds per token after the first; None for fewer than two."""
        return (self.moments[-1] - self.moments[0]) / (self.tokens - 1) if self.tokens > 1 and self.moments else None

    def document(self) -> dict[str, Any]:
        return asdict(self)


def read_stream(document: Mapping[str, Any]) -> Stream:
    """The reverse of `Stream.document`."""
    return Stream(**document)


class Reader:
    """Reads one HTTP/1.1 answer into a `Stream`, in whatever pieces its bytes come."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.is_complete = False
        self._head = b""
        self._is_chunked = False
        self._raw = b""  # bytes of the body whose chunk is not complete
        self._left: int | None = None  # bytes of the body that are to come, where it has a length
        self._body = b""  # of events, the part that is not complete; of another answer, all of it
        self._has_error = self._has_done = False

    def feed(self, data: bytes, now: float) -> None:
        """Take bytes that came at `now`.

        Raises:
            ValueError: they are no HTTP/1.1 answer.
        """
        if not self.stream.status:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            data = self._head[end + 4 :]
            self._read_head(self._head[:end])
        content = self._dechunked(data) if self._is_chunked else self._counted(data)
        self._body += content
        if self.stream.status == 200:
            self._read_events(now)
        if self.is_complete:
            self.end(now)

    def end(self, now: float) -> None:
        """No more bytes come."""
        stream = self.stream
        stream.ended = now
        if not stream.status:
            stream.outcome = UNREACHED
        elif stream.status != 200:
            stream.outcome, stream.detail = REFUSED, self._body.decode(errors="replace")[:300]
        elif self._has_error:
            stream.outcome = TOLD
        else:
            stream.outcome = WHOLE if self._has_done else BROKEN

    def _read_head(self, head: bytes) -> None:
        first, *lines = head.split(b"\r\n")
        if not first.startswith(b"HTTP/1.1 "):
            raise ValueError(f"no answer of HTTP/1.1: {first[:80]!r}")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        self.stream.status = int(first[9:12])
        self.stream.version = headers.get(b"x-model-version", b"").decode()
        self._is_chunked = headers.get(b"transfer-encoding", b"").lower() == b"chunked"
        if length := headers.get(b"content-length"):
            self._left = int(length)
            self.is_complete = self._left == 0

    def _counted(self, data: bytes) -> bytes:
        if self._left is not None:
            self._left -= len(data)
            self.is_complete = self._left <= 0
        return data

    def _dechunked(self, data: bytes) -> bytes:
        raw, place, out = self._raw + data, 0, []
        while (line := raw.find(b"\r\n", place)) >= 0:
            length = int(raw[place:line].partition(b";")[0], 16)
            if length == 0:
                self.is_complete = True
                break
            if len(raw) < line + 2 + length + 2:
                break
            out.append(raw[line + 2 : line + 2 + length])
            place = line + 2 + length + 2
        self._raw = raw[place:]
        return b"".join(out)

    def _read_events(self, now: float) -> None:
        *events, self._body = self._body.split(b"\n\n")
        for event in events:
            self._read_event(event, now)

    def _read_event(self, event: bytes, now: float) -> None:
        if event.startswith(TOKENS_COMMENT.encode()):
            self._read_tokens(event.decode())
        elif event.startswith(b"event: error"):
            self._has_error = True
            self.stream.detail = event.decode(errors="replace")[:300]
        elif event.startswith(b"data: "):
            data = event[6:]
            if data == _DONE:
                self._has_done = True
            else:
                self._read_data(json.loads(data), now)

    def _read_data(self, data: Mapping[str, Any], now: float) -> None:
        stream = self.stream
        if usage := data.get("usage"):
            stream.prompt, stream.answer = usage["prompt_tokens"], usage["completion_tokens"]
        for choice in data.get("choices", ()):
            if choice.get("text") or choice.get("delta", {}).get("content"):
                stream.moments.append(now)
            stream.finish = choice.get("finish_reason") or stream.finish

    def _read_tokens(self, comment: str) -> None:
        values = dict(pair.split("=", 1) for pair in comment.removeprefix(TOKENS_COMMENT).strip().split(";"))
        self.stream.prompt, self.stream.answer = int(values["prompt"]), int(values["answer"])
        self.stream.finish = values["finish"]

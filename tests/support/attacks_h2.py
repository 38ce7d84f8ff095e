"""HTTP/2 by hand: frames that no client would send, to a gateway that speaks HTTP/1.1 to its nodes. Pure.

Headers are written as literals without a table and without Huffman's code, so that every byte is the test's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.attacks import Attack, body_of, number
from tests.support.payloads import ROUTE

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4

Header = tuple[bytes, bytes]


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    return len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content


def packed(headers: list[Header]) -> bytes:
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers)


def _text(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, length = len(text) - 127, b"\x7f"
    while rest >= 128:
        length += bytes([rest % 128 + 128])
        rest //= 128
    return length + bytes([rest]) + text


def frames(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Kind, stream and content of every whole frame."""
    while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
        end = 9 + int.from_bytes(data[:3], "big")
        yield data[3], int.from_bytes(data[5:9], "big"), data[9:end]
        data = data[end:]


@dataclass(frozen=True)
class Writer2:
    """Writes connections of a client with a key; see `attacks.Writer`."""

    key: bytes
    management: bytes
    listener: bytes

    def headers(self, **changed: bytes) -> list[Header]:
        """Those of a right prediction, some of the pseudo-headers changed."""
        pseudo = {
            "method": b"POST",
            "scheme": b"http",
            "authority": b"gateway",
            "path": ROUTE,
            **changed,
        }
        headers = [(b":" + name.encode(), value) for name, value in pseudo.items()]
        return [*headers, (b"content-type", b"application/json"), (b"x-api-key", self.key)]

    def connection(self, headers: list[Header], body: bytes, *behind: bytes) -> tuple[bytes, ...]:
        """One request on stream 1, and frames behind it."""
        opened = PREFACE + frame(SETTINGS, 0, 0)
        head = frame(HEADERS, END_HEADERS, 1, packed(headers))
        return (opened + head + frame(DATA, END_STREAM, 1, body) + b"".join(behind),)

    def right(self, x: int) -> tuple[bytes, ...]:
        return self.connection(self.headers(), body_of(x))

    def attacks(self) -> Iterator[Attack]:
        for name, headers in self._shapes():
            yield Attack(f"h2 {name}", self.connection(headers, body_of(number())))
        yield from self._floods()

    def _shapes(self) -> Iterator[tuple[str, list[Header]]]:
        inside = b"\r\n\r\nGET /models HTTP/1.1\r\nHost: " + self.management + b"\r\n\r\n"
        for field in ("method", "scheme", "authority", "path"):
            for value in (
                inside,
                b"POST /models HTTP/1.1",
                b"",
                b"\x00",
                b"/models",
                b"http://" + self.listener,
                b" ",
                b"\n",
            ):
                yield f"{field} {value[:30]!r}", self.headers(**{field: value})
        for path in (b"/predictions/tiny HTTP/1.1" + inside, b"/predictions/tiny/../../models", b"/models#x", b"*"):
            yield f"path {path[:60]!r}", self.headers(path=path)
        for method in (b"CONNECT", b"GET", b"PRI", b"POST /models HTTP/1.1\r\nx:"):
            yield f"method {method!r}", self.headers(method=method, path=b"/models")
        right = self.headers()
        for name, value in (
            (b"x", b"a" + inside), (b"x", b"a\r\nTransfer-Encoding: chunked"), (b"x", b"a\nb: c"), (b"x", b"a\rb: c"),
            (b"x", b"a\x00b"), (b"x: y\r\ntransfer-encoding", b"chunked"), (b"x\r\n" + inside, b"a"), (b"x y", b"a"),
            (b"X-Upper", b"a"), (b"", b"a"), (b":x", b"a"), (b":path", b"/models"), (b":protocol", b"websocket"),
            (b"transfer-encoding", b"chunked"), (b"content-length", b"0"), (b"content-length", b"9999"),
            (b"content-length", b"13, 0"), (b"content-length", b"-1"), (b"connection", b"x-api-key"),
            (b"te", b"chunked"),
            (b"upgrade", b"h2c"), (b"host", self.management), (b"expect", b"100-continue"),
            (b"x-tsctl-client", b"attacker"),
            (b"x-tsctl-shadow", b"1"), (b"authorization", b"Bearer attacker"), (b"content-type", b"application/grpc"),
            (b"cookie", b"a" * 60_000), (b"x", b"a" * 16_000),
        ):  # fmt: skip
            yield f"{name[:40]!r}: {value[:40]!r}", [*right, (name, value)]
        yield "pseudo-headers last", [*right[4:], *right[:4]]
        yield "no path", [right[0], *right[1:3], *right[4:]]
        yield "two methods", [(b":method", b"GET"), *right]
        yield "no headers", []
        yield "websocket", [*self.headers(method=b"CONNECT"), (b":protocol", b"websocket")]

    def _floods(self) -> Iterator[Attack]:
        opened = PREFACE + frame(SETTINGS, 0, 0)
        head = packed(self.headers())
        ask = [frame(HEADERS, END_HEADERS, stream, head) for stream in range(1, 401, 2)]
        reset = [frame(RESET, 0, stream, b"\0\0\0\x08") for stream in range(1, 401, 2)]
        pairs = b"".join(a + b for a, b in zip(ask, reset, strict=True))
        forged = packed([(b"transfer-encoding", b"chunked"), (b":path", b"/models")])
        first = frame(HEADERS, END_HEADERS, 1, head) + frame(DATA, 0, 1, body_of(number()))
        half = head[: len(head) // 2]
        for name, sent in {
            "streams that are reset": opened + pairs,
            "pings": opened + frame(PING, 0, 0, b"12345678") * 2000,
            "settings": opened + frame(SETTINGS, 0, 0) * 2000,
            "empty data": opened + frame(HEADERS, END_HEADERS, 1, head) + frame(DATA, 0, 1) * 2000,
            "continuations": opened + frame(HEADERS, 0, 1, half) + frame(CONTINUATION, 0, 1) * 2000,
            "no window": opened + frame(WINDOW, 0, 0, bytes(4)),
            "too much window": opened + frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff") * 2,
            "a frame that is too long": opened + b"\xff\xff\xff\0\0\0\0\0\1",
            "an even stream": opened + frame(HEADERS, END_HEADERS, 2, head),
            "a push": opened + frame(PUSH, END_HEADERS, 1, bytes(4) + head),
            "trailers": opened + first + frame(HEADERS, END_HEADERS | END_STREAM, 1, forged),
            "headers that cannot be unpacked": opened + frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff" * 6),
            "data on no stream": opened + frame(DATA, END_STREAM, 7, b"GET /models HTTP/1.1\r\n\r\n"),
            "HTTP/1.1 behind the preface": PREFACE + b"GET /models HTTP/1.1\r\nHost: x\r\n\r\n",
            "half a preface": PREFACE[:12],
            "a preface inside": b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 24\r\n\r\n" + opened,
        }.items():
            yield Attack(f"h2 {name}", (sent,))

"""Requests that a client should never send, in bytes: every named shape, and compositions of them from a seed. Pure.

Each body of a prediction holds a number of its own, so that the answer to one request is never taken for another's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from tests.support import payloads
from tests.support.payloads import NOWHERE, ROUTE, UNREADABLE

#: A request behind another one.
SMUGGLED = b"GET /models HTTP/1.1\r\nHost: smuggled\r\n\r\n"
OK = frozenset({200})
_numbers = itertools.count(100_000)


@dataclass(frozen=True)
class Attack:
    """One connection's worth of bytes.

    Args:
        pieces: what is sent, one after the other.
        answers: for each answer the statuses that it may have, in order, before the gateway closes the connection;
            None: nobody foresees how many there are, and whether it is closed.
    """

    name: str
    pieces: tuple[bytes, ...]
    answers: tuple[frozenset[int], ...] | None = None

    @property
    def is_head(self) -> bool:
        return self.pieces[0].startswith(b"HEAD ")


def number() -> int:
    """One that no other body has."""
    return next(_numbers)


def body_of(x: int) -> bytes:
    """A prediction's body."""
    return b'{"x": %d}' % x


@dataclass(frozen=True)
class Writer:
    """Writes requests of a client with a key.

    Args:
        key: the client's.
        management: host and port of the management API.
        listener: host and port that nobody may connect to.
    """

    key: bytes
    management: bytes
    listener: bytes

    def request(
        self,
        target: bytes = ROUTE,
        method: bytes = b"POST",
        headers: Sequence[bytes] = (),
        body: bytes | None = None,
        length: bool = True,
        is_last: bool = True,
        start: bytes | None = None,
    ) -> bytes:
        """A request; right in everything that is not said otherwise.

        Args:
            headers: lines without their ends.
            body: None: one with a number of its own.
            length: whether its right Content-Length is among the headers, in front of those that were given.
            is_last: whether the server shall close the connection afterwards.
            start: the first line, without its end.
        """
        body = body_of(number()) if body is None else body
        lines = [
            start if start is not None else method + b" " + target + b" HTTP/1.1",
            b"Host: gateway",
            b"x-api-key: " + self.key,
            b"Content-Type: application/json",
            *([b"Content-Length: %d" % len(body)] if length else []),
            *headers,
            *([b"Connection: close"] if is_last else []),
        ]
        return b"\r\n".join(lines) + b"\r\n\r\n" + body

    # ---- targets -------------------------------------------------------------------------------------------------

    def targets(self) -> Iterator[tuple[bytes, frozenset[int]]]:
        """Everything that a node's or Envoy's own APIs answer to, in every spelling; and what it may be answered."""
        for path in payloads.FORBIDDEN:
            for spell in payloads.SPELLINGS:
                yield spell(path), NOWHERE
            for host in (self.management, self.listener):
                for scheme in (b"http://", b"https://", b"HTTP://", b"http://user:word@", b"ftp://", b"unix://"):
                    yield scheme + host + path, NOWHERE | {403}  # which is what https over plain text is told
            for behind in (b"?", b"?x=", b"?/../..", b"?%2f..%2f.."):
                yield ROUTE + behind + path, frozenset({200, 405})
        yield from payloads.ODD_TARGETS

    def of_targets(self) -> Iterator[Attack]:
        """Each target with the next method, so that each spelling meets all of them."""
        methods = itertools.cycle((b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"))
        for target, allowed in self.targets():
            method = next(methods)
            yield Attack(f"{method.decode()} {target[:120]!r}", (self.request(target, method),), (allowed,))

    def of_first_lines(self) -> Iterator[Attack]:
        for start, allowed in payloads.FIRST_LINES:
            sent = self.request(start=start.replace(b"<management>", self.management))
            yield Attack(f"line {start[:80]!r}", (sent,), (allowed,))

    # ---- lengths -------------------------------------------------------------------------------------------------

    def of_lengths(self) -> Iterator[Attack]:
        """Bodies whose end two readers could see in two places: one refusal, and nothing of what stands behind."""
        for lines in payloads.UNCLEAR_LENGTHS:
            for body in (b"0\r\n\r\n" + SMUGGLED, b"d\r\n" + body_of(number()) + b"\r\n0\r\n\r\n" + SMUGGLED):
                filled = [line.replace(b"<length>", b"%d" % len(body)) for line in lines]
                sent = self.request(headers=filled, body=body, length=False, is_last=False)
                yield Attack(f"{filled}", (sent,), (UNREADABLE,))
        for line in payloads.UNCLEAR_ENCODINGS:
            sent = self.request(headers=[line], body=b"0\r\n\r\n" + SMUGGLED, length=False, is_last=False)
            yield Attack(f"{line!r}", (sent,), (frozenset({400, 501}),))
        for chunks in payloads.BAD_CHUNKS:
            sent = self.request(headers=[b"Transfer-Encoding: chunked"], body=chunks, length=False, is_last=False)
            yield Attack(f"chunks {chunks[:60]!r}", (sent,), (UNREADABLE,))

    def of_clear_lengths(self) -> Iterator[Attack]:
        """What looks unclear and is not: the body ends in one place, and what stands behind has its own answer."""
        behind = self.request(b"/models", b"GET", body=b"")
        for line in payloads.CLEAR_ENCODINGS:
            chunks = b"d\r\n" + body_of(number()) + b"\r\n0\r\n\r\n"
            sent = self.request(headers=[line], body=chunks + behind, length=False, is_last=False)
            yield Attack(f"{line!r}", (sent,), (OK, NOWHERE))
        for line in payloads.CLEAR_LENGTHS:
            sent = self.request(headers=[line], is_last=False) + behind
            yield Attack(f"{line!r}", (sent,), (OK, NOWHERE))

    # ---- headers -------------------------------------------------------------------------------------------------

    def of_headers(self) -> Iterator[Attack]:
        """Each header in front of a prediction, and of what is not there, with the key and without one."""
        for line in self.headers():
            for target in (ROUTE, b"/models"):
                sent = self.request(target, headers=[line])
                yield Attack(f"{target.decode()} {line[:80]!r}", (sent,))
                keyless = sent.replace(b"x-api-key: " + self.key + b"\r\n", b"")
                yield Attack(f"keyless {target.decode()} {line[:80]!r}", (keyless,))

    def headers(self) -> list[bytes]:
        return [
            line.replace(b"<management>", self.management).replace(b"<listener>", self.listener)
            for line in payloads.HEADERS
        ]

    # ---- more than one request, or less ----------------------------------------------------------------------------

    def of_pipelines(self) -> Iterator[Attack]:
        """Requests behind one another on one connection: each has its own answer, in its turn."""
        right, last = self.request(is_last=False), self.request()
        forbidden = self.request(b"/models", b"GET", body=b"")
        yield Attack("two", (right + last,), (OK, OK))
        yield Attack("byte by byte", tuple(bytes([byte]) for byte in last), (OK,))
        yield Attack("forbidden behind right", (right + forbidden,), (OK, NOWHERE))
        yield Attack("cut inside the second", (right + forbidden[:20], forbidden[20:]), (OK, NOWHERE))
        yield Attack("twenty", (right * 19 + last,), (OK,) * 20)
        yield Attack("empty lines in front", (b"\r\n" + last,), (OK,))
        short = self.request(headers=[b"Content-Length: 0"], body=forbidden, length=False, is_last=False)
        yield Attack("a body longer than it says", (short,), (UNREADABLE, NOWHERE))
        chunked = self.request(
            headers=[b"Transfer-Encoding: chunked"],
            body=b"d;%s\r\n%s\r\n0\r\n\r\n" % (b"x" * 200, body_of(number())) + forbidden,
            length=False,
            is_last=False,
        )
        yield Attack("chunks with an extension, and one behind", (chunked,), (OK, NOWHERE))
        trailers = self.request(
            headers=[b"Transfer-Encoding: chunked", b"Trailer: x-tsctl-client"],
            body=b"d\r\n%s\r\n0\r\nx-tsctl-client: attacker\r\nContent-Length: 5\r\n\r\n" % body_of(number()),
            length=False,
        )
        yield Attack("trailers", (trailers,), (OK,))
        inside = self.request(body=b'{"x": 1, "y": "\r\n\r\nGET /models HTTP/1.1\r\n\r\n"}')
        for word in (b"200-ok", b"100-continue, x", b""):
            behind = self.request(ROUTE + b"/2.0")
            waiting = self.request(headers=[b"Expect: " + word], body=behind)
            yield Attack(f"a body that waits for {word!r}", (waiting,), (UNREADABLE,))
        yield Attack("a request inside a body", (inside,), (frozenset({400, 422}),))

    def halves(self) -> Iterator[Attack]:
        """Requests whose rest never comes."""
        whole = self.request(is_last=False)
        for end in (1, 4, 30, len(whole) // 2, len(whole) - 20, len(whole) - 1):
            yield Attack(f"the first {end} bytes", (whole[:end],))
        chunked = self.request(headers=[b"Transfer-Encoding: chunked"], body=b"ff\r\n{", length=False)
        yield Attack("half a chunk", (chunked,))

    # ---- compositions --------------------------------------------------------------------------------------------

    def compositions(self, seed: int, count: int) -> Iterator[Attack]:
        """Requests put together from all tables, most of them with some of their bytes changed."""
        random = Random(seed)  # noqa: S311 - not a secret
        targets = [target for target, _ in self.targets()] + [ROUTE] * 400
        headers = self.headers()
        lengths = [
            *payloads.UNCLEAR_LENGTHS,
            *((line,) for line in payloads.UNCLEAR_ENCODINGS),
            (b"Content-Length: <length>",),
        ]
        methods = (b"POST", b"POST", b"POST", b"GET", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"M-SEARCH", b"post")
        for turn in range(count):
            target = random.choice(targets)
            lines = random.sample(headers, random.choice((0, 0, 1, 1, 2, 4)))
            body = random.choice((body_of(number()), b"", b"0\r\n\r\n", *payloads.BAD_CHUNKS))
            body += random.choice((b"", b"", SMUGGLED, self.request(is_last=False)))
            is_plain = random.random() < 0.5
            if not is_plain:
                length = random.choice(lengths)
                lines += [line.replace(b"<length>", b"%d" % len(body)) for line in length]
                random.shuffle(lines)
            sent = self.request(target, random.choice(methods), lines, body, is_plain, random.random() < 0.7)
            if random.random() < 0.6:
                sent = changed(sent, random)
            yield Attack(f"{seed}/{turn}", cut(sent, random))


_SPICE = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b" ",
    b"\t",
    b":",
    b"/",
    b"..",
    b"%2f",
    b"%",
    b"?",
    b"#",
    b";",
    b",",
    b"\x80",
    b"0",
)


def changed(sent: bytes, random: Random) -> bytes:
    """Some bytes are other ones, gone, more, or elsewhere."""
    data = bytearray(sent)
    for _ in range(random.choice((1, 1, 2, 5))):
        at = random.randrange(len(data) + 1)
        end = min(len(data), at + random.choice((1, 2, 8, 40)))
        kind = random.randrange(5)
        if kind == 0:
            data[at:at] = random.choice(_SPICE)
        elif kind == 1:
            data[at:end] = b""
        elif kind == 2:
            data[at:at] = data[at:end]
        elif kind == 3:
            data[at:end] = bytes(random.randrange(256) for _ in range(end - at))
        else:
            data[at:end] = random.choice(_SPICE)
    return bytes(data)


def cut(sent: bytes, random: Random) -> tuple[bytes, ...]:
    """In one piece, or in some that come one after the other."""
    ends = sorted(random.sample(range(len(sent) + 1), random.choice((0, 0, 1, 3)))) if len(sent) > 3 else []
    return tuple(sent[begin:end] for begin, end in itertools.pairwise([0, *ends, len(sent)]))

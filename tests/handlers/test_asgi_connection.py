"""One connection of our server over a real socket: what is read, in which order it is answered, and what ends it."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.adapters.asgi import connection as connections
from handlers.adapters.asgi.app import Server
from handlers.adapters.asgi.backlog import Waiting
from handlers.adapters.asgi.connection import ARRIVAL_S, IDLE_S, LONGEST_HEAD, MOST_WAITING, SLICE, Connection
from handlers.adapters.asgi.exchange import Exchange, Route
from handlers.adapters.asgi.frames import Answer
from handlers.adapters.asgi.pool import Pool
from handlers.adapters.asgi.workers import PoolOptions
from handlers.errors import Unavailable

LONGEST_BODY = 1000
HELD = 1 << 20
ANSWER_S = 10.0
#: In the kernel, between server and client: so few that a client that does not read is noticed soon.
KERNEL_BYTES = 1 << 18


def options(tmp: Path = Path()) -> PoolOptions:
    return PoolOptions(
        folder=tmp, metrics=tmp, model="m", version="1", workers=1, batch_size=4, most_waiting=9, most_bytes=HELD,
        response_s=30, startup_s=30,
    )  # fmt: skip


class EchoPool(Pool):
    """A pool whose worker answers with the body; it holds back what begins with `wait`."""

    def __init__(self) -> None:
        super().__init__(options(), lambda _: None)
        self.held_back: list[Waiting] = []
        self.left: list[Waiting] = []

    @property
    def held(self) -> int:
        return self._bytes

    def submit(self, waiting: Waiting) -> None:
        if waiting.item.body == b"full":
            raise Unavailable("Too many requests wait for this model; retry later.", 2.1)
        if waiting.item.body.startswith(b"wait"):
            self.held_back.append(waiting)
        else:
            asyncio.get_running_loop().call_soon(waiting.answer, echo(waiting))

    def leave(self, waiting: Waiting) -> None:
        self.left.append(waiting)


def echo(waiting: Waiting) -> Answer:
    return Answer(200, ((b"content-type", b"text/plain"),), waiting.item.body)


async def routes(scope: Any, receive: Any, send: Any) -> None:
    """Stands in for FastAPI: says what it was asked, or on /headers its headers, and raises on /broken."""
    if scope["path"] == "/broken":
        raise RuntimeError("a route's own mistake")
    body = (await receive())["body"]
    said = b"%b %b?%b %b" % (scope["method"].encode(), scope["path"].encode(), scope["query_string"], body)
    if scope["path"] == "/headers":
        said = repr(scope["headers"]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"99")]})
    await send({"type": "http.response.body", "body": said[:3], "more_body": True})
    await send({"type": "http.response.body", "body": said[3:]})


@dataclass
class Told:
    """A status, headers and a body that a client got."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Client:
    """A client, and the server that it talks to."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    pool: EchoPool
    open: set[Connection] = field(default_factory=set)

    @property
    def server_side(self) -> Connection:
        [there] = self.open
        return there

    def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    async def answer(self, has_body: bool = True) -> Told:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), ANSWER_S)
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = dict(line.split(": ", 1) for line in lines)
        body = await self.reader.readexactly(int(headers["content-length"])) if has_body else b""
        return Told(int(first.split()[1]), headers, body)

    async def is_closed(self) -> bool:
        return await asyncio.wait_for(self.reader.read(), ANSWER_S) == b""


def talk(script: Callable[[Client], Awaitable[None]]) -> EchoPool:
    """Run the script against a server of its own; no byte may be held afterwards."""

    async def run() -> EchoPool:
        pool, open_connections = EchoPool(), set[Connection]()
        server = Server(pool, LONGEST_BODY, routes)
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(lambda: Connection(server, open_connections, loop), "127.0.0.1", 0)
        listening.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)  # connections inherit it
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        await asyncio.sleep(0)
        try:
            await script(Client(reader, writer, pool, open_connections))
        finally:
            writer.close()
            listening.close()
            for _ in range(1000):
                if not open_connections:
                    break
                await asyncio.sleep(0.01)
        assert not open_connections
        assert pool.held == 0
        return pool

    return asyncio.run(run())


def post(body: bytes, *headers: bytes, path: bytes = b"/predictions/m", method: bytes = b"POST") -> bytes:
    lines = [b"%b %b HTTP/1.1" % (method, path), b"host: x", *headers, b"content-length: %d" % len(body), b"", body]
    return b"\r\n".join(lines)


def test_a_prediction_is_answered_with_the_id_that_came_or_a_new_one() -> None:
    async def script(client: Client) -> None:
        client.send(post(b"one"), post(b"two", b"X-Request-Id: mine"))
        first, second = await client.answer(), await client.answer()
        assert (first.status, first.body, first.headers["content-type"]) == (200, b"one", "text/plain")
        assert (second.body, second.headers["x-request-id"]) == (b"two", "mine")
        assert first.headers["x-request-id"] not in ("", "mine")

    talk(script)


def test_pipelined_requests_are_answered_in_their_order_whoever_answers_them() -> None:
    async def script(client: Client) -> None:
        client.send(
            post(b"wait"), post(b"", path=b"/other?a=b", method=b"GET"), post(b"full"),
            post(b"x", path=b"/v2/models/m/infer"), post(b"last", path=b"/%70redictions/m/1?q"),
        )  # fmt: skip
        while not client.pool.held_back:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        [waiting] = client.pool.held_back
        waiting.answer(echo(waiting))
        bodies = [await client.answer() for _ in range(5)]
        assert [answer.status for answer in bodies] == [200, 200, 503, 200, 200]
        assert [answer.body for answer in (bodies[0], bodies[1], bodies[4])] == [b"wait", b"GET /other?a=b ", b"last"]
        assert bodies[2].headers["retry-after"] == "3"
        assert b'"model":"m"' in bodies[2].body

    talk(script)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 80), max_size=30))
def test_however_the_bytes_are_cut_the_answers_are_the_same(sizes: list[int]) -> None:
    sent = post(b"one") + post(b"q", path=b"/other") + post(b"", method=b"GET") + post(b"two")

    async def script(client: Client) -> None:
        rest = sent
        for size in [*sizes, len(sent)]:
            client.send(rest[:size])
            rest = rest[size:]
            await asyncio.sleep(0)
        answers = [await client.answer() for _ in range(4)]
        assert [(one.status, one.body) for one in answers[:2]] == [(200, b"one"), (200, b"POST /other? q")]
        assert [answers[2].status, answers[3].body] == [405, b"two"]

    talk(script)


def test_the_one_get_for_a_worker_is_the_gateways_question_for_metadata() -> None:
    async def script(client: Client) -> None:
        for value, status in ((b"oip-v2-metadata", 200), (b"oip-v2", 405), (b"", 405)):
            client.send(post(b"", b"x-tsctl-protocol: " + value, method=b"GET"))
            assert (await client.answer()).status == status, value
        client.send(post(b"", b"x-tsctl-protocol: oip-v2-metadata", method=b"DELETE"), post(b"next"))
        assert [(await client.answer()).status for _ in range(2)] == [405, 200]

    talk(script)


def test_a_body_in_chunks_is_whole() -> None:
    async def script(client: Client) -> None:
        head = b"POST /predictions/m HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        client.send(head, b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n")
        assert (await client.answer()).body == b"abcde"

    talk(script)


@pytest.mark.parametrize(
    "begun",
    [
        post(b"", b"content-length: 1001").replace(b"content-length: 0\r\n", b""),
        b"POST /predictions/m HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001,
    ],
    ids=["announced", "in chunks"],
)
def test_a_body_that_is_too_long_is_refused_before_it_is_whole_and_ends_the_connection(
    begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LINGER_S", 0.05)

    async def script(client: Client) -> None:
        client.send(begun)
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert b"payload-too-large" in answer.body
        client.send(b"more that nobody reads")
        assert await client.is_closed()

    talk(script)


def test_bodies_beyond_what_may_be_held_are_refused_and_what_was_held_is_given_back() -> None:
    async def script(client: Client) -> None:
        assert client.pool.hold(HELD - 899)
        client.send(post(b"x" * 900))
        answer = await client.answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        client.pool.release(HELD - 899)

    talk(script)


@pytest.mark.parametrize(
    ("sent", "status", "kind"),
    [
        (b"nonsense\r\n\r\n", 400, b"bad-request"),
        (b"POST /predictions/m HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n", 400, b"bad-request"),
        (post(b"x", b"transfer-encoding: chunked"), 400, b"bad-request"),
        (post(b"x", b"big: " + b"x" * (LONGEST_HEAD + 1)), 431, b"headers-too-large"),
        (b"POST /predictions/m HTTP/1.1\r\n" + b"a: b\r\n" * (LONGEST_HEAD // 5), 431, b"headers-too-large"),
        (b"POST /" + b"x" * (LONGEST_HEAD + 10), 400, b"bad-request"),
    ],
    ids=["no HTTP", "no length", "two lengths", "one header", "endless headers", "endless line"],
)
def test_what_cannot_be_read_is_a_problem_document_and_ends_the_connection(
    sent: bytes, status: int, kind: bytes
) -> None:
    async def script(client: Client) -> None:
        client.send(sent)
        await client.writer.drain()
        answer = await client.answer()
        assert answer.status in (status, 431)
        assert answer.headers["connection"] == "close"
        assert kind in answer.body or b"headers-too-large" in answer.body
        assert await client.is_closed()

    talk(script)


def test_what_cannot_be_read_behind_a_request_does_not_take_its_answer() -> None:
    async def script(client: Client) -> None:
        client.send(post(b"wait"), b"nonsense\r\n\r\n")
        while not client.pool.held_back:
            await asyncio.sleep(0.01)
        client.pool.held_back[0].answer(echo(client.pool.held_back[0]))
        answer = await client.answer()
        assert (answer.body, answer.headers["connection"]) == (b"wait", "close")
        assert await client.is_closed()

    talk(script)


@pytest.mark.parametrize("asked", [b"HTTP/1.0", b"HTTP/1.1\r\nconnection: close"])
def test_a_client_that_wants_one_answer_gets_one(asked: bytes) -> None:
    async def script(client: Client) -> None:
        client.send(post(b"one").replace(b"HTTP/1.1", asked), post(b"two"))
        assert (await client.answer()).headers["connection"] == "close"
        assert await client.is_closed()

    talk(script)


def test_an_upgrade_is_not_offered() -> None:
    async def script(client: Client) -> None:
        client.send(post(b"", b"connection: upgrade", b"upgrade: websocket", path=b"/other", method=b"GET"))
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await client.is_closed()

    talk(script)


def test_the_body_is_asked_for_where_the_client_waits_to_be_asked() -> None:
    async def script(client: Client) -> None:
        whole = post(b"body", b"expect: 100-continue")
        client.send(whole[: -len(b"body")])
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"body")
        assert (await client.answer()).body == b"body"

    talk(script)


def test_the_answer_to_head_has_no_body() -> None:
    async def script(client: Client) -> None:
        client.send(post(b"", path=b"/other", method=b"HEAD"), post(b"next"))
        assert (await client.answer(has_body=False)).headers["content-length"] != "0"
        assert (await client.answer()).body == b"next"

    talk(script)


def test_a_route_that_raises_is_a_500_and_the_connection_goes_on() -> None:
    async def script(client: Client) -> None:
        client.send(post(b"", path=b"/broken"), post(b"next"))
        answer = await client.answer()
        assert (answer.status, b"own mistake" in answer.body) == (500, False)
        assert (await client.answer()).body == b"next"

    talk(script)


def test_a_client_that_hangs_up_leaves_the_pool_and_its_late_answer_goes_nowhere() -> None:
    async def script(client: Client) -> None:
        client.send(post(b"wait"), post(b"behind"), post(b"part")[:-2])
        while not client.pool.held_back:
            await asyncio.sleep(0.01)
        client.writer.close()
        while not client.pool.left:
            await asyncio.sleep(0.01)
        [waiting] = client.pool.held_back
        assert client.pool.left == [waiting]
        waiting.answer(echo(waiting))

    talk(script)


def test_shutdown_answers_the_request_at_work_and_closes_idle_connections() -> None:
    async def busy(client: Client) -> None:
        client.send(post(b"wait"))
        while not client.pool.held_back:
            await asyncio.sleep(0.01)
        client.server_side.shutdown()
        client.pool.held_back[0].answer(echo(client.pool.held_back[0]))
        answer = await client.answer()
        assert (answer.body, answer.headers["connection"]) == (b"wait", "close")
        assert await client.is_closed()

    async def idle(client: Client) -> None:
        client.send(post(b"one"))
        await client.answer()
        client.server_side.shutdown()
        assert await client.is_closed()

    talk(busy)
    talk(idle)


@pytest.mark.parametrize(
    ("sent", "limit_s", "status"),
    [(b"", IDLE_S, None), (post(b"body")[:-2], ARRIVAL_S, 408), (b"POST", ARRIVAL_S, 408)],
)
def test_idle_connections_and_slow_requests_end(sent: bytes, limit_s: float, status: int | None) -> None:
    async def script(client: Client) -> None:
        client.send(sent)
        await asyncio.sleep(0.05)
        now = asyncio.get_running_loop().time()
        client.server_side.sweep(now + limit_s - 1)
        await asyncio.sleep(0.01)
        assert len(client.open) == 1
        client.server_side.sweep(now + limit_s + 1)
        if status is not None:
            assert (await client.answer()).status == status
        assert await client.is_closed()

    talk(script)


def test_a_client_that_does_not_read_its_answers_is_not_read_from() -> None:
    async def script(client: Client) -> None:
        body = b"x" * LONGEST_BODY
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        sent = 0
        for _ in range(200):
            client.send(post(body) * 40)
            sent += 40
            try:
                await asyncio.wait_for(client.writer.drain(), 0.3)
            except TimeoutError:
                break
        else:
            pytest.fail(f"all of {sent} requests were read")
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(sent):
            assert (await client.answer()).body == body

    talk(script)


def test_a_client_that_never_reads_its_answers_is_cut_off() -> None:
    async def script(client: Client) -> None:
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(200):
            client.send(post(b"x" * LONGEST_BODY) * 40)
            try:
                await asyncio.wait_for(client.writer.drain(), 0.3)
            except TimeoutError:
                break
        there = client.server_side
        now = asyncio.get_running_loop().time()
        there.sweep(now)
        there.shutdown()
        await asyncio.sleep(0.01)
        there.sweep(now + IDLE_S - 1)
        await asyncio.sleep(0.01)
        assert client.open, "closing waits for the client"
        there.sweep(now + IDLE_S + 1)
        while client.open:
            await asyncio.sleep(0.01)

    talk(script)


def test_what_stands_behind_a_body_is_no_header_and_has_a_bound() -> None:
    chunked = post(b"", b"transfer-encoding: chunked", path=b"/headers").replace(b"content-length: 0\r\n", b"")

    async def script(client: Client) -> None:
        client.send(chunked, b"2\r\nok\r\n0\r\nauthorization: Bearer late\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, b"'host'" in answer.body, b"late" in answer.body) == (200, True, False)
        client.send(chunked, b"2\r\nok\r\n0\r\n")
        await asyncio.sleep(0.05)
        client.send(b"a: " + b"b" * LONGEST_HEAD)
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (431, "close")

    talk(script)


def test_a_transfer_coding_that_is_not_read_is_refused() -> None:
    async def script(client: Client) -> None:
        asked = post(b"", b"transfer-encoding: gzip, chunked").replace(b"content-length: 0\r\n", b"")
        client.send(asked, b"1\r\nx\r\n0\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, b"'chunked'" in answer.body) == (400, True)

    talk(script)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_behind_an_offer_to_upgrade_is_read(framing: str) -> None:
    """Java's client makes this offer with every request."""

    async def script(client: Client) -> None:
        asked = post(b"body", b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAEAAEAA")
        if framing == "chunked":
            asked = asked.replace(b"content-length: 4", b"transfer-encoding: chunked")
            asked = asked.removesuffix(b"body") + b"4\r\nbody\r\n0\r\n\r\n"
        for part in (asked[:-3], asked[-3:]):
            client.send(part)
            await asyncio.sleep(0.01)
        answer = await client.answer()
        assert (answer.status, answer.body, answer.headers["connection"]) == (200, b"body", "close")
        assert await client.is_closed()

    talk(script)


def test_a_body_in_many_small_parts_costs_about_its_bytes() -> None:
    pool = EchoPool()
    exchange = Exchange(None)
    exchange.method = "POST"
    exchange.begin(Route(pool, "", HELD), "id")
    sent = [b"%03d" % (number % 1000) for number in range(HELD // 4)]
    tracemalloc.start()
    for part in sent:
        exchange.take(part[:1] + part[1:])
    costs = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert exchange.body == b"".join(sent)
    assert costs < 2 * HELD
    exchange.release()
    assert pool.held == 0


def test_answers_that_are_all_different_are_not_kept() -> None:
    kept = connections._head.cache_info().currsize

    async def script(client: Client) -> None:
        for number in range(3):
            client.send(post(b"", path=b"/other/%d" % number))
            assert (await client.answer()).status == 200

    talk(script)
    assert connections._head.cache_info().currsize == kept


@pytest.mark.parametrize(
    "lines",
    [
        (b"", b"content-length: 1"),
        (b"host: x", b"host: x", b"content-length: 1"),
        (b"host: a/b", b"content-length: 1"),
        (b"host: a b", b"content-length: 1"),
        (b"host: \xc3\xa9", b"content-length: 1"),
        (b"host: x", b"content-length: 1", b"transfer-encoding: chunked"),
        (b"host: x", b"transfer-encoding: chunked", b"content-length: 1"),
        (b"host: x", b"transfer-encoding: chunked", b"transfer-encoding: chunked"),
        (b"host: x", b"transfer-encoding: chunked", b"transfer-encoding: identity"),
        (b"host: x", b"transfer-encoding: xchunked"),
        (b"host: x", b"transfer-encoding: chunked;q=1"),
        (b"host: x", b"transfer-encoding : chunked"),
        (b"host: x", b"transfer-encoding:", b" chunked"),
        (b"host: x", b"transfer-encoding:\x0bchunked"),
        (b"host: x", b"content-length: 1", b"content-length: 1"),
        (b"host: x", b"content-length: 1, 1"),
        (b"host: x", b"content-length: +1"),
        (b"host: x", b"content-length: 1_0"),
        (b"host: x", b"content-length: 1", b" 1"),
        (b"host: x", b"content-length: 18446744073709551617"),
        (b" host: x", b"content-length: 1"),
        (b"host: x", b"a: b\rc: d", b"content-length: 1"),
        (b"host: x", b"a: b\nc: d", b"content-length: 1"),
        (b"host: x", b"a\0: b", b"content-length: 1"),
        (b"host: x", b"connection: upgrade", b"upgrade: h2c", b"content-length: 1", b"transfer-encoding: chunked"),
    ],
    ids=repr,
)
def test_a_request_whose_end_is_in_doubt_is_refused_and_nothing_behind_it_is_read(lines: tuple[bytes, ...]) -> None:
    """A proxy before the server may see its end, or its host, elsewhere: what follows could be another client's."""

    async def script(client: Client) -> None:
        head = b"\r\n".join((b"POST /predictions/m HTTP/1.1", *filter(None, lines), b"", b""))
        client.send(head, b"1\r\n", post(b"wait"), b"0\r\n\r\n", post(b"wait"))
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert b"bad-request" in answer.body
        assert await client.is_closed()
        assert not client.pool.held_back

    talk(script)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"POST /predictions/m HTTP/1.0\r\ntransfer-encoding: chunked", 400),
        (b"POST /predictions/m HTTP/2.0\r\nhost: x", 400),
        (b"POST /predictions/m HTTP/0.9\r\nhost: x", 400),
        (b"GET /predictions/m", 400),
        (b"PRI * HTTP/2.0", 400),
        (b"CONNECT x:1 HTTP/1.1\r\nhost: x", 200),  # of the routes here; FastAPI's have no such path
        (b"CONNECT /predictions/m HTTP/1.1\r\nhost: x", 405),
    ],
)
def test_another_protocol_than_http_1_is_not_spoken(line: bytes, status: int) -> None:
    async def script(client: Client) -> None:
        client.send(line, b"\r\n\r\n", post(b"wait"))
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert await client.is_closed()
        assert not client.pool.held_back

    talk(script)


@pytest.mark.parametrize("host", [b"", b"x", b"x:80", b"127.0.0.1:8100", b"[::1]:80", b"m~1.0", b"a_b.example", b"u@x"])
@pytest.mark.parametrize("target", [b"/predictions/m", b"http://other:1/predictions/m?a=b", b"/predictions%2Fm#x"])
def test_hosts_and_forms_of_targets_that_are_in_order(host: bytes, target: bytes) -> None:
    async def script(client: Client) -> None:
        client.send(post(b"one", path=target).replace(b"host: x", b"Host: " + host))
        assert ((answer := await client.answer()).status, answer.body) == (200, b"one")

    talk(script)


def test_a_client_of_any_path_is_asked_for_its_body_once_nothing_is_before_it() -> None:
    async def script(client: Client) -> None:
        for path in (b"/other", b"/predictions/m"):
            whole = post(b"body", b"expect: 100-continue", path=path)
            client.send(post(b"wait"), whole[: -len(b"body")])
            while not client.pool.held_back:
                await asyncio.sleep(0.01)
            waiting = client.pool.held_back.pop()
            waiting.answer(echo(waiting))
            assert (await client.answer()).body == b"wait"
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(b"body")
            assert (await client.answer()).body.endswith(b"body")

    talk(script)


@pytest.mark.parametrize(("method", "version", "status"), [(b"PUT", b"HTTP/1.1", 405), (b"POST", b"HTTP/1.0", 200)])
def test_nobody_is_asked_for_a_body_in_vain(method: bytes, version: bytes, status: int) -> None:
    """A request that is refused gets its answer at once; HTTP/1.0 knows no answer before the last one."""

    async def script(client: Client) -> None:
        whole = post(b"body", b"expect: 100-continue", method=method).replace(b"HTTP/1.1", version)
        client.send(whole if status == 200 else whole[: -len(b"body")])
        assert (await client.answer()).status == status

    talk(script)


def test_many_requests_at_once_are_not_all_read_before_the_first_is_answered() -> None:
    """None of them needs a token to be read; each takes much more memory than its bytes."""
    tiny = b"GET /x HTTP/1.1\r\nhost:\r\n\r\n"
    count = 20_000

    async def script(client: Client) -> None:
        client.send(post(b"wait"), tiny * count)
        while not client.pool.held_back:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert len(client.server_side._waiting) <= MOST_WAITING + SLICE // len(tiny) + 1
        client.pool.held_back[0].answer(echo(client.pool.held_back[0]))
        assert (await client.answer()).body == b"wait"
        for _ in range(count):
            assert (await client.answer()).status == 200

    talk(script)

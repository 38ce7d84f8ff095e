"""A program that asks for streams and notes when their texts come: `python -m benchmarks.text.client PLAN`.

Its argument is a file with a plan (`load.Plan` as JSON). It sends nothing more when its standard input is closed, and
prints the streams as JSON when all have ended. A process of its own, so that its times do not depend on what else the
benchmark does. One connection a request.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.text.stream import CUT, Reader, Stream

#: Seconds that a user waits who was refused, before he asks again.
PAUSE_S = 0.2
CONNECT_S = 10.0


class _Asking(asyncio.Protocol):
    """One request on one connection."""

    def __init__(self, message: bytes, stream: Stream) -> None:
        self._message = message
        self._reader = Reader(stream)
        self._transport: asyncio.Transport | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's have another base class
        self._transport.write(self._message)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data, time.perf_counter())
        except ValueError as error:
            self._reader.stream.detail = str(error)
            self._end()
            return
        if self._reader.is_complete:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not self._reader.stream.detail:
            self._reader.stream.detail = repr(exc)
        self._end()

    def hang_up(self) -> None:
        if not self.ended.done():
            self._end()
            self._reader.stream.outcome = CUT

    def _end(self) -> None:
        if self.ended.done():
            return
        self._reader.end(time.perf_counter())
        self.ended.set_result(None)
        if self._transport is not None:
            self._transport.abort()


class _Load:
    """The requests of one plan."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        parts = urlsplit(plan["url"])
        self._place = (parts.hostname or "", parts.port or 80)
        lines = "".join(f"{name}: {value}\r\n" for name, value in plan["headers"].items())
        self._head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n{lines}"
        self._plan = plan
        self._bodies = _endless(plan["bodies"])
        self._open: set[_Asking] = set()
        self._stop = asyncio.Event()
        self.streams: list[Stream] = []
        self.late_s = 0.0  # the most that a request of an open loop was sent too late

    async def run(self) -> None:
        plan, loop = self._plan, asyncio.get_running_loop()
        self.begin = time.perf_counter()
        loop.call_later(plan["seconds"], self._stop.set)
        watch = asyncio.create_task(self._watch())
        if plan["arrivals"] is not None:
            tasks = [asyncio.create_task(self._send_at(moment)) for moment in plan["arrivals"]]
        else:
            pause = plan["ramp_s"] / plan["users"]
            tasks = [asyncio.create_task(self._user(number * pause)) for number in range(plan["users"])]
        await self._stop.wait()
        self.end = time.perf_counter()
        _, still = await asyncio.wait(tasks, timeout=plan["drain_s"])
        for asking in list(self._open):
            asking.hang_up()
        if still:
            await asyncio.wait(still, timeout=CONNECT_S)
        watch.cancel()

    async def _watch(self) -> None:
        """End when the standard input does."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        await reader.read()
        self._stop.set()

    async def _user(self, pause_s: float) -> None:
        await self._sleep(pause_s)
        while not self._stop.is_set():
            stream = await self._ask()
            if stream.status != 200:
                await self._sleep(PAUSE_S)

    async def _send_at(self, moment: float) -> None:
        due = self.begin + moment
        await self._sleep(due - time.perf_counter())
        if not self._stop.is_set():
            self.late_s = max(self.late_s, time.perf_counter() - due)
            await self._ask()

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), max(seconds, 0.0))
        except TimeoutError:
            return

    async def _ask(self) -> Stream:
        body = next(self._bodies)
        message = f"{self._head}content-length: {len(body)}\r\n\r\n".encode() + body
        stream = Stream(time.perf_counter())
        self.streams.append(stream)
        asking = _Asking(message, stream)
        connecting = asyncio.get_running_loop().create_connection(lambda: asking, *self._place)
        try:
            await asyncio.wait_for(connecting, CONNECT_S)
        except OSError as error:  # a TimeoutError is one
            stream.ended, stream.detail = time.perf_counter(), repr(error)
            return stream
        self._open.add(asking)
        await asking.ended
        self._open.discard(asking)
        return stream


def _endless(bodies: Sequence[str]) -> Iterator[bytes]:
    while True:
        yield from (body.encode() for body in bodies)


async def _measure(plan: Mapping[str, Any]) -> dict[str, Any]:
    load = _Load(plan)
    before = time.process_time()
    await load.run()
    return {
        "begin": load.begin,
        "end": load.end,
        "cpu_s": time.process_time() - before,
        "late_s": load.late_s,
        "streams": [stream.document() for stream in load.streams],
    }


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    gc.disable()
    print(json.dumps(uvloop.run(_measure(plan))), flush=True)  # noqa: T201 - its answer


if __name__ == "__main__":
    main()

"""Users of a backend without a server: answers come through `handlers.text.generator` as text, as in a worker."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.text.stream import TOLD, WHOLE, Stream
from handlers.protocols.openai.requests import Defaults, parse_completion
from handlers.text.answer import Answer
from handlers.text.backend import Backend
from handlers.text.generator import Delivery, Generator

#: Answers at a time; no plan has so many users.
MOST = 1 << 16


class Loop:
    """Users who ask a generator again as soon as they are answered, in its thread; one whose answer fails leaves."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._generator = Generator(backend, MOST, self._deliver)
        self._changed = threading.Condition()
        self._working = 0

    def run(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """What was measured, when all answers have ended.

        Args:
            plan: `bodies`, `users`, `seconds` and `ramp_s` as in `load.Plan`.
        """
        self._bodies, self._turn = plan["bodies"], 0
        self._streams: dict[Answer, Stream] = {}
        self._all: list[Stream] = []
        begin = time.perf_counter()
        self._end = begin + plan["seconds"]
        for _ in range(plan["users"]):
            with self._changed:
                self._working += 1
                self._ask()
            time.sleep(plan["ramp_s"] / plan["users"])
        with self._changed:
            self._changed.wait_for(lambda: self._working == 0)
        return {
            "begin": begin,
            "end": self._end,
            "cpu_s": 0.0,  # there is no client
            "late_s": 0.0,
            "streams": [stream.document() for stream in self._all],
        }

    def close(self) -> None:
        """End the generator, and the backend with it."""
        self._generator.close()

    def _ask(self) -> None:
        body = self._bodies[self._turn % len(self._bodies)].encode()
        self._turn += 1
        stream = Stream(time.perf_counter(), status=200)
        asked = parse_completion(body, Defaults())
        prompt = self._backend.encode(asked.prompts[0])
        stream.prompt, stream.answer = len(prompt), 0
        answer = Answer(prompt, asked.sampling)
        self._streams[answer] = stream
        self._all.append(stream)
        self._generator.submit(answer)

    def _deliver(self, delivery: Delivery) -> None:
        now = time.perf_counter()
        with self._changed:
            for answer, piece in delivery:
                stream = self._streams[answer]
                stream.answer = answer.tokens
                if piece.text:
                    stream.moments.append(now)
                if not piece.finish and piece.error is None:
                    continue
                stream.ended, stream.finish = now, piece.finish
                stream.outcome = WHOLE if piece.error is None else TOLD
                del self._streams[answer]
                if now < self._end and piece.error is None:
                    self._ask()
                else:
                    self._working -= 1
                    self._changed.notify()


def serve_plans(open_loop: Callable[[], Loop]) -> None:
    """The main function of a program that `targets.in_process` starts.

    It prints a line when the loop is open. Each line of its standard input is then a plan, and it prints a line with
    what was measured, until its input is closed.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    loop = open_loop()
    gc.disable()
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(loop.run(json.loads(line))), file=answers, flush=True)

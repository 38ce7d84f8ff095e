"""Starts the client of streams in a process of its own, and reads what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import CHECKOUT
from benchmarks.harness.client import Address
from benchmarks.text.statistics import Served, served
from benchmarks.text.stream import Stream, read_stream
from tsctl.errors import NodeError
from tsctl.host.process import end_child

#: Seconds that the client may take longer than its plan says.
GRACE_S = 30.0
STOP_S = 5.0


@dataclass(frozen=True)
class Plan:
    """The requests of one measurement.

    Args:
        users: that ask again as soon as they are answered; of no meaning with `arrivals`.
        arrivals: when to send, in seconds after the begin, whatever was answered; None: users.
        seconds: until no further request is sent.
        ramp_s: over which the users begin, one after the other; it is not counted.
        drain_s: after `seconds`, until the client hangs up.
    """

    bodies: Sequence[str]
    users: int
    seconds: float
    ramp_s: float = 1.0
    drain_s: float = 30.0
    arrivals: Sequence[float] | None = None

    def document(self, address: Address | None = None) -> str:
        """As the programs that measure read it.

        Args:
            address: where it goes; None: to no server.
        """
        if address is None:
            return json.dumps(asdict(self))
        headers = {"content-type": "application/json", **{k.lower(): v for k, v in address.headers.items()}}
        return json.dumps({**asdict(self), "url": address.url, "headers": headers})


@dataclass
class Measured:
    """What the client saw.

    Args:
        begin, end: of the time in which requests were sent.
        cpu_s: processor time of the client.
        late_s: the most that a request of an open loop was late.
        spent_s: processor time of the processes that answer, by their part.
    """

    begin: float
    end: float
    cpu_s: float
    late_s: float
    streams: list[Stream] = field(default_factory=list)
    spent_s: dict[str, float] = field(default_factory=dict)

    @property
    def spent_ms(self) -> dict[str, float]:
        """Milliseconds of processor time for each token of an answer, by part."""
        tokens = sum(stream.tokens for stream in self.streams)
        return {part: 1000 * spent / tokens for part, spent in self.spent_s.items()} if tokens else {}

    def served(self, lead_s: float) -> Served:
        """All but the first `lead_s` seconds."""
        return served(self.streams, self.begin + lead_s, self.end)

    @property
    def cpu_share(self) -> float:
        """Of one core, over the time of all streams."""
        last = max((stream.ended for stream in self.streams), default=self.end)
        return self.cpu_s / (max(last, self.end) - self.begin)


def read_measured(document: Mapping[str, Any]) -> Measured:
    """The JSON that the client prints."""
    return Measured(**{**document, "streams": [read_stream(stream) for stream in document["streams"]]})


def run_load(address: Address, plan: Plan) -> Measured:
    """Measure, and wait until all streams have ended.

    Raises:
        NodeError: the client failed.
    """
    with running_load(address, plan) as running:
        return running.wait()


class Running:
    """A client at work."""

    def __init__(self, process: subprocess.Popen[bytes], plan: Plan) -> None:
        self._process = process
        self._plan = plan

    def stop(self) -> Measured:
        """Send no more requests; what was measured, when all streams have ended."""
        if self._process.stdin is not None:
            self._process.stdin.close()
            self._process.stdin = None
        return self.wait()

    def wait(self) -> Measured:
        """What was measured, when the plan is done.

        Raises:
            NodeError: the client failed.
        """
        timeout_s = self._plan.seconds + self._plan.drain_s + GRACE_S
        stdin, self._process.stdin = self._process.stdin, None  # `communicate` would close it, and the client stop
        try:
            out, err = self._process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise NodeError(f"the client of streams did not end within {timeout_s:g} s") from None
        finally:
            if stdin is not None:
                stdin.close()
        if self._process.returncode != 0:
            raise NodeError(f"the client of streams failed: {err.decode()[-500:]}")
        return read_measured(json.loads(out))


@contextmanager
def running_load(address: Address, plan: Plan) -> Iterator[Running]:
    """A client that sends while the block runs; `Running.stop` or `wait` gives what it measured."""
    with tempfile.TemporaryDirectory(prefix="tsctl-bench-") as folder:
        path = Path(folder) / "plan.json"  # in a folder that only its owner may read: it may hold a key
        path.write_text(plan.document(address), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.text.client", str(path)],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            yield Running(process, plan)
        finally:
            end_child(process, STOP_S)

"""Machines for nodes that a test can cut off: network namespaces on a bridge, or loopback addresses without the rights.

The block that creates a network removes all of it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

#: Addresses are of a range reserved for benchmarks, so that no real network is hidden.
PREFIX = f"198.18.{os.getpid() % 250}"
#: A slow line: some twenty small requests a second.
SLOW = ("rate", "64kbit", "burst", "1600", "latency", "2000ms")
PULSE_S = 0.3


class Network(Protocol):
    """Connects machines, which are numbered; `pid` is that of a machine's node."""

    #: Whether bytes on their way are lost when a machine is cut off, as in a real network.
    is_real: bool

    def address(self, number: int) -> str: ...
    def inside(self, number: int) -> list[str]:
        """The words before a command that runs on the machine."""

    def cut(self, number: int, pid: int) -> None: ...
    def mend(self, number: int, pid: int) -> None: ...
    def part(self, number: int, other: int, pid: int) -> None:
        """The machine cannot reach the other one any more; its ways to all others stay."""

    def join(self, number: int, other: int, pid: int) -> None:
        """It can again."""

    def slow(self, number: int, pid: int) -> Callable[[], object]:
        """Make the machine slow; returns what ends that."""


class Namespaces:
    """A network namespace for each machine, with a virtual link to a bridge."""

    is_real = True

    def __init__(self) -> None:
        self._own = f"tm{os.getpid()}"
        self._spaces: list[str] = []

    def address(self, number: int) -> str:
        return f"{PREFIX}.{number + 2}"

    def inside(self, number: int) -> list[str]:
        return ["ip", "netns", "exec", self._spaces[number]]

    def cut(self, number: int, pid: int) -> None:
        _run("ip", "link", "set", self._link(number), "down")

    def mend(self, number: int, pid: int) -> None:
        _run("ip", "link", "set", self._link(number), "up")

    def part(self, number: int, other: int, pid: int) -> None:
        _run(*self.inside(number), "ip", "route", "add", "blackhole", f"{self.address(other)}/32")

    def join(self, number: int, other: int, pid: int) -> None:
        _run(*self.inside(number), "ip", "route", "del", "blackhole", f"{self.address(other)}/32")

    def slow(self, number: int, pid: int) -> Callable[[], object]:
        _run("tc", "qdisc", "add", "dev", self._link(number), "root", "tbf", *SLOW)
        return lambda: _run("tc", "qdisc", "del", "dev", self._link(number), "root")

    def create(self, count: int) -> None:
        """Make the bridge and a machine for each number.

        Raises:
            OSError, subprocess.CalledProcessError: `ip` or `tc` is not there, or may not do it.
        """
        _run("ip", "link", "add", self._own, "type", "bridge")
        _run("ip", "address", "add", f"{PREFIX}.1/24", "dev", self._own)
        _run("ip", "link", "set", self._own, "up")
        for number in range(count):
            space = f"{self._own}n{number}"
            _run("ip", "netns", "add", space)
            self._spaces.append(space)
            _run("ip", "link", "add", self._link(number), "type", "veth", "peer", "name", "eth0", "netns", space)
            _run("ip", "link", "set", self._link(number), "master", self._own, "up")
            _run(*self.inside(number), "ip", "address", "add", f"{self.address(number)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _run(*self.inside(number), "ip", "link", "set", device, "up")
        self.slow(0, 0)()  # whether the kernel can

    def remove(self) -> None:
        """Remove all that `create` made, even where it failed halfway."""
        for number, space in enumerate(self._spaces):
            if self._link(number) in _run("ip", "-o", "link"):
                _run("ip", "link", "del", self._link(number))
            _run("ip", "netns", "del", space)
        if f"{self._own}:" in _run("ip", "-o", "link"):
            _run("ip", "link", "del", self._own)

    def _link(self, number: int) -> str:
        return f"{self._own}v{number}"


class Loopback:
    """Addresses of this machine. To cut one off, its node's process is stopped; the kernel goes on acknowledging."""

    is_real = False

    def address(self, number: int) -> str:
        return f"127.0.0.{number + 2}"

    def inside(self, number: int) -> list[str]:
        return []

    def cut(self, number: int, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)

    def mend(self, number: int, pid: int) -> None:
        os.kill(pid, signal.SIGCONT)

    def part(self, number: int, other: int, pid: int) -> None:
        self.cut(number, pid)

    def join(self, number: int, other: int, pid: int) -> None:
        self.mend(number, pid)

    def slow(self, number: int, pid: int) -> Callable[[], object]:
        ended = threading.Event()

        def pulse() -> None:
            while not ended.wait(PULSE_S):
                os.kill(pid, signal.SIGSTOP)
                ended.wait(PULSE_S)
                os.kill(pid, signal.SIGCONT)

        thread = threading.Thread(target=pulse)
        thread.start()

        def end() -> None:
            ended.set()
            thread.join()

        return end


@contextmanager
def network(count: int) -> Iterator[Network]:
    """Machines 0 to `count` - 1, while the block runs."""
    if not (shutil.which("ip") and shutil.which("tc")):
        yield Loopback()
        return
    real = Namespaces()
    try:
        try:
            real.create(count)
        except subprocess.CalledProcessError:  # no rights, or a kernel without bridges
            yield Loopback()
        else:
            yield real
    finally:
        real.remove()


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

"""Addresses at which nobody answers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.support.ports import free_ports


@contextmanager
def unreachable() -> Iterator[dict[str, str]]:
    """HTTP addresses by why no connection to them is made: refused, unknown name, and no answer at all."""
    with ExitStack() as stack:
        silent = stack.enter_context(socket.socket())
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        for _ in range(3):  # its queue is full then, and the kernel drops what comes
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        yield {
            "refused": f"http://127.0.0.1:{free_ports(1)[0]}",
            "unknown": "http://nosuch.invalid:80",
            "silent": f"http://127.0.0.1:{silent.getsockname()[1]}",
        }

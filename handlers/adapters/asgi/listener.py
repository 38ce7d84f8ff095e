"""The socket on which a server of this package accepts connections."""

from __future__ import annotations

import socket

#: Connections that the kernel holds until they are accepted.
BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A listener whose connections send at once.

    Connections inherit TCP_NODELAY. Without it the body of an answer, which is sent after its head, waits until the
    client has acknowledged the head: some 40 ms. asyncio does not set it on connections of a listener that was made
    elsewhere.

    Raises:
        OSError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=False)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener

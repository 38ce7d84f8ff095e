"""Asks whether addresses and ports of this machine can be listened on, and finds free ones."""

from __future__ import annotations

import contextlib
import errno
import socket


def port_problem(host: str, port: int) -> str:
    """Why nothing can listen on the port, such as `is in use`; empty where it is free."""
    try:
        with _socket_for(host) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return bind_problem(error)
    return ""


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback address that nothing listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in sockets]


def bind_problem(error: OSError) -> str:
    """The reason for which an address could not be bound, such as `is in use`."""
    return "is in use" if error.errno == errno.EADDRINUSE else f"cannot be opened: {error.strerror}"


def is_address_here(host: str) -> bool:
    """Whether this machine has the address, which is so where a socket can be bound to it."""
    try:
        with _socket_for(host) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def _socket_for(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)

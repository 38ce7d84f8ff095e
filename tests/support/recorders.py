"""Recorders keep the bytes that they get: a tap between gateway and node, and a listener that nothing may reach."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from tests.support.raw_http import Place


class Listener:
    """Takes connections on a free port of the loopback address until it is closed; keeps what each of them sent.

    A connection gets no answer.
    """

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.place: Place = self._socket.getsockname()
        self.streams: list[bytearray] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return "{}:{}".format(*self.place)

    def heard(self) -> list[bytes]:
        """The bytes of every connection so far, oldest connection first."""
        return [bytes(stream) for stream in list(self.streams)]

    def close(self) -> None:
        """Take no more connections. Those that are there live until their ends close them."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            stream = bytearray()
            self.streams.append(stream)
            self._serve(connection, stream)

    def _serve(self, connection: socket.socket, stream: bytearray) -> None:
        def run() -> None:
            with connection:
                _copy(connection, None, stream)

        threading.Thread(target=run, daemon=True).start()


class Tap(Listener):
    """Passes every byte on, to and fro, and keeps what the clients sent."""

    def __init__(self, target: Place) -> None:
        self._target = target
        super().__init__()

    def _serve(self, connection: socket.socket, stream: bytearray) -> None:
        threading.Thread(target=self._relay, args=(connection, stream), daemon=True).start()

    def _relay(self, connection: socket.socket, stream: bytearray) -> None:
        with connection:
            try:
                onward = socket.create_connection(self._target)
            except OSError:
                return  # the client's connection ends, as it would without the tap
            with onward:
                for end in (connection, onward):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                back = threading.Thread(target=_copy, args=(onward, connection, bytearray()), daemon=True)
                back.start()
                _copy(connection, onward, stream)
                back.join()


def _copy(source: socket.socket, target: socket.socket | None, stream: bytearray) -> None:
    """Until one of the two closes or resets; then both have ended."""
    with suppress(OSError):  # a reset ends it like a close
        while data := source.recv(1 << 16):
            stream += data
            if target is not None:
                target.sendall(data)
    for end in (source, target):
        if end is not None:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

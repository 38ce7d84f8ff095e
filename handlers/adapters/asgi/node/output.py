"""What a version's workers print, line by line into the node's log, which rotates."""

from __future__ import annotations

import asyncio
import logging
import os

logger = logging.getLogger(__name__)

#: A longer line is cut into several.
LONGEST_LINE = 8192


class Output(asyncio.Protocol):
    """The end of a pipe at which the lines of all workers of one version arrive.

    Args:
        name: stands before each line.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._held = b""
        self.descriptor = -1  # the other end, for the workers

    async def open(self) -> None:
        """Begin to read."""
        read, self.descriptor = os.pipe()
        await asyncio.get_running_loop().connect_read_pipe(lambda: self, os.fdopen(read, "rb", buffering=0))

    def close(self) -> None:
        """Nobody writes any more, once the workers have ended."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def data_received(self, data: bytes) -> None:
        *lines, self._held = (self._held + data).split(b"\n")
        while len(self._held) > LONGEST_LINE:
            lines.append(self._held[:LONGEST_LINE])
            self._held = self._held[LONGEST_LINE:]
        for line in lines:
            if line:
                logger.info("%s: %s", self._name, line[:LONGEST_LINE].decode("utf-8", "backslashreplace"))

"""Starts the load client on an order, and reads what it noted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from tempfile import TemporaryFile

from tsctl.compare.load.order import Noted, Order, read_noted, write_order
from tsctl.errors import NodeError

#: Seconds beyond the order's own that the client may take to start, and to write its columns.
SPARE_S = 30.0


def run_load(
    order: Order, requests: Sequence[bytes], send_times: Sequence[float] | None = None, may_stop: bool = False
) -> Noted:
    """Send the requests in turn, over and over, and wait for the end.

    Args:
        requests: head and body of each, as HTTP/1.1 has them.
        send_times: as in the client.
        may_stop: whether Ctrl-C only ends the sending: what was noted until then is returned.

    Raises:
        NodeError: nothing listens at the address, or the client failed.
    """
    with TemporaryFile() as given, TemporaryFile() as written, TemporaryFile() as log:
        given.write(write_order(order, requests, send_times))
        given.seek(0)
        command = [sys.executable, "-I", "-m", "tsctl.compare.load.client"]
        with subprocess.Popen(command, stdin=given, stdout=written, stderr=log) as process:
            try:
                status = process.wait(order.seconds + order.drain_s + SPARE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise NodeError(
                    f"the load on {order.host}:{order.port} did not end in time", "Is the machine busy?"
                ) from None
            except BaseException as error:
                if not (may_stop and isinstance(error, KeyboardInterrupt)):
                    process.kill()
                    raise
                status = _stop(process, order)
        log.seek(0)
        if status != 0:
            last = log.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise NodeError(f"the load on {order.host}:{order.port} failed: {last or f'status {status}'}")
        written.seek(0)
        return read_noted(written)


def _stop(process: subprocess.Popen[bytes], order: Order) -> int:
    """Let the client end, which a second Ctrl-C does at once; returns its status.

    Raises:
        KeyboardInterrupt: it had not begun, or does not end.
    """
    process.terminate()
    try:
        if (status := process.wait(order.drain_s + SPARE_S)) == 0:
            return status
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
    raise KeyboardInterrupt

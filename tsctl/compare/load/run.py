"""Starts the load client on an order, and reads what it noted."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence

from tsctl.compare.load.order import Noted, Order, read_noted, write_order
from tsctl.errors import NodeError

#: Seconds beyond the order's own that the client may take to start, and to write its columns.
SPARE_S = 30.0


def run_load(order: Order, requests: Sequence[bytes], send_times: Sequence[float] | None = None) -> Noted:
    """Send the requests in turn, over and over, and wait for the end.

    Args:
        requests: head and body of each, as HTTP/1.1 has them.
        send_times: as in the client.

    Raises:
        NodeError: nothing listens at the address, or the client failed.
    """
    try:
        ended = subprocess.run(
            [sys.executable, "-I", "-m", "tsctl.compare.load.client"],
            input=write_order(order, requests, send_times),
            capture_output=True,
            check=False,
            timeout=order.seconds + order.drain_s + SPARE_S,
        )
    except subprocess.TimeoutExpired:
        raise NodeError(f"the load on {order.host}:{order.port} did not end in time", "Is the machine busy?") from None
    if ended.returncode != 0:
        last = ended.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise NodeError(f"the load on {order.host}:{order.port} failed: {last or f'status {ended.returncode}'}")
    return read_noted(io.BytesIO(ended.stdout))

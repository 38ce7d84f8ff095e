"""What Envoy gives up, and in which order, when its memory or its connections come to an end. Pure.

Invariant: requests are refused with 503 before memory ends. Idle connections and answers that nobody takes are given up
before that, and before the last connection is taken: Envoy cannot bound the connections of one address.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tsctl.errors import GatewayError
from tsctl.gateway.envoy.messages import Json, extension, typed

#: Shares of the memory at which Envoy begins to give things up. In between, timeouts become shorter step by step.
HURRY, REFUSE, CLOSE = 0.7, 0.85, 0.95
#: The shortest timeouts, at REFUSE: of a connection without a request, and of an answer that its client does not take.
LEAST_IDLE, LEAST_FLUSH = "2s", "1s"
#: The largest streams are reset first; those below 2 to this power of bytes never.
TRACKED_POWER = 20


#: Connections of clients, and bytes of memory, where the machine has enough.
MOST_CONNECTIONS = 20_000
MOST_MEMORY = 2 << 30
#: Open files that are no connection of a client or to a node. With fewer than LEAST_FILES nothing is promised.
OTHER_FILES = 512
LEAST_FILES = 1024


@dataclass(frozen=True)
class Bounds:
    """What one Envoy may take of its machine."""

    connections: int  # of clients
    memory_bytes: int  # of its heap
    waiting_bytes: int  # of large bodies at the nodes


def bounds(wanted_memory: int | None, machine_memory: int, open_files: int, waiting_bytes: int) -> Bounds:
    """The bounds on a machine with so much memory, in bytes, and so many files that a process may open.

    A connection of a client may need another one to a node, so it counts as two files.

    Raises:
        GatewayError: there are fewer than LEAST_FILES.
    """
    if open_files < LEAST_FILES:
        raise GatewayError(
            f"the gateway may open {open_files} files here, and needs {LEAST_FILES:,}",
            "Raise the hard limit, which 'ulimit -Hn' prints: 40,512 are enough for 20,000 connections.",
        )
    memory = wanted_memory or min(MOST_MEMORY, machine_memory * 3 // 4)
    return Bounds(min(MOST_CONNECTIONS, (open_files - OTHER_FILES) // 2), memory, waiting_bytes)


def overload_manager(bounds: Bounds) -> Json:
    """Envoy's `overload_manager`."""
    return {
        "refresh_interval": "0.1s",
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": TRACKED_POWER},
        "resource_monitors": [
            extension(
                _CONNECTIONS,
                "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                max_active_downstream_connections=bounds.connections,
            ),
            extension(
                _HEAP,
                "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                max_heap_size_bytes=bounds.memory_bytes,
            ),
        ],
        "actions": [
            _action("shrink_heap", _from(HURRY)),
            _action("reduce_timeouts", *(_rising(HURRY, REFUSE, of) for of in _MONITORS), typed_config=_timeouts()),
            _action("disable_http_keepalive", _from(REFUSE)),
            _action("stop_accepting_requests", _from(REFUSE)),  # 503
            _action("reset_high_memory_stream", _rising(REFUSE, CLOSE)),
            _action("stop_accepting_connections", _from(CLOSE)),
        ],
        "loadshed_points": [
            {"name": "envoy.load_shed_points.http2_server_go_away_and_close_on_dispatch", "triggers": [_from(CLOSE)]}
        ],
    }


_HEAP = "envoy.resource_monitors.fixed_heap"
_CONNECTIONS = "envoy.resource_monitors.global_downstream_max_connections"
_MONITORS = (_HEAP, _CONNECTIONS)


def _action(name: str, *triggers: Json, **more: Any) -> Json:
    return {"name": f"envoy.overload_actions.{name}", "triggers": list(triggers), **more}


def _from(share: float) -> Json:
    return {"name": _HEAP, "threshold": {"value": share}}


def _rising(start: float, full: float, of: str = _HEAP) -> Json:
    return {"name": of, "scaled": {"scaling_threshold": start, "saturation_threshold": full}}


def _timeouts() -> Json:
    return typed(
        "envoy.config.overload.v3.ScaleTimersOverloadActionConfig",
        timer_scale_factors=[
            {"timer": "HTTP_DOWNSTREAM_CONNECTION_IDLE", "min_timeout": LEAST_IDLE},
            {"timer": "HTTP_DOWNSTREAM_STREAM_FLUSH", "min_timeout": LEAST_FLUSH},
        ],
    )

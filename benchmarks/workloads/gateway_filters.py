"""What each part of the gateway costs: Envoy's processor time a request with it, less the time with the part away."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.harness.client import Address
from benchmarks.harness.figures import Figure, Result, Turn
from benchmarks.harness.run import Job
from benchmarks.harness.workload import load, own_folder
from benchmarks.harness.wrk import require_wrk
from benchmarks.targets.envoy import running_envoy
from benchmarks.workloads.gateway_cost import MODEL, MOST, fleet_of_one, server_us
from tsctl.errors import NodeError
from tsctl.gateway.envoy.messages import Json
from tsctl.gateway.envoy.render.listeners import whole
from tsctl.gateway.files import read_document

ALL = "the whole gateway"
#: Seconds of a turn at most: there are some twenty parts.
MOST_SECONDS = 2
_PROTOCOL = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

Change = Callable[[Json], None]


def run(job: Job) -> Result:
    """The gateway, and copies of it without one part each, in turns before the same node.

    Raises:
        TsctlError: wrk is missing, or something does not start.
    """
    require_wrk()
    with own_folder() as folder, fleet_of_one(job, folder) as (fleet, body), ExitStack() as stack:
        files = fleet.gateway.files
        parts = [
            read_document(path) for path in (files.bootstrap, files.clusters, files.routes, files.ready, files.tokens)
        ]
        if None in parts:
            raise NodeError("the gateway has not written its files")
        everything = whole(*(part for part in parts if part is not None))
        for cluster in everything["static_resources"]["clusters"]:
            cluster.pop("health_checks", None)  # of some twenty Envoys at once
        places = {}
        for number, (name, change) in enumerate(changes(everything).items()):
            changed = json.loads(json.dumps(everything))
            change(changed)
            base, pid = stack.enter_context(running_envoy(changed, folder, f"variant-{number}"))
            headers = fleet.address("").headers
            places[name] = (Address(f"{base}/predictions/{MODEL}", headers), pid)
        turns: dict[str, list[Turn]] = {name: [] for name in places}
        for number in range(job.rounds):
            for name, (address, pid) in places.items():
                with job.progress.step(f"round {number + 1} of {job.rounds}: {name}"):
                    turns[name].append(_turn(address, body, pid, job, folder))
    figures = [
        Figure(
            name,
            "us",
            tuple(server_us(there) - server_us(away) for there, away in zip(turns[ALL], turns[name], strict=True)),
        )
        for name in turns
        if name != ALL
    ]
    notes = ("a figure is Envoy's processor time a request with everything, less that without the part",)
    return Result("filters", "the gateway with one part away", {"connections": MOST}, turns, figures, notes)


def _turn(address: Address, body: bytes, pid: int, job: Job, folder: Path) -> Turn:
    return load(address, [body], MOST, min(job.seconds, MOST_SECONDS), folder, lambda: {"server": [pid]})


def changes(everything: Json) -> dict[str, Change]:
    """What takes each part away, by the part's name; ALL takes nothing away."""
    manager, upstream = _manager(everything), _upstream_filters(everything)
    names = [one["name"] for one in manager["http_filters"] if one["name"] != "router"]
    loggers = range(len(manager["access_log"]))
    return {
        ALL: lambda content: None,
        **{f"filter {name}": _without_filter(name) for name in names},
        **{
            f"logger {number}, {manager['access_log'][number]['name'].rpartition('.')[2]}": _without_logger(number)
            for number in loggers
        },
        **{f"cluster's {one['name']}": _without_upstream_filter(one["name"]) for one in upstream[:-1]},
    }


def _without_filter(name: str) -> Change:
    def change(content: Json) -> None:
        manager = _manager(content)
        manager["http_filters"] = [one for one in manager["http_filters"] if one["name"] != name]

    return change


def _without_logger(number: int) -> Change:
    def change(content: Json) -> None:
        del _manager(content)["access_log"][number]

    return change


def _without_upstream_filter(name: str) -> Change:
    def change(content: Json) -> None:
        filters = _upstream_filters(content)
        filters[:] = [one for one in filters if one["name"] != name]

    return change


def _manager(content: Json) -> dict[str, Any]:
    """The connection manager of the clients' listener."""
    manager: dict[str, Any] = content["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    typed: dict[str, Any] = manager["typed_config"]
    return typed


def _upstream_filters(content: Json) -> list[Json]:
    """The filters of the model's cluster."""
    [cluster] = [one for one in content["static_resources"]["clusters"] if one["name"].startswith(f"{MODEL}~")]
    filters: list[Json] = cluster["typed_extension_protocol_options"][_PROTOCOL]["http_filters"]
    return filters

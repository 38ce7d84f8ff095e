"""Puts documents where Envoy reads them, and waits until Envoy has taken them; a refused one is replaced by the old."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tsctl.errors import GatewayError
from tsctl.gateway.envoy import render
from tsctl.gateway.envoy.messages import Json
from tsctl.gateway.envoy.render import Upstream, cluster_name
from tsctl.gateway.files import read_document
from tsctl.gateway.keys import Record, clients, plain_keys, read_keys
from tsctl.gateway.state import Gateway
from tsctl.gateway.traffic import Traffic
from tsctl.host.files import write_document

#: Envoy must take a file within this time, and is asked so often.
TAKEN_S = 5.0
POLL_S = 0.02
#: As TAKEN_S, for clusters: a new version's first health check must end before traffic can be sent to it.
WARM_S = 30.0

_REFUSED = "config update rejected: "
_UPDATES = "cluster_manager.cds.update_success"


def route_file(
    gateway: Gateway, traffic: Sequence[Traffic], records: Sequence[Record], plain: Mapping[str, str]
) -> Json:
    """The route file of this traffic and these keys.

    Args:
        plain: keys by their SHA-256; a record whose key is missing here lets nobody in.
    """
    return render.routes(gateway.spec, gateway.route_specs, traffic, clients(records, plain))


def put_traffic(gateway: Gateway, traffic: Sequence[Traffic]) -> None:
    """The routes have this traffic; the keys stay.

    Raises:
        GatewayError: Envoy refused it.
    """
    plain = plain_keys(read_document(gateway.files.routes))
    put_route_file(gateway, route_file(gateway, traffic, read_keys(gateway.files.keys), plain))
    write_document(gateway.files.ready, render.ready(traffic))


def put_route_file(gateway: Gateway, document: Json) -> None:
    """This route file is in force.

    Raises:
        GatewayError: Envoy refused it.
    """
    version = document["version_info"]
    _put(gateway, gateway.files.routes, document, lambda: gateway.admin.routes_version() == version, TAKEN_S)


def put_clusters(gateway: Gateway, upstreams: Sequence[Upstream], keep: Sequence[Upstream] = ()) -> None:
    """The clusters are these, and those of `keep`, which routes may still name.

    Raises:
        GatewayError: Envoy refused them.
    """
    keys = {upstream.key for upstream in upstreams}
    all_ = [*upstreams, *(upstream for upstream in keep if upstream.key not in keys)]
    for upstream in all_:
        for is_shadow in (False, True):
            path = gateway.files.endpoints_of(cluster_name(upstream.model, upstream.version, is_shadow))
            content = render.endpoints(upstream, is_shadow)
            if read_document(path) != content:
                write_document(path, content)
    document = render.clusters(all_, gateway.route_specs, gateway.files)
    names = {cluster["name"] for cluster in document["resources"]}
    before = _cluster_updates(gateway)

    def is_taken() -> bool:
        return _cluster_updates(gateway) > before and gateway.admin.active_clusters() == names

    _put(gateway, gateway.files.clusters, document, is_taken, WARM_S)
    for path in gateway.files.endpoints.glob("*.json"):
        if path.stem not in names:
            path.unlink()


def _cluster_updates(gateway: Gateway) -> int:
    """The number of cluster files that Envoy has taken; 0 where it does not run."""
    return gateway.admin.counters(f"^{_UPDATES}$").get(_UPDATES, 0) if gateway.admin.is_live() else 0


def _put(gateway: Gateway, path: Path, document: Json, is_taken: Callable[[], bool], timeout_s: float) -> None:
    """The file has this content, and Envoy, where it runs, has taken it.

    Raises:
        GatewayError: Envoy refused it, with Envoy's reason; the file has its old content again.
    """
    before = read_document(path)
    if before == document:
        return
    log = gateway.files.envoy_log
    offset = log.stat().st_size if log.is_file() else 0
    is_live = gateway.admin.is_live()
    write_document(path, document)
    end = time.monotonic() + timeout_s
    while is_live and not is_taken():
        reason = _refusal(log, offset)
        if reason or time.monotonic() > end:
            if before is not None:
                write_document(path, before)
            why = reason or f"Envoy did not take it within {timeout_s:g} s"
            raise GatewayError(
                f"the gateway refused the change, and what was in force stays: {why}",
                f"Its log is {gateway.project.relative(log)}.",
            )
        time.sleep(POLL_S)


def _refusal(log: Path, offset: int) -> str:
    """Envoy's reason for refusing a file since `offset` of its log; empty where it refused none."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(offset)
        lines = file.read().decode("utf-8", "replace").splitlines()
    return next((line.partition(_REFUSED)[2] for line in reversed(lines) if _REFUSED in line), "")

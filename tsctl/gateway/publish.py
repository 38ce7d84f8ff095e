"""Puts a document where Envoy reads it, and returns when Envoy has taken it; one that it refuses is taken back."""

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

#: Until when Envoy must have taken a file, and how often it is asked.
TAKEN_S = 5.0
POLL_S = 0.02
#: A new version's first health check must come back before traffic can be sent to it.
WARM_S = 30.0

_REFUSED = "config update rejected: "
UPDATES = "cluster_manager.cds.update_success"


def routes_of(
    gateway: Gateway, traffic: Sequence[Traffic], records: Sequence[Record], plain: Mapping[str, str]
) -> Json:
    """The route file of this traffic and these keys.

    Args:
        plain: keys by their SHA-256; one that is missing here cannot be let in.
    """
    given = {model: target.route for model, target in gateway.deployment.models.items()}
    return render.routes(gateway.spec, given, traffic, clients(records, plain))


def put_traffic(gateway: Gateway, traffic: Sequence[Traffic]) -> None:
    """The routes do this from now on; the keys stay.

    Raises:
        GatewayError: Envoy refused it.
    """
    old = read_document(gateway.places.routes)
    put_route_file(gateway, routes_of(gateway, traffic, read_keys(gateway.keys_file), plain_keys(old)))
    write_document(gateway.places.ready, render.ready(traffic))


def put_route_file(gateway: Gateway, document: Json) -> None:
    """This route file is in force.

    Raises:
        GatewayError: Envoy refused it.
    """
    _put(
        gateway,
        gateway.places.routes,
        document,
        lambda: gateway.admin.routes_version() == document["version_info"],
    )


def put_clusters(gateway: Gateway, found: Sequence[Upstream], keep: Sequence[Upstream] = ()) -> None:
    """The clusters are these, and those that are to be kept until no route names them."""
    own = {(one.model, one.version) for one in found}
    all_ = [*found, *(one for one in keep if (one.model, one.version) not in own)]
    given = {model: target.route for model, target in gateway.deployment.models.items()}
    for upstream in all_:
        for is_shadow in (False, True):
            name = cluster_name(upstream.model, upstream.version, is_shadow)
            content = render.endpoints(upstream, is_shadow)
            path = gateway.places.endpoints / f"{name}.json"
            if read_document(path) != content:
                write_document(path, content)
    document = render.clusters(all_, given, gateway.places)
    names = {cluster["name"] for cluster in document["resources"]}
    before = _cluster_updates(gateway)

    def is_taken() -> bool:
        return _cluster_updates(gateway) > before and gateway.admin.active_clusters() == names

    _put(gateway, gateway.places.clusters, document, is_taken, WARM_S)
    for path in gateway.places.endpoints.glob("*.json"):
        if path.stem not in names:
            path.unlink()


def _cluster_updates(gateway: Gateway) -> int:
    """How many files of clusters Envoy took until now; 0 where it does not run."""
    if not gateway.admin.is_live():
        return 0
    return gateway.admin.counters(f"^{UPDATES}$").get(UPDATES, 0)


def _put(gateway: Gateway, path: Path, document: Json, is_taken: Callable[[], bool], taken_s: float = TAKEN_S) -> None:
    """The file has this content, and Envoy, where it runs, has taken it.

    Raises:
        GatewayError: Envoy refused it, and the file has its old content again; with Envoy's own reason.
    """
    before = read_document(path)
    if before == document:
        return
    offset = gateway.log.stat().st_size if gateway.log.is_file() else 0
    is_live = gateway.admin.is_live()
    write_document(path, document)
    end = time.monotonic() + taken_s
    while is_live and not is_taken():
        reason = refusal(gateway.log, offset)
        if reason or time.monotonic() > end:
            if before is not None:
                write_document(path, before)
            why = reason or f"it did not take it within {taken_s:g} s"
            raise GatewayError(
                f"the gateway refused the change, and what was in force stays: {why}",
                f"Its log is {gateway.project.relative(gateway.log)}.",
            )
        time.sleep(POLL_S)


def refusal(log: Path, offset: int) -> str:
    """Envoy's reason for refusing a file since `offset` of its log; empty where it refused none."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(offset)
        lines = file.read().decode("utf-8", "replace").splitlines()
    return next((line.partition(_REFUSED)[2] for line in reversed(lines) if _REFUSED in line), "")

"""Puts documents where Envoy reads them, and waits until Envoy, where it runs, has taken them.

Invariant: where Envoy refuses a document, the old one is put back, and GatewayError gives Envoy's reason.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tsctl.errors import GatewayError
from tsctl.gateway.envoy.admin import Hangs
from tsctl.gateway.envoy.messages import Json
from tsctl.gateway.envoy.render import clusters, health, openai, routes
from tsctl.gateway.envoy.render.bodies import shadow_requests
from tsctl.gateway.envoy.render.clients import token_budgets
from tsctl.gateway.envoy.render.upstreams import Upstream
from tsctl.gateway.files import read_document
from tsctl.gateway.keys import Record, clients, plain_keys, read_keys
from tsctl.gateway.shared.budgets import part_of, parts_of
from tsctl.gateway.shared.control import SharedGateways
from tsctl.gateway.shared.generation import Generation
from tsctl.gateway.state import Gateway, upstreams_written
from tsctl.gateway.traffic import Traffic
from tsctl.host.files import lines_from, size, with_reserve, write_document
from tsctl.host.wait import wait_until

#: Envoy must take a file within this time, and is asked so often.
TAKEN_S = 5.0
POLL_S = 0.02
#: As TAKEN_S, for a file: one of a thousand versions takes seconds on a machine that does other work.
READ_S = 20.0
#: A new version's first health check is waited for so long, and no longer, because the gateway is locked meanwhile.
WARM_S = 15.0

_REFUSED = "config update rejected: "


def put_routes(
    gateway: Gateway,
    traffic: Collection[Traffic],
    records: Sequence[Record] | None = None,  # None: the keys stay
    new_keys: Mapping[str, str] | None = None,  # in plain by their SHA-256, besides those that the routes have
) -> None:
    """The routes have this traffic and these keys; a record whose key is not known in plain lets nobody in.

    It works on a full disk as well, with the room of the reserve.
    """
    if gateway.shared is not None:
        return _publish_routes(gateway.shared, traffic, records, new_keys or {})
    gateway.guard()  # once more: a version may have been waited for since the lock was taken
    files, spec = gateway.files, gateway.spec
    if (sharing := gateway.sharing) > 1:
        spec = spec.model_copy(update={"budget": part_of(spec.budget, sharing)})
    plain = {**plain_keys(read_document(files.routes)), **(new_keys or {})}
    written = read_keys(files.keys) if records is None else records
    holders = clients(parts_of(written, sharing), plain)
    before, ready = read_document(files.ready), health.ready(traffic)
    offers = {upstream.key: upstream.offer for upstream in upstreams_written(gateway) if upstream.offer is not None}
    content = routes.routes(spec, gateway.route_specs, traffic, holders, offers)
    tokens = openai.tokens(token_budgets(spec.budget, holders))
    with_reserve(files.reserve, lambda: _put_tokens(gateway, tokens))
    if ready != before:  # first: what follows is waited for, and /readyz is then right as well
        with_reserve(files.reserve, lambda: write_document(files.ready, ready))
    try:
        with_reserve(files.reserve, lambda: put_route_file(gateway, content))
    except GatewayError:
        if before not in (None, ready):
            write_document(files.ready, before)
        raise


def _publish_routes(
    shared: SharedGateways,
    traffic: Collection[Traffic],
    records: Sequence[Record] | None,
    new_keys: Mapping[str, str],
) -> None:
    """As `put_routes`, for several gateways."""

    def edited(before: Generation) -> Generation:
        kept = before.records if records is None else tuple(records)
        named = {record.sha256 for record in kept}
        plain = {digest: key for digest, key in {**before.plain, **new_keys}.items() if digest in named}
        return replace(before, traffic=tuple(traffic), records=kept, plain=plain)

    shared.publish("keys" if records is not None else "routes", edited)


def _put_tokens(gateway: Gateway, document: Json) -> None:
    """These budgets in tokens are in force; a new file fills all buckets, an equal one changes nothing."""
    version, admin = document["version_info"], gateway.admin

    def is_taken() -> bool:
        in_force = admin.routes_version(openai.TOKENS)
        return in_force in (version, None)  # None: an Envoy that an earlier tsctl started

    _put(gateway, gateway.files.tokens, document, is_taken, READ_S)


def put_route_file(gateway: Gateway, document: Json) -> None:
    """This route file is in force."""
    version = document["version_info"]
    _put(gateway, gateway.files.routes, document, lambda: gateway.admin.routes_version() == version, READ_S)


def put_clusters(gateway: Gateway, upstreams: Sequence[Upstream], traffic: Collection[Traffic]) -> None:
    """The clusters are those of these versions, and of the shadows in this traffic.

    Those that routes in force name must be among them. Envoy takes a changed cluster into use after its first health
    checks have ended, and sends requests to the old one until then. That is waited for, and not required: a version
    that hangs must not keep others from being changed.
    """
    if gateway.shared is not None:
        gateway.shared.publish_anew("versions", lambda before: replace(before, upstreams=tuple(upstreams)))
        return
    gateway.guard()  # once more, as in `put_routes`
    shadows = {(route.model, route.shadow.version) for route in traffic if route.shadow is not None}
    copies = shadow_requests(gateway.waiting_bytes, gateway.spec.request_bytes)
    document = clusters.clusters(upstreams, gateway.route_specs, shadows, copies)
    names = {cluster["name"] for cluster in document["resources"]}
    before = _cluster_updates(gateway)

    if _put(gateway, gateway.files.clusters, document, lambda: _cluster_updates(gateway) > before, READ_S):
        wait_until(lambda: gateway.admin.active_clusters() == names, WARM_S, POLL_S)


def _cluster_updates(gateway: Gateway) -> int:
    """The number of cluster files that Envoy has taken; 0 where it does not run."""
    return gateway.admin.counter("cluster_manager.cds.update_success") if gateway.admin.is_live() else 0


def _put(gateway: Gateway, path: Path, document: Json, is_taken: Callable[[], bool], timeout_s: float) -> bool:
    """Whether a running Envoy has taken the document; it is written in any case, and may have been there before."""
    before = read_document(path)
    if before == document:
        return False
    log = gateway.files.envoy_log
    offset, is_live = size(log), gateway.admin.is_live()
    write_document(path, document)
    if not is_live:
        return False

    def has_taken() -> bool:
        with suppress(Hangs):  # it answers nothing while it reads a large file
            return is_taken()
        return False

    wait_until(lambda: has_taken() or bool(_refusal(log, offset)), timeout_s, POLL_S)
    if has_taken():
        return True
    if before is not None:
        write_document(path, before)
    why = _refusal(log, offset) or f"Envoy did not take it within {timeout_s:g} s"
    raise GatewayError(
        f"the gateway refused the change, and what was in force stays: {why}",
        f"Its log is {gateway.project.relative(log)}.",
    )


def _refusal(log: Path, offset: int) -> str:
    """Envoy's reason for refusing a file since `offset` of its log; empty where it refused none."""
    return next((line.partition(_REFUSED)[2] for line in reversed(lines_from(log, offset)) if _REFUSED in line), "")

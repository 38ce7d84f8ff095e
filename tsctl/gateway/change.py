"""Every change of what the gateway does: written beside, renamed into place, and read back from Envoy before it counts.

One writer at a time. A change that Envoy refuses leaves what was in force, in the files as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tsctl.deployment import DeploymentSpec, GatewaySpec
from tsctl.errors import GatewayError, SpecError
from tsctl.gateway import discover, render
from tsctl.gateway.admin import Admin
from tsctl.gateway.files import make_folder, read_document, write_document
from tsctl.gateway.keys import Record, clients, plain_keys, read_keys, write_keys
from tsctl.gateway.render import Places, Upstream, cluster_name
from tsctl.gateway.traffic import Shadow, Traffic, only, percent
from tsctl.locks import exclusive
from tsctl.node.connection import Node
from tsctl.project import Project

#: Until when Envoy must have taken a file, and how often it is asked.
TAKEN_S = 5.0
POLL_S = 0.02
#: A new version's first health check must come back before traffic can be sent to it.
WARM_S = 30.0
LOCK_S = 10.0

_REFUSED = "config update rejected: "
UPDATES = "cluster_manager.cds.update_success"


@dataclass(frozen=True)
class Gateway:
    """The gateway of one project on this machine."""

    project: Project
    deployment: DeploymentSpec
    spec: GatewaySpec
    places: Places

    @property
    def admin(self) -> Admin:
        return Admin(self.places.admin)

    @property
    def keys_file(self) -> Path:
        return self.places.folder / "keys.json"

    @property
    def log(self) -> Path:
        """What Envoy itself says."""
        return self.places.folder / "logs" / "envoy.log"

    def nodes(self) -> list[Node]:
        return discover.open_nodes(self.project, self.deployment)


def open_gateway(project: Project, deployment: DeploymentSpec) -> Gateway:
    """The gateway; nothing is asked or started.

    Raises:
        SpecError: the deployment has none.
    """
    if deployment.gateway is None:
        raise SpecError(
            "deployment.yaml has no gateway", "Add 'gateway: {}' for one at http://127.0.0.1:8000; see docs/gateway.md."
        )
    return Gateway(project, deployment, deployment.gateway, Places(project.state / "gateway"))


# ---- reading -----------------------------------------------------------------------------------------------------


def traffic_in_force(gateway: Gateway) -> list[Traffic]:
    """What Envoy does now; where it does not run, what it will do when it starts."""
    if gateway.admin.is_live():
        served = gateway.admin.routes()
        return render.traffic_of(served) if served else []
    written = read_document(gateway.places.routes)
    return render.traffic_of(written["resources"][0]) if written else []


def upstreams_written(gateway: Gateway) -> list[Upstream]:
    """The clusters that the files name."""
    written = read_document(gateway.places.clusters)
    if written is None:
        return []
    names = [cluster["name"] for cluster in written["resources"]]
    files = {name: read_document(gateway.places.endpoints / f"{name}.json") for name in names}
    return discover.known_upstreams(written, {name: content for name, content in files.items() if content})


# ---- changing ----------------------------------------------------------------------------------------------------


@contextmanager
def changing(gateway: Gateway) -> Iterator[None]:
    """No other tsctl changes the gateway while the block runs.

    Raises:
        ConflictError: another one does, and does not end soon.
    """
    for folder in (
        gateway.project.state, gateway.places.folder, gateway.places.endpoints, gateway.places.access_log.parent,
    ):  # fmt: skip
        make_folder(folder)
    with exclusive(gateway.places.folder / "lock", "the gateway", LOCK_S):
        yield


def sync(gateway: Gateway) -> list[str]:
    """Envoy's clusters are the versions that the nodes serve now; what changed, for people.

    A model that is served and has no route yet gets one, all to its default version. Weights are not touched.
    """
    with changing(gateway):
        return _sync(gateway)


def _sync(gateway: Gateway) -> list[str]:
    nodes = gateway.nodes()
    seen = discover.look(nodes)
    before = upstreams_written(gateway)
    traffic = traffic_in_force(gateway)
    routed = [(one.model, version) for one in traffic for version in one.versions]
    found = discover.upstreams(gateway.project, nodes, seen, before, routed)
    traffic = _with_new_models(gateway, traffic, found)
    changes = _described(before, found)
    needed = {(one.model, version) for one in traffic for version in one.versions}
    _put_clusters(gateway, found, keep=[one for one in before if (one.model, one.version) in needed])
    _put_routes(gateway, traffic)
    _put_clusters(gateway, found)
    return changes


def set_weights(gateway: Gateway, model: str, weights: Mapping[str, int]) -> Traffic:
    """The model's route has these weights, in force when this returns.

    Raises:
        GatewayError: a version is not known or cannot answer, or Envoy refused the change.
        ConflictError: another tsctl changes the gateway.
    """

    def edit(before: Traffic) -> Traffic:
        return before.weighted(weights)

    return _change_route(gateway, model, edit, [version for version, weight in weights.items() if weight], weights)


def set_shadow(gateway: Gateway, model: str, version: str | None, share: int) -> Traffic:
    """Copies of this share of the model's requests go to the version; None: to none.

    Raises:
        GatewayError, ConflictError: as in set_weights.
    """

    def edit(before: Traffic) -> Traffic:
        shadow = Shadow(version, share) if version is not None and share else None
        return Traffic(before.model, before.weights, before.canary, shadow)

    named = [version] if version is not None and share else []
    return _change_route(gateway, model, edit, named, named)


def set_clients(gateway: Gateway, edit: Callable[[list[Record]], list[Record]], plain: Mapping[str, str]) -> None:
    """The keys are what `edit` makes of them, in force when this returns.

    Args:
        plain: new keys by their SHA-256.
    """
    with changing(gateway):
        records = edit(read_keys(gateway.keys_file))
        traffic = traffic_in_force(gateway)
        old = read_document(gateway.places.routes)
        known = {**plain_keys(old), **plain}
        _put_route_file(gateway, _routes(gateway, traffic, records, known))
        write_keys(gateway.keys_file, records)


def _change_route(
    gateway: Gateway,
    model: str,
    edit: Callable[[Traffic], Traffic],
    answering: Sequence[str],
    named: Sequence[str] | Mapping[str, int],
) -> Traffic:
    with changing(gateway):
        if not gateway.admin.is_live():
            raise GatewayError("the gateway does not run", "Start it with 'make up' or 'tsctl gateway start'.")
        traffic = {one.model: one for one in traffic_in_force(gateway)}
        known = {(one.model, one.version) for one in upstreams_written(gateway)}
        if model not in traffic or any((model, version) not in known for version in named):
            _sync(gateway)
            traffic = {one.model: one for one in traffic_in_force(gateway)}
            known = {(one.model, one.version) for one in upstreams_written(gateway)}
        if model not in traffic:
            raise GatewayError(f"no route for model {model!r}", f"There are {', '.join(traffic) or 'none'}.")
        for version in named:
            if (model, version) not in known:
                versions = ", ".join(v for m, v in sorted(known) if m == model)
                raise GatewayError(
                    f"no node serves {model} {version}; served are {versions}",
                    f"Register it first: tsctl models register {model}:{version}",
                )
        begin = [version for version in answering if not traffic[model].weights.get(version)]
        _require_ready(gateway, model, begin)
        _require_answering(gateway, model, answering)
        changed = edit(traffic[model])
        _put_routes(gateway, [changed if one.model == model else one for one in traffic.values()])
        return changed


def _require_ready(gateway: Gateway, model: str, versions: Sequence[str]) -> None:
    """Some node says that it has ready workers for each version that is to get its first traffic.

    Health checks tell it as well, but a few seconds late. Nodes that do not answer say nothing, and are not waited for
    where a version has traffic already: going back to it must be quick.
    """
    if not versions:
        return
    for version in versions:
        said = discover.ask(gateway.nodes(), model, version)
        if said and not any(state.is_ready for state in said.values()):
            raise GatewayError(
                f"{model} {version} is not ready on any node ({', '.join(said)}), so it cannot get traffic",
                f"See 'tsctl status'; 'tsctl models scale {model} {version} 1' starts a worker.",
            )


def _require_answering(gateway: Gateway, model: str, versions: Sequence[str]) -> None:
    end = time.monotonic() + TAKEN_S
    while True:
        hosts = gateway.admin.hosts()
        silent = [v for v in versions if not any(h.is_healthy for h in hosts.get(cluster_name(model, v), ()))]
        if not silent:
            return
        if time.monotonic() > end:
            raise GatewayError(
                f"{model} {', '.join(silent)} cannot answer on any node, so it cannot get traffic",
                "See 'tsctl status' and 'tsctl gateway status'.",
            )
        time.sleep(POLL_S)


def _with_new_models(gateway: Gateway, traffic: Sequence[Traffic], found: Sequence[Upstream]) -> list[Traffic]:
    """A route for each model of the deployment that some node serves in its default version."""
    routed = {one.model for one in traffic}
    served = {(one.model, one.version) for one in found if one.endpoints}
    new = [
        only(model, target.default)
        for model, target in gateway.deployment.models.items()
        if model not in routed and (model, target.default) in served
    ]
    return [*traffic, *new]


# ---- writing -----------------------------------------------------------------------------------------------------


def _routes(
    gateway: Gateway, traffic: Sequence[Traffic], records: Sequence[Record], plain: Mapping[str, str]
) -> render.Json:
    given = {model: target.route for model, target in gateway.deployment.models.items()}
    return render.routes(gateway.spec, given, traffic, clients(records, plain))


def _put_routes(gateway: Gateway, traffic: Sequence[Traffic]) -> None:
    old = read_document(gateway.places.routes)
    _put_route_file(gateway, _routes(gateway, traffic, read_keys(gateway.keys_file), plain_keys(old)))
    write_document(gateway.places.ready, render.ready(traffic))


def _put_clusters(gateway: Gateway, found: Sequence[Upstream], keep: Sequence[Upstream] = ()) -> None:
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


def _put(
    gateway: Gateway, path: Path, document: render.Json, is_taken: Callable[[], bool], taken_s: float = TAKEN_S
) -> None:
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


def _put_route_file(gateway: Gateway, document: render.Json) -> None:
    _put(
        gateway,
        gateway.places.routes,
        document,
        lambda: gateway.admin.routes_version() == document["version_info"],
    )


def refusal(log: Path, offset: int) -> str:
    """Envoy's reason for refusing a file since `offset` of its log; empty where it refused none."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(offset)
        lines = file.read().decode("utf-8", "replace").splitlines()
    return next((line.partition(_REFUSED)[2] for line in reversed(lines) if _REFUSED in line), "")


def _described(before: Sequence[Upstream], found: Sequence[Upstream]) -> list[str]:
    old = {(one.model, one.version): {e.node for e in one.endpoints} for one in before}
    new = {(one.model, one.version): {e.node for e in one.endpoints} for one in found}
    changes = []
    for model, version in sorted(old.keys() | new.keys()):
        came = new.get((model, version), set()) - old.get((model, version), set())
        left = old.get((model, version), set()) - new.get((model, version), set())
        changes += [f"{model} {version} is served by node {node}" for node in sorted(came)]
        changes += [f"{model} {version} is no longer served by node {node}" for node in sorted(left)]
    return changes


def weights_text(traffic: Traffic) -> str:
    """`1.0 95%, 2.0 5%`, the largest first."""
    ranked = sorted(traffic.weights.items(), key=lambda item: -item[1])
    return ", ".join(f"{version} {percent(weight)}" for version, weight in ranked)

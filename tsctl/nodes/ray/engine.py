"""The engine Ray: a node of it is a cluster, and each version an application of Ray Serve on it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import requests

from handlers.contract import CHECK_ANSWER, CHECK_HEADER
from tsctl.archive.container import digest_of
from tsctl.archive.inspect import facts_of
from tsctl.archive.store import StoredArchive, archive_of
from tsctl.config.deployment import RayReplicas, VersionTarget, read_deployment
from tsctl.config.nodes import BaseNodeSpec, RaySpec
from tsctl.config.project import Project
from tsctl.errors import NodeError, TsctlError
from tsctl.host.files import make_folder, write_document
from tsctl.host.progress import Note, Progress
from tsctl.nodes.managed import PROCESS_START_S, ManagedNode, VersionReport
from tsctl.nodes.node import Restored
from tsctl.nodes.observed import ObservedVersion, Reply, Settings, VersionKey
from tsctl.nodes.ray import cluster
from tsctl.nodes.ray.applications import Application, Config, route_of
from tsctl.nodes.ray.client import Deployed, ServeClient
from tsctl.nodes.ray.package import MOST_BYTES, package, package_name
from tsctl.nodes.session import Connection, require_running
from tsctl.nodes.whole import unfit_text

#: For an answer to a request of tsctl's.
ANSWER_TIMEOUT_S = 30.0
_APPLICATIONS = "applications.json"
#: How a replica's refusal to load stands in Ray's message of it.
_REFUSAL = re.compile(r"LoadError: (.+)")
RUNNING, DELETING, DEPLOY_FAILED, UNHEALTHY = "RUNNING", "DELETING", "DEPLOY_FAILED", "UNHEALTHY"


@dataclass(frozen=True)
class RayNode(ManagedNode):
    """A cluster, of which each machine takes requests."""

    is_cluster: ClassVar[bool] = True
    stop_grace_s: ClassVar[float] = 30.0  # of a cluster on this machine

    spec: RaySpec
    client: ServeClient

    # ---- the place ---------------------------------------------------------------------------------------------------

    @property
    def is_ours(self) -> bool:
        return self.spec.is_loopback and self.spec.key_file is None

    @property
    def addresses(self) -> Mapping[str, str]:
        return {"inference": self.spec.url, "management": self.spec.address}

    def path(self, model: str, version: str) -> str:
        return route_of(model, version)

    def url(self, model: str, version: str) -> str:
        return self._url(self.require_version(model, version))

    # ---- the process -------------------------------------------------------------------------------------------------

    def start(self, project: Project, progress: Progress) -> subprocess.Popen[bytes]:
        if not self.is_ours:
            raise NodeError(
                f"node {self.name} is a Ray cluster at {self.spec.address}, which tsctl does not start",
                "Start it with 'ray start --head' and 'ray start --address', KubeRay or 'ray up' (docs/ray.md). tsctl"
                " starts only a cluster of one machine, whose address is on loopback.",
            )
        return super().start(project, progress)

    def launch(self, project: Project) -> subprocess.Popen[bytes]:
        return cluster.launch(project, self.folder, self.spec, self.logs[0])

    def restore(self, project: Project, progress: Progress, superseded: frozenset[VersionKey]) -> Restored:
        there = {report.key for report in self.reports()}
        wanted = {
            (one.model, one.version): one
            for one in read_applications(self.folder)
            if (one.model, one.version) not in superseded | there
        }
        served: list[VersionKey] = []
        failed: list[tuple[VersionKey, str]] = []
        for key, application in wanted.items():
            try:
                with progress.step(f"restoring {' '.join(key)}") as step:
                    self._provide(archive_of(project.store / application.archive), application)
                    self._declare(lambda apps, one=application: {**apps, one.name: one.config()})
                    self._wait_ready(*key, step.note, None)
                    step.done(f"{application.workers} ready")
                served.append(key)
            except (TsctlError, OSError) as error:
                failed.append((key, str(error)))
        return Restored(tuple(served), tuple(failed))

    def forget_served(self) -> None:
        super().forget_served()
        (self.folder / _APPLICATIONS).unlink(missing_ok=True)

    def not_answering(self) -> str:
        try:
            self.client.instance()
        except NodeError as error:
            return error.message
        return ""

    # ---- what it serves ----------------------------------------------------------------------------------------------

    def reports(self) -> list[VersionReport]:
        instance = self.client.instance()
        return [_report(application, deployed, instance.addresses) for application, deployed in instance.ours]

    def report(self, model: str, version: str) -> VersionReport | None:
        return next((report for report in self.reports() if report.key == (model, version)), None)

    def describe(self, model: str, version: str | None) -> list[dict[str, Any]]:
        return [
            deployed.model_dump()
            for application, deployed in self.client.instance().ours
            if application.model == model and version in (None, application.version)
        ]

    def predict(self, model: str, version: str | None, body: bytes, media_type: str) -> Reply:
        version = version or self.require_default(model)
        headers = {"Content-Type": media_type, "Cache-Control": "no-store", CHECK_HEADER: CHECK_ANSWER}
        url = self.url(model, version) + self.path(model, version)
        answer: requests.Response = Connection().send("POST", url, headers, body, ANSWER_TIMEOUT_S)
        return Reply(answer.status_code, answer.content, answer.headers)

    def _url(self, observed: ObservedVersion) -> str:
        return observed.addresses[0] if observed.addresses else self.spec.url

    # ---- changes -----------------------------------------------------------------------------------------------------

    def cannot(self, archive: StoredArchive, version: str) -> str:
        facts = facts_of(archive.path)
        if facts.is_stock:
            return f"{archive.path.name} was not built by tsctl, so only TorchServe can serve it"
        if reason := unfit_text(facts, "Ray Serve"):
            return reason
        if (size := archive.path.stat().st_size) > MOST_BYTES:
            return f"it has {size >> 20} MiB, and Ray's dashboard takes {MOST_BYTES >> 20} MiB at most"
        return ""

    def settings(self, target: VersionTarget | None) -> Settings:
        return _settings(target.ray if target is not None else RayReplicas(), self.spec.python)

    def configure(self, model: str, version: str, note: Note) -> None:
        with self._locked(model):
            before = self._application(model, version)
            wanted = replace(before, replicas=self._replicas(model, version, before.workers), python=self.spec.python)
            try:
                self._redeclare(before, wanted)
                self._wait_deployed(wanted, note)
            except NodeError as error:
                if wanted == before:
                    raise
                note("putting the former settings back")
                self._redeclare(wanted, before)
                raise NodeError(f"{error.message}; its former settings were declared again", error.hint) from error

    def _redeclare(self, before: Application, after: Application) -> None:
        if before != after:
            self._edit(lambda one: after if one.name == after.name else one)

    def _wait_deployed(self, wanted: Application, note: Note) -> None:
        """Wait until every replica is of these settings: Ray replaces them, and counts those of before until then."""

        def is_deployed(observed: ObservedVersion) -> bool:
            note(f"{observed.ready} of {observed.workers} replicas run")
            if observed.failure:
                raise NodeError(f"{wanted.model} {wanted.version} on node {self.name}: {observed.failure}")
            deployed = self.client.instance().applications.get(wanted.name)
            return deployed is not None and deployed.status == RUNNING and observed.is_ready

        self._wait(wanted.model, wanted.version, is_deployed, wanted.startup_s + PROCESS_START_S, "be ready")

    def _application(self, model: str, version: str) -> Application:
        for application, _ in self.client.instance().ours:
            if (application.model, application.version) == (model, version):
                return application
        raise NodeError(f"{model} {version} is not registered on node {self.name}", "See 'tsctl models list'.")

    def ask_to_register(self, archive: StoredArchive, version: str, workers: int | None) -> None:
        facts = facts_of(archive.path)
        digest = digest_of(archive.path)
        batch_size = facts.batch_size
        workers = workers or max(1, facts.integer("minWorkers") or 1)
        application = Application(
            model=archive.model,
            version=version,
            archive=archive.path.name,
            digest=digest,
            package=package_name(digest),
            workers=workers,
            startup_s=facts.integer("startupTimeout") or 120,
            most_ongoing=(facts.integer("jobQueueSize") or 100) + batch_size,
            drain_s=float(facts.integer("responseTimeout") or 60),
            replicas=self._replicas(archive.model, version, workers),
            python=self.spec.python,
            is_default=not any(report.key[0] == archive.model for report in self.reports()),
        )
        self._provide(archive, application)
        self._declare(lambda apps: {**apps, application.name: application.config()})

    def ask_to_scale(self, model: str, version: str, workers: int) -> None:
        if workers == 0:
            raise NodeError(
                f"{model} {version} cannot have 0 workers: Ray keeps a replica of each application",
                f"Unregister it: tsctl models unregister {model} {version}",
            )

        def scaled(one: Application) -> Application:
            if (one.model, one.version) != (model, version):
                return one
            return replace(one, workers=workers, replicas=self._replicas(model, version, workers))

        self._edit(scaled)

    def ask_to_unregister(self, model: str, version: str) -> None:
        others = [report for report in self.reports() if report.key[0] == model and report.key[1] != version]
        own = self.report(model, version)
        if own is not None and own.is_default and any(report.is_registered for report in others):
            raise NodeError(f"{model} {version} is the default of node {self.name} while there are others")
        self._declare(
            lambda apps: {
                name: config for name, config in apps.items() if not _is_of(config, model, version)
            }
        )  # fmt: skip

    def ask_for_default(self, model: str, version: str) -> None:
        report = self.report(model, version)
        if report is None or not report.observed.ready:
            raise NodeError(f"{model} {version} has no worker that is ready, so it cannot become the default")
        self._edit(lambda one: one.as_default(one.version == version) if one.model == model else one)

    def _edit(self, edit: Any) -> None:
        """Declare each application of tsctl's as `edit` makes it."""

        def edited(apps: dict[str, Config]) -> dict[str, Config]:
            ours = {name: Application.of_config(config) for name, config in apps.items()}
            return {name: edit(one).config() if (one := ours[name]) else apps[name] for name in apps}

        self._declare(edited)

    def _declare(self, change: Any) -> None:
        declared = self.client.change(change)
        ours = [config for config in declared.values() if Application.of_config(config) is not None]
        make_folder(self.folder)
        write_document(self.folder / _APPLICATIONS, {"applications": ours})

    def _provide(self, archive: StoredArchive, application: Application) -> None:
        """Give the cluster the archive, unless it has it."""
        if not self.client.has_package(application.package):
            self.client.put_package(application.package, package(archive.path))
            self.client.has_package(application.package)  # keeps it until the application uses it

    def _replicas(self, model: str, version: str, workers: int) -> RayReplicas:
        """What deployment.yaml says of the version's replicas; raises NodeError where it allows less than `workers`."""
        project = Project(self.folder.parents[2])  # its folder is .tsctl/nodes/NAME
        if not project.deployment.is_file():
            return RayReplicas()
        target = read_deployment(project.deployment).models.get(model)
        named = target.versions.get(version) if target is not None else None
        replicas = named.ray if named is not None else RayReplicas()
        if replicas.max_replicas is not None and replicas.max_replicas < workers:
            raise NodeError(
                f"{model} {version} cannot have {workers} workers: deployment.yaml says max_replicas"
                f" {replicas.max_replicas}",
                "Give the version fewer `workers`, or a larger `ray.max_replicas`.",
            )
        return replicas


def _is_of(config: Config, model: str, version: str) -> bool:
    application = Application.of_config(config)
    return application is not None and (application.model, application.version) == (model, version)


def _report(application: Application, deployed: Deployed, addresses: tuple[str, ...]) -> VersionReport:
    deployment = next(iter(deployed.deployments.values()), None)
    running = [one for one in (deployment.replicas if deployment else []) if one.state == RUNNING]
    message = "\n".join(filter(None, (deployed.message, deployment.message if deployment else "")))
    is_failed = deployed.status == DEPLOY_FAILED
    observed = ObservedVersion(
        application.archive,
        application.workers,
        len(running),
        tuple(one.pid for one in running if one.pid is not None),
        failure=_reason(message) if is_failed and running else "",
        ids=tuple(one.replica_id for one in running),
        startup_s=application.startup_s,
        addresses=addresses,
        settings=_settings(application.replicas, application.python),
    )
    return VersionReport(
        (application.model, application.version),
        observed,
        application.is_default,
        _reason(message) if is_failed and not running else "",
        deployed.status == DELETING,
    )


def _settings(replicas: RayReplicas, python: str | None) -> Settings:
    return {**replicas.model_dump(), "python": python}


def _reason(message: str) -> str:
    """Why a replica refused to load, else the last line of what Ray says."""
    if found := _REFUSAL.findall(message):
        return str(found[-1]).strip()
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "Ray does not say why"


def read_applications(folder: Path) -> list[Application]:
    """The versions that were last declared by this machine; none where it declared none.

    Raises:
        NodeError: the file is damaged.
    """
    path = folder / _APPLICATIONS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = [Application.of_config(config) for config in content["applications"]]
        return [one for one in found if one is not None]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise NodeError(f"{path} is damaged: {error}", f"Remove it to start the node empty: rm {path}") from error


def open_node(project: Project, name: str, spec: BaseNodeSpec, read_timeout_s: float) -> RayNode:
    """The node with its client; nothing is sent yet."""
    if not isinstance(spec, RaySpec):
        raise TypeError(f"node {name} is of engine {spec.engine}. This is a bug.")
    folder = project.state / "nodes" / name
    client = ServeClient(
        spec.address,
        # on a cluster of other machines, the gateway comes from outside
        {"host": spec.host if spec.is_loopback else "0.0.0.0", "port": spec.port_of_proxies},  # noqa: S104
        folder / "locks" / ".applications.lock",
        project.root / spec.key_file if spec.key_file else None,
        read_timeout_s,
        partial(require_running, name, folder, spec),
    )
    return RayNode(name, spec, folder, client)


def served_at_start(folder: Path) -> Iterator[str]:
    """File names of the archives that a node with this folder serves again when it starts."""
    yield from (application.archive for application in read_applications(folder))

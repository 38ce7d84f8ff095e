"""The versions of a node: registered, scaled, unregistered and restored, each a pool of workers of its own.

Invariants: a change is in the file before it is acknowledged, so a node that is killed serves the same afterwards. A
version that is unregistered answers the requests that it has. A version that must not serve has no workers, and its
reason is kept until it is registered again or unregistered; it stays in the file, so the next start tries it again.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from handlers.adapters.asgi.app import Server
from handlers.adapters.asgi.exchange import Route
from handlers.adapters.asgi.node.fetched import FETCH_S, Fetch
from handlers.adapters.asgi.node.output import Output
from handlers.adapters.asgi.node.served import Entry, read_served, write_served
from handlers.adapters.asgi.node.unpacked import remove_others, unpack
from handlers.adapters.asgi.openai_api import Models
from handlers.adapters.asgi.options import open_pool, pool_options
from handlers.adapters.asgi.routes import build_routes
from handlers.adapters.asgi.serving import Serving
from handlers.adapters.asgi.workers import PoolOptions
from handlers.errors import LoadError
from handlers.unpacked import read_documents

logger = logging.getLogger(__name__)

Key = tuple[str, str]  # model and version


class State(StrEnum):
    """How far a version is."""

    STARTING = "starting"  # until a worker was ready
    SERVING = "serving"
    REFUSED = "refused"  # it must not serve
    ENDING = "ending"


class Conflict(Exception):
    """The change does not fit what is registered."""


class Unknown(Exception):
    """No such version is registered."""


class Unwritten(Exception):
    """The list of what the node serves cannot be written, as on a disk that is full."""


@dataclass(frozen=True)
class Unpacked:
    """A version whose archive is unpacked, and whose workers are to be started."""

    manifest: dict[str, Any]  # its section `model`
    content: dict[str, Any]  # of model-config.yaml
    options: PoolOptions
    refused: Callable[[str], None]  # called where no worker could load, with the reason


@dataclass(frozen=True)
class Opened:
    """What answers a version's requests, and where."""

    serving: Serving
    server: Server | None = None  # at the node's own paths
    address: str = ""  # elsewhere


def open_workers(unpacked: Unpacked) -> Opened:
    """Our own workers, asked by this process."""
    workers = open_pool(unpacked.options, unpacked.refused)
    request_bytes = unpacked.content["serving"]["limits"]["request_bytes"]
    return Opened(workers, Server(workers, request_bytes, build_routes(workers, request_bytes)))


@dataclass(eq=False)
class Version:
    """One registered version."""

    entry: Entry
    state: State = State.STARTING
    reason: str = ""  # why it is refused
    is_fetched: bool = False  # its archive is being pulled into the store
    pool: Serving | None = None
    server: Server | None = None  # answers its paths; None until it is unpacked, and where it answers elsewhere
    address: str = ""  # where it answers, if not at the node's own address
    request_bytes: int = 0  # of its longest request
    output: Output | None = None
    task: asyncio.Task[None] | None = None

    @property
    def failure(self) -> str:
        """Why it does not have the workers that it should have; empty where that is not known, or it has them."""
        return self.reason or (self.pool.failure if self.pool is not None else "")

    def describe(self) -> dict[str, Any]:
        """The version for the admin API."""
        pids = self.pool.ready_pids if self.pool is not None else {}
        return {
            "model": self.entry.model,
            "version": self.entry.version,
            "archive": self.entry.archive,
            "digest": self.entry.digest,
            "state": self.state,
            "failure": self.failure,
            "is_default": self.entry.is_default,
            "workers": self.entry.workers,
            "ready": [{"id": str(number), "pid": pid} for number, pid in sorted(pids.items())],
            "waiting": self.pool.waiting if self.pool is not None else 0,
            "startup_s": self.pool.options.startup_s if self.pool is not None else FETCH_S if self.is_fetched else 0,
            "facts": self.pool.facts if self.pool is not None else {},
            "address": self.address,
        }


@dataclass
class Registry:
    """The versions of one node.

    Args:
        folder: of the node; the list of what it serves and the unpacked archives lie in it.
        store: the folder with the archives.
        opener: makes what answers a version's requests; raises LoadError where nothing can.
        fetch: has an archive in the store that is not there, or raises LoadError; None: nothing does.
    """

    folder: Path
    store: Path
    opener: Callable[[Unpacked], Opened] = open_workers
    fetch: Fetch | None = None
    versions: dict[Key, Version] = field(default_factory=dict)
    servers: dict[str, Server] = field(default_factory=dict)  # by the path of a request for a prediction
    models: Models = field(default_factory=dict)  # by the name that a request of the OpenAI API has for them
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    _disk: asyncio.Lock = field(default_factory=asyncio.Lock)  # held while archives are unpacked or removed

    async def restore(self) -> None:
        """Serve what the file says, and remove archives that nothing needs.

        Raises:
            ValueError: the file is damaged.
        """
        self._archives.mkdir(mode=0o700, exist_ok=True)
        entries = read_served(self._file)
        remove_others(self._archives, {entry.digest for entry in entries})
        for entry in entries:
            self._begin(entry)

    async def stop(self) -> None:
        """End all workers; the requests at hand are answered first, but streams, which had their time."""
        for version in self.versions.values():
            version.state = State.ENDING
        await asyncio.gather(*(_end(version, _drain_s(version)) for version in self.versions.values()))

    def get(self, model: str, version: str) -> Version:
        """The version; raises Unknown where it is not registered."""
        try:
            return self.versions[model, version]
        except KeyError:
            raise Unknown(f"{model} {version} is not registered") from None

    @property
    def registered(self) -> list[Version]:
        """Every version that serves or will, by model and version."""
        states = (State.STARTING, State.SERVING)
        return [version for _, version in sorted(self.versions.items()) if version.state in states]

    def default(self, model: str) -> Version | None:
        """The version that answers callers of the model who name none."""
        return next((v for v in self.versions.values() if v.entry.model == model and v.entry.is_default), None)

    async def register(self, entry: Entry) -> None:
        """Begin to serve a version; the first one of its model is the default.

        Raises:
            Conflict: it is registered.
            Unwritten: the list cannot be written, and nothing is registered.
        """
        key = entry.model, entry.version
        before = self.versions.get(key)
        if before is not None and before.state is not State.REFUSED:
            raise Conflict(f"{entry.model} {entry.version} is registered already")
        default = self.default(entry.model)
        entry = replace(entry, is_default=default is None or default is before)
        self._write({key: entry})
        self._begin(entry)

    async def scale(self, model: str, version: str, workers: int) -> None:
        """Have this many workers; they start and end afterwards.

        Raises:
            Unknown: it is not registered.
            Conflict: it is not unpacked yet, or must not serve.
            Unwritten: the list cannot be written, and nothing changes.
        """
        target = self.get(model, version)
        if target.pool is None or target.state not in (State.STARTING, State.SERVING):
            raise Conflict(f"{model} {version} is {target.state}, so it cannot be scaled")
        entry = replace(target.entry, workers=workers)
        self._write({(model, version): entry})
        target.entry = entry
        await target.pool.scale(workers)

    async def set_default(self, model: str, version: str) -> None:
        """Let the version answer callers who name none.

        Raises:
            Unknown: it is not registered.
            Conflict: it has no worker that is ready.
            Unwritten: the list cannot be written, and nothing changes.
        """
        target = self.get(model, version)
        if target.pool is None or not target.pool.ready_workers:
            raise Conflict(f"{model} {version} has no worker that is ready, so it cannot become the default")
        same = [other for other in self.versions.values() if other.entry.model == model]
        changed = {_key(other): replace(other.entry, is_default=other is target) for other in same}
        self._write(changed)
        for other in same:
            other.entry = changed[_key(other)]
        self._route()

    async def unregister(self, model: str, version: str) -> None:
        """Take the version off; it answers the requests that it has, and its workers end.

        Raises:
            Unknown: it is not registered.
            Conflict: it is the default while others exist.
            Unwritten: the list cannot be written, and nothing changes.
        """
        target = self.get(model, version)
        if target.state is State.ENDING:
            return
        others = [v for v in self.versions.values() if v.entry.model == model and v is not target]
        if target.entry.is_default and any(other.state is not State.REFUSED for other in others):
            raise Conflict(f"{model} {version} is the default while there are others")
        self._write({(model, version): None})
        target.state = State.ENDING
        self._route()
        self._keep(self._remove(target))

    # ---- one version -------------------------------------------------------------------------------------------------

    def _begin(self, entry: Entry) -> None:
        version = self.versions[entry.model, entry.version] = Version(entry, is_fetched=self._is_to_fetch(entry))
        version.task = self._keep(self._start(version))

    async def _start(self, version: Version) -> None:
        entry = version.entry
        try:
            if version.is_fetched and self.fetch is not None:
                await self.fetch(entry)
            version.is_fetched = False
            async with self._disk:
                place = await asyncio.to_thread(unpack, self.store / entry.archive, entry.digest, self._archives)
            manifest, content = _read(place, entry)
            version.output = Output(f"{entry.model} {entry.version}")
            await version.output.open()
            options = pool_options(
                manifest, content, entry.workers, self.folder / "metrics", place, entry.version,
                version.output.descriptor,
            )  # fmt: skip
            opened = self.opener(Unpacked(manifest, content, options, self._refusing(version)))
            version.pool, version.server, version.address = opened.serving, opened.server, opened.address
            version.entry = replace(version.entry, workers=version.pool.options.workers)
            version.request_bytes = content["serving"]["limits"]["request_bytes"]
            self._route()
            await version.pool.start()
            if version.pool.options.workers:
                await version.pool.ready.wait()
            if version.state is State.STARTING:
                version.state = State.SERVING
                logger.info("%s %s serves: %s", entry.model, entry.version, version.pool.facts)
        except (LoadError, OSError) as error:
            await self._refuse(version, str(error))
        except Exception as error:  # of whatever kind it is, nothing of this version goes on
            logger.exception("%s %s cannot be started", entry.model, entry.version)
            await self._refuse(version, f"{type(error).__name__}: {error}")

    def _is_to_fetch(self, entry: Entry) -> bool:
        is_here = (self._archives / entry.digest).is_dir() or (self.store / entry.archive).is_file()
        return self.fetch is not None and not is_here

    def _refusing(self, version: Version) -> Callable[[str], None]:
        def refused(reason: str) -> None:
            if version.task is not None:
                version.task.cancel()  # it waits for a worker
            self._keep(self._refuse(version, reason))

        return refused

    async def _refuse(self, version: Version, reason: str) -> None:
        if version.state is State.ENDING:
            return
        logger.warning("%s %s must not serve: %s", version.entry.model, version.entry.version, reason)
        version.state, version.reason = State.REFUSED, reason
        self._route()
        await _end(version)

    async def _remove(self, version: Version) -> None:
        if version.task is not None:
            version.task.cancel()
        await _end(version)
        if self.versions.get(_key(version)) is version:
            del self.versions[_key(version)]
        async with self._disk:
            kept = {other.entry.digest for other in self.versions.values()}
            await asyncio.to_thread(remove_others, self._archives, kept)

    # ---- what is derived from the versions ---------------------------------------------------------------------------

    def _route(self) -> None:
        servers: dict[str, Server] = {}
        models: dict[str, Route] = {}
        for (model, name), version in self.versions.items():
            if version.server is None or version.state in (State.REFUSED, State.ENDING):
                continue
            models[f"{model}:{name}"] = Route(version.server.workers, "", version.request_bytes)
            paths = [f"/predictions/{model}/{name}", f"/v2/models/{model}/versions/{name}/infer"]
            if version.entry.is_default:
                paths += [f"/predictions/{model}", f"/v2/models/{model}/infer"]
                models[model] = models[f"{model}:{name}"]
            servers |= dict.fromkeys(paths, version.server)
        self.servers, self.models = servers, models

    def _write(self, changed: Mapping[Key, Entry | None]) -> None:
        """Write the list with these changes.

        Raises:
            Unwritten: it cannot be written.
        """
        entries = {key: version.entry for key, version in self.versions.items() if version.state is not State.ENDING}
        after = {**entries, **changed}
        try:
            write_served(self._file, [entry for _, entry in sorted(after.items()) if entry is not None])
        except OSError as error:
            raise Unwritten(f"the list of what the node serves cannot be written: {error.strerror}") from error

    @property
    def _file(self) -> Path:
        return self.folder / "served.json"

    @property
    def _archives(self) -> Path:
        return self.folder / "archives"

    def _keep(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("This is a bug.", exc_info=error)


async def _end(version: Version, drain_s: float = math.inf) -> None:
    if version.pool is not None:
        await version.pool.stop(drain_s)
    if version.output is not None:
        version.output.close()


def _drain_s(version: Version) -> float:
    """Seconds for requests at hand when the node ends, and its connections have closed."""
    return 0 if version.server is not None and version.server.workers.options.places is not None else math.inf


def _key(version: Version) -> Key:
    return version.entry.model, version.entry.version


def _read(place: Path, entry: Entry) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest's section `model`, and the content of model-config.yaml.

    Raises:
        LoadError: the archive was not built by tsctl, or is of another model.
    """
    try:
        manifest, content = read_documents(place)
        model, _ = manifest["modelName"], content["serving"]["limits"]["request_bytes"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise LoadError(f"{entry.archive} was not built by tsctl, so only TorchServe can serve it") from error
    if model != entry.model:
        raise LoadError(f"{entry.archive} holds {model}, and not {entry.model}")
    return manifest, content

"""Writes the build contexts of a selection into a folder: whole, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from tsctl.archive.remote_store import open_store
from tsctl.errors import SpecError
from tsctl.host.progress import Note, Progress
from tsctl.monitoring.alerts import GATEWAY_JOB
from tsctl.monitoring.configuration import alertmanager_document, prometheus_document, rules_document
from tsctl.nodes.exported import new_folder
from tsctl.render.image.bom import bill_of_materials
from tsctl.render.image.compose import GATEWAY_CHECK, NODE_CHECK, compose_document
from tsctl.render.image.containerfile import ImageFile, containerfile
from tsctl.render.image.deployments import (
    GATEWAY,
    gateway_deployment,
    gateway_document,
    node_document,
)
from tsctl.render.image.lock import (
    Package,
    Wanted,
    file_system,
    read_lock,
    require_gpu_build,
    require_packages_of_models,
    resolve,
    wanted_by_gateway,
    wanted_by_node,
)
from tsctl.render.image.notices import notices
from tsctl.render.image.places import GATEWAY_IMAGE, METRICS_PORT, image_of, service
from tsctl.render.image.selection import Packed, Selection
from tsctl.render.image.wheel import write_wheel

_HEADING = "# Rendered by 'tsctl render image'; an edit here is lost.\n"
#: Never sent to a builder: what an image must not hold.
_IGNORED = ("secrets", "compose.yaml", "nodes", "monitoring", "**/sbom.cdx.json")
_REFERENCE = re.compile(r"^[a-z0-9][A-Za-z0-9._/:-]*(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$")


#: Which packages are installed, by what is wanted.
Resolver = Callable[[Wanted, Note], list[Package]]


@dataclass(frozen=True)
class Options:
    """What the command was asked for, besides the models."""

    base: str | None = None  # the base image; None: of this Python's version
    gpu: bool = False
    requirements: Path | None = None  # a lock for the nodes' images; None: pip resolves
    pull: bool = False  # the builds pull the archives from the deployment's store


@dataclass(frozen=True)
class RenderedImage:
    """One image."""

    name: str
    tag: str
    folder: str  # in the context
    packages: int


@dataclass(frozen=True)
class Rendered:
    """What was written."""

    images: tuple[RenderedImage, ...]
    archives: tuple[Packed, ...]
    secrets: tuple[str, ...]  # files that a person must put into the folder `secrets`
    warnings: tuple[str, ...]


def render(
    selection: Selection, target: Path, options: Options, progress: Progress, resolver: Resolver = resolve
) -> Rendered:
    """Write the contexts to `target`, which must be missing or empty.

    Args:
        resolver: which packages are installed for what is wanted.

    Raises:
        SpecError: the folder is not empty, the base image has no usable name, or packages cannot be resolved.
        ArchiveError: an archive cannot be read, or requires other packages than the image has.
        OSError: the folder cannot be written.
    """
    base = base_image(options.base)
    if options.pull:
        _require_pushed(selection)
    if target.is_dir() and not target.is_symlink():
        if any(target.iterdir()):
            raise SpecError(f"{target} is not empty", "Give a new folder; nothing is overwritten.")
        if target.resolve() == Path.cwd():
            raise SpecError(f"{target} is the folder you are in, and would be replaced", "Give a new folder.")
        target.rmdir()
    with new_folder(target) as folder:
        return _Writing(selection, folder, base, options, progress, resolver).write()


def _require_pushed(selection: Selection) -> None:
    """Check that the store has the archives.

    Raises:
        SpecError: there is no store, or it is a folder.
        ArchiveError: it has no such archive, or other bytes, or cannot be asked.
    """
    spec = selection.deployment.store
    if spec is None:
        raise SpecError("--pull: deployment.yaml names no store", "Add `store: ADDRESS`; see docs/store.md.")
    file_system(spec.address)
    store = open_store(selection.project, spec)
    for packed in selection.archives:
        store.require(packed.archive.model, packed.archive.version, packed.digest)


def base_image(named: str | None) -> str:
    """The base image; raises SpecError where its name has neither a tag nor a digest, or is `latest`."""
    name = named or f"docker.io/library/python:{sys.version_info.major}.{sys.version_info.minor}-slim-bookworm"
    last = name.rpartition("/")[2].partition("@")[0]
    if not _REFERENCE.match(name) or ("@" not in name and last.partition(":")[2] in ("", "latest")):
        raise SpecError(
            f"--base {name!r} is no image with a tag or a digest, or it is `latest`, which changes",
            "Write NAME:TAG@sha256:DIGEST, such as the one that 'docker buildx imagetools inspect' prints.",
        )
    return name


class _Writing:
    """One rendering, with the folder that is being made."""

    def __init__(
        self,
        selection: Selection,
        folder: Path,
        base: str,
        options: Options,
        progress: Progress,
        resolver: Resolver,
    ) -> None:
        self.resolve = resolver
        self.selection, self.folder, self.base = selection, folder, base
        self.options, self.progress = options, progress
        self.warnings: list[str] = notices(selection, base)
        self._copies: dict[str, Path] = {}
        self.wanted: dict[str, Wanted] = {}  # by engine
        store = selection.deployment.store
        self.store = store.address if options.pull and store is not None else None

    def write(self) -> Rendered:
        selection = self.selection
        (self.folder / "wheels").mkdir()
        self.wheel, self.wheel_sha256 = write_wheel(self.folder / "wheels")
        self._text("state/.keep", "")
        images = [self._node_image(engine) for engine in selection.engines]
        images.append(self._gateway_image())
        for name in selection.nodes:
            self._yaml(f"nodes/{name}.yaml", node_document(selection, name, self.options.pull))
        self._monitoring()
        tags = {image.name: image.tag for image in images}
        compose = compose_document(selection, tags, self.options.gpu)
        self._yaml("compose.yaml", compose)
        ignored = "".join(f"{line}\n" for line in _IGNORED)
        for name in (".dockerignore", ".containerignore"):
            self._text(name, ignored)
        secrets = tuple(compose.get("secrets", ()))
        if secrets:
            (self.folder / "secrets").mkdir(mode=0o700)
        return Rendered(tuple(images), selection.archives, secrets, tuple(dict.fromkeys(self.warnings)))

    def _node_image(self, engine: str) -> RenderedImage:
        archives = self.selection.archives_of(engine)
        with self.progress.step(f"packages of {image_of(engine)}") as step:
            self.wanted[engine] = wanted = wanted_by_node(self.wheel, engine, archives, self.store)
            if self.options.requirements is not None:
                packages = read_lock(self.options.requirements)
            else:
                packages = self.resolve(wanted, step.note)
            step.done(f"{len(packages)} packages")
        self.warnings += wanted.missing
        if self.options.gpu:
            require_gpu_build(packages)
        require_packages_of_models(archives, packages)
        first = next(name for name, spec in self.selection.nodes.items() if spec.engine == engine)
        ports = sorted(
            {port for spec in self.selection.nodes.values() if spec.engine == engine for port in spec.listens_on}
        )
        return self._image(
            engine, image_of(engine), packages, archives, [*ports, METRICS_PORT], NODE_CHECK,
            node_document(self.selection, first, self.options.pull), self.options.gpu,
        )  # fmt: skip

    def _gateway_image(self) -> RenderedImage:
        with self.progress.step(f"packages of {GATEWAY_IMAGE}") as step:
            packages = self.resolve(wanted_by_gateway(self.wheel, self.wanted), step.note)
            step.done(f"{len(packages)} packages")
        deployment = gateway_deployment(self.selection)
        places = deployment.gateway.listens_on_all.values() if deployment.gateway is not None else ()
        ports = sorted(port for _, port in places)
        return self._image(
            "gateway", GATEWAY_IMAGE, packages, self.selection.archives, [*ports, METRICS_PORT], GATEWAY_CHECK,
            gateway_document(self.selection), gpu=False,
        )  # fmt: skip

    def _image(
        self,
        folder: str,
        name: str,
        packages: Sequence[Package],
        archives: Sequence[Packed],
        ports: Sequence[int],
        check: Sequence[str],
        deployment: Mapping[str, object],
        gpu: bool,
    ) -> RenderedImage:
        self._archives(folder, archives)
        lock = "".join(f"{package.line}\n" for package in packages)
        lock += f"./{self.wheel.name} --hash=sha256:{self.wheel_sha256}\n"
        labels = {
            "org.opencontainers.image.title": name,
            "org.opencontainers.image.base.name": self.base,
            **{
                f"tsctl.archive.{packed.archive.model}.{packed.archive.version}": f"sha256:{packed.digest}"
                for packed in archives
            },
        }
        has_packages = any(packed.facts.serving.requirements for packed in archives)
        named = [f"{one.archive.model}:{one.archive.version}@{one.digest}" for one in archives]
        pulls = named if self.options.pull else []
        text = containerfile(
            ImageFile(name, self.base, folder, labels, ports, check, self.wheel.name, has_packages, gpu, pulls)
        )
        self._text(f"{folder}/requirements.txt", _HEADING + lock)
        self._text(f"{folder}/Containerfile", text)
        self._yaml(f"{folder}/deployment.yaml", deployment)
        bill = bill_of_materials(name, self.base, self.wheel_sha256, packages, archives)
        self._text(f"{folder}/sbom.cdx.json", bill)
        content = "\n".join([lock, text, *(packed.digest for packed in archives)])
        tag = hashlib.sha256(content.encode()).hexdigest()[:12]
        return RenderedImage(name, tag, folder, len(packages) + 1)

    def _archives(self, folder: str, archives: Sequence[Packed]) -> None:
        """The archives, their digests, and what is kept beside stock ones."""
        store = self.folder / folder / "archives" / "store"
        store.mkdir(parents=True)
        for packed in archives if not self.options.pull else ():
            self._put(packed, store / packed.archive.path.name)
            kept = self.selection.project.archives / packed.archive.model
            beside = self.folder / folder / "archives" / packed.archive.model
            if packed.is_stock and kept.is_dir() and not beside.exists():
                shutil.copytree(kept, beside, ignore=shutil.ignore_patterns(".built", "__pycache__"))
        sums = "".join(f"{packed.digest}  archives/store/{packed.archive.path.name}\n" for packed in archives)
        self._text(f"{folder}/archives/store/SHA256SUMS", sums)

    def _put(self, packed: Packed, target: Path) -> None:
        """A copy of the archive; in another image's folder, a second name of that copy."""
        first = self._copies.setdefault(packed.digest, target)
        if first == target:
            shutil.copyfile(packed.archive.path, target)
        else:
            os.link(first, target)

    def _monitoring(self) -> None:
        deployment = gateway_deployment(self.selection)
        document = prometheus_document(deployment, [service(name) for name in self.selection.nodes])
        for job in document["scrape_configs"]:
            if job["job_name"] == GATEWAY_JOB and deployment.gateway is not None:
                port = urlsplit(deployment.gateway.metrics).port
                job["static_configs"] = [{"targets": [f"{GATEWAY}:{port}"]}]  # it listens on an address, not on a name
        self._yaml("monitoring/prometheus.yml", document)
        self._yaml("monitoring/rules.yml", rules_document(deployment))
        self._yaml("monitoring/alertmanager.yml", alertmanager_document(self.selection.deployment.monitoring))

    def _text(self, name: str, content: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")

    def _yaml(self, name: str, document: object) -> None:
        plain = json.loads(json.dumps(document))  # what stands twice is written twice, without YAML's references
        text = yaml.safe_dump(plain, sort_keys=False, width=120, allow_unicode=True)
        self._text(name, _HEADING + text)

"""Which versions an image holds, which nodes serve them, and by which engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from tsctl.archive.build import sound_archive_folders
from tsctl.archive.container import digest_of, open_archive
from tsctl.archive.inspect import Facts, read_facts
from tsctl.archive.store import StoredArchive, find_archive, list_archives, require_whole
from tsctl.archive.trust import stated_trust
from tsctl.config.deployment import DeploymentSpec, ModelTarget, VersionTarget, read_deployment
from tsctl.config.nodes import NodeSpec, TorchServeSpec, UvicornSpec
from tsctl.config.project import Project
from tsctl.config.secrets import SecretSource
from tsctl.errors import ArchiveError, NodeError, SpecError
from tsctl.nodes.engines import open_node
from tsctl.render.image.places import secret_file

#: Engines that an image of ours can run, and the extra of tsctl that brings each.
ENGINES = {"uvicorn": "uvicorn", "torchserve": "serve"}
#: The node of a project without deployment.yaml.
ALONE, ALONE_PORT = "main", 8100


@dataclass(frozen=True)
class Packed:
    """One archive of an image."""

    archive: StoredArchive
    digest: str  # all of its SHA-256, in hex
    facts: Facts
    is_stock: bool


@dataclass(frozen=True)
class Selection:
    """What the images hold."""

    project: Project
    deployment: DeploymentSpec  # of the team, or made up where it has none
    models: Mapping[str, ModelTarget]  # with digests, trust, and secrets from files of the container
    archives: tuple[Packed, ...]  # each once, by model and version
    nodes: Mapping[str, NodeSpec]  # with the chosen engine; each serves at least one version
    idle: tuple[str, ...]  # nodes of the deployment that serve none of the versions

    @property
    def engines(self) -> list[str]:
        return list(dict.fromkeys(spec.engine for spec in self.nodes.values()))

    def of_node(self, node: str) -> dict[str, ModelTarget]:
        """The models of which the node serves versions, with these versions alone."""
        found: dict[str, ModelTarget] = {}
        for model, target in self.models.items():
            versions = {name: spec for name, spec in target.versions.items() if target.is_on(name, node)}
            if versions:
                default = target.default if target.default in versions else next(iter(versions))
                found[model] = target.model_copy(update={"versions": versions, "default": default, "weights": None})
        return found

    def archives_of(self, engine: str) -> list[Packed]:
        """The archives that nodes of the engine serve."""
        wanted = {
            (model, target.archive(version))
            for name, spec in self.nodes.items()
            if spec.engine == engine
            for model, target in self.of_node(name).items()
            for version in target.versions
        }
        return [packed for packed in self.archives if packed.archive.key in wanted]

    def secrets_of(self, node: str) -> list[tuple[str, str]]:
        """Model and name of each secret that workers of the node need."""
        return [(model, name) for model, target in self.of_node(node).items() for name in target.secrets]


def select(project: Project, names: Sequence[str], engine: str | None) -> Selection:
    """What MODEL[:VERSION]... selects; MODEL alone is every version that deployment.yaml names, or the stored ones.

    Args:
        names: none: everything in deployment.yaml.
        engine: of every node; None: as deployment.yaml says, and uvicorn where there is none.

    Raises:
        SpecError: a model or version is unknown, or a node's engine has no image.
        ArchiveError: an archive is not in the store, is damaged, or is not the one that deployment.yaml pins.
        NodeError: a node's engine cannot serve an archive.
    """
    if engine is not None and engine not in ENGINES:
        raise SpecError(f"there is no image for engine {engine!r}", f"Engines with an image: {', '.join(ENGINES)}.")
    deployment = _deployment(project, names)
    models = {model: _target(project, deployment, model, versions) for model, versions in _named(deployment, names)}
    archives: dict[tuple[str, str], Packed] = {}
    finished: dict[str, ModelTarget] = {}
    trust_of = stated_trust(project, deployment)
    for model, target in models.items():
        versions: dict[str, VersionTarget | None] = {}
        for version, spec in target.versions.items():
            packed = _packed(project, model, target, version)
            archives[packed.archive.key] = packed
            versions[version] = (spec or VersionTarget()).model_copy(update={"digest": packed.digest})
        needed = {name for key, packed in archives.items() if key[0] == model for name in packed.facts.serving.secrets}
        secrets = {name: SecretSource(file=secret_file(model, name)) for name in sorted(needed)}
        update = {"versions": versions, "secrets": secrets, "trust": trust_of(model).entries}
        finished[model] = target.model_copy(update=update)
    nodes = {
        name: _with_engine(name, spec, engine) for name, spec in deployment.nodes.items() if _serves(finished, name)
    }
    if not nodes:
        raise SpecError("no node of deployment.yaml serves one of these versions", "See `nodes` of the versions.")
    selection = Selection(
        project, deployment, finished, tuple(archives[key] for key in sorted(archives)), nodes,
        tuple(name for name in deployment.nodes if name not in nodes),
    )  # fmt: skip
    _require_possible(selection)
    return selection


#: Why an engine has no image.
_OF_ITS_OWN = "it runs in an environment of its own, for which no lock is made"
_WHY_NOT = {
    "bentoml": _OF_ITS_OWN,
    "triton": _OF_ITS_OWN,
    "vllm": _OF_ITS_OWN,
    "ray": "a Ray cluster is yours, and gets the archives from tsctl",
}


def _deployment(project: Project, names: Sequence[str]) -> DeploymentSpec:
    if project.deployment.is_file():
        return read_deployment(project.deployment)
    if not names:
        raise SpecError(
            f"no model is named, and {project.root} has no deployment.yaml that names some",
            "Name a model: tsctl render image MODEL --to DIR",
        )
    node = UvicornSpec(engine="uvicorn", address=f"http://127.0.0.1:{ALONE_PORT}")
    return DeploymentSpec.model_validate({"nodes": {ALONE: node.model_dump()}, "gateway": {}})


def _named(deployment: DeploymentSpec, names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Models and, where they are named, versions; no version: all."""
    named: dict[str, list[str]] = {}
    for name in names or deployment.models:
        model, colon, version = name.partition(":")
        if not model or (colon and not version):
            raise SpecError(f"{name!r} names no model", "Write MODEL or MODEL:VERSION, such as digits:1.0.")
        named.setdefault(model, []).extend([version] if version else [])
    if not named:
        raise SpecError("deployment.yaml names no model", "Name one: tsctl render image MODEL --to DIR")
    return list(named.items())


def _target(project: Project, deployment: DeploymentSpec, model: str, versions: Sequence[str]) -> ModelTarget:
    """The wanted versions of a model: those of deployment.yaml, or else those in the store."""
    stored = [archive.version for archive in list_archives(project) if archive.model == model]
    folders = sound_archive_folders(project)[0]
    buildable = list(folders[model][1].versions) if model in folders else []
    target = deployment.models.get(model)
    known = list(target.versions) if target is not None else []
    known += [version for version in dict.fromkeys([*buildable, *stored]) if version not in known]
    if not known:
        others = sorted({*deployment.models, *folders, *(archive.model for archive in list_archives(project))})
        raise SpecError(f"there is no model {model!r}", f"There are: {', '.join(others) or 'none'}.")
    if unknown := [version for version in versions if version not in known]:
        raise SpecError(f"{model} has no version {unknown[0]!r}", f"It has {', '.join(known)}.")
    wanted = list(versions) or (list(target.versions) if target is not None else known[:1])
    if target is None:
        return ModelTarget(default=wanted[0], versions=dict.fromkeys(wanted))
    kept = {version: target.versions.get(version) for version in wanted}
    has_all = set(target.versions) <= set(kept)
    update = {
        "versions": kept,
        "default": target.default if target.default in kept else wanted[0],
        "weights": target.weights if has_all else None,
    }
    return target.model_copy(update=update)


def _packed(project: Project, model: str, target: ModelTarget, version: str) -> Packed:
    archive = find_archive(project, model, target.archive(version))
    require_whole(archive)
    digest = digest_of(archive.path)
    spec = target.versions[version]
    if spec is not None and spec.digest is not None and not digest.startswith(spec.digest):
        raise ArchiveError(
            f"deployment.yaml pins {model} {version} to {spec.digest}, and {archive.path.name} has {digest}",
            "Make the pinned build the current one: tsctl archive add FILE.mar; or pin this one.",
        )
    with open_archive(archive.path) as content:
        facts = read_facts(content)
    return Packed(archive, digest, facts, facts.is_stock)


def _serves(models: Mapping[str, ModelTarget], node: str) -> bool:
    return any(target.is_on(version, node) for target in models.values() for version in target.versions)


def _with_engine(name: str, spec: NodeSpec, engine: str | None) -> NodeSpec:
    """The node under the chosen engine, on its own port."""
    chosen = engine or spec.engine
    if chosen not in ENGINES:
        raise SpecError(
            f"node {name} runs engine {chosen}, for which there is no image: {_WHY_NOT.get(chosen, 'nobody knows it')}",
            f"Choose another one: --engine {' or --engine '.join(ENGINES)}.",
        )
    if isinstance(spec, UvicornSpec) and spec.environment is not None:
        raise SpecError(
            f"node {name} runs its workers in the environment of {spec.environment}, for which there is no image",
            "Leave `environment` out of deployment.yaml.",
        )
    if chosen == spec.engine:
        return spec
    common = spec.model_dump(include={"nice", "records_mb", "traces"})
    port = urlsplit(spec.url).port or 0
    if chosen == "uvicorn":
        return UvicornSpec(engine="uvicorn", address=f"http://127.0.0.1:{port}", **common)
    inference, management, metrics = (f"http://127.0.0.1:{number}" for number in range(port, port + 3))
    places = {"inference": inference, "management": management, "metrics": metrics}
    return TorchServeSpec.model_validate({**places, **common})


def _require_possible(selection: Selection) -> None:
    by_key = {packed.archive.key: packed.archive for packed in selection.archives}
    for name, spec in selection.nodes.items():
        node = open_node(selection.project, name, spec)
        for model, target in selection.of_node(name).items():
            for version in target.versions:
                archive = by_key[model, target.archive(version)]
                workers = target.workers(version) or 0
                if reason := node.cannot(archive, version) or node.cannot_have(archive, workers):
                    raise NodeError(
                        f"{model} {version} cannot be in an image of engine {spec.engine}: {reason}",
                        "Choose another engine with --engine, or leave the version out.",
                    )

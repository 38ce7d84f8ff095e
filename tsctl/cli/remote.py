"""`tsctl archive push`, `pull` and `list --remote`: archives in the store of all machines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.options import Every, Json, repeated
from tsctl.cli.output import plural, print_json, print_rows
from tsctl.config.project import Project, find_project
from tsctl.errors import ArchiveError, SpecError, TsctlError
from tsctl.host.remote import absolute

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tsctl.archive.remote_store import Entry, RemoteStore
    from tsctl.archive.store import StoredArchive
    from tsctl.config.deployment import DeploymentSpec
    from tsctl.config.store import StoreSpec
    from tsctl.deploy.pulls import Puller

StoreAddress = Annotated[
    str | None, typer.Option("--store", metavar="ADDRESS", help="In place of the one that deployment.yaml names.")
]
_NAME = re.compile(r"^(?P<model>[^:@]+)(:(?P<version>[^:@]+))?(@(sha256:)?(?P<digest>[0-9a-f]{12,64}))?$")


def push(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL[:VERSION]]...", help="Current archives; those of deployment.yaml if left out."),
    ] = None,
    store: StoreAddress = None,
    json: Json = False,
) -> None:
    """Have archives of this machine in the store of all machines; what is there already stays as it is.

    Exit code 7 if a version is there with other bytes. Samples and golden answers of stock archives go with them.
    """
    from tsctl.archive.container import digest_of
    from tsctl.archive.inspect import facts_of
    from tsctl.archive.pull import kept_beside
    from tsctl.archive.store import require_whole
    from tsctl.host.progress import Progress

    project, spec, deployment = _open(store)
    to, progress = _opened(project, spec), Progress()
    rows, is_guarded = [], True
    for archive in _chosen(project, deployment, names):
        require_whole(archive)
        is_stock = facts_of(archive.path).is_stock
        kept = kept_beside(project, archive.model, archive.version, is_stock)
        with progress.step(f"pushing {archive.model} {archive.version}") as step:
            pushed = to.push(archive.path, archive.model, archive.version, digest_of(archive.path), kept)
            outcome = "pushed" if pushed.is_new else "samples added" if pushed.has_more else "there already"
            step.done(outcome)
        is_guarded &= pushed.is_guarded
        rows.append((archive.model, archive.version, pushed.entry.archive.digest, pushed.entry.archive.bytes, outcome))
    print_rows(("model", "version", "digest", "bytes", "outcome"), rows, json)
    if not is_guarded:
        typer.echo(
            f"warning: {to.address} makes a file also where there is one: two machines that push one version at the"
            " same moment are not kept apart",
            err=True,
        )


def pull(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL[:VERSION][@DIGEST]]...",
            help="All versions of MODEL; what deployment.yaml names if left out.",
        ),
    ] = None,
    digest: Annotated[
        str | None, typer.Option(metavar="SHA256", help="Of the one archive that is named; 12 digits at least.")
    ] = None,
    store: StoreAddress = None,
    every: Every = None,
    json: Json = False,
) -> None:
    """Have archives of the store of all machines here, each as the current one of its version.

    Their bytes are compared with the whole digest. A pull that was cut or killed goes on where it was. With --every,
    beside a node of TorchServe on another machine, new versions of the models are pulled as they are pushed.
    """
    from tsctl.deploy.pulls import Puller
    from tsctl.host.progress import Progress

    project, spec, deployment = _open(store)
    if digest is not None and (len(names or ()) != 1 or not re.fullmatch(r"[0-9a-f]{12,64}", digest)):
        raise SpecError("--digest is the SHA-256 of one archive", "Such as: tsctl archive pull digits:1.0 --digest ...")
    if every is not None and json:
        raise SpecError("--every never ends, so it has no JSON document", "Leave out one of the two.")
    puller = Puller(project, spec, deployment, Progress())
    if every is not None:
        return _follow(puller, names, every)
    rows = []
    for model, version, wanted in _wanted(puller.store, deployment, names):
        pulled = puller.pull(model, version, digest or wanted, publish=True)
        rows.append(
            (model, version, pulled.digest, pulled.bytes, "pulled" if pulled.is_new else "here already",
             str(pulled.archive.path))
        )  # fmt: skip
    if json:
        return print_rows(("model", "version", "digest", "bytes", "outcome", "path"), rows, json)
    typer.echo(
        f"{plural(len(rows), 'archive')} of {puller.store.address}: {sum(r[4] == 'pulled' for r in rows)} pulled"
    )


def _follow(puller: Puller, names: Sequence[str] | None, every: float) -> None:
    """Pull versions of the names as they come, until Ctrl-C; one that left the cache does not come back by itself."""
    from tsctl.archive.pull import was_pulled_once

    for _ in repeated(every):
        try:
            wanted = _wanted(puller.store, puller.deployment, names)
        except TsctlError as error:
            typer.echo(f"{error.message}; tried again in {every:g} s", err=True)
            continue
        for model, version, digest in wanted:
            if was_pulled_once(puller.project, model, version):
                continue
            try:
                typer.echo(puller.pull(model, version, digest, publish=True).archive.path.name)
            except TsctlError as error:  # it keeps no other version from being pulled
                typer.echo(f"{model} {version}: {error.message}; tried again in {every:g} s", err=True)


def list_remote(address: str | None, json: bool) -> None:
    """List every version in the store of all machines, with the whole digest of its archive.

    Raises:
        ArchiveError: an entry is damaged; the others were printed.
    """
    project, spec, _ = _open(address)
    store = _opened(project, spec)
    entries, damaged = _entries(store)
    _print_entries(entries, json)
    if damaged is not None:
        raise damaged


def _entries(store: RemoteStore) -> tuple[list[Entry], ArchiveError | None]:
    """What the store has; a damaged entry hides no other one, and the first of them is the error."""
    from tsctl.archive.remote_store import StoreUnavailable

    entries: list[Entry] = []
    damaged: ArchiveError | None = None
    versions = [(model, version) for model in store.models() for version in store.versions(model)]
    for name, version in versions:
        try:
            entry = store.entry(name, version)
        except StoreUnavailable:
            raise
        except ArchiveError as error:
            damaged = damaged or error
            continue
        if entry is not None:  # else it is somebody else's file among the folders
            entries.append(entry)
    return entries, damaged


def _print_entries(entries: Sequence[Entry], json: bool) -> None:
    if json:
        return print_json(
            [
                {
                    "model": entry.model, "version": entry.version, "digest": entry.archive.digest,
                    "bytes": entry.archive.bytes, "samples": len(entry.samples), "golden": len(entry.golden),
                    "pushed": entry.pushed,
                }
                for entry in entries
            ]
        )  # fmt: skip
    rows = [(e.model, e.version, e.archive.digest, e.archive.bytes, e.pushed) for e in entries]
    print_rows(("model", "version", "digest", "bytes", "pushed"), rows, json)


def _open(address: str | None) -> tuple[Project, StoreSpec, DeploymentSpec | None]:
    """The project, its store, and deployment.yaml where there is one."""
    from pydantic import ValidationError

    from tsctl.config.deployment import read_deployment
    from tsctl.config.store import StoreSpec
    from tsctl.mistakes import expectation

    project = find_project()
    deployment = read_deployment(project.deployment) if address is None or project.deployment.is_file() else None
    spec = deployment.store if deployment is not None else None
    if address is not None:
        same = {"cache_mb": spec.cache_mb} if spec is not None else {}
        try:
            address = absolute(StoreSpec(address=address).address, Path.cwd())
            is_same = spec is not None and absolute(spec.address, project.root) == address
            options = spec.options if spec is not None and is_same else {}
            spec = StoreSpec(address=address, options=options, **same)
        except ValidationError as error:
            raise SpecError(f"--store {expectation(error.errors()[0])}") from None
    if spec is None:
        raise SpecError("deployment.yaml names no store", "Add `store: ADDRESS`, or give --store ADDRESS.")
    return project, spec, deployment


def _opened(project: Project, spec: StoreSpec) -> RemoteStore:
    from tsctl.archive.remote_store import open_store

    return open_store(project, spec)


def _chosen(project: Project, deployment: DeploymentSpec | None, names: Sequence[str] | None) -> list[StoredArchive]:
    """The current archives of the names; without names, those of this machine that deployment.yaml names."""
    from tsctl.archive.store import DIGEST_DIGITS, find_archive, list_archives

    stored = list_archives(project)
    if names:
        chosen = []
        for model, version, digest in map(_parsed, names):
            keys = dict.fromkeys(a.key for a in stored if a.model == model and version in (a.version, ""))
            found = [find_archive(project, *key) for key in keys or ((model, version or "1.0"),)]
            if digest:
                found = [a for a in stored if a.key in keys and a.digest == digest[:DIGEST_DIGITS]]
            if not found:
                raise ArchiveError(f"no archive of {model} {version} with {digest} here", "See 'tsctl archive list'.")
            chosen += found
        return list(dict.fromkeys(chosen))
    if deployment is None or not deployment.models:
        raise SpecError("deployment.yaml names no archives", "Name those to push: tsctl archive push digits:1.0")
    chosen = []
    for model, target in deployment.models.items():
        for version, spec in target.versions.items():
            key, pin = (model, target.archive(version)), ((spec.digest if spec else None) or "")[:DIGEST_DIGITS]
            pinned = [archive for archive in stored if archive.key == key and pin and archive.digest == pin]
            chosen += pinned or [find_archive(project, *key)]
    return list(dict.fromkeys(chosen))


def _wanted(
    store: RemoteStore, deployment: DeploymentSpec | None, names: Sequence[str] | None
) -> list[tuple[str, str, str]]:
    """Model, version and first digits of what the names select in the store."""
    if not names:
        if deployment is None or not deployment.models:
            raise SpecError("deployment.yaml names no archives", "Name those to pull: tsctl archive pull digits:1.0")
        models = deployment.models.items()
        return list(
            dict.fromkeys(
                (model, target.archive(version), (spec.digest if spec else None) or "")
                for model, target in models
                for version, spec in target.versions.items()
            )
        )
    wanted = []
    for model, version, digest in map(_parsed, names):
        versions = [version] if version else store.versions(model)
        if not versions:
            raise ArchiveError(f"the store {store.address} has no {model}", "See 'tsctl archive list --remote'.")
        wanted += [(model, each, digest) for each in versions]
    return wanted


def _parsed(name: str) -> tuple[str, str, str]:
    """Model, version and digest; the last two may be empty."""
    from tsctl.archive.store import name_mistake

    match = _NAME.match(name)
    if match is None or name_mistake(match["model"], match["version"] or "1.0"):
        raise SpecError(f"{name}: expected MODEL[:VERSION][@DIGEST], such as digits:2.0@0123456789ab")
    if match["digest"] and not match["version"]:
        raise SpecError(f"{name}: a digest is of one version", f"Such as {match['model']}:1.0@{match['digest']}")
    return match["model"], match["version"] or "", match["digest"] or ""

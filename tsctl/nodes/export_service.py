"""Writes an archive as a folder that another Python server takes with no need of tsctl, as BentoML and Ray Serve do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from tsctl.archive.container import unpack
from tsctl.archive.inspect import facts_of, inspect_archive
from tsctl.archive.libraries import BUNDLED, OF_TEXT, Libraries, libraries_of
from tsctl.archive.store import require_readable, store_name
from tsctl.errors import ArchiveError
from tsctl.nodes.environments import ENGINES
from tsctl.nodes.exported import new_folder
from tsctl.nodes.whole import unfit_text


@dataclass(frozen=True)
class Service:
    """How a server takes an archive."""

    engine: str  # with an environment, whose pinned file has the server's packages
    title: str  # for people
    adapter: str  # the file in the archive without which the server cannot serve it
    programs: tuple[str, ...]  # modules of the bundled package that run
    server: tuple[str, ...]  # packages of the server itself, besides those of the worker
    extras: Mapping[str, str]  # of those packages, such as `[serve]`
    has_package: bool  # the server's processes import the bundled package, so it lies in the folder itself too
    templates: tuple[str, ...]  # files in the folder `templates` of `tsctl.nodes.ENGINE`


def export_service(
    service: Service, archive: Path, target: Path, more: Callable[[int], Mapping[str, Any]] = lambda workers: {}
) -> Libraries:
    """Write the archive to the folder `target`, whole or not at all; the packages that it needs.

    Args:
        more: values of the templates, from the number of workers that the archive asks for.

    Raises:
        SpecError: there is something of that name.
        ArchiveError: the archive cannot be read, or was not built by tsctl, or by one without the adapter.
        OSError: the folder cannot be written.
    """
    contents = inspect_archive(archive)
    facts = facts_of(archive)
    if reason := unfit_text(facts, service.title):
        raise ArchiveError(f"{archive.name} cannot be exported: {reason}")
    if contents.made_by != "tsctl":
        raise ArchiveError(f"{archive.name} was not built by tsctl, so only TorchServe can serve it")
    model, version = require_readable(archive)
    if service.adapter not in contents.entries:
        raise ArchiveError(
            f"{archive.name} was built by a tsctl that had no adapter for {service.title}",
            f"Build it again: tsctl archive build {model}:{version}",
        )
    with new_folder(target) as folder:
        unpack(archive, folder / "archive")
        if service.has_package:
            shutil.copytree(folder / "archive" / BUNDLED, folder / BUNDLED)
        handler = str((contents.config.get("serving") or {}).get("handler", ""))
        libraries = libraries_of(folder / "archive", [*service.programs, handler], service.server, OF_TEXT)
        name_in_store = store_name(model, version, contents.digest)
        workers = max(1, facts.integer("minWorkers") or 1)
        names: dict[str, Any] = {
            "model": model,
            "version": version,
            "archive": name_in_store,
            "digest": contents.digest,
            "workers": workers,
            **more(workers),
        }
        for name in service.templates:
            (folder / name).write_text(_render(service, name, names), encoding="utf-8")
        (folder / "requirements.txt").write_text(_requirements(service, libraries), encoding="utf-8")
    return libraries


def _render(service: Service, name: str, names: Mapping[str, Any]) -> str:
    folder = files(f"{__package__}.{service.engine}")
    template = folder.joinpath("templates", f"{name}.jinja").read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701 - no HTML
    return environment.from_string(template).render({**names, "json": json.dumps})


def _requirements(service: Service, libraries: Libraries) -> str:
    """The lines of requirements.txt: the versions beside tsctl, and those of the server's pinned file."""
    pinned = dict(
        line.split("==")
        for line in ENGINES[service.engine].lock.read_text(encoding="utf-8").splitlines()
        if "==" in line and line[0] != "#"
    )
    pins = {**{name: pinned[name] for name in service.server}, **libraries.pins}
    extras = service.extras
    lines = [
        f"{name}{extras.get(name, '')}=={release}"
        for name, release in sorted(pins.items(), key=lambda pin: pin[0].lower())
    ]
    unknown = [f"# the package of module {name}, which is not installed beside tsctl" for name in libraries.missing]
    return "\n".join([*lines, *unknown]) + "\n"

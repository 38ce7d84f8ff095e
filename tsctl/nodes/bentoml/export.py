"""Writes an archive as a folder that `bentoml serve` and `bentoml build` take, with no need of tsctl."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from tsctl.archive.container import open_archive, unpack
from tsctl.archive.inspect import inspect_archive, read_facts
from tsctl.archive.libraries import OF_TEXT, Libraries, libraries_of
from tsctl.archive.store import require_readable, store_name
from tsctl.errors import ArchiveError
from tsctl.nodes.environments import ENGINES
from tsctl.nodes.exported import new_folder
from tsctl.nodes.whole import unfit_text

#: The adapter in the archive, without which BentoML cannot serve it.
ADAPTER = "handlers/adapters/bentoml/service.py"
#: Programs of the bundled package that run: the service, and each of its workers.
PROGRAMS = ("handlers.adapters.bentoml.service", "handlers.adapters.asgi.child")
#: What the service itself needs, besides the worker's libraries.
SERVER = ("bentoml", "fastapi", "httptools", "uvloop")
TEMPLATES = ("service.py", "bentofile.yaml", "README.md")


def export(archive: Path, target: Path) -> Libraries:
    """Write the archive to the folder `target`, whole or not at all; the packages that it needs.

    Raises:
        SpecError: there is something of that name.
        ArchiveError: the archive cannot be read, or was not built by tsctl, or by one without an adapter for BentoML.
        OSError: the folder cannot be written.
    """
    contents = inspect_archive(archive)
    with open_archive(archive) as opened:
        if reason := unfit_text(read_facts(opened), "BentoML"):
            raise ArchiveError(f"{archive.name} cannot be exported: {reason}")
    if contents.made_by != "tsctl":
        raise ArchiveError(f"{archive.name} was not built by tsctl, so only TorchServe can serve it")
    model, version = require_readable(archive)
    if ADAPTER not in contents.entries:
        raise ArchiveError(
            f"{archive.name} was built by a tsctl that had no adapter for BentoML",
            f"Build it again: tsctl archive build {model}:{version}",
        )
    with new_folder(target) as folder:
        unpack(archive, folder / "archive")
        handler = str((contents.config.get("serving") or {}).get("handler", ""))
        libraries = libraries_of(folder / "archive", [*PROGRAMS, handler], SERVER, OF_TEXT)
        name_in_store = store_name(model, version, contents.digest)
        names = {"model": model, "version": version, "archive": name_in_store, "digest": contents.digest}
        for name in TEMPLATES:
            (folder / name).write_text(_render(name, names), encoding="utf-8")
        (folder / "requirements.txt").write_text(_requirements(libraries), encoding="utf-8")
    return libraries


def _render(name: str, names: Mapping[str, str]) -> str:
    template = files(__package__).joinpath("templates", f"{name}.jinja").read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701 - no HTML
    return environment.from_string(template).render({**names, "json": json.dumps})


def _requirements(libraries: Libraries) -> str:
    """The lines of requirements.txt: the versions beside tsctl, and BentoML's of its pinned file."""
    pinned = dict(
        line.split("==")
        for line in ENGINES["bentoml"].lock.read_text(encoding="utf-8").splitlines()
        if "==" in line and line[0] != "#"
    )
    pins = {**{name: pinned[name] for name in SERVER}, **libraries.pins}
    lines = [f"{name}=={release}" for name, release in sorted(pins.items(), key=lambda pin: pin[0].lower())]
    unknown = [f"# the package of module {name}, which is not installed beside tsctl" for name in libraries.missing]
    return "\n".join([*lines, *unknown]) + "\n"

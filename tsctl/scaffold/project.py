"""The files of a new project: those that every project has, and the models of templates/, one folder each.

Everything is read from the package, so that a template is a model that can be read, linted and tested like any other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

import tsctl
from tsctl.archive.container import MANIFEST, Content
from tsctl.archive.store import make_current, write_archive
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project
from tsctl.config.spec import ModelName
from tsctl.errors import SpecError
from tsctl.mistakes import expectation
from tsctl.scaffold.files import NewFile

_TEMPLATES = Path(__file__).with_name("templates")
#: The template that has no model, and the one whose model is an archive that tsctl did not build.
EMPTY, STOCK = "empty", "stock"
STOCK_MODEL, STOCK_VERSION = "median", "1.0"
DEFAULT = "tabular"

_IGNORED = """\
# keys, state of this machine, build outputs
.tsctl/
*.header
.venv/
archives/store/
archives/*/.built/
__pycache__/
"""
_MAKEFILE = """\
# What a person does with the models of this project; docs of all commands: tsctl --help.
TSCTL ?= $(if $(wildcard .venv/bin/tsctl),.venv/bin/tsctl,tsctl)

.PHONY: up down status plan check
up down status plan:
	@$(TSCTL) $@

check:  # what CI does
	@TSCTL=$(TSCTL) ci/models.sh
"""
_CI = """\
#!/bin/sh
# What CI does with the models of this project: builds each, and verifies the archives. Where TSCTL names no command, it
# installs tsctl {version} into .venv first, with the versions of packages that it was tested with.
set -eu
cd "$(dirname "$0")/.."
if [ -z "${{TSCTL:-}}" ]; then
    TSCTL=.venv/bin/tsctl
    if [ ! -x "$TSCTL" ]; then
        python3 -m venv .venv
        .venv/bin/pip install tsctl=={version}
        .venv/bin/pip install 'tsctl[all]=={version}' --constraint "$($TSCTL path constraints)"
    fi
fi
"$TSCTL" archive build
"$TSCTL" archive verify
"""
_DEPLOYMENT = """\
# Desired state: which nodes there are, and which versions of which models they serve. `tsctl up` makes it so.
nodes:
  local:  # a TorchServe on this machine
    inference: http://127.0.0.1:8080
    management: http://127.0.0.1:8081
    metrics: http://127.0.0.1:8082
    grpc_ports: [7070, 7071]

gateway:
  address: http://127.0.0.1:8000
  metrics: http://127.0.0.1:8003

models:{models}
"""


def template_names() -> list[str]:
    """Every template that `init` knows."""
    return [*sorted(folder.name for folder in _TEMPLATES.iterdir() if folder.is_dir()), EMPTY]


def project_files(models: Mapping[str, str]) -> dict[str, NewFile]:
    """The files that every project has, by their paths.

    Args:
        models: that it serves, with the version of each.
    """
    deployment = _DEPLOYMENT.format(models=f"\n{deployment_lines(models)}" if models else " {}").rstrip("\n") + "\n"
    return {
        Project(Path()).deployment.name: NewFile(deployment.encode(), is_kept=True),
        ".gitignore": NewFile(_IGNORED.encode()),
        "Makefile": NewFile(_MAKEFILE.encode(), is_kept=True),
        "ci/models.sh": NewFile(_CI.format(version=tsctl.__version__).encode(), is_program=True, is_kept=True),
    }


def deployment_lines(models: Mapping[str, str]) -> str:
    """The lines below `models` of deployment.yaml that serve these models."""
    return "".join(
        f'  {_scalar(model)}:\n    default: "{version}"\n    versions:\n      "{version}": {{workers: 1}}\n'
        for model, version in models.items()
    )


def _scalar(name: str) -> str:
    """A name as YAML, in quotes where it would be no text without them."""
    return name if yaml.safe_load(name) == name else f'"{name}"'


def template_files(template: str, name: str | None) -> tuple[dict[str, str], dict[str, NewFile]]:
    """The model of a template with its version, and the files of its folder by their paths in the project.

    Args:
        name: of the model; None: the template's own.

    Raises:
        SpecError: there is no such template, or no model can have this name.
    """
    if template == EMPTY:
        if name is not None:
            raise SpecError("the template empty has no model, so --name has no meaning")
        return {}, {}
    folder = _TEMPLATES / template
    if template not in template_names():
        raise SpecError(f"there is no template {template}", f"There are {', '.join(template_names())}.")
    if template == STOCK:
        if name not in (None, STOCK_MODEL):
            raise SpecError(f"the archive of the template stock is one of {STOCK_MODEL}, so --name has no meaning")
        model, version = STOCK_MODEL, STOCK_VERSION
    else:
        spec = read_archive_spec(folder / "archive.yaml")
        model, version = require_model_name(name or spec.model), next(iter(spec.versions))
    files = {
        f"archives/{model}/{path.relative_to(folder).as_posix()}": NewFile(path.read_bytes(), path.suffix == ".sh")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    if template != STOCK:
        place = f"archives/{model}/archive.yaml"
        text = (folder / "archive.yaml").read_text(encoding="utf-8")
        text = text.replace(f"model: {spec.model}\n", f"model: {_scalar(model)}\n", 1)
        files[place] = NewFile(text.encode())
    return {model: version}, files


def add_stock_archive(project: Project) -> Path:
    """Put the archive of the template `stock` into the project's store, as its make.sh does."""
    model = {"modelName": STOCK_MODEL, "modelVersion": STOCK_VERSION, "handler": "handler.py"}
    manifest = {"createdOn": "01/01/1980 00:00:00", "runtime": "python", "model": model, "archiverVersion": "0.12.0"}
    entries: dict[str, Content] = {
        MANIFEST: json.dumps(manifest).encode(),
        "handler.py": _TEMPLATES / STOCK / "handler.py",
    }
    archive = write_archive(entries, project.store, STOCK_MODEL, STOCK_VERSION)
    return make_current(project, archive).path


def require_model_name(name: str) -> str:
    """The name, if a model can have it.

    Raises:
        SpecError: none can.
    """
    try:
        return str(TypeAdapter(ModelName).validate_python(name))
    except ValidationError as error:
        raise SpecError(f"no model can be called {name!r}: {expectation(error.errors()[0])}") from None

"""The files of a new project: those that every project has, and the models of templates/, one folder each.

Everything is read from the package, so that a template is a model that can be read, linted and tested like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

import tsctl
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project
from tsctl.config.spec import ModelName
from tsctl.errors import SpecError
from tsctl.scaffold.files import NewFile

_TEMPLATES = Path(__file__).with_name("templates")
#: The template that has no model.
EMPTY = "empty"
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
    if not folder.is_dir() or template not in template_names():
        raise SpecError(f"there is no template {template}", f"There are {', '.join(template_names())}.")
    spec = read_archive_spec(folder / "archive.yaml")
    model = require_model_name(name or spec.model)
    files = {
        f"archives/{model}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    place = f"archives/{model}/archive.yaml"
    files[place] = files[place].replace(f"model: {spec.model}\n".encode(), f"model: {_scalar(model)}\n".encode(), 1)
    return {model: next(iter(spec.versions))}, {path: NewFile(content) for path, content in files.items()}


def require_model_name(name: str) -> str:
    """The name, if a model can have it.

    Raises:
        SpecError: none can.
    """
    try:
        return str(TypeAdapter(ModelName).validate_python(name))
    except ValidationError as error:
        raise SpecError(f"no model can be called {name!r}: {error.errors()[0]['msg']}") from None

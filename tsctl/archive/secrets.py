"""Hands the secrets of a model to its workers: a file for each, which only their owner may read.

Invariant: a value is in such a file and in the memory of the model's workers, and nowhere else: in no archive, log,
journal, argument of a process, or environment of a node, which all of its workers would inherit.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from handlers.contract import MOST_SECRET_BYTES
from tsctl.archive.written import scratch
from tsctl.config.deployment import DeploymentSpec, read_deployment
from tsctl.config.project import Project, find_project
from tsctl.config.secrets import SecretSource
from tsctl.errors import SpecError
from tsctl.host.files import make_folder, write_secret

FOLDER = "secrets"


def secrets_folder(project: Project) -> Path:
    """The folder that workers are told, with a folder for each model."""
    return project.state / FOLDER


def missing_secrets(deployment: DeploymentSpec, model: str, names: Sequence[str]) -> list[str]:
    """The secrets that a model needs and deployment.yaml does not give it."""
    target = deployment.models.get(model)
    return [name for name in names if target is None or name not in target.secrets]


def publish_secrets(project: Project, deployment: DeploymentSpec, model: str) -> None:
    """Write the present values of a model's secrets for its workers, and remove those that it has no more.

    A value that was written before stays where its variable is not set now: not every shell has it.

    Raises:
        SpecError: a value cannot be read; the files stay as they were.
    """
    target = deployment.models.get(model)
    sources = target.secrets if target is not None else {}
    folder = secrets_folder(project) / model
    values = {
        name: _value(project, model, name, source)
        for name, source in sources.items()
        if source.env is None or os.environ.get(source.env) or not (folder / name).is_file()
    }
    if not sources:
        shutil.rmtree(folder, ignore_errors=True)
        return
    make_folder(folder)
    for path in folder.iterdir():
        if path.name not in sources:
            path.unlink()
    _write(folder, values)


def refresh_secrets(project: Project, deployment: DeploymentSpec) -> None:
    """Publish again the secrets of every model whose workers were given some; raises as `publish_secrets`."""
    given = secrets_folder(project)
    for model in sorted(path.name for path in given.iterdir()) if given.is_dir() else ():
        publish_secrets(project, deployment, model)


@contextmanager
def secrets_here(model: str, names: Sequence[str]) -> Iterator[Path | None]:
    """A temporary folder with those of a model's secrets that the project of the working folder has, for a command
    that runs an archive by itself; None where there is none. Whoever asks for one that is missing is told so."""
    values = _values_here(model, names)
    if not values:
        yield None
        return
    with scratch("tsctl-secrets-") as folder:
        make_folder(folder / model)
        _write(folder / model, values)
        yield folder


def _values_here(model: str, names: Sequence[str]) -> dict[str, str]:
    if not names:
        return {}
    try:
        project = find_project()
        target = read_deployment(project.deployment).models.get(model)
    except SpecError:
        return {}  # nobody gives it any
    sources: Mapping[str, SecretSource] = target.secrets if target is not None else {}
    return {name: _value(project, model, name, sources[name]) for name in names if name in sources}


def _write(folder: Path, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        write_secret(folder / name, value)


def _value(project: Project, model: str, name: str, source: SecretSource) -> str:
    """Raises SpecError, without any part of a value."""
    where = f"deployment.yaml: models.{model}.secrets.{name}"
    if source.env is not None:
        value = os.environ.get(source.env)
        if not value:
            raise SpecError(f"{where}: the variable {source.env} is not set", f"Set it: export {source.env}=...")
    else:
        path = project.root / (source.file or "")
        try:
            value = path.read_text(encoding="utf-8").removesuffix("\n")
        except UnicodeDecodeError:
            raise SpecError(f"{where}: {path} is no UTF-8 text", "Encode it, in base64 for example.") from None
        except OSError as error:
            raise SpecError(f"{where}: {path} cannot be read: {error.strerror}") from None
    if len(value.encode()) > MOST_SECRET_BYTES:
        raise SpecError(f"{where}: it has more than {MOST_SECRET_BYTES} bytes")
    return value

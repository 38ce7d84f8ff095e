"""Begins a project, or a model in one: writes its files, and makes the golden answers of a model that exists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tsctl.archive.build import read_archive_folders
from tsctl.archive.golden import make_golden
from tsctl.archive.known import keep_samples, lacks_golden
from tsctl.archive.recording import ask_in_sandbox, record_golden
from tsctl.archive.sandbox import why_open
from tsctl.archive.store import import_archive, require_readable
from tsctl.config.project import Project
from tsctl.errors import ArchiveError, SpecError, TsctlError
from tsctl.host.progress import Note, Progress
from tsctl.scaffold.adopt import VERSION, adopted_files, name_of
from tsctl.scaffold.files import Written, write_files
from tsctl.scaffold.kinds import ARCHIVE, kind_of, read_look
from tsctl.scaffold.project import STOCK, add_stock_archive, project_files, require_model_name, template_files


@dataclass(frozen=True)
class Begun:
    """A new project, or a new model in one."""

    models: Mapping[str, str]  # the version of each new model
    written: Written


def begin(folder: Path, template: str, name: str | None) -> Begun:
    """Write a project with the model of a template.

    Raises:
        SpecError: there is no such template, or a file of the model is there already.
    """
    models, files = template_files(template, name)
    written = write_files(folder, {**files, **project_files(models)})
    if template == STOCK:
        written = written.with_made(f"archives/store/{add_stock_archive(Project(folder)).name}")
    return Begun(models, written)


def begin_from(
    folder: Path,
    source: Path,
    name: str | None,
    samples: Sequence[Path],
    progress: Progress,
    network: Path | None = None,
) -> Begun:
    """Write a project with a model that exists.

    Args:
        name: of the model; None: as its file or folder is called, or its archive says.
        samples: requests that it takes.
        network: the Python file with the network, for weights.

    Raises:
        SpecError: it is of no known kind, there is no sample, or a file of the model is there already.
        ArchiveError: it does not load, or does not answer a sample; the files are there nevertheless.
    """
    kind = kind_of(read_look(source))
    if kind is ARCHIVE:
        if network is not None:
            raise SpecError(f"--network is for weights alone, and {source} is an archive", "Leave it out.")
        return _begin_with_archive(folder, source, name, samples, progress)
    if kind.handler is None:
        raise SpecError(f"{source} has {kind.words}", kind.instead)
    model = name_of(source) if name is None else require_model_name(name)
    files = adopted_files(source, kind, model, samples, network)
    begun = Begun({model: VERSION}, write_files(folder, {**files, **project_files({model: VERSION})}))
    progress.line(f"{source} is {kind.words}, for {kind.handler}")
    folder_of_model, spec = read_archive_folders(Project(folder))[model]
    with _golden(folder, model, VERSION, progress) as note:
        make_golden(folder_of_model, spec, VERSION, note)
    return Begun(begun.models, begun.written.with_made(f"archives/{model}/golden/{VERSION}.json"))


@contextmanager
def _golden(folder: Path, model: str, version: str, progress: Progress) -> Iterator[Note]:
    """A step of the progress in which golden answers are made.

    Raises:
        ArchiveError: that failed; the hint says how to go on.
    """
    if reason := why_open():
        progress.line(f"the samples run with your rights and not in a sandbox: {reason}")
    with progress.step(f"golden answers of {model} {version}") as step:
        try:
            yield step.note
        except TsctlError as error:
            hint = f"The files are written. Correct {folder / 'archives' / model}, then: tsctl archive golden {model}"
            raise ArchiveError(error.message, hint) from None


def _begin_with_archive(
    folder: Path, source: Path, name: str | None, samples: Sequence[Path], progress: Progress
) -> Begun:
    """An archive is served as it is, from the store; its samples and golden answers lie beside it."""
    model, version = require_readable(source)
    if name not in (None, model):
        raise SpecError(f"{source} is an archive of {model}, and cannot be called {name}", "Leave --name out.")
    project = Project(folder)
    written = write_files(folder, project_files({model: version}))
    archive = import_archive(project, source)
    keep_samples(project, model, samples)
    made = [f"archives/store/{archive.path.name}", *(f"archives/{model}/samples/{path.name}" for path in samples)]
    begun = Begun({model: version}, written.with_made(*made))
    if samples:
        with _golden(folder, model, version, progress):
            record_golden(project, archive, ask_in_sandbox(archive, trust_pickles=False))
        return Begun(begun.models, begun.written.with_made(f"archives/{model}/golden/{version}.json"))
    if lacks_golden(archive.path):
        place = folder / "archives" / model / "samples"
        progress.line(f"{model} {version} has no golden answers: put requests into {place}, then:")
        progress.line(f"  tsctl archive golden {model}")
    return begun

"""`tsctl archive try`: once, or after each change of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from handlers import contract
from tsctl.archive.attempt import AttemptOptions, attempt, bodies, in_batches
from tsctl.archive.build import select_versions, sound_archive_folders
from tsctl.archive.golden import read_golden
from tsctl.archive.store import list_archives
from tsctl.archive.trust import stated_trust
from tsctl.cli.output import print_json
from tsctl.config.project import Project, find_project
from tsctl.errors import ArchiveError, SpecError, TsctlError
from tsctl.host.changes import changes
from tsctl.host.progress import Progress
from tsctl.views.attempt import document, lines


@dataclass(frozen=True)
class AttemptCommand:
    """The arguments of the command."""

    name: str
    sample: str | None
    media_type: str | None
    batch: int | None
    turns: int
    profile: Path | None
    as_json: bool

    def run(self, watch: bool) -> None:
        """Answer once, or also after each change until Ctrl-C.

        Raises:
            TsctlError: the model does not load, or failed on a request; while watching, it is printed instead.
        """
        if not watch:
            return self._answer()
        if self.sample == "-":
            raise SpecError("--watch reads the request anew each time, so it cannot come from standard input")
        progress = Progress()
        folder, _, _ = self._version()
        self._answer_or_tell(progress)
        for _ in changes(folder):
            progress.line("a file changed")
            self._answer_or_tell(progress)

    def _answer_or_tell(self, progress: Progress) -> None:
        try:
            self._answer()
        except TsctlError as error:
            progress.line(f"error: {error.message}")

    def _version(self) -> tuple[Path, Any, str]:
        # read anew each time: archive.yaml may have changed
        project = find_project()
        require_folder(project, self.name)
        selected = select_versions(project, [self.name])
        (_, version), (folder, spec) = next(iter(selected.items()))
        return folder, spec, version

    def _answer(self) -> None:
        folder, spec, version = self._version()
        options = AttemptOptions(self.batch, self.turns, self.profile)
        batches = in_batches(bodies(folder, spec, self.sample, self.media_type), self.batch)
        with Progress().step(f"trying {spec.model} {version}") as step:
            trust = stated_trust(find_project())(spec.model)
            result = attempt(folder, spec, version, batches, options, step.note, trust)
            step.done("done" if not result.error else "failed")
        if self.as_json:
            print_json(document(result, batches))
        else:
            tolerance = contract.Tolerance(**spec.serving(version).tolerance.model_dump())
            typer.echo(
                "\n".join(lines(result, batches, read_golden(folder / spec.golden / f"{version}.json"), tolerance))
            )
        if result.error:
            raise ArchiveError(f"{spec.model} {version} could not be tried", "The traceback is above.")
        if any(answer.status >= 500 for batch in result.batches for answer in batch.answers):
            raise ArchiveError(f"{spec.model} {version} failed on a request", "The traceback is above.")


def require_folder(project: Project, name: str) -> None:
    """Check that the model is not one of which only an archive is there.

    Raises:
        SpecError: it is: `try` runs what archive.yaml and its files say, which such an archive has not.
    """
    model = name.partition(":")[0]
    folders, mistakes = sound_archive_folders(project)
    if model in folders or mistakes or not any(archive.model == model for archive in list_archives(project)):
        return
    raise SpecError(
        f"{model} is an archive in the store, and 'tsctl archive try' needs a folder with archive.yaml",
        f"Ask the archive itself: tsctl archive verify {name} --sample FILE. Or make a folder of it: tsctl archive"
        f" convert {name}",
    )

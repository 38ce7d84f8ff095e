"""`tsctl archive try`: once, or after each change of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from handlers import contract
from tsctl.archive.attempt import AttemptOptions, attempt, bodies, in_batches
from tsctl.archive.build import select_versions
from tsctl.archive.golden import read_golden
from tsctl.archive.trust import stated_trust
from tsctl.cli.output import print_json
from tsctl.config.project import find_project
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
        selected = select_versions(find_project(), [self.name])
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

"""Builds many versions, one after the other; what is broken in one keeps no other from being built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tsctl.archive.build import Built, build_shown, select_versions, sound_archive_folders
from tsctl.config.project import Project
from tsctl.errors import ArchiveError, SpecError, TsctlError
from tsctl.host.progress import Progress


@dataclass(frozen=True)
class Failed:
    """A version that was not built; an archive.yaml that cannot be read names no model and no version."""

    model: str | None
    version: str | None
    error: TsctlError

    @property
    def name(self) -> str:
        """'digits 1.0: ', or nothing where the error itself names the file."""
        return f"{self.model} {self.version}: " if self.model else ""


@dataclass
class Builds:
    """What was built, or was built before, and what failed."""

    built: list[Built] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """One line with the numbers."""
        new = sum(made.is_new for made in self.built)
        counts = {"built": new, "unchanged": len(self.built) - new, "failed": len(self.failed)}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)

    @property
    def error(self) -> TsctlError | None:
        """One error with the messages of all that failed; of archives where one of them is one, else as the first."""
        if not self.failed:
            return None
        errors = [failed.error for failed in self.failed]
        if len(errors) == 1 and not self.built:
            return errors[0]
        kind = ArchiveError if any(isinstance(error, ArchiveError) for error in errors) else type(errors[0])
        lines = "".join(f"\n{failed.name}{failed.error.message}" for failed in self.failed)
        hints = dict.fromkeys(error.hint for error in errors if error.hint)
        return kind(f"not all archives were built ({self.summary}):{lines}", "\n       ".join(hints))


def build_all(project: Project, names: Sequence[str] | None, progress: Progress) -> Builds:
    """Build each version that the names select; without names, every one that is not built on request.

    Raises:
        SpecError: a name that no archive.yaml has, or no archive.yaml at all; nothing is built then.
    """
    builds = Builds()
    if names is None:
        folders, mistakes = sound_archive_folders(project)
        builds.failed += [Failed(None, None, mistake) for mistake in mistakes]
        names = [model for model, (_, spec) in folders.items() if not spec.on_request]
        if not folders and not mistakes:
            raise SpecError(f"no archives/*/archive.yaml in {project.root}", "See docs/writing-a-handler.md.")
    for (model, version), (folder, spec) in select_versions(project, names).items():
        try:
            builds.built.append(build_shown(project, folder, spec, version, progress))
        except TsctlError as error:
            builds.failed.append(Failed(model, version, error))
    return builds

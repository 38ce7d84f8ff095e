"""How answers of an archive's version are compared, as the archive itself says."""

from __future__ import annotations

from tsctl.archive.inspect import Facts, facts_of
from tsctl.archive.store import find_archive
from tsctl.config.project import Project
from tsctl.errors import ArchiveError
from tsctl.shadow.summaries import CompareOptions, SummaryComparator


def comparator_of(facts: Facts) -> SummaryComparator:
    """The archive's `compare` and tolerance; by label where it has no `compare` and answers have one."""
    compare = facts.serving.compare
    options = CompareOptions() if compare is None else CompareOptions(**compare.model_dump())
    return SummaryComparator(options, facts.tolerance, ":".join(facts.names))


def comparator_in_store(project: Project, model: str, version: str) -> SummaryComparator:
    """As `comparator_of` for the version's current archive; the defaults where the store has none."""
    try:
        archive = find_archive(project, model, version)
    except ArchiveError:
        return SummaryComparator()
    return comparator_of(facts_of(archive.path))

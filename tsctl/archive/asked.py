"""Asks an archive in the store what a comparator needs to know: vectors of texts, or the handler's own distances.

The archive runs in the sandbox as a child process, once for all pairs of a comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tsctl.archive.embedded import embed
from tsctl.archive.store import StoredArchive, find_archive, list_archives
from tsctl.archive.trial import TIMEOUT_S, run_probe
from tsctl.archive.verify import runnable
from tsctl.config.project import Project
from tsctl.errors import AnalysisError, ArchiveError, SpecError
from tsctl.shadow.pairing import Answer
from tsctl.shadow.summaries import SummaryComparator

#: Texts of one comparison, and seconds that each may take.
MOST_TEXTS, TEXT_S = 4000, 1.0
#: Pairs of one comparison that a handler compares, and seconds that each may take.
MOST_PAIRS, PAIR_S = 20_000, 0.1


class Asker:
    """Gives comparators what they need to know of the pairs that they compare.

    Args:
        project: whose store has the archives.
    """

    def __init__(self, project: Project) -> None:
        self._project = project

    def ready(
        self, comparator: SummaryComparator, pairs: Iterable[tuple[Answer, Answer]], hint: str = ""
    ) -> SummaryComparator:
        """The comparator, ready to compare these pairs; the same where it asks no archive.

        Args:
            hint: what a person does where there are too many texts or pairs.

        Raises:
            AnalysisError: there are too many.
            ArchiveError: there is no such archive, or it does not answer.
            SpecError: several versions could be meant.
        """
        pairs = list(pairs)
        if texts := comparator.to_embed(pairs):
            if len(texts) > MOST_TEXTS:
                raise AnalysisError(
                    f"{len(texts):,} texts differ, and a model embeds {MOST_TEXTS:,} of a comparison at most", hint
                )
            found = embed(self._archive(comparator.options.model), texts, TIMEOUT_S + TEXT_S * len(texts))
            return comparator.with_vectors(dict(zip(texts, found, strict=True)))
        if differing := comparator.to_judge(pairs):
            if len(differing) > MOST_PAIRS:
                raise AnalysisError(
                    f"{len(differing):,} pairs differ, and a handler compares {MOST_PAIRS:,} at most", hint
                )
            if not comparator.archive:
                raise ArchiveError("the store has no archive whose handler could compare the answers")
            distances = own_distances(self._archive(comparator.archive), list(differing.values()))
            return comparator.with_distances(dict(zip(differing, distances, strict=True)))
        return comparator

    def _archive(self, named: str) -> StoredArchive:
        model, _, version = named.partition(":")
        if not version:
            versions = sorted({each.version for each in list_archives(self._project) if each.model == model})
            if len(versions) > 1:
                raise SpecError(
                    f"the store has {', '.join(versions)} of {model}, which is asked to compare answers",
                    f"Name the version too, such as {model}:{versions[0]}.",
                )
            version = versions[0] if versions else "1.0"
        return find_archive(self._project, model, version)


def own_distances(archive: StoredArchive, pairs: Sequence[tuple[Any, Any]]) -> list[float]:
    """How far the second answer of each pair is from the first, by the handler's own `compare`.

    Raises:
        ArchiveError: the archive does not run, or its handler does not compare these answers.
    """
    timeout_s = TIMEOUT_S + PAIR_S * len(pairs)
    with runnable(archive.path, timeout_s=timeout_s) as (folder, facts):
        trial = run_probe(folder, facts.batch_size, [], compare=pairs, timeout_s=timeout_s)
    reason = trial.error.removeprefix("LoadError: ")
    if not reason and len(trial.distances) != len(pairs):
        reason = f"it gave {len(trial.distances)} distances of {len(pairs)} pairs"
    if reason:
        raise ArchiveError(f"{archive.model} {archive.version} cannot compare answers: {reason}")
    return trial.distances

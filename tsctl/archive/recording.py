"""Records the answers of an archive as golden answers, from wherever it runs: a node, or the sandbox.

Every sample is sent twice. An answer that differs from itself cannot be golden, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tsctl.archive.build import sound_archive_folders
from tsctl.archive.golden import write_answers
from tsctl.archive.inspect import facts_of
from tsctl.archive.known import Sample, difference_of, golden_file, known, name_of, value_of
from tsctl.archive.store import StoredArchive
from tsctl.archive.trial import ItemRequest, run_probe
from tsctl.archive.trust import Trust
from tsctl.archive.verify import runnable
from tsctl.config.project import Project
from tsctl.errors import ArchiveError

Answered = tuple[int, bytes]  # status and body
#: Answers samples, in their order.
Ask = Callable[[Sequence[Sample]], Sequence[Answered]]


def record_golden(project: Project, archive: StoredArchive, ask: Ask) -> list[str]:
    """Record the answers to the archive's samples.

    Returns:
        The names of the samples whose answers changed beyond the tolerance, came or went.

    Raises:
        ArchiveError: it has no samples, generates text, or gives an answer that cannot be golden.
    """
    title = f"{archive.model} {archive.version}"
    found = known(archive.path)
    if not found.samples:
        folder = project.relative(project.archives / archive.model / "samples")
        raise ArchiveError(
            f"{title} has no samples, so there is nothing to ask it",
            f"Put requests into {folder}, one a file, such as {folder}/one.json.",
        )
    if facts_of(archive.path).is_text:
        raise ArchiveError(
            f"{title} generates text, whose golden answers are tokens; a node answers with text",
            f"Have its own handler make them: tsctl archive golden {archive.model}:{archive.version}",
        )
    answers = ask([*found.samples, *found.samples])
    golden: dict[str, Any] = {}
    firsts, seconds = answers[: len(found.samples)], answers[len(found.samples) :]
    for sample, (status, body), again in zip(found.samples, firsts, seconds, strict=True):
        name = name_of(sample)
        if status != 200:
            text = body[:300].decode("utf-8", "replace")
            raise ArchiveError(
                f"{title} answers {name} with {status}: {text}", "A sample is a request that it answers."
            )
        try:
            golden[name] = value_of(body)
        except ValueError:
            raise ArchiveError(
                f"{title} answers {name} with bytes that are no text, which no golden answer can be",
                "Leave that sample out.",
            ) from None
        if why := difference_of(*again, golden[name], found.tolerance):
            raise ArchiveError(
                f"{title} answers {name} differently each time, so no answer is golden: {why}",
                "Have the model draw no random numbers, or leave that sample out.",
            )
    return write_answers(_file(project, archive), golden, found.tolerance)


def ask_in_sandbox(archive: StoredArchive, trust_pickles: bool, trust_of: Callable[[str], Trust] = Trust) -> Ask:
    """Answers from the archive's handler in the sandbox, without a server; raises ArchiveError where it has none."""

    def ask(samples: Sequence[Sample]) -> list[Answered]:
        with runnable(archive.path, trust_pickles, trust_of=trust_of) as (folder, facts):
            batches = [[ItemRequest(body, media_type)] for _, body, media_type in samples]
            trial = run_probe(folder, facts.batch_size, batches)
        if trial.error:
            raise ArchiveError(
                f"{archive.model} {archive.version} gives no answers: {trial.error}\n{trial.log}".strip()
            )
        return [(answer.status, answer.body) for [answer] in trial.answers]

    return ask


def _file(project: Project, archive: StoredArchive) -> Path:
    """Where golden answers of the archive lie: as its archive.yaml says, or beside a stock archive."""
    folder, spec = sound_archive_folders(project)[0].get(archive.model, (None, None))
    if folder is None or spec is None or archive.version not in spec.versions:
        return golden_file(project.archives / archive.model, archive.version)
    return folder / spec.golden / f"{archive.version}.json"

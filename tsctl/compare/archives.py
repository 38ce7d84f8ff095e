"""Lets two archives answer the same requests in the sandbox, and compares what they answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from handlers.contract import Tolerance
from tsctl.archive.answers import answers_of
from tsctl.archive.container import digest_of
from tsctl.archive.inspect import Facts
from tsctl.archive.known import known
from tsctl.archive.sandbox import why_open
from tsctl.archive.store import DIGEST_DIGITS
from tsctl.archive.trial import TIMEOUT_S, ItemRequest
from tsctl.archive.trust import Trust
from tsctl.archive.verify import runnable
from tsctl.compare.diff import Diff, batches_of, chunks, named_comparator, require_answered
from tsctl.compare.recorded import RecordedRequest, folder_requests, read_requests_to, sample_requests
from tsctl.errors import ArchiveError
from tsctl.host.progress import Progress

#: Requests that are answered, where nobody says otherwise.
REQUESTS = 2000


@dataclass(frozen=True)
class DiffOptions:
    """How two archives are compared.

    Args:
        traffic: a file of requests; None: the samples of both archives.
        samples: a folder of requests in place of them.
        most: requests; of more, every n-th is taken.
        comparator, field, k: as in `named_comparator`; None: by the form of the first answer.
        timeout_s: for all answers of one archive.
        trust_of: the pickles that are trusted, by the model's name.
    """

    traffic: Path | None = None
    most: int = REQUESTS
    comparator: str | None = None
    field: str = ""
    trust_pickles: bool = False
    timeout_s: float = 2 * TIMEOUT_S
    trust_of: Callable[[str], Trust] = Trust
    samples: Path | None = None
    k: int | None = None


@dataclass(frozen=True)
class Named:
    """One of the two archives."""

    model: str
    version: str
    digest: str

    @property
    def title(self) -> str:
        return f"{self.model} {self.version}"


@dataclass(frozen=True)
class ArchiveDiff:
    """The result, and what it is of."""

    old: Named
    new: Named
    source: str
    batch: int  # requests of a full batch
    diff: Diff


def diff_archives(old: Path, new: Path, options: DiffOptions, progress: Progress) -> ArchiveDiff:
    """Compare the answers of two archives.

    Raises:
        ArchiveError: one of them fails its static checks, does not load, or does not answer in time; or there is no
            sample to send.
        SpecError: the file of requests is wrong, or the comparator is.
        AnalysisError: the old one refused all requests.
    """
    if options.comparator is not None:
        # a mistake is found before anything runs
        named_comparator(options.comparator, options.field, options.k, Tolerance())
    if reason := why_open():
        progress.line(f"the archives run with your rights and not in a sandbox: {reason}")
    with ExitStack() as opened:
        (old_folder, of_old), (new_folder, of_new) = (
            opened.enter_context(runnable(path, options.trust_pickles, options.timeout_s, options.trust_of))
            for path in (old, new)
        )
        requests, source = requests_of(old, new, of_old, options)
        items = [ItemRequest(each.body, each.media_type, each.headers) for each in requests]
        size = min(of_old.batch_size, of_new.batch_size)
        batches = [[items[place] for place in batch] for batch in batches_of(len(items), size)]
        diff = Diff(of_old.tolerance)
        if options.comparator is not None:
            diff.comparator = named_comparator(options.comparator, options.field, options.k, of_old.tolerance)
        answers = []
        for folder, facts in ((old_folder, of_old), (new_folder, of_new)):
            with progress.step(f"{len(items)} requests to {' '.join(facts.names)}"):
                answers.append(opened.enter_context(answers_of(folder, facts, batches, options.timeout_s)))
        pairs = zip(*(chunks(each, len(items), size) for each in answers), strict=True)
        for begin, (from_old, from_new) in zip(range(0, len(items), size), pairs, strict=True):
            diff.seen([each.name for each in requests[begin : begin + size]], from_old, from_new)
    named = _named(old, of_old), _named(new, of_new)
    require_answered(diff, named[0].title)
    return ArchiveDiff(*named, source, size, diff)


def requests_of(old: Path, new: Path, of_old: Facts, options: DiffOptions) -> tuple[Sequence[RecordedRequest], str]:
    """What is sent, and where it comes from in words."""
    if options.traffic is not None:
        found = list(read_requests_to(options.traffic, of_old.names[0]))
        source = f"{len(found)} requests of {options.traffic}"
    elif options.samples is not None:
        found = folder_requests(options.samples)
        source = f"{len(found)} requests of {options.samples}"
    else:
        samples = {
            (each.name, each.body): each for path in (new, old) if known(path).samples for each in sample_requests(path)
        }
        found = sorted(samples.values(), key=lambda each: each.name)
        source = f"{len(found)} samples of both archives"
    if not found:
        raise ArchiveError(
            f"neither {old.name} nor {new.name} has samples to send", "Give requests with --samples or --traffic."
        )
    if len(found) > options.most:
        source = f"{options.most} of {source}"
    return thinned(found, options.most), source


def thinned(requests: Sequence[RecordedRequest], most: int) -> Sequence[RecordedRequest]:
    """At most so many of the requests, evenly spread over their order."""
    if len(requests) <= most:
        return requests
    return [requests[place * len(requests) // most] for place in range(most)]


def _named(path: Path, facts: Facts) -> Named:
    return Named(*facts.names, digest_of(path)[:DIGEST_DIGITS])

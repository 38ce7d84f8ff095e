"""Checks an archive's answers in the sandbox: golden samples, bad items, and neighbours in a batch.

Rule: what was not compared is no pass. An archive that tsctl built needs a sample, and a golden answer for each. For a
stock archive, which can hold neither, that is a warning; but a sample that it does not answer with 200, or not with the
golden answer that is kept beside it, is a failure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handlers.contract import ANY_MEDIA_TYPE, BINARY, JPEG, JSON, PNG, PROBLEM_MEDIA_TYPE, Tolerance, difference
from tsctl.archive.checks import FAIL, PASS, SKIP, WARN, Check
from tsctl.archive.container import GOLDEN
from tsctl.archive.inspect import Facts
from tsctl.archive.known import Known, difference_of, known, name_of
from tsctl.archive.samples import media_type_of_file
from tsctl.archive.trial import ItemAnswer, ItemRequest, Trial, run_probe
from tsctl.errors import ArchiveError, printable
from tsctl.host.documents import parse_json

PROBLEM_FIELDS = ("type", "title", "status", "detail", "request_id", "model", "version")


@dataclass(frozen=True)
class GoldenSample:
    """A request and its right answer, where that is known."""

    name: str
    request: ItemRequest
    golden: Any = None
    has_golden: bool = False
    is_own: bool = False  # it came with the archive


@dataclass(frozen=True)
class BadItem:
    """A request that must be refused, and the right statuses."""

    name: str
    request: ItemRequest
    statuses: tuple[int, ...]
    may_be_good: bool = False  # a model may well answer it, as of raw samples of sound any bytes are some
    is_of_no_type: bool = False  # of a media type that no model reads, but for one that reads any


#: Longer bodies are not sent: a node takes none.
MAX_PROBED_BYTES = 64 << 20
#: Answers of a text model that are computed together, at most: each takes seconds.
MOST_TEXTS = 8
#: Follows the begin of a sample of a binary type, whose first bytes are those of its type.
_NOISE, _HEAD_BYTES = b'\xff\x00{"' * 16, 16


def bad_items(samples: Sequence[GoldenSample], most_bytes: int | None) -> list[BadItem]:
    """Requests to refuse, of the media types of the samples, so that the handler's own decoders get them.

    A 415 to a malformed body is no refusal by a decoder.
    """
    firsts = {sample.request.media_type: sample.request.body for sample in reversed(samples)} or {JSON: b""}
    bad = []
    for media_type, body in sorted(firsts.items()):
        is_text = media_type == JSON or media_type.startswith("text/")
        malformed = _NOISE if is_text else body[:_HEAD_BYTES] + _NOISE
        bad.append(BadItem(f"empty {media_type}", ItemRequest(b"", media_type), (400,)))
        may_be_good = not is_text and media_type not in (PNG, JPEG)
        bad.append(BadItem(f"malformed {media_type}", ItemRequest(malformed, media_type), (400, 422), may_be_good))
    nothing = ItemRequest(b"{}", "application/x-nothing")
    bad.append(BadItem("wrong media type", nothing, (415,), is_of_no_type=True))
    if most_bytes is not None and most_bytes < MAX_PROBED_BYTES:
        bad.append(BadItem("oversized", ItemRequest(b" " * (most_bytes + 1), next(iter(firsts))), (413,)))
    return bad


def behaviour_checks(
    path: Path, folder: Path, facts: Facts, extra: Sequence[Path], timeout_s: float
) -> Iterator[Check]:
    """Checks of the answers; for a stock archive, a breach of the contract of tsctl's handlers is a warning.

    Args:
        folder: the unpacked archive.
        extra: request bodies to send besides the archive's own samples.
    """
    found = known(path)
    samples = [
        *own_samples(found),
        *(GoldenSample(file.name, _request(file, facts.serving.sample_types)) for file in extra),
    ]
    comparison = comparison_check(samples, found.answers, facts.tolerance, facts.is_stock)
    yield comparison
    if comparison.outcome == FAIL:
        return
    plan = _Plan(samples, facts)
    trial = run_probe(folder, facts.batch_size, plan.batches(), timeout_s=timeout_s)
    if not trial.is_loaded:
        reason = trial.error.removeprefix("LoadError: ")  # complete for a handler of tsctl; others need the log
        yield Check("loads", FAIL, reason if reason != trial.error else f"{trial.error}\n{trial.log}".strip())
        return
    yield Check("loads", PASS, f"{trial.load_s} s")
    if trial.error:
        yield Check("answers", FAIL, f"{trial.error}\n{trial.log}".strip())
        return
    if [len(batch) for batch in plan.batches()] != [len(answers) for answers in trial.answers]:
        yield Check("answers", FAIL, "it gave other than one answer for each item")
        return
    for check in plan.judge(trial):
        is_contract = check.outcome == FAIL and facts.is_stock and not check.name.startswith(BINDING)
        yield Check(check.name, WARN, check.detail) if is_contract else check


ANSWERED, RIGHT = "samples are answered", "golden answers"
#: What the names of those checks begin with that fail for stock archives too.
BINDING = (ANSWERED, RIGHT)


def comparison_check(
    samples: Sequence[GoldenSample], golden: Mapping[str, Any], tolerance: Tolerance, is_stock: bool
) -> Check:
    """Check that there is something to compare: samples, and golden answers that another answer would not fit."""
    name = "samples and golden answers"
    if not samples:
        return Check(name, WARN if is_stock else FAIL, "no sample, so no answer is compared: name one with --sample")
    known = {sample.name for sample in samples if sample.has_golden}
    if is_stock and not known:
        return Check(name, WARN, f"no golden answers: {len(samples)} answers are compared only with each other")
    own = {sample.name for sample in samples if sample.is_own}
    if not is_stock and (odd := sorted(own ^ golden.keys())):
        return Check(name, FAIL, f"samples/ and {GOLDEN} do not match one to one: {', '.join(odd[:8])}")
    if not known:
        return Check(name, FAIL, f"{GOLDEN} has no answer, so none is compared")
    if any_fits := [sample.name for sample in samples if sample.has_golden and not _can_fail(sample.golden, tolerance)]:
        return Check(name, FAIL, f"within the tolerance, any answer is right: {', '.join(any_fits[:8])}")
    return Check(name, PASS, f"{len(known)} golden")


def _can_fail(golden: Any, tolerance: Tolerance) -> bool:
    """Whether an answer of the same form can differ from the golden one: zeros, or numbers twice or one as large."""
    if isinstance(golden, dict):  # an empty list by name is an answer too: nothing was found
        return any(value == [] or _can_fail(value, tolerance) for value in golden.values())
    if isinstance(golden, list):
        return any(_can_fail(inner, tolerance) for inner in golden)
    others = (0.0, 2 * golden, golden + 1) if isinstance(golden, float) else ()
    return not others or not all(tolerance.holds(other, golden) for other in others)


def texts_together(samples: Sequence[GoldenSample], places: int) -> int:
    """Samples of a text model that are sent together, at least one: a worker has so many places for their answers."""
    most = max((_answers_to(sample.request.body) for sample in samples), default=1)
    return max(1, min(MOST_TEXTS, places // most))


def _answers_to(body: bytes) -> int:
    """How many answers a request asks for; 1 where it cannot be read, which the worker refuses."""
    try:
        asked = parse_json(body)
        prompts, each = asked.get("prompt"), asked.get("n") or 1
    except (ValueError, AttributeError):
        return 1
    return max(1, len(prompts) if isinstance(prompts, list) else 1) * (each if isinstance(each, int) else 1)


class _Plan:
    """The batches to send to an archive, and the checks of their answers."""

    def __init__(self, samples: list[GoldenSample], facts: Facts) -> None:
        self.samples = samples
        self.size = texts_together(samples, facts.together) if facts.is_text else facts.batch_size
        self.neighbours = self.size - 1 if facts.is_text else max(2, self.size - 1)
        self.tolerance = facts.tolerance
        limits = facts.serving.limits
        self.is_long = limits is not None and limits.request_bytes >= MAX_PROBED_BYTES
        self.bad = bad_items(samples, limits.request_bytes if limits is not None else None)

    def batches(self) -> list[list[ItemRequest]]:
        """In the order in which `judge` takes them: each sample alone, a full batch, the same backwards, each bad item
        alone, and each bad item in the middle of good ones."""
        if not self.samples:
            return [[bad.request] for bad in self.bad]
        full = self._full()
        return [
            *([sample.request] for sample in self.samples),
            [sample.request for sample in full],
            [sample.request for sample in reversed(full)],
            *([bad.request] for bad in self.bad),
            *([request for _, request in self._mixed(bad)] for bad in self.bad),
        ]

    def judge(self, trial: Trial) -> Iterator[Check]:
        """The checks, from the answers to `batches`."""
        answers = iter(trial.answers)
        reads_any = ANY_MEDIA_TYPE in trial.media_types
        alone: list[ItemAnswer] = []
        if self.samples:
            alone = [next(answers)[0] for _ in self.samples]
            full, backwards = next(answers), next(answers)[::-1]
            yield self._answered_check([*zip(self.samples, alone, strict=True), *zip(self._full(), full, strict=True)])
            if any(sample.has_golden for sample in self.samples):
                yield self._golden_check(f"{RIGHT}, alone", self.samples, alone)
                yield self._golden_check(f"{RIGHT}, in a batch of {self.size}", self._full(), full)
            yield self._neighbour_check(alone, full, backwards)
        for bad in self.bad:
            yield _refusal_check(f"{bad.name} item", next(answers)[0], bad, reads_any)
        if self.is_long:
            yield Check("oversized item", SKIP, f"request_bytes is {MAX_PROBED_BYTES} or more, and none is sent")
        for bad in self.bad if self.samples else ():
            yield self._isolation_check(bad, next(answers), alone, reads_any)

    def _full(self) -> list[GoldenSample]:
        return [self.samples[i % len(self.samples)] for i in range(self.size)]

    def _mixed(self, bad: BadItem) -> list[tuple[GoldenSample | None, ItemRequest]]:
        """A batch of samples with one bad item in its middle."""
        good = [(sample, sample.request) for sample in self._full()[: self.neighbours]]
        middle = len(good) // 2
        return [*good[:middle], (None, bad.request), *good[middle:]]

    def _answered_check(self, answers: Sequence[tuple[GoldenSample, ItemAnswer]]) -> Check:
        for sample, answer in answers:
            if answer.status != 200:
                return Check(ANSWERED, FAIL, f"{sample.name}: answered {answer.status}: {_text(answer)}")
        return Check(ANSWERED, PASS, f"{len(self.samples)}")

    def _golden_check(self, name: str, samples: list[GoldenSample], answers: list[ItemAnswer]) -> Check:
        for sample, answer in zip(samples, answers, strict=True):
            if sample.has_golden and (
                wrong := difference_of(answer.status, answer.body, sample.golden, self.tolerance)
            ):
                return Check(name, FAIL, f"{sample.name}: {wrong}")
        return Check(name, PASS)

    def _neighbour_check(self, alone: list[ItemAnswer], full: list[ItemAnswer], backwards: list[ItemAnswer]) -> Check:
        name = "answers do not depend on neighbours"
        for place in range(len(full)):
            sample, expected = self.samples[place % len(self.samples)], alone[place % len(alone)]
            for batch, answer in (("in a full batch", full[place]), ("in the reversed batch", backwards[place])):
                wrong = self._unlike(answer, expected)
                if wrong:
                    return Check(name, FAIL, f"{sample.name} {batch}, item {place}: {wrong}")
        return Check(name, PASS)

    def _isolation_check(
        self, bad: BadItem, answers: list[ItemAnswer], alone: list[ItemAnswer], reads_any: bool
    ) -> Check:
        title = f"one {bad.name} item among good ones"
        expected = {sample.name: answer for sample, answer in zip(self.samples, alone, strict=True)}
        for (sample, _), answer in zip(self._mixed(bad), answers, strict=True):
            if sample is None:
                refusal = _refusal_check(title, answer, bad, reads_any)
                if refusal.outcome == FAIL:
                    return refusal
            elif wrong := self._unlike(answer, expected[sample.name]):
                return Check(title, FAIL, f"its neighbour {sample.name}: {wrong}")
        return Check(title, PASS)

    def _unlike(self, answer: ItemAnswer, expected: ItemAnswer) -> str | None:
        if answer.status != expected.status:
            return f"answered {answer.status} and, alone, {expected.status}"
        if answer.body == expected.body:
            return None
        try:
            return self._difference(answer, expected.json())
        except ValueError:
            return "other bytes than alone"

    def _difference(self, answer: ItemAnswer, expected: Any) -> str | None:
        try:
            return difference(answer.json(), expected, self.tolerance)
        except ValueError:
            return f"is not JSON: {_text(answer)}"


def _refusal_check(name: str, answer: ItemAnswer, bad: BadItem, reads_any: bool) -> Check:
    """Check that a bad item is refused as it should be.

    Args:
        reads_any: the handler reads any media type, so it may answer what is of none, or refuse its content.
    """
    statuses = (*bad.statuses, 400, 422) if bad.is_of_no_type and reads_any else bad.statuses
    if answer.status == 200 and bad.is_of_no_type and reads_any:
        return Check(name, PASS, "200: the handler reads any media type")
    if answer.status == 200 and bad.may_be_good:
        return Check(name, PASS if reads_any else WARN, "200: right only if all bytes are a body of this type")
    if answer.status not in statuses:
        return Check(name, FAIL, f"answered {answer.status}, expected {' or '.join(map(str, statuses))}")
    try:
        problem = answer.json()
        missing = [key for key in PROBLEM_FIELDS if key not in problem]
    except (ValueError, TypeError):
        return Check(name, FAIL, f"answered {answer.status} without a problem document: {_text(answer)}")
    if missing or answer.media_type != PROBLEM_MEDIA_TYPE:
        return Check(name, FAIL, f"its problem document lacks {', '.join(missing) or 'its media type'}")
    return Check(name, PASS, f"{answer.status}")


def own_samples(found: Known) -> list[GoldenSample]:
    """The archive's own samples, or those that are kept beside it, with their golden answers."""
    return [
        GoldenSample(name, ItemRequest(body, media_type), found.answers.get(name), name in found.answers, is_own=True)
        for name, (_, body, media_type) in zip(map(name_of, found.samples), found.samples, strict=True)
    ]


def _request(path: Path, types: Mapping[str, str]) -> ItemRequest:
    try:
        return ItemRequest(path.read_bytes(), media_type_of_file(path.name, types) or BINARY)
    except OSError as error:
        raise ArchiveError(f"sample {path} cannot be read: {error.strerror}") from None


def _text(answer: ItemAnswer) -> str:
    return printable(answer.body[:200].decode("utf-8", "replace"))

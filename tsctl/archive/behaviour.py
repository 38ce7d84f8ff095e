"""Checks an archive's answers in a clean process: golden samples, bad items, and neighbours in a batch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handlers.contract import JSON, PROBLEM_MEDIA_TYPE, SAMPLE_MEDIA_TYPES, Tolerance, difference
from tsctl.archive.checks import FAIL, PASS, SKIP, WARN, Check
from tsctl.archive.inspect import Facts
from tsctl.archive.trial import ItemAnswer, ItemRequest, Trial, run_probe
from tsctl.errors import ArchiveError

PROBLEM_FIELDS = ("type", "title", "status", "detail", "request_id", "model", "version")


@dataclass(frozen=True)
class GoldenSample:
    """A request and its right answer, where that is known."""

    name: str
    request: ItemRequest
    golden: Any = None
    has_golden: bool = False


@dataclass(frozen=True)
class BadItem:
    """A request that must be refused, and the right statuses."""

    name: str
    request: ItemRequest
    statuses: range


BAD_ITEMS = (
    BadItem("empty", ItemRequest(b"", JSON), range(400, 401)),
    BadItem("malformed", ItemRequest(b'\xff\x00{"', JSON), range(400, 423)),
    BadItem("wrong media type", ItemRequest(b"{}", "application/x-nothing"), range(415, 416)),
)


def behaviour_checks(folder: Path, facts: Facts, extra: Sequence[Path], timeout_s: float) -> Iterator[Check]:
    """Checks of the answers; for a stock archive, a breach of the contract of tsctl's handlers is a warning.

    Args:
        extra: request bodies to send besides the archive's own samples.
    """
    samples = [*_own_samples(folder), *(_sample(path) for path in extra)]
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
    for check in plan.judge(trial):
        is_contract = check.outcome == FAIL and facts.is_stock
        yield Check(check.name, WARN, check.detail) if is_contract else check


class _Plan:
    """The batches to send to an archive, and the checks of their answers."""

    def __init__(self, samples: list[GoldenSample], facts: Facts) -> None:
        self.samples = samples
        self.size = facts.batch_size
        serving = facts.config.get("serving") or {}
        self.tolerance = Tolerance(**(serving.get("tolerance") or {}))
        self.bad = list(BAD_ITEMS)
        if limit := (serving.get("limits") or {}).get("request_bytes"):
            self.bad.append(BadItem("oversized", ItemRequest(b" " * (limit + 1), JSON), range(413, 414)))

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
        alone: list[ItemAnswer] = []
        if not self.samples:
            yield Check("samples", SKIP, "it has none; name one with --sample")
        else:
            alone = [next(answers)[0] for _ in self.samples]
            full, backwards = next(answers), next(answers)[::-1]
            yield self._golden_check("golden answers, alone", self.samples, alone)
            yield self._golden_check(f"golden answers, in a batch of {self.size}", self._full(), full)
            yield self._neighbour_check(alone, full, backwards)
        for bad in self.bad:
            yield _refusal_check(f"{bad.name} item", next(answers)[0], bad.statuses)
        for bad in self.bad if self.samples else ():
            yield self._isolation_check(bad, next(answers), alone)

    def _full(self) -> list[GoldenSample]:
        return [self.samples[i % len(self.samples)] for i in range(self.size)]

    def _mixed(self, bad: BadItem) -> list[tuple[GoldenSample | None, ItemRequest]]:
        """A batch of samples with one bad item in its middle."""
        good = [(sample, sample.request) for sample in self._full()[: max(2, self.size - 1)]]
        middle = len(good) // 2
        return [*good[:middle], (None, bad.request), *good[middle:]]

    def _golden_check(self, name: str, samples: list[GoldenSample], answers: list[ItemAnswer]) -> Check:
        for sample, answer in zip(samples, answers, strict=True):
            wrong = self._wrong(sample, answer)
            if wrong:
                return Check(name, FAIL, f"{sample.name}: {wrong}")
        known = sum(sample.has_golden for sample in samples)
        return Check(name, PASS, "" if known else "no golden answers to compare with")

    def _neighbour_check(self, alone: list[ItemAnswer], full: list[ItemAnswer], backwards: list[ItemAnswer]) -> Check:
        name = "answers do not depend on neighbours"
        for place in range(len(full)):
            sample, expected = self.samples[place % len(self.samples)], alone[place % len(alone)]
            for batch, answer in (("in a full batch", full[place]), ("in the reversed batch", backwards[place])):
                wrong = self._unlike(answer, expected)
                if wrong:
                    return Check(name, FAIL, f"{sample.name} {batch}, item {place}: {wrong}")
        return Check(name, PASS)

    def _isolation_check(self, bad: BadItem, answers: list[ItemAnswer], alone: list[ItemAnswer]) -> Check:
        title = f"one {bad.name} item among good ones"
        expected = {sample.name: answer for sample, answer in zip(self.samples, alone, strict=True)}
        for (sample, _), answer in zip(self._mixed(bad), answers, strict=True):
            if sample is None:
                refusal = _refusal_check(title, answer, bad.statuses)
                if refusal.outcome != PASS:
                    return refusal
            elif wrong := self._unlike(answer, expected[sample.name]):
                return Check(title, FAIL, f"its neighbour {sample.name}: {wrong}")
        return Check(title, PASS)

    def _wrong(self, sample: GoldenSample, answer: ItemAnswer) -> str | None:
        if answer.status != 200:
            return f"answered {answer.status}: {_text(answer)}"
        return self._difference(answer, sample.golden) if sample.has_golden else None

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


def _refusal_check(name: str, answer: ItemAnswer, statuses: range) -> Check:
    expected = f"{statuses[0]}" if len(statuses) == 1 else "a 4xx"
    if answer.status not in statuses:
        return Check(name, FAIL, f"answered {answer.status}, expected {expected}")
    try:
        problem = answer.json()
        missing = [key for key in PROBLEM_FIELDS if key not in problem]
    except (ValueError, TypeError):
        return Check(name, FAIL, f"answered {answer.status} without a problem document: {_text(answer)}")
    if missing or answer.media_type != PROBLEM_MEDIA_TYPE:
        return Check(name, FAIL, f"its problem document lacks {', '.join(missing) or 'its media type'}")
    return Check(name, PASS, f"{answer.status}")


def _own_samples(folder: Path) -> list[GoldenSample]:
    golden_file = folder / "golden.json"
    try:
        golden = json.loads(golden_file.read_text(encoding="utf-8")) if golden_file.is_file() else {}
    except ValueError as error:
        raise ArchiveError(f"its golden.json is not JSON: {error}") from None
    paths = sorted(path for path in (folder / "samples").glob("*") if path.is_file())
    samples = [_sample(path) for path in paths]
    return [GoldenSample(s.name, s.request, golden.get(s.name), s.name in golden) for s in samples]


def _sample(path: Path) -> GoldenSample:
    try:
        body = path.read_bytes()
    except OSError as error:
        raise ArchiveError(f"sample {path} cannot be read: {error.strerror}") from None
    return GoldenSample(path.name, ItemRequest(body, SAMPLE_MEDIA_TYPES.get(path.suffix.lower(), "")))


def _text(answer: ItemAnswer) -> str:
    return answer.body[:200].decode("utf-8", "replace")

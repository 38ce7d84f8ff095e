"""Compares what prediction records say of two answers: whole answers where both have them, summaries elsewhere. Pure.

A summary has less than the answer: a vector of more than 64 numbers is known by its norm and a sketch, a text by its
digest, and what no column has by the digest of the rest. A comparator that needs more raises NotComparable, and says
what to record. Invariant: two answers with different bytes agree only where the columns say so of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from handlers.contract import Tolerance
from tsctl.shadow.comparators import (
    AGREES,
    DEFAULT_TOLERANCE,
    Comparator,
    Comparison,
    Json,
    Label,
    Length,
    NotComparable,
    Number,
    Text,
    Tokens,
    TopK,
    Vector,
    comparator_for,
)
from tsctl.shadow.embedding import LEAST, Embedding, texts_to_embed
from tsctl.shadow.judged import Judged, pairs_to_judge
from tsctl.shadow.pairing import Answer

KEEP = "keep answers whole (records: {answers: true} in archive.yaml), or choose another comparator"
EMBEDDING, HANDLER = "embedding", "handler"
By = Literal["label", "top_k", "number", "vector", "text", "json", "tokens", "length", "embedding", "handler"]
#: All of them.
COMPARED_BY: tuple[str, ...] = get_args(By)
#: Of two vectors that are known by their sketches: the cosine, and how far their norms may lie apart, as a share.
LEAST_COSINE, NORM_SHARE = 0.999, 0.01


@dataclass(frozen=True)
class Summary:
    """What a record says of one answer; the columns are those of docs/records.md.

    Args:
        answer: its JSON value, where `is_whole`.
    """

    label: str | None = None
    score: float | None = None
    scores: Sequence[float] | None = None
    outputs: Mapping[str, float] = field(default_factory=dict)
    norm: float | None = None
    sketch: Sequence[float] | None = None
    text_digest: str | None = None
    lists: Sequence[str] | None = None
    rest_digest: str | None = None
    rest_has_fractions: bool = False
    answer_digest: str | None = None
    answer: Any = None
    is_whole: bool = False

    @property
    def text(self) -> str:
        """The answer in a few words, for a table of examples."""
        if self.is_whole:
            return f"{self.answer!r:.200}"
        numbers = ", ".join(f"{name} {value:.6g}" for name, value in list(self.outputs.items())[:4])
        scores = f"best score {max(self.scores):.4g}" if self.scores and not self.outputs else ""
        norm = f"norm {self.norm:.6g}" if self.norm is not None and not scores and not numbers else ""
        digest = f"text {self.text_digest[:12]}" if self.text_digest else ""
        shown = [part for part in (self.label, numbers, scores, norm, digest) if part]
        return ", ".join(shown) or f"digest {(self.answer_digest or '-')[:12]}"


@dataclass(frozen=True)
class CompareOptions:
    """How answers of a model are compared, as `compare` of archive.yaml or a command says.

    Args:
        by: None: by the label where answers have one, else everything within the tolerance.
        field: place of the value in the answer; None: where a record has it.
        k: of `top_k`.
        least: share of `top_k` or `tokens`, or cosine of `vector` or `embedding`; None: the comparator's own.
        most: share of the characters of `text` that may be edited, or by which a `length` may differ; the distance of
            `handler` at which answers still agree.
        model: of sentence embeddings, of `embedding`.
    """

    by: By | None = None
    field: str | None = None
    k: int = 5
    least: float | None = None
    most: float = 0.0
    model: str = "embeddings"


@dataclass(frozen=True)
class SummaryComparator:
    """Compares two summaries by these options; it is a Comparator.

    Args:
        tolerance: of numbers, the archive's.
        archive: whose handler compares by `handler`, as MODEL:VERSION; empty where no archive is known.
        vectors: of the texts that `to_embed` names; `embedding` alone needs them.
        distances: of the pairs that `to_judge` names, by `pair_key`; `handler` alone needs them.
    """

    options: CompareOptions = CompareOptions()
    tolerance: Tolerance = DEFAULT_TOLERANCE
    archive: str = ""
    vectors: Mapping[str, Sequence[float]] = field(default_factory=dict)
    distances: Mapping[str, float] = field(default_factory=dict)

    @property
    def embeds(self) -> bool:
        """Whether it needs vectors of the texts that it compares."""
        return self.options.by == EMBEDDING

    @property
    def asks(self) -> bool:
        """Whether an archive is asked before anything is compared, which takes seconds."""
        return self.options.by in (EMBEDDING, HANDLER)

    def with_vectors(self, vectors: Mapping[str, Sequence[float]]) -> SummaryComparator:
        """The same, with these vectors of texts."""
        return replace(self, vectors=vectors)

    def to_embed(self, pairs: Iterable[tuple[Answer, Answer]]) -> list[str]:
        """The texts whose vectors it needs to compare these answers, each once."""
        return texts_to_embed(_whole(pairs), self.options.field or "") if self.embeds else []

    def with_distances(self, distances: Mapping[str, float]) -> SummaryComparator:
        """The same, with these distances of pairs."""
        return replace(self, distances=distances)

    def to_judge(self, pairs: Iterable[tuple[Answer, Answer]]) -> dict[str, tuple[Any, Any]]:
        """The pairs that the handler must compare, each once, by `pair_key`."""
        return pairs_to_judge(_whole(pairs)) if self.options.by == HANDLER else {}

    def __call__(self, stable: Summary, other: Summary) -> Comparison:
        options = self.options
        if options.by is None and stable.label is not None:
            return Label()({"label": stable.label}, {"label": other.label})
        if stable.is_whole and other.is_whole and (options.by != "label" or options.field is not None):
            return self._of_answers(stable.answer)(stable.answer, other.answer)
        if stable.answer_digest is not None and stable.answer_digest == other.answer_digest:
            return AGREES
        match options.by:
            case "label":
                return self._label(stable, other)
            case "top_k":
                scores = TopK(options.k, 1.0 if options.least is None else options.least, "")
                self._need_lists(stable, is_one=True)
                return scores(_need(stable.scores, "scores"), self._of_lists(stable, other, other.scores))
            case "number":
                number = Number(self.tolerance)
                return number(_need(self._number(stable), "number"), self._number(other))
            case "vector":
                vector = Vector(LEAST_COSINE if options.least is None else options.least)
                self._need_lists(stable, is_one=False)
                return vector(_need(_vector(stable), "vector"), self._of_lists(stable, other, _vector(other)))
            case "text":
                return self._text(stable, other)
            case "tokens":
                raise NotComparable(f"tokens are compared in whole answers: {KEEP}")
            case "embedding":
                whose = "the shadow's" if stable.is_whole else "stable's"
                raise NotComparable(
                    f"{whose} records have digests of texts only, and a model embeds whole ones: {KEEP}"
                )
            case "handler":
                raise NotComparable(f"the handler compares whole answers: {KEEP}")
            case "length":
                length = Length(options.most, options.field or Length.field)
                return length({**stable.outputs}, {**other.outputs})
        return self._all(stable, other)

    def of_values(self) -> Comparator:
        """The comparator of whole answers as JSON values.

        Everything is compared where no comparator is named, and in place of one that asks an archive: none is asked
        there.
        """
        is_left = self.options.by is None or self.asks
        options = replace(self.options, by="json") if is_left else self.options
        chosen = replace(self, options=options)
        return lambda stable, other: chosen._of_answers(stable)(stable, other)

    def _of_answers(self, stable: Any) -> Comparator:
        """The comparator of whole answers."""
        options, place = self.options, self.options.field
        match options.by:
            case "label":
                return Label(place or "label")
            case "top_k":
                return TopK(options.k, 1.0 if options.least is None else options.least, place or TopK.field)
            case "number":
                return Number(self.tolerance, place or "")
            case "vector":
                return Vector(LEAST_COSINE if options.least is None else options.least, place or "")
            case "text":
                return Text(options.most, place or "")
            case "json":
                return Json(self.tolerance)
            case "tokens":
                return Tokens(1.0 if options.least is None else options.least)
            case "length":
                return Length(options.most, place or Length.field)
            case "handler":
                return Judged(self.distances, options.most)
            case "embedding":
                return Embedding(self.vectors, LEAST if options.least is None else options.least, place or "")
        return comparator_for(stable, self.tolerance)

    def _label(self, stable: Summary, other: Summary) -> Comparison:
        if self.options.field is not None:
            raise NotComparable(f"records have no class in {self.options.field!r}: {KEEP}")
        if stable.label is None:
            raise NotComparable("stable's answers name no class: let the handler classify them, or compare otherwise")
        return Label()({"label": stable.label}, {"label": other.label})

    def _number(self, summary: Summary) -> float | None:
        return summary.score if self.options.field is None else summary.outputs.get(self.options.field)

    def _text(self, stable: Summary, other: Summary) -> Comparison:
        if self.options.most or self.options.field is not None:
            raise NotComparable(f"edits are counted in whole answers: {KEEP}")
        return Text()(_need(stable.text_digest, "text"), other.text_digest)

    def _need_lists(self, stable: Summary, is_one: bool) -> None:
        """Raises NotComparable where the columns may be of other lists than the named one, or of several."""
        field, lists = self.options.field, stable.lists
        if field is None:
            if is_one and lists is not None and len(lists) > 1:
                raise NotComparable(f"the answers have several lists of numbers ({', '.join(lists)}): {KEEP}")
        elif lists is None or list(lists) != [field]:
            of = f"are of {', '.join(lists)}" if lists else "do not say of which lists they are"
            raise NotComparable(f"the numbers in stable's records {of}, and not of {field!r} alone: {KEEP}")

    def _of_lists(self, stable: Summary, other: Summary, value: Sequence[float] | None) -> Sequence[float] | None:
        """The other answer's numbers; None where they are of other lists."""
        is_known = stable.lists is not None and other.lists is not None
        return value if not is_known or list(stable.lists or ()) == list(other.lists or ()) else None

    def _all(self, stable: Summary, other: Summary) -> Comparison:
        """Everything that the records have, fractions within the tolerance; the rest must be equal."""
        tolerance = replace(self.tolerance, tokens=None)  # of whole answers
        known = [({**each.outputs}, list(each.scores or ()), each.text_digest, each.label) for each in (stable, other)]
        about = Json(tolerance)(*(dict(zip(("outputs", "scores", "text", "label"), k, strict=True)) for k in known))
        if about.differs:
            return about
        if stable.sketch is not None or other.sketch is not None:
            norms = Number(Tolerance(tolerance.absolute, max(tolerance.relative, NORM_SHARE)))
            by_norm = norms(stable.norm or 0.0, other.norm)
            sketches = Vector(LEAST_COSINE)
            about = by_norm if by_norm.differs else sketches(_need(stable.sketch, "vector"), other.sketch)
        return about if about.differs else self._rest(stable, other)

    def _rest(self, stable: Summary, other: Summary) -> Comparison:
        """What no other column has, of answers whose bytes differ and whose columns agree."""
        if stable.rest_digest is None or other.rest_digest is None:
            if not (stable.outputs or stable.scores or stable.text_digest or stable.label or stable.sketch):
                return _OTHER  # no JSON, and so nothing but its bytes
            raise NotComparable(f"the answers differ, and the records do not say whether beyond the tolerance: {KEEP}")
        if stable.rest_digest == other.rest_digest:
            return AGREES
        if stable.rest_has_fractions or other.rest_has_fractions:
            raise NotComparable(
                f"the answers differ in fractions that the records have no column for, such as nested ones: {KEEP}"
            )
        return Comparison(True, 1.0, "other values in what the records have no column for")


_OTHER = Comparison(True, 1.0, "other bytes")


def _vector(summary: Summary) -> Sequence[float] | None:
    return summary.sketch or summary.scores


def _whole(pairs: Iterable[tuple[Answer, Answer]]) -> Iterator[tuple[Any, Any]]:
    """The answers of those pairs of which both are known as a whole."""
    for stable, other in pairs:
        if stable.status == other.status == 200 and stable.value.is_whole and other.value.is_whole:
            yield stable.value.answer, other.value.answer


def _need(value: Any, what: str) -> Any:
    if value is None or value == []:
        raise NotComparable(f"the records of stable have no {what}: {KEEP}")
    return value

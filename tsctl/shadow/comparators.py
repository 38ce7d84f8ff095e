"""Compares two answers to one request, by the task of the model. Pure.

An answer is the JSON value that the handler answered with. Each comparator is a frozen set of options that is called
with stable's answer and the other one; a handler's own is any callable of that form. Invariant: an answer agrees with
itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handlers.contract import Tolerance, difference, texts_of
from tsctl.shadow.edits import edited_share


@dataclass(frozen=True)
class Comparison:
    """How one answer compares with stable's.

    Args:
        differs: beyond what the comparator allows.
        distance: 0 for the same answer; its unit is the comparator's. Infinite where it has no such value.
        about: the difference as a sentence; empty where the answers agree.
    """

    differs: bool
    distance: float = 0.0
    about: str = ""


#: Called with stable's answer and the other one.
Comparator = Callable[[Any, Any], Comparison]
AGREES = Comparison(False)
DEFAULT_TOLERANCE = Tolerance()


class NotComparable(ValueError):
    """Stable's answer has not the form that a comparator compares: the comparator is the wrong one."""


@dataclass(frozen=True)
class Json:
    """The whole answer, as golden answers are compared: fractions within the tolerance, the rest equal."""

    tolerance: Tolerance = DEFAULT_TOLERANCE

    def __call__(self, stable: Any, other: Any) -> Comparison:
        about = difference(other, stable, self.tolerance)
        return Comparison(True, math.inf, about) if about else AGREES


@dataclass(frozen=True)
class Label:
    """The predicted class; a distance of 1 is a flip. `field`, here and below: its place, with dots between."""

    field: str = "label"

    def __call__(self, stable: Any, other: Any) -> Comparison:
        before, after = _wanted(stable, self.field, (str, int), "a label"), value_at(other, self.field)
        if type(before) is type(after) and before == after:
            return AGREES
        return Comparison(True, 1.0, f"expected {before!r}, got {after!r}")


@dataclass(frozen=True)
class TopK:
    """The k classes with the largest scores, in any order; the distance is the share of stable's that is missing.

    Args:
        k: how many of them.
        least: share of stable's that the other must have too.
        field: of scores by label or by place, or of objects with a `label`, the best first.
    """

    k: int = 5
    least: float = 1.0
    field: str = "probabilities"

    def __call__(self, stable: Any, other: Any) -> Comparison:
        scores = value_at(stable, self.field)
        before = _best(scores, self.k)
        if not before:
            raise NotComparable(f"stable's answer has no scores in {self.field!r}: name their field, or compare labels")
        self._require_choice(scores)
        after = _best(value_at(other, self.field), self.k)
        missing = [label for label in before if label not in after]
        share = len(missing) / len(before)
        if 1 - share >= self.least - 1e-9:
            return Comparison(False, share)
        return Comparison(True, share, f"of the best {len(before)}, missing {', '.join(map(str, missing[:5]))}")

    def _require_choice(self, scores: Any) -> None:
        """Raises NotComparable where the k best are all classes, which every answer has; objects are the best alone."""
        is_named = isinstance(scores, Sequence) and isinstance(scores[0], Mapping)
        most = len(scores) if is_named else len(scores) - 1
        if self.k > most:
            advice = f"choose k of at most {most}" if most else "compare numbers"
            raise NotComparable(
                f"stable's answer has {len(scores)} scores, and the best {self.k} are all of them: {advice}"
            )


@dataclass(frozen=True)
class Number:
    """One number, within an absolute and a relative tolerance; the distance is the absolute difference."""

    tolerance: Tolerance = DEFAULT_TOLERANCE
    field: str = ""

    def __call__(self, stable: Any, other: Any) -> Comparison:
        before, after = float(_wanted(stable, self.field, (int, float), "a number")), value_at(other, self.field)
        if not isinstance(after, int | float) or isinstance(after, bool):
            return Comparison(True, math.inf, f"expected a number, got {after!r}")
        if self.tolerance.holds(float(after), before):
            return Comparison(False, abs(after - before))
        distance = abs(after - before)
        return Comparison(True, math.inf if math.isnan(distance) else distance, f"expected {before:g}, got {after:g}")


@dataclass(frozen=True)
class Vector:
    """The direction of a vector, such as an embedding or its sketch; the distance is 1 minus the cosine.

    Args:
        least: cosine of the angle between both. The default lets rounding to 16 bits pass.
    """

    least: float = 0.999
    field: str = ""

    def __call__(self, stable: Any, other: Any) -> Comparison:
        before, after = _numbers(value_at(stable, self.field)), _numbers(value_at(other, self.field))
        if before is None:
            raise NotComparable(f"stable's answer has no vector in {self.field!r}: name its field")
        if after is None or len(after) != len(before):
            return Comparison(True, math.inf, f"expected a vector of {len(before)} numbers")
        cosine = cosine_of(before, after)
        if cosine >= self.least:
            return Comparison(False, 1 - cosine)
        return Comparison(True, 1 - cosine, f"a cosine of {cosine:.4f}, at least {self.least:g} is expected")


@dataclass(frozen=True)
class Text:
    """A text, or its digest; the distance is the share of the longer text's characters that are edited.

    Args:
        most: share that may be edited; 0: the texts must be equal, and no edits are counted.
    """

    most: float = 0.0
    field: str = ""

    def __call__(self, stable: Any, other: Any) -> Comparison:
        before, after = _wanted(stable, self.field, (str,), "a text"), value_at(other, self.field)
        if before == after:
            return AGREES
        if not isinstance(after, str):
            return Comparison(True, math.inf, f"expected a text, got {after!r:.80}")
        if not self.most:
            return Comparison(True, math.inf, "another text")
        share = edited_share(before, after)
        about = f"{share:.1%} of the characters edited, at most {self.most:.1%} are allowed"
        return Comparison(True, share, about) if share > self.most else Comparison(False, share)


@dataclass(frozen=True)
class Tokens:
    """Texts of a language model, token by token up to the first difference; the distance is the share behind it.

    Of several answers to one request, the one that agrees least counts. The tokens are stable's; the other answer is
    compared as text.

    Args:
        least: share of stable's tokens before the first difference. 1: the texts must be equal, and end alike.
    """

    least: float = 1.0

    def __call__(self, stable: Any, other: Any) -> Comparison:
        before, after = texts_of_answer(stable), texts_of_answer(other)
        if before is None:
            raise NotComparable(f"stable's answer has no texts of a language model: {stable!r:.80}")
        if after is None or len(after) != len(before):
            return Comparison(True, math.inf, f"expected {len(before)} answers, got {other!r:.80}")
        return max(
            (self._one(*pair) for pair in zip(before, after, strict=True)),
            key=lambda each: (each.differs, each.distance),
        )

    def _one(self, before: tuple[Sequence[str], str], after: tuple[Sequence[str], str]) -> Comparison:
        (tokens, finish), (text, other_finish) = before, ("".join(after[0]), after[1])
        same = place = 0
        while same < len(tokens) and text.startswith(tokens[same], place):
            place += len(tokens[same])
            same += 1
        behind = 1 - place / len(text) if text else 0.0  # what goes on where stable ended
        share = 1 - same / len(tokens) if same < len(tokens) else behind
        is_other_end = same == len(tokens) and place == len(text) and finish != other_finish
        if 1 - share >= self.least - 1e-9 and not (is_other_end and self.least == 1):
            return Comparison(False, share)
        where = f"the same for {same} of {len(tokens)} tokens"
        return Comparison(True, share, f"{where}, at least {self.least:.0%} are expected; then {text[place:]!r:.60}")


@dataclass(frozen=True)
class Length:
    """Tokens of a language model's answer; the distance is the difference as a share of the longer one.

    Args:
        most: largest distance that agrees.
        field: of the count.
    """

    most: float = 0.0
    field: str = "answer_tokens"

    def __call__(self, stable: Any, other: Any) -> Comparison:
        before, after = _wanted(stable, self.field, (int, float), "a number"), value_at(other, self.field)
        if not isinstance(after, int | float) or isinstance(after, bool):
            return Comparison(True, math.inf, f"expected a number of tokens, got {after!r}")
        longest = max(before, after)
        share = abs(before - after) / longest if longest > 0 else 0.0
        return Comparison(share > self.most, share, f"{before:g} tokens, then {after:g}" if share > self.most else "")


#: Comparators by the name that a spec gives them.
COMPARATORS: dict[str, type] = {
    "json": Json, "label": Label, "top_k": TopK, "number": Number, "vector": Vector, "text": Text,
    "tokens": Tokens, "length": Length,
}  # fmt: skip


def comparator_for(answer: Any, tolerance: Tolerance) -> Comparator:
    """The comparator where none is named, by the form of an answer of stable: a label where it has one."""
    if isinstance(answer, Mapping) and isinstance(answer.get("label"), str | int):
        return Label()
    if isinstance(answer, str):
        return Text()
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        return Number(tolerance)
    return Json(tolerance)


def value_at(answer: Any, field: str) -> Any:
    """The value at a path with dots; None where the answer has none."""
    for key in field.split(".") if field else ():
        answer = answer.get(key) if isinstance(answer, Mapping) else None
    return answer


def texts_of_answer(answer: Any) -> list[tuple[list[str], str]] | None:
    """Pieces and end of each text of a record, or of an answer of the OpenAI API; None where it is neither."""
    try:
        return texts_of(answer)
    except (KeyError, TypeError):
        return None


def _wanted(stable: Any, field: str, types: tuple[type, ...], what: str) -> Any:
    value = value_at(stable, field)
    if isinstance(value, bool) or not isinstance(value, types):
        where = f"has no {what.split(' ', 1)[1]} in {field!r}" if field else f"is not {what}"
        raise NotComparable(f"stable's answer {where}: {stable!r:.80}; name its field, or another comparator")
    return value


def _best(scores: Any, k: int) -> list[Any]:
    """Labels of the k largest scores, the larger first; of equal scores, the earlier one."""
    if isinstance(scores, Mapping):
        named = list(scores.items())
    elif isinstance(scores, Sequence) and scores and isinstance(scores[0], Mapping):
        return [each.get("label") for each in scores[:k]]
    elif isinstance(scores, Sequence) and not isinstance(scores, str):
        named = list(enumerate(scores))
    else:
        return []
    if not all(isinstance(score, int | float) and math.isfinite(score) for _, score in named):
        return []
    return [label for label, _ in sorted(named, key=lambda pair: -pair[1])[:k]]


def _numbers(value: Any) -> Sequence[float] | None:
    """A vector, also one inside a list of one; None where it is none."""
    if isinstance(value, Sequence) and len(value) == 1 and isinstance(value[0], Sequence):
        value = value[0]
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return None
    return value if all(isinstance(each, int | float) for each in value) else None


def cosine_of(first: Sequence[float], second: Sequence[float]) -> float:
    """1 for two zero vectors, 0 where one is zero or has a number that is not finite."""
    if not all(map(math.isfinite, (*first, *second))):
        return 0.0
    largest = max(map(abs, first)), max(map(abs, second))
    if not all(largest):
        return float(largest[0] == largest[1])
    a, b = [value / largest[0] for value in first], [value / largest[1] for value in second]
    cosine = sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
    return min(1.0, max(-1.0, cosine))

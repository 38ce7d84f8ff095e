"""Compares what two texts are about: the cosine of vectors that a model of sentence embeddings gave them. Pure.

The model is asked before anything is compared (`tsctl.archive.embedded`), for the texts that `texts_to_embed` names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tsctl.shadow.comparators import AGREES, Comparison, NotComparable, cosine_of, texts_of_answer, value_at

#: Cosine from which two answers agree: of all-MiniLM-L6-v2, the one that tells sampled answers of SmolLM2 to one prompt
#: best from answers to two prompts (docs/shadow.md).
LEAST = 0.3


@dataclass(frozen=True)
class Embedding:
    """The meaning of texts; the distance is 1 minus the cosine. Of several texts in one answer, the worst counts.

    Args:
        vectors: of all texts that are not equal to their partner.
        least: cosine from which two texts agree.
        field: place of the text in the answer; empty: the answer is a text, or a language model's.
    """

    vectors: Mapping[str, Sequence[float]]
    least: float = LEAST
    field: str = ""

    def __call__(self, stable: Any, other: Any) -> Comparison:
        before, after = texts_in(stable, self.field), texts_in(other, self.field)
        if before is None:
            where = f" in {self.field!r}" if self.field else ""
            raise NotComparable(f"stable's answer has no text{where}: {stable!r:.80}; name its field")
        if after is None or len(after) != len(before):
            return Comparison(True, math.inf, f"expected {len(before)} texts, got {other!r:.80}")
        if before == after:
            return AGREES
        lowest = min(
            1.0 if first == second else cosine_of(self.vectors[first], self.vectors[second])
            for first, second in zip(before, after, strict=True)
        )
        if lowest >= self.least:
            return Comparison(False, 1 - lowest)
        return Comparison(True, 1 - lowest, f"a cosine of {lowest:.2f}, at least {self.least:g} is expected")


def texts_in(answer: Any, field: str = "") -> list[str] | None:
    """The texts of an answer, in order; None where it has none."""
    if field:
        answer = value_at(answer, field)
    if isinstance(answer, str):
        return [answer]
    texts = None if field else texts_of_answer(answer)
    return None if texts is None else ["".join(pieces) for pieces, _ in texts]


def texts_to_embed(pairs: Iterable[tuple[Any, Any]], field: str = "") -> list[str]:
    """The texts of these pairs of answers that differ from their partner, each once, in the order of their coming."""
    found: dict[str, None] = {}
    for stable, other in pairs:
        before, after = texts_in(stable, field), texts_in(other, field)
        if before is None or after is None or len(before) != len(after):
            continue
        for first, second in zip(before, after, strict=True):
            if first != second:
                found.update({first: None, second: None})
    return list(found)

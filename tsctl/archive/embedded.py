"""Vectors of texts by a model of sentence embeddings in the store, which runs in the sandbox as a child process.

Nothing is written down: a vector tells much of its text, and would outlive the records that the text is from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ValidationError

from handlers.contract import OPENAI_EMBEDDINGS, PROTOCOL_HEADER
from tsctl.archive.answers import answers_of
from tsctl.archive.store import StoredArchive
from tsctl.archive.trial import TIMEOUT_S, ItemRequest
from tsctl.archive.verify import runnable
from tsctl.errors import ArchiveError

#: Characters of a piece, which a model of 256 tokens reads whole, and pieces of a text; the rest of it is not read.
PIECE, MOST_PIECES = 600, 16
_JSON = "application/json"
_HINT = "Name a model of sentence embeddings."


class _Vector(BaseModel):
    embedding: list[float]


class _Vectors(BaseModel):
    data: list[_Vector]


def embed(archive: StoredArchive, texts: Sequence[str], timeout_s: float = TIMEOUT_S) -> list[list[float]]:
    """Vectors of length one, in the order of the texts; zeros for a text of white space.

    A text longer than PIECE is embedded in pieces, of which the mean counts, by their length.

    Raises:
        ArchiveError: the archive does not load, gives no embeddings, or does not answer in time.
    """
    cut = [list(pieces_of(text)) for text in texts]
    asked = [pieces for pieces in cut if pieces]
    if not asked:
        return [[0.0] for _ in texts]
    items = [
        ItemRequest(
            json.dumps({"model": archive.model, "input": pieces}).encode(), _JSON, {PROTOCOL_HEADER: OPENAI_EMBEDDINGS}
        )
        for pieces in asked
    ]
    found: list[list[list[float]]] = []
    with runnable(archive.path, timeout_s=timeout_s) as (folder, facts):
        batches = [items[begin : begin + facts.batch_size] for begin in range(0, len(items), facts.batch_size)]
        with answers_of(folder, facts, batches, timeout_s) as answers:
            for batch in answers:
                for answer in batch.answers:
                    found.append(_vectors(archive, answer.status, answer.body, len(asked[len(found)])))
    means = iter([_mean(vectors, pieces) for vectors, pieces in zip(found, asked, strict=True)])
    return [next(means) if pieces else [0.0] * len(found[0][0]) for pieces in cut]


def pieces_of(text: str) -> Iterator[str]:
    """At most MOST_PIECES pieces of at most PIECE characters, cut at white space where there is some."""
    rest, count = text.strip(), 0
    while rest and count < MOST_PIECES:
        end = len(rest)
        if end > PIECE:
            end = max(rest.rfind(" ", 1, PIECE + 1), rest.rfind("\n", 1, PIECE + 1))
            end = end if end > 0 else PIECE
        yield rest[:end]
        rest, count = rest[end:].lstrip(), count + 1


def _vectors(archive: StoredArchive, status: int, body: bytes, count: int) -> list[list[float]]:
    name = f"{archive.model} {archive.version}"
    if status != 200:
        raise ArchiveError(f"{name} answered {status} to a text: {body.decode(errors='replace'):.200}", _HINT)
    try:
        vectors = [each.embedding for each in _Vectors.model_validate_json(body).data]
    except ValidationError:
        vectors = []
    if len(vectors) != count or not all(vectors):
        raise ArchiveError(
            f"{name} gives no embeddings of texts: {body!r:.100}", "Name a model of sentence embeddings."
        )
    return vectors


def _mean(vectors: Sequence[Sequence[float]], pieces: Sequence[str]) -> list[float]:
    """Of length one: the mean of the vectors, by the length of their pieces."""
    total = [
        sum(len(piece) * vector[place] for piece, vector in zip(pieces, vectors, strict=True))
        for place in range(len(vectors[0]))
    ]
    length = math.hypot(*total)
    return [value / length for value in total] if length else total

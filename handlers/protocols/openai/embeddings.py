"""`/embeddings` of the OpenAI API on models of sentence embeddings: a request is one item of the handler."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from pydantic_core import from_json, to_json

from handlers.contract import JSON, TOKENS_HEADER, tokens_text
from handlers.errors import DoesNotFit, RequestError
from handlers.messages import Outcome, Request
from handlers.protocols.openai.errors import error_document, status_of
from handlers.protocols.openai.texts import misfit, read_texts
from handlers.schema import Schema, parse_json

#: Texts of one request, as OpenAI has them; a handler may take fewer.
MOST_TEXTS = 2048


class _Embeddings(Schema):
    model: str
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Embed:
    """A decoded request for embeddings."""

    row: Request  # the item that the handler computes
    texts: list[str]
    model: str  # as the client called it
    is_base64: bool
    dimensions: int | None

    @property
    def rows(self) -> list[Request]:
        """The one item."""
        return [self.row]


def read_embeddings(request: Request) -> Embed:
    """The body of `/embeddings`.

    Raises:
        RequestError: it cannot be read, or does not fit; numbers of tokens are refused, because only the model's own
            tokenizer would know them.
    """
    sent = parse_json(_Embeddings, request.body)
    texts = read_texts("input", sent.input, MOST_TEXTS)
    row = Request(b"", JSON, request.headers, request.request_id, {"text": texts})
    return Embed(row, texts, sent.model, sent.encoding_format == "base64", sent.dimensions)


def answer_embeddings(embed: Embed, outcome: Outcome, tokens: int) -> Outcome:
    """The answer in the API's form, of the handler's answer to the item.

    Args:
        tokens: of all texts.
    """
    if outcome.status != 200:
        error = outcome.error
        if error is None:  # a handler's own answer
            return outcome
        if isinstance(error, DoesNotFit):
            error = misfit("input", error.errors[0]["message"] if error.errors else error.detail)
        return refuse_embeddings(error)
    vectors: list[list[float]] = from_json(outcome.body)["embeddings"]
    if embed.dimensions not in (None, len(vectors[0])):
        return refuse_embeddings(misfit("dimensions", f"must be {len(vectors[0])}, which this model's vectors have"))
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if embed.is_base64 else vector}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    body = to_json({"object": "list", "data": data, "model": embed.model, "usage": usage})
    told = (TOKENS_HEADER, tokens_text(tokens, 0, "stop"))
    return Outcome(200, body, JSON, None, outcome.value, outcome.class_name, outcome.cache, (*outcome.headers, told))


def refuse_embeddings(error: RequestError) -> Outcome:
    """The outcome of a request that failed, in the API's form."""
    return Outcome(status_of(error), error_document(error), JSON, error)


def _base64(vector: list[float]) -> str:
    """Float32, little-endian, as OpenAI's clients read it."""
    return b64encode(np.asarray(vector, "<f4").tobytes()).decode()

"""Requests of other protocols than the plain one, and requests for the model's description.

A request of the Open Inference Protocol, or for embeddings of the OpenAI API, becomes rows that are computed as plain
requests are, and their outcomes become one answer.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

from handlers.base import ServingHandler
from handlers.contract import (
    OPEN_INFERENCE,
    OPEN_INFERENCE_METADATA,
    OPENAI_EMBEDDINGS,
    PROTOBUF,
    PROTOCOL_HEADER,
    VERSIONS_HEADER,
)
from handlers.errors import DoesNotFit, ModelFailed, PayloadTooLarge, RequestError
from handlers.log_lines import about
from handlers.messages import Outcome, Request, problem
from handlers.protocols import open_inference
from handlers.protocols.encoding import ENCODING_HEADER, decode_body
from handlers.protocols.open_inference.messages import encode_model_metadata
from handlers.protocols.openai.embeddings import Embed, answer_embeddings, read_embeddings, refuse_embeddings
from handlers.protocols.plain import check_size
from handlers.worker.config import WorkerConfig

logger = logging.getLogger(__name__)

#: A request that is computed as rows, and answered once.
Several = open_inference.InferRows | Embed


class Protocols:
    """What one worker reads besides plain requests."""

    def __init__(self, handler: ServingHandler, config: WorkerConfig) -> None:
        self.handler = handler
        self.config = config
        self._fields = open_inference.Fields()
        self._answers: Sequence[Any] = ()

    def open(self, answers: Sequence[Any]) -> None:
        """From now on requests come from clients; the golden answers show what the model gives."""
        self._fields = open_inference.fields_of(self.handler.Request)
        self._answers = answers

    def describe(self) -> dict[str, Any]:
        """The model, and the requests that it reads."""
        return {
            "model": self.config.model,
            "version": self.config.version,
            "handler": type(self.handler).__name__,
            "media_types": list(self.handler.media_types),
            "request_schema": self.handler.Request.model_json_schema(),
            "max_request_bytes": self.config.request_bytes,
            "open_inference": self.metadata(),
            "device": str(self.handler.device),
            "openai": [OPENAI_EMBEDDINGS] if self.gives_embeddings else [],
            **self.tuned(),
        }

    def metadata(self, versions: Sequence[str] = ()) -> open_inference.ModelMetadata:
        """The model's inputs and outputs, as clients of the Open Inference Protocol ask for them.

        Args:
            versions: that the model has; empty: this one.
        """
        config = self.config
        return open_inference.describe_model(
            config.model, versions or [config.version], self.handler.Request, self._answers
        )

    def tuned(self) -> dict[str, Any]:
        """The chosen `batch_tokens`, and what was measured; empty for a handler that does not cut batches by length."""
        handler, costs = self.handler, self.handler.token_costs
        if type(handler).probe is ServingHandler.probe:
            return {}
        if costs is None:
            return {"batch_tokens": handler.batch_tokens, "batch_tokens_from": "archive.yaml"}
        times = {str(tokens): round(seconds * 1000, 3) for tokens, seconds in costs.points}
        return {"batch_tokens": costs.budget, "batch_tokens_from": "warm-up", "micro_batch_ms": times}

    @property
    def gives_embeddings(self) -> bool:
        """Whether it answers requests for embeddings."""
        return type(self.handler).count_tokens is not ServingHandler.count_tokens

    def receive(self, request: Request) -> Request | Several | Outcome:
        """The request as it is to be computed, or the outcome of one that is not."""
        config, protocol, error = self.config, request.headers.get(PROTOCOL_HEADER), request.error
        try:
            if error is None and request.wants_description:
                return Outcome(200, to_json(self.describe()))
            if protocol == OPEN_INFERENCE_METADATA:  # without a body, which an adapter may take for a mistake
                return self._metadata(request)
            if error is None and (encoding := request.headers.get(ENCODING_HEADER)) is not None:
                request.body = decode_body(request.body, encoding, config.request_bytes)
            if error is None and protocol == OPEN_INFERENCE:
                return open_inference.read_infer(request, self._fields, config.batch_size, config.request_bytes)
            if error is None and protocol == OPENAI_EMBEDDINGS:
                return self._read_embeddings(request)
        except RequestError as raised:
            error = raised
        except Exception:
            with about([request]):
                logger.exception(
                    "%s %s: reading request %s failed", self.config.model, self.config.version, request.request_id
                )
            error = ModelFailed("The handler failed while it read the request.")
        if error is not None and protocol == OPENAI_EMBEDDINGS:
            return refuse_embeddings(error)
        return request if error is None else problem(error, request.request_id, config.model, config.version)

    def answer(self, entry: Several, outcomes: list[Outcome]) -> Outcome:
        """The answer to a request whose rows have these outcomes, in order."""
        return self._embedded(entry, outcomes[0]) if isinstance(entry, Embed) else self._fold(entry, outcomes)

    def _read_embeddings(self, request: Request) -> Embed:
        if not self.gives_embeddings:
            raise DoesNotFit(
                f"The model {self.config.model} gives no embeddings.",
                [{"field": "model", "message": "gives no embeddings"}],
            )
        check_size(request.body, self.config.request_bytes)
        return read_embeddings(request)

    def _embedded(self, embed: Embed, outcome: Outcome) -> Outcome:
        try:
            tokens = self.handler.count_tokens(embed.texts) if outcome.status == 200 else 0
            answer = answer_embeddings(embed, outcome, tokens)
            if len(answer.body) <= self.config.answer_bytes:
                return answer
            error: RequestError = PayloadTooLarge(
                f"The answer has {len(answer.body)} bytes, and at most {self.config.answer_bytes} can be sent: send"
                " fewer texts, or ask for encoding_format: base64."
            )
        except Exception:
            logger.exception("%s %s: the answer has no embeddings", self.config.model, self.config.version)
            error = ModelFailed("The model's answer cannot be written as embeddings.")
        return refuse_embeddings(error)

    def _metadata(self, request: Request) -> Outcome:
        versions = [version for version in request.headers.get(VERSIONS_HEADER, "").split(",") if version]
        metadata = self.metadata(versions)
        if PROTOBUF in (request.media_type, request.headers.get("accept")):  # not every engine hands over both
            return Outcome(200, encode_model_metadata(metadata), PROTOBUF)
        return Outcome(200, to_json(metadata))

    def _fold(self, infer: open_inference.InferRows, outcomes: list[Outcome]) -> Outcome:
        model, version = self.config.model, self.config.version
        error: RequestError
        try:
            outcome = open_inference.fold(infer, outcomes, model, version)
            if len(outcome.body) <= self.config.answer_bytes:
                return outcome
            error = PayloadTooLarge(
                f"The answers of {len(outcomes)} rows have {len(outcome.body)} bytes, and at most"
                f" {self.config.answer_bytes} can be sent: send fewer rows, or ask for fewer outputs."
            )
        except Exception:
            logger.exception("%s %s: the answers are no tensors", model, version)
            error = ModelFailed("The model's answers cannot be written as tensors.")
        return problem(error, infer.request_id, model, version)

"""TorchServe's calls on a worker: the manifest of every archive names this module as its handler.

TorchServe makes one object of the one class that the module defines, calls `initialize(context)` once and
`handle(data, context)` for each batch; on the bulk wire, `answer` takes the place of `handle` (see wire.py). Class and
functions here turn TorchServe's items into requests and outcomes into its responses, and leave the rest to the worker.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from handlers.adapters.torchserve import wire
from handlers.adapters.torchserve.context import (
    ContextCalls,
    answers_of_author,
    author_handler,
    items_in_context,
    longest_answer,
    model_and_version,
    raw_body,
    worker_config,
    write_outcomes,
)
from handlers.adapters.torchserve.install import install
from handlers.adapters.torchserve.long_answers import unsendable
from handlers.adapters.torchserve.turns import Turns
from handlers.contract import JSON
from handlers.errors import LoadError, ModelFailed, NotImplementedHere, RequestError, UndecodableBody, UnsupportedMedia
from handlers.log_lines import about, name_lines
from handlers.messages import Outcome, Request, bare_media_type, request_id_of
from handlers.own_comparator import distance, require_comparator
from handlers.worker import startup
from handlers.worker.make import make_worker
from handlers.worker.reference import write_reference
from handlers.worker.text import TextWorker

logger = logging.getLogger(__name__)

_RAW_FIELD = "body"  # TorchServe's name for a body that is no form
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


class Entry:
    """One worker behind TorchServe.

    Args:
        handler: the author's object; None: the archive's model-config.yaml names its module.
    """

    def __init__(self, handler: Any = None) -> None:
        self._handler = handler
        self._facts: dict[str, Any] = {}
        self.worker: Any  # a Worker or a TextWorker, by the handler

    def initialize(self, context: Any) -> None:
        """Make the worker ready; logs one line on how that ended.

        Raises:
            LoadError: the worker must not serve.
        """
        with startup.reported_load(*model_and_version(context)) as self._facts:
            handler = self._handler = self._handler or author_handler(context)
            if isinstance(handler, ContextCalls):
                handler.entry = self
            if hasattr(handler, "initialize"):
                handler.initialize(context)
            else:
                self.load(context)

    def load(self, context: Any) -> None:
        """Make the author's handler ready, and take over TorchServe's wire where the archive says so."""
        # Bodies come raw, whatever decode_input_request says for the node: malformed JSON must reach `decode`. Stock
        # archives on the same node keep TorchServe's own decoding.
        os.environ["TS_DECODE_INPUT_REQUEST"] = "false"
        name_lines()  # TorchServe names the worker
        self.worker = make_worker(worker_config(context), self._handler)
        self._facts |= startup.start(self.worker)
        respond = None if self._has_own_handle else self.respond
        if isinstance(self.worker, TextWorker):
            respond = Turns(self.worker, read_request).respond
        is_bulk = self.worker.config.wire == "bulk" and install(self, respond)
        self._facts["wire"] = "bulk" if is_bulk else "stock"

    def handle(self, data: list[dict[str, Any]], context: Any) -> Any:
        """The body of each item's answer; statuses and headers go into `context`."""
        if self._has_own_handle:
            return answers_of_author(self._handler.handle, data, context)
        return self.answer_in_context(data, context)

    def answer_in_context(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """As `handle`, without an author's own."""
        batch = items_in_context(data, context)
        return write_outcomes(self._sendable(batch, self.answer(batch)), context)

    def answer(self, batch: Sequence[wire.Item]) -> list[Outcome]:
        """One outcome per item of a batch, in order."""
        outcomes: list[Outcome] = self.worker.answer([read_request(item) for item in batch])
        return outcomes

    def respond(self, batch: Sequence[wire.Item]) -> bytes:
        """The response to a batch, as TorchServe reads it."""
        outcomes = self.answer(batch)
        response = wire.encode_answers(batch, outcomes)
        if len(response) <= self.worker.config.answer_bytes:  # so is each answer, and all of them together
            return response
        return wire.encode_answers(batch, self._sendable(batch, outcomes))

    def _sendable(self, batch: Sequence[wire.Item], outcomes: list[Outcome]) -> list[Outcome]:
        """The outcomes, with an error in place of each that the node would not take."""
        bodies = [outcome.body for outcome in outcomes]
        for index, error in unsendable(bodies, longest_answer()).items():
            request = read_request(batch[index])
            logger.error("request %s: %s", request.request_id, error.detail)
            outcomes[index] = self.worker.refuse(request, error)
        return outcomes

    def golden_answers(self, context: Any) -> dict[str, Any]:
        """The present answers to the samples, by file name; in place of `initialize`."""
        self._handler = self._handler or author_handler(context)
        return startup.golden_answers(make_worker(worker_config(context), self._handler))

    def write_reference(self, context: Any, files: Sequence[Path], out: Path) -> int:
        """Write the records of the answers to reference data; in place of `initialize`."""
        self._handler = self._handler or author_handler(context)
        worker = make_worker(worker_config(context), self._handler)
        if isinstance(worker, TextWorker):
            raise LoadError("a text model has no reference: leave `reference` out of archive.yaml")
        return write_reference(worker, files, out)

    def compare_answers(self, context: Any, pairs: Sequence[Sequence[Any]]) -> list[float]:
        """How far each second answer is from the first, by the handler's own `compare`; in place of `initialize`."""
        self._handler = self._handler or author_handler(context)
        worker = make_worker(worker_config(context), self._handler)
        require_comparator(worker.handler)
        return [distance(worker.handler, stable, other) for stable, other in pairs]

    @property
    def _has_own_handle(self) -> bool:
        return hasattr(self._handler, "handle") and type(self._handler).handle is not ContextCalls.handle


def read_request(item: wire.Item) -> Request:
    """The request in one item of TorchServe; its error where it cannot be read."""
    headers = {name.lower(): value for name, value in item.headers.items()}
    request_id = request_id_of(headers, item.request_id)
    error: RequestError
    try:
        if headers.get("explain") == "True":
            raise NotImplementedHere("This model offers predictions, not explanations.")
        # TorchServe's own describe request carries no field; a client may send the header as well
        if not item.fields and headers.get("describe") == "True":
            return Request(headers=headers, request_id=request_id, wants_description=True)
        sent_as = bare_media_type(headers.get("content-type", ""))
        is_form = sent_as in _FORMS
        name = _RAW_FIELD if not is_form and _RAW_FIELD in item.fields else _only_field(item, is_form)
        media_type = bare_media_type(item.types.get(name, "")) or ("" if is_form else sent_as)
        body = item.fields[name]
        return Request(body if type(body) is bytes else raw_body(body), media_type, headers, request_id)
    except RequestError as raised:
        error = raised
    except Exception:
        with about([Request(request_id=request_id)]):
            logger.exception("reading request %s failed", item.request_id)
        error = ModelFailed("The handler failed while it read the request.")
    return Request(headers=headers, request_id=request_id, error=error)


def _only_field(item: wire.Item, is_form: bool) -> str:
    """The name of a form's only field; a gRPC client, whose request is no form, chooses the name."""
    fields = item.fields
    if not fields and is_form:  # `curl -d` with JSON and without a Content-Type
        raise UnsupportedMedia(f"The body came as a form without a field; send it with Content-Type: {JSON}.")
    if not fields:
        raise UndecodableBody("The request has no body.")
    name = next(iter(fields))
    if is_form and item.is_ambiguous:
        raise UndecodableBody("The form has a field more than once; send one field, or the bare body.")
    if len(fields) > 1:
        raise UndecodableBody(f"The form has {len(fields)} fields; send one field, or the bare body.")
    if is_form and not fields[name]:  # `curl -d` with JSON: all of it becomes the name of an empty field
        raise UndecodableBody(f"The form's field is empty; a bare body needs its own Content-Type, such as {JSON}.")
    return name

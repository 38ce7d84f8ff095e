"""Puts wire.py in place of TorchServe's own reader and writer; the only module that knows TorchServe's insides.

`install` replaces three functions of the worker's process. TorchServe's reader makes a system call for each integer and
field, its writer grows one buffer field by field, and it logs two lines a batch, which the node parses: that costs more
than a small model. Any other version of TorchServe, and any message that wire.py does not expect, goes its old way.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from handlers.adapters.torchserve.context import encode
from handlers.adapters.torchserve.wire import Batch, Disconnected, Item, Reader
from handlers.log_lines import about
from handlers.messages import request_id_of

logger = logging.getLogger(__name__)

#: The version whose messages wire.py reads and writes.
TORCHSERVE = "0.12.0"


def install(entry: Any, respond: Callable[[Sequence[Item]], bytes] | None) -> bool:
    """From now on this worker's messages go through wire.py; False where TorchServe's own reader and writer stay.

    Nothing is done in a process that is no worker. May be called again.

    Args:
        entry: the object whose method `handle` TorchServe calls.
        respond: the response to a batch in its place, without TorchServe's context; None: `handle` is called.
    """
    package = sys.modules.get("ts")
    handler = sys.modules.get("ts.protocol.otf_message_handler")
    service = sys.modules.get("ts.service")
    if package is None or handler is None or service is None:
        return False
    version = str(getattr(package, "__version__", "unknown"))
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return False  # one of several processes of one model: TorchServe answers through rank 0 alone
    if version != TORCHSERVE:
        logger.warning(
            "TorchServe %s: its own message decoder is used, wire.py knows %s",
            version,
            TORCHSERVE,
        )
        return False
    if service.Service.predict is not predict:
        _replace(handler, service)
    if respond is not None:
        _responding[entry] = respond
    return True


def _replace(handler: Any, service: Any) -> None:
    """Put the functions below in place of TorchServe's, which it looks up in its modules at every call."""
    global _stock
    _stock = _Stock(handler._retrieve_load_msg, service.Service.predict, handler.create_predict_response)
    handler.retrieve_msg = retrieve_msg
    worker: Any = sys.modules["__main__"]
    if hasattr(worker, "retrieve_msg"):  # model_service_worker.py, which imported it by name
        worker.retrieve_msg = retrieve_msg
    service.Service.predict = predict


class _Stock(NamedTuple):
    """TorchServe's own functions."""

    retrieve_load_msg: Callable[[Any], dict[str, Any]]
    predict: Callable[[Any, Any], Any]
    create_predict_response: Callable[..., Any]


_stock: _Stock
_responding: WeakKeyDictionary[Any, Callable[[Sequence[Item]], bytes]] = WeakKeyDictionary()
_readers: WeakKeyDictionary[Any, Reader] = WeakKeyDictionary()


def retrieve_msg(connection: Any) -> tuple[bytes, Any]:
    """The next command and its message; ends the process where the node is gone, as TorchServe does."""
    reader = _readers.get(connection)
    if reader is None:
        reader = _readers[connection] = Reader(connection.recv)
    try:
        command = reader.take(1)
        if command == b"I":
            return command, reader.batch()
        if command == b"L":
            return command, _stock.retrieve_load_msg(_Connection(reader))
    except Disconnected:
        logger.info("the node is gone")
        sys.exit(0)
    raise ValueError(f"TorchServe sent the unknown command {command!r}")


class _Connection:
    """A reader with the one method of a socket that TorchServe's decoder calls."""

    def __init__(self, reader: Reader) -> None:
        self.recv = reader.take


def predict(self: Any, batch: Any) -> Any:
    """`Service.predict`: the response to a batch, without a line in the log for each."""
    if not isinstance(batch, Batch):
        return _stock.predict(self, batch)
    with about([_Named(item) for item in batch]):
        respond = _responding.get(getattr(self._entry_point, "__self__", None))
        if respond is None:
            return _through_context(self, batch)
        try:
            return respond(batch)
        except Exception:
            logger.exception("the handler failed on a batch of %d", len(batch))
            return _failed(batch)


class _Named:
    """An item of TorchServe with the id that its client knows, which is looked up only for a line of the log."""

    __slots__ = ("_item",)

    def __init__(self, item: Any) -> None:
        self._item = item

    @property
    def request_id(self) -> str | None:
        headers = {name.lower(): value for name, value in self._item.headers.items()}
        return request_id_of(headers, self._item.request_id)


def _failed(batch: Batch) -> Any:
    """TorchServe's own response to a batch whose handler raised; only an author's own `handle` does."""
    return _stock.create_predict_response(None, _ids(batch), "Prediction failed", 503)


def _ids(batch: Batch) -> dict[int, str]:
    return {index: item.request_id for index, item in enumerate(batch)}


def _through_context(self: Any, batch: Batch) -> Any:
    """The response of a handler that has a `handle` of its own."""
    from ts.context import RequestProcessor

    context = self.context
    context.request_ids = ids = _ids(batch)
    context.request_processor = [RequestProcessor(item.properties) for item in batch]
    context.metrics.request_ids = ids
    context.cl_socket = self.cl_socket
    try:
        answers = self._entry_point([item.fields for item in batch], context)
    except Exception:
        logger.exception("the handler failed on a batch of %d", len(batch))
        return _failed(batch)
    if (
        isinstance(answers, list)
        and len(answers) == len(batch)
        and all(type(answer) is bytes for answer in answers)
        and context.stopping_criteria is None
    ):
        try:
            return encode(answers, context)
        except Exception:  # of a status or header that is of another type than TorchServe writes
            logger.exception("the handler's answers to a batch of %d cannot be written", len(batch))
            return _failed(batch)
    if not isinstance(answers, list) or len(answers) != len(batch):
        logger.error("handle gave no list of %d answers", len(batch))
        return _stock.create_predict_response(None, ids, "Invalid model predict output", 503)
    return _stock.create_predict_response(answers, ids, "Prediction success", 200, context=context)

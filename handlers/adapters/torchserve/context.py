"""TorchServe's context: the configuration and the author's handler in it, and an author's own calls with it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from handlers.adapters.torchserve.long_answers import as_bytes, unsendable
from handlers.adapters.torchserve.wire import Item, head, predicted
from handlers.base import ServingHandler
from handlers.contract import ANSWER_LIMIT_VARIABLE
from handlers.messages import Outcome, problem
from handlers.secrets import open_secrets
from handlers.worker.config import WorkerConfig, handler_class, read_config
from handlers.worker.packages import use_packages

logger = logging.getLogger(__name__)

#: What `max_response_size` is for a node whose config.properties has none. A longer answer ends the worker.
DEFAULT_LONGEST_ANSWER = 6_553_500


class ContextCalls:
    """Stands behind the author's class in its method resolution order, so that `super().handle(data, context)` there
    answers the batch as every worker does."""

    entry: Any  # handlers.adapters.torchserve.entry.Entry

    def initialize(self, context: Any) -> None:
        """Load, self-test and warm up."""
        self.entry.load(context)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """The body of each item's answer; statuses and headers go into `context`."""
        bodies: list[bytes] = self.entry.answer_in_context(data, context)
        return bodies


def with_context_calls(cls: type[ServingHandler]) -> type[ServingHandler]:
    """The class itself, or with TorchServe's calls behind it where it defines one of them."""
    if hasattr(cls, "handle") or hasattr(cls, "initialize"):
        return type(cls.__name__, (cls, ContextCalls), {})
    return cls


def author_handler(context: Any) -> Any:
    """A new object of the author's class; one that is no ServingHandler has TorchServe's calls itself."""
    config = worker_config(context)
    use_packages(config.requirements)
    open_secrets(config.model, config.secrets)
    cls = handler_class(config.handler)
    return with_context_calls(cls)() if issubclass(cls, ServingHandler) else cls()


def worker_config(context: Any) -> WorkerConfig:
    """The configuration in the archive, with TorchServe's choices.

    Raises:
        LoadError: the archive was not built by tsctl.
    """
    properties: Mapping[str, Any] = context.system_properties
    return read_config(
        Path(properties["model_dir"]),
        context.manifest["model"],
        context.model_yaml_config,
        model=model_and_version(context)[0],
        gpu_id=properties.get("gpu_id"),
        batch_size=properties.get("batch_size"),
        answer_bytes=longest_answer(),
    )


def longest_answer() -> int:
    """Bytes of the longest answer that the node reads; where nobody said, TorchServe's own default."""
    return int(os.environ.get(ANSWER_LIMIT_VARIABLE) or DEFAULT_LONGEST_ANSWER)


def model_and_version(context: Any) -> tuple[str, str]:
    """The names under which TorchServe serves this worker's model."""
    manifest: Mapping[str, Any] = context.manifest["model"]
    model = context.model_name if isinstance(context.model_name, str) else manifest["modelName"]
    return model, manifest["modelVersion"]


def read_properties(properties: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Media types of the fields, and headers, out of TorchServe's request properties.

    They mix both: a field's name has a dict of its own headers, a header's name a str.
    """
    types = {name: own.get("content-type") or "" for name, own in properties.items() if isinstance(own, dict)}
    return types, {name: value for name, value in properties.items() if isinstance(value, str)}


def raw_body(value: Any) -> bytes:
    """The bytes of a body that TorchServe hands over in another type.

    Raises:
        TypeError: TorchServe parsed it.
    """
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    # this worker's switch to raw bodies did not take effect
    raise TypeError(f"TorchServe handed over a {type(value).__name__} instead of the raw body")


def items_in_context(data: list[dict[str, Any]], context: Any) -> list[Item]:
    """A batch that TorchServe decoded itself, as the bulk wire gives it."""
    batch = []
    for index, fields in enumerate(data):
        types, headers = read_properties(context.get_all_request_header(index))
        batch.append(Item(context.get_request_id(index), headers, fields, types))
    return batch


def write_outcomes(outcomes: Sequence[Outcome], context: Any) -> list[bytes]:
    """The bodies of the outcomes; their statuses and headers go into `context`."""
    for index, outcome in enumerate(outcomes):
        context.set_response_status(outcome.status, outcome.phrase, index)
        context.set_response_content_type(index, outcome.media_type)
        for name, value in outcome.headers:
            context.set_response_header(index, name, value)
    return [outcome.body for outcome in outcomes]


def answers_of_author(handle: Callable[..., Any], data: list[dict[str, Any]], context: Any) -> Any:
    """The answers of an author's own `handle`, with an error in place of each that the node would not take."""
    answers = handle(data, context)
    if not isinstance(answers, list) or len(answers) != len(data):
        return answers  # TorchServe says what is wrong with it
    answers = [as_bytes(answer) for answer in answers]
    for index, error in unsendable(answers, longest_answer()).items():
        request_id = context.get_request_id(index)
        outcome = problem(error, request_id, *model_and_version(context))
        logger.error("request %s: %s", request_id, error.detail)
        context.set_response_status(outcome.status, outcome.phrase, index)
        context.set_response_content_type(index, outcome.media_type)
        answers[index] = outcome.body
    return answers


def encode(answers: list[bytes], context: Any) -> bytes:
    """A response, from the bodies that an author's own `handle` returned and the context that it filled."""
    parts = []
    for index, processor in enumerate(context.request_processor):
        headers: dict[str, str] = processor.get_response_headers()
        media_type = headers.get("content-type") or ""
        phrase = processor.get_response_status_phrase() or ""
        before = head(media_type, processor.get_response_status_code(), phrase, tuple(headers.items()))
        parts.append((context.request_ids[index], before, answers[index]))
    return predicted(parts)

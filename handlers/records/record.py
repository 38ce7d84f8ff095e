"""The line of one record, and of the input that belongs to it. Pure; the columns are those of docs/records.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from handlers.contract import (
    ASSIGNED_TRACK_HEADER,
    CHOSEN_BY_HEADER,
    CLIENT_HEADER,
    COPIED_HEADER,
    JSON,
    SENT_HEADER,
    SHADOW_HEADER,
)
from handlers.messages import Outcome, Request
from handlers.records.summary import Features, Prediction, digest, prediction

#: The longest answer that is taken apart; of a longer one the record has the digest.
LONGEST_ANSWER = 1 << 20
#: The longest line; an item with a longer one is not recorded.
LONGEST_LINE = 1 << 20
#: The longest answer that is kept whole.
LONGEST_KEPT = 64 << 10
#: Characters of a header that a client may have chosen.
LONGEST_NAME = 128
#: Digits of a time in SENT_HEADER.
_LONGEST_TIME = 15


@dataclass(frozen=True, slots=True)
class Batch:
    """What all items of one batch have in common."""

    end: float  # seconds since 1970, when its answers were there
    batch_s: float  # from its begin to its answers
    items: int
    seconds: Mapping[str, float]  # in each stage; the first parts' too, of a batch that is computed in parts


@dataclass(frozen=True, slots=True)
class Sampled:
    """One item that is to be recorded."""

    request: Request
    item: Any  # validated; None: it could not be
    outcome: Outcome
    batch: Batch

    @property
    def size(self) -> int:
        """Bytes that it keeps in memory, by its bodies."""
        return len(self.request.body) + len(self.outcome.body)


@dataclass(frozen=True)
class Recording:
    """How one version's items become lines.

    Args:
        summarize: features of a validated item.
        canonical: bytes that are equal only for equal items; raises TypeError where there are none.
        redact: the item as the body of a request that may be kept, as the handler's method of that name returns it.
        keeps_inputs: whether inputs are kept at all.
        keeps_answers: whether answers of at most LONGEST_KEPT bytes are kept as they are.
    """

    model: str
    version: str
    summarize: Callable[[Any], Features]
    canonical: Callable[[Any], bytes]
    redact: Callable[[Any], Any]
    keeps_inputs: bool
    keeps_answers: bool = False

    def record(self, sampled: Sampled) -> bytes:
        """The record's line.

        Raises:
            Exception: the handler's `summarize` failed, or the line would be too long.
        """
        request, outcome, batch = sampled.request, sampled.outcome, sampled.batch
        line = self._identity(sampled) | {
            "track": _track(request.headers),
            "chosen_by": _name(request.headers.get(CHOSEN_BY_HEADER)),
            "status": outcome.status,
            "error": outcome.error.kind if outcome.error else None,
            **self._input(sampled.item),
            **self._answer(outcome),
            "copied": COPIED_HEADER in request.headers or None,
            "cache": outcome.cache or None,
            "batch_items": batch.items,
            "wait_ms": _wait_ms(request.headers, batch.end - batch.batch_s),
            "batch_ms": _ms(batch.batch_s),
            **{f"{stage}_ms": _ms(seconds) for stage, seconds in batch.seconds.items()},
        }
        return _line(line)

    def repeat(self, sampled: Sampled, kind: str, again: Outcome) -> bytes:
        """The line of a second answer to an item, of REPEAT_ALONE or REPEAT_BATCH.

        Raises:
            Exception: as of `record`.
        """
        answer = {"repeat": kind, "status": again.status, **self._answer(again)}
        return _line(self._identity(sampled) | answer)

    def input(self, sampled: Sampled) -> bytes:
        """The input's line; empty where nothing is kept.

        Raises:
            Exception: the handler's `redact` failed, or its result is no JSON or too long.
        """
        if not self.keeps_inputs or sampled.item is None:
            return b""
        kept = self.redact(sampled.item)
        if kept is None:
            return b""
        media_type, kept = (kept["media_type"], kept["body"]) if _is_body(kept) else (None, kept)
        text = to_json(kept, by_alias=True, bytes_mode="base64", inf_nan_mode="constants", fallback=_as_list)
        of_input = text.decode() if media_type is None else from_json(text)
        return _line(self._identity(sampled) | {"media_type": media_type, "input": of_input})

    def _identity(self, sampled: Sampled) -> dict[str, Any]:
        request, batch = sampled.request, sampled.batch
        return {
            "time_us": round(batch.end * 1e6),
            "request_id": request.request_id,
            "row": request.row_number,
            "model": self.model,
            "version": self.version,
            "client": _name(request.headers.get(CLIENT_HEADER)),
        }

    def _answer(self, outcome: Outcome) -> dict[str, Any]:
        is_kept = self.keeps_answers and _is_answer(outcome) and len(outcome.body) <= LONGEST_KEPT
        return {
            **_columns(_prediction(outcome)),
            "answer_digest": digest(outcome.body),
            "answer": outcome.body.decode() if is_kept else None,
        }

    def _input(self, item: Any) -> dict[str, Any]:
        if item is None:
            return {}
        found = self.summarize(item)
        try:
            of_input: str | None = digest(self.canonical(item))
        except TypeError:
            of_input = None
        numbers = {name: value for name, value in found.items() if not isinstance(value, str)}
        categories = {name: value for name, value in found.items() if isinstance(value, str)}
        return {"input_digest": of_input, "numbers": numbers or None, "categories": categories or None}


def _is_answer(outcome: Outcome) -> bool:
    return outcome.status == 200 and outcome.media_type == JSON


def _is_body(kept: Any) -> bool:
    """Whether it is the body of a request that is no JSON; no JSON value has bytes in it."""
    return isinstance(kept, dict) and kept.keys() == {"media_type", "body"} and isinstance(kept["body"], bytes)


def _prediction(outcome: Outcome) -> Prediction:
    if not _is_answer(outcome) or len(outcome.body) > LONGEST_ANSWER:
        return Prediction(label=outcome.class_name or None)
    return prediction(from_json(outcome.body), outcome.class_name)


def _columns(found: Prediction) -> dict[str, Any]:
    return {
        "label": found.label,
        "score": found.score,
        "scores": found.scores,
        "outputs": found.outputs or None,
        "norm": found.norm,
        "sketch": found.sketch,
        "text_length": found.text_length,
        "text_digest": found.text_digest,
        "lists": found.lists or None,
        "rest_digest": found.rest_digest,
        "rest_has_fractions": found.rest_has_fractions or None,
    }


def _track(headers: Mapping[str, str]) -> str | None:
    if SHADOW_HEADER in headers:
        return "shadow"
    track = _name(headers.get(ASSIGNED_TRACK_HEADER))
    return None if track == "none" else track  # of a version that has no part


def _name(value: str | None) -> str | None:
    return value[:LONGEST_NAME] if value else None


def _wait_ms(headers: Mapping[str, str], begin: float) -> float | None:
    sent = headers.get(SENT_HEADER, "")
    if not (sent.isascii() and sent.isdigit() and len(sent) <= _LONGEST_TIME):
        return None
    return round(begin * 1000 - int(sent), 3)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _as_list(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise ValueError(f"a {type(value).__name__} is not JSON")


def _line(columns: dict[str, Any]) -> bytes:
    """The columns that have a value, as one line of JSON."""
    line = to_json({name: value for name, value in columns.items() if value is not None}) + b"\n"
    if len(line) > LONGEST_LINE:
        raise ValueError(f"its line has {len(line)} bytes; at most {LONGEST_LINE} are written")
    return line

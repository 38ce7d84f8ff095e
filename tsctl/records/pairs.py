"""Finds in the records which requests stable and its shadow both answered, with stable's second answers.

A reading is of a period: it has the requests that stable answered in it. Readings of adjacent periods have each
request once, so a rollout may read on where it stopped.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handlers.contract import REPEAT_ALONE, REPEAT_BATCH
from tsctl.errors import AnalysisError
from tsctl.records.database import Place, query
from tsctl.shadow.disagreement import Repeat
from tsctl.shadow.pairing import BUSY_STATUSES, Answer, Pairing, Track, Unpaired
from tsctl.shadow.report import Paired, PairedRequest
from tsctl.shadow.summaries import Summary

#: Seconds within which both answers to a request, and the second answers, are in the records: the longest wait of a
#: repeat, a write, and clocks of nodes that differ. A reading ends so long before now.
WAIT_S = 10.0
#: The most answers that one reading takes; a period that has more is read in parts.
MOST_ANSWERS = 100_000

_REPEATS = {REPEAT_ALONE: Repeat.ALONE, REPEAT_BATCH: Repeat.BATCH}
_ANSWER = (
    "status, label, score, scores, outputs, norm, sketch, text_digest, lists, rest_digest, rest_has_fractions,"
    " answer_digest, answer"
)
_PERIOD = "model = $model AND time >= make_timestamp($since) AND time < make_timestamp($until)"
_ANSWERS = f"""
SELECT epoch_us(time) AS at, request_id, row, track, numbers, categories, wait_ms, batch_ms, {_ANSWER} FROM records
WHERE {_PERIOD} AND request_id IS NOT NULL AND status IS NOT NULL AND (
    (version = $stable AND track = 'stable' AND copied) OR (version = $shadow AND track = 'shadow')
) ORDER BY time, request_id, row, track LIMIT $most
"""
_SECOND = f"""
SELECT request_id, row, repeat, {_ANSWER} FROM repeats
WHERE {_PERIOD} AND version = $stable AND request_id IS NOT NULL AND status IS NOT NULL
"""
_VERSIONS = f"""
SELECT version, track FROM records
WHERE {_PERIOD} AND (track = 'shadow' OR (track = 'stable' AND copied)) GROUP BY version, track ORDER BY max(time)
"""


@dataclass(frozen=True)
class Versions:
    """Whose answers are compared."""

    model: str
    stable: str
    shadow: str


@dataclass(frozen=True)
class Reading:
    """What the records have of a period.

    Args:
        until_s: end of the period, seconds since 1970; earlier than asked for where MOST_ANSWERS came before.
    """

    paired: Paired
    until_s: float


def versions_compared(places: Sequence[Place], model: str, since_s: float, until_s: float) -> Versions | None:
    """The shadow that answered last, and the stable version whose requests were copied last; None without either.

    Raises:
        AnalysisError, SpecError: as of `query`.
    """
    period = (since_s, until_s)
    _, rows = query(places, _VERSIONS, {"model": model, **_period(*period)}, since_s=period[0])
    last: dict[str, str] = {track: version for version, track in rows}
    if last.keys() < {"stable", "shadow"}:
        return None
    return Versions(model, last["stable"], last["shadow"])


def read_pairs(
    places: Sequence[Place],
    versions: Versions,
    since_s: float,
    until_s: float,
    labels: Mapping[tuple[str, int], str] | None = None,
) -> Reading:
    """The requests that stable answered from `since_s` on, before `until_s`, in that order.

    Args:
        until_s: at least WAIT_S before now, or answers may still be missing.
        labels: by request and row.

    Raises:
        AnalysisError: there are too many answers to pair, or as of `query`.
        SpecError: as of `query`.
    """
    named = {"model": versions.model, "stable": versions.stable}
    period = (since_s - WAIT_S, until_s + WAIT_S)
    around = _period(*period)
    columns, rows = query(
        places, _ANSWERS, {**named, "shadow": versions.shadow, "most": MOST_ANSWERS + 1, **around}, since_s=period[0]
    )
    answers = [dict(zip(columns, row, strict=True)) for row in rows]
    if len(answers) > MOST_ANSWERS:
        until_s = min(until_s, answers[-1]["at"] / 1e6 - WAIT_S)
        if until_s <= since_s:
            raise AnalysisError(
                f"more than {MOST_ANSWERS:,} answers of {versions.model} were recorded within {2 * WAIT_S:.0f} s",
                "Set a smaller share of records in archive.yaml.",
            )
    columns, rows = query(places, _SECOND, {**named, **around}, since_s=period[0])
    second: dict[str, dict[Repeat, Answer]] = {}
    for row in rows:
        found = dict(zip(columns, row, strict=True))
        if (kind := _REPEATS.get(found["repeat"])) is not None:
            second.setdefault(_key(found), {})[kind] = _answer(found, Track.STABLE)
    return Reading(_paired(answers, second, since_s, until_s, labels or {}), until_s)


def _paired(
    rows: Sequence[Mapping[str, Any]],
    second: Mapping[str, Mapping[Repeat, Answer]],
    since_s: float,
    until_s: float,
    labels: Mapping[tuple[str, int], str],
) -> Paired:
    unpaired: Counter[Unpaired] = Counter()
    of_stable: dict[str, Mapping[str, Any]] = {}
    found: list[PairedRequest] = []

    def is_inside(answer: Answer) -> bool:
        return answer.at_s is not None and since_s <= answer.at_s < until_s

    pairing = Pairing(
        WAIT_S, max(1, len(rows)), lambda why, answer: unpaired.update([why] if is_inside(answer) else [])
    )
    for row in rows:
        answer = _answer(row, Track(row["track"]))
        if answer.track is Track.STABLE:
            of_stable.setdefault(answer.request_id, row)
        pair = pairing.add(answer, row["at"] / 1e6)
        if pair is None or not is_inside(pair.stable):
            continue
        if pair.stable.status in BUSY_STATUSES or pair.shadow.status in BUSY_STATUSES:
            unpaired[Unpaired.BUSY] += 1
            continue
        own = of_stable[pair.stable.request_id]
        found.append(
            PairedRequest(
                pair,
                second.get(pair.stable.request_id, {}),
                {**(own["numbers"] or {}), **(own["categories"] or {})},
                labels.get((own["request_id"], own["row"])),
                (pair.stable.value.label, pair.shadow.value.label),
            )
        )
    pairing.give_up(math.inf)
    found.sort(key=lambda request: request.pair.stable.at_s or 0.0)
    return Paired(found, unpaired)


def _answer(row: Mapping[str, Any], track: Track) -> Answer:
    """The answer of a row of `records` or `repeats`; its time counts from when the gateway sent the request."""
    whole = row["answer"]
    summary = Summary(
        label=row["label"],
        score=row["score"],
        scores=row["scores"],
        outputs=row["outputs"] or {},
        norm=row["norm"],
        sketch=row["sketch"],
        text_digest=row["text_digest"],
        lists=row["lists"],
        rest_digest=row["rest_digest"],
        rest_has_fractions=bool(row["rest_has_fractions"]),
        answer_digest=row["answer_digest"],
        answer=None if whole is None else json.loads(whole),
        is_whole=whole is not None,
    )
    batch_ms, at = row.get("batch_ms"), row.get("at")
    latency_ms = None if batch_ms is None else batch_ms + max(0.0, row["wait_ms"] or 0.0)
    return Answer(_key(row), track, summary, row["status"], latency_ms, None if at is None else at / 1e6)


def _key(row: Mapping[str, Any]) -> str:
    """The request's id, with the row of an infer request that has several."""
    return f"{row['request_id']}#{row['row']}" if row["row"] else str(row["request_id"])


def _period(since_s: float, until_s: float) -> dict[str, int]:
    return {"since": round(since_s * 1e6), "until": round(until_s * 1e6)}

"""Takes a sample of real requests out of the records of inputs, and writes it as one file (docs/capture.md).

Invariant: the file holds what `redact` of the archive let pass, ids and times of the requests, and nothing else of
them: no header, no name of a client, no key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from handlers.contract import JSON
from tsctl.compare.recorded import CAPTURE_FORMAT, CAPTURE_KEY, MOST_BYTES
from tsctl.errors import AnalysisError, SpecError
from tsctl.host.files import make_folder, write_secret
from tsctl.records.database import Place, query

#: Requests and megabytes (of 2^20 bytes) of inputs in a file, where nobody says otherwise.
REQUESTS, MB = 10_000, 64
#: Inputs of real requests: of each, when it came (by the gateway's clock where its stamp is known), and its number in
#: the order of a hash, so that the first ones are a random sample, with all rows of a request together.
_ARRIVED = """
WITH times AS (
    SELECT node, request_id, row, version, time, min(batch_ms) AS batch_ms, min(wait_ms) AS wait_ms, min(track) AS track
    FROM records WHERE model = $1 AND time BETWEEN $2 AND $3 GROUP BY ALL
), arrived AS (
    SELECT time - to_microseconds(CAST(1000 * (coalesce(batch_ms, 0) + coalesce(wait_ms, 0)) AS BIGINT)) AS arrival,
        md5(request_id) AS chance, request_id, row, version, media_type, input
    FROM (SELECT * FROM inputs WHERE model = $1 AND time BETWEEN $2 AND $3)
    LEFT JOIN times USING (node, request_id, row, version, time)
    WHERE track IS DISTINCT FROM 'shadow'
)
"""
_CHOSEN = """, numbered AS (
    SELECT chance, count(*) OVER earlier AS requests, sum(strlen(input)) OVER earlier AS bytes
    FROM arrived WINDOW earlier AS (ORDER BY chance)
)
SELECT max(chance) FILTER (requests <= $4 AND bytes <= $5), count(*) FROM numbered
"""
_TAKEN = """
SELECT arrival, request_id, row, version, media_type, input FROM arrived WHERE chance <= $4
ORDER BY arrival, request_id, row
"""


@dataclass(frozen=True)
class Taken:
    """What a capture has."""

    requests: int
    of: int  # recorded inputs of the period
    bytes: int  # of the file
    versions: Mapping[str, int]  # requests by the version that answered them


@dataclass(frozen=True)
class Period:
    """The time in which requests were answered, in UTC without a zone, as records have it."""

    begin: datetime
    end: datetime

    @classmethod
    def last(cls, minutes: float, now: datetime) -> Period:
        """The minutes before now."""
        end = now.astimezone(UTC).replace(tzinfo=None)
        return cls(end - timedelta(minutes=minutes), end)


def take(
    places: Sequence[Place],
    model: str,
    period: Period,
    path: Path,
    shares: Mapping[str, float],
    most: int = REQUESTS,
    most_bytes: int = MB << 20,
) -> Taken:
    """Write the requests to a model that were recorded in a period; readable by the file's owner only.

    Args:
        places: of the records.
        shares: of the requests that are recorded, by version, as far as they are known.
        most: requests; where there are more, a random sample is taken, by a hash of their ids.
        most_bytes: of their inputs.

    Raises:
        SpecError: no input of the model was recorded, though requests were.
        AnalysisError: no request was recorded, they are too long, or records cannot be read.
    """
    window = [model, period.begin, period.end]
    _, [(last, of)] = query(places, _ARRIVED + _CHOSEN, [*window, most, most_bytes])
    if not of:
        raise _nothing(places, model, window)
    if last is None:
        raise AnalysisError(
            f"the inputs of one request to {model} have more than {most_bytes:,} bytes or {most} rows",
            "Give a larger --most-mb or --most.",
        )
    _, rows = query(places, _ARRIVED + _TAKEN, [*window, last])
    begin = min(period.begin, rows[0][0])
    versions: dict[str, int] = {}
    for row in rows:
        versions[row[3]] = versions.get(row[3], 0) + 1
    first = {
        CAPTURE_KEY: CAPTURE_FORMAT,
        "model": model,
        "begin": f"{begin.isoformat(timespec='milliseconds')}Z",
        "seconds": round((period.end - begin).total_seconds(), 3),
        "requests": len(rows),
        "recorded": {version: shares[version] for version in sorted(versions) if version in shares},
    }
    content = "".join([json.dumps(first) + "\n", *(_line(begin, *row) for row in rows)])
    if len(content) > MOST_BYTES:
        raise AnalysisError(f"the file would have more than {MOST_BYTES >> 20} MiB", "Give a smaller --most-mb.")
    if not path.parent.is_dir():
        make_folder(path.parent)
    write_secret(path, content)
    return Taken(len(rows), of, len(content.encode()), versions)


def _line(begin: datetime, at: datetime, request_id: str, row: int, version: str, media_type: str, body: str) -> str:
    """One request. A body that is no standard JSON value, or a JSON text, is written as the text that is sent."""
    about: dict[str, Any] = {"at_s": round((at - begin).total_seconds(), 6), "request_id": request_id}
    if row:
        about["row"] = row
    if media_type is not None and media_type != JSON:
        return json.dumps({**about, "media_type": media_type, "body_base64": body}) + "\n"
    is_text = body.startswith('"') or "NaN" in body or "Infinity" in body
    return f'{json.dumps(about)[:-1]}, "body": {json.dumps(body) if is_text else body}}}\n'


def _nothing(places: Sequence[Place], model: str, window: Sequence[Any]) -> SpecError | AnalysisError:
    """Why there is no input in the period, and what would change that."""
    write = f"write 'records: {{share: 0.01, input_days: 7}}' into archives/{model}/archive.yaml, build it and apply it"
    sql = "SELECT count(*), count(*) FILTER (time BETWEEN $2 AND $3) FROM records WHERE model = $1"
    _, [(ever, recorded)] = query(places, sql, window)
    minutes = (window[2] - window[1]).total_seconds() / 60
    if recorded:
        return SpecError(
            f"{recorded} requests to {model} were recorded in the last {minutes:g} minutes, and no input of one",
            f"Inputs are kept only where the archive says so: {write}; its redact(item) decides what of them is kept.",
        )
    if ever:
        return AnalysisError(
            f"no request to {model} was recorded in the last {minutes:g} minutes", "Give more --minutes."
        )
    return AnalysisError(f"no request to {model} was ever recorded here", f"To record requests, {write}.")

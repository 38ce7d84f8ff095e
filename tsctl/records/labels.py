"""Labels that come later: kept beside the project's state, and joined with the records of the same requests.

Invariant: of several labels of one item, the one that was added last counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

from tsctl.errors import AnalysisError, SpecError
from tsctl.gateway.traffic import BY_WEIGHT, CANARY, STABLE
from tsctl.host.files import make_folder
from tsctl.records.database import Place, connect, paths_list, query, quoted, require
from tsctl.records.label_reader import SUFFIXES, read_labels

if TYPE_CHECKING:
    import duckdb

#: Of a normal distribution, for two-sided intervals of 95 %.
Z = 1.959964
BINS = 10
#: Labels that no record has as its class, of which so many are named.
MOST_NAMED = 5


@dataclass(frozen=True)
class LabelledItem:
    """An item that was recorded and labelled."""

    version: str
    is_wrong: bool


@dataclass(frozen=True)
class Share:
    """A share of items, with Wilson's interval of 95 %."""

    count: int
    of: int

    @property
    def value(self) -> float:
        return self.count / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson (1927): it keeps its level for small numbers and for shares near 0 and 1."""
        z2, n, share = Z * Z, self.of, self.value
        middle = (share + z2 / (2 * n)) / (1 + z2 / n)
        half = Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Bin:
    """Predictions of similar confidence: how sure the version was, and how often it was right."""

    confidence: float  # their mean
    right: Share


@dataclass(frozen=True)
class Quality:
    """What the labels say of one version."""

    model: str
    version: str
    right: Share
    bins: tuple[Bin, ...]  # ascending; empty where an item has no confidence
    confusion: tuple[tuple[str, str, int], ...]  # label, predicted class, items; the most frequent first
    without_confidence: int = 0  # items whose confidence is missing, or does not lie between 0 and 1

    @property
    def calibration_error(self) -> float | None:
        """The expected calibration error: the mean distance of confidence and accuracy, by bins of equal width."""
        items = sum(each.right.of for each in self.bins)
        if not items:
            return None
        return sum(each.right.of * abs(each.confidence - each.right.value) for each in self.bins) / items


@dataclass(frozen=True)
class Matched:
    """How the labels that were added last belong to records.

    Args:
        items: with a record.
        unpredicted: labels of these items that no record has as its class, MOST_NAMED at most.
    """

    items: int
    unpredicted: tuple[str, ...] = ()


def add(folder: Path, file: Path) -> int:
    """Keep the labels in a file with the columns request_id, label and, if it likes, row; returns how many.

    Raises:
        SpecError: the file cannot be read, lacks a column or a value, or contradicts itself.
    """
    errors = require("duckdb").Error
    if file.suffix not in SUFFIXES:
        raise SpecError(f"{file}: must end with {', '.join(SUFFIXES)}")
    if not file.is_file():
        raise SpecError(f"{file}: no such file")
    connection = connect()
    try:
        read_labels(connection, file)
        twice = connection.execute(
            "SELECT request_id FROM labels GROUP BY request_id, row HAVING count(*) > 1"
        ).fetchone()
        if twice is not None:
            raise SpecError(f"{file}: request {twice[0]} has several labels", "Give each request one.")
        rows = _one(connection, "SELECT count(*) FROM labels")
        if not rows:
            raise SpecError(f"{file}: has no label")
        make_folder(folder)
        now = time.time_ns()
        name = f"labels-{now:020d}-{token_hex(4)}.parquet"
        making = folder / f".{name}"
        connection.execute(
            f"COPY (SELECT *, {now} AS added FROM labels) TO {quoted(str(making))} (FORMAT parquet, COMPRESSION zstd)"
        )
        making.chmod(0o600)
        making.rename(folder / name)
        return rows
    except errors as error:
        raise SpecError(f"{file} cannot be read: {str(error).strip().splitlines()[0]}") from None
    finally:
        connection.close()


def label_files(folder: Path) -> tuple[str, ...]:
    """The files of labels in the folder, the oldest first; none where there is no folder."""
    return tuple(sorted(str(path) for path in folder.glob("labels-*.parquet"))) if folder.is_dir() else ()


def match(folder: Path, places: Sequence[Place]) -> Matched:
    """Look for the records of the labels that were added last.

    Raises:
        AnalysisError, SpecError: records cannot be read.
    """
    last = label_files(folder)[-1]
    _, [(items,)] = query(places, _MATCHED.format(last=quoted(last)), folders=[str(folder)])
    _, rows = query(places, _UNPREDICTED.format(last=quoted(last)), folders=[str(folder)])
    return Matched(items, tuple(label for (label,) in rows))


def labelled_items(
    files: Sequence[str], places: Sequence[Place], model: str, versions: tuple[str, str], since_s: float
) -> list[LabelledItem]:
    """Labelled items of two versions, in the order in which labels came, and within a file of labels by time.

    Args:
        files: of labels; at least one.
        versions: stable and the canary, each of which recorded the item as the one that answers clients.
        since_s: seconds since 1970; earlier records do not count.

    Raises:
        AnalysisError: records or labels cannot be read.
    """
    arguments = [model, *versions, round(since_s * 1e6)]
    folder = str(Path(files[0]).parent)
    try:
        _, found = query(places, _ITEMS.format(labels=paths_list(files)), arguments, [folder])
    except SpecError as error:  # not the user's statement
        raise AnalysisError(f"labels cannot be read: {error.message}") from error
    return [LabelledItem(version, is_wrong) for version, is_wrong in found]


def wrong_share(folder: Path, places: Sequence[Place], model: str, version: str) -> float | None:
    """The share of wrong ones among a version's labelled items; None where it has none.

    Raises:
        AnalysisError: records cannot be read.
    """
    if not label_files(folder):
        return None
    found = [quality.right for quality in qualities(folder, places, model) if quality.version == version]
    return 1 - found[0].value if found else None


def forget(folder: Path, requests: str, parameters: Sequence[str] = ()) -> int:
    """Remove the labels of these requests; returns how many.

    Args:
        requests: a statement with the column request_id.
        parameters: of the statement.

    Raises:
        AnalysisError: a file of labels cannot be read.
        OSError: the folder cannot be changed.
    """
    duckdb = require("duckdb")
    removed = 0
    for file in label_files(folder):
        path = Path(file)
        making = path.with_name(f".{path.name}")
        connection = connect()
        try:
            labels = f"read_parquet({quoted(file)})"
            connection.execute(f"CREATE TABLE gone AS SELECT DISTINCT request_id FROM ({requests})", list(parameters))
            rows = _one(connection, f"SELECT count(*) FROM {labels} WHERE request_id IN (FROM gone)")
            if not rows:
                continue
            kept = f"SELECT * FROM {labels} WHERE request_id NOT IN (FROM gone)"
            left = _one(connection, f"SELECT count(*) FROM ({kept})")
            if left:
                connection.execute(f"COPY ({kept}) TO {quoted(str(making))} (FORMAT parquet, COMPRESSION zstd)")
        except duckdb.Error as error:
            making.unlink(missing_ok=True)
            raise AnalysisError(f"labels cannot be read: {str(error).strip().splitlines()[0]}") from None
        finally:
            connection.close()
        if left:
            making.chmod(0o600)
            making.replace(path)
        else:
            path.unlink()
        removed += rows
    return removed


def qualities(folder: Path, places: Sequence[Place], model: str | None = None) -> list[Quality]:
    """What the labels say of each version that they have records of.

    Raises:
        SpecError: there are no labels.
        AnalysisError: records cannot be read.
    """
    files = label_files(folder)
    if not files:
        raise SpecError("no labels were added", "Add some: tsctl labels add FILE")
    paired = _PAIRED.format(labels=paths_list(files))
    arguments, extra = [model], [str(folder)]
    _, confusion = query(places, f"{paired} {_CONFUSION}", arguments, extra)
    _, bins = query(places, f"{paired} {_BINS}", arguments, extra)
    found = []
    for key in sorted({(row[0], row[1]) for row in confusion}):
        cells = [tuple(row[2:]) for row in confusion if row[:2] == key]
        right = Share(sum(count for label, predicted, count in cells if label == predicted), sum(c[2] for c in cells))
        of_version = [row[2:] for row in bins if row[:2] == key]
        outside = sum(row[-1] for row in of_version if row[0] is None)
        known = tuple(Bin(row[1], Share(*row[2:])) for row in of_version) if not outside else ()
        found.append(Quality(*key, right, known, tuple(cells), outside))
    return found


def truth(
    folder: Path, places: Sequence[Place], model: str, since_s: float, until_s: float
) -> dict[tuple[str, int], str]:
    """Labels of the model's requests in a period, by request and row; empty where no labels were added.

    Raises:
        AnalysisError: records cannot be read.
    """
    files = label_files(folder)
    if not files:
        return {}
    named = {"model": model, "since": round(since_s * 1e6), "until": round(until_s * 1e6)}
    truth_of = _TRUTH.format(labels=paths_list(files))
    _, rows = query(places, truth_of, named, [str(folder)], since_s=since_s)
    return {(request_id, row): label for request_id, row, label in rows}


_TRUTH = """
SELECT request_id, row, arg_max(label, added) FROM read_parquet({labels})
SEMI JOIN (
    SELECT request_id, row FROM records
    WHERE model = $model AND time >= make_timestamp($since) AND time < make_timestamp($until)
) USING (request_id, row) GROUP BY request_id, row
"""
#: One row for each item that has a label and a prediction with a class. A bare score is the probability of one of two
#: classes: of the one whose predictions have the higher scores.
_PAIRED = """
WITH truth AS (
    SELECT request_id, row, arg_max(label, added) AS label FROM read_parquet({labels}) GROUP BY request_id, row
), answers AS (
    SELECT model, version, request_id, row, arg_max(label, time) AS predicted,
        arg_max(CASE WHEN len(scores) > 0 THEN list_max(scores) ELSE score END, time) AS score,
        coalesce(bool_or(len(scores) > 0), false) AS has_scores
    FROM records WHERE label IS NOT NULL AND ($1 IS NULL OR model = $1) GROUP BY model, version, request_id, row
), positive AS (
    SELECT model, arg_max(predicted, mean) AS name FROM (
        SELECT model, predicted, avg(score) AS mean FROM answers WHERE NOT has_scores GROUP BY model, predicted
    ) GROUP BY model HAVING count(*) = 2
), paired AS (
    SELECT model, version, predicted, truth.label AS label,
        CASE WHEN has_scores THEN score WHEN predicted = name THEN score WHEN name IS NOT NULL THEN 1 - score END
            AS confidence
    FROM answers JOIN truth USING (request_id, row) LEFT JOIN positive USING (model)
)
"""
_CONFUSION = """
SELECT model, version, label, predicted, count(*) AS items FROM paired
GROUP BY ALL ORDER BY items DESC, label, predicted
"""
_BINS = f"""
SELECT model, version,
    CASE WHEN confidence BETWEEN 0 AND 1 THEN least(floor(confidence * {BINS}), {BINS - 1})::INTEGER END AS bin,
    avg(confidence), count(*) FILTER (label = predicted), count(*)
FROM paired GROUP BY ALL ORDER BY ALL
"""
_MATCHED = """
SELECT count(*) FROM (SELECT DISTINCT request_id, row FROM read_parquet({last}))
SEMI JOIN records USING (request_id, row)
"""
_UNPREDICTED = f"""
WITH classes AS (SELECT DISTINCT label FROM records WHERE label IS NOT NULL)
SELECT DISTINCT label FROM (
    SELECT given.label FROM read_parquet({{last}}) AS given SEMI JOIN records USING (request_id, row)
) WHERE label NOT IN (FROM classes) AND (SELECT count(*) FROM classes) > 0 ORDER BY label LIMIT {MOST_NAMED}
"""


#: Of several labels of an item the last one counts, in the place of the first: a correction moves no other item.
_ITEMS = f"""
WITH truth AS (
    SELECT request_id, row, arg_max(label, added) AS label, min(added) AS added FROM read_parquet({{labels}})
    GROUP BY request_id, row
), answers AS (
    SELECT version, request_id, row, arg_max(label, time) AS predicted, min(time) AS time FROM records
    WHERE label IS NOT NULL AND model = $1 AND chosen_by = '{BY_WEIGHT}' AND time >= make_timestamp($4)
        AND ((version = $2 AND track = '{STABLE}') OR (version = $3 AND track = '{CANARY}'))
    GROUP BY version, request_id, row
)
SELECT version, predicted <> truth.label FROM answers JOIN truth USING (request_id, row)
ORDER BY truth.added, answers.time, request_id, row, version
"""


def _one(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    row = connection.execute(sql).fetchone()
    assert row is not None  # noqa: S101 - an aggregate has one row
    return int(row[0])

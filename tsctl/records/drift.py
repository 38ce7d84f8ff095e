"""Counts the features of records in the bins of their references, part of a time by part of it.

Invariant: the counts are those of `tsctl.drift.features.values_of` and `tsctl.drift.reference.count`, record by record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tsctl.drift.features import DIGITS, INPUT, LABEL, NUMBERS, OUTPUTS, PREDICTION, SKETCH, SMALLEST, values_of
from tsctl.drift.reference import Counts, NumberReference, Reference
from tsctl.records.database import Place, query, quoted

#: Only answered items are counted: one that does not fit the schema has no input, and a failed one no prediction.
_ANSWERED = "model = $1 AND version = $2 AND status = 200"
_WITHIN = f"{_ANSWERED} AND time >= make_timestamp($3) AND time < make_timestamp($4)"
#: Columns of which `values_of` makes features.
_COLUMNS = ("numbers", "categories", "label", "score", "scores", "outputs", "norm", "sketch", "text_length")
#: Records that are looked at for features without a reference.
LOOKED_AT = 1000


@dataclass(frozen=True)
class Part:
    """The items of one part of the time."""

    begin_s: float  # seconds since 1970
    end_s: float
    items: int
    counts: Mapping[str, Counts]  # in the bins of each feature


def count_parts(
    places: Sequence[Place],
    model: str,
    version: str,
    references: Mapping[str, Reference],
    begin_s: float,
    end_s: float,
    parts: int = 1,
) -> list[Part]:
    """The counts of the records from `begin_s` up to `end_s`, in so many parts of equal length; empty ones left out.

    Raises:
        AnalysisError: records cannot be read.
    """
    begin_us, end_us = round(begin_s * 1e6), round(end_s * 1e6)
    width_us = max(1, -(-(end_us - begin_us) // parts))
    columns = [f"{_value(name, each)} AS f{number}" for number, (name, each) in enumerate(references.items())]
    aggregates = [part for number, each in enumerate(references.values()) for part in _aggregates(f"f{number}", each)]
    _, rows = query(
        places,
        f"WITH picked AS (SELECT ((epoch_us(time) - $3) // $5)::INTEGER AS part, {', '.join(columns)}"
        f" FROM records WHERE {_WITHIN})"
        f" SELECT part, count(*), {', '.join(aggregates)} FROM picked GROUP BY part ORDER BY part",
        [model, version, begin_us, end_us, width_us],
        since_s=begin_s,
    )
    return [_part(row, references, begin_us, end_us, width_us) for row in rows]


def unknown_features(
    places: Sequence[Place], model: str, version: str, references: Mapping[str, Reference], begin_s: float, end_s: float
) -> list[str]:
    """Features of at most LOOKED_AT records of the time that have no reference."""
    _, rows = query(
        places,
        f"SELECT {', '.join(_COLUMNS)} FROM records WHERE {_WITHIN} LIMIT {LOOKED_AT}",
        [model, version, round(begin_s * 1e6), round(end_s * 1e6)],
        since_s=begin_s,
    )
    found = {name for row in rows for name in values_of(dict(zip(_COLUMNS, row, strict=True)))}
    return sorted(found - references.keys())


def recorded_versions(places: Sequence[Place], model: str) -> dict[str, float]:
    """The versions that have answered items among the records, each with the time of its last one, since 1970."""
    _, rows = query(
        places,
        "SELECT version, epoch_us(max(time)) FROM records WHERE model = $1 AND status = 200"
        " GROUP BY version ORDER BY version",
        [model],
    )
    return {version: last_us / 1e6 for version, last_us in rows}


def first_record_s(places: Sequence[Place], model: str, version: str, begin_s: float) -> float | None:
    """When the first answered item from `begin_s` on was answered, in seconds since 1970; None: there is none."""
    _, [(first_us,)] = query(
        places,
        f"SELECT epoch_us(min(time)) FROM records WHERE {_ANSWERED} AND time >= make_timestamp($3)",
        [model, version, round(begin_s * 1e6)],
        since_s=begin_s,
    )
    return None if first_us is None else first_us / 1e6


def _part(row: Sequence[Any], references: Mapping[str, Reference], begin_us: int, end_us: int, width_us: int) -> Part:
    place, items, *rest = row
    values = iter(rest)
    counts = {name: _counts(each, items, values) for name, each in references.items()}
    begin = begin_us + place * width_us
    return Part(begin / 1e6, min(begin + width_us, end_us) / 1e6, items, counts)


def _value(name: str, reference: Reference) -> str:
    """The value of a feature in a row; NULL where it is missing, also where it is no finite number."""
    is_number = isinstance(reference, NumberReference)
    if name.startswith(INPUT):
        value = f"{'numbers' if is_number else 'categories'}[{quoted(name.removeprefix(INPUT))}]"
    elif name == LABEL:
        value = "label"
    else:
        value = _rounded(_prediction(name.removeprefix(PREDICTION)))
    return f"CASE WHEN isfinite({value}) THEN {value} END" if is_number else f"nullif({value}, '')"


def _prediction(part: str) -> str:
    if part in NUMBERS:
        return f"{part}::DOUBLE"
    if part.startswith(OUTPUTS):
        return f"outputs[{quoted(part.removeprefix(OUTPUTS))}]"
    if part.startswith(SKETCH) and part.removeprefix(SKETCH).isdigit():
        return f"sketch[{int(part.removeprefix(SKETCH)) + 1}]"
    return "NULL::DOUBLE"  # a reference of another tsctl: nothing is found of it


def _rounded(value: str) -> str:
    """As `tsctl.drift.features.rounded`."""
    digits = f"({DIGITS - 1} - floor(log10(abs({value}))))::INTEGER"
    is_kept = f"abs({value}) < '{SMALLEST!r}'::DOUBLE OR NOT isfinite({value})"
    return f"CASE WHEN {is_kept} THEN {value} ELSE round({value}, {digits}) END"


def _aggregates(column: str, reference: Reference) -> Iterator[str]:
    if isinstance(reference, NumberReference):
        yield f"count({column})"
        for edge in reference.edges:
            yield f"count(*) FILTER ({column} >= '{edge!r}'::DOUBLE)"
        yield f"count(*) FILTER ({column} > '{reference.edges[-1]!r}'::DOUBLE)"
    else:
        yield f"count({column})"
        for name in reference.counts:
            yield f"count(*) FILTER ({column} = {quoted(name)})"


def _counts(reference: Reference, items: int, values: Iterator[int]) -> Counts:
    """The counts in the bins, from what `_aggregates` counted."""
    known = next(values)
    if isinstance(reference, NumberReference):
        from_edge = [next(values) for _ in reference.edges]
        above = next(values)
        starts = from_edge[:-1] or from_edge  # of the inner bins; the last one has its upper edge too
        inner = [low - high for low, high in zip(starts, [*starts[1:], above], strict=True)]
        return (items - known, known - from_edge[0], *inner, above)
    own = [next(values) for _ in reference.counts]
    return (items - known, *own, known - sum(own))

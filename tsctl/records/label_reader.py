"""Reads a file of labels of the user's as text: no value of it is guessed to be a time, a number or an identifier.

Invariant: a label and a request id are kept letter by letter, and what cannot be kept so is refused with its row.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tsctl.errors import SpecError
from tsctl.records.database import quoted

if TYPE_CHECKING:
    import duckdb

_COLUMNS = ("request_id", "label", "row")
#: A number with a larger size is not known digit by digit.
_EXACT = 2**53
#: Types of Parquet columns that are text as they are, by the beginning of their names.
_AS_TEXT = (
    "VARCHAR", "ENUM", "UUID", "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT",
    "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT",
)  # fmt: skip
_FRACTIONS = ("FLOAT", "DOUBLE", "DECIMAL")
#: Suffixes of the files that are read.
SUFFIXES = (".csv", ".parquet", ".jsonl")


def read_labels(connection: duckdb.DuckDBPyConnection, file: Path) -> None:
    """Make the table `labels` with the columns request_id, row and label, each row once.

    Raises:
        SpecError: a column is missing, or a row lacks a value or has one that is no text and no whole number.
        duckdb.Error: the file cannot be read.
    """
    connection.execute("SET preserve_insertion_order = true")  # rows are named by their numbers
    source, values = _source(connection, file)
    parts = [f"({text})::VARCHAR AS {name}, ({given}) AS has_{name}" for name, (text, given) in values.items()]
    connection.execute(f"CREATE TABLE given AS SELECT row_number() OVER () AS number, {', '.join(parts)} FROM {source}")
    faults = " ".join(
        f"WHEN NOT has_{name} THEN 'has no {name}' WHEN {name} IS NULL THEN 'has a {name} that is no text and no whole"
        " number'"
        for name in _COLUMNS
    )
    is_row = "regexp_full_match(row, '[0-9]{1,9}')"
    fault = f"CASE {faults} WHEN NOT {is_row} THEN 'has the row ' || row || ', which is no whole number' END"
    found = connection.execute(
        f"SELECT number, fault FROM (SELECT number, {fault} AS fault FROM given) WHERE fault IS NOT NULL"
        " ORDER BY number LIMIT 1"
    ).fetchone()
    if found is not None:
        raise SpecError(f"{file}: row {found[0]} {found[1]}")
    connection.execute("CREATE TABLE labels AS SELECT DISTINCT request_id, row::INTEGER AS row, label FROM given")


def _source(connection: duckdb.DuckDBPyConnection, file: Path) -> tuple[str, Mapping[str, tuple[str, str]]]:
    """What is read, and for each column the expressions of its text and of whether the row has a value."""
    path = quoted(str(file))
    if file.suffix == ".jsonl":
        # as objects: columns would get the type that fits most of their values
        return f"read_json_objects({path}, format = 'newline_delimited')", {name: _of_json(name) for name in _COLUMNS}
    is_csv = file.suffix == ".csv"
    source = f"read_csv({path}, all_varchar = true, header = true)" if is_csv else f"read_parquet({path})"
    types = {name: kind for name, kind, *_ in connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}
    if missing := {"request_id", "label"} - types.keys():
        have = ", ".join(sorted(types))
        raise SpecError(f"{file}: has no column {', '.join(sorted(missing))}", f"Its columns are {have}.")
    return source, {name: _of_column(file, name, types[name]) if name in types else _NO_ROW for name in _COLUMNS}


#: Of a file without rows: each request has one item.
_NO_ROW = ("'0'", "true")


def _of_column(file: Path, name: str, kind: str) -> tuple[str, str]:
    if kind.startswith(_AS_TEXT) and not kind.endswith("]"):
        return f"nullif({name}::VARCHAR, '')", f"nullif({name}::VARCHAR, '') IS NOT NULL"
    if kind.startswith(_FRACTIONS) and not kind.endswith("]"):
        return _whole(f"{name}::DOUBLE"), f"{name} IS NOT NULL"
    raise SpecError(f"{file}: the column {name} has the type {kind}", "Write its values as text.")


def _of_json(name: str) -> tuple[str, str]:
    kind, text = f"json_type(json, '$.{name}')", f"json_extract_string(json, '$.{name}')"
    whole = _whole(f"try_cast({text} AS DOUBLE)")
    value = (
        f"CASE WHEN {kind} IN ('VARCHAR', 'BOOLEAN', 'BIGINT', 'UBIGINT') THEN nullif({text}, '')"
        f" WHEN {kind} = 'DOUBLE' THEN {whole} END"
    )
    has = f"coalesce({kind} <> 'NULL' AND {text} <> '', false)"
    if name == "row":  # a line that does not say it is of a request with one item
        return f"CASE WHEN {has} THEN {value} ELSE '0' END", "true"
    return value, has


def _whole(value: str) -> str:
    """A number without a fraction as text: a class 1 that a program wrote as 1.0."""
    return f"CASE WHEN {value} = trunc({value}) AND abs({value}) < {_EXACT} THEN ({value})::BIGINT::VARCHAR END"

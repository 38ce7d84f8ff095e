"""Records as tables of DuckDB: over open and closed segments and Parquet, of several nodes, read-only.

Invariant: a query sees whole records only, each once, and takes no more than MEMORY of DuckDB's memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from handlers.record_files import INPUTS, PARQUET, RECORDS, RecordFile, parse_record_file
from tsctl.errors import AnalysisError, SpecError
from tsctl.records.folder import current_files

if TYPE_CHECKING:
    import duckdb

_IDENTITY = {
    "request_id": "VARCHAR", "row": "INTEGER", "model": "VARCHAR", "version": "VARCHAR", "client": "VARCHAR",
}  # fmt: skip
#: Columns of each table beside `time`, as docs/records.md has them.
COLUMNS: Mapping[str, Mapping[str, str]] = {
    RECORDS: {
        **_IDENTITY,
        "track": "VARCHAR", "status": "INTEGER", "error": "VARCHAR", "input_digest": "VARCHAR",
        "numbers": "MAP(VARCHAR, DOUBLE)", "categories": "MAP(VARCHAR, VARCHAR)",
        "label": "VARCHAR", "score": "DOUBLE", "scores": "DOUBLE[]", "outputs": "MAP(VARCHAR, DOUBLE)",
        "norm": "DOUBLE", "sketch": "DOUBLE[]", "text_length": "BIGINT", "text_digest": "VARCHAR",
        "answer_digest": "VARCHAR", "cache": "VARCHAR", "batch_items": "INTEGER",
        "wait_ms": "DOUBLE", "batch_ms": "DOUBLE", "decode_ms": "DOUBLE", "preprocess_ms": "DOUBLE",
        "inference_ms": "DOUBLE", "postprocess_ms": "DOUBLE", "encode_ms": "DOUBLE",
    },
    INPUTS: {**_IDENTITY, "media_type": "VARCHAR", "input": "VARCHAR"},
}  # fmt: skip
#: Of DuckDB; the process has about 100 MiB beside it.
MEMORY = "320MiB"
#: How often a query begins again because a worker or `compact` removed a file meanwhile.
ATTEMPTS = 5


@dataclass(frozen=True)
class Place:
    """Where records lie: the folder of a node, or a shared one by an address that fsspec knows."""

    name: str  # the column `node`
    address: str

    @property
    def is_remote(self) -> bool:
        """Whether the address is for fsspec."""
        return len(urlsplit(self.address).scheme) > 1

    def files(self) -> dict[str, RecordFile]:
        """The files that count, by path.

        Raises:
            SpecError: fsspec does not know the address, or cannot read there.
        """
        if not self.is_remote:
            folder = Path(self.address)
            return {str(folder / file.name): file for file in current_files(folder)}
        fsspec = require("fsspec")
        try:
            system, root = fsspec.core.url_to_fs(self.address)
            found = system.find(root)
        except (ImportError, ValueError, OSError) as error:
            raise SpecError(f"{self.address} cannot be read: {error}") from error
        protocol = urlsplit(self.address).scheme
        named = {f"{protocol}://{path.lstrip('/')}": parse_record_file(path.rsplit("/", 1)[-1]) for path in found}
        return {path: file for path, file in named.items() if file is not None}


def require(package: str) -> Any:
    """The package, which is imported here because only records need it.

    Raises:
        SpecError: it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        raise SpecError(
            f"records are read with {package}, which is not installed", "pip install 'tsctl[records]'"
        ) from None


def connect() -> duckdb.DuckDBPyConnection:
    """An empty database in memory, bounded, that loads no extension from the network."""
    connection: duckdb.DuckDBPyConnection = require("duckdb").connect(
        config={"memory_limit": MEMORY, "temp_directory": "", "autoinstall_known_extensions": False}
    )
    connection.execute("SET preserve_insertion_order = false")
    return connection


@contextmanager
def open_records(places: Sequence[Place], *folders: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with the views `records` and `inputs` over all places.

    Args:
        folders: that a statement may use as well.
    """
    connection = connect()
    try:
        for place in places:
            if place.is_remote:
                system, _ = require("fsspec").core.url_to_fs(place.address)
                connection.register_filesystem(system)
        files = [(place, place.files()) for place in places]
        for kind in COLUMNS:
            parts = [
                f"SELECT {quoted(place.name)} AS node, * FROM ({select(kind, chosen)})"
                for place, found in files
                if (chosen := [path for path, file in found.items() if file.kind == kind])
            ]
            nothing = f"SELECT NULL::VARCHAR AS node, * FROM ({select(kind, [])})"
            connection.execute(f"CREATE VIEW {kind} AS {' UNION ALL BY NAME '.join(parts) or nothing}")
        if not any(place.is_remote for place in places):
            connection.execute(f"SET allowed_directories = {_list([*(place.address for place in places), *folders])}")
            connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection
    finally:
        connection.close()


def query(
    places: Sequence[Place], sql: str, parameters: Sequence[Any] = (), folders: Sequence[str] = ()
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows of one SELECT over the views.

    Args:
        folders: with other files that the statement reads.

    Raises:
        SpecError: it is no single SELECT, or DuckDB does not understand it.
        AnalysisError: it needs more memory than MEMORY, or files cannot be read.
    """
    duckdb = require("duckdb")
    require_select(sql)
    for attempt in range(ATTEMPTS):
        try:
            with open_records(places, *folders) as connection:
                result = connection.execute(sql, list(parameters))
                return [column[0] for column in result.description or ()], result.fetchall()
        except duckdb.OutOfMemoryException:
            raise AnalysisError(
                f"the query needs more than {MEMORY} of memory", "Aggregate more, or choose a shorter time."
            ) from None
        except duckdb.IOException as error:
            if attempt == ATTEMPTS - 1:
                raise AnalysisError(f"records cannot be read: {_first_line(error)}") from None
        except duckdb.Error as error:
            raise SpecError(f"the query failed: {_first_line(error)}") from None
    raise AssertionError("This is a bug.")


def select(kind: str, paths: Sequence[str]) -> str:
    """The statement that reads files of one kind, with `time` first; no line that was not written completely."""
    columns = COLUMNS[kind]
    packed = [path for path in paths if path.endswith(PARQUET)]
    lines = [path for path in paths if not path.endswith(PARQUET)]
    parts = []
    if packed:
        parts.append(f"SELECT time, {', '.join(columns)} FROM read_parquet({_list(packed)})")
    if lines:
        types = ", ".join(f"{name}: {quoted(kind)}" for name, kind in {"time_us": "BIGINT", **columns}.items())
        parts.append(
            f"SELECT make_timestamp(time_us) AS time, {', '.join(columns)} FROM read_json({_list(lines)},"
            f" format = 'newline_delimited', columns = {{{types}}}, ignore_errors = true) WHERE time_us IS NOT NULL"
        )
    if not parts:
        typed = ", ".join(f"NULL::{kind} AS {name}" for name, kind in columns.items())
        parts.append(f"SELECT NULL::TIMESTAMP AS time, {typed} WHERE false")
    return " UNION ALL ".join(parts)


def require_select(sql: str) -> None:
    """Raises SpecError where the text is anything but one SELECT."""
    duckdb = require("duckdb")
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise SpecError(f"the query failed: {_first_line(error)}") from None
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise SpecError("a query is one SELECT over the tables records and inputs, which nothing may change")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n\n")[0]


def quoted(value: str) -> str:
    """The text as SQL writes it."""
    return "'" + value.replace("'", "''") + "'"


def _list(values: Sequence[str]) -> str:
    return f"[{', '.join(map(quoted, values))}]"

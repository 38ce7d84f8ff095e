"""Records as tables of DuckDB: over open and closed segments and Parquet, of several nodes, read-only.

Invariant: a query sees whole records only, each once, and takes no more than MEMORY of DuckDB's memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from handlers.record_files import INPUTS, PARQUET, RECORDS, REPEATS, SEGMENT_S, RecordFile, parse_record_file
from tsctl.errors import AnalysisError, SpecError, TsctlError
from tsctl.host.remote import is_remote, reason_of
from tsctl.records.folder import current_files

if TYPE_CHECKING:
    import duckdb

_IDENTITY = {
    "request_id": "VARCHAR", "row": "INTEGER", "model": "VARCHAR", "version": "VARCHAR", "client": "VARCHAR",
}  # fmt: skip
_ANSWER = {
    "label": "VARCHAR", "score": "DOUBLE", "scores": "DOUBLE[]", "outputs": "MAP(VARCHAR, DOUBLE)",
    "norm": "DOUBLE", "sketch": "DOUBLE[]", "text_length": "BIGINT", "text_digest": "VARCHAR",
    "lists": "VARCHAR[]", "rest_digest": "VARCHAR", "rest_has_fractions": "BOOLEAN",
    "answer_digest": "VARCHAR", "answer": "VARCHAR",
}  # fmt: skip
#: Columns of each table beside `time`, as docs/records.md has them.
COLUMNS: Mapping[str, Mapping[str, str]] = {
    RECORDS: {
        **_IDENTITY,
        "track": "VARCHAR", "chosen_by": "VARCHAR", "status": "INTEGER", "error": "VARCHAR", "input_digest": "VARCHAR",
        "numbers": "MAP(VARCHAR, DOUBLE)", "categories": "MAP(VARCHAR, VARCHAR)",
        **_ANSWER,
        "copied": "BOOLEAN", "cache": "VARCHAR", "batch_items": "INTEGER",
        "wait_ms": "DOUBLE", "batch_ms": "DOUBLE", "decode_ms": "DOUBLE", "preprocess_ms": "DOUBLE",
        "inference_ms": "DOUBLE", "postprocess_ms": "DOUBLE", "encode_ms": "DOUBLE",
    },
    INPUTS: {**_IDENTITY, "media_type": "VARCHAR", "input": "VARCHAR"},
    REPEATS: {**_IDENTITY, "repeat": "VARCHAR", "status": "INTEGER", **_ANSWER},
}  # fmt: skip
#: Of DuckDB; the process has about 100 MiB beside it.
MEMORY = "320MiB"
#: Seconds for which a segment may be open longer than it should, and clocks may disagree.
LATE_S = 120.0
#: Rows that are taken from DuckDB at a time.
_CHUNK = 2048
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
        return is_remote(self.address)

    def files(self) -> dict[str, RecordFile]:
        """The files that count, by path.

        Raises:
            SpecError: fsspec does not know the address.
            AnalysisError: it cannot be read now.
        """
        if not self.is_remote:
            folder = Path(self.address)
            return {str(folder / file.name): file for file in current_files(folder)}
        with remote_errors(self.address):
            system, root = require("fsspec").core.url_to_fs(self.address)
            found = system.find(root)
        protocol = urlsplit(self.address).scheme
        named = {f"{protocol}://{path.lstrip('/')}": parse_record_file(path.rsplit("/", 1)[-1]) for path in found}
        return {path: file for path, file in named.items() if file is not None}


@contextmanager
def remote_errors(address: str) -> Iterator[None]:
    """Raises SpecError where fsspec does not know the address, and AnalysisError where the place cannot be used now.

    Each of fsspec's file systems has errors of its own.
    """
    try:
        yield
    except TsctlError:
        raise
    except (ImportError, ValueError) as error:
        raise SpecError(f"{address} cannot be used: {error}") from error
    except Exception as error:
        raise AnalysisError(
            f"{address} cannot be used: {reason_of(error)}", "Serving goes on without it. Try again, or name --node."
        ) from error


def may_hold(file: RecordFile, since_s: float) -> bool:
    """Whether a file may hold a record from this time on, in seconds since 1970, by its name alone.

    The begin of a segment is the time at which it was opened; Parquet says in itself what its row groups hold.
    """
    return file.end == PARQUET or file.begin_ms / 1000 + SEGMENT_S + LATE_S >= since_s


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
def open_records(
    places: Sequence[Place], *folders: str, label_files: Sequence[str] = (), since_s: float | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with the views `records`, `inputs`, `repeats` and `labels` over all places.

    Args:
        folders: that a statement may use as well.
        label_files: Parquet, in one of the folders.
        since_s: files that hold only older records are left out; seconds since 1970.
    """
    connection = connect()
    try:
        remote = {urlsplit(place.address).scheme: place.address for place in places if place.is_remote}
        for address in remote.values():  # DuckDB takes one file system for each protocol
            with remote_errors(address):
                system, _ = require("fsspec").core.url_to_fs(address)
            connection.register_filesystem(system)
        files: list[tuple[Place, dict[str, RecordFile]]] = []
        seen: set[tuple[str, str]] = set()
        for place in places:  # a node's file on its way to a shared place may be at both
            found = {path: file for path, file in place.files().items() if (place.name, file.name) not in seen}
            seen |= {(place.name, file.name) for file in found.values()}
            files.append((place, found))
        for kind in COLUMNS:
            parts = [
                f"SELECT {quoted(place.name)} AS node, * FROM ({select(kind, chosen)})"
                for place, found in files
                if (
                    chosen := [
                        path
                        for path, file in found.items()
                        if file.kind == kind and (since_s is None or may_hold(file, since_s))
                    ]
                )
            ]
            nothing = f"SELECT NULL::VARCHAR AS node, * FROM ({select(kind, [])})"
            connection.execute(f"CREATE VIEW {kind} AS {' UNION ALL BY NAME '.join(parts) or nothing}")
        connection.execute(f"CREATE VIEW labels AS {_current_labels(label_files)}")
        if not any(place.is_remote for place in places):
            allowed = [*(place.address for place in places), *folders]
            connection.execute(f"SET allowed_directories = {paths_list(allowed)}")
            connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection
    finally:
        connection.close()


def query(
    places: Sequence[Place],
    sql: str,
    parameters: Sequence[Any] | Mapping[str, Any] = (),
    folders: Sequence[str] = (),
    label_files: Sequence[str] = (),
    since_s: float | None = None,
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows of one SELECT over the views.

    Args:
        folders: with other files that the statement reads.
        label_files: of the view `labels`, in one of the folders.
        since_s: the statement needs no record before this time, in seconds since 1970.

    Raises:
        SpecError: it is no single SELECT, or DuckDB does not understand it.
        AnalysisError: it needs more memory than MEMORY, or files cannot be read.
    """
    with stream(places, sql, parameters, folders, label_files, since_s) as (columns, rows):
        return columns, list(rows)


@contextmanager
def stream(
    places: Sequence[Place],
    sql: str,
    parameters: Sequence[Any] | Mapping[str, Any] = (),
    folders: Sequence[str] = (),
    label_files: Sequence[str] = (),
    since_s: float | None = None,
) -> Iterator[tuple[list[str], Iterator[tuple[Any, ...]]]]:
    """Column names, and the rows as they come, so that a large result takes no more memory than a small one.

    Args, and what is raised, also while rows are read: as of `query`.
    """
    duckdb = require("duckdb")
    require_select(sql)
    given = dict(parameters) if isinstance(parameters, Mapping) else list(parameters)
    with ExitStack() as opened:
        for attempt in range(ATTEMPTS):
            try:
                connection = opened.enter_context(
                    open_records(places, *folders, label_files=label_files, since_s=since_s)
                )
                result = connection.execute(sql, given)
                columns, first = [column[0] for column in result.description or ()], result.fetchmany(_CHUNK)
                break
            except duckdb.Error as error:
                opened.close()
                if attempt == ATTEMPTS - 1 or not isinstance(error, duckdb.IOException):
                    raise _failure(error) from None
        yield columns, _rows(result, first)


def _rows(result: duckdb.DuckDBPyConnection, first: list[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    rows = first
    while rows:
        yield from rows
        try:
            rows = result.fetchmany(_CHUNK)
        except require("duckdb").Error as error:
            raise _failure(error) from None


def _failure(error: Exception) -> TsctlError:
    """What DuckDB's error means to the user."""
    duckdb = require("duckdb")
    if isinstance(error, duckdb.OutOfMemoryException):
        return AnalysisError(
            f"the query needs more than {MEMORY} of memory", "Aggregate more, or choose a shorter time."
        )
    if isinstance(error, duckdb.IOException):
        return AnalysisError(f"records cannot be read: {_first_line(error)}")
    return SpecError(f"the query failed: {_first_line(error)}")


def select(kind: str, paths: Sequence[str]) -> str:
    """The statement that reads files of one kind, with `time` first; no line that was not written completely."""
    columns = COLUMNS[kind]
    packed = [path for path in paths if path.endswith(PARQUET)]
    lines = [path for path in paths if not path.endswith(PARQUET)]
    parts = []
    if packed:
        # files of an older tsctl lack columns
        present = f"SELECT * FROM read_parquet({paths_list(packed)}, union_by_name = true)"
        parts.append(f"SELECT time, {', '.join(columns)} FROM ({present} UNION ALL BY NAME {_nothing(columns)})")
    if lines:
        types = ", ".join(f"{name}: {quoted(kind)}" for name, kind in {"time_us": "BIGINT", **columns}.items())
        parts.append(
            f"SELECT make_timestamp(time_us) AS time, {', '.join(columns)} FROM read_json({paths_list(lines)},"
            f" format = 'newline_delimited', columns = {{{types}}}, ignore_errors = true) WHERE time_us IS NOT NULL"
        )
    if not parts:
        parts.append(_nothing(columns))
    return " UNION ALL ".join(parts)


def _nothing(columns: Mapping[str, str]) -> str:
    """The statement that gives no row, with columns of these types."""
    typed = ", ".join(f"NULL::{kind} AS {name}" for name, kind in columns.items())
    return f"SELECT NULL::TIMESTAMP AS time, {typed} WHERE false"


def _current_labels(files: Sequence[str]) -> str:
    """The statement of one label for each item: the one that was added last."""
    if not files:
        return (
            "SELECT NULL::VARCHAR AS request_id, NULL::INTEGER AS row, NULL::VARCHAR AS label,"
            " NULL::TIMESTAMP AS added WHERE false"
        )
    return (
        "SELECT request_id, row, arg_max(label, added) AS label, make_timestamp(max(added) // 1000) AS added"
        f" FROM read_parquet({paths_list(files)}) GROUP BY request_id, row"
    )


def require_select(sql: str) -> str:
    """The statement of the text, without semicolons and comments at its end.

    Raises:
        SpecError: the text is anything but one SELECT.
    """
    duckdb = require("duckdb")
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise SpecError(f"the query failed: {_first_line(error)}") from None
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise SpecError(
            "a query is one SELECT over the tables records, inputs, repeats and labels, which nothing may change"
        )
    content = sql.encode()
    end = len(content)
    for offset, kind in reversed(duckdb.tokenize(sql)):  # offsets are of bytes
        if kind != duckdb.token_type.comment and content[offset : offset + 1] != b";":
            break
        end = offset
    return content[:end].decode()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n\n")[0]


def quoted(value: str) -> str:
    """The text as SQL writes it."""
    return "'" + value.replace("'", "''") + "'"


def paths_list(values: Sequence[str]) -> str:
    """The paths as a list in SQL."""
    return f"[{', '.join(map(quoted, values))}]"

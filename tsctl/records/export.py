"""Writes the rows of a query to a file, or to any place that fsspec knows."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tsctl.errors import AnalysisError, SpecError
from tsctl.records.database import Place, open_records, quoted, remote_errors, require, require_select
from tsctl.records.labels import label_files

#: How DuckDB writes a file, by its suffix.
FORMATS = {
    ".parquet": "(FORMAT parquet, COMPRESSION zstd)",
    ".csv": "(FORMAT csv, HEADER)",
    ".jsonl": "(FORMAT json)",
}


def export(places: Sequence[Place], sql: str, to: str, labels: Path | None = None) -> int:
    """Write the rows, whole or not at all; returns how many.

    Args:
        labels: the folder of labels, of which the view `labels` is made; None: it is empty.
        to: a path, or an address such as s3://bucket/day.parquet.

    Raises:
        SpecError: the suffix is none of FORMATS, the query no SELECT, or the folder is not there.
        AnalysisError: records cannot be read, or the place cannot be written.
    """
    duckdb = require("duckdb")
    suffix = Path(to).suffix
    if suffix not in FORMATS:
        raise SpecError(f"--to {to}: must end with {', '.join(FORMATS)}")
    statement = require_select(sql)
    target = Place("", to)
    parent = None if target.is_remote else Path(to).resolve().parent
    if parent is not None and not parent.is_dir():
        raise SpecError(f"--to {to}: there is no folder {parent}")
    with TemporaryDirectory(prefix=".tsctl-export-", dir=parent) as folder:
        making = Path(folder) / f"rows{suffix}"
        try:
            files = label_files(labels) if labels is not None else ()
            with open_records(places, folder, *([str(labels)] if files else []), label_files=files) as connection:
                # the last line may be a comment
                rows_of = f"COPY ({statement}\n) TO {quoted(str(making))} {FORMATS[suffix]}"
                written = connection.execute(rows_of)
                [rows] = written.fetchone() or (0,)
        except duckdb.OutOfMemoryException:
            raise AnalysisError("the query needs too much memory", "Choose fewer columns or a shorter time.") from None
        except duckdb.Error as error:
            raise SpecError(f"the export failed: {str(error).strip()}") from None
        if parent is not None:
            making.replace(Path(to).resolve())
        else:
            _upload(making, to)
        return int(rows)


def _upload(file: Path, to: str) -> None:
    with remote_errors(f"--to {to}"), file.open("rb") as source, require("fsspec").open(to, "wb") as sink:
        shutil.copyfileobj(source, sink)

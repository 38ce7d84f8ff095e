"""Samples and golden answers of an archive, wherever they are kept.

An archive that tsctl built holds its own. Those of a stock archive in the store are kept beside it: requests in
`archives/<model>/samples/`, their answers in `archives/<model>/golden/<version>.json`. New bytes are a new version, so
the answers of a version are those of one archive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handlers.contract import BINARY, Tolerance, difference
from tsctl.archive.container import MAX_SAMPLES_BYTES, open_archive
from tsctl.archive.inspect import Facts, facts_of, read_facts, read_golden_answers
from tsctl.archive.samples import media_type_of_file, read_samples
from tsctl.archive.sources import is_leaving
from tsctl.config.project import Project, project_of_archive
from tsctl.errors import ArchiveError
from tsctl.host.documents import parse_json

Sample = tuple[str, bytes, str]  # its name below `samples/`, its body, its media type
_SHOWN = 300


@dataclass(frozen=True)
class Known:
    """Requests to an archive, and the right answers to them as far as they are known."""

    samples: tuple[Sample, ...]
    answers: Mapping[str, Any]  # by the names of samples, without `samples/`
    tolerance: Tolerance
    is_kept: bool = False  # beside the archive, not inside


def known(path: Path) -> Known:
    """The samples and golden answers of an archive; answers to samples that are gone are left out.

    Raises:
        ArchiveError: it cannot be read, or what is kept beside it cannot.
    """
    with open_archive(path) as content:
        facts, answers = read_facts(content), read_golden_answers(content)
    samples = tuple(read_samples(path))
    folder = _folder(path, facts)
    if samples or folder is None:
        return Known(samples, answers, facts.tolerance)
    kept = tuple(read_folder(folder / "samples"))
    names = {name_of(sample) for sample in kept}
    recorded = read_answers(golden_file(folder, facts.names[1]))
    answers = {name: answer for name, answer in recorded.items() if name in names}
    return Known(kept, answers, facts.tolerance, is_kept=True)


def lacks_golden(path: Path) -> bool:
    """Whether nobody can say that an answer of the archive is right; raises as `known`."""
    return facts_of(path).is_stock and not known(path).answers


def name_of(sample: Sample) -> str:
    """A sample's name in golden answers."""
    return sample[0].removeprefix("samples/")


def golden_file(folder: Path, version: str) -> Path:
    """The file of the golden answers that are kept beside a stock archive."""
    return folder / "golden" / f"{version}.json"


def keep_samples(project: Project, model: str, files: Sequence[Path]) -> None:
    """Keep requests to a model beside its archives, in `archives/<model>/samples`.

    Raises:
        ArchiveError: one cannot be read, or another one of its name is there.
    """
    folder = project.archives / model / "samples"
    for file in files:
        target = folder / file.name
        try:
            content = file.read_bytes()
        except OSError as error:
            raise ArchiveError(f"sample {file} cannot be read: {error.strerror}") from None
        if target.exists() and target.read_bytes() != content:
            raise ArchiveError(f"{project.relative(target)} is another sample", "Rename one of the two.")
        folder.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def read_answers(path: Path) -> dict[str, Any]:
    """The golden answers of a file; none where there is no file.

    Raises:
        ArchiveError: it holds no JSON object.
    """
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ArchiveError(f"{path} is not JSON: {error}", "Record the answers again, or remove the file.") from None
    if not isinstance(content, dict):
        raise ArchiveError(f"{path} is no object of answers by sample", "Record the answers again.")
    return content


def read_folder(folder: Path) -> list[Sample]:
    """The files of a folder as samples, by name; none where there is no folder.

    Raises:
        ArchiveError: they have more than MAX_SAMPLES_BYTES bytes.
    """
    files = [path for path in sorted(folder.glob("*")) if path.is_file() and not is_leaving(path.name)]
    if sum(file.stat().st_size for file in files) > MAX_SAMPLES_BYTES:
        raise ArchiveError(f"{folder}: its samples have more than {MAX_SAMPLES_BYTES} bytes")
    return [(f"samples/{file.name}", file.read_bytes(), media_type_of_file(file.name, {}) or BINARY) for file in files]


def value_of(body: bytes) -> Any:
    """What a body says: JSON, else its text, as stock handlers answer.

    Raises:
        ValueError: it is neither.
    """
    try:
        return parse_json(body)
    except ValueError as error:
        try:
            return body.decode()
        except UnicodeDecodeError:
            raise error from None


def difference_of(status: int, body: bytes, expected: Any, tolerance: Tolerance) -> str:
    """How an answer differs from the golden one; empty where it does not."""
    text = body[:_SHOWN].decode("utf-8", "replace")
    if status != 200:
        return f"{status}: {text}"
    try:
        answer = value_of(body) if isinstance(expected, str) else parse_json(body)
    except ValueError:
        return f"no JSON: {text}"
    return difference(answer, expected, tolerance) or ""


def _folder(path: Path, facts: Facts) -> Path | None:
    """Where samples of a stock archive are kept; None for any other archive, and for one outside of a store."""
    project = project_of_archive(path)
    return project.archives / facts.names[0] if facts.is_stock and project is not None else None

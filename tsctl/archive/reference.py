"""Makes the references of an archive: what inputs and predictions look like on its reference data (docs/drift.md).

The archive's own handler answers the data in the sandbox and writes records of the answers. Predictions differ in their
last digits from one processor to another, so the references are kept beside the golden answers; as long as they still
fit the data they are taken as they are, and the archive has the same bytes on every machine.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from itertools import accumulate
from pathlib import Path
from typing import Any

from tsctl.archive.container import Content, digest_of, place
from tsctl.archive.recipe import TIMEOUT_S
from tsctl.archive.sources import files_below
from tsctl.archive.trial import ReferenceData, run_probe
from tsctl.archive.written import scratch
from tsctl.config.archive import ArchiveSpec
from tsctl.drift.features import Values, references_of, values_of
from tsctl.drift.reference import NumberReference, Reference, UnusableReference, count, from_json, to_json
from tsctl.errors import ArchiveError
from tsctl.host.files import write_public
from tsctl.host.progress import Note

#: Kept references still fit where, at every edge, at most this share of the values, or two of them, lies on the other
#: side. Other processors move a value by a last digit, and an edge is a value.
FITS_SHARE, FITS_VALUES = 0.02, 2


def reference_data(folder: Path, spec: ArchiveSpec, made: Path | None) -> Path | None:
    """The file or folder with the reference data; None where archive.yaml names none.

    Args:
        made: the recipe's output.

    Raises:
        ArchiveError: it is neither beside archive.yaml nor in the recipe's output.
    """
    if spec.reference is None:
        return None
    found = [top / spec.reference for top in (folder, made) if top is not None and (top / spec.reference).exists()]
    if not found:
        raise ArchiveError(
            f"{folder / 'archive.yaml'} names the reference {spec.reference}, and neither the folder nor the recipe's"
            " output has it",
            "Write the file, or have the recipe write it into --out.",
        )
    return found[0]


def make_reference(
    folder: Path, spec: ArchiveSpec, version: str, data: Path, entries: Mapping[str, Content], note: Note
) -> tuple[bytes, str]:
    """The references of a version as its archive holds them, and a line on how they changed; empty if they did not.

    They are computed again only if the data or an entry of the archive changed.

    Args:
        entries: of the archive, without the references.

    Raises:
        ArchiveError: a request of the data is not answered, or there are too few.
    """
    built, kept = (
        folder / ".built" / f".{version}.reference.json",
        folder / spec.golden / "reference" / f"{version}.json",
    )
    key = _key(data, entries)
    try:
        before = json.loads(built.read_text(encoding="utf-8"))
        if before["key"] == key and before["kept"] == _kept_digest(kept):
            return kept.read_bytes(), ""
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    items = _answered(spec, version, data, entries, note)
    try:
        new = references_of(items)
    except UnusableReference as error:
        raise ArchiveError(f"{spec.model} {version}: reference {spec.reference}: {error}") from None
    old = _read(kept)
    line = ""
    if old.keys() != new.keys() or not all(_fits(old[name], [row.get(name) for row in items]) for name in old):
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_public(kept, json.dumps(to_json(new), indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        line = f"reference of {len(items):,} items and {len(new)} features written: commit {kept.relative_to(folder)}"
    built.parent.mkdir(parents=True, exist_ok=True)
    write_public(built, json.dumps({"key": key, "kept": _kept_digest(kept)}))
    return kept.read_bytes(), line


def _answered(spec: ArchiveSpec, version: str, data: Path, entries: Mapping[str, Content], note: Note) -> list[Values]:
    """The features of each item of the data, from the archive's own handler."""
    note("answering the reference data")
    with scratch("tsctl-reference-") as unpacked:
        for name, content in entries.items():
            place(content, unpacked / name)
        names = files_below(data)
        files = tuple(data / name if name else data for name in sorted(names))
        out = unpacked / ".records.jsonl"
        trial = run_probe(
            unpacked,
            spec.serving(version).batch.size,
            [],
            reference=ReferenceData(data, files, out),
            timeout_s=TIMEOUT_S,
        )
        if trial.error:
            reason = trial.error.removeprefix("LoadError: ")
            raise ArchiveError(f"{spec.model} {version} has no reference: {reason}\n{trial.log}".strip())
        with out.open("rb") as file:
            return [values_of(json.loads(line)) for line in file]


def _key(data: Path, entries: Mapping[str, Content]) -> str:
    """A digest of everything that the references may depend on."""
    inputs: dict[str, Any] = {
        "entries": {name: digest_of(content) for name, content in sorted(entries.items())},
        "data": {name: digest_of(file) for name, file in sorted(files_below(data).items())},
        "python": platform.python_version(),
        "packages": sorted({f"{d.name}=={d.version}" for d in distributions() if d.name != "tsctl"}),
    }
    return digest_of(json.dumps(inputs, sort_keys=True).encode())


def _kept_digest(kept: Path) -> str:
    return digest_of(kept) if kept.is_file() else ""


def _read(kept: Path) -> dict[str, Reference]:
    """The kept references; none where there is no file, or its content is no reference."""
    try:
        return from_json(json.loads(kept.read_bytes()))
    except (FileNotFoundError, ValueError):
        return {}


def _fits(reference: Reference, values: Sequence[float | str | None]) -> bool:
    """Whether a reference made of the values would have the same counts, but for values that are nearly at an edge."""
    if isinstance(reference, NumberReference) == any(isinstance(value, str) for value in values):
        return False
    old, new = reference.reference, count(reference, values)
    allowed = max(FITS_VALUES, FITS_SHARE * len(values))
    if sum(old) != sum(new):
        return False
    if isinstance(reference, NumberReference):
        return all(abs(a - b) <= allowed for a, b in zip(accumulate(old), accumulate(new), strict=True))
    return sum(abs(a - b) for a, b in zip(old, new, strict=True)) <= 2 * allowed

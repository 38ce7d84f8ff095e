"""Checks an archive without running any of it."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from tsctl.archive.container import CONFIG, DIGESTS, REFERENCE, UNREADABLE, digest_of, open_archive, read_entry
from tsctl.archive.inspect import INTEGERS, Facts, is_integer, read_facts, read_references
from tsctl.archive.packable import shadowing_names
from tsctl.archive.packages import own_packages
from tsctl.archive.pickles import UnsafePickle
from tsctl.archive.store import name_mistake, parse_name
from tsctl.config.requirements import named_version, normal_name, requirement_lines, requirement_mistake
from tsctl.errors import ArchiveError
from tsctl.host.documents import parse_json

PASS, WARN, FAIL, SKIP = "pass", "warn", "fail", "skip"


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    outcome: str  # pass, warn, fail or skip
    detail: str = ""
    hint: str = ""  # what would let it pass; empty where the detail says it, or nothing would


def structure_checks(path: Path) -> Iterator[Check]:
    """Check that the archive can be unpacked and has a manifest; the other checks need both."""
    try:
        archive = open_archive(path)
    except ArchiveError as error:
        yield Check("zip file", FAIL, error.message)
        return
    yield Check("zip file", PASS)
    with archive:
        try:
            detail = name_mistake(*read_facts(archive).names)
        except ArchiveError as error:
            detail = error.message
    yield Check("manifest", FAIL if detail else PASS, detail)


def content_checks(path: Path, archive: zipfile.ZipFile, facts: Facts) -> Iterator[Check]:
    """Check that the archive is as it was built, and that TorchServe loads it as its author meant."""
    yield _name_check(path, facts)
    yield _digest_check(archive, facts)
    shadowed = shadowing_names(archive.namelist())
    yield Check(
        "no module is shadowed",
        FAIL if shadowed else PASS,
        _list("come before the worker's own modules of that name", shadowed),
    )
    yield _config_check(facts)
    if lines := stock_requirements(archive, facts):
        yield Check("requirements", WARN, lines)
    if REFERENCE in archive.namelist():
        yield _reference_check(archive)


def _reference_check(archive: zipfile.ZipFile) -> Check:
    name = "reference"
    try:
        return Check(name, PASS, f"{len(read_references(archive))} features")
    except ArchiveError as error:
        return Check(name, FAIL, error.message)


def _name_check(path: Path, facts: Facts) -> Check:
    name = "file name"
    parsed = parse_name(path.name)
    if parsed is None:
        return Check(name, SKIP, "not named as the store names archives")
    model, version, digest = parsed
    if digest_of(path)[: len(digest)] != digest:
        return Check(name, FAIL, f"the file's digest is {digest_of(path)[: len(digest)]}, its name says {digest}")
    if (model, version) != facts.names:
        return Check(name, FAIL, f"it holds {' '.join(facts.names)}")
    return Check(name, PASS)


def _digest_check(archive: zipfile.ZipFile, facts: Facts) -> Check:
    name = "digests"
    if facts.is_stock:
        return Check(name, SKIP, "a stock archive carries none")
    try:
        stated = parse_json(read_entry(archive, DIGESTS))
        if not isinstance(stated, dict):
            return Check(name, FAIL, f"{DIGESTS} is no object of digests by name")
        present = set(archive.namelist()) - {DIGESTS}
        wrong = sorted(set(stated) ^ present)
        for entry in sorted(set(stated) & present):
            with archive.open(entry) as file:
                stream: Any = file  # typeshed does not say that it reads into a buffer
                if file_digest(stream, "sha256").hexdigest() != stated[entry]:
                    wrong.append(entry)
    except (*UNREADABLE, ArchiveError) as error:
        return Check(name, FAIL, str(error))
    return Check(name, FAIL if wrong else PASS, _list("differ from what was built", wrong))


def _config_check(facts: Facts) -> Check:
    name = "timeouts and numbers"
    wrong = [f"{key} is {facts.config[key]!r}" for key in INTEGERS if not is_integer(facts.config.get(key, 1))]
    if wrong:
        return Check(name, FAIL, f"{wrong[0]}: TorchServe ignores what is not an integer")
    missing = [key for key in ("startupTimeout", "responseTimeout") if key not in facts.config]
    if not missing:
        return Check(name, PASS)
    return Check(name, WARN if facts.is_stock else FAIL, f"{CONFIG} does not state {' and '.join(missing)}")


def stock_requirements(archive: zipfile.ZipFile, facts: Facts) -> str:
    """What becomes of the requirements in a stock archive; empty where it has none, or all of them are installed here.

    Raises:
        ArchiveError: they cannot be read.
    """
    name = facts.manifest.model.requirementsFile
    if not facts.is_stock or not name or name not in archive.namelist():
        return ""
    lines = requirement_lines(read_entry(archive, name).decode("utf-8", "replace"))
    own = own_packages()
    missing = [line for line in lines if not _is_installed(line, own)]
    if not missing:
        return ""
    return (
        f"{name} asks for {', '.join(missing[:5])[:300]}, which tsctl does not install for stock archives: install it"
        " beside TorchServe on each node, or convert the archive and name it in `requirements` of archive.yaml"
    )


def _is_installed(line: str, own: Mapping[str, str]) -> bool:
    """Whether a requirement is installed; of a version, only an exact one is compared."""
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line)
    name = normal_name(match[0]) if match else ""
    exact = not requirement_mistake(line)
    return name in own and (not exact or own[name].partition("+")[0] == named_version(line)[1].partition("+")[0])


def pickle_check(unsafe: Sequence[UnsafePickle], trust: bool, hint: str = "") -> Check:
    """Check that reading the files runs no code; with `trust`, imports that are only unknown are a warning.

    Args:
        unsafe: what no digest trusts.
        hint: the lines that would trust it.
    """
    if not unsafe:
        return Check("pickles", PASS)
    is_warning = trust and not any(pickle.is_dangerous for pickle in unsafe)
    detail = "; ".join(f"{pickle.file} {pickle.finding}" for pickle in unsafe[:5])
    return Check("pickles", WARN if is_warning else FAIL, detail, hint)


def trust_check(accepted: Sequence[str], unused: Sequence[str]) -> Iterator[Check]:
    """Tell which pickles are read although they run code, and which words of trust say nothing."""
    if accepted or unused:
        yield Check("trust", WARN, "; ".join([*accepted, *unused]))


def _list(words: str, names: Sequence[str]) -> str:
    return f"{', '.join(names[:8])[:1000]} {words}".strip() if names else ""

"""Has a model's own folder answer requests once, in a process of its own and without a server.

The process runs with the user's rights and without a time limit: it is the author who tries his own code. Nothing has
to be built or kept before, and golden answers may be missing.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Base64Bytes, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from handlers.contract import JSON, SECRETS_VARIABLE
from tsctl.archive.build import assemble
from tsctl.archive.container import place
from tsctl.archive.packages import packages_of_archive, read_requirements, variables_for
from tsctl.archive.recipe import recipe_output
from tsctl.archive.samples import media_type_of_file
from tsctl.archive.secrets import secrets_here
from tsctl.archive.sources import files_below
from tsctl.archive.trial import scan_pickles
from tsctl.archive.trust import Trust, require_trusted
from tsctl.archive.written import scratch
from tsctl.config.archive import ArchiveSpec
from tsctl.errors import ArchiveError, SpecError
from tsctl.host.files import write_public
from tsctl.host.process import end_child, inherited
from tsctl.host.progress import Note

#: Seconds that the process has to end when the user interrupts.
END_S = 2.0


@dataclass(frozen=True)
class Body:
    """A request to try."""

    name: str
    content: bytes
    media_type: str


@checked(frozen=True)
class Answer:
    """The answer to one request."""

    status: int
    media_type: str
    body: Base64Bytes  # in JSON
    class_name: str | None


@checked(frozen=True)
class Answers:
    """The answers to one batch."""

    answers: list[Answer]
    failures: list[str]  # tracebacks of the author's code
    first_ms: float  # what the first answer took, which allocates and compiles
    ms: float | None  # the fastest of the turns; None where no stage ran
    stages: dict[str, float]  # milliseconds of each stage in that turn


@checked(frozen=True)
class Attempt:
    """What came of it."""

    error: str  # the traceback where nothing could be answered; else empty
    batches: list[Answers]
    profile: str = ""  # the profiler's table
    load_s: float | None = None
    device: str | None = None


@dataclass(frozen=True)
class AttemptOptions:
    """How the requests are answered."""

    batch: int | None = None  # all in batches of so many, repeated until a batch is full; None: each alone
    turns: int = 5  # how often, for the times
    trace: Path | None = None  # profiles, and gets the trace


def bodies(folder: Path, spec: ArchiveSpec, sample: str | None, media_type: str | None) -> list[Body]:
    """The requests that a user means.

    Args:
        sample: a file, or the name of one of the archive's samples, or "-" for standard input; None: all samples.
        media_type: of the request; None: by the file's suffix, and JSON from standard input.

    Raises:
        SpecError: there is no such file, or its suffix says no media type.
    """
    if sample == "-":
        return [Body("standard input", sys.stdin.buffer.read(), media_type or JSON)]
    kept = files_below(folder / spec.samples) if (folder / spec.samples).is_dir() else {}
    if sample is None and not kept:
        raise SpecError(f"{folder / spec.samples} has no sample", "Name a file, or '-' for standard input.")
    files = kept if sample is None else {Path(sample).name: kept.get(sample, Path(sample))}
    found = []
    for name, path in files.items():
        kind = media_type or media_type_of_file(path.name, spec.sample_types)
        if not path.is_file():
            names = f"The samples are {', '.join(kept)}." if kept else ""
            raise SpecError(f"{sample} is neither a file nor a sample of {spec.model}", names)
        if kind is None:
            raise SpecError(f"the suffix of {path} says no media type", "Name it: --type audio/wav")
        found.append(Body(name, path.read_bytes(), kind))
    return found


def in_batches(requests: Sequence[Body], size: int | None) -> list[list[Body]]:
    """The requests alone, or in batches of `size`, the last one filled up with the first requests."""
    if size is None:
        return [[request] for request in requests]
    count = -(-len(requests) // size) * size
    filled = [requests[place % len(requests)] for place in range(count)]
    return [filled[begin : begin + size] for begin in range(0, count, size)]


def attempt(
    folder: Path,
    spec: ArchiveSpec,
    version: str,
    batches: Sequence[Sequence[Body]],
    options: AttemptOptions,
    note: Note,
    trust: Trust,
) -> Attempt:
    """Load the version from its folder, and answer the batches.

    Args:
        trust: the pickles that may be read.

    Raises:
        ArchiveError: the recipe failed, a file is missing, a pickle is not trusted, or the process ended without a
            result.
    """
    made, _ = recipe_output(folder, spec, version, note)
    with scratch("tsctl-try-") as unpacked:
        for name, content in assemble(folder, spec, version, made, has_golden=False).items():
            place(content, unpacked / name)
        require_trusted(scan_pickles(unpacked), unpacked, trust, f"{spec.model} {version}")
        packages = packages_of_archive(read_requirements(folder, spec), spec.model)
        note("answering")
        trace = unpacked / "trace.json" if options.trace else None
        with secrets_here(spec.model, spec.secrets) as secrets:
            variables = {**variables_for(packages), **({SECRETS_VARIABLE: str(secrets)} if secrets else {})}
            written = _run(unpacked, _order(batches, options, trace), variables)
        if options.trace and trace is not None and trace.is_file():
            write_public(options.trace, trace.read_text())
    try:
        # paths of the copy that ran become those of the author's files
        document = json.loads(written.replace(json.dumps(f"{unpacked}{os.sep}")[1:-1], f"{folder}{os.sep}"))
        return TypeAdapter(Attempt).validate_python(document)
    except (ValueError, ValidationError):
        raise ArchiveError(
            f"{spec.model} {version}: the process ended without an answer", "Its last lines are above."
        ) from None


def _order(batches: Sequence[Sequence[Body]], options: AttemptOptions, trace: Path | None) -> Mapping[str, Any]:
    def item(request: Body) -> dict[str, str]:
        body = base64.b64encode(request.content).decode()
        return {"name": request.name, "body": body, "media_type": request.media_type}

    return {
        "batches": [[item(request) for request in batch] for batch in batches],
        "turns": options.turns,
        "trace": str(trace) if trace else None,
    }


def _run(unpacked: Path, order: Mapping[str, Any], variables: Mapping[str, str]) -> str:
    """What the process writes; what the author's code prints goes to standard error as it comes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "handlers.worker.attempt"],  # the archive's own package
        cwd=unpacked,
        env={**inherited(os.environ), **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        written, _ = process.communicate(json.dumps(order))
        return written
    finally:
        if process.poll() is None:
            end_child(process, END_S)

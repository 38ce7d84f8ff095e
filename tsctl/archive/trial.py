"""Runs an archive in the sandbox (see probe.py), to get its answers to batches or its golden answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Base64Bytes, FailFast, TypeAdapter, ValidationError

import tsctl
from handlers.contract import SECRETS_VARIABLE
from tsctl.archive.container import CONFIG, MANIFEST
from tsctl.archive.inspect import Config, Manifest, Serving
from tsctl.archive.packages import packages_of_archive, variables_for
from tsctl.archive.pickles import UnsafePickle, may_be_pickle
from tsctl.archive.sandbox import run_confined
from tsctl.archive.secrets import secrets_here
from tsctl.archive.sources import handlers_package
from tsctl.config.yaml_files import parse_yaml
from tsctl.errors import ArchiveError
from tsctl.host.documents import parse_json

TIMEOUT_S = 300.0
_PROBE = Path(__file__).with_name("probe.py")
_SHOWN_LINES = 12


@dataclass(frozen=True)
class ItemRequest:
    """One item of a batch."""

    body: Base64Bytes  # in JSON
    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)  # beside the media type


@dataclass(frozen=True)
class ItemAnswer:
    """The answer to one item."""

    status: int
    media_type: str
    body: Base64Bytes  # in JSON

    def json(self) -> Any:
        """The body as JSON; ValueError where it is none."""
        return parse_json(self.body)


@dataclass(frozen=True)
class Trial:
    """The result of a trial."""

    is_loaded: bool
    error: str  # why it did not load or answer; empty where it did
    log: str = ""  # the last lines that it wrote
    load_s: float | None = None
    answers: Annotated[list[Annotated[list[ItemAnswer], FailFast()]], FailFast()] = field(default_factory=list)
    golden: dict[str, Any] = field(default_factory=dict)
    distances: list[float] = field(default_factory=list)  # of pairs, as the handler's own `compare` has them
    reference_items: int = 0  # of the reference data, whose records were written
    handlers_file: str | None = None  # which package `handlers` ran
    media_types: list[str] = field(default_factory=list)  # that the handler reads; empty: it does not say


@dataclass(frozen=True)
class ReferenceData:
    """Reference data to answer.

    Args:
        data: the file or folder that holds it.
        files: of it, in order.
        out: the file for the records, in the unpacked archive.
    """

    data: Path
    files: tuple[Path, ...]
    out: Path


def scan_pickles(folder: Path, timeout_s: float = TIMEOUT_S) -> list[UnsafePickle]:
    """Unsafe imports of the pickles below a folder; no process is started where no file may be one."""
    if not any(path.is_file() and may_be_pickle(path) for path in folder.rglob("*")):
        return []
    package = Path(tsctl.__file__).resolve().parent
    code = f"import sys; sys.path.insert(0, {str(package.parent)!r}); from tsctl.archive.pickles import main; main()"
    ended = run_confined(
        [sys.executable, "-I", "-c", code, str(folder.resolve())],
        folder.resolve(),
        reads=[folder.resolve(), handlers_package(), package],
        timeout_s=timeout_s,
    )
    if ended.status != 0:
        reason = ended.stopped or ended.log.strip().rpartition("\n")[2] or f"status {ended.status}"
        return [UnsafePickle("its files", f"cannot be scanned: {reason}", is_dangerous=True)]
    return TypeAdapter(list[UnsafePickle]).validate_json(ended.output)


def run_probe(
    folder: Path,
    batch_size: int,
    batches: Sequence[Sequence[ItemRequest]],
    golden: bool = False,
    reference: ReferenceData | None = None,
    timeout_s: float = TIMEOUT_S,
    to: Path | None = None,
    compare: Sequence[tuple[Any, Any]] | None = None,
) -> Trial:
    """Try an unpacked archive.

    Args:
        golden: only its present answers to its own samples are made.
        reference: only the records of reference data are made.
        compare: only these pairs of answers are compared, by the handler.
        to: a file in the folder, to which the answers are appended (see `written_answers`); None: the trial has them.
    """
    with (folder / MANIFEST).open("rb") as file:
        model = Manifest.model_validate_json(file.read()).model
    serving = _serving(folder)
    packages = packages_of_archive(serving.requirements, model.modelName)
    items = list({id(item): item for batch in batches for item in batch}.values())  # each once: a batch repeats samples
    places = {id(item): place for place, item in enumerate(items)}
    order = {
        "folder": str(folder.resolve()),
        "model": model.modelName,
        "handler": model.handler,
        "batch_size": batch_size,
        "golden": golden,
        "compare": compare,
        "reference": None
        if reference is None
        else {"files": [str(file.absolute()) for file in reference.files], "out": str(reference.out.resolve())},
        "to": str(to.resolve()) if to is not None else None,
        "items": TypeAdapter(list[ItemRequest]).dump_python(items, mode="json"),
        "batches": [[places[id(item)] for item in batch] for batch in batches],
    }
    with secrets_here(model.modelName, serving.secrets) as secrets:
        ended = run_confined(
            [sys.executable, "-I", str(_PROBE)],
            folder.resolve(),
            reads=[_PROBE, *([reference.data.absolute()] if reference else []), *filter(None, (packages, secrets))],
            writes=[folder.resolve()],
            order=json.dumps(order).encode(),
            variables={
                "TS_DECODE_INPUT_REQUEST": "true",
                **variables_for(packages),
                **({SECRETS_VARIABLE: str(secrets)} if secrets else {}),
            },
            timeout_s=timeout_s,
        )
    log = "\n".join([*ended.log.splitlines(), *filter(None, [ended.stopped])][-_SHOWN_LINES:])
    try:
        trial = replace(TypeAdapter(Trial).validate_json(ended.output), log=log)
    except ValidationError:
        return Trial(False, f"the process ended without a result: {log.splitlines()[-1:] or ['no output']}", log)
    if ended.stopped:
        return replace(trial, error=ended.stopped)
    if "No module named 'ts'" in trial.error:
        raise ArchiveError(
            "TorchServe is not installed beside tsctl", "Run 'make setup', or pip install 'tsctl[serve]'."
        )
    return trial


def _serving(folder: Path) -> Serving:
    """The section of ours in the configuration of an unpacked archive; a stock archive has none."""
    path = folder / CONFIG
    if not path.is_file():
        return Serving()
    try:
        return Config.model_validate(parse_yaml(path.read_bytes(), exact=False) or {}).serving or Serving()
    except ValueError:
        return Serving()  # other checks say what is wrong with it

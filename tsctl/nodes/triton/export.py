"""Writes an archive as a model repository that a Triton without tsctl serves, with tensors or with whole bodies."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from handlers.contract import TRITON_JSON_PARAMETER
from tsctl.archive.container import open_archive, unpack
from tsctl.archive.inspect import Facts, read_facts
from tsctl.archive.libraries import OF_TEXT, Libraries, libraries_of
from tsctl.archive.sandbox import run_confined
from tsctl.errors import ArchiveError
from tsctl.nodes.exported import new_folder
from tsctl.nodes.triton.model_config import RAW_INPUTS, RAW_OUTPUTS, Batching, Tensor, instance_groups, model_config
from tsctl.nodes.triton.repository import ADAPTER, NUMBER, unfit

DESCRIBE_S = 120.0
#: Beside the model's folder: the packages that its code needs.
REQUIREMENTS = "requirements.txt"
_DESCRIBE = "import sys; sys.path.insert(0, '.'); from handlers.adapters.triton.describe import main; main()"
#: The program of the bundled package that runs.
PROGRAM = "handlers.adapters.triton.entry"
#: What Triton's own Python has: its backend needs a NumPy that it fits.
GIVEN = ("numpy", "triton_python_backend_utils")


class _Described(BaseModel):
    """A tensor as the archive's code describes it, with the dimension of its rows."""

    name: Annotated[str, Field(pattern=r"^[\w.\-]{1,128}$")]
    datatype: Annotated[str, Field(pattern=r"^(BOOL|BYTES|U?INT(8|16|32|64)|FP(16|32|64))$")]
    shape: Annotated[list[int], Field(min_length=1, max_length=8)]


class _Metadata(BaseModel):
    inputs: list[_Described]
    outputs: list[_Described]
    required: list[str] | None = None  # names of inputs; None: an archive of an older tsctl, so each is required
    json_outputs: list[str] = []


@dataclass(frozen=True)
class Interface:
    """What the model takes and gives.

    Args:
        json_outputs: names of the outputs that are a JSON text for each row.
    """

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    json_outputs: Sequence[str] = ()


RAW = Interface(RAW_INPUTS, RAW_OUTPUTS)


def export(archive: Path, target: Path, gpus: int = 0, is_raw: bool = False) -> Libraries:
    """Write a model repository with the archive's model to `target`, whole or not at all; the packages that it needs.

    Args:
        gpus: to which the workers are dealt; 0: they compute on the CPU.
        is_raw: the model gets whole HTTP bodies, and no tensors.

    Raises:
        SpecError: there is something of that name.
        ArchiveError: Triton cannot serve the archive, or its code does not say what the model takes.
    """
    with open_archive(archive) as opened:
        facts = read_facts(opened)
        if reason := unfit(facts, opened.namelist()):
            raise ArchiveError(f"{archive.name} cannot be served by Triton: {reason}")
    model, _ = facts.names
    if model == REQUIREMENTS:
        raise ArchiveError(
            f"{archive.name} cannot be exported: its model is called {model}, as a file of the repository is",
            "Give the model another name.",
        )
    with new_folder(target) as folder:
        version = folder / model / NUMBER
        unpack(archive, version / "archive")
        shutil.copyfile(version / "archive" / ADAPTER, version / "model.py")
        interface = RAW if is_raw else described(version / "archive", archive.name)
        (folder / model / "config.pbtxt").write_text(_config(facts, gpus, interface), encoding="utf-8")
        libraries = libraries_of(version / "archive", [PROGRAM, facts.handler], GIVEN, OF_TEXT)
        pins = sorted(libraries.pins.items())
        (folder / REQUIREMENTS).write_text("".join(f"{name}=={release}\n" for name, release in pins))
    return libraries


def _config(facts: Facts, gpus: int, interface: Interface) -> str:
    batching = Batching(facts.batch_size, facts.integer("maxBatchDelay") or 1)
    groups = instance_groups(facts.integer("minWorkers") or 1, gpus)
    parameters = {TRITON_JSON_PARAMETER: json.dumps(list(interface.json_outputs))} if interface.json_outputs else {}
    return model_config(facts.names[0], batching, groups, interface.inputs, interface.outputs, parameters)


def described(folder: Path, name: str) -> Interface:
    """What the unpacked archive's model takes and gives; its code runs in the sandbox.

    Raises:
        ArchiveError: it does not say that, or a tensor cannot fill a field that it needs.
    """
    ended = run_confined(
        [sys.executable, "-I", "-c", _DESCRIBE], folder.resolve(), reads=[folder.resolve()], timeout_s=DESCRIBE_S
    )
    try:
        metadata = _Metadata.model_validate(_metadata(ended.output))
    except ValidationError:
        why = ended.stopped or (ended.log.strip().splitlines() or ["it printed nothing"])[-1]
        raise ArchiveError(
            f"{name} does not say what its model takes: {why}", "Export whole HTTP bodies instead: --raw"
        ) from None
    if not metadata.inputs:
        raise ArchiveError(
            f"{name} has no field that a tensor can fill", "Export whole HTTP bodies instead, such as pictures: --raw"
        )
    required, inputs = metadata.required, [entry.name for entry in metadata.inputs]
    if missing := [field for field in required or () if field not in inputs]:
        raise ArchiveError(
            f"{name} needs {', '.join(missing)}, which a tensor cannot fill", "Export whole HTTP bodies instead: --raw"
        )
    return Interface(
        [_tensor(entry, required is not None and entry.name not in required) for entry in metadata.inputs],
        [_output(entry) for entry in metadata.outputs],
        metadata.json_outputs,
    )


def _metadata(output: bytes) -> Any:
    try:
        return json.loads(output)
    except ValueError:
        return None


def _tensor(entry: _Described, is_optional: bool = False) -> Tensor:
    """Without the rows' dimension; Triton needs one more at least."""
    return Tensor(entry.name, entry.datatype, tuple(entry.shape[1:]) or (1,), is_optional)


def _output(entry: _Described) -> Tensor:
    """An output whose numbers are FP64: golden answers that are all integers do not say that every answer is one."""
    tensor = _tensor(entry)
    return replace(tensor, datatype="FP64") if tensor.datatype == "INT64" else tensor

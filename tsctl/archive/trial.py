"""Runs an archive in a clean process (see probe.py), to get its answers to batches or its golden answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import Base64Bytes, TypeAdapter

from tsctl.errors import ArchiveError
from tsctl.host.process import inherited

TIMEOUT_S = 300.0
_PROBE = Path(__file__).with_name("probe.py")
_SHOWN_LINES = 12


@dataclass(frozen=True)
class ItemRequest:
    """One item of a batch."""

    body: Base64Bytes  # in JSON
    media_type: str


@dataclass(frozen=True)
class ItemAnswer:
    """The answer to one item."""

    status: int
    media_type: str
    body: Base64Bytes  # in JSON

    def json(self) -> Any:
        """The body as JSON; ValueError where it is none."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Trial:
    """The result of a trial."""

    is_loaded: bool
    error: str  # why it did not load or answer; empty where it did
    log: str = ""  # the last lines that it wrote
    load_s: float | None = None
    answers: list[list[ItemAnswer]] = field(default_factory=list)
    golden: dict[str, Any] = field(default_factory=dict)
    handlers_file: str | None = None  # which package `handlers` ran


def run_probe(
    folder: Path,
    batch_size: int,
    batches: Sequence[Sequence[ItemRequest]],
    golden: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> Trial:
    """Try an unpacked archive; with `golden`, only its present answers to its own samples are made."""
    model = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text(encoding="utf-8"))["model"]
    order = {
        "folder": str(folder.resolve()),
        "model": model["modelName"],
        "handler": model["handler"],
        "batch_size": batch_size,
        "golden": golden,
        "batches": TypeAdapter(Sequence[Sequence[ItemRequest]]).dump_python(batches, mode="json"),
    }
    with tempfile.TemporaryDirectory(prefix="tsctl-probe-") as scratch:
        order_file, result_file = Path(scratch) / "order.json", Path(scratch) / "result.json"
        order_file.write_text(json.dumps(order))
        log = _run([sys.executable, "-I", str(_PROBE), str(order_file), str(result_file)], timeout_s)
        if not result_file.is_file():
            return Trial(False, f"the process ended without a result: {log.splitlines()[-1:] or ['no output']}", log)
        trial = replace(TypeAdapter(Trial).validate_json(result_file.read_bytes()), log=log)
    if "No module named 'ts'" in trial.error:
        raise ArchiveError(
            "TorchServe is not installed beside tsctl", "Run 'make setup', or pip install 'tsctl[serve]'."
        )
    return trial


def _run(command: list[str], timeout_s: float) -> str:
    """The last lines that the process wrote; at the deadline it is killed with all processes that it started."""
    with subprocess.Popen(
        command,
        env={**inherited(os.environ), "PYTHONDONTWRITEBYTECODE": "1", "TS_DECODE_INPUT_REQUEST": "true"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            out, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            out, _ = process.communicate()
            out += f"\nstopped after {timeout_s:g} s"
        except BaseException:
            os.killpg(process.pid, 9)
            raise
    return "\n".join(out.splitlines()[-_SHOWN_LINES:])

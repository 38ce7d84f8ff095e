"""The archive's sample requests and golden answers: what a worker warms with and proves itself on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handlers.contract import SAMPLE_MEDIA_TYPES
from handlers.errors import LoadError
from handlers.messages import Incoming


@dataclass(frozen=True)
class Sample:
    """One request body and the answer that a correct model gives."""

    name: str
    request: Incoming
    golden: Any


def read_requests(folder: Path) -> list[tuple[str, Incoming]]:
    """Every file of `folder` as a request, by file name and in its order.

    Raises:
        LoadError: there is none.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    if not files:
        raise LoadError("the archive has no samples, so this worker could neither warm up nor prove its answers")
    return [(path.name, _request(path)) for path in files]


def read_samples(folder: Path, golden_file: Path) -> list[Sample]:
    """Every sample request with its golden answer, in name order.

    Raises:
        LoadError: there is no sample, a sample has no golden answer, or a golden answer has no sample.
    """
    requests = read_requests(folder)
    if not golden_file.is_file():
        raise LoadError(f"the archive has no {golden_file.name} with the answers to its samples")
    golden = json.loads(golden_file.read_text(encoding="utf-8"))
    unmatched = sorted({name for name, _ in requests} ^ set(golden))
    if unmatched:
        raise LoadError(f"samples and golden answers do not match one to one: {', '.join(unmatched)}")
    return [Sample(name, request, golden[name]) for name, request in requests]


def _request(path: Path) -> Incoming:
    media_type = SAMPLE_MEDIA_TYPES.get(path.suffix.lower(), "")
    return Incoming(path.read_bytes(), media_type, request_id=f"sample:{path.name}")

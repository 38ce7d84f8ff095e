"""Projects whose archive has references, and records of a node, without a node."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from handlers.record_files import CLOSED_SEGMENT, RECORDS, RecordFile
from tsctl.archive.build import with_digests
from tsctl.archive.container import CONFIG, MANIFEST, REFERENCE
from tsctl.archive.store import make_current, write_archive
from tsctl.config.project import Project
from tsctl.drift.features import references_of, values_of
from tsctl.drift.reference import Reference, to_json

DEPLOYMENT = """
nodes:
  local: {engine: uvicorn, address: "http://127.0.0.1:18090"}
models:
  toy: {default: "1.0", versions: {"1.0": {}}}
"""


def item(chance: random.Random, shift: float = 0.0) -> dict[str, Any]:
    """What a record says of one answered item."""
    return {
        "numbers": {"width": chance.gauss(5 + shift, 1), "height": float(chance.randrange(4))},
        "categories": {"form": chance.choice(["PNG", "JPEG", "JSON"])},
        "label": chance.choice("abcd"),
        "score": chance.random(),
    }


def references(seed: int = 1, items: int = 500) -> dict[str, Reference]:
    """Of items that `item` makes."""
    chance = random.Random(seed)  # noqa: S311 - the same in each run, and no secret
    return references_of(values_of(item(chance)) for _ in range(items))


def project_with(
    root: Path,
    of: Mapping[str, Reference] | None,
    records: Mapping[str, Any] | None = None,
    version: str = "1.0",
) -> Project:
    """A project that holds an archive of the model toy with these references, and records where its archive asks."""
    project = Project(root)
    project.archives.mkdir(parents=True, exist_ok=True)
    project.deployment.write_text(DEPLOYMENT)
    manifest = {"model": {"modelName": "toy", "modelVersion": version, "handler": "toy", "configFile": CONFIG}}
    serving = {"records": dict(records)} if records else {}
    entries = {
        MANIFEST: json.dumps(manifest).encode(),
        CONFIG: json.dumps({"serving": serving}).encode(),
        **({REFERENCE: json.dumps(to_json(of)).encode()} if of is not None else {}),
    }
    make_current(project, write_archive(with_digests(entries), project.store, "toy", version))
    return project


def write_records(
    project: Project, items: Iterable[Mapping[str, Any]], times: Callable[[int], float], version: str = "1.0"
) -> Path:
    """A closed segment of the node with a record of each item.

    Args:
        times: seconds since 1970 of the n-th.
    """
    folder = project.state / "nodes" / "local" / "records"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"time_us": round(times(number) * 1e6), "request_id": f"{number}", "row": 0, "model": "toy",
         "version": version, "status": 200, **each}
        for number, each in enumerate(items)
    ]  # fmt: skip
    begin_ms = min(line["time_us"] for line in lines) // 1000
    file = RecordFile(begin_ms, 9_999_999_999_999, RECORDS, f"w{len(list(folder.iterdir()))}", CLOSED_SEGMENT)
    path = folder / file.name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path

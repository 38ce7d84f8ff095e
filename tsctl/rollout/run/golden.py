"""Asks one version on one node for the golden samples of its archive, over its explicit URL."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from typing import Any

import yaml

from handlers.contract import Tolerance, difference
from tsctl.archive.container import read_samples
from tsctl.archive.store import StoredArchive
from tsctl.errors import NodeError
from tsctl.nodes.torchserve.client import Reply
from tsctl.nodes.torchserve.node import Node


@dataclass(frozen=True)
class Golden:
    """Samples with their right answers, as an archive carries them; none in an archive that tsctl did not build."""

    samples: tuple[tuple[str, bytes, str], ...]  # name, body, media type
    answers: dict[str, Any]
    tolerance: dict[str, float]
    batch: int


def read_golden(archive: StoredArchive) -> Golden:
    """What the archive says of its samples."""
    with zipfile.ZipFile(archive.path) as content:
        names = set(content.namelist())
        answers = json.loads(content.read("golden.json")) if "golden.json" in names else {}
        config = yaml.safe_load(content.read("model-config.yaml")) if "model-config.yaml" in names else {}
    serving = config.get("serving") or {}
    return Golden(
        tuple(read_samples(archive.path)),
        answers,
        serving.get("tolerance") or {},
        int(config.get("batchSize") or 1),
    )


def require_golden(node: Node, archive: StoredArchive, golden: Golden) -> int:
    """The version on the node answers every golden sample rightly; how many there are.

    Raises:
        NodeError: it does not, or the node does not answer.
    """
    tolerance = Tolerance(**golden.tolerance)
    for path, body, media_type in golden.samples:
        name = path.removeprefix("samples/")
        if name not in golden.answers:
            continue
        reply = node.client.predict(archive.model, archive.version, body, media_type)
        why = wrong(reply, golden.answers[name], tolerance)
        if why:
            raise NodeError(f"{archive.model} {archive.version} on node {node.name} answers {name} wrongly: {why}")
    return len(golden.answers)


def wrong(reply: Reply, wanted: Any, tolerance: Tolerance) -> str:
    """How the answer differs from the right one; empty where it does not."""
    told = reply.body[:300].decode("utf-8", "replace")
    if reply.status != 200:
        return f"{reply.status}: {told}"
    try:
        answer = json.loads(reply.body)
    except ValueError:
        return f"no JSON: {told}"
    return difference(answer, wanted, tolerance) or ""

"""Sends the golden samples of an archive to one version on one node, and compares the answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from handlers.contract import Tolerance, difference
from tsctl.archive.container import open_archive
from tsctl.archive.documents import parse_json
from tsctl.archive.inspect import read_facts, read_golden_answers
from tsctl.archive.samples import read_samples
from tsctl.archive.store import StoredArchive
from tsctl.errors import NodeError
from tsctl.nodes.node import Node
from tsctl.nodes.observed import Reply


@dataclass(frozen=True)
class Golden:
    """Samples and golden answers of an archive; none in an archive that tsctl did not build."""

    samples: tuple[tuple[str, bytes, str], ...]  # name, body, media type
    answers: dict[str, Any]
    tolerance: Tolerance
    batch: int
    is_text: bool = False  # of a language model: how many it answers in a second depends on how long they are


def read_golden(archive: StoredArchive) -> Golden:
    """The golden samples of an archive.

    Raises:
        ArchiveError: it cannot be read.
    """
    with open_archive(archive.path) as content:
        facts, answers = read_facts(content), read_golden_answers(content)
    return Golden(tuple(read_samples(archive.path)), answers, facts.tolerance, facts.batch_size, facts.is_text)


def require_golden(node: Node, model: str, version: str, golden: Golden) -> None:
    """Compare the answer of the version on the node to every golden sample.

    Raises:
        NodeError: an answer differs, or the node does not answer.
    """
    for path, body, media_type in golden.samples:
        name = path.removeprefix("samples/")
        if name not in golden.answers:
            continue
        reply = node.predict(model, version, body, media_type)
        why = difference_of(reply, golden.answers[name], golden.tolerance)
        if why:
            raise NodeError(f"{model} {version} on node {node.name} answers {name} wrongly: {why}")


def difference_of(reply: Reply, expected: Any, tolerance: Tolerance) -> str:
    """How the answer differs from the golden one; empty where it does not."""
    text = reply.body[:300].decode("utf-8", "replace")
    if reply.status != 200:
        return f"{reply.status}: {text}"
    try:
        answer = parse_json(reply.body)
    except ValueError:
        return f"no JSON: {text}"
    return difference(answer, expected, tolerance) or ""

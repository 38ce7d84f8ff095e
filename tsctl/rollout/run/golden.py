"""Sends the golden samples of an archive to one version on one node, and compares the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handlers.contract import Tolerance
from tsctl.archive.inspect import facts_of
from tsctl.archive.known import Sample, difference_of, known, name_of
from tsctl.archive.store import StoredArchive
from tsctl.errors import NodeError
from tsctl.nodes.node import Node


@dataclass(frozen=True)
class Golden:
    """Samples and golden answers of an archive; of a stock archive, those that are kept beside it."""

    samples: tuple[Sample, ...]
    answers: Mapping[str, Any]
    tolerance: Tolerance
    batch: int
    is_text: bool = False  # of a language model: how many it answers in a second depends on how long they are


def read_golden(archive: StoredArchive) -> Golden:
    """The golden samples of an archive.

    Raises:
        ArchiveError: it cannot be read.
    """
    facts = facts_of(archive.path)
    found = known(archive.path)
    return Golden(found.samples, found.answers, facts.tolerance, facts.batch_size, facts.is_text)


def require_golden(node: Node, model: str, version: str, golden: Golden) -> None:
    """Compare the answer of the version on the node to every golden sample.

    Raises:
        NodeError: an answer differs, or the node does not answer.
    """
    for sample in golden.samples:
        name = name_of(sample)
        if name not in golden.answers:
            continue
        reply = node.predict(model, version, *sample[1:])
        why = difference_of(reply.status, reply.body, golden.answers[name], golden.tolerance)
        if why:
            raise NodeError(f"{model} {version} on node {node.name} answers {name} wrongly: {why}")

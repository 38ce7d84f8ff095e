"""Renders what `tsctl up` leaves running: answers, endpoints and a command to ask a model. Pure but for file names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tsctl.config.deployment import DeploymentSpec
from tsctl.config.nodes import PLAIN
from tsctl.config.project import Project
from tsctl.deploy.up import UpResult
from tsctl.nodes.node import Node
from tsctl.views.table import Table

#: An answer is shown on one line, cut to this many characters.
SHOWN_ANSWER = 96
#: Where to look at each kind of address.
_PATHS = {"inference": "/predictions/<model>[/<version>]", "management": "/models", "metrics": "/metrics"}


def result_lines(nodes: Sequence[Node], result: UpResult, is_changed: bool) -> Iterator[str]:
    """Whether anything changed, versions that deployment.yaml does not name, and an answer of every model."""
    if not is_changed and not result.failures:
        noun, verb = ("node", "serves") if len(nodes) == 1 else ("nodes", "serve")
        names = ", ".join(node.name for node in nodes)
        yield f"nothing to change: {noun} {names} {verb} what deployment.yaml says"
    for node, unnamed in result.unnamed.items():
        if unnamed:
            subject = f"node {node}" if result.has_several_nodes else "it"
            yield (
                f"{subject} serves {', '.join(unnamed)} as well, which deployment.yaml does not name;"
                " 'tsctl models unregister' removes a version"
            )
    for answer in result.answers:
        text = " ".join(answer.reply.body.decode("utf-8", "replace").split())
        shown = text if len(text) <= SHOWN_ANSWER else text[: SHOWN_ANSWER - 4] + " ..."
        prefix = f"node {answer.node}: " if result.has_several_nodes else ""
        yield f"{prefix}{answer.model} {answer.version}  {answer.sample}\n  {answer.reply.status} {shown}"


def up_json(
    nodes: Sequence[Node], result: UpResult, gateway: str | None, gateway_changes: Sequence[str]
) -> dict[str, Any]:
    """The same for machines; `gateway` is its address, None where deployment.yaml has none."""
    return {
        "is_changed": result.is_changed or bool(gateway_changes),
        "gateway": gateway and {"address": gateway, "changes": list(gateway_changes)},
        "nodes": [
            {"node": node.name, "url": node.spec.url, "unnamed": result.unnamed.get(node.name, [])} for node in nodes
        ],
        "answers": [
            {"node": a.node, "model": a.model, "version": a.version, "sample": a.sample, "status": a.reply.status}
            for a in result.answers
        ],
        "failures": list(result.failures),
    }


def endpoint_lines(deployment: DeploymentSpec, nodes: Sequence[Node]) -> Iterator[str]:
    """The addresses to ask, the gateway's first."""
    rows = [
        (f"{name} of {node.name}" if len(deployment.nodes) > 1 else name, address + _path(node, name))
        for node in nodes
        for name, address in node.addresses.items()
    ]
    addresses = deployment.gateway_addresses.items()
    gateways = [(f"gateway {name}".strip(), f"{address}/predictions/<model>") for name, address in addresses]
    rows = [*gateways, *rows]
    yield from Table(("", ""), rows).lines()[1:]


def _path(node: Node, name: str) -> str:
    """Where to look at an address; empty where a gateway has to translate."""
    return _PATHS.get(name, "") if name != "inference" or node.protocol == PLAIN else ""


def curl_line(project: Project, base: str, header: Path | None, model: str, here: Path) -> str:
    """A command that asks the model when pasted in the folder `here`; curl reads a secret from its file.

    Args:
        base: the address of the gateway, or of a node.
        header: the file with the header that gives access there.

    The sample is the first JSON file of the archive's folder, so that the command can be read.
    """
    samples = sorted((project.archives / model / "samples").glob("*.json"))
    body = f"--data-binary @{os.path.relpath(samples[0], here)}" if samples else "--data '{}'"
    access = f"-H @{os.path.relpath(header, here)} " if header else ""
    return f"curl -sS {access}-H 'Content-Type: application/json' {body} {base}/predictions/{model}"

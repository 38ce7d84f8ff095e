"""What a person must know of rendered images: what is left out, and what they do not have yet."""

from __future__ import annotations

from tsctl.archive.checks import stock_requirements
from tsctl.archive.container import open_archive
from tsctl.render.image.deployments import open_control, open_store_spec
from tsctl.render.image.selection import Selection


def notices(selection: Selection, base: str) -> list[str]:
    """A sentence for each thing that is left out, or that holds on this machine alone."""
    lines = []
    if "@sha256:" not in base:
        lines.append(f"the base image {base} may change: pin it with --base NAME:TAG@sha256:DIGEST")
    lines += [f"node {name} serves none of these versions, so it is left out" for name in selection.idle]
    for model, target in selection.models.items():
        stated = selection.deployment.models.get(model)
        if stated is not None and stated.weights is not None and target.weights is None:
            lines.append(f"the weights of {model} are left out, because not all of its versions are here")
    team = selection.deployment
    if (store := open_store_spec(team)) is not None and team.store is not None and store != team.store:
        lines.append(
            "options of `store` that may be secrets are left out: containers find credentials in their environment"
        )
    if team.control != open_control(team):
        lines.append(
            "`control` is left out: it is a folder or has a password; add what holds inside to gateway/deployment.yaml"
        )
    if any(spec.traces for spec in selection.nodes.values()):
        lines.append(
            "workers send spans to `tracing`, and their network has no way out: add its collector to compose.yaml"
        )
    for packed in selection.archives:
        if packed.is_stock:
            with open_archive(packed.archive.path) as content:
                if lacks := stock_requirements(content, packed.facts):
                    lines.append(f"{packed.archive.model} {packed.archive.version}: {lacks}")
    return lines

"""Says for every build in the store what needs it: builds that nothing needs may be removed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tsctl.archive.inspect import facts_of
from tsctl.archive.packages import unused_packages
from tsctl.archive.store import DIGEST_DIGITS, StoredArchive, list_archives, store_name
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.deploy.applied_state import recorded
from tsctl.errors import NodeError
from tsctl.nodes.engines import open_nodes, served_at_start
from tsctl.nodes.node import Node
from tsctl.nodes.observe import observe
from tsctl.rollout.decide.fold import start_of
from tsctl.rollout.run.journal import Journal
from tsctl.rollout.run.journal_files import find_journal, models_with_journals, unfinished

#: No build takes so long.
LEFT_AFTER_S = 86_400.0


def builds_and_uses(project: Project, deployment: DeploymentSpec) -> list[tuple[StoredArchive, str]]:
    """Every build in the store, by name, with what needs it; empty where nothing does.

    Raises:
        NodeError: a node does not answer, so what it needs is not known.
        AnalysisError: the journal of a rollout is damaged.
        SpecError: the record of what was served is damaged.
    """
    builds = list_archives(project)
    uses = dict(uses_of(project, deployment, builds))
    uses |= {build.path.name: "the current build" for build in builds if build.is_current}
    return [(build, uses.get(build.path.name, "")) for build in builds]


def leftovers(project: Project) -> list[Path]:
    """What builds that were killed left in the store a day ago or before, and links to archives that were removed."""
    before = time.time() - LEFT_AFTER_S
    inside = list(project.store.glob("*"))
    links = [path for path in inside if path.is_symlink() and not path.exists()]
    return links + [path for path in inside if path.name.startswith(".") and path.lstat().st_mtime < before]


def unneeded_packages(project: Project) -> list[Path]:
    """Sets of packages that no archive in the store requires.

    Raises:
        ArchiveError: an archive cannot be read, so what it requires is not known.
    """
    needed = []
    for archive in list_archives(project):
        needed.append(facts_of(archive.path).serving.requirements)
    return unused_packages(project, needed)


def uses_of(project: Project, deployment: DeploymentSpec, builds: Sequence[StoredArchive]) -> Iterator[tuple[str, str]]:
    """File names of archives, and what needs each beside being current; raises as `builds_and_uses`."""
    for name, digits in recorded(project).items():
        model = name.partition(":")[0]  # the version may be served from the archive of another one
        same = [build for build in builds if (build.model, build.digest) == (model, digits)]
        yield from ((build.path.name, "the way back: this version was served from it") for build in same)
    for model, target in deployment.models.items():
        for version, spec in target.versions.items():
            if spec and spec.digest:
                pinned = store_name(model, target.archive(version), spec.digest[:DIGEST_DIGITS])
                yield pinned, "deployment.yaml pins it"
    for model in models_with_journals(project):
        if (rollout := unfinished(project, model)) is not None:
            entries = Journal(find_journal(project, model, rollout)).entries
            yield start_of(entries).file, f"the rollout {rollout}"
    for node, archive in served_at_start(project):
        yield archive, f"node {node} when it starts"
    yield from _served(open_nodes(project, deployment))


def _served(nodes: list[Node]) -> Iterator[tuple[str, str]]:
    # a node that was stopped here serves what its files say when it starts
    asked = [node for node in nodes if not node.is_ours or node.pid is not None]
    for observed in observe(asked):
        if observed.error is not None:
            raise NodeError(
                f"node {observed.name} does not answer, so the builds that it needs are not known: {observed.reason}",
                "Run this again when it answers, or remove it from deployment.yaml.",
            )
        for model in observed.models.values():
            for version in model.versions.values():
                yield version.archive, f"node {observed.name} serves it"

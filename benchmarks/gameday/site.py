"""The site of a game day: archives that are bad on purpose, a node and a gateway, and the releases on them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks import ARCHIVES
from benchmarks.gameday.outcomes import TORCHSERVE, Canary
from benchmarks.harness.commands import run_tsctl
from benchmarks.targets.fleet import Fleet, running
from tsctl.archive.build import build_version
from tsctl.archive.golden import make_golden
from tsctl.archive.recipe import recipe_output
from tsctl.archive.store import StoredArchive
from tsctl.compare.nodes import free_spec, own_project
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project
from tsctl.config.weights import TOTAL
from tsctl.errors import AnalysisError, ArchiveError, NodeError
from tsctl.gateway.change import set_weights
from tsctl.gateway.retire import retire
from tsctl.host.progress import Progress, ProgressStep
from tsctl.rollout.run.journal_files import journals, unfinished

MODEL, STABLE = "gameday", "1.0"
#: The archive whose network and weights all versions have.
DIGITS = "digits"
#: The gateway answers a hanging request after this time, well before the worker that hangs is ended.
ROUTE = {"deadline_s": 2.0}
#: Seconds that a version may take to drain.
RETIRE_S = 60.0


@contextmanager
def gameday_site(
    project: Project, folder: Path, canaries: Sequence[Canary], policy: Mapping[str, Any], progress: Progress
) -> Iterator[Fleet]:
    """A node that serves the stable version behind a gateway, a node of every other engine, and all canaries' archives.

    Raises:
        TsctlError: an archive cannot be built, or the node or the gateway does not serve.
    """
    own = own_project(project, folder)
    built = dict.fromkeys([STABLE, *(canary.archive or canary.version for canary in canaries)])
    archives = _archives(project, own, list(built), progress)
    nodes = {engine: free_spec(engine) for engine in dict.fromkeys([TORCHSERVE, *(one.engine for one in canaries)])}
    targets: dict[tuple[str, str], dict[str, Any]] = {(MODEL, STABLE): {"nodes": [TORCHSERVE]}}
    for canary in canaries:
        archive = {"archive": canary.archive} if canary.archive else {}
        targets[MODEL, canary.version] = {"nodes": [canary.engine], **archive}
    served = [(MODEL, STABLE)]
    with running(own, nodes, archives, served, progress, ROUTE, dict(policy), targets) as fleet:
        yield fleet


def set_policy(fleet: Fleet, policy: Mapping[str, Any]) -> None:
    """deployment.yaml has this policy for the releases to come."""
    path = fleet.project.deployment
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**content, "rollout": dict(policy)}, sort_keys=False), encoding="utf-8")


def release(fleet: Fleet, version: str, step: ProgressStep) -> Path:
    """Release the version with `tsctl rollout start`; returns the journal when the command has ended.

    Raises:
        NodeError: the command did not begin a rollout, or did not end.
    """
    before = journals(fleet.project, MODEL)
    step.note(f"tsctl rollout start {MODEL} {version}")
    ended = run_tsctl(fleet.project, "rollout", "start", MODEL, version, "--json")
    new = [path for path in journals(fleet.project, MODEL) if path not in before]
    if not new:
        raise NodeError(
            f"tsctl rollout start {MODEL} {version} ended with {ended.status} and began nothing: {ended.stderr}"
        )
    return new[-1]


def reset(fleet: Fleet, version: str, step: ProgressStep) -> None:
    """Give stable all traffic and the default, and remove the version from every node.

    Raises:
        TsctlError: that failed.
    """
    if unfinished(fleet.project, MODEL) is not None:
        ended = run_tsctl(fleet.project, "rollout", "abort", MODEL)
        if ended.status != 10:
            raise AnalysisError(f"tsctl rollout abort {MODEL} ended with {ended.status}: {ended.stderr}")
    set_weights(fleet.gateway, MODEL, {STABLE: TOTAL})
    retired = retire(fleet.gateway, MODEL, version, RETIRE_S, step.note)
    if retired.failed:
        raise NodeError(f"{MODEL} {version} is still on a node: {retired.failed[0][1]}")


def logged_versions(fleet: Fleet, requests: set[str]) -> dict[str, str]:
    """The version that the gateway sent each request to, by request id; requests that it sent nowhere are left out."""
    versions = {}
    for path in fleet.gateway.files.access_log.parent.glob("access.log*"):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record["request_id"] in requests and record["version"]:
                versions[record["request_id"]] = record["version"]
    return versions


def _archives(
    project: Project, own: Project, versions: Sequence[str], progress: Progress
) -> dict[tuple[str, str], StoredArchive]:
    """All have the golden answers of the stable version, so that verification catches a wrong version."""
    folder, digits = own.archives / MODEL, project.archives / DIGITS
    with progress.step("building the archives") as step:
        shutil.copytree(ARCHIVES / MODEL, folder)
        spec = read_archive_spec(folder / "archive.yaml")
        made, _ = recipe_output(digits, read_archive_spec(digits / "archive.yaml"), "1.0", step.note)
        if made is None:
            raise ArchiveError(f"the archive {DIGITS} has no recipe, and a game day needs its weights")
        shutil.copyfile(made / spec.weights, folder / spec.weights)
        shutil.copyfile(digits / "model.py", folder / "digits.py")
        make_golden(folder, spec, STABLE, step.note)
        golden = folder / spec.golden
        for version in versions:
            if version != STABLE:
                shutil.copyfile(golden / f"{STABLE}.json", golden / f"{version}.json")
        return {(MODEL, version): build_version(own, folder, spec, version, step.note).archive for version in versions}

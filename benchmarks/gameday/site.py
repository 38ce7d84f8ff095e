"""The site of a game day: archives that are bad on purpose, a node, a gateway, and whoever releases on them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import ARCHIVES
from benchmarks.targets.fleet import Fleet, running
from benchmarks.targets.own_project import free_node, own_project
from tsctl.archive.build import build_version
from tsctl.archive.golden import make_golden
from tsctl.archive.recipe import recipe_output
from tsctl.archive.store import StoredArchive
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import PROJECT_VARIABLE, Project
from tsctl.config.weights import TOTAL
from tsctl.errors import AnalysisError, ArchiveError, NodeError
from tsctl.gateway.change import set_weights
from tsctl.gateway.retire import retire
from tsctl.host.progress import Progress, Step
from tsctl.rollout.run.journal import journals, unfinished

MODEL, STABLE = "gameday", "1.0"
#: Whose network and weights all versions have.
DIGITS = "digits"
#: A hang is answered by the gateway after this time, well before the worker that hangs is ended.
ROUTE = {"deadline_s": 2.0}
#: How long one release may take, and what a version still has in hand afterwards.
RELEASE_S = 240.0
RETIRE_S = 60.0


@contextmanager
def gameday_site(
    project: Project, folder: Path, versions: Sequence[str], policy: Mapping[str, Any], progress: Progress
) -> Iterator[Fleet]:
    """One node that serves the stable version behind a gateway, and these other versions in the store.

    Raises:
        TsctlError: an archive cannot be built, or the node or the gateway does not serve.
    """
    own = own_project(project, folder)
    archives = _archives(project, own, [STABLE, *versions], progress)
    with running(own, {"n0": free_node()}, archives, [(MODEL, STABLE)], progress, ROUTE, dict(policy)) as fleet:
        yield fleet


def release(fleet: Fleet, version: str, step: Step) -> Path:
    """The journal of the version's release, begun as a person would, when the command has ended.

    Raises:
        NodeError: the command did not begin a rollout, or did not end.
    """
    before = journals(fleet.project, MODEL)
    step.note(f"tsctl rollout start {MODEL} {version}")
    status, told = _tsctl(fleet.project, "rollout", "start", MODEL, version, "--json")
    new = [path for path in journals(fleet.project, MODEL) if path not in before]
    if not new:
        raise NodeError(f"tsctl rollout start {MODEL} {version} ended with {status} and began nothing: {told}")
    return new[-1]


def bring_back(fleet: Fleet, version: str, step: Step) -> None:
    """Stable has all requests and is the default, and the version is on no node.

    Raises:
        TsctlError: it is not so.
    """
    if unfinished(fleet.project, MODEL) is not None:
        status, told = _tsctl(fleet.project, "rollout", "abort", MODEL)
        if status != 10:
            raise AnalysisError(f"tsctl rollout abort {MODEL} ended with {status}: {told}")
    set_weights(fleet.gateway, MODEL, {STABLE: TOTAL})
    ended = retire(fleet.gateway, MODEL, version, RETIRE_S, step.note)
    if ended.failed:
        raise NodeError(f"{MODEL} {version} is still on a node: {ended.failed[0][1]}")


def versions_of(fleet: Fleet, requests: set[str]) -> dict[str, str]:
    """By the id of a request, the version to which the gateway sent it; those that it sent nowhere are left out."""
    found = {}
    for path in fleet.gateway.places.access_log.parent.glob("access.log*"):
        for line in path.read_text(encoding="utf-8").splitlines():
            told = json.loads(line)
            if told["request_id"] in requests and told["version"]:
                found[told["request_id"]] = told["version"]
    return found


def _archives(
    project: Project, own: Project, versions: Sequence[str], progress: Progress
) -> dict[tuple[str, str], StoredArchive]:
    """All are held to the answers of the stable version, so that a wrong one is known before it serves."""
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


def _tsctl(own: Project, *arguments: str) -> tuple[int, str]:
    """Exit code, and the end of what it said.

    Raises:
        NodeError: it did not end.
    """
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "tsctl.cli.main", *arguments],
            env={**os.environ, PROJECT_VARIABLE: str(own.root)},
            capture_output=True,
            text=True,
            check=False,
            timeout=RELEASE_S,
        )
    except subprocess.TimeoutExpired:
        raise NodeError(f"tsctl {' '.join(arguments)} did not end within {RELEASE_S:g} s") from None
    return ended.returncode, ended.stderr.strip()[-500:]

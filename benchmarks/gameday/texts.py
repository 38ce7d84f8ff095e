"""The language models of a game day, behind `/v1/chat/completions` of the gateway: canaries whose chats are bad on
purpose, and an identical one."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import ARCHIVES
from benchmarks.gameday.outcomes import Canary
from benchmarks.gameday.run import POLICY, WARM_S, GameDay, figures, released
from benchmarks.gameday.site import MODEL, STABLE
from benchmarks.gameday.users import PAUSE_S, users
from benchmarks.harness.client import Address, StreamConnection
from benchmarks.harness.run import Run
from benchmarks.harness.workload import own_folder
from benchmarks.targets.fleet import Fleet, running
from tsctl.archive.build import build_version
from tsctl.archive.golden import make_golden
from tsctl.compare.nodes import free_spec, own_project
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project
from tsctl.host.progress import Progress

ENGINE, ARCHIVE = "uvicorn", "gameday_texts"
PATH, PROMPTS, CONNECTIONS = "/v1/chat/completions", 500, 24
ROUTE: Mapping[str, Any] = {"deadline_s": 20}
#: In the order in which they are released.
CANARIES = (
    Canary("slow_tokens", "a token every 15 ms in place of 10", engine=ENGINE),
    Canary("never_stops", "no answer ends by itself", engine=ENGINE),
    Canary("no_message", "its chat template leaves the message out", engine=ENGINE),
    Canary("repeats", "30 % of the answers repeat their last words", engine=ENGINE),
    Canary("ends_early", "answers end after a quarter", engine=ENGINE),
    Canary("breaks", "10 % of the streams break in their middle", engine=ENGINE),
    Canary("same", "nothing: it is stable under another name", is_bad=False, engine=ENGINE),
)


def key_of(canary: Canary) -> str:
    """The canary's name on the command line, where canaries of other models may have the same version."""
    return f"text-{canary.version}"


def workloads(only: Sequence[str], kept: Path) -> dict[str, Run]:
    """The day of language models as the only workload of a run; its arguments are those of `run`."""
    return {"texts": lambda job: run(job.project, job.progress, only, kept)}


def run(
    project: Project,
    progress: Progress,
    only: Sequence[str],
    kept: Path,
    policy: Mapping[str, Any] = POLICY,
    warm_s: float = WARM_S,
) -> GameDay:
    """Release every canary once, on a node of uvicorn and a gateway of their own.

    Args:
        only: canaries, by `key_of`.
        kept: folder for the journals, which are named by it.

    Raises:
        TsctlError: the node or the gateway does not serve, or cannot be reset after a release.
    """
    chosen = [canary for canary in CANARIES if key_of(canary) in only]
    with own_folder() as folder, _site(project, folder / "own", chosen, policy, progress) as fleet:
        ask = partial(_users, fleet.address(PATH))
        with progress.step("users ask the stable version") as step:
            with ask("warm") as load:
                time.sleep(warm_s)
            step.done(f"{len(load.answers):,} streams, {len(load.failed)} failed")
        releases = [
            released(fleet, canary, policy, ask, {}, kept / f"{key_of(canary)}.jsonl", progress) for canary in chosen
        ]
    settings = {"connections": CONNECTIONS, "pause_s": PAUSE_S, "route": dict(ROUTE), "policy": dict(policy)}
    title = "canaries of a language model that are bad on purpose"
    return GameDay("texts", title, settings, {}, figures(releases), (), tuple(releases))


def _users(address: Address, name: str) -> Any:
    return users(address, _bodies(), name, CONNECTIONS, connect=StreamConnection)


def _bodies() -> list[bytes]:
    """Chats as streams."""
    return [
        json.dumps(
            {"model": MODEL, "messages": [{"role": "user", "content": f"Story {number}."}], "stream": True}
        ).encode()
        for number in range(PROMPTS)
    ]


@contextmanager
def _site(
    project: Project, folder: Path, canaries: Sequence[Canary], policy: Mapping[str, Any], progress: Progress
) -> Iterator[Fleet]:
    own = own_project(project, folder)
    place = own.archives / MODEL
    shutil.copytree(ARCHIVES / ARCHIVE, place)
    spec = read_archive_spec(place / "archive.yaml")
    versions = [STABLE, *(canary.version for canary in canaries)]
    with progress.step("building the archives") as step:
        make_golden(place, spec, STABLE, step.note)
        for version in versions[1:]:
            shutil.copyfile(place / spec.golden / f"{STABLE}.json", place / spec.golden / f"{version}.json")
        archives = {(MODEL, v): build_version(own, place, spec, v, step.note).archive for v in versions}
    targets = {(MODEL, version): {"nodes": [ENGINE]} for version in versions}
    served = [(MODEL, STABLE)]
    nodes = {ENGINE: free_spec(ENGINE)}
    with running(own, nodes, archives, served, progress, dict(ROUTE), dict(policy), targets) as fleet:
        yield fleet

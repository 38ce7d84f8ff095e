"""Releases for tests of rollouts: a site whose model can be released, load on it, and the records of its rollout."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness.client import Load, under_load
from tests.support.gateways import Front, brought_up, with_gateway
from tests.support.sites import HALF, make_site, throughout, until, write_tiny
from tsctl.config.project import Project
from tsctl.gateway.state import traffic_in_force
from tsctl.nodes.engines import open_nodes
from tsctl.rollout.decide.events import Entry
from tsctl.rollout.decide.fold import fold
from tsctl.rollout.decide.state import State
from tsctl.rollout.run.journal_files import journals
from tsctl.rollout.run.journal_lines import read

#: Two clients keep a worker busy half of the time, and no release waits for one that has no time.
CLIENTS = 2
ROUTE = "/predictions/tiny"
PACE: dict[str, Any] = {"inference_s": 0.02}
#: What a version that fails on some inputs fails on.
LARGE = b'{"x": 2.0}'
FAILS_ON_LARGE: dict[str, Any] = {**PACE, "most": 1.0}
#: Steps that a test can wait for. A busy machine makes answers slow now and then, which is judged where it is meant to.
POLICY: dict[str, Any] = {
    "steps": [20, 50, 100], "hold_s": 1, "max_hold_s": 120, "min_requests": 10, "max_error_rate": 0.5,
    "signals": ["errors"], "settle_s": 0, "tick_s": 0.2, "max_utilisation": 0.95,
}  # fmt: skip


@contextmanager
def releasing(
    root: Path,
    versions: dict[str, dict[str, Any]],
    nodes: tuple[str, ...] = ("local",),
    archive: Mapping[str, Any] | None = None,
    edit: Callable[[dict[str, Any]], None] = lambda content: None,
    **policy: Any,
) -> Iterator[Front]:
    """Version 1.0 of `tiny` is served on all nodes, and archives of all versions are built, while the block runs.

    Args:
        versions: settings by version.
        archive: keys of archive.yaml.
        edit: changes deployment.yaml before all is started.
        policy: where it differs from POLICY.
    """
    site = make_site(root / "site")
    write_tiny(site, "tiny", versions, **(archive or {}))
    content = site.deployment
    for name in nodes[1:]:
        content["nodes"][name] = make_site(root / f"ports-{name}").deployment["nodes"]["local"]
    content["models"] = {"tiny": {"default": "1.0", "versions": {"1.0": {"workers": 1}}}}
    content["rollout"] = {**POLICY, **policy}
    edit(content)
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    base, metrics = with_gateway(site, {})
    site.run("archive", "build")
    with brought_up(site, base, metrics) as running:
        yield running


def change_policy(front: Front, **policy: Any) -> None:
    """deployment.yaml says so from now on."""
    path = front.site.root / "deployment.yaml"
    content = front.site.deployment
    content["rollout"] = {**content["rollout"], **policy}
    beside = path.with_suffix(".new")
    beside.write_text(yaml.safe_dump(content, sort_keys=False))
    beside.replace(path)  # a rollout that runs reads it


@contextmanager
def asking(front: Front, body: bytes = HALF, clients: int = CLIENTS) -> Iterator[Load]:
    """Requests without a pause while the block runs."""
    with under_load(front.address(ROUTE), body, clients) as load:
        yield load


def newest(front: Front) -> Path:
    """The journal of the last rollout."""
    return journals(Project(front.site.root), "tiny")[-1]


def entries(front: Front) -> list[Entry]:
    return read(newest(front))


def state_of(front: Front) -> State:
    return fold(entries(front))


def weights(front: Front) -> dict[str, int]:
    """What is not zero in what Envoy does."""
    [route] = traffic_in_force(front.gateway).values()
    return route.shares


def served(front: Front) -> dict[str, dict[str, int]]:
    """READY workers by node and version; a node that does not answer has none."""
    gateway = front.gateway
    return {
        node.name: {name: one.ready for model in node.models().values() for name, one in model.versions.items()}
        for node in open_nodes(gateway.project, gateway.deployment)
    }


def defaults(front: Front) -> set[str | None]:
    """The version that each node answers with where none is named."""
    gateway = front.gateway
    return {node.models()["tiny"].default for node in open_nodes(gateway.project, gateway.deployment)}


def logged(front: Front, version: str) -> list[dict[str, Any]]:
    """Lines of the access log of requests that came to the version by weight."""
    return [line for line in front.log() if line["version"] == version and line["by"] == "weight"]


def is_held(front: Front, canary: str) -> bool:
    """Whether the canary's first step is watched."""
    if not journals(Project(front.site.root), "tiny"):
        return False
    state = state_of(front)
    return state.canary == canary and state.held_s > 0


def is_still_at(before: State, now: State) -> bool:
    """Whether the rollout has come no further."""
    return (now.step, now.held_s, now.outcome) == (before.step, before.held_s, None)


def held_while(front: Front, process: subprocess.Popen[str], away: str, back: Callable[[], Any]) -> None:
    """The rollout waits for what is away, decides nothing meanwhile, and goes on by itself when it is back."""
    until(lambda: process.poll() is not None or away in state_of(front).waits_for, 20, f"it waits for {away!r}")
    assert process.poll() is None, process.communicate()
    before = state_of(front)
    throughout(lambda: is_still_at(before, state_of(front)), 1.5, "nothing is decided meanwhile")
    back()
    until(lambda: not state_of(front).waits_for, 60, "the rollout goes on")

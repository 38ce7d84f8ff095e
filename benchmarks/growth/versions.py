"""Growth with versions: of one gateway, of the store that a plan reads, and of one node.

The gateway has up to 500 versions, all answered by one server with a fixed answer, and the plan reads as many archives
of a linear layer that no node serves. A node has as many real versions, each with a worker of its own, as fit.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.growth.curves import Collected, Growth
from benchmarks.growth.keys import BODY, MODEL, NEW, OLD, SPLITS, fixed_gateway
from benchmarks.growth.measure import (
    COST,
    GATEWAY,
    MEMORY,
    MIB,
    NODES,
    SIZE,
    TIME,
    WORKERS,
    command_s,
    idle_ms_a_second,
    kilobytes,
    median_s,
    pids_of,
    seconds,
)
from benchmarks.harness.commands import Ended, run_tsctl
from benchmarks.harness.run import Job
from benchmarks.harness.workload import load, own_folder
from benchmarks.harness.wrk import require_wrk
from benchmarks.targets.fleet import Fleet, running_fleet
from benchmarks.targets.gateway import asked_at, envoy_bytes, envoy_pid, put, upstreams
from tsctl.archive.container import MANIFEST, open_archive
from tsctl.archive.store import StoredArchive, make_current, write_archive
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.gateway.change import set_weights
from tsctl.gateway.state import Gateway
from tsctl.gateway.sync import sync
from tsctl.gateway.traffic import Traffic, only
from tsctl.host.usage import memory_of

KEY = "versions"
COUNTS = (1, 5, 20, 50, 100, 200, 500)
#: Exit code of a plan with changes.
PLANNED = 12
#: Real ones, of one node.
ON_NODE = (1, 2, 5, 10, 20, 50)
CONNECTIONS = 32
IDLE_S = 6.0
LINEAR, VERSION = "linear", "1.0"
#: Processor time without any request.
IDLE = "processor time without requests"


def run(job: Job) -> Growth:
    """Every count once, of the gateway, then of the store, then of a node.

    Raises:
        TsctlError: wrk is missing, the gateway or the node does not start, or a change is refused.
    """
    require_wrk()
    collected = Collected()
    with own_folder() as folder, fixed_gateway(job, folder) as gateway:
        for count in COUNTS:
            _of_gateway(gateway, count, folder, job, collected)
    with own_folder() as folder:
        _of_node(job, folder, collected)
    settings = {"connections": CONNECTIONS, "versions of a node": ON_NODE}
    return Growth(
        KEY, "versions of a gateway, a store and a node", settings, {}, [], (), "versions", collected.curves()
    )


def _of_gateway(gateway: Gateway, count: int, folder: Path, job: Job, collected: Collected) -> None:
    """The first model has two versions, so there is one more than models."""
    with job.progress.step(f"a gateway with {count} versions") as step:
        served = [*upstreams(gateway, count), *upstreams(gateway, 1, (NEW,))]
        traffic = [Traffic(MODEL, dict(SPLITS[1])), *(only(f"m{number}", OLD) for number in range(1, count))]
        without = [upstream for upstream in served if upstream.model != f"m{count - 1}"]
        put(gateway, without if count > 1 else served, traffic[:-1] if count > 1 else traffic)
        one_more = seconds(lambda: put(gateway, served, traffic)) if count > 1 else None
        moved = median_s(lambda number: set_weights(gateway, MODEL, SPLITS[number % 2]), 2 * job.rounds + 1)
        status = command_s(gateway.project, "gateway", "status")
        added = {} if one_more is None else {"one more version is in force": one_more}
        collected.add(TIME, "s", count, {"weights are in force": moved, "tsctl gateway status": status, **added})
        envoy = envoy_pid(gateway)
        collected.add(MEMORY, "MiB", count, {"gateway, memory": envoy_bytes(gateway) / MIB})
        idle = idle_ms_a_second([envoy], IDLE_S)
        collected.add(IDLE, "ms a second", count, {"gateway, idle": idle})
        for name, model in (("first model", MODEL), ("last model", f"m{count - 1}")):
            turn = load(asked_at(gateway, model), [BODY], CONNECTIONS, job.seconds, folder, lambda: {GATEWAY: [envoy]})
            collected.add(COST, "us", count, {f"gateway, {name}": (turn.cpu_us or {})[GATEWAY]})
        files = {"file of routes": gateway.files.routes, "file of clusters": gateway.files.clusters}
        collected.add(SIZE, "kB", count, {name: kilobytes(path) for name, path in files.items()})
        step.done(f"{envoy_bytes(gateway) / MIB:.0f} MiB, {moved:.3f} s for weights, idle {idle:.0f} ms a second")


def _of_node(job: Job, folder: Path, collected: Collected) -> None:
    """A node without a limit of processor time serves one archive under more and more names."""
    with running_fleet(job.project, folder / "own", 1, [(LINEAR, VERSION)], job.progress, engine="uvicorn") as fleet:
        archive = fleet.archives[LINEAR, VERSION]
        _of_store(job, fleet, archive, collected)
        served = 1
        for count in ON_NODE:
            with job.progress.step(f"a node with {count} versions") as step:
                for number in range(served, count):
                    fleet.nodes[0].register(archive, f"v{number}", 1, lambda _: None)
                took = seconds(partial(_one_more, fleet, archive, f"v{count}"))
                served = count + 1
                _of_full_node(fleet, served, took, collected)
                step.done(f"{took:.2f} s for one more")


def _one_more(fleet: Fleet, archive: StoredArchive, version: str) -> None:
    """The version is registered, and in the gateway."""
    fleet.nodes[0].register(archive, version, 1, lambda _: None)
    sync(fleet.gateway)


def _of_full_node(fleet: Fleet, count: int, took: float, collected: Collected) -> None:
    kinds = pids_of(fleet.nodes, None)
    memory = {kind: memory_of(pids).bytes / MIB for kind, pids in kinds.items()}
    collected.add(MEMORY, "MiB", count, {"node, memory": memory[NODES], "workers, memory": memory[WORKERS]})
    collected.add(TIME, "s", count, {"one more on a node": took, "tsctl status": command_s(fleet.project, "status")})
    idle = {f"{kind}, idle": idle_ms_a_second(kinds[kind], IDLE_S / 2) for kind in (NODES, WORKERS)}
    collected.add(IDLE, "ms a second", count, idle)


def _of_store(job: Job, fleet: Fleet, archive: StoredArchive, collected: Collected) -> None:
    """`tsctl plan` of models that no node serves yet: their archives are read, and the node and Envoy are asked."""
    project, entries = fleet.project, entries_of(archive.path)
    before = project.deployment.read_text(encoding="utf-8")
    have = 0
    for count in COUNTS:
        with job.progress.step(f"a store of {count} more archives") as step:
            for number in range(have, count):
                make_current(project, _renamed(project, entries, f"m{number}"))
            have = count
            _name_models(project, before, count)
            planned_s(project)  # remembers what scans find
            took = planned_s(project)
            collected.add(TIME, "s", count, {"tsctl plan": took})
            step.done(f"{took:.2f} s for a plan")
    project.deployment.write_text(before, encoding="utf-8")


def planned_s(project: Project) -> float:
    """Seconds of a `tsctl plan` that finds something to change."""
    ended: list[Ended] = []
    took = seconds(lambda: ended.append(run_tsctl(project, "plan")))
    if ended[0].status != PLANNED:
        raise NodeError(f"tsctl plan ended with {ended[0].status}: {ended[0].stderr}")
    return took


def entries_of(archive: Path) -> dict[str, bytes]:
    """The content of an archive, by name."""
    with open_archive(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def _renamed(project: Project, entries: dict[str, bytes], model: str) -> StoredArchive:
    """The same archive for another model. Its digests do not fit any more, which a plan does not look at."""
    manifest: dict[str, Any] = json.loads(entries[MANIFEST])
    manifest["model"]["modelName"] = model
    content = {**entries, MANIFEST: json.dumps(manifest).encode()}
    return write_archive(content, project.store, model, VERSION)


def _name_models(project: Project, deployment: str, models: int) -> None:
    """deployment.yaml names these models too, as a person would add them."""
    content: dict[str, Any] = yaml.safe_load(deployment)
    target = {"default": VERSION, "versions": {VERSION: {"workers": 1}}}
    content["models"] |= {f"m{number}": target for number in range(models)}
    project.deployment.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

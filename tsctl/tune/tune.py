"""Searches the settings of an archive: makes the space, the variants and the nodes, and runs the search."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from handlers.contract import usable_cores
from tsctl.archive.container import digest_of, open_archive
from tsctl.archive.inspect import Facts, read_facts
from tsctl.archive.store import DIGEST_DIGITS
from tsctl.compare.nodes import engines, free_spec, own_project
from tsctl.compare.recorded import RecordedRequest, read_requests_to, sample_requests
from tsctl.config.deployment import DeploymentSpec, read_deployment
from tsctl.config.project import Project
from tsctl.errors import NodeError, SpecError
from tsctl.host.locks import exclusive
from tsctl.host.machine import machine_facts
from tsctl.host.progress import Progress
from tsctl.nodes.engines import open_node
from tsctl.tune.choice import ROUNDS
from tsctl.tune.journal import Journal, Notes
from tsctl.tune.measure import Invalid, Measurer
from tsctl.tune.objective import MOST, connections_for, seconds_for
from tsctl.tune.proposer import Proposer, replay, require_optuna
from tsctl.tune.result import Setting, Tuned
from tsctl.tune.search import RUNGS, Bounds, Search
from tsctl.tune.space import Settings, Space, make_space
from tsctl.tune.variants import Variants, present_settings, why_fixed

#: The engine where neither an option nor deployment.yaml names one; it needs no package but tsctl's own.
ENGINE = "uvicorn"
#: Of the minutes, the shares until which trials begin, and pruned ones are promoted; the rest is for the proof.
SEARCH_SHARE, PROMOTE_SHARE = 0.55, 0.65
#: The shortest loads are so many times longer at most, for models of few requests/s. Connections of the first look.
MOST_TIMES, LOOK_CONNECTIONS = 3.0, 16


@dataclass(frozen=True)
class Options:
    """How a search is made.

    Args:
        engines: that are tried; empty: those of deployment.yaml.
        traffic: a file of recorded requests; None: the archive's samples.
        base_s: seconds of the shortest loads at least.
        is_resumed: whether the search of the journal goes on.
    """

    slo_p99_ms: float
    trials: int = 24
    minutes: float = 10.0
    engines: Sequence[str] = ()
    traffic: Path | None = None
    base_s: float = 1.0
    seed: int = 0
    rounds: int = ROUNDS
    is_resumed: bool = False


@dataclass(frozen=True)
class Prepared:
    """All that is known before anything is measured."""

    archive: Path
    facts: Facts
    requests: Sequence[RecordedRequest]
    space: Space
    source: str
    has_cache: bool  # whether variants keep the archive's cache

    @property
    def cache(self) -> str:
        """What became of the archive's cache, a sentence; empty where it has none."""
        if not self.facts.config.get("serving", {}).get("cache"):
            return ""
        if self.has_cache:
            return "The archive's cache was on, so requests that came again in the file cost less than new ones."
        return "The archive's cache was off, because its samples come again and again."


def prepare(project: Project, archive: Path, options: Options) -> Prepared:
    """Read the archive, its requests and deployment.yaml, and make the space.

    Raises:
        ArchiveError: the archive was not built by tsctl, or has no samples.
        SpecError: there is no such engine, or the model cannot be tuned.
    """
    with open_archive(archive) as content:
        facts = read_facts(content)
    fixed = why_fixed(facts)
    model, version = facts.names
    deployment = read_deployment(project.deployment) if project.deployment.is_file() else None
    known = _deployed_engines(deployment, model, version)
    chosen = list(dict.fromkeys(options.engines)) or known or [ENGINE]
    if unknown := [engine for engine in chosen if engine not in engines()]:
        raise SpecError(f"there is no engine {unknown[0]}", f"There are {', '.join(engines())}.")
    target = deployment.models.get(model) if deployment else None
    workers = target.workers(version) if target and version in target.versions else None
    engine = next((name for name in known if name in chosen), chosen[0])
    cores = usable_cores()
    present = present_settings(facts, engine, workers, cores)
    waiting = [name for name in chosen if open_node(project, "tune", free_spec(name)).waits_for_batches]
    traffic = options.traffic
    requests = read_requests_to(traffic, model) if traffic is not None else sample_requests(archive)
    count = len(requests)
    source = f"{count} samples of the archive" if traffic is None else f"{count} requests of {traffic}"
    return Prepared(
        archive, facts, requests, make_space(present, chosen, waiting, cores, fixed), source, traffic is not None
    )


def tune(
    project: Project,
    prepared: Prepared,
    options: Options,
    progress: Progress,
    folder: Path,
) -> Tuned:
    """Search, and prove the best settings.

    Args:
        folder: of the journal.

    Raises:
        SpecError: Optuna is not installed, or the journal is of another search.
        ConflictError: another tsctl tunes the model at this moment.
        NodeError: a node cannot be started, or the present settings do not serve.
    """
    require_optuna()
    model, version = prepared.facts.names
    digest, begin = digest_of(prepared.archive)[:DIGEST_DIGITS], time.monotonic()
    journal = Journal(folder / f"{model}-{version}.jsonl", _head(prepared, options, digest))
    with ExitStack() as stack:
        stack.enter_context(exclusive(folder / f"{model}-{version}.lock", f"the search for {model} {version}"))
        notes, trials = journal.resume() if options.is_resumed else (None, [])
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tsctl-tune-")))
        own = own_project(project, scratch / "own")
        most = max(workers for workers, _ in prepared.space.shapes)
        variants = Variants(prepared.archive, scratch / "archive", own, most, prepared.has_cache)
        measurer = stack.enter_context(Measurer(own, variants, prepared.requests, options.slo_p99_ms, LOOK_CONNECTIONS))
        space = _possible(prepared.space, measurer, progress)
        if notes is None:
            notes = _look(space.present, measurer, options, progress)
            journal.begin(notes)
        measurer.connections, base_s = notes.connections, notes.base_s
        proposer = Proposer(space, options.seed)
        replay(proposer, trials)
        seconds = options.minutes * 60
        bounds = Bounds(
            options.trials,
            search_s=begin + SEARCH_SHARE * seconds,
            promote_s=begin + PROMOTE_SHARE * seconds,
            end_s=begin + _last_begin(seconds, base_s),
            base_s=base_s,
            rounds=options.rounds,
        )
        search = Search(proposer, measurer.measure, bounds, progress, journal.add, time.monotonic, trials)
        search.run()
        setting = Setting(
            model, version, digest, prepared.source, options.slo_p99_ms, proposer.space, base_s, measurer.connections,
            prepared.cache, machine_facts(),
        )  # fmt: skip
    return Tuned(setting, search.trials)


def _look(present: Settings, measurer: Measurer, options: Options, progress: Progress) -> Notes:
    """How all points are loaded, by how fast the present settings are.

    Raises:
        NodeError: they do not serve.
    """
    with progress.step(f"the present settings: {present.text}") as step:
        try:
            look = measurer.measure(present, options.base_s, step.note)
        except Invalid as error:
            raise NodeError(f"the archive does not serve with its present settings: {error}") from None
        step.done(f"{look.capacity_s:,.0f} requests/s with {LOOK_CONNECTIONS} connections")
    return Notes(
        min(MOST, connections_for(look.capacity_s, options.slo_p99_ms)),
        seconds_for(look.capacity_s, options.base_s, MOST_TIMES * options.base_s),
    )


def _last_begin(seconds: float, base_s: float) -> float:
    """When the last round may begin, so that it ends about in time: two points of at least two loads each."""
    return max(0.0, seconds - 2 * (2 * RUNGS[-1] * base_s + 2))


def _deployed_engines(deployment: DeploymentSpec | None, model: str, version: str) -> list[str]:
    """The engines of the nodes that serve the version; of all nodes where deployment.yaml does not name it."""
    if deployment is None:
        return []
    target = deployment.models.get(model)
    names = [name for name in deployment.nodes if target is None or target.is_on(version, name)]
    return list(dict.fromkeys(deployment.nodes[name].engine for name in names))


def _possible(space: Space, measurer: Measurer, progress: Progress) -> Space:
    """The space without the engines that cannot serve the archive here.

    Raises:
        NodeError: none can.
    """
    reasons = {engine: measurer.cannot(replace(space.present, engine=engine)) for engine in space.engines}
    for engine, reason in reasons.items():
        if reason:
            progress.line(f"{engine} is left out: {reason}")
    left = tuple(engine for engine in space.engines if not reasons[engine])
    if not left:
        raise NodeError("no engine can serve the archive here", "; ".join(reasons.values()))
    present = space.present if space.present.engine in left else replace(space.present, engine=left[0])
    return replace(space, engines=left, present=present)


def _head(prepared: Prepared, options: Options, digest: str) -> dict[str, Any]:
    """What must be the same for a search to go on."""
    content = sha256()
    for request in prepared.requests:
        content.update(request.body)
    space = prepared.space
    return {
        "archive": digest,
        "slo_p99_ms": options.slo_p99_ms,
        "requests": content.hexdigest()[:DIGEST_DIGITS],
        "present": space.present.text,
        "engines": list(space.engines),
        "shapes": [list(shape) for shape in space.shapes],
        "base_s": options.base_s,
        "seed": options.seed,
    }


def settings_for_archive(tuned: Tuned) -> dict[str, Any]:
    """The settings of archive.yaml that change, by name; empty where the present ones are kept."""
    found = tuned.verdict
    if not found.is_better or found.chosen is None:
        return {}
    changed: Settings = found.chosen
    return {name: new for name, (new, _) in changed.changes(tuned.setting.present).items() if name != "engine"}

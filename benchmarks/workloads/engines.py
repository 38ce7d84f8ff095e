"""Our engines and the peers that users would write instead: the figures of docs/choosing-an-engine.md."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks import ARCHIVES
from benchmarks.harness import figures
from benchmarks.harness.figures import Figure, Goal, Result
from benchmarks.harness.run import Job, Run
from benchmarks.harness.workload import own_folder
from benchmarks.peers.peers import BENTOML, FASTAPI, LITSERVE, MLSERVER, TRITON, peers_of
from benchmarks.peers.servers.tasks import Task
from benchmarks.peers.stock import NAME as STOCK
from benchmarks.workloads.embeddings import mixed_sentences
from tsctl.archive.build import build_version
from tsctl.archive.golden import make_golden
from tsctl.compare.advice import advise
from tsctl.compare.compare import Options, compare
from tsctl.compare.contender import Contender
from tsctl.compare.nodes import engines, own_project
from tsctl.compare.result import Comparison, Measured, Turn
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project
from tsctl.errors import ArchiveError
from tsctl.views.compare.report import lines, write_report

VERSION = "1.0"
WARM_S = 3.0
#: What an overload must do: share of the capacity, milliseconds of the slowest refusal, seconds of the recovery.
GOODPUT, REFUSAL_MS, RECOVERY_S = Goal(0.9), Goal(50, is_ceiling=True), Goal(2.0, is_ceiling=True)
NONE_BAD = Goal(0, is_ceiling=True)
LONE_MS = Goal(0.7, is_ceiling=True)


@dataclass(frozen=True)
class Ratio:
    """Requests/s of one contender as a multiple of another's."""

    of: str
    over: str
    goal: Goal | None


@dataclass(frozen=True)
class Case:
    """One model of the benchmark.

    Args:
        source: the folder that has the model's folder.
        connections: of the closed loop.
    """

    title: str
    source: Callable[[Project], Path]
    connections: int
    ratios: tuple[Ratio, ...]
    lone: Goal | None = None


_OWN_ADAPTERS = (
    Ratio("triton", TRITON, Goal(0.9)),
    Ratio("bentoml", BENTOML, Goal(0.9)),
    Ratio("torchserve", STOCK, None),
)
CASES = {
    "linear": Case(
        "a linear layer: the cost of all that surrounds a model",
        lambda project: ARCHIVES,
        128,
        (
            Ratio("uvicorn", FASTAPI, Goal(1.3)),
            *(Ratio("uvicorn", peer, Goal(3.0)) for peer in (LITSERVE, BENTOML, MLSERVER)),
            *_OWN_ADAPTERS,
        ),
        LONE_MS,
    ),
    **{
        model: Case(model, lambda project: project.archives, 64, (Ratio("uvicorn", FASTAPI, None), *_OWN_ADAPTERS))
        for model in ("digits", "breast_cancer")
    },
    "embeddings": Case(
        "MiniLM, sentences of 4 to 128 tokens",
        lambda project: project.archives,
        64,
        (Ratio("uvicorn", FASTAPI, Goal(2.5)), *_OWN_ADAPTERS),
    ),
}


def workloads(names: Sequence[str] | None) -> dict[str, Run]:
    """A workload for each model.

    Args:
        names: of the contenders that are measured; None: all.
    """
    return {model: partial(run, model, names) for model in CASES}


def run(model: str, names: Sequence[str] | None, job: Job) -> Result:
    """Measure one model on our engines and on the peers, and write a report beside the results.

    Raises:
        ArchiveError: the archive cannot be built.
    """
    case = CASES[model]
    with own_folder() as folder:
        own = own_project(job.project, folder / "built")
        copied = own.archives / model
        shutil.copytree(case.source(job.project) / model, copied)
        spec = read_archive_spec(copied / "archive.yaml")
        with job.progress.step(f"building {model}") as step:
            if not (copied / spec.golden / f"{VERSION}.json").is_file():
                make_golden(copied, spec, VERSION, step.note)
            archive = build_version(own, copied, spec, VERSION, step.note).archive.path
        traffic = write_traffic(folder / "traffic.jsonl", bodies_of(model, copied))
        options = Options(
            [name for name in engines() if names is None or name in names],
            traffic,
            rounds=job.rounds,
            seconds=job.seconds,
            warm_s=WARM_S,
            connections=case.connections,
            has_overload=True,
        )
        serving = spec.serving(VERSION)
        task = Task(spec.handler.removesuffix(".py"), serving.settings)

        def peers(unpacked: Path, empty: Path) -> Sequence[Contender]:
            return peers_of(job.project, unpacked, empty, task, serving, names, job.progress)

        comparison = compare(job.project, archive, options, job.progress, peers)
    source = f"{comparison.setting.requests} requests as JSON"
    comparison = replace(comparison, setting=replace(comparison.setting, source=source))
    advice = advise(comparison)
    report = job.project.state / "bench" / f"engines-{model}.html"
    write_report(report, comparison, advice)
    for line in lines(comparison, advice):
        job.progress.line(line)
    return Result(
        model,
        case.title,
        {"connections": case.connections, "report": job.project.relative(report)},
        {engine.name: [_harness_turn(turn) for turn in engine.turns] for engine in comparison.engines if engine.turns},
        figures_of(case, comparison),
        tuple(f"{e.name} answers otherwise: {e.difference}" for e in comparison.engines if e.difference),
    )


def bodies_of(model: str, folder: Path) -> list[bytes]:
    """The requests as JSON, which every peer reads: the samples; for the encoder sentences of mixed lengths.

    Raises:
        ArchiveError: no sample is JSON.
    """
    if model == "embeddings":
        encoder = folder / ".built" / VERSION / "encoder"
        return [json.dumps({"text": text}).encode() for text in mixed_sentences(encoder)]
    found = [path.read_bytes().strip() for path in sorted((folder / "samples").glob("*.json"))]
    if not found:
        raise ArchiveError(f"{model} has no sample that is JSON")
    return found


def write_traffic(path: Path, bodies: Sequence[bytes]) -> Path:
    """Write a file of recorded requests."""
    path.write_text("".join(json.dumps({"body": body.decode()}) + "\n" for body in bodies), encoding="utf-8")
    return path


def figures_of(case: Case, comparison: Comparison) -> list[Figure]:
    """The figures of the issue for one model, each with the value of every round."""
    by_name = {engine.name: engine for engine in comparison.engines}
    found = [_ratio(ratio, by_name) for ratio in case.ratios]
    if case.lone is not None:
        found += _best_of_ours(by_name)
        found.append(_lone(case.lone, by_name, comparison))
    for name in engines():
        if name in by_name and by_name[name].turns:
            found += _overload(by_name[name])
    return found


def _ratio(ratio: Ratio, engines_by_name: Mapping[str, Measured]) -> Figure:
    name = f"{ratio.of} over {ratio.over}"
    sides = [engines_by_name.get(side) for side in (ratio.of, ratio.over)]
    reasons = [_reason(side, engine) for side, engine in zip((ratio.of, ratio.over), sides, strict=True)]
    if any(reasons):
        return Figure(name, "times", (), ratio.goal, why_not="; ".join(filter(None, reasons)))
    first, second = (engine.turns for engine in sides if engine is not None)
    rounds = tuple(a.capacity_s / b.capacity_s for a, b in zip(first, second, strict=True))
    return Figure(name, "times", rounds, ratio.goal, sum(turn.saturated.failed for turn in (*first, *second)))


def _reason(name: str, engine: Measured | None) -> str:
    if engine is None:
        return f"{name} was not asked for"
    return f"{name}: {engine.why_not or engine.difference}" if not engine.is_comparable else ""


def _best_of_ours(by_name: Mapping[str, Measured]) -> list[Figure]:
    ours = {name: by_name[name] for name in engines() if name in by_name and by_name[name].is_comparable}
    if not ours:
        return []

    def median(name: str) -> float:
        speed = ours[name].over_rounds(lambda turn: turn.capacity_s)
        return speed.median if speed else 0.0

    best = max(ours, key=median)
    return [_ratio(Ratio(best, TRITON, Goal(1.0)), by_name)]


def _lone(goal: Goal, by_name: Mapping[str, Measured], comparison: Comparison) -> Figure:
    name = "uvicorn, a lone request over the bare worker"
    uvicorn = by_name.get("uvicorn")
    if uvicorn is None or not uvicorn.is_comparable:
        return Figure(name, "ms", (), goal, why_not=_reason("uvicorn", uvicorn))
    pairs = zip(uvicorn.turns, comparison.bare.lone_ms, strict=True)
    return Figure(name, "ms", tuple(turn.lone.p50_ms - bare for turn, bare in pairs), goal)


def _overload(engine: Measured) -> list[Figure]:
    loads = [turn.overload for turn in engine.turns if turn.overload is not None]
    title = f"{engine.name}, twice its capacity"
    return [
        Figure(f"{title}: answered", "share", tuple(load.goodput_share for load in loads), GOODPUT),
        Figure(f"{title}: bad refusals", "requests", tuple(float(load.bad_refusals) for load in loads), NONE_BAD),
        Figure(f"{title}: slowest refusal", "ms", tuple(load.refusal_most_ms for load in loads), REFUSAL_MS),
        Figure(f"{title}: recovery", "s", tuple(load.recovery_s for load in loads), RECOVERY_S),
    ]


def _harness_turn(turn: Turn) -> figures.Turn:
    return figures.Turn(
        requests_s=turn.capacity_s,
        p50_ms=turn.saturated.p50_ms,
        p99_ms=turn.saturated.p99_ms,
        failed=turn.saturated.failed,
        cpu_us={"server": turn.cpu_s_per_1000 * 1000, "load": turn.saturated.client_share * 1e6 / turn.capacity_s},
    )

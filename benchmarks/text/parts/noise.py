"""How often answers to one chat differ that one version gives: second answers of stable, and those of its own copy."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness.figures import Figure
from benchmarks.harness.run import Job
from benchmarks.harness.workload import own_folder
from benchmarks.targets.fleet import Fleet, running
from benchmarks.text.load import Plan, running_load
from benchmarks.text.parts.changes import lost
from benchmarks.text.parts.release import CHATS, ENGINE, SAME, STABLE, TARGET, chats
from benchmarks.text.parts.turns import Turns, clients
from benchmarks.text.prompts import MODEL, arrivals
from benchmarks.text.table import TextResult
from benchmarks.text.targets import ROUTE, built_archive
from tsctl.archive.asked import Asker
from tsctl.compare.nodes import free_spec, own_project
from tsctl.config.weights import TOTAL
from tsctl.gateway.change import set_shadow
from tsctl.records.pairs import WAIT_S, Versions, read_pairs
from tsctl.records.places import places_of
from tsctl.shadow.disagreement import Disagreement, Repeat, observe
from tsctl.shadow.report import Paired
from tsctl.shadow.summaries import CompareOptions, SummaryComparator

#: Each chat is answered four times: by stable, by its shadow, and by stable twice more.
CHATS_S = 0.8
#: Seconds of load by temperature.
LOADS: Mapping[float, float] = {0.8: 100.0, 0.0: 30.0}
SEED = 31
RECORDS = {"share": 1.0, "answers": True, "repeats": 1.0}
COMPARATORS: Mapping[str, CompareOptions] = {
    "tokens": CompareOptions("tokens"),
    "length": CompareOptions("length"),
    "length, most 0.3": CompareOptions("length", most=0.3),
    **{f"embedding, least {least}": CompareOptions("embedding", least=least) for least in (0.8, 0.6, 0.4, 0.3)},
}


def run(job: Job) -> TextResult:
    """Chats that sample, then greedy ones.

    Raises:
        TsctlError: the node or the gateway does not serve, or there is no archive `embeddings`.
    """
    turns = Turns(job)
    figures: list[Figure] = []
    with own_folder() as folder, _site(job, folder) as fleet:
        fleet.register(MODEL, SAME, fleet.nodes)
        set_shadow(fleet.gateway, MODEL, SAME, TOTAL)
        for temperature, seconds in LOADS.items():
            paired = _paired(fleet, turns, temperature, seconds, figures)
            figures += noise_figures(f"temperature {temperature:g}", paired, Asker(job.project))
    settings = {"chats_s": CHATS_S, "loads": dict(LOADS), "records": RECORDS}
    title = "second answers to the same chats"
    return TextResult("noise", title, settings, {}, [*figures, clients(turns.rows)], rows=turns.rows)


@contextmanager
def _site(job: Job, folder: Path) -> Iterator[Fleet]:
    own = own_project(job.project, folder / "own")
    copied = own.archives / MODEL
    shutil.copytree(job.project.archives / MODEL, copied)
    spec = copied / "archive.yaml"
    content = yaml.safe_load(spec.read_text(encoding="utf-8"))
    spec.write_text(yaml.safe_dump({**content, "records": RECORDS}, sort_keys=False), encoding="utf-8")
    archive = built_archive(job, own, STABLE)
    archives = {(MODEL, STABLE): archive, (MODEL, SAME): archive}
    targets: dict[tuple[str, str], dict[str, Any]] = {(MODEL, STABLE): {}, (MODEL, SAME): {"archive": STABLE}}
    served = [(MODEL, STABLE)]
    with running(own, {ENGINE: free_spec(ENGINE)}, archives, served, job.progress, ROUTE, targets=targets) as fleet:
        yield fleet


def _paired(fleet: Fleet, turns: Turns, temperature: float, seconds: float, figures: list[Figure]) -> Paired:
    moments = arrivals(CHATS_S, seconds, SEED)
    plan = Plan(chats(len(moments), SEED, temperature), 0, seconds, drain_s=60.0, arrivals=moments)
    name = f"temperature {temperature:g}"
    with turns.job.progress.step(f"chats with {name}") as step:
        since = time.time()
        with running_load(fleet.address(CHATS), plan) as load:
            measured = load.wait()
        until = time.time()
        time.sleep(2 * WAIT_S)
        turns.keep(f"{TARGET}: {name}", f"{CHATS_S:g}/s", measured, lead_s=0.0)
        figures += lost(name, measured)
        reading = read_pairs(places_of(fleet.nodes, None), Versions(MODEL, STABLE, SAME), since, until)
        step.done(f"{len(reading.paired.requests)} pairs")
    return reading.paired


def noise_figures(name: str, paired: Paired, asker: Asker) -> list[Figure]:
    """Shares of the answers that differ, by comparator."""
    figures: list[Figure] = []
    vectors: Mapping[str, Any] = {}
    for called, options in COMPARATORS.items():
        comparator = SummaryComparator(options)
        if comparator.embeds:
            vectors = vectors or asker.ready(comparator, paired.compared).vectors
            comparator = replace(comparator, vectors=vectors)
        evidence = Disagreement()
        for request in paired.requests:
            evidence, _ = observe(evidence, request.pair, request.repeats, comparator)
        counts = [("an identical shadow", evidence.differing, evidence.pairs)]
        counts += [
            (f"stable again, {kind}", evidence.repeats_differing[kind], int(evidence.floors[kind].pairs))
            for kind in Repeat
        ]
        for what, differing, pairs in counts:
            value = (differing / pairs,) if pairs else ()
            title = f"{name}, {called}: {what} differs, of {pairs}"
            figures.append(Figure(title, "share", value, why_not="" if pairs else "no second answer"))
    return figures

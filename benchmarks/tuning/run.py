"""The workload of `make bench-tune`: a pass over the grid, searches against the table, and one search on real nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from benchmarks.harness.figures import Figure, Goal, Result
from benchmarks.harness.run import Job, Run
from benchmarks.tuning.grid import CASES, ENGINE, Case, measure_pass
from benchmarks.tuning.offline import Outcome, by_chance, median, most_trials, quantile, simulate
from benchmarks.tuning.table import Table, path_of, read
from tsctl.archive.named import archive_of_name
from tsctl.tune.tune import Options, prepare, tune

SEEDS = 200
#: Share of the best of the grid that a search should reach.
GOAL = Goal(0.95)
#: Minutes of the search on real nodes; a trial of the embeddings takes 20 s.
LIVE_MINUTES = 4


def workloads(seeds: int = SEEDS, is_offline: bool = False) -> Mapping[str, Run]:
    """A workload for each model.

    Args:
        is_offline: only the table that is there is searched, and nothing is measured.
    """
    return {case.model: _workload(case, seeds, is_offline) for case in CASES.values()}


def _workload(case: Case, seeds: int, is_offline: bool) -> Run:
    def run(job: Job) -> Result:
        if is_offline:
            table = read(path_of(case.model))
            return _result(case, table, seeds, [])
        table = measure_pass(job.project, case, job.progress)
        return _result(case, table, seeds, [_live(case, table, job)])

    return run


def _result(case: Case, table: Table, seeds: int, live: list[Figure]) -> Result:
    best = table.best
    samplers: dict[str, Callable[[Any, int], Any] | None] = {"TPE": None, "by chance": by_chance}
    figures: list[Figure] = []
    for name, sampler in samplers.items():
        outcomes = [simulate(table, seed, sampler) for seed in range(seeds)]
        figures += _figures(name, outcomes, None if sampler else GOAL)
    settings = {
        **table.head,
        "points": len(table.points),
        "invalid": sum(bool(point.reason) for point in table.points.values()),
        "passes": table.passes,
        "noise": round(table.noise, 4),
        "others": round(table.others, 4),
        "trials": most_trials(table),
        "best": best.settings.text,
        "best_goodput_s": best.goodput_s,
        "present_goodput_s": table.points[table.space.present].goodput_s,
    }
    title = f"{case.model}: {most_trials(table)} of {len(table.points)} points"
    notes = (
        f"{case.model}: best of the grid {best.settings.text} with {best.goodput_s:,.0f} requests/s; present"
        f" {table.points[table.space.present].goodput_s / best.goodput_s:.0%} of it; noise of a measurement"
        f" {table.noise:.1%}, {table.passes} passes, {settings['invalid']} points invalid; other programs took"
        f" {table.others:.0%} of the machine",
    )
    return Result(case.model, title, settings, {}, [*figures, *live], notes)


def _figures(name: str, outcomes: list[Outcome], goal: Goal | None) -> list[Figure]:
    chosen, kept = ([getattr(each, part) for each in outcomes] for part in ("chosen", "kept"))
    return [
        Figure(f"{name}: chosen, of the best of the grid", "share", (median(chosen),), goal),
        Figure(f"{name}: the same, worst of ten searches", "share", (quantile(chosen, 0.1),)),
        Figure(f"{name}: in force after the proof", "share", (median(kept),)),
        Figure(f"{name}: load, of the grid's", "share", (median([each.seconds for each in outcomes]),)),
    ]


def _live(case: Case, table: Table, job: Job) -> Figure:
    """One search on real nodes; the share is of the table's median, because one measurement is luck."""
    project, count = job.project, most_trials(table)
    options = Options(case.slo_ms, trials=count, minutes=LIVE_MINUTES, engines=[ENGINE], base_s=case.seconds)
    prepared = prepare(project, archive_of_name(project, case.model, job.progress), options)
    prepared = replace(prepared, space=table.space)
    tuned = tune(project, prepared, options, job.progress, project.state / "bench" / "tune")
    chosen = tuned.verdict.chosen
    point = table.points.get(chosen) if chosen is not None else None
    name = f"one search on real nodes, {sum(tuned.counts.values())} trials: chosen"
    if point is None:
        why = "it chose no settings" if chosen is None else f"{chosen.text} is not in the grid"
        return Figure(name, "share", (), why_not=why)
    return Figure(name, "share", (point.goodput_s / table.best.goodput_s,), GOAL)

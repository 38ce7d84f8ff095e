"""`tsctl engines compare`: one archive on every engine, measured side by side on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from handlers.contract import MOST_WORKERS
from tsctl.cli.options import Json


def compare(
    name: Annotated[str, typer.Argument(metavar="MODEL[:VERSION]|FILE.mar", help="The first version if left out.")],
    slo_p99_ms: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=3_600_000, help="Limit of the p99; the advice names the most requests/s within it."
        ),
    ] = None,
    traffic: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Recorded requests, one JSON object a line; the samples if left out."),
    ] = None,
    engine: Annotated[list[str] | None, typer.Option(help="An engine; repeatable. All if left out.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each engine.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds of each measured load.")] = 5.0,
    warm_s: Annotated[float, typer.Option(min=0.0, max=3600, help="Seconds of load before each measurement.")] = 3.0,
    workers: Annotated[
        int | None, typer.Option(min=1, max=MOST_WORKERS, help="Worker processes; as archive.yaml says, if left out.")
    ] = (None),
    connections: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Connections of the closed loop; found if left out.")
    ] = None,
    overload: Annotated[bool, typer.Option("--overload", help="Also offer twice the capacity.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="The report; in .tsctl/compare if left out.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure one archive on every engine, one after the other, and say which one to take.

    Each turn starts the engine from nothing, loads it to saturation, and then at 50 and 80 % of its capacity. Writes a
    report with plots, and the same as JSON beside it.
    """
    from tsctl.archive.named import file_of_name
    from tsctl.cli.output import print_json
    from tsctl.compare.advice import advise
    from tsctl.compare.compare import Options
    from tsctl.compare.compare import compare as measure
    from tsctl.compare.nodes import engines
    from tsctl.config.project import find_project
    from tsctl.errors import SpecError
    from tsctl.host.files import require_writable
    from tsctl.host.progress import Progress
    from tsctl.views.compare.report import document, lines, write_report

    if out is not None and out.suffix != ".html":
        raise SpecError(f"--out {out}: must end with .html; the JSON is written beside it")
    if out is not None:
        require_writable(out)
    project, progress = find_project(), Progress()
    options = Options(
        list(dict.fromkeys(engine or engines())),
        traffic,
        workers,
        rounds=rounds,
        seconds=seconds,
        warm_s=warm_s,
        slo_p99_ms=slo_p99_ms,
        connections=connections,
        has_overload=overload,
    )
    comparison = measure(project, file_of_name(name, progress), options, progress)
    advice = advise(comparison)
    path = out or project.state / "compare" / f"{comparison.setting.model}-{comparison.setting.version}.html"
    write_report(path, comparison, advice)
    if json:
        return print_json(document(comparison, advice))
    typer.echo("\n".join(lines(comparison, advice)))
    typer.echo(f"written to {project.relative(path)}")

"""`tsctl drift`: whether inputs and predictions have moved away from the reference data of their archive."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tsctl.cli.context import open_deployment
from tsctl.cli.options import Every, Json, repeated
from tsctl.cli.output import print_done, print_json
from tsctl.cli.records import Node, Source, places
from tsctl.config.deployment import read_deployment
from tsctl.config.monitoring import MonitoringSpec
from tsctl.config.project import Project, find_project
from tsctl.errors import SpecError
from tsctl.monitoring.drift import Subject, accept, chosen_versions, follow, forget, open_subject
from tsctl.monitoring.drift import report as compare
from tsctl.records.database import Place

app = typer.Typer(rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="MODEL[:VERSION]")]


@app.command()
def report(
    name: Name,
    hours: Annotated[float, typer.Option("--hours", min=0.01, max=87_600, help="The window, up to now.")] = 24.0,
    node: Node = None,
    source: Source = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report as one HTML file, too.")] = None,
    as_json: Json = False,
) -> None:
    """Compare the records of a window with the reference of the archive, and show whether the alarm is raised."""
    from tsctl.views.drift import document, lines, write_report

    project, where, is_shared, budget_s = _opened(node, source)
    now = time.time()
    reports = [
        compare(where, subject, follow(project, where, subject, budget_s, now, is_shared), now - hours * 3600, now)
        for subject in chosen_versions(project, where, name)
    ]
    if html is not None:
        write_report(html, reports)
    if as_json:
        print_json([document(each) for each in reports])
    else:
        typer.echo("\n\n".join("\n".join(lines(each)) for each in reports))


@app.command()
def watch(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL[:VERSION]]...", help="All of deployment.yaml, if left out.")
    ] = None,
    every: Every = None,
    node: Node = None,
    source: Source = None,
    as_json: Json = False,
) -> None:
    """Read the new records of versions into their alarms; as the exporter does once a minute."""
    from tsctl.views.drift import alarm_line, state_document

    project, where, is_shared, budget_s = _opened(node, source)
    for _ in repeated(every):
        followed = [
            (subject, follow(project, where, subject, budget_s, time.time(), is_shared))
            for subject in _subjects(project, where, names)
        ]
        if as_json:
            print_json([state_document(*each) for each in followed])
        else:
            for subject, state in followed:
                typer.echo(f"{subject.name}: {alarm_line(state)}")


@app.command()
def reset(
    name: Annotated[str, typer.Argument(metavar="MODEL:VERSION")],
    accepted: Annotated[
        bool, typer.Option("--accept", help="The change stays: what came since belongs to the reference.")
    ] = False,
    node: Node = None,
    source: Source = None,
    as_json: Json = False,
) -> None:
    """End the alarm of a version: the change is over, and the watch begins again; or, with --accept, it stays."""
    project, where, is_shared, budget_s = _opened(node, source)
    model, _, version = name.partition(":")
    if not version:
        raise SpecError(f"{name}: an alarm is of one version", f"Name it: tsctl drift reset {model}:VERSION")
    subject = open_subject(project, model, version)
    subject.require_followed()
    items: int | None = None
    said = "the watch begins again"
    if accepted:
        items = accept(project, where, subject, budget_s, is_shared).items
        said = f"the change is accepted; {items:,} items belong to the reference"
    else:
        forget(project, where, subject, budget_s, time.time(), is_shared)
    document = {"model": model, "version": version, "is_accepted": accepted, "reference_items": items}
    print_done(document, [f"{subject.name}: {said}"], as_json)


def _opened(node: str | None, source: list[str] | None) -> tuple[Project, list[Place], bool, float]:
    """The project, where its records lie, whether that is anything but the nodes of this machine, and the budget."""
    where = places(node, source)
    project = find_project()
    has_deployment = project.deployment.is_file()
    monitoring = read_deployment(project.deployment).monitoring if has_deployment else MonitoringSpec()
    return project, where, node is not None or bool(source), monitoring.drift_days * 86_400.0


def _subjects(project: Project, where: Sequence[Place], names: list[str] | None) -> list[Subject]:
    if names:
        return [subject for name in names for subject in chosen_versions(project, where, name)]
    from tsctl.monitoring.drift_metrics import followed_subjects

    subjects = followed_subjects(*open_deployment())
    if not subjects:
        raise SpecError(
            "no version of deployment.yaml has both a reference and records in its archive",
            "Write 'reference: FILE' and 'records: {share: 0.01}' into archive.yaml, and build; see docs/drift.md.",
        )
    return subjects

"""`tsctl monitoring`: Prometheus, Alertmanager and dashboards for what deployment.yaml describes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tsctl.cli.context import open_deployment
from tsctl.cli.options import Json
from tsctl.cli.output import print_done, print_json, print_table
from tsctl.config.project import find_project
from tsctl.errors import NodeError
from tsctl.host.progress import Progress
from tsctl.monitoring.files import MonitoringFiles, monitoring_files, rendered, write_rendered
from tsctl.monitoring.processes import monitoring_status, start_monitoring, stop_monitoring

app = typer.Typer(rich_markup_mode=None)


@app.command()
def render(
    to: Annotated[Path | None, typer.Option("--to", help="Folder; .tsctl/monitoring if left out.")] = None,
    json: Json = False,
) -> None:
    """Write scrape configuration, recording rules, alerts and dashboards from deployment.yaml."""
    project, deployment = open_deployment()
    files = MonitoringFiles(to.resolve()) if to is not None else monitoring_files(project)
    contents = rendered(deployment, files)
    changed = write_rendered(contents)
    if json:
        return print_json([{"path": str(path), "is_changed": path in changed} for path in contents])
    for path in contents:
        typer.echo(f"{project.relative(path)}{'' if path in changed else ' (unchanged)'}")


@app.command()
def start(json: Json = False) -> None:
    """Start Prometheus, Alertmanager and the exporter of this machine, or have them read what has changed."""
    project, deployment = open_deployment()
    changes = start_monitoring(project, deployment, Progress())
    places = {"alerts": deployment.monitoring.alertmanager, "queries": deployment.monitoring.prometheus}
    said = [*(changes or ["nothing to change"]), *(f"{name}: {address}" for name, address in places.items())]
    print_done({"changes": changes, **places}, said, json)


@app.command()
def stop(json: Json = False) -> None:
    """Stop the servers that 'tsctl monitoring start' started here, and only those."""
    was_running = stop_monitoring(find_project(), Progress())
    print_done({"was_running": was_running}, [] if was_running else ["the monitoring was not running"], json)


@app.command()
def status(json: Json = False) -> None:
    """Show whether Prometheus, Alertmanager and the exporter answer; exit code 4 if one does not."""
    statuses = monitoring_status(*open_deployment())
    if json:
        print_json([asdict(one) for one in statuses])
    else:
        rows = [(one.name, one.pid or "-", one.address, one.problem or "answers") for one in statuses]
        print_table(("server", "pid", "address", "state"), rows)
    if troubles := [f"{one.name}: {one.problem}" for one in statuses if one.problem]:
        raise NodeError("; ".join(troubles), "Run 'tsctl monitoring start' (make monitor).")

"""`tsctl logs`: lines of one model or of one request, of all nodes of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.options import Json

if TYPE_CHECKING:
    from tsctl.archive.store import StoredArchive


def logs(
    name: Annotated[str | None, typer.Argument(metavar="[MODEL[:VERSION]]", help="All models if left out.")] = None,
    request: Annotated[
        str | None,
        typer.Option("--request", metavar="ID", help="All lines of this request; its id is in its answer."),
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new lines, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, max=100_000, help="How many of the last ones.")] = 100,
    node: Annotated[
        str | None, typer.Option("--node", help="Node of deployment.yaml; all of this machine if left out.")
    ] = None,
    json: Json = False,
) -> None:
    """Print the lines that workers and nodes wrote of a model, or of one request, with tracebacks; rotated files too.

    Each line of a request begins with its id. With --json each line is a JSON object.
    """
    import json as documents

    from tsctl.archive.store import list_archives
    from tsctl.cli.context import open_deployment
    from tsctl.errors import NodeError, SpecError, printable
    from tsctl.nodes.engines import open_node, open_nodes
    from tsctl.nodes.log_lines import Follower, LogLine, Wanted, find_lines
    from tsctl.nodes.log_lines import follow as follow_lines

    project, deployment = open_deployment()
    deployment.require_nodes()
    nodes = open_nodes(project, deployment) if node is None else [open_node(project, *deployment.node(node))]
    here = [opened for opened in nodes if opened.is_here]
    if not here:
        places = ", ".join(f"node {opened.name} is on {opened.spec.host}" for opened in nodes)
        raise NodeError(f"{places}, and so are the logs", "Run this there.")
    started = [opened for opened in here if any(path.is_file() for path in opened.logs)]
    if not started:
        raise NodeError(f"no node was ever started here: no {here[0].logs[-1]}", "Run 'tsctl up'.")
    model, _, version = (name or "").partition(":")
    known = {archive.model for archive in list_archives(project)} | set(deployment.models)
    if model and model not in known:
        raise SpecError(f"there is no model {model!r}", f"There are: {', '.join(sorted(known)) or 'none'}.")
    wanted = Wanted(model or None, version or None, request, sorted(known))

    def show(line: LogLine) -> None:
        if json:
            where = {"node": line.node, "file": project.relative(line.path)}
            return typer.echo(documents.dumps({**where, "time": line.time, "text": line.text}))
        of_node = f"{line.node}: " if len(started) > 1 else ""
        typer.echo(f"{of_node}{printable(line.text, kept=chr(9))}")

    followers = [Follower(each.name, log, wanted) for each in started for log in each.logs] if follow else []
    found = [
        line
        for each in started
        for line in find_lines(
            each.name,
            each.logs,
            wanted,
            None if request else lines,
            lambda text: typer.echo(f"warning: {text}", err=True),
        )
    ]
    found.sort(key=lambda line: line.time)
    for line in found if request else found[max(0, len(found) - lines) :]:
        show(line)
    if not found and not follow:
        what = f"request {request}" if request else name or "any model"
        typer.echo(f"no line of {what} in the logs of {', '.join(each.name for each in started)}", err=True)
        if request and any(_is_stock(each) for each in list_archives(project) if model in ("", each.model)):
            typer.echo("lines of stock archives carry no request's id: see 'tsctl logs MODEL'", err=True)
    for line in follow_lines(followers) if follow else ():
        show(line)


def _is_stock(archive: StoredArchive) -> bool:
    from tsctl.archive.inspect import facts_of

    return facts_of(archive.path).is_stock

"""`tsctl shadow`: copies of requests for a version, and how its answers compare with stable's."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tsctl.cli.context import open_deployment, open_gateway_here
from tsctl.cli.options import Json, Model, Version
from tsctl.cli.output import print_done
from tsctl.cli.records import Node, Source
from tsctl.cli.weights import route_json
from tsctl.config.weights import parse_share, percent
from tsctl.errors import AnalysisError, SpecError
from tsctl.gateway import change
from tsctl.gateway.traffic import Traffic

app = typer.Typer(rich_markup_mode=None)

#: Where neither a command nor the policy says it.
MAX_DISAGREEMENT = 0.005


@app.command("set")
def set_shadow(
    model: Model,
    version: Version,
    share: Annotated[str, typer.Option("--percent", help="Of the model's requests, such as 20 or 0.5.")],
    json: Json = False,
) -> None:
    """Copy a share of a model's requests to a version."""
    parsed = parse_share(share)
    traffic = change.set_shadow(open_gateway_here(), model, version, parsed)
    _print(traffic, json)


@app.command("clear")
def clear(model: Model, json: Json = False) -> None:
    """Stop copying requests."""
    _print(change.set_shadow(open_gateway_here(), model, None, 0), json)


def _print(traffic: Traffic, as_json: bool) -> None:
    """The route's shadow, or its document, as 'tsctl weights show' has it."""
    shadow = traffic.shadow
    copies = f"{percent(shadow.share)} of the requests are copied to {shadow.version}" if shadow else "no shadow"
    print_done(route_json(traffic), [f"{traffic.model}: {copies}"], as_json)


@app.command("report")
def report(
    model: Model,
    version: Annotated[str | None, typer.Option("--version", help="The shadow; the last one if left out.")] = None,
    stable: Annotated[str | None, typer.Option("--stable", help="The other version; the last one if left out.")] = None,
    hours: Annotated[float, typer.Option(min=0.01, max=24 * 3660, help="Length of the time, up to now.")] = 24.0,
    max_disagreement: Annotated[
        float | None,
        typer.Option(min=0.000001, max=0.999999, help="Above the noise floor; the policy's, or 0.005, if left out."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--compare", help="label, top_k, number, vector, text or json; as the archive says if left out."),
    ] = None,
    field: Annotated[str | None, typer.Option("--field", help="Place of the value, with --compare.")] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the report with plots.")] = None,
    node: Node = None,
    source: Source = None,
    as_json: Json = False,
) -> None:
    """Compare a shadow's answers with stable's, by the records of both.

    Shows the rate of disagreement above stable's own noise, the slices that disagree most, labels that arrived,
    latencies side by side, and requests whose answers differ.
    """
    from tsctl.archive.comparator import comparator_in_store
    from tsctl.cli.output import print_json
    from tsctl.cli.records import places
    from tsctl.records.labels import truth
    from tsctl.records.pairs import WAIT_S, Versions, read_pairs, versions_compared
    from tsctl.shadow.comparators import COMPARATORS, NotComparable
    from tsctl.shadow.report import compare_pairs
    from tsctl.shadow.summaries import CompareOptions
    from tsctl.views.rollout.wording import when
    from tsctl.views.shadow.report import document, lines, render_report, write_report

    if by is not None and by not in COMPARATORS:
        raise SpecError(f"--compare {by}: must be one of {', '.join(COMPARATORS)}")
    if field is not None and by is None:
        raise SpecError("--field needs --compare", "Name the comparator as well.")
    project, deployment = open_deployment()
    policy, target = deployment.policy(model), deployment.models.get(model)
    limit = max_disagreement or (policy.shadow.max_disagreement if policy.shadow else MAX_DISAGREEMENT)
    read_from = places(node, source)
    until = time.time() - WAIT_S
    since = until - 3600 * hours
    found = versions_compared(read_from, model, since, until) if None in (version, stable) else None
    shadow = version or (found.shadow if found else None)
    stable = stable or (found.stable if found else None)
    if shadow is None or stable is None:
        raise AnalysisError(
            f"no record of the last {hours:g} h says that requests of {model} were copied to a shadow",
            f"Both versions need 'records' in archive.yaml; then: tsctl shadow set {model} VERSION --percent 20",
        )
    comparator = comparator_in_store(project, model, target.archive(stable) if target else stable)
    if by is not None:
        comparator = replace(comparator, options=CompareOptions(by=by, field=field))  # type: ignore[arg-type]
    reading = read_pairs(
        read_from,
        Versions(model, stable, shadow),
        since,
        until,
        truth(project.state / "labels", read_from, model, since, until),
    )
    if reading.until_s < until:
        typer.echo(
            f"only the records until {when(reading.until_s)} were read: there are too many; see --hours", err=True
        )
    try:
        compared = compare_pairs(reading.paired, comparator, limit, policy.alpha)
    except NotComparable as error:
        raise SpecError(str(error)) from None
    if html is not None:
        period = f"{when(since)} to {when(reading.until_s)}"
        write_report(html, render_report(compared, model, stable, shadow, period))
    if as_json:
        return print_json(document(compared, model, stable, shadow))
    typer.echo("\n".join(lines(compared, stable, shadow)))
    if html is not None:
        typer.echo(f"written to {html}")

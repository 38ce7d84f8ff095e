"""`tsctl shadow`: copies of requests for a version, and how its answers compare with stable's."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tsctl.cli.context import absent_json, open_deployment, say_absent
from tsctl.cli.options import Json, Model, Version
from tsctl.cli.output import print_done
from tsctl.cli.records import Node, Source
from tsctl.cli.weights import route_json
from tsctl.config.weights import parse_share, percent
from tsctl.errors import AnalysisError, SpecError
from tsctl.gateway.backend import TrafficBackend, gateway_of, open_backend
from tsctl.gateway.traffic import Traffic

if TYPE_CHECKING:
    from tsctl.shadow.summaries import CompareOptions

app = typer.Typer(rich_markup_mode=None)


@app.command("set")
def set_shadow(
    model: Model,
    version: Version,
    share: Annotated[str, typer.Option("--percent", help="Of the model's requests, such as 20 or 0.5.")],
    json: Json = False,
) -> None:
    """Copy a share of a model's requests to a version."""
    parsed = parse_share(share)
    backend = open_backend(*open_deployment())
    _print(backend, backend.set_shadow(model, version, parsed), json)


@app.command("clear")
def clear(model: Model, json: Json = False) -> None:
    """Stop copying requests."""
    backend = open_backend(*open_deployment())
    _print(backend, backend.set_shadow(model, None, 0), json)


def _print(backend: TrafficBackend, traffic: Traffic, as_json: bool) -> None:
    """The route's shadow, or its document, as 'tsctl weights show' has it."""
    shadow = traffic.shadow
    copies = f"{percent(shadow.share)} of the requests are copied to {shadow.version}" if shadow else "no shadow"
    gateway = gateway_of(backend)
    print_done({**route_json(traffic), **absent_json(gateway)}, [f"{traffic.model}: {copies}"], as_json)
    say_absent(gateway)


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
        typer.Option(
            "--compare",
            help="label, top_k, number, vector, text, tokens, length, json, embedding or handler; the archive's if left"
            " out.",
        ),
    ] = None,
    field: Annotated[str | None, typer.Option("--field", help="Place of the value, with --compare or --embed.")] = None,
    embed: Annotated[
        str | None,
        typer.Option(
            "--embed",
            metavar="MODEL[:VERSION]",
            help="Compare what texts are about, by the cosine of vectors from this archive of the store.",
        ),
    ] = None,
    least: Annotated[
        float | None, typer.Option("--least", min=-1, max=1, help="Share or cosine from which answers agree.")
    ] = None,
    k: Annotated[int | None, typer.Option("--k", min=1, max=1000, help="Classes of top_k; 5 if left out.")] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the report with plots.")] = None,
    node: Node = None,
    source: Source = None,
    as_json: Json = False,
) -> None:
    """Compare a shadow's answers with stable's, by the records of both.

    Shows the rate of disagreement above stable's own noise, the slices that disagree most, labels that arrived,
    latencies side by side, and requests whose answers differ.
    """
    from tsctl.archive.asked import Asker
    from tsctl.archive.comparator import comparator_in_store
    from tsctl.cli.output import print_json
    from tsctl.cli.records import places
    from tsctl.config.policy import ShadowStage
    from tsctl.records.labels import truth
    from tsctl.records.pairs import WAIT_S, Versions, read_pairs, versions_compared
    from tsctl.shadow.comparators import NotComparable
    from tsctl.shadow.report import compare_pairs
    from tsctl.views.rollout.wording import when
    from tsctl.views.shadow.report import document, lines, render_report, write_report

    options = _compare_options(by, field, embed, least, k)
    project, deployment = open_deployment()
    policy, target = deployment.policy(model), deployment.models.get(model)
    limit = max_disagreement or (policy.shadow or ShadowStage()).max_disagreement
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
    if options is not None:
        comparator = replace(comparator, options=options)
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
    if not reading.paired.requests:
        lost = [f"{count:,} {reason}" for reason, count in reading.paired.unpaired.items() if count]
        raise AnalysisError(
            f"no request of the last {hours:g} h has answers of both {stable} and {shadow} in the records of {model}"
            + (f" ({', '.join(lost)})" if lost else ""),
            f"See which versions there are: tsctl records stats {model}",
        )
    if comparator.asks:
        comparator = Asker(project).ready(comparator, reading.paired.compared, "Give a shorter time with --hours.")
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


def _compare_options(
    by: str | None, field: str | None, embed: str | None, least: float | None, k: int | None
) -> CompareOptions | None:
    """What the options of a command say; None: they leave it to the archive.

    Raises:
        SpecError: they do not fit together.
    """
    from tsctl.config.archive import compare_mistake
    from tsctl.shadow.summaries import COMPARED_BY, EMBEDDING, CompareOptions

    if by is not None and by not in COMPARED_BY:
        raise SpecError(f"--compare {by}: must be one of {', '.join(COMPARED_BY)}")
    if embed is not None and by not in (None, EMBEDDING):
        raise SpecError(f"--embed does not fit --compare {by}", "Leave one of them out.")
    given: dict[str, Any] = {"field": field, "least": least, "k": k, "model": embed}
    given = {name: value for name, value in given.items() if value is not None}
    if embed is None and by is None:
        if given:
            raise SpecError("--field, --least and --k need --compare or --embed", "Name the comparator as well.")
        return None
    chosen = by or EMBEDDING
    if mistake := compare_mistake(chosen, given):
        raise SpecError(mistake, "Leave out what it does not take.")
    return CompareOptions(by=chosen, **given)  # type: ignore[arg-type]

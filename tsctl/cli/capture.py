"""`tsctl capture` and `tsctl replay`: real requests in a file, and sent again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tsctl.cli.options import Json, Model


def capture(
    model: Model,
    minutes: Annotated[float, typer.Option(min=0.1, max=527_040, help="Requests of this last time are taken.")] = 10.0,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A new file; in .tsctl/captures if left out.")
    ] = None,
    most: Annotated[
        int, typer.Option(min=1, max=100_000, help="Requests; of more, a random sample is taken.")
    ] = 10_000,
    most_mb: Annotated[int, typer.Option(min=1, max=200, help="Megabytes of inputs.")] = 64,
    node: Annotated[
        str | None, typer.Option("--node", help="Node of deployment.yaml; all on this machine if left out.")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option("--from", help="Folder or fsspec address with records, in place of the nodes'; may be repeated."),
    ] = None,
    json: Json = False,
) -> None:
    """Write real requests to a model, as its archive redacts and records them, with their times of arrival.

    Needs 'records: {share: ..., input_days: ...}' in archive.yaml. Only the owner may read the file.
    """
    from dataclasses import asdict
    from datetime import UTC, datetime

    from tsctl.archive.store import name_mistake
    from tsctl.capture.take import Period, take
    from tsctl.cli.output import plural, print_json
    from tsctl.cli.records import places
    from tsctl.config.project import find_project
    from tsctl.errors import SpecError

    if name_mistake(model, "1.0"):
        raise SpecError(f"{model!r} is no name of a model")
    if output is not None and output.exists():
        raise SpecError(f"--output {output}: exists already", "Give another name, or delete it first.")
    now = datetime.now(UTC)
    path = output or find_project().state / "captures" / f"{model}-{now:%Y%m%dT%H%M%SZ}.jsonl"
    shares = {} if source else _recorded_shares(model)
    taken = take(places(node, source), model, Period.last(minutes, now), path, shares, most, most_mb << 20)
    if json:
        return print_json({"path": str(path), **asdict(taken), "recorded": shares})
    by_version = ", ".join(f"{count} of {version}" for version, count in sorted(taken.versions.items()))
    typer.echo(f"{plural(taken.requests, 'request')} of {taken.of} recorded ({by_version}) in {path}")
    for version, share in sorted(shares.items()):
        if version in taken.versions and 0 < share < 1:
            speed = taken.of / taken.requests / share
            typer.echo(f"{version} records {share:.4g} of its requests: --speed {speed:.4g}x is their real rate")


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="From 'tsctl capture'.")],
    to: Annotated[str, typer.Option("--to", metavar="MODEL[/VERSION]", help="Who gets the requests.")],
    speed: Annotated[str, typer.Option(metavar="N", help="How much faster than they came, such as 2x.")] = "1x",
    node: Annotated[str | None, typer.Option("--node", help="Node of deployment.yaml, past the gateway.")] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="Another gateway or server, such as http://10.0.0.5:8000."),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option("--key-file", metavar="FILE", help="With the key for the gateway at --url.")
    ] = None,
    json: Json = False,
) -> None:
    """Send captured requests at the times at which they came, whether or not earlier ones are answered.

    They go through the gateway of deployment.yaml, unless --node or --url names another place. Ctrl-C ends the sending
    and prints what came of it; exit code 130 then.
    """
    from secrets import token_hex

    from tsctl.capture import target as places
    from tsctl.capture.replay import parse_speed, send_times
    from tsctl.capture.replay import replay as send
    from tsctl.cli.context import open_deployment
    from tsctl.cli.output import print_json
    from tsctl.compare.recorded import read_requests_to
    from tsctl.errors import SpecError
    from tsctl.host.progress import Progress
    from tsctl.views.capture import summary_lines

    if url is not None and node is not None:
        raise SpecError("--url and --node contradict each other", "Give one of the two.")
    if url is None and key_file is not None:
        raise SpecError(
            "--key-file is for --url", "The gateway of deployment.yaml is asked with this machine's own key."
        )
    times_faster = parse_speed(speed)
    model, version = places.parse_to(to)
    requests, times = send_times(file, read_requests_to(file, model), times_faster)
    if url is not None:
        target = places.url_target(url, key_file, model, version)
    elif node is not None:
        target = places.node_target(*open_deployment(), node, model, version)
    else:
        target = places.gateway_target(*open_deployment(), model, version)
    who = f"{target.model} {target.version or ''}".rstrip()
    with Progress().step(f"{len(requests)} requests in {times[-1]:.1f} s to {who}, {target.place}") as step:
        summary = send(target.endpoint, requests, times, f"replay-{token_hex(4)}", target.trusted)
        step.done("interrupted" if summary.is_interrupted else "sent")
    if json:
        about = {"model": target.model, "version": target.version, "to": target.place, "speed": times_faster}
        print_json({**about, **summary.as_json()})
    else:
        typer.echo("\n".join(summary_lines(summary)))
    if summary.is_interrupted:
        raise typer.Exit(130)


def _recorded_shares(model: str) -> dict[str, float]:
    """The share of requests that each version's archive records, where it is in the store."""
    from tsctl.archive.inspect import facts_of
    from tsctl.archive.store import find_archive
    from tsctl.cli.context import open_deployment
    from tsctl.errors import ArchiveError, SpecError

    project, deployment = open_deployment()
    if model not in deployment.models:
        raise SpecError(f"deployment.yaml has no model {model!r}", f"It has {', '.join(deployment.models) or 'none'}.")
    target, shares = deployment.models[model], {}
    for version in target.versions:
        try:
            facts = facts_of(find_archive(project, model, target.archive(version)).path)
        except ArchiveError:
            continue  # a node may serve what this store no longer has
        records = facts.config.get("serving", {}).get("records") or {}
        if isinstance(share := records.get("share"), int | float):
            shares[version] = float(share)
    return shares

"""`tsctl control`: the place that machines share, who runs what, and which gateways have what was published."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tsctl.cli.options import Json
from tsctl.cli.output import print_done, print_json, print_rows
from tsctl.config.project import find_project
from tsctl.control.here import shared_leases
from tsctl.control.lease import DamagedLease, Standing
from tsctl.control.leases import Leases
from tsctl.errors import GatewayError, SpecError, TsctlError

if TYPE_CHECKING:
    from tsctl.gateway.shared.presence import Presence

app = typer.Typer(rich_markup_mode=None)

_COLUMNS = ("lease", "holder", "since", "last sign", "state")
_STATES = {
    Standing.HELD: "held",
    Standing.SILENT: "held, or silent",
    Standing.FREE: "over",
}


@app.command()
def status(json: Json = False) -> None:
    """Show who holds what at the shared place, and which generation each of several gateways has.

    Times are by the clocks of the machines that wrote them. A process on another machine that is 'held, or silent' may
    be dead: 'tsctl rollout resume' watches it for 20 s, and goes on where it gives no sign of life. A gateway that
    gives no sign of life is watched for 6 s. What cannot be read does not hide the rest; then the exit code is 6 for a
    lease, 5 for gateways, or 2 for deployment.yaml.
    """
    leases = _leases()
    rows: list[dict[str, Any]] = []
    damaged: list[TsctlError] = []
    for subject in leases.subjects():
        try:
            watch, found = leases.look(subject)
        except DamagedLease as error:  # it must not hide the others
            damaged.append(error)
            continue
        term = watch.term
        if term is not None and not term.is_released:
            rows.append(
                {
                    "lease": subject,
                    "holder": term.holder.by,
                    "process": term.holder.pid,
                    "term": term.number,
                    "since": term.at,
                    "last_sign": term.sign_at,
                    "state": _STATES[found],
                }
            )
    gateways: Sequence[Presence] = ()
    try:
        gateways = _gateways()
    except (GatewayError, SpecError) as error:
        damaged.append(error)
    if json:
        print_json(
            {
                "place": leases.place.address,
                "leases": rows,
                "gateways": [gateway.as_json() for gateway in gateways],
                "damaged": [error.summary for error in damaged],
            }
        )
    else:
        _print_leases(leases.place.address, rows, has_more=any(isinstance(error, DamagedLease) for error in damaged))
        for gateway in gateways:
            typer.echo(gateway.line)
    for another in damaged[1:]:  # the first one is raised
        typer.echo(f"error: {another.summary}", err=True)
    if damaged:
        raise damaged[0]


def _print_leases(place: str, rows: Sequence[Mapping[str, Any]], has_more: bool) -> None:
    typer.echo(f"place: {place}")
    shown = [
        (
            row["lease"],
            f"{row['holder']} (process {row['process']})",
            _when(row["since"]),
            _when(row["last_sign"]),
            row["state"],
        )
        for row in rows
    ]
    if shown:
        print_rows(_COLUMNS, shown, as_json=False)
    elif not has_more:
        typer.echo("nobody holds anything")


@app.command()
def take(
    lease: Annotated[str, typer.Argument(metavar="LEASE", help="As 'tsctl control status' names it.")],
    json: Json = False,
) -> None:
    """Take a lease from its holder and release it, so that nobody has to wait for a machine that is surely dead.

    Also a lease whose objects are damaged, so that nobody knows its holder. If the holder is alive after all, it stops
    before its next change, and says who took over.
    """
    leases = _leases()
    if lease not in leases.subjects():
        names = ", ".join(leases.subjects()) or "none"
        raise SpecError(f"nobody ever held {lease}; there are {names}", "See 'tsctl control status'.")
    holder = ""
    try:
        before = leases.last(lease)
        holder = str(before.holder) if before is not None else ""
    except DamagedLease as error:
        typer.echo(error.summary, err=True)
    taken = leases.take(lease, force=True)
    taken.give_sign(is_last=True)
    by = holder or "a process whose object is damaged"
    print_done({"lease": lease, "from": holder, "term": taken.term.number}, [f"took {lease} from {by}"], json)


def _gateways() -> Sequence[Presence]:
    """The gateways of deployment.yaml; none where it has no several ones.

    Raises:
        SpecError: deployment.yaml has a mistake.
        GatewayError: what the gateways share is damaged.
    """
    from tsctl.config.deployment import read_deployment
    from tsctl.gateway.state import open_gateway

    project = find_project()
    deployment = read_deployment(project.deployment)
    shared = open_gateway(project, deployment).shared if deployment.gateways else None
    return () if shared is None else shared.presences(deployment.gateway_addresses)


def _leases() -> Leases:
    leases = shared_leases(find_project())
    if leases is None:
        raise SpecError(
            "deployment.yaml names no place that machines share",
            "Add 'control: ADDRESS'; docs/control.md says which places can be trusted.",
        )
    return leases


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))

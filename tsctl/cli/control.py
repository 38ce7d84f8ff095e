"""`tsctl control`: the place that operators' machines share, and who runs what."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from tsctl.cli.options import Json
from tsctl.cli.output import print_done, print_json, print_rows
from tsctl.config.project import find_project
from tsctl.control.here import shared_leases
from tsctl.control.lease import DamagedLease, Standing
from tsctl.control.leases import Leases
from tsctl.errors import SpecError

app = typer.Typer(rich_markup_mode=None)

_COLUMNS = ("lease", "holder", "since", "last sign", "state")
_STATES = {
    Standing.HELD: "held",
    Standing.SILENT: "held, or silent",
    Standing.FREE: "over",
}


@app.command()
def status(json: Json = False) -> None:
    """Show who holds what at the shared place: the rollouts' processes, on whatever machine.

    Times are by the clocks of the machines that wrote them. A process on another machine that is 'held, or silent' may
    be dead: 'tsctl rollout resume' watches it for 20 s, and goes on where it gives no sign of life. Exit code 6 if a
    lease is damaged; the others are shown.
    """
    leases = _leases()
    rows: list[dict[str, Any]] = []
    damaged: list[DamagedLease] = []
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
    if json:
        print_json({"place": leases.place.address, "leases": rows, "damaged": [error.summary for error in damaged]})
    else:
        _print_leases(leases.place.address, rows, has_more=bool(damaged))
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

    If its holder is alive after all, it stops before its next change, and says who took over.
    """
    leases = _leases()
    if lease not in leases.subjects():
        names = ", ".join(leases.subjects()) or "none"
        raise SpecError(f"nobody ever held {lease}; there are {names}", "See 'tsctl control status'.")
    before = leases.last(lease)
    taken = leases.take(lease, force=True)
    taken.give_sign(is_last=True)
    holder = str(before.holder) if before is not None else ""
    print_done({"lease": lease, "from": holder, "term": taken.term.number}, [f"took {lease} from {holder}"], json)


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

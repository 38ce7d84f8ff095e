"""`tsctl keys`: clients of the gateway, and their budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tsctl.cli.context import absent_json, open_gateway_here, say_absent
from tsctl.cli.options import Json
from tsctl.cli.output import print_done, print_rows
from tsctl.config.deployment import MOST_TOKENS
from tsctl.errors import GatewayError, SpecError
from tsctl.gateway import change, keys
from tsctl.gateway.headers import KEY_HEADER
from tsctl.gateway.shared.control import describe
from tsctl.gateway.state import keys_written
from tsctl.host.files import new_secret

app = typer.Typer(rich_markup_mode=None)


@app.command()
def add(
    client: Annotated[str, typer.Argument(metavar="CLIENT")],
    requests_per_s: Annotated[int | None, typer.Option(min=1, help="Default: the gateway's own budget.")] = None,
    burst: Annotated[int | None, typer.Option(min=1, help="Requests at once. Default: those of one second.")] = None,
    tokens_per_minute: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_TOKENS, help="Of language models. Default: the gateway's own budget."),
    ] = None,
    header_file: Annotated[
        Path | None, typer.Option(help="Write the header to this file, for curl -H @FILE, and do not print the key.")
    ] = None,
    json: Json = False,
) -> None:
    """Give a client one more key. It is printed only now, and in force when the command returns."""
    key = keys.new_key()
    record = keys.record_of(key, client, requests_per_s, burst, tokens_per_minute)

    gateway = open_gateway_here()

    def put_in_force() -> None:
        change.set_clients(gateway, lambda records: keys.added(records, record), {record.sha256: key})

    if header_file is None:
        put_in_force()
        document = {"id": record.id, "client": client, "key": key, "header_file": None, **absent_json(gateway)}
        print_done(document, [key], json)
        return say_absent(gateway)
    try:
        with new_secret(header_file, f"{KEY_HEADER}: {key}\n"):
            put_in_force()
    except OSError as error:
        raise SpecError(f"--header-file {header_file} cannot be written: {error.strerror}") from None
    document = {"id": record.id, "client": client, "key": None, "header_file": str(header_file), **absent_json(gateway)}
    print_done(document, [f"key {record.id} of {client} is in {header_file}"], json)
    say_absent(gateway)


@app.command("list")
def list_keys(json: Json = False) -> None:
    """List keys by their ids, never the keys themselves."""
    records, plain = keys_written(open_gateway_here())
    columns = ("id", "client", "created", "requests/s", "burst", "tokens/min", "in force")
    rows: list[tuple[object, ...]] = [
        (
            record.id,
            record.client,
            record.created,
            record.requests_per_s,
            record.burst,
            record.tokens_per_minute,
            record.sha256 in plain,
        )
        for record in records
    ]
    if not json:
        rows = [(*row[:-1], "yes" if row[-1] else "no, issue a new one") for row in rows]
    print_rows(columns, rows, json)


@app.command()
def revoke(name: Annotated[str, typer.Argument(metavar="ID|CLIENT")], json: Json = False) -> None:
    """Revoke one key, or all keys of a client; none of them is in force when the command returns."""
    gone: list[keys.Record] = []

    def edited(records: list[keys.Record]) -> list[keys.Record]:
        kept = keys.revoked(records, name)
        gone[:] = [record for record in records if record not in kept]
        return kept

    gateway = open_gateway_here()
    change.set_clients(gateway, edited, {})
    document = {"revoked": [{"id": record.id, "client": record.client} for record in gone], **absent_json(gateway)}
    if gateway.shared is not None and gateway.shared.absent:
        names = "\n".join(describe(gateway.shared.absent))
        raise GatewayError(
            f"{name} is revoked, and may still be in force where it could not be taken away:\n{names}",
            "Stop that gateway, or keep its clients away, until it reports again.",
            document,
        )
    print_done(document, [f"{name} is revoked"], json)

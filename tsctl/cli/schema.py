"""`tsctl schema`: the JSON Schema and the reference of the files that people write."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from tsctl.cli.options import Json


def schema(
    file: Annotated[Literal["archive", "deployment"], typer.Argument(metavar="archive|deployment")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the reference of all keys as Markdown.")] = False,
    json: Json = False,
) -> None:
    """Print the JSON Schema of archive.yaml or deployment.yaml, for editors and other tools.

    It is JSON with and without --json.
    """
    from tsctl.cli.output import print_json
    from tsctl.config.schema import json_schema
    from tsctl.errors import SpecError
    from tsctl.views.reference import reference

    if markdown and json:
        raise SpecError("--markdown and --json contradict each other", "Give one of the two.")
    if markdown:
        return typer.echo(reference(file), nl=False)
    print_json(json_schema(file))

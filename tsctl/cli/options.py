"""The arguments and options that several commands take; imported by every command, so it stays light."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[str, typer.Argument(metavar="MODEL")]
Version = Annotated[str, typer.Argument(metavar="VERSION")]
NodeOption = Annotated[str | None, typer.Option("--node", help="Node of deployment.yaml; the only one if left out.")]
AllNodes = Annotated[
    bool, typer.Option("--all-nodes", help="Every node of deployment.yaml, all at once; exit code 4 if one failed.")
]
TrustPickles = Annotated[
    bool, typer.Option("--trust-pickles", help="Take pickles that import more than tensors as a warning.")
]

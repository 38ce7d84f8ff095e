"""The arguments and options that several commands take; imported by every command, so it stays light."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[str, typer.Argument(metavar="MODEL")]
Version = Annotated[str, typer.Argument(metavar="VERSION")]
NodeOption = Annotated[str | None, typer.Option("--node", help="Node of deployment.yaml; the only one if left out.")]
AllNodes = Annotated[
    bool, typer.Option("--all-nodes", help="Every node of deployment.yaml, all at once; exit code 4 if one failed.")
]
Every = Annotated[
    float | None,
    typer.Option("--every", min=1, max=31_536_000, help="Seconds after which to do it again, until Ctrl-C."),
]
TrustPickles = Annotated[
    bool, typer.Option("--trust-pickles", help="Take pickles that import more than tensors as a warning.")
]


def repeated(every: float | None) -> Iterator[None]:
    """Once; with a number of `--every`, again and again with so many seconds between."""
    yield
    while every is not None:
        time.sleep(every)
        yield

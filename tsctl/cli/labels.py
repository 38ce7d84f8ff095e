"""`tsctl labels`: labels that come after the predictions, and what they say of each version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tsctl.cli.options import Json
from tsctl.cli.output import plural, print_done, print_json, print_table
from tsctl.cli.records import ModelName, Node, Source, places
from tsctl.config.project import find_project
from tsctl.records import labels
from tsctl.records.labels import Quality, Share
from tsctl.records.places import labels_folder

app = typer.Typer(rich_markup_mode=None)


@app.command()
def add(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="CSV, Parquet or .jsonl with the columns request_id and label.")
    ],
    json: Json = False,
) -> None:
    """Keep the labels of requests; a later label of the same request replaces the earlier one."""
    added = labels.add(_folder(), file)
    print_done({"added": added}, [f"{plural(added, 'label')} added"], json)


@app.command()
def report(model: ModelName = None, node: Node = None, source: Source = None, as_json: Json = False) -> None:
    """Show accuracy, calibration and confusion by version, with intervals of 95 %."""
    found = labels.qualities(_folder(), places(node, source), model)
    if as_json:
        print_json([_document(quality) for quality in found])
        return
    accuracy = [
        (each.model, each.version, each.right.of, *_share(each.right), _rounded(each.calibration_error))
        for each in found
    ]
    print_table(("model", "version", "labelled", "accuracy", "from", "to", "calibration error"), accuracy)
    typer.echo()
    bins = [
        (each.model, each.version, round(one.confidence, 4), one.right.of, *_share(one.right))
        for each in found
        for one in each.bins
    ]
    print_table(("model", "version", "confidence", "labelled", "accuracy", "from", "to"), bins)
    typer.echo()
    cells = [(each.model, each.version, *cell) for each in found for cell in each.confusion]
    print_table(("model", "version", "label", "predicted", "items"), cells)


def _folder() -> Path:
    return labels_folder(find_project())


def _document(quality: Quality) -> dict[str, Any]:
    return {
        "model": quality.model,
        "version": quality.version,
        "labelled": quality.right.of,
        "accuracy": quality.right.value,
        "interval": quality.right.interval,
        "calibration_error": quality.calibration_error,
        "bins": [
            {"confidence": each.confidence, "labelled": each.right.of, "accuracy": each.right.value,
             "interval": each.right.interval}
            for each in quality.bins
        ],
        "confusion": [
            {"label": label, "predicted": predicted, "items": items} for label, predicted, items in quality.confusion
        ],
    }  # fmt: skip


def _share(share: Share) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in (share.value, *share.interval))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)

"""`tsctl labels`: labels that come after the predictions, and what they say of each version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tsctl.cli.options import Json
from tsctl.cli.output import plural, print_done, print_json, print_table
from tsctl.cli.records import ModelName, Node, Source, places
from tsctl.config.project import find_project
from tsctl.errors import AnalysisError, TsctlError
from tsctl.records import labels
from tsctl.records.labels import Quality, Share
from tsctl.records.places import labels_folder

app = typer.Typer(rich_markup_mode=None)


@app.command()
def add(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="CSV, Parquet or .jsonl with the columns request_id and label.")
    ],
    node: Node = None,
    source: Source = None,
    json: Json = False,
) -> None:
    """Keep the labels of requests; a later label of the same request replaces the earlier one.

    Says how many belong to a recorded request.
    """
    folder = _folder()
    added = labels.add(folder, file)
    lines = [f"{plural(added, 'label')} added"]
    document: dict[str, Any] = {"added": added, "matched": None, "unpredicted": []}
    try:
        matched = labels.match(folder, places(node, source))
    except TsctlError as error:
        typer.echo(f"the labels are kept; whether records have them is not known: {error.message}", err=True)
    else:
        document |= {"matched": matched.items, "unpredicted": list(matched.unpredicted)}
        lines[0] += f", {matched.items} of them of recorded requests"
        if matched.unpredicted:
            names = ", ".join(map(repr, matched.unpredicted))
            lines.append(f"no record has the class {names}: a label counts as right only if it is equal, as text")
    print_done(document, lines, json)


@app.command()
def report(model: ModelName = None, node: Node = None, source: Source = None, as_json: Json = False) -> None:
    """Show accuracy, calibration and confusion by version, with intervals of 95 %."""
    found = labels.qualities(_folder(), places(node, source), model)
    if not found:
        whose = f"of {model} " if model else ""
        raise AnalysisError(
            f"no label belongs to a recorded prediction {whose}with a class",
            "Labels are joined by request_id and row. See which models have records: tsctl records stats",
        )
    if as_json:
        print_json([_document(quality) for quality in found])
        return
    accuracy = [
        (each.model, each.version, each.right.of, *_share(each.right), _rounded(each.calibration_error))
        for each in found
    ]
    print_table(("model", "version", "labelled", "accuracy", "from", "to", "calibration error"), accuracy)
    for each in found:
        if each.without_confidence:
            typer.echo(
                f"{each.model} {each.version}: no calibration, because {each.without_confidence} of {each.right.of}"
                " predictions have no confidence between 0 and 1"
            )
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
        "without_confidence": quality.without_confidence,
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

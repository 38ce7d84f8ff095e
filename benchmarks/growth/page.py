"""Writes what `docs/benchmarks.md` shows of growth from the JSON of a run: the plots, and the table between two marks.

The same JSON always gives the same files, and a test compares them with those in the checkout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.growth.curves import Growth, growths_of, plots_of
from benchmarks.growth.draw import draw
from benchmarks.growth.table import FIT_COLUMNS, fit_rows
from tsctl.errors import SpecError

BEGIN, END = "<!-- growth: made by `python -m benchmarks growth --draw` -->", "<!-- end of growth -->"
#: Below docs/.
PLOTS, DOCUMENT, PAGE = "plots", "plots/growth.json", "benchmarks.md"


def read(first: Path, *more: Path) -> dict[str, Any]:
    """The document of a run, with the axes of further ones, which take the place of its own.

    Raises:
        SpecError: there is none.
    """
    document, *others = [_read(path) for path in (first, *more)]
    axes = {
        axis["key"]: {"commit": each["machine"]["commit"], "load": each["machine"]["load_before"], **axis}
        for each in (document, *others)
        for axis in each["workloads"]
    }
    return {**document, "workloads": list(axes.values())}


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} is no JSON of a run: {error}", "Make one: make bench-growth") from None
    return content


def files(document: Mapping[str, Any]) -> dict[str, str]:
    """The plots, by their path below docs/."""
    return {
        f"{PLOTS}/{_name(growth, plot)}.svg": draw(f"{plot} over {growth.x}", growth.x, curves)
        for growth in growths_of(document)
        for plot, curves in plots_of(growth).items()
    }


def section(document: Mapping[str, Any]) -> str:
    """What stands between the marks: where and how it was measured, each axis with its plots, and the fits."""
    growths = growths_of(document)
    machine = document["machine"]
    lines = [
        BEGIN,
        f"Measured with `make bench-growth` on {machine['cores']} cores ({machine['processor']},"
        f" {machine['memory_gib']} GiB). Commit, and load of the machine before: "
        + "; ".join(f"{axis['key']} `{axis['commit']}`, {axis['load']}" for axis in document["workloads"])
        + ".",
        "",
        *_markdown(("axis", "figure", "value", "goal"), [_figure_row(g, f) for g in growths for f in g.figures]),
        "",
        *_markdown(FIT_COLUMNS, fit_rows(growths)),
    ]
    for growth in growths:
        lines += ["", f"### Growth with {growth.x}", ""]
        lines += [f"![{plot} over {growth.x}]({PLOTS}/{_name(growth, plot)}.svg)" for plot in plots_of(growth)]
        lines += ["", *(f"- {note}" for note in growth.notes)] if growth.notes else []
    return "\n".join([*lines, END])


def page(text: str, document: Mapping[str, Any]) -> str:
    """The page with what is between the marks made anew.

    Raises:
        SpecError: it has no marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SpecError(f"docs/{PAGE} lacks {BEGIN} or {END}", "Add both, each on a line of its own.")
    return before + section(document) + after


def write(docs: Path, document: Mapping[str, Any]) -> list[Path]:
    """The files below docs/ are those of the document; the paths that were written."""
    contents = {
        **files(document),
        PAGE: page((docs / PAGE).read_text(encoding="utf-8"), document),
        DOCUMENT: json.dumps(document, indent=1) + "\n",
    }
    for stale in (docs / PLOTS).glob("*.svg"):
        if f"{PLOTS}/{stale.name}" not in contents:
            stale.unlink()
    for name, content in contents.items():
        (docs / name).parent.mkdir(parents=True, exist_ok=True)
        (docs / name).write_text(content, encoding="utf-8")
    return [docs / name for name in contents]


def _name(growth: Growth, plot: str) -> str:
    return f"{growth.key}-{plot.replace('/', ' a ').replace(' ', '-')}"


def _figure_row(growth: Growth, figure: Any) -> list[str | None]:
    value = "-" if figure.value is None else f"{figure.value:.3g} {figure.unit}"
    return [growth.key, figure.name, value, str(figure.goal) if figure.goal else None]


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str | None]]) -> list[str]:
    if not rows:
        return []
    lines = [list(columns), ["---"] * len(columns), *([cell or "" for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]

"""The lists of docs/architecture.md that a newcomer reads: a request's path and a rollout's stay short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("title", "files", "lines"),
    [
        ("A request", 9, 1500),
        ("A rollout", 14, 2500),
    ],
)
def test_a_path_is_read_in_few_files_and_lines(title: str, files: int, lines: int) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    part = page[page.index(f"**{title}**") :]
    steps = re.findall(r"^(?:\d\. |   ).+$", part[: part.index("\n**")].partition("\n|")[0], re.MULTILINE)
    named = re.findall(r"`([a-z_/]+\.py)`", "\n".join(steps))
    assert len(steps) >= 5
    assert len(named) == len(set(named)) == files == int(re.search(r"is (\d+) files", part)[1])  # type: ignore[index]
    assert sum(len((ROOT / name).read_text().splitlines()) for name in named) <= lines

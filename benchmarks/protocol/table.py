"""The answers of several servers as text for docs/oip.md, and back. Pure.

Questions that all servers answer alike are in one sentence; each other question is a row of the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

#: Begins the sentence that names the questions without a difference.
EQUAL = "Equal on all: "
_SEPARATOR = "; "


def markdown(answers: Mapping[str, Mapping[str, str]]) -> str:
    """Sentence and table.

    Args:
        answers: by server and question; all servers have the same questions.
    """
    servers = list(answers)
    questions = list(answers[servers[0]])
    rows = {title: [answers[server][title] for server in servers] for title in questions}
    equal = [title for title, cells in rows.items() if len(set(cells)) == 1]
    lines = [f"{EQUAL}{_SEPARATOR.join(equal)}.", "", _line("", *servers), "|" + "---|" * (len(servers) + 1)]
    return "\n".join([*lines, *(_line(title, *cells) for title, cells in rows.items() if title not in equal)])


def read_rows(text: str) -> dict[str, dict[str, str]]:
    """The table in a text: cells by question and server."""
    table = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    servers = [cell.strip() for cell in table[0]]
    return {cells[0]: dict(zip(servers, cells[1:], strict=True)) for cells in table[1:]}


def read_equal(text: str) -> list[str]:
    """The questions in the sentence."""
    return [
        title for line in _sentences(text) for title in line.removeprefix(EQUAL).removesuffix(".").split(_SEPARATOR)
    ]


def _sentences(text: str) -> Iterator[str]:
    """Paragraphs that begin with EQUAL, each as one line."""
    for paragraph in text.split("\n\n"):
        if paragraph.startswith(EQUAL):
            yield " ".join(paragraph.split())


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"

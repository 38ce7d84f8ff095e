"""Reads README.md as a session: files that a reader writes, and commands with the output that is shown for them.

A fence ```` ```LANGUAGE PATH ```` is a file with that path. A fence ```` ```console ```` holds commands, each after
`$ `, and continued on the next line where it ends with a backslash; the lines below a command are its output.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_FENCE = re.compile(r"^```(?P<language>\w*)(?: (?P<path>\S+))?$")
#: What differs from run to run: seconds, milliseconds and pids stand for any number, gaps between columns for any gap.
_VARYING = re.compile(r"\b\d+(?:\.\d+)?(?= (?:s|ms)\b)|(?<=pid )\d+|(?P<gap> {2,})")


@dataclass(frozen=True)
class FileStep:
    """A file that the reader writes."""

    line: int
    path: str
    content: str


@dataclass(frozen=True)
class CommandStep:
    """A command that the reader types."""

    line: int
    command: str
    output: str | None  # None: none is shown, and any will do


Step = FileStep | CommandStep


def parse_readme(text: str) -> list[Step]:
    """All steps, in the order of the page.

    Raises:
        ValueError: a fence is not closed, or a console fence begins with something that is not a command.
    """
    steps: list[Step] = []
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        number += 1
        if fence is None:
            continue
        begin = number
        while number < len(lines) and lines[number] != "```":
            number += 1
        if number == len(lines):
            raise ValueError(f"line {begin}: this fence is not closed")
        body = lines[begin:number]
        number += 1
        if fence["path"]:
            steps.append(FileStep(begin + 1, fence["path"], "\n".join(body) + "\n"))
        elif fence["language"] == "console":
            steps += _commands(body, begin + 1)
    return steps


def _commands(body: list[str], first_line: int) -> list[CommandStep]:
    commands: list[tuple[int, list[str], list[str]]] = []
    for line, text in enumerate(body, first_line):
        if text.startswith("$ "):
            commands.append((line, [text[2:]], []))
        elif not commands:
            raise ValueError(f"line {line}: a console fence begins with '$ ' and a command, found {text!r}")
        elif commands[-1][1][-1].endswith("\\") and not commands[-1][2]:
            commands[-1][1].append(text)
        else:
            commands[-1][2].append(text)
    return [CommandStep(line, "\n".join(words), "\n".join(out) or None) for line, words, out in commands]


def section_lines(text: str, title: str) -> range:
    """The numbers of the lines of a section with this title, from 1."""
    lines = text.splitlines()
    first = lines.index(f"## {title}")
    last = next((place for place in range(first + 1, len(lines)) if lines[place].startswith("## ")), len(lines))
    return range(first + 1, last + 1)


def substitute(text: str, ports: Mapping[int, int]) -> str:
    """The text with each port of the README replaced by the one that is used in its place."""
    return re.sub(r"\b\d{4}\b", lambda match: str(ports.get(int(match[0]), match[0])), text)


def matches(shown: str, printed: str) -> bool:
    """Whether a command printed what is shown for it.

    `...` alone on a line stands for any number of lines, and within a line for any text; trailing blanks, the width of
    columns, seconds and pids are not compared.
    """
    pattern = ""
    for line in shown.strip().splitlines():
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
            continue
        parts = (_pattern(part) for part in line.rstrip().split("..."))
        pattern += ".*".join(parts) + r"[ \t]*\n"
    return re.fullmatch(pattern, printed.strip() + "\n") is not None


def _pattern(text: str) -> str:
    pattern, end = "", 0
    for match in _VARYING.finditer(text):
        pattern += re.escape(text[end : match.start()]) + (" {2,}" if match["gap"] else r"\d+(?:\.\d+)?")
        end = match.end()
    return pattern + re.escape(text[end:])

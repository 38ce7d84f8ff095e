"""The commands of docs/pickles-packages-secrets.md, typed as they stand there."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from tests.support.commands import run_command
from tests.support.wheels import pip_variables, write_wheel

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pickles-packages-secrets.md"
BLOCK = re.compile(r"^```(?P<kind>[a-z]+)(?P<name>[^\n]*)\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL)
WORD = "def word(is_good):\n    return 'pass' if is_good else 'fail'\n"


def test_the_page_is_true(tmp_path: Path) -> None:
    write_wheel(tmp_path / "wheels", "gradewords", "1.0", WORD)
    root = tmp_path / "project"
    root.mkdir()
    environment = {**os.environ, **pip_variables(tmp_path / "wheels"), "TSCTL_PROJECT": str(root)}
    digest = ""
    for block in BLOCK.finditer(PAGE.read_text()):
        name, content = block["name"].strip(), block["content"]
        if block["kind"] != "console":
            path = root / name.removesuffix(" +")
            path.parent.mkdir(parents=True, exist_ok=True)
            before = path.read_text() if name.endswith(" +") else ""
            path.write_text(before + content.replace("DIGEST", digest))
            continue
        for command, expected in re.findall(r"^\$ (.*)\n((?:[^$\n].*\n)*)", content, re.MULTILINE):
            words = shlex.split(command)
            if words[0] == "export":
                environment |= dict([words[1].split("=", 1)])
                continue
            ended = run_command(words[1:], root, environment, 150)
            printed = f"{ended.out}\n{ended.err}"
            if found := re.search(r"@sha256:([0-9a-f]{64})", printed):
                digest = found[1]
            for line in expected.splitlines():
                shown = line.replace("DIGEST", digest)
                assert " ".join(shown.split()) in " ".join(printed.split()), f"{command}:\n{printed}"
            assert ended.status == (3 if expected.startswith("error") else 0), f"{command}:\n{printed}"
    assert digest

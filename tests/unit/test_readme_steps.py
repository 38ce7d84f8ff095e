"""How README.md is read as a session, and that the page keeps its promises that need no node."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from tests.support.readme import CommandStep, FileStep, matches, parse_readme, substitute
from tsctl.config.archive import ArchiveSpec
from tsctl.config.deployment import DeploymentSpec, read_deployment

CHECKOUT = Path(__file__).resolve().parents[2]
README = CHECKOUT / "README.md"

PAGE = """\
# Title
```console
$ make up
digits 1.0

ready
$ curl -H a \\
  http://127.0.0.1:8080
$ true
```
```
$ not a command
```
```yaml archives/a/archive.yaml
model: a
```
"""


def test_commands_and_files_come_in_the_order_of_the_page() -> None:
    assert parse_readme(PAGE) == [
        CommandStep(3, "make up", "digits 1.0\n\nready"),
        CommandStep(7, "curl -H a \\\n  http://127.0.0.1:8080", None),
        CommandStep(9, "true", None),
        FileStep(15, "archives/a/archive.yaml", "model: a\n"),
    ]


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("```console\n$ make\n", "line 1: this fence is not closed"),
        ("text\n```console\nmake\n```\n", "line 3: a console fence begins with '\\$ ' and a command, found 'make'"),
    ],
)
def test_a_page_that_cannot_be_read_is_refused(page: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_readme(page)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("ready", "ready\n"),
        ("ready", "ready  \n\n"),
        ("starting node local  pid 4711, 1.4 s", "starting node local  pid 12, 15 s\n"),
        ('  200 {"label": 7, ...}', '  200 {"label": 7, "probabilities": [0.1]}\n'),
        ("starting  done  1.4 s", "starting          done  0.2 s\n"),
        ("...\nready", "one\ntwo\nready\n"),
        ("...\nready", "ready\n"),
        ("ready\n...", "ready\n"),
        ("first\n...\nlast", "first\n\nlast\n"),
        ("a+b (c)", "a+b (c)"),
    ],
)
def test_output_matches(shown: str, printed: str) -> None:
    assert matches(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("ready", "not ready\n"),
        ("ready", "ready\nand more\n"),
        ("ready\n...\nlast", "ready\n"),
        ("version 1.0", "version 2.0"),
        ("first ... last", "first\nlast"),
        ("a.c", "abc"),
        ("two words", "two  words"),
    ],
)
def test_other_output_does_not_match(shown: str, printed: str) -> None:
    assert not matches(shown, printed)


def test_ports_are_replaced_where_they_stand_alone() -> None:
    text = "curl http://127.0.0.1:8080/predictions/x 18080 80801"
    assert substitute(text, {8080: 51000}) == "curl http://127.0.0.1:51000/predictions/x 18080 80801"


# ---- the page itself ---------------------------------------------------------------------------------------------


def test_the_first_screen_is_a_sentence_a_session_a_diagram_and_figures() -> None:
    page = README.read_text(encoding="utf-8")
    title, sentence, *_ = [part for part in page.split("\n\n") if part]
    assert title == "# tsctl"
    assert sentence.count(". ") == 0
    assert sentence.endswith(".")
    first_part = page.split("\n## ")[0]
    assert first_part.index("```console") < first_part.index("```text") < first_part.index("| what |")


def test_every_file_of_the_page_is_what_its_name_says() -> None:
    files = [step for step in parse_readme(README.read_text(encoding="utf-8")) if isinstance(step, FileStep)]
    assert files
    for step in files:
        assert not (CHECKOUT / step.path).exists(), "the page must not overwrite a file of the checkout"
        if step.path.endswith(".py"):
            ast.parse(step.content)
        elif step.path.endswith("archive.yaml"):
            ArchiveSpec.model_validate(yaml.safe_load(step.content))


def test_the_session_stops_what_it_starts() -> None:
    commands = [s.command for s in parse_readme(README.read_text(encoding="utf-8")) if isinstance(s, CommandStep)]
    assert "make up" in commands
    assert commands[-1] == "make down"


def test_links_lead_to_files_of_the_checkout() -> None:
    for page in [README, *CHECKOUT.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_layout_names_what_is_there() -> None:
    layout = README.read_text(encoding="utf-8").partition("## Layout")[2].partition("```text\n")[2].partition("```")[0]
    named = {line.split()[0] for line in layout.splitlines() if line and not line.startswith(" ")}
    missing = {name for name in named if not (CHECKOUT / name).exists()}
    assert not missing


def test_ports_of_the_page_are_those_of_the_deployment() -> None:
    spec: DeploymentSpec = read_deployment(CHECKOUT / "deployment.yaml")
    node = spec.nodes["local"]
    assert {*node.listens_on} == {8080, 8081, 8082, 7070, 7071}
    assert spec.gateway is not None
    assert [port for _, port in spec.gateway.listens_on_all.values()] == [8000, 8003]

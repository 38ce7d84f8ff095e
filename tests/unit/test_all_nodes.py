"""--all-nodes and --node contradict each other: a command that gets both does nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tsctl.cli import models
from tsctl.cli.context import select_nodes
from tsctl.errors import SpecError

NODES = """
nodes:
  b: {}
  a: {inference: "http://10.0.0.2:8080", management: "http://10.0.0.2:8081", metrics: "http://10.0.0.2:8082"}
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deployment.yaml").write_text(NODES)
    monkeypatch.setenv("TSCTL_PROJECT", str(tmp_path))


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (models.list_models, ()),
        (models.register, ("digits:1.0",)),
        (models.scale, ("digits", "1.0", 2)),
        (models.set_default, ("digits", "1.0")),
        (models.unregister, ("digits", "1.0")),
    ],
)
def test_one_and_all_contradict_each_other(command: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    with pytest.raises(SpecError, match="--all-nodes and --node a contradict each other"):
        command(*arguments, node="a", all_nodes=True)


def test_one_of_several_nodes_must_be_named_and_the_hint_names_all_nodes() -> None:
    with pytest.raises(SpecError, match="several nodes: b, a") as caught:
        models.set_default("digits", "1.0")
    assert "--all-nodes" in caught.value.hint


def test_all_are_opened_in_the_order_of_the_file() -> None:
    assert [node.name for node in select_nodes(None, all_nodes=True)[2]] == ["b", "a"]

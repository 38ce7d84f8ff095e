"""An archive may come to another machine after TorchServe there was asked to register it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from tsctl.archive.store import StoredArchive
from tsctl.nodes.torchserve import versions
from tsctl.nodes.torchserve.client import ManagementError
from tsctl.nodes.torchserve.node import Node

ARCHIVE = StoredArchive(Path("toy-1.0-0123456789ab.mar"), "toy", "1.0", "0123456789ab")
STORE = "nodes: {a: {}}\nstore: /srv/archives\n"


@dataclass
class Client:
    """TorchServe, to which the archive comes after some requests."""

    missing: int
    registered: list[str] = field(default_factory=list)

    def register(self, archive: str, workers: int) -> None:
        if self.missing:
            self.missing -= 1
            raise ManagementError(f"Model not found at: {archive}", 404, "ModelNotFoundException")
        self.registered.append(archive)

    def describe(self, model: str, version: str) -> list[Any]:
        return []


@dataclass
class Remote:
    """What is asked of a node here."""

    client: Client
    folder: Path
    is_here: bool = False
    name: str = "far"


def ask(tmp_path: Path, client: Client, is_here: bool = False, deployment: str = STORE) -> list[str]:
    """The notes of a registration."""
    (tmp_path / "deployment.yaml").write_text(deployment)
    notes: list[str] = []
    node = cast("Node", Remote(client, tmp_path / ".tsctl" / "nodes" / "far", is_here))
    versions._ask_to_register(node, ARCHIVE, 1, notes.append, None)
    return notes


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "ARRIVAL_POLL_S", 0.001)


def test_a_registration_waits_until_the_archive_was_pulled_there(tmp_path: Path) -> None:
    client = Client(missing=3)
    notes = ask(tmp_path, client)
    assert client.registered == [ARCHIVE.path.name]
    assert notes == [f"waiting until {ARCHIVE.path.name} was pulled where the node is"] * 3


@pytest.mark.parametrize(
    ("is_here", "deployment", "limit_s"),
    [(True, STORE, 300.0), (False, "nodes: {a: {}}\n", 300.0), (False, STORE, 0.0)],
)
def test_it_does_not_wait_where_nothing_may_come(
    is_here: bool, deployment: str, limit_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "ARRIVAL_S", limit_s)
    client = Client(missing=100)
    with pytest.raises(ManagementError) as raised:
        ask(tmp_path, client, is_here, deployment)
    assert client.missing >= 98
    assert ("There: tsctl archive pull toy:1.0@0123456789ab" in raised.value.hint) is not is_here

"""Triton's supervisor, tick by tick, without Triton: trouble with one version keeps no other from being served."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import pytest

from tsctl.host.files import write_document
from tsctl.nodes.triton.client import READY, Client, Refused
from tsctl.nodes.triton.process import Paths
from tsctl.nodes.triton.repository import Repository, Served
from tsctl.nodes.triton.supervisor import Supervisor


class Triton(Client):
    """A Triton that loads everything but what it refuses."""

    def __init__(self, refused: str = "") -> None:
        super().__init__("http://127.0.0.1:1", 1.0)
        self.refused = refused
        self.loaded: list[str] = []

    def states(self) -> dict[str, str]:
        return {"a~1": READY, "b~1": READY}

    def load(self, name: str, timeout_s: float) -> None:
        self.loaded.append(name)
        if name == self.refused:
            raise Refused(f"{name}: Triton answered 400: no\nmore", "no")


class Watched(Supervisor):
    """A supervisor all of whose workers have died."""

    def live(self) -> Mapping[str, Mapping[int, int]]:
        return {}


def served(model: str) -> Served:
    return Served(model, "1", f"{model}-1-0123456789ab.mar", (1,), 30, 4, 1)


def supervisor(folder: Path, triton: Triton, *with_files: str) -> Watched:
    """One that looks after a and b, each with a record; only some have their files."""
    paths = Paths(folder)
    repository = Repository(paths.repository)
    for model in ("a", "b"):
        repository.records.mkdir(exist_ok=True)
        write_document(repository.records / f"{model}~1.json", asdict(served(model)))
        if model in with_files:
            (paths.repository / f"{model}~1").mkdir(parents=True)
    return Watched(paths, triton)


def test_a_version_whose_files_cannot_be_written_keeps_no_other_from_its_workers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    triton = Triton()
    watched = supervisor(tmp_path, triton, "b")
    for _ in range(2):
        watched.tick()
    assert triton.loaded == ["b~1"]
    assert [served.numbers for served in Repository(tmp_path / "repository").served()] == [(1,), (2,)]
    caplog.clear()
    with caplog.at_level(logging.ERROR):
        for _ in range(20):
            watched.tick()
    assert not [record for record in caplog.records if "a 1" in record.getMessage()], "it is tried again after a pause"


def test_a_version_that_does_not_load_is_tried_again_after_longer_and_longer_pauses(tmp_path: Path) -> None:
    triton = Triton(refused="a~1")
    watched = supervisor(tmp_path, triton, "a", "b")
    for _ in range(20):
        watched.tick()
    assert triton.loaded.count("a~1") == 1
    assert Repository(tmp_path / "repository").served()[0].failure == "a~1: Triton answered 400: no"

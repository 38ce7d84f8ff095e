"""An archive carries what its own handler recorded of the reference data: the same bytes each time, or an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from handlers.cache.keys import canonical
from handlers.messages import Request
from handlers.records.record import Batch, Recording, Sampled
from tests.support.workers import Worker
from tsctl.archive.build import Built, build_version, with_digests
from tsctl.archive.checks import content_checks
from tsctl.archive.container import MANIFEST, REFERENCE, open_archive
from tsctl.archive.inspect import read_facts, read_references
from tsctl.archive.store import find_archive, write_archive
from tsctl.archive.verify import verify
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project
from tsctl.drift.features import values_of
from tsctl.drift.reference import Reference, count
from tsctl.errors import ArchiveError

CHECKOUT = Path(__file__).resolve().parents[2]
HANDLER = """
import torch

from handlers.base import ServingHandler
from handlers.schema import Schema


class Toy(ServingHandler):
    class Request(Schema):
        x: float

    def load(self):
        pass

    def preprocess(self, items):
        return torch.tensor([item.x for item in items])

    def inference(self, inputs):
        return inputs * 2

    def postprocess(self, outputs):
        return [{"y": value} for value in outputs.tolist()]

    def classify(self, answer):
        return "high" if answer["y"] > 100 else "low"
"""
RECIPE = """
import argparse, json, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--version")
parser.add_argument("--settings")
parser.add_argument("--out", type=pathlib.Path)
out = parser.parse_args().out
(out / "model.safetensors").write_bytes(b"weights")
(out / "data").mkdir()
(out / "data" / "rows.jsonl").write_text("".join(json.dumps({"x": n}) + "\\n" for n in range(80)))
(out / "data" / "one.json").write_text('{"x": 1000}')
"""


class Toy:
    """A project with one archive whose reference is a file of 100 rows."""

    def __init__(self, root: Path) -> None:
        self.project = Project(root)
        self.folder = root / "archives" / "toy"
        for name in ("samples", "golden"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "handler.py").write_text(HANDLER)
        (self.folder / "weights.bin").write_bytes(b"weights")
        (self.folder / "samples" / "one.json").write_text('{"x": 1}')
        (self.folder / "golden" / "1.0.json").write_text('{"one.json": {"y": 2.0}}')
        self.kept = self.folder / "golden" / "reference" / "1.0.json"
        self.write(reference="rows.jsonl")
        self.rows({"x": number} for number in range(100))

    def write(self, **changes: Any) -> None:
        content = {"model": "toy", "handler": "handler.py", "files": ["weights.bin"], "weights": "weights.bin",
                   "batch": {"size": 8}, "versions": {"1.0": None}, **changes}  # fmt: skip
        (self.folder / "archive.yaml").write_text(yaml.safe_dump(content))

    def rows(self, rows: Any) -> None:
        (self.folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")

    def build(self) -> Built:
        spec = read_archive_spec(self.folder / "archive.yaml")
        return build_version(self.project, self.folder, spec, "1.0", lambda _: None)


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


def references(built: Built) -> dict[str, Reference]:
    with open_archive(built.archive.path) as archive:
        return read_references(archive)


def test_a_build_stores_the_reference_and_the_same_bytes_each_time(toy: Toy) -> None:
    first = toy.build()
    assert [line.partition(":")[0] for line in first.lines] == ["reference of 100 items and 3 features written"]
    found = references(first)
    assert list(found) == ["input.x", "prediction.label", "prediction.score"]
    assert count(found["input.x"], range(100)) == found["input.x"].reference
    assert count(found["prediction.label"], ["low"] * 51 + ["high"] * 49) == found["prediction.label"].reference
    assert count(found["prediction.score"], [2.0 * n for n in range(100)]) == found["prediction.score"].reference
    again = toy.build()
    assert (again.archive.digest, again.is_new, again.lines) == (first.archive.digest, False, ())
    toy.kept.unlink()
    for path in (toy.folder / ".built").glob("*.reference.json"):
        path.unlink()
    assert toy.build().archive.digest == first.archive.digest, "computed anew"
    report = verify(first.archive.path)
    assert report.is_good
    assert [check.detail for check in report.checks if check.name == "reference"] == ["3 features"]


@pytest.mark.parametrize("content", [b"{", b"{}", b'{"version": 1, "features": {"input.x": {"kind": "number"}}}'])
def test_a_damaged_reference_fails_the_verification(tmp_path: Path, content: bytes) -> None:
    manifest = json.dumps({"model": {"modelName": "toy", "modelVersion": "1.0", "handler": "toy"}}).encode()
    entries = with_digests({MANIFEST: manifest, REFERENCE: content})
    path = write_archive(entries, tmp_path, "toy", "1.0").path
    with open_archive(path) as archive:
        checks = {check.name: check for check in content_checks(path, archive, read_facts(archive))}
        assert checks["reference"].outcome == "fail"
        assert "reference.json" in checks["reference"].detail
        with pytest.raises(ArchiveError, match=r"reference\.json"):
            read_references(archive)


def test_kept_references_stay_while_they_fit_and_are_replaced_when_they_do_not(toy: Toy) -> None:
    toy.build()
    kept = json.loads(toy.kept.read_text())
    edges = kept["features"]["prediction.score"]["edges"]
    kept["features"]["prediction.score"]["edges"] = [edge * (1 + 1e-7) for edge in edges]
    toy.kept.write_text(json.dumps(kept))
    moved = toy.build()
    assert toy.kept.read_text() == json.dumps(kept), "as another processor would have computed them"
    with open_archive(moved.archive.path) as archive:
        assert archive.read(REFERENCE) == toy.kept.read_bytes()
    toy.rows({"x": number + 30} for number in range(100))
    assert len(toy.build().lines) == 1
    assert json.loads(toy.kept.read_text())["features"]["input.x"]["edges"][0] == 30
    toy.kept.write_text("{damaged")
    assert len(toy.build().lines) == 1
    assert references(toy.build())["input.x"].reference[0] == 0


def test_the_recipe_may_write_the_data_which_does_not_go_into_the_archive(toy: Toy) -> None:
    (toy.folder / "recipe.py").write_text(RECIPE)
    toy.write(recipe="recipe.py", files=[], weights="model.safetensors", reference="data")
    built = toy.build()
    found = references(built)["input.x"]
    assert count(found, [*range(80), 1000]) == found.reference
    with open_archive(built.archive.path) as archive:
        assert [name for name in archive.namelist() if name.startswith("data") or name.endswith("rows.jsonl")] == []


def test_without_a_reference_the_archive_has_none(toy: Toy) -> None:
    toy.write()
    built = toy.build()
    assert references(built) == {}
    assert not toy.kept.exists()


def csv(toy: Toy) -> None:
    toy.write(reference="rows.csv")
    (toy.folder / "rows.csv").write_text("x\n1\n")


def test_bad_reference_data_is_named_with_its_place(toy: Toy) -> None:
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: toy.rows([*[{"x": 1}] * 11, {"z": 1}]), r"reference rows\.jsonl, line 12: answered 422"),
        (lambda: toy.rows([{"x": 1}] * 49), r"reference rows\.jsonl: input\.x: a reference needs 50 values"),
        (lambda: (toy.folder / "rows.jsonl").unlink(), "neither the folder nor the recipe's output has it"),
        (lambda: csv(toy), r"reference rows\.csv: expected a file that ends with \.jsonl"),
    ]
    for change, reason in cases:
        change()
        with pytest.raises(ArchiveError, match=reason):
            toy.build()


@pytest.mark.parametrize("model", ["digits:1.0", "digits:2.0", "breast_cancer:1.0", "embeddings:1.0"])
def test_the_archives_of_this_checkout_have_references(model: str) -> None:
    with open_archive(find_archive(Project(CHECKOUT), *model.split(":")).path) as archive:
        found = read_references(archive)
        assert read_facts(archive).names == tuple(model.split(":"))
        entries = archive.namelist()
    assert "reference.jsonl" not in entries
    assert {name.partition(".")[0] for name in found} == {"input", "prediction"}
    assert {sum(reference.reference) for reference in found.values()} in ({360}, {114}, {240})


def test_a_workers_record_has_the_features_of_the_reference(digits: Worker) -> None:
    handler = digits.handler
    request = Request(json.dumps({"pixels": [[8] * 8] * 8}).encode(), "application/json", request_id="a")
    [outcome] = digits.entry.worker.pipeline.answer([request])
    recording = Recording("digits", "2.0", handler.summarize, canonical, handler.redact, False)
    item = handler.decode(request.body, request.media_type)
    line = json.loads(recording.record(Sampled(request, item, outcome, Batch(0.0, 0.0, 1, {}))))
    with open_archive(find_archive(Project(CHECKOUT), "digits", "2.0").path) as archive:
        assert values_of(line).keys() == read_references(archive).keys()

"""Benign or malignant from thirty named numbers, and every way in which they may be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from handlers.tabular import TabularHandler
from tests.support.workers import Item, Worker, assert_problem, write_archive_folder


def row(worker: Worker, name: str = "malignant", **changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((worker.folder / "samples" / f"{name}.json").read_bytes())
    return {**content, **changes}


def ask(worker: Worker, content: Any) -> Any:
    return worker.ask_one(json.dumps(content).encode())


def test_rows_of_both_kinds_are_told_apart(breast_cancer: Worker) -> None:
    rows = [row(breast_cancer, name) for name in ("benign", "malignant", "borderline", "clearly-benign")]
    answers = [reply.json() for reply in breast_cancer.ask(*(Item(json.dumps(r).encode()) for r in rows))]
    assert [answer["label"] for answer in answers] == ["benign", "malignant", "malignant", "benign"]
    for answer in answers:
        assert (answer["probability"] >= 0.5) == (answer["label"] == "malignant")


def test_the_order_of_the_features_does_not_matter(breast_cancer: Worker) -> None:
    content = row(breast_cancer)
    assert ask(breast_cancer, dict(reversed(content.items()))).body == ask(breast_cancer, content).body


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"mean_radius": "17.99"}, "mean_radius"),
    "a boolean": ({"mean_radius": True}, "mean_radius"),
    "null": ({"mean_radius": None}, "mean_radius"),
    "a list": ({"mean_radius": [17.99]}, "mean_radius"),
    "too large": ({"mean_radius": 1e7}, "mean_radius"),
    "too large for float32": ({"worst_area": -1e300}, "worst_area"),
    "an endless integer": ({"worst_area": 10**400}, "worst_area"),
    "an unknown feature": ({"mean_radios": 1}, "mean_radios"),
    "a key of many letters": ({"k" * 5000: 1}, "k" * 100),
    "the handler's own name for it": ({"feature_0": 1.0}, "feature_0"),
}


@pytest.mark.parametrize(("change", "field"), WRONG.values(), ids=WRONG)
def test_values_that_do_not_fit(breast_cancer: Worker, change: dict[str, Any], field: str) -> None:
    reply = ask(breast_cancer, row(breast_cancer, **change))
    assert [error["field"] for error in assert_problem(reply, 422)["errors"]] == [field]
    assert len(reply.body) < 1000


def test_all_missing_features_are_named(breast_cancer: Worker) -> None:
    document = assert_problem(ask(breast_cancer, {}), 422)
    assert document["errors"][0] == {"field": "mean_radius", "message": "Field required"}
    assert document["detail"] == "mean_radius: Field required (29 more)."


@pytest.mark.parametrize("value", [1e6, -1e6, 0, 1, 1e-300])
def test_the_extremes_of_what_is_allowed_are_answered(breast_cancer: Worker, value: float) -> None:
    assert 0 <= ask(breast_cancer, dict.fromkeys(row(breast_cancer), value)).json()["probability"] <= 1


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_that_are_not_finite_are_refused(breast_cancer: Worker, word: str) -> None:
    body = json.dumps(row(breast_cancer, mean_radius="?")).replace('"?"', word)
    assert_problem(breast_cancer.ask_one(body.encode()), 400, 422)


def test_the_last_of_two_equal_keys_counts(breast_cancer: Worker) -> None:
    body = json.dumps(row(breast_cancer))
    twice = '{"mean_radius": 1, ' + body.removeprefix("{")
    assert breast_cancer.ask_one(twice.encode()).body == breast_cancer.ask_one(body.encode()).body


def test_a_feature_may_have_any_name(tmp_path: Path) -> None:
    names = ["model_dump", "copy", "size in mm", "größe", "class"]
    folder = write_archive_folder(
        tmp_path / "toy",
        {"one.json": json.dumps(dict.fromkeys(names, 0)).encode()},
        {"one.json": {"label": "yes", "probability": 0.5}},
        settings={"features": names, "labels": ["no", "yes"]},
    )
    (folder / "model.py").write_text(
        "import torch\ndef build(settings): return torch.nn.Linear(len(settings['features']), 1)\n"
    )
    save_file({"weight": torch.ones(1, 5), "bias": torch.zeros(1)}, folder / "model.safetensors")
    worker = Worker(TabularHandler(), folder)
    assert ask(worker, dict.fromkeys(names, -1)).json()["label"] == "no"
    assert worker.entry.worker.describe()["request_schema"]["properties"].keys() == set(names)

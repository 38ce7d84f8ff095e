"""Gradient boosting: the numbers of LightGBM and XGBoost themselves, of every kind of objective."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.errors import LoadError
from handlers.gbm import GbmHandler
from tests.support.workers import Item, Reply, Worker, assert_problem, write_archive_folder

ROWS = np.random.default_rng(0).normal(size=(90, 3))
CLASSES = np.digitize(ROWS.sum(axis=1), [-1, 1])  # 0, 1 or 2
ROW = [0.5, -0.25, 0.125]
REQUEST = {"features": ROW}


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Worker]:
    """A worker of a model's file that answers a sample as it should."""

    def made(model: Path, request: Any, answer: Any, **settings: Any) -> Worker:
        samples, golden = {"one.json": json.dumps(request).encode()}, {"one.json": answer}
        tolerance = {"tolerance": {"absolute": 1e-5, "relative": 1e-5}}
        folder = write_archive_folder(tmp_path / "toy", samples, golden, settings, tolerance, weights=model)
        return Worker(GbmHandler(), folder)

    return made


@pytest.fixture(scope="module")
def diabetes(unpack_example: Callable[[str], Path]) -> Worker:
    return Worker(GbmHandler(), unpack_example("diabetes"))


def post(worker: Worker, *requests: Any) -> list[Reply]:
    return worker.ask(*(Item(json.dumps(request).encode()) for request in requests))


def lightgbm_file(path: Path, objective: str, target: np.ndarray, **parameters: Any) -> tuple[Path, Any]:
    """A model of LightGBM in a file, and what it predicts for ROW."""
    import lightgbm

    fixed = {"objective": objective, "verbose": -1, "num_threads": 1, "min_data_in_leaf": 2, **parameters}
    booster = lightgbm.train(fixed, lightgbm.Dataset(ROWS, target), 4)
    booster.save_model(path)
    return path, booster.predict([ROW])[0]


def xgboost_file(path: Path, objective: str, target: np.ndarray, **parameters: Any) -> tuple[Path, Any]:
    """A model of XGBoost in a file, and what it predicts for ROW."""
    import xgboost

    booster = xgboost.train({"objective": objective, "nthread": 1, **parameters}, xgboost.DMatrix(ROWS, target), 4)
    booster.save_model(path)
    return path, booster.predict(xgboost.DMatrix([ROW]))[0]


def test_names_and_categories_come_from_the_model_and_gaps_are_allowed(diabetes: Worker) -> None:
    patient = json.loads((diabetes.folder / "samples" / "patient.json").read_bytes())
    inputs = {each["name"]: each["datatype"] for each in diabetes.entry.worker.protocols.metadata()["inputs"]}
    assert list(inputs) == list(patient)
    assert (inputs["sex"], inputs["bmi"]) == ("BYTES", "FP64")
    wrong, text, right, gap = post(
        diabetes, {**patient, "sex": "third"}, {**patient, "bmi": "fat"}, patient, {"bmi": 32.1}
    )
    assert "'first' or 'second'" in assert_problem(wrong, 422)["detail"]
    assert [error["field"] for error in assert_problem(text, 422)["errors"]] == ["bmi"]
    assert right.json()["value"] > 150
    assert gap.status == 200


@pytest.mark.parametrize(("make", "suffix"), [(lightgbm_file, ".txt"), (xgboost_file, ".json"), (xgboost_file, ".ubj")])
def test_a_regression(tmp_path: Path, serve: Callable[..., Worker], make: Any, suffix: str) -> None:
    objective = "regression" if suffix == ".txt" else "reg:squarederror"
    path, expected = make(tmp_path / f"model{suffix}", objective, ROWS.sum(axis=1))
    worker = serve(path, REQUEST, {"value": float(expected)})
    [wrong, gap] = post(worker, {"features": [1, 2]}, {"features": [None, 1, 2]})
    assert assert_problem(wrong, 422)["errors"][0]["field"] == "features"
    assert gap.status == 200


@pytest.mark.parametrize(
    ("make", "objective", "suffix"), [(lightgbm_file, "binary", ".txt"), (xgboost_file, "binary:logistic", ".ubj")]
)
def test_two_classes(tmp_path: Path, serve: Callable[..., Worker], make: Any, objective: str, suffix: str) -> None:
    path, chance = make(tmp_path / f"model{suffix}", objective, CLASSES > 0)
    golden = {"label": "high", "probabilities": [float(1 - chance), float(chance)]}
    worker = serve(path, REQUEST, golden, labels=["low", "high"], threshold=float(chance) - 0.01)
    [reply] = post(worker, REQUEST)
    assert reply.headers["x-prediction-class"] == "high"
    worker.handler.threshold = float(chance) + 0.01
    assert post(worker, REQUEST)[0].json()["label"] == "low"


@pytest.mark.parametrize(
    ("make", "objective", "suffix"),
    [
        (lightgbm_file, "multiclass", ".txt"),
        (xgboost_file, "multi:softprob", ".json"),
        (xgboost_file, "multi:softmax", ".ubj"),
    ],
)
def test_several_classes(tmp_path: Path, serve: Callable[..., Worker], make: Any, objective: str, suffix: str) -> None:
    path, expected = make(tmp_path / f"model{suffix}", objective, CLASSES, num_class=3)
    if objective == "multi:softmax":  # which gives the class alone
        _, expected = xgboost_file(tmp_path / "same.ubj", "multi:softprob", CLASSES, num_class=3)
    golden = {"label": str(int(np.argmax(expected))), "probabilities": [float(chance) for chance in expected]}
    assert post(serve(path, REQUEST, golden), REQUEST)[0].json()["label"] == golden["label"]


def test_a_class_without_probabilities(tmp_path: Path, serve: Callable[..., Worker]) -> None:
    path, expected = xgboost_file(tmp_path / "model.json", "binary:hinge", CLASSES > 0)
    assert post(serve(path, REQUEST, {"label": str(int(expected))}), REQUEST)[0].status == 200


def test_categories_of_xgboost_are_named_in_the_settings(tmp_path: Path, serve: Callable[..., Worker]) -> None:
    import pandas
    import xgboost

    table = pandas.DataFrame({"size": np.arange(40.0), "town": pandas.Categorical(["Bonn", "Hamm"] * 20)})
    price = table["size"] + 100 * (table["town"] == "Hamm")
    booster = xgboost.train({"nthread": 1}, xgboost.DMatrix(table, price, enable_categorical=True), 20)
    booster.save_model(tmp_path / "model.ubj")
    expected = booster.predict(xgboost.DMatrix(table[7:9], enable_categorical=True))
    request = {"size": 7, "town": "Hamm"}
    with pytest.raises(LoadError, match=r"the column town has categories: name them in settings\.categories"):
        serve(tmp_path / "model.ubj", request, {"value": float(expected[0])})
    other_order = {"town": ["Hamm", "Bonn"]}  # XGBoost knows the categories by their names
    (tmp_path / "toy").rename(tmp_path / "without")
    worker = serve(tmp_path / "model.ubj", request, {"value": float(expected[0])}, categories=other_order)
    assert post(worker, {"size": 8, "town": "Bonn"})[0].json()["value"] == pytest.approx(float(expected[1]), rel=1e-5)


def test_early_stopping_of_xgboost_is_kept(tmp_path: Path, serve: Callable[..., Worker]) -> None:
    import xgboost

    rows, noise = xgboost.DMatrix(ROWS, ROWS.sum(axis=1)), xgboost.DMatrix(ROWS, np.zeros(90))
    booster = xgboost.train(
        {"nthread": 1}, rows, 30, evals=[(noise, "noise")], early_stopping_rounds=3, verbose_eval=False
    )
    assert booster.best_iteration < booster.num_boosted_rounds() - 1
    booster.save_model(tmp_path / "model.ubj")
    best = booster.predict(xgboost.DMatrix([ROW]), iteration_range=(0, booster.best_iteration + 1))
    serve(tmp_path / "model.ubj", REQUEST, {"value": float(best[0])})


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "too few names": ({"features": ["a"]}, "settings.features has 1 names, and the model has 3 features"),
    "too few labels": ({"labels": ["a"]}, "settings.labels has 1 names, and the model has 2 classes"),
    "an unknown column": ({"categories": {"d": ["x"]}}, "d is no column of the model, which has: none with a name"),
}


@pytest.mark.parametrize(("settings", "reason"), UNFIT.values(), ids=UNFIT)
def test_settings_that_do_not_fit_the_model_are_named(
    tmp_path: Path, serve: Callable[..., Worker], settings: dict[str, Any], reason: str
) -> None:
    path, _ = lightgbm_file(tmp_path / "model.txt", "binary", CLASSES > 0)
    with pytest.raises(LoadError, match=reason):
        serve(path, REQUEST, {}, **settings)


@pytest.mark.parametrize(("name", "library"), [("model.txt", "LightGBM"), ("model.json", "XGBoost")])
def test_a_file_that_is_no_model_is_named(
    tmp_path: Path, serve: Callable[..., Worker], name: str, library: str
) -> None:
    (tmp_path / name).write_bytes(b"tree\nbroken" if library == "LightGBM" else b'{"broken": 1}')
    with pytest.raises(LoadError, match=rf"{name} cannot be read by {library}: ."):
        serve(tmp_path / name, REQUEST, {})


def test_a_missing_package_is_one_line_with_the_command(diabetes: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(LoadError, match=r"needs the package lightgbm: pip install 'tsctl\[gbm\]'"):
        Worker(GbmHandler(), diabetes.folder)

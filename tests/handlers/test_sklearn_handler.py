"""Models of scikit-learn: the numbers of the library itself, from files of skops, joblib and pickle."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.errors import LoadError
from handlers.pickles import load_pickle
from handlers.sklearn import SklearnHandler
from tests.support.workers import Item, Reply, Worker, assert_problem, write_archive_folder

FLOWER = {"sepal_length": 5.9, "sepal_width": 3.0, "petal_length": 5.1, "petal_width": 1.8}


@pytest.fixture(scope="module")
def iris(unpack_example: Callable[[str], Path]) -> Worker:
    return Worker(SklearnHandler(), unpack_example("iris"))


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Worker]:
    """A worker of an estimator, in a file of the suffix, that answers a sample as it should."""

    def made(estimator: Any, request: Any, answer: Any, suffix: str = ".joblib", **settings: Any) -> Worker:
        file = tmp_path / f"model{suffix}"
        if suffix == ".joblib":
            import joblib

            joblib.dump(estimator, file, compress=3)
        elif suffix == ".skops":
            import skops.io

            skops.io.dump(estimator, file)
        else:
            file.write_bytes(pickle.dumps(estimator))
        samples, golden = {"one.json": json.dumps(request).encode()}, {"one.json": answer}
        tolerance = {"tolerance": {"absolute": 1e-5, "relative": 1e-6}}
        folder = write_archive_folder(tmp_path / "toy", samples, golden, settings, tolerance, weights=file)
        return Worker(SklearnHandler(), folder)

    return made


def post(worker: Worker, *requests: Any) -> list[Reply]:
    return worker.ask(*(Item(json.dumps(request).encode()) for request in requests))


def numbers(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of three numbers, and their sum."""
    rows = np.random.default_rng(seed).normal(size=(60, 3))
    return rows, rows.sum(axis=1)


def test_names_and_classes_come_from_the_model(iris: Worker) -> None:
    [reply] = post(iris, FLOWER)
    assert reply.json()["label"] == "virginica"
    assert sum(reply.json()["probabilities"]) == pytest.approx(1)
    assert reply.headers["x-prediction-class"] == "virginica"
    assert [each["name"] for each in iris.entry.worker.protocols.metadata()["inputs"]] == list(FLOWER)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a text": ({"sepal_width": "3"}, "sepal_width"),
    "null": ({"sepal_width": None}, "sepal_width"),
    "too large": ({"sepal_width": 101}, "sepal_width"),
    "another column": ({"colour": 1}, "colour"),
}


@pytest.mark.parametrize(("change", "field"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_named_and_its_neighbour_answered(
    iris: Worker, change: dict[str, Any], field: str
) -> None:
    wrong, right = post(iris, {**FLOWER, **change}, FLOWER)
    assert [error["field"] for error in assert_problem(wrong, 422)["errors"]] == [field]
    assert right.json()["label"] == "virginica"


@pytest.mark.parametrize("suffix", [".skops", ".joblib", ".pkl"])
def test_a_regression_over_unnamed_columns(serve: Callable[..., Worker], suffix: str) -> None:
    from sklearn.linear_model import LinearRegression

    estimator = LinearRegression().fit(*numbers())
    worker = serve(estimator, {"features": [1, 2, 3]}, {"value": 6.0}, suffix)
    assert post(worker, {"features": [1, 1, 1]})[0].json()["value"] == pytest.approx(3)
    [wrong] = post(worker, {"features": [1, 2]})
    assert assert_problem(wrong, 422)["errors"][0]["field"] == "features"


def test_what_joblib_wrote_may_be_called_pkl(tmp_path: Path) -> None:
    """As many of its files are; arrays stand there in joblib's own way."""
    import joblib

    model = {"weights": np.arange(1000.0)}
    for compress in (0, 3):
        joblib.dump(model, tmp_path / "model.pkl", compress=compress)
        assert load_pickle(tmp_path / "model.pkl")["weights"].tolist() == model["weights"].tolist()
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    assert load_pickle(tmp_path / "model.pkl")["weights"].tolist() == model["weights"].tolist()


def test_a_classifier_of_texts(serve: Callable[..., Worker]) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    texts = ["where is my parcel", "parcel is late", "money back please", "refund my money"]
    pipeline = make_pipeline(TfidfVectorizer(), MultinomialNB()).fit(
        texts, ["delivery", "delivery", "refund", "refund"]
    )
    answer = {"label": "delivery", "probabilities": pipeline.predict_proba(["my parcel"])[0].tolist()}
    worker = serve(pipeline, {"text": "my parcel"}, answer, input="text")
    assert [reply.json()["label"] for reply in post(worker, {"text": "refund?"}, {"text": "a parcel"})] == [
        "refund",
        "delivery",
    ]
    assert_problem(post(worker, {"text": ""})[0], 422)


def test_a_table_of_numbers_and_categories_with_gaps(serve: Callable[..., Worker]) -> None:
    import pandas
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    size = [float(number) for number in range(40)]
    table = pandas.DataFrame({"size in m²": size, "town": ["Bonn", "Köln"] * 20})
    price = [each + 100 * (town == "Köln") for each, town in zip(size, table["town"], strict=True)]
    encode = make_column_transformer((OrdinalEncoder(), ["town"]), remainder="passthrough")
    pipeline = make_pipeline(encode, HistGradientBoostingRegressor(min_samples_leaf=1)).fit(table, price)
    expected = pipeline.predict(pandas.DataFrame({"size in m²": [7.0, float("nan")], "town": ["Köln", "Bonn"]}))
    worker = serve(
        pipeline,
        {"size in m²": 7, "town": "Köln"},
        {"value": expected[0]},
        categories={"town": ["Bonn", "Köln"]},
        missing=True,
    )
    wrong, gap, absent = post(
        worker, {"size in m²": 7, "town": "Mainz"}, {"size in m²": None, "town": "Bonn"}, {"town": "Bonn"}
    )
    assert "'Bonn' or 'Köln'" in assert_problem(wrong, 422)["detail"]
    assert gap.json()["value"] == absent.json()["value"] == pytest.approx(expected[1])


def test_the_label_is_the_models_own_even_where_another_class_is_likelier(serve: Callable[..., Worker]) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import FixedThresholdClassifier

    rows, total = numbers()
    base = LogisticRegression().fit(rows, total > 0)
    careful = FixedThresholdClassifier(base, threshold=0.01).fit(rows, total > 0)
    row = [-0.3, -0.3, 0.2]
    probabilities = careful.predict_proba([row])[0].tolist()
    assert probabilities[0] > 0.5
    worker = serve(
        careful, {"features": row}, {"label": "sick", "probabilities": probabilities}, labels=["well", "sick"]
    )
    assert post(worker, {"features": row})[0].json()["label"] == "sick"


def test_a_likeliest_class_needs_one_call(serve: Callable[..., Worker]) -> None:
    from sklearn.linear_model import LogisticRegression

    rows, total = numbers()
    estimator = LogisticRegression().fit(rows, total > 0)
    golden = {"label": "True", "probabilities": estimator.predict_proba([[1, 1, 1]])[0].tolist()}
    worker = serve(estimator, {"features": [1, 1, 1]}, golden, label_from="probabilities")
    worker.handler.estimator.predict = None  # would fail if it were called
    assert post(worker, {"features": [-1, -1, -1]})[0].json()["label"] == "False"


def test_several_targets_and_models_without_probabilities(serve: Callable[..., Worker]) -> None:
    from sklearn.linear_model import Ridge

    rows, total = numbers()
    worker = serve(
        Ridge(alpha=1e-9).fit(rows, np.stack([total, -total], 1)), {"features": [1, 2, 3]}, {"value": [6.0, -6.0]}
    )
    assert post(worker, {"features": [0, 0, 1]})[0].json()["value"] == [pytest.approx(1), pytest.approx(-1)]


def test_a_svm_has_a_label_alone(serve: Callable[..., Worker]) -> None:
    from sklearn.svm import LinearSVC

    rows, total = numbers()
    worker = serve(LinearSVC().fit(rows, total > 0), {"features": [3, 3, 3]}, {"label": "True"})
    assert post(worker, {"features": [-3, -3, -3]})[0].json() == {"label": "False"}


def test_jobs_of_a_forest_are_the_workers_threads(serve: Callable[..., Worker]) -> None:
    from sklearn.ensemble import RandomForestRegressor

    rows, _ = numbers()
    forest = RandomForestRegressor(3, n_jobs=-1, random_state=0).fit(rows, np.ones(60))
    worker = serve(forest, {"features": [0, 0, 0]}, {"value": 1.0})
    assert worker.handler.estimator.n_jobs == 1


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "too few names": ({"features": ["a"]}, "settings.features has 1 names, and the model has 3 features"),
    "an unknown column": ({"features": ["a", "b", "c"], "texts": ["d"]}, "d is no column of the model"),
    "a bad word": ({"label_from": "luck"}, "settings.label_from must be one of predict, probabilities"),
}


@pytest.mark.parametrize(("settings", "reason"), UNFIT.values(), ids=UNFIT)
def test_settings_that_do_not_fit_the_model_are_named(
    serve: Callable[..., Worker], settings: dict[str, Any], reason: str
) -> None:
    from sklearn.linear_model import LinearRegression

    with pytest.raises(LoadError, match=reason):
        serve(LinearRegression().fit(*numbers()), {"features": [1, 2, 3]}, {"value": 6.0}, **settings)


def test_types_that_skops_does_not_know_are_named(serve: Callable[..., Worker]) -> None:
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(2, random_state=0).fit(numbers()[0], np.ones(60))
    with pytest.raises(LoadError, match=r"settings\.trusted_types: \['sklearn\.tree\._tree\.Tree'\]"):
        serve(forest, {"features": [1, 2, 3]}, {"value": 1.0}, ".skops")


def test_what_cannot_be_loaded_is_told(serve: Callable[..., Worker], tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"model\.pkl holds a dict, which has no predict"):
        serve({}, {"features": [1]}, {"value": 1.0}, ".pkl")
    (tmp_path / "toy" / "model.pkl").write_bytes(b"cno_such_module\nA\n.")
    with pytest.raises(LoadError, match=r"model\.pkl needs the module no_such_module"):
        Worker(SklearnHandler(), tmp_path / "toy")
    (tmp_path / "toy" / "model.pkl").write_bytes(b"\x80")
    with pytest.raises(LoadError, match=r"model\.pkl cannot be unpickled here"):
        Worker(SklearnHandler(), tmp_path / "toy")


@pytest.mark.parametrize("package", ["skops", "sklearn", "pandas"])
def test_a_missing_package_is_one_line_with_the_command(
    iris: Worker, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    if package == "skops":
        monkeypatch.setitem(sys.modules, "skops.io", None)
    with pytest.raises(LoadError, match=rf"needs the package {package}: pip install 'tsctl\[sklearn\]'"):
        Worker(SklearnHandler(), iris.folder)

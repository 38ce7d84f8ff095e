"""Gradient boosting: models of LightGBM and XGBoost."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import BaseModel

from handlers.arrays import short
from handlers.base import ServingHandler
from handlers.columns import Columns
from handlers.errors import LoadError
from handlers.packages import needed

_INSTALL = "tsctl[gbm]"
#: How a file of LightGBM begins.
_LIGHTGBM = b"tree\n"
#: Kinds of what a model gives for a row: a number or several, the probability of the positive class, one of each class,
#: a raw score of each class, or the number of the class.
VALUE, BINARY, PROBABILITIES, MARGINS, CLASS = "value", "binary", "probabilities", "margins", "class"
_KINDS = {
    "binary": BINARY, "multiclass": PROBABILITIES, "multiclassova": PROBABILITIES,
    "binary:logistic": BINARY, "multi:softprob": PROBABILITIES, "multi:softmax": MARGINS, "binary:hinge": CLASS,
}  # fmt: skip


class GbmHandler(ServingHandler):
    """One row per request, in the columns of the model.

    The weights are a text file of LightGBM (`Booster.save_model`) or a .json or .ubj file of XGBoost. Names of the
    features, the objective, and LightGBM's categories come from the model. A model of classes answers `label` and
    `probabilities`, any other `value`. A missing number may be null or absent, as both libraries handle that.

    Settings: `features` (names of the columns, where the model has none), `labels` (names of the classes; by default
    their numbers), `threshold` (of two classes: the least probability of the second that answers with its label), and
    those of handlers.columns.Columns; XGBoost needs `categories` for a column of categories.
    """

    predict: Callable[[list[list[Any]]], Any]  # of rows, in the order of the columns
    count: int  # of the model's features

    def load(self) -> None:
        """The model, and a request model that asks for its features.

        Raises:
            LoadError: the file cannot be loaded, or a setting does not fit it.
        """
        if not self.weights_file.is_file():
            raise LoadError(f"the archive has no weights file {self.weights_file.name}")
        with self.weights_file.open("rb") as file:
            is_lightgbm = file.read(len(_LIGHTGBM)) == _LIGHTGBM
        names, objective, classes = self._open_lightgbm() if is_lightgbm else self._open_xgboost()
        self.kind = _KINDS.get(objective, VALUE)
        if self.kind != VALUE:
            self.labels = [str(label) for label in self.settings.get("labels", range(classes))]
            if len(self.labels) != classes:
                raise LoadError(f"settings.labels has {len(self.labels)} names, and the model has {classes} classes")
        self.threshold = float(self.settings.get("threshold", 0.5))
        self.columns = self._columns(names)
        self.Request = self.columns.request

    def preprocess(self, items: list[BaseModel]) -> list[list[Any]]:
        """The rows: numbers, NaN for a missing one, and texts of categories."""
        return [self.columns.values(item) for item in items]

    def inference(self, inputs: list[list[Any]]) -> np.ndarray:
        """What the model gives for each row, of its kind; shape (B,) or (B, classes)."""
        return np.asarray(self.predict(inputs))

    def postprocess(self, outputs: np.ndarray) -> list[dict[str, Any]]:
        """`label` and `probabilities`, or `value`."""
        if self.kind == VALUE:
            return [{"value": value} for value in short(outputs)]
        if self.kind == CLASS:
            return [{"label": self.labels[int(value)]} for value in outputs]
        if self.kind == BINARY:
            outputs = np.stack([1 - outputs, outputs], axis=1)
            best = (outputs[:, 1] >= self.threshold).astype(int)
        else:
            if self.kind == MARGINS:
                outputs = np.exp(outputs - outputs.max(axis=1, keepdims=True))
                outputs /= outputs.sum(axis=1, keepdims=True)
            best = outputs.argmax(axis=1)
        rows = short(outputs.astype(np.float32))
        return [{"label": self.labels[i], "probabilities": row} for i, row in zip(best, rows, strict=True)]

    def classify(self, answer: dict[str, Any]) -> str | None:
        """The label of a model of classes."""
        return None if self.kind == VALUE else str(answer["label"])

    def _open_lightgbm(self) -> tuple[list[str], str, int]:
        """Names of the features, the objective, and the number of classes."""
        with needed("lightgbm", _INSTALL, self.weights_file.name):
            import lightgbm
        try:
            booster = lightgbm.Booster(model_file=str(self.weights_file))
        except lightgbm.basic.LightGBMError as error:
            raise LoadError(f"{self.weights_file.name} cannot be read by LightGBM: {error}") from error
        names: list[str] = booster.feature_name()
        categories: list[list[str]] = [[str(each) for each in of_one] for of_one in booster.pandas_categorical or []]
        with self.weights_file.open(encoding="utf-8") as file:
            infos = next((line for line in file if line.startswith("feature_infos=")), "feature_infos=").split("=")[1]
        categorical = [name for name, known in zip(names, infos.split(), strict=True) if not known.startswith("[")]
        if categories and len(categorical) != len(categories):
            raise LoadError(
                f"{self.weights_file.name} has {len(categories)} columns of categories, and which is not clear: train"
                " it without columns that never vary"
            )
        if categories:
            self.settings = {**self.settings, "categories": dict(zip(categorical, categories, strict=True))}

        def predict(rows: list[list[Any]]) -> Any:
            return booster.predict(self._coded(rows), num_threads=self.threads)

        self.predict = predict
        objective = str(booster.params.get("objective", ""))
        is_binary = objective == "binary"
        is_unnamed = names == [f"Column_{place}" for place in range(len(names))]
        self.count = len(names)
        return [] if is_unnamed else names, objective, 2 if is_binary else booster.num_model_per_iteration()

    def _open_xgboost(self) -> tuple[list[str], str, int]:
        """Names of the features, the objective, and the number of classes."""
        with needed("xgboost", _INSTALL, self.weights_file.name):
            import xgboost
        booster = xgboost.Booster({"nthread": self.threads})
        try:
            booster.load_model(self.weights_file)
        except (xgboost.core.XGBoostError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise LoadError(f"{self.weights_file.name} cannot be read by XGBoost: {reason}") from error
        booster.set_param({"nthread": self.threads})
        if self.device.type == "cuda" and xgboost.build_info().get("USE_CUDA"):
            booster.set_param({"device": str(self.device)})
        learner = json.loads(booster.save_config())["learner"]
        objective = str(learner["objective"]["name"])
        names = list(booster.feature_names or [])
        self.count = booster.num_features()
        is_margin = objective == "multi:softmax"
        last = booster.attributes().get("best_iteration")  # of early stopping
        rounds = (0, int(last) + 1) if last is not None else (0, 0)
        types = booster.feature_types or []
        categorical = [name for name, kind in zip(names, types, strict=False) if kind == "c"]
        if wanting := [name for name in categorical if name not in self.settings.get("categories", {})]:
            raise LoadError(f"the column {wanting[0]} has categories: name them in settings.categories")

        def predict(rows: list[list[Any]]) -> Any:
            if not categorical:
                array = np.array(rows, dtype=np.float32)
                kind = "margin" if is_margin else "value"
                return booster.inplace_predict(
                    array, iteration_range=rounds, predict_type=kind, validate_features=False
                )
            matrix = xgboost.DMatrix(self._table(rows), enable_categorical=True, nthread=self.threads)
            return booster.predict(matrix, output_margin=is_margin, iteration_range=rounds)

        if categorical:
            with needed("pandas", "pandas", "a model of XGBoost with categories"):
                import pandas  # noqa: F401 - here, so that a worker without it does not serve
        self.predict = predict
        return names, objective, max(2, int(learner["learner_model_param"]["num_class"]))

    def _columns(self, names: list[str]) -> Columns:
        named: list[str] = self.settings.get("features", names)
        if named and len(named) != self.count:
            raise LoadError(f"settings.features has {len(named)} names, and the model has {self.count} features")
        return Columns(named, self.count, self.settings, missing=True)

    def _coded(self, rows: list[list[Any]]) -> np.ndarray:
        """The rows as numbers, shape (B, features) in float64: a category by its place, NaN for a missing one."""
        if not self.columns.has_texts:
            return np.array(rows, dtype=np.float64)
        codes = [
            {text: float(code) for code, text in enumerate(self.columns.categories[name])}
            if name in self.columns.categories
            else None
            for name in self.columns.names
        ]
        return np.array(
            [
                [value if known is None else known.get(value, np.nan) for value, known in zip(row, codes, strict=True)]
                for row in rows
            ],
            dtype=np.float64,
        )

    def _table(self, rows: list[list[Any]]) -> Any:
        """The rows as a pandas table; XGBoost gives the categories the numbers that they had when it was trained."""
        import pandas

        columns: dict[str, Any] = {}
        for name, values in zip(self.columns.names, zip(*rows, strict=True), strict=True):
            known = self.columns.categories.get(name)
            columns[name] = pandas.Categorical(values, categories=known) if known else np.array(values, np.float64)
        return pandas.DataFrame(columns)

"""Models of scikit-learn, and any other object with `predict`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, create_model

from handlers.arrays import short
from handlers.base import ServingHandler
from handlers.columns import LONGEST_TEXT, Columns
from handlers.errors import LoadError
from handlers.packages import needed
from handlers.pickles import SUFFIXES, load_pickle
from handlers.schema import Schema

_INSTALL = "tsctl[sklearn]"
LABEL_SOURCES = ("predict", "probabilities")


class SklearnHandler(ServingHandler):
    """One row, or one text, per request; `predict_proba` and `predict`, or `predict` alone.

    The weights are a file of skops, joblib or pickle. Names and number of the features and the classes come from the
    model; a model that was fitted to a table with names gets such a table. A classifier answers `label` and, if it has
    `predict_proba`, `probabilities` in the order of its classes; any other model answers `value`.

    Settings: `input` (`row`, or `text` for a model that begins with a vectorizer of texts), `features` (names of the
    columns, where the model has none), `labels` (names of the classes, in the model's order), `label_from` (`predict`,
    or `probabilities`: the likeliest class, without a second call of the model), `trusted_types` (types that a file of
    skops may hold besides those that skops knows), and those of handlers.columns.Columns.
    """

    def load(self) -> None:
        """The model, and a request model that asks for its features.

        Raises:
            LoadError: the file cannot be loaded, the object cannot predict, or a setting does not fit it.
        """
        self.estimator = self._read()
        if not callable(getattr(self.estimator, "predict", None)):
            raise LoadError(f"{self.weights_file.name} holds a {type(self.estimator).__name__}, which has no predict")
        self._limit_threads()
        classes = getattr(self.estimator, "classes_", None)
        self.is_classifier = classes is not None and not isinstance(classes, list)  # a list: several targets
        self.labels = self._labels(classes) if classes is not None and self.is_classifier else {}
        self.has_probabilities = self.is_classifier and hasattr(self.estimator, "predict_proba")
        self.label_from = self.settings.get("label_from", "predict")
        if self.label_from not in LABEL_SOURCES:
            raise LoadError(f"settings.label_from must be one of {', '.join(LABEL_SOURCES)}")
        self.columns = None if self.settings.get("input", "row") == "text" else self._columns()
        if self.columns is not None:
            self.Request = self.columns.request
            return
        text = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]
        self.Request = create_model("Request", __base__=Schema, text=(text, ...))

    def preprocess(self, items: list[BaseModel]) -> Any:
        """Texts, an array of shape (B, features) in float64, or a table with the names that the model was fitted to."""
        if self.columns is None:
            return [item.text for item in items]  # type: ignore[attr-defined]  # of the class that `load` makes
        rows = [self.columns.values(item) for item in items]
        if not self.is_table:
            return np.array(rows, dtype=object if self.columns.has_texts else np.float64)
        import pandas

        if not self.columns.has_texts:
            return pandas.DataFrame(np.array(rows, dtype=np.float64), columns=self.columns.names)
        return pandas.DataFrame(dict(zip(self.columns.names, zip(*rows, strict=True), strict=True)))

    def inference(self, inputs: Any) -> tuple[list[Any], np.ndarray | None]:
        """What the model predicts for each row, and the probabilities of the classes, shape (B, classes), or None."""
        probabilities = np.asarray(self.estimator.predict_proba(inputs)) if self.has_probabilities else None
        if probabilities is not None and self.label_from == "probabilities":
            return self.estimator.classes_[probabilities.argmax(axis=1)].tolist(), probabilities
        return short(np.asarray(self.estimator.predict(inputs))), probabilities

    def postprocess(self, outputs: tuple[list[Any], np.ndarray | None]) -> list[dict[str, Any]]:
        """`label` and `probabilities`, or `value`."""
        predicted, probabilities = outputs
        if not self.is_classifier:
            return [{"value": value} for value in predicted]
        labels = [self.labels.get(value, str(value)) for value in predicted]
        if probabilities is None:
            return [{"label": label} for label in labels]
        rows = short(probabilities.astype(np.float32))
        return [{"label": label, "probabilities": row} for label, row in zip(labels, rows, strict=True)]

    def classify(self, answer: dict[str, Any]) -> str | None:
        """The label of a classifier's answer."""
        return str(answer["label"]) if self.is_classifier else None

    def _read(self) -> Any:
        with needed("sklearn", _INSTALL, "handlers.sklearn"):
            import sklearn  # noqa: F401 - whose absence a file's own error would not tell
        path = self.weights_file
        if path.suffix in SUFFIXES:
            return load_pickle(path)
        if path.suffix != ".skops":
            raise LoadError(f"{path.name}: handlers.sklearn reads files that end with .skops, {', '.join(SUFFIXES)}")
        if not path.is_file():
            raise LoadError(f"the archive has no weights file {path.name}")
        with needed("skops", _INSTALL, path.name):
            from skops.io import get_untrusted_types, load
        try:
            unknown = sorted(set(get_untrusted_types(file=path)) - set(self.settings.get("trusted_types", [])))
            if unknown:
                raise LoadError(f"{path.name} holds types that skops does not know; settings.trusted_types: {unknown}")
            return load(path, trusted=self.settings.get("trusted_types", []))
        except LoadError:
            raise
        except Exception as error:
            raise LoadError(f"{path.name} cannot be read by skops: {type(error).__name__}: {error}") from error

    def _limit_threads(self) -> None:
        """Give the model as many threads as the worker has: to its own jobs, and to BLAS and OpenMP below it."""
        from threadpoolctl import threadpool_limits

        threadpool_limits(self.threads)
        parameters = self.estimator.get_params() if hasattr(self.estimator, "get_params") else {}
        jobs = {name: self.threads for name in parameters if name == "n_jobs" or name.endswith("__n_jobs")}
        if jobs:
            self.estimator.set_params(**jobs)

    def _labels(self, classes: Sequence[Any]) -> dict[Any, str]:
        """The name of each class."""
        values = np.asarray(classes).tolist()
        names = [str(name) for name in self.settings.get("labels", values)]
        if len(names) != len(values):
            raise LoadError(f"settings.labels has {len(names)} names, and the model has {len(values)} classes")
        return dict(zip(values, names, strict=True))

    def _columns(self) -> Columns:
        fitted = [str(name) for name in getattr(self.estimator, "feature_names_in_", ())]
        names: list[str] = self.settings.get("features", fitted)
        count = int(getattr(self.estimator, "n_features_in_", len(names)))
        if not count:
            raise LoadError(
                "the model does not say which features it takes: set settings.features, or settings.input: text"
            )
        if names and len(names) != count:
            raise LoadError(f"settings.features has {len(names)} names, and the model has {count} features")
        if fitted and names != fitted:
            raise LoadError(f"settings.features must be those of the model, in this order: {', '.join(fitted)}")
        columns = Columns(names, count, self.settings, missing=False)
        self.is_table = bool(fitted)
        if self.is_table:
            with needed("pandas", _INSTALL, "a model that was fitted to a table with names"):
                import pandas  # noqa: F401 - here, so that a worker without it does not serve
        return columns

"""Base of handlers whose model reads named arrays and gives named arrays, whatever library runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from handlers.arrays import ArrayInput, Arrays, alike, arrays_of, check_sizes, read_npy, request_of, short
from handlers.base import ServingHandler
from handlers.contract import JSON
from handlers.errors import LoadError, UnsupportedMedia
from handlers.records.summary import Features, features
from handlers.schema import parse_json, validate

#: A .npy file: the value of a model's only input.
NPY = "application/x-npy"
ACTIVATIONS = ("none", "softmax", "sigmoid")

#: The outputs of a batch, by name: arrays, or lists with one entry for each item.
Outputs = Mapping[str, Any]


class ArrayHandler(ServingHandler):
    """A request has one field for each input of the model: nested lists of the input's shape without the batch.

    A model with a single input reads a .npy file as well. An answer has one field for each output, or, where `labels`
    are set, `label` and `probabilities`.

    Settings: `batch_axis` (the dimension of inputs and outputs that counts the items; null: the model takes one item
    at a time, and has none), `outputs` (names of those that the answer has; all by default), `labels` (a class for
    each value of the output `scores`, which is the first by default), `activation` (from that output to
    probabilities: none, softmax, or sigmoid for two classes and one value).
    """

    media_types: ClassVar[Sequence[str]] = (JSON, NPY)
    is_fixed_shape = False

    inputs: list[ArrayInput]
    batch_axis: int | None
    model_batch: int | None  # items that the model takes at a time, always; None: any number

    def open_model(self) -> tuple[list[tuple[str, np.dtype, list[int | str]]], list[str]]:
        """Load the model; returns name, type and shape of each input, with the batch's dimension, and the outputs'
        names. Sizes that may differ are names, an empty one where it has none.

        Raises:
            LoadError: it cannot be loaded.
        """
        raise NotImplementedError(f"{type(self).__name__} must define open_model")

    def run(self, arrays: Arrays) -> Outputs:
        """The model's outputs for inputs as it takes them."""
        raise NotImplementedError(f"{type(self).__name__} must define run")

    # ---- once ----------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """The model, and a request model that asks for its inputs.

        Raises:
            LoadError: the model cannot be loaded, or a setting does not fit it.
        """
        inputs, outputs = self.open_model()
        self.batch_axis, self.model_batch = self._batch(inputs)
        self.inputs = [
            ArrayInput(name, dtype, tuple(size for axis, size in enumerate(shape) if axis != self.batch_axis))
            for name, dtype, shape in inputs
        ]
        self.Request = request_of(self.inputs)
        self.labels: list[str] = [str(label) for label in self.settings.get("labels", [])]
        self.scores = self.settings.get("scores", outputs[0])
        self.answered: list[str] = self.settings.get("outputs", outputs)
        if unknown := [name for name in (self.scores, *self.answered) if name not in outputs]:
            raise LoadError(f"settings name the output {unknown[0]}, and the model has: {', '.join(outputs)}")
        self.activation = self.settings.get("activation")
        if self.labels and self.activation not in ACTIVATIONS:
            raise LoadError(
                f"settings.labels needs settings.activation: softmax if {self.scores} has logits, sigmoid if it has one"
                " logit for two classes, none if it has probabilities"
            )

    # ---- for each request ----------------------------------------------------------------------------------------

    def decode(self, body: bytes, media_type: str) -> Arrays:
        """An array for each input, without the batch's dimension."""
        if media_type != NPY:
            return arrays_of(self.inputs, parse_json(self.Request, body))
        if len(self.inputs) != 1:
            raise UnsupportedMedia(f"The model has {len(self.inputs)} inputs, and a .npy file has one: send JSON.")
        [spec] = self.inputs
        arrays = {spec.name: read_npy(spec, body)}
        check_sizes(self.inputs, arrays)
        return arrays

    def decode_row(self, row: dict[str, Any]) -> Arrays:
        """As `decode` of JSON."""
        return arrays_of(self.inputs, validate(self.Request, row))

    # ---- for each batch ------------------------------------------------------------------------------------------

    def preprocess(self, items: list[Arrays]) -> list[Arrays]:
        """The items as they are: `inference` stacks those that are alike."""
        return items

    def inference(self, inputs: list[Arrays]) -> list[dict[str, Any]]:
        """The outputs of each item, by name; items of equal shapes go through the model together."""
        found: list[dict[str, Any]] = [{}] * len(inputs)
        for group in alike(inputs):
            size = 1 if self.batch_axis is None else self.model_batch or len(group)
            for begin in range(0, len(group), size):
                part = group[begin : begin + size]
                for place, outputs in zip(part, self._together([inputs[i] for i in part], size), strict=True):
                    found[place] = outputs
        return found

    def postprocess(self, outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The outputs, or the label and the probabilities in the order of the labels."""
        if self.labels:
            return [self._classified(np.asarray(each[self.scores])) for each in outputs]
        return [{name: short(each[name]) for name in self.answered} for each in outputs]

    def classify(self, answer: dict[str, Any]) -> str | None:
        """The label, where the model has labels."""
        return str(answer["label"]) if self.labels else None

    # ---- for each record -----------------------------------------------------------------------------------------

    def summarize(self, item: Arrays) -> Features:
        """Each number of a short input; length, mean and extremes of a longer one; no text."""
        found: Features = {}
        for name, array in item.items():
            for part, value in features(array if array.ndim else array.item()).items():
                found[name if part == "value" else f"{name}.{part}"] = value
        return found

    def redact(self, item: Arrays) -> Any:
        """The JSON of a request that gives the same arrays again."""
        return {name: array.tolist() for name, array in item.items()}

    # ---- the rest ------------------------------------------------------------------------------------------------

    def _together(self, items: list[Arrays], size: int) -> list[dict[str, Any]]:
        """The outputs of items of equal shapes; where the model takes more at a time, the last one is repeated."""
        axis = self.batch_axis
        if axis is None:
            return [dict(self.run(items[0]))]
        filled = [*items, *[items[-1]] * (size - len(items))] if self.model_batch else items
        stacked = {name: np.stack([item[name] for item in filled], axis=axis) for name in items[0]}
        outputs = self.run(stacked)
        return [
            {name: self._part(name, value, place, len(filled), axis) for name, value in outputs.items()}
            for place in range(len(items))
        ]

    def _part(self, name: str, value: Any, place: int, count: int, axis: int) -> Any:
        """One item's part of an output."""
        if isinstance(value, np.ndarray) and value.ndim > axis and value.shape[axis] == count:
            return value[(slice(None),) * axis + (place,)]
        if isinstance(value, list) and len(value) == count:  # such as the maps of a classifier
            return value[place]
        form = f"the shape {value.shape}" if isinstance(value, np.ndarray) else f"{len(value)} entries"
        raise ValueError(
            f"the output {name} has {form} for {count} items, and none counts them in dimension {axis}: set"
            " settings.batch_axis, null for a model that takes one item at a time"
        )

    def _classified(self, scores: np.ndarray) -> dict[str, Any]:
        values = scores.astype(np.float64).reshape(-1)
        if self.activation == "softmax":
            values = np.exp(values - values.max())
            values /= values.sum()
        elif self.activation == "sigmoid":
            positive = 1 / (1 + np.exp(-values))
            values = np.array([1 - positive[0], positive[0]]) if len(positive) == 1 else positive
        if len(values) != len(self.labels):
            raise ValueError(
                f"the output {self.scores} has {len(values)} values for {len(self.labels)} settings.labels"
            )
        return {
            "label": self.labels[int(values.argmax())],
            "probabilities": short(values.astype(np.float32)),
        }

    def _batch(self, inputs: Sequence[tuple[str, np.dtype, list[int | str]]]) -> tuple[int | None, int | None]:
        """The dimension that counts the items, and how many the model takes; by its inputs where no setting says."""
        if not inputs:
            raise LoadError("the model has no inputs")
        shapes = [shape for _, _, shape in inputs]
        if "batch_axis" in self.settings:
            axis = self.settings["batch_axis"]
            if axis is None:
                return None, None
            if short_ones := [name for name, _, shape in inputs if len(shape) <= axis]:
                raise LoadError(f"settings.batch_axis is {axis}, and the input {short_ones[0]} has no such dimension")
        elif all(shape and (isinstance(shape[0], str) or shape[0] == 1) for shape in shapes):
            axis = 0
        else:
            return None, None
        fixed = {shape[axis] for shape in shapes if isinstance(shape[axis], int)}
        if len(fixed) > 1:
            raise LoadError(f"the inputs have {sorted(map(str, fixed))} items in dimension {axis}: set batch_axis")
        return axis, int(fixed.pop()) if fixed else None

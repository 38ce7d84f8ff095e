"""Models in the ONNX format, run by onnxruntime."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from handlers.array_model import ArrayHandler, Outputs
from handlers.arrays import Arrays
from handlers.errors import LoadError
from handlers.packages import needed

logger = logging.getLogger(__name__)

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
#: Types of tensors by the name that onnxruntime gives them.
_DTYPES = {
    "double": "float64", "float": "float32", "float16": "float16", "bool": "bool", "string": "object",
    **{name: name for kind in ("int", "uint") for name in (f"{kind}8", f"{kind}16", f"{kind}32", f"{kind}64")},
}  # fmt: skip
_ERRORS_ONLY = 3


class OnnxHandler(ArrayHandler):
    """Any ONNX model: names, types and shapes of inputs and outputs come from the model itself.

    Settings besides those of ArrayHandler: `providers` (onnxruntime's execution providers; by default CUDA's where the
    worker has a GPU and onnxruntime has that provider, else the CPU's).
    """

    def open_model(self) -> tuple[list[tuple[str, np.dtype, list[int | str]]], list[str]]:
        """A session with the worker's threads, on its device."""
        with needed("onnxruntime", "tsctl[onnx]", "handlers.onnx"):
            import onnxruntime
        if not self.weights_file.is_file():
            raise LoadError(f"the archive has no weights file {self.weights_file.name}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1  # a worker runs one batch at a time
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other workers have the cores too
        options.log_severity_level = _ERRORS_ONLY
        try:
            self.session = onnxruntime.InferenceSession(
                str(self.weights_file), options, providers=self._providers(onnxruntime.get_available_providers())
            )
        except Exception as error:  # onnxruntime's own classes have no base of their own
            raise LoadError(f"{self.weights_file.name} cannot be loaded by onnxruntime: {error}") from error
        if _CUDA not in self.session.get_providers():
            self.device = torch.device("cpu")
        inputs = [(each.name, _dtype(each.name, each.type), _shape(each.shape)) for each in self.session.get_inputs()]
        return inputs, [each.name for each in self.session.get_outputs()]

    def run(self, arrays: Arrays) -> Outputs:
        """The answered outputs, and the scores of classes."""
        wanted = [self.scores] if self.labels else self.answered
        return dict(zip(wanted, self.session.run(wanted, arrays), strict=True))

    def _providers(self, available: list[str]) -> list[Any]:
        """Names, or name and options, in the order of preference.

        Raises:
            LoadError: a provider of the settings is not in this onnxruntime.
        """
        named: list[str] | None = self.settings.get("providers")
        if named is not None:
            if missing := [name for name in named if name not in available]:
                raise LoadError(
                    f"settings.providers: this onnxruntime has no {missing[0]}; it has: {', '.join(available)}"
                )
            return list(named)
        if self.device.type != "cuda":
            return [_CPU]
        if _CUDA not in available:
            logger.warning("%s: onnxruntime has no CUDA: pip install onnxruntime-gpu; it runs on the CPU", self.model)
            return [_CPU]
        return [(_CUDA, {"device_id": str(self.device.index or 0)}), _CPU]


def _dtype(name: str, kind: str) -> np.dtype:
    dtype = _DTYPES.get(kind.removeprefix("tensor(").removesuffix(")"))
    if dtype is None:
        raise LoadError(f"the input {name} is a {kind}, and handlers.onnx reads tensors of numbers, booleans or texts")
    return np.dtype(dtype)


def _shape(sizes: list[Any]) -> list[int | str]:
    """Sizes, and names of those that may differ; empty for one without a name."""
    return [size if isinstance(size, int) and size >= 0 else size if isinstance(size, str) else "" for size in sizes]

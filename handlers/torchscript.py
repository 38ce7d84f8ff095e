"""Models of PyTorch that carry their own code: TorchScript, and programs of torch.export."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from handlers.array_model import ArrayHandler, Outputs
from handlers.arrays import Arrays
from handlers.device import to_device
from handlers.errors import LoadError

#: The suffix of a program of torch.export; any other file is TorchScript.
_EXPORTED = ".pt2"
_INPUT_EXAMPLE = "settings.inputs: [{{name: {name}, shape: [batch, 16000], dtype: float32}}]"


class TorchScriptHandler(ArrayHandler):
    """Tensors in, tensors out.

    A program of torch.export (`.pt2`) says what it takes; TorchScript does not, and needs `inputs`.

    Settings besides those of ArrayHandler: `inputs` (name, shape and dtype of each, in the order of `forward`; a size
    is a number, or a name for one that may differ), `output_names` (in the order of the model's; `output`, or
    `output_0` and so on, by default).
    """

    def open_model(self) -> tuple[list[tuple[str, np.dtype, list[int | str]]], list[str]]:
        """The module on the worker's device, in eval mode."""
        path = self.weights_file
        if not path.is_file():
            raise LoadError(f"the archive has no weights file {path.name}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript's files outlive its compiler
                inputs, count = self._open_exported() if path.suffix == _EXPORTED else self.open_file()
        except LoadError:
            raise
        except Exception as error:  # torch raises nearly anything for a file that is none
            raise LoadError(f"{path.name} cannot be loaded by torch: {str(error).splitlines()[0]}") from error
        default = ["output"] if count == 1 else [f"output_{place}" for place in range(count)]
        self.output_names: list[str] = self.settings.get("output_names", default)
        return inputs, self.output_names

    def run(self, arrays: Arrays) -> Outputs:
        """The model's outputs, on the CPU."""
        found = self.call([to_device(torch.from_numpy(array), self.device) for array in arrays.values()])
        if isinstance(found, Mapping):
            named = dict(found)
        else:
            tensors = [found] if isinstance(found, torch.Tensor) else list(found)
            if len(tensors) != len(self.output_names):
                raise ValueError(f"the model gave {len(tensors)} outputs: name as many in settings.output_names")
            named = dict(zip(self.output_names, tensors, strict=True))
        return {name: _array(value) for name, value in named.items()}

    def call(self, tensors: list[torch.Tensor]) -> Any:
        """What `forward` returns for the inputs, in its order."""
        return self._forward(*tensors)

    def open_file(self) -> tuple[list[tuple[str, np.dtype, list[int | str]]], int]:
        """Open a file that does not say what it takes; returns name, type and shape of each input, and the number of
        outputs."""
        module = torch.jit.load(str(self.weights_file), map_location=self.device).eval()
        arguments = [argument.name for argument in module.forward.schema.arguments[1:]]
        inputs = self.stated_inputs(arguments[0] if arguments else "x")
        self._forward = module
        returned = module.forward.schema.returns[0].type
        return inputs, len(returned.elements()) if returned.kind() == "TupleType" else 1

    def stated_inputs(self, example: str) -> list[tuple[str, np.dtype, list[int | str]]]:
        """The inputs in the settings.

        Args:
            example: name of an input, for the error where there are none.
        """
        if not (stated := self.settings.get("inputs")):
            raise LoadError(
                f"{self.weights_file.name} does not say which shapes it takes, so the settings do:"
                f" {_INPUT_EXAMPLE.format(name=example)}"
            )
        return [_stated(each) for each in stated]

    def _open_exported(self) -> tuple[list[tuple[str, np.dtype, list[int | str]]], int]:
        program = torch.export.load(self.weights_file)
        if self.device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, self.device)
        values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
        signature = program.graph_signature
        if any(not isinstance(values.get(name), torch.Tensor) for name in signature.user_inputs):
            raise LoadError(f"{self.weights_file.name} takes inputs that are no tensors, and handlers.torchscript none")
        inputs = [_described(name, values[name]) for name in signature.user_inputs]
        if stated := self.settings.get("inputs"):
            if len(stated) != len(inputs):
                raise LoadError(f"settings.inputs names {len(stated)} inputs, and the model has {len(inputs)}")
            inputs = [(each["name"], *rest) for each, (_, *rest) in zip(stated, inputs, strict=True)]
        self.network = program.module()
        spec = program.call_spec.in_spec

        def forward(*tensors: torch.Tensor) -> Any:
            args, kwargs = torch.utils._pytree.tree_unflatten(list(tensors), spec)
            return self.network(*args, **kwargs)

        self._forward = forward
        return inputs, len(signature.user_outputs)


def _array(value: Any) -> Any:
    """A tensor as an array, bfloat16 as float32; anything else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def _stated(entry: Mapping[str, Any]) -> tuple[str, np.dtype, list[int | str]]:
    try:
        dtype = np.dtype(entry.get("dtype", "float32"))
        shape = [size if isinstance(size, int) else str(size) for size in entry["shape"]]
        name = str(entry["name"])
    except (AttributeError, KeyError, TypeError) as error:
        raise LoadError(f"settings.inputs: each has name, shape and dtype; {entry!r} has not: {error}") from None
    if dtype.kind not in "fiub":
        raise LoadError(f"settings.inputs: the dtype of {name} is {dtype}, expected one of numbers or bool")
    return name, dtype, shape


def _described(name: str, value: torch.Tensor) -> tuple[str, np.dtype, list[int | str]]:
    sizes: list[int | str] = [size if isinstance(size, int) else str(size) for size in value.shape]
    try:
        dtype = np.dtype(str(value.dtype).removeprefix("torch."))
    except TypeError:
        raise LoadError(f"the input {name} has the type {value.dtype}, which no JSON or .npy file has") from None
    return name, dtype, sizes

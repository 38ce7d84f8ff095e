"""The part of Triton's python backend that the adapter calls, for tests without a server.

tests/live/test_triton.py sends the same requests to the real one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

NAME = "triton_python_backend_utils"


class Tensor:
    """A named array."""

    def __init__(self, name: str, array: np.ndarray[Any, Any]) -> None:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"a tensor needs an array, got {type(array).__name__}")
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray[Any, Any]:
        return self._array


class TritonError:
    """The reason of a failed request."""

    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class InferenceResponse:
    """Tensors, or an error."""

    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        self._outputs, self._error = list(output_tensors), error

    def output_tensors(self) -> list[Tensor]:
        return self._outputs

    def error(self) -> TritonError | None:
        return self._error


@dataclass
class InferenceRequest:
    """One request as the backend hands it over."""

    tensors: Sequence[Tensor]
    given_parameters: Mapping[str, Any] = field(default_factory=dict)
    given_id: str = ""
    outputs: Iterable[str] = ()

    def inputs(self) -> list[Tensor]:
        return list(self.tensors)

    def parameters(self) -> str:
        return json.dumps(self.given_parameters)

    def request_id(self) -> str:
        return self.given_id

    def requested_output_names(self) -> list[str]:
        return list(self.outputs)


def install() -> None:
    """Let `import triton_python_backend_utils` find this."""
    module = ModuleType(NAME)
    for entry in (Tensor, TritonError, InferenceResponse, InferenceRequest):
        setattr(module, entry.__name__, entry)
    sys.modules[NAME] = module

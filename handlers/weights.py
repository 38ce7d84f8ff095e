"""Reads weights without ever running code that they carry."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

from handlers.errors import LoadError


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """A state dict on the CPU, from safetensors or from a torch file read with `weights_only=True`.

    Raises:
        LoadError: the file is missing, broken, or holds more than tensors.
    """
    if not path.is_file():
        raise LoadError(f"the archive has no weights file {path.name}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: dict[str, torch.Tensor] = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise LoadError(f"{path.name} cannot be read as weights: {error}") from error
    return state


def import_file(path: Path) -> ModuleType:
    """The module in `path`, under a name of its own, so that it meets no other module of the same name.

    Raises:
        LoadError: the file is missing.
    """
    if not path.is_file():
        raise LoadError(f"the archive has no {path.name}")
    name = f"_archive_{path.stem}_{abs(hash(path))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LoadError(f"{path.name} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module

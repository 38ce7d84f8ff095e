"""Handlers for models that PyTorch serves: the world inside a worker, bundled whole into every archive.

The names in `__all__` are public; everything else may change. They are imported when they are first used, because tsctl
imports `handlers.contract`, and must load neither torch nor pydantic with it. Imports here are absolute and never reach
outside the archive, so that a file works from the checkout and from inside an archive alike.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handlers.array_model import ArrayHandler
    from handlers.base import ServingHandler
    from handlers.batching import micro_batches
    from handlers.device import tensor_of, to_device
    from handlers.embedding import EmbeddingHandler
    from handlers.errors import (
        DeadlinePassed,
        DoesNotFit,
        LoadError,
        ModelFailed,
        NotImplementedHere,
        PayloadTooLarge,
        RequestError,
        UndecodableBody,
        UnreadableHeader,
        UnsupportedMedia,
    )
    from handlers.gbm import GbmHandler
    from handlers.image import ImageHandler
    from handlers.network import NetworkHandler
    from handlers.onnx import OnnxHandler
    from handlers.pickles import load_pickle
    from handlers.schema import Schema, parse_json, validate
    from handlers.secrets import secret
    from handlers.sklearn import SklearnHandler
    from handlers.tabular import TabularHandler
    from handlers.text_classification import TextClassificationHandler
    from handlers.text_generation import TextGenerationHandler
    from handlers.torchscript import TorchScriptHandler
    from handlers.weights import import_file, load_weights

#: The public names by module.
_NAMES = {
    "array_model": "ArrayHandler",
    "base": "ServingHandler",
    "batching": "micro_batches",
    "device": "tensor_of to_device",
    "embedding": "EmbeddingHandler",
    "errors": "DeadlinePassed DoesNotFit LoadError ModelFailed NotImplementedHere PayloadTooLarge RequestError "
    "UndecodableBody UnreadableHeader UnsupportedMedia",
    "gbm": "GbmHandler",
    "image": "ImageHandler",
    "network": "NetworkHandler",
    "onnx": "OnnxHandler",
    "pickles": "load_pickle",
    "schema": "Schema parse_json validate",
    "sklearn": "SklearnHandler",
    "secrets": "secret",
    "tabular": "TabularHandler",
    "text_classification": "TextClassificationHandler",
    "text_generation": "TextGenerationHandler",
    "torchscript": "TorchScriptHandler",
    "weights": "import_file load_weights",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "ArrayHandler", "DeadlinePassed", "DoesNotFit", "EmbeddingHandler", "GbmHandler", "ImageHandler", "LoadError",
    "ModelFailed", "NetworkHandler", "NotImplementedHere", "OnnxHandler", "PayloadTooLarge", "RequestError", "Schema",
    "ServingHandler", "SklearnHandler", "TabularHandler", "TextClassificationHandler", "TextGenerationHandler",
    "TorchScriptHandler", "UndecodableBody", "UnreadableHeader", "UnsupportedMedia", "import_file", "load_pickle",
    "load_weights", "micro_batches", "parse_json", "secret", "tensor_of", "to_device", "validate",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"handlers.{_MODULES[name]}"), name)

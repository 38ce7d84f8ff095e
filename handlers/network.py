"""Weights for a network that the archive's model.py builds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from handlers.errors import LoadError
from handlers.torchscript import TorchScriptHandler
from handlers.weights import import_file, load_weights


class NetworkHandler(TorchScriptHandler):
    """Tensors in, tensors out: `build(settings)` of model.py is the network, and `weights` its state dict.

    Settings as those of TorchScriptHandler; `inputs` is needed, and `output_names` where there are several outputs.
    """

    def open_file(self) -> tuple[list[tuple[str, np.dtype, list[int | str]]], int]:
        """The network on the worker's device, in eval mode, filled with the weights."""
        inputs = self.stated_inputs("x")
        module = import_file(self.model_dir / "model.py")
        if not callable(getattr(module, "build", None)):
            raise LoadError("model.py has no function build(settings) that returns the network")
        network = module.build(self.settings)
        try:
            network.load_state_dict(load_weights(self.weights_file))
        except RuntimeError as error:
            raise LoadError(f"{self.weights_file.name} does not fit the network of model.py: {error}") from error
        self.network = network.to(self.device).eval()
        return inputs, 1

    def call(self, tensors: list[torch.Tensor]) -> Any:
        """What the network returns for the inputs, in its order."""
        return self.network(*tensors)

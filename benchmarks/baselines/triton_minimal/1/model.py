"""The linear layer on Triton, as its python backend's documentation shows it: a whole JSON body in, a JSON text out.

The weights lie beside it as model.safetensors.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.append(os.environ["TSCTL_LIBRARIES"])  # torch is there, and not in Triton's own environment

import torch
from safetensors.torch import load_file


class TritonPythonModel:
    def initialize(self, args):
        torch.set_num_threads(1)
        folder = Path(args["model_repository"]) / args["model_version"]
        self.network = torch.nn.Linear(64, 10)
        self.network.load_state_dict(load_file(folder / "model.safetensors"))
        self.network.eval()

    def execute(self, requests):
        rows = []
        for request in requests:
            body = pb_utils.get_input_tensor_by_name(request, "body").as_numpy()
            rows.append(json.loads(body[0, 0])["row"])
        with torch.inference_mode():
            scores = self.network(torch.tensor(rows)).tolist()
        responses = []
        for row in scores:
            text = json.dumps({"scores": row}).encode()
            tensor = pb_utils.Tensor("answer", np.array([[text]], dtype=np.object_))
            responses.append(pb_utils.InferenceResponse(output_tensors=[tensor]))
        return responses

"""Triton's python backend with the least code that answers: https://github.com/triton-inference-server/python_backend."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils
from network import Network


class TritonPythonModel:
    """One input tensor, and one output tensor."""

    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        folder, threads = (parameters[name]["string_value"] for name in ("folder", "threads"))
        self.network = Network(folder, int(threads))

    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "features").as_numpy() for request in requests]
        rows = np.concatenate(inputs)
        features = [row[0].decode() for row in rows] if self.network.task.is_text else rows
        numbers = np.array(self.network.predict(features), dtype=np.float32)
        responses, at = [], 0
        for each in inputs:
            part = numbers[at : at + len(each)]
            at += len(each)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("numbers", part)]))
        return responses

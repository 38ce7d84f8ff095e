"""Fits a model to rows that are made up, and writes it as model.onnx. Put your own file in its place.

A network of PyTorch becomes such a file by torch.onnx.export, a pipeline of scikit-learn by skl2onnx.to_onnx.
"""

import argparse
from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save_model

parser = argparse.ArgumentParser()
parser.add_argument("--version")
parser.add_argument("--settings")
parser.add_argument("--out", type=Path)
arguments = parser.parse_args()

chance = np.random.default_rng(0)
rows = chance.uniform(0, 1, (400, 4))  # current, voltage, speed, gas; each from 0 to 1
is_strong = rows @ [2.0, 1.0, -1.0, 0.5] + chance.uniform(-0.2, 0.2, 400) > 1.2
targets = np.stack([~is_strong, is_strong], axis=1) * 8.0 - 4.0
inputs = np.concatenate([rows, np.ones((400, 1))], axis=1)
solution = np.linalg.lstsq(inputs, targets, rcond=None)[0].round(3)  # rounded, so that all machines get the same bytes
print(f"{100 * np.mean((inputs @ solution).argmax(axis=1) == is_strong):.0f} % of {len(rows)} rows right")

constants = {"weights": solution[:-1], "bias": solution[-1]}
graph = helper.make_graph(
    [helper.make_node("Gemm", ["measures", "weights", "bias"], ["logits"])],
    "weld",
    [helper.make_tensor_value_info("measures", TensorProto.FLOAT, ["batch", 4])],
    [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
    [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
checker.check_model(model)
save_model(model, arguments.out / "model.onnx")

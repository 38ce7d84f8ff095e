"""Fits logistic regression to scikit-learn's wine data and writes it as model.onnx: standardise, multiply, add.

A network of PyTorch becomes such a file by torch.onnx.export, a pipeline of scikit-learn by skl2onnx.to_onnx.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save_model
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression

#: The model is convex, so all machines find nearly the same numbers; rounded to a grid they are the same.
GRID = 2.0**-8

parser = argparse.ArgumentParser()
parser.add_argument("--version")
parser.add_argument("--settings")
parser.add_argument("--out", type=Path)
options = parser.parse_args()

rows, grower = load_wine(return_X_y=True)
mean, deviation = (np.round(part, 2) for part in (rows.mean(axis=0), rows.std(axis=0)))
fitted = LogisticRegression(tol=1e-10, max_iter=10_000).fit((rows - mean) / deviation, grower)
weights, bias = (np.round(part / GRID) * GRID for part in (fitted.coef_.T, fitted.intercept_))
constants = {"mean": mean, "deviation": deviation, "weights": weights, "bias": bias}
graph = helper.make_graph(
    [
        helper.make_node("Sub", ["properties", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "deviation"], ["standardised"]),
        helper.make_node("Gemm", ["standardised", "weights", "bias"], ["logits"]),
    ],
    "wine",
    [helper.make_tensor_value_info("properties", TensorProto.FLOAT, ["batch", rows.shape[1]])],
    [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
    [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
checker.check_model(model)
save_model(model, options.out / "model.onnx")
right = fitted.score((rows - mean) / deviation, grower)
print(f"wine {options.version}: {100 * right:.1f} % of {len(rows)} wines right")

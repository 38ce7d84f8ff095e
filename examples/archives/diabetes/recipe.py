"""Trains trees of LightGBM on scikit-learn's diabetes data, with one column of categories, and writes model.txt."""

from __future__ import annotations

import argparse
from pathlib import Path

import lightgbm
import numpy as np
import pandas
from sklearn.datasets import load_diabetes

NAMES = {
    "bp": "blood_pressure", "s1": "cholesterol", "s2": "ldl", "s3": "hdl", "s4": "cholesterol_ratio",
    "s5": "log_triglycerides", "s6": "blood_sugar",
}  # fmt: skip
#: The same trees on every machine.
PARAMETERS = {
    "objective": "regression", "num_leaves": 7, "learning_rate": 0.1, "seed": 0, "num_threads": 1,
    "deterministic": True, "force_row_wise": True, "verbose": -1,
}  # fmt: skip

parser = argparse.ArgumentParser()
parser.add_argument("--version")
parser.add_argument("--settings")
parser.add_argument("--out", type=Path)
options = parser.parse_args()

table, progress = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
table = table.rename(columns=NAMES)
table["sex"] = pandas.Categorical(table["sex"].map({1.0: "first", 2.0: "second"}))  # the data set names neither
held_out = np.arange(len(table)) % 5 == 0
booster = lightgbm.train(PARAMETERS, lightgbm.Dataset(table[~held_out], progress[~held_out]), num_boost_round=40)
booster.save_model(options.out / "model.txt")
error = float(np.abs(booster.predict(table[held_out]) - progress[held_out]).mean())
print(f"diabetes {options.version}: mean error {error:.0f} of {int(held_out.sum())} held-out patients")

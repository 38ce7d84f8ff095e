"""Fits a pipeline of scikit-learn to rows that are made up, and writes model.skops. Put your own data in their place.

skops writes places in memory into the file, so each run gives other bytes, and another archive.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

parser = argparse.ArgumentParser()
parser.add_argument("--version")
parser.add_argument("--settings")
parser.add_argument("--out", type=Path)
arguments = parser.parse_args()

chance = np.random.default_rng(0)
columns = {
    "months": chance.uniform(1, 60, 400),  # as a customer
    "calls": chance.uniform(0, 10, 400),  # to the hotline
    "spend": chance.uniform(5, 80, 400),  # each month
}
table = pd.DataFrame(columns)
leaves = table["calls"] * 6 - table["months"] + chance.uniform(-8, 8, 400) > 5
pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(table, np.where(leaves, "leaves", "stays"))
print(f"{100 * pipeline.score(table, np.where(leaves, 'leaves', 'stays')):.0f} % of {len(table)} rows right")
skops.io.dump(pipeline, arguments.out / "model.skops")

"""The linear layer behind FastAPI, as its users write it; the model is called for each request.

`async def`, because a call this short is faster in the event loop than in FastAPI's pool of threads.
"""

import os
import sys
from pathlib import Path

import torch
from fastapi import FastAPI
from pydantic import BaseModel, Field
from safetensors.torch import load_file

FOLDER = Path(os.environ["LINEAR_FOLDER"])
sys.path.insert(0, str(FOLDER))
from model import build  # noqa: E402 - the folder of the model is known only now

torch.set_num_threads(1)
network = build({})
network.load_state_dict(load_file(os.environ["LINEAR_WEIGHTS"]))
network.eval()
app = FastAPI()


class Row(BaseModel):
    """The request."""

    row: list[float] = Field(min_length=64, max_length=64)


class Scores(BaseModel):
    """The answer."""

    scores: list[float]


@app.post("/predict")
async def predict(request: Row) -> Scores:
    """Ten scores from 64 numbers."""
    with torch.inference_mode():
        outputs = network(torch.tensor([request.row]))
    return Scores(scores=outputs[0].tolist())

"""FastAPI as its users write it: the model is called for each request.

`async def`, because a call this short is faster in the event loop than in FastAPI's pool of threads; a model that
computes for milliseconds is called in the pool, as FastAPI's documentation says of blocking code.
"""

import os
from typing import Any

from fastapi import FastAPI
from network import Network
from pydantic import create_model

network = Network(os.environ["PEER_FOLDER"], int(os.environ["PEER_THREADS"]))
task = network.task
TYPES = {"handlers.image": list[list[float]], "handlers.embedding": str, "handler": list[float]}
if task.handler == "handlers.tabular":
    Request = create_model("Request", **dict.fromkeys(task.settings["features"], (float, ...)))
else:
    Request = create_model("Request", **{task.field: (TYPES[task.handler], ...)})
ANSWERS = {
    "handlers.tabular": {"label": (str, ...), "probability": (float, ...)},
    "handlers.image": {"label": (str, ...), "probabilities": (list[float], ...), "top_k": (list[dict[str, Any]], ...)},
    "handlers.embedding": {"embeddings": (list[list[float]], ...)},
    "handler": {"scores": (list[float], ...)},
}
Answer = create_model("Answer", **ANSWERS[task.handler])
app = FastAPI()


def answer(request):
    """One answer from one request."""
    [numbers] = network.predict([task.feature(vars(request))])
    return Answer(**task.answer(numbers))


if task.is_text:

    @app.post("/predict")
    def predict(request: Request) -> Answer:
        """In FastAPI's pool of threads."""
        return answer(request)

else:

    @app.post("/predict")
    async def predict(request: Request) -> Answer:
        """In the event loop."""
        return answer(request)

"""BentoML as its documentation writes an adaptively batched service: https://docs.bentoml.com (adaptive batching)."""

import os

import bentoml
from network import Network


@bentoml.service(workers=1)
class Peer:
    """A list of features for each call, over which BentoML batches.

    The documentation's own `max_latency_ms=1000` is left out: with it, BentoML refuses nearly all requests of a model
    whose full batch takes 0.3 s. The default is a minute.
    """

    def __init__(self) -> None:
        self.network = Network(os.environ["PEER_FOLDER"], int(os.environ["PEER_THREADS"]))

    @bentoml.api(batchable=True, max_batch_size=int(os.environ["PEER_BATCH"]))
    def predict(self, features: list) -> list:
        return self.network.predict(features)

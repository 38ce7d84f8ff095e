"""BentoML as its documentation writes an adaptively batched service: https://docs.bentoml.com (adaptive batching)."""

import os

import bentoml
from network import Network


@bentoml.service(workers=1)
class Peer:
    """A list of features for each call, over which BentoML batches."""

    def __init__(self) -> None:
        self.network = Network(os.environ["PEER_FOLDER"], int(os.environ["PEER_THREADS"]))

    @bentoml.api(batchable=True, max_batch_size=int(os.environ["PEER_BATCH"]), max_latency_ms=1000)
    def predict(self, features: list) -> list:
        return self.network.predict(features)

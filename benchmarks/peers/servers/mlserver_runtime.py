"""MLServer as its documentation writes a custom runtime: https://mlserver.readthedocs.io/en/stable/user-guide/custom."""

import os

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from network import Network


class PeerRuntime(MLModel):
    """One input tensor, and one output tensor."""

    async def load(self) -> bool:
        self.network = Network(os.environ["PEER_FOLDER"], int(os.environ["PEER_THREADS"]))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        codec = StringCodec if self.network.task.is_text else NumpyCodec
        features = codec.decode_input(payload.inputs[0])
        numbers = self.network.predict(features if self.network.task.is_text else features.tolist())
        output = NumpyCodec.encode_output("numbers", np.array(numbers, dtype=np.float32))
        return InferenceResponse(model_name=self.name, outputs=[output])

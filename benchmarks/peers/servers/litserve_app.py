"""LitServe as its documentation writes a batched API: https://lightning.ai/docs/litserve/features/batching."""

import os

import litserve
from network import Network


class PeerAPI(litserve.LitAPI):
    """One request of JSON."""

    def setup(self, device):
        self.network = Network(os.environ["PEER_FOLDER"], int(os.environ["PEER_THREADS"]))

    def decode_request(self, request):
        return self.network.task.feature(request)

    def batch(self, inputs):
        return inputs

    def predict(self, inputs):
        return self.network.predict(inputs)

    def unbatch(self, outputs):
        return outputs

    def encode_response(self, output):
        return self.network.task.answer(output)


if __name__ == "__main__":
    api = PeerAPI(max_batch_size=int(os.environ["PEER_BATCH"]), batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(os.environ["PEER_PORT"]), generate_client_file=False, num_api_servers=1,
        log_level="error", access_log=False,
    )  # fmt: skip

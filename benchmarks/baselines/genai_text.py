"""openvino-genai's own continuous batching, for the plans of `benchmarks.text.in_process`: the library alone.

Arguments: the GGUF file, and `exact` (float32, answers independent of the batch) or `fast`.
"""

import sys
from collections.abc import Iterable, Sequence

import numpy as np
import openvino as ov
import openvino_genai as genai

from benchmarks.text.loop import Loop, serve_plans
from handlers.text.backend import LENGTH, STOP, Produced, Token
from handlers.text.sampling import Sampling

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
FINISHED = genai.GenerationStatus.FINISHED


class GenaiBackend:
    """A `ContinuousBatchingPipeline` as a backend, with what the plans need."""

    name = "openvino-genai"
    context = 2048

    def __init__(self, weights: str, is_exact: bool) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 1
        scheduler.max_num_seqs = 64
        self._pipeline = genai.ContinuousBatchingPipeline(weights, scheduler, "CPU", EXACT if is_exact else {})
        self._tokenizer = self._pipeline.get_tokenizer()
        self._bytes = {number: piece for piece, number in self._tokenizer.get_vocab().items()}
        self._handles = {}
        self._limits = {}

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).input_ids.data[0].tolist()

    def token_bytes(self, token: int) -> bytes:
        piece = self._bytes.get(token, b"")
        return piece.encode() if isinstance(piece, str) else piece

    def add(self, key: int, prompt: Sequence[int], sampling: Sampling, salt: str | None = None) -> None:
        config = genai.GenerationConfig()
        config.max_new_tokens, config.do_sample = sampling.max_tokens, False
        config.set_eos_token_id(self._tokenizer.get_eos_token_id())
        tokens = ov.Tensor(np.array([prompt], dtype=np.int64))
        self._handles[key] = self._pipeline.add_request(key, tokens, config)
        self._limits[key] = sampling.max_tokens

    def cancel(self, key: int) -> None:
        self._handles.pop(key).cancel()

    def step(self) -> Iterable[Produced]:
        self._pipeline.step()
        produced = []
        for key, handle in list(self._handles.items()):
            new = handle.read()[0].generated_ids if handle.can_read() else []
            self._limits[key] -= len(new)
            finish = ""
            if handle.get_status() == FINISHED and not handle.can_read():
                finish = STOP if self._limits[key] > 0 else LENGTH
                del self._handles[key]
            if len(new) or finish:
                produced.append(Produced(key, tuple(map(Token, new)), finish))
        return produced

    def close(self) -> None:
        self._handles.clear()


if __name__ == "__main__":
    serve_plans(lambda: Loop(GenaiBackend(sys.argv[1], sys.argv[2] == "exact")))

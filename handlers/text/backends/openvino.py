"""A language model on the CPU by OpenVINO, from GGUF with its quantised weights: the network of one step.

OpenVINO's own pipeline (openvino_genai) is used to read GGUF only. Its loop cannot go on after a step that failed,
gives no alternatives of a token, and cannot keep remembered prompts of clients apart (docs/decisions/0045).
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handlers.errors import LoadError
from handlers.text.backend import Backend
from handlers.text.backends import OPENVINO, BackendOptions, ModelFiles
from handlers.text.backends.files import read_model_facts
from handlers.text.backends.loop import PagedBackend
from handlers.text.backends.runner import Chunk
from handlers.text.backends.tokens import Tokens
from handlers.text.backends.zero_points import set_zero_points

#: Families whose GGUF openvino_genai reads.
ARCHITECTURES = ("llama", "qwen2", "qwen3")
#: The network that `convert` writes, with its weights beside it.
CONVERTED = ("openvino_model.xml", "openvino_model.bin")
_STEP_TOKENS, _BESIDE_TOKENS = 256, 64
#: float32 throughout: the same logits, to about 3e-5, whatever else is in the batch.
_EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0", "KV_CACHE_PRECISION": "f32"}


def open_openvino(model: ModelFiles, options: BackendOptions) -> Backend:
    """The backend.

    Raises:
        LoadError: the model is none that OpenVINO reads here.
        ModuleNotFoundError: a package of the extra `text` is missing.
    """
    if not model.weights.is_file():
        raise LoadError(
            "the openvino backend reads a GGUF file; for a folder of Hugging Face use the transformers backend"
        )
    facts = read_model_facts(model)
    if facts.architecture not in ARCHITECTURES:
        raise LoadError(f"the openvino backend reads {', '.join(ARCHITECTURES)}, and this is {facts.architecture}")
    runner = OpenVinoRunner(_network(model), options)
    context = options.context or facts.context
    if context > facts.context:
        raise LoadError(f"generation.context is {context}, and the model was trained with {facts.context}")
    return PagedBackend(runner, Tokens(facts), context, options.most_running, options.shares_prompts)


def convert(weights: Path, folder: Path) -> None:
    """Write the network of a GGUF file into a folder, as OpenVINO's own format: it loads in less than half the time.

    Its weights are those of the file (`zero_points`).

    Raises:
        LoadError: openvino_genai cannot read it.
    """
    import openvino
    import openvino_genai

    folder.mkdir(parents=True, exist_ok=True)
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = 1
    with tempfile.TemporaryDirectory(dir=folder) as place:
        link = Path(place, "model.gguf")
        link.symlink_to(weights.resolve())  # it writes beside the file that it reads
        try:
            openvino_genai.ContinuousBatchingPipeline(link, scheduler, "CPU", {"enable_save_ov_model": True})
        except RuntimeError as error:
            raise LoadError(f"{weights.name} cannot be read by openvino_genai: {_first_line(error)}") from error
        network = openvino.Core().read_model(Path(place, CONVERTED[0]))
        set_zero_points(network, weights)
        openvino.save_model(network, folder / CONVERTED[0], compress_to_fp16=False)


def _network(model: ModelFiles) -> Any:
    import openvino

    if model.converted is None:
        with tempfile.TemporaryDirectory() as place:
            convert(model.weights, Path(place))
            return openvino.Core().read_model(Path(place, CONVERTED[0]))  # it stays mapped after its name is gone
    network = openvino.Core().read_model(model.converted / CONVERTED[0])
    set_zero_points(network, model.weights)  # of folders that openvino_genai wrote
    return network


class OpenVinoRunner:
    """A network compiled for the CPU, with keys and values in blocks.

    Args:
        network: an `openvino.Model` with `input_ids`, `attention_mask`, `position_ids`, `beam_idx` and one output.
    """

    name = OPENVINO

    def __init__(self, network: Any, options: BackendOptions) -> None:
        import openvino
        from openvino._offline_transformations import paged_attention_transformation

        torch.set_num_threads(1)  # tokens are chosen in it; its threads would spin beside OpenVINO's
        paged_attention_transformation(network)
        _keep_last_tokens(network)
        settings: dict[str, Any] = dict(_EXACT) if options.is_exact else {}
        if options.threads:
            settings["INFERENCE_NUM_THREADS"] = options.threads
        compiled = openvino.Core().compile_model(network, "CPU", settings)
        self._openvino = openvino
        self._request: Any = compiled.create_infer_request()
        caches = [port for port in compiled.inputs if port.any_name.startswith(("key_cache", "value_cache"))]
        shapes = {port: [size.get_length() for size in list(port.partial_shape)[1:]] for port in caches}
        # keys in the form of int8 have their scales in the last dimension, so the number of tokens is that of float32
        self.block_tokens = 32
        bytes_per_block = sum(int(np.prod(shape)) * port.element_type.size for port, shape in shapes.items())
        self.blocks = options.cache_bytes // bytes_per_block
        self.step_tokens = options.step_tokens or _STEP_TOKENS
        self.beside_tokens = min(self.step_tokens, _BESIDE_TOKENS)
        for port, shape in shapes.items():
            tensor = openvino.Tensor(port.element_type, openvino.Shape([max(1, self.blocks), *shape]))
            tensor.data.fill(0)  # takes its memory now: a worker that grows until all blocks were used seems to leak
            self._request.set_tensor(port.any_name, tensor)

    def run(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        lengths = np.array([len(chunk.tokens) for chunk in chunks])
        past = np.array([chunk.past for chunk in chunks])
        ends = np.cumsum(lengths)
        used = -(-(past + lengths) // self.block_tokens)
        blocks = [chunk.blocks[:count] for chunk, count in zip(chunks, used, strict=True)]
        self._set("input_ids", np.concatenate([chunk.tokens for chunk in chunks]), np.int64)
        self._set(
            "position_ids", np.concatenate([np.arange(p, p + n) for p, n in zip(past, lengths, strict=True)]), np.int64
        )
        self._set("past_lens", past)
        self._set("subsequence_begins", np.concatenate([[0], ends]))
        self._set("block_indices", np.concatenate(blocks))
        self._set("block_indices_begins", np.concatenate([[0], np.cumsum(used)]))
        self._set("max_context_len", np.max(past + lengths))
        self._set(_LAST, ends - 1, np.int64)
        self._request.infer()
        logits = self._request.get_output_tensor(0).data
        return torch.from_numpy(logits.reshape(len(chunks), -1))

    def close(self) -> None:
        self._request = None
        gc.collect()

    def _set(self, name: str, values: Any, kind: Any = np.int32) -> None:
        self._request.set_tensor(name, self._openvino.Tensor(np.asarray(values, kind)))


_LAST = "last_tokens"


def _keep_last_tokens(network: Any) -> None:
    """Compute logits after the last token of each chunk only: an input says where these are."""
    from openvino import opset13

    product = network.outputs[0].get_node().input_value(0).get_node()
    places = opset13.parameter([-1], np.int64, name=_LAST)
    places.output(0).set_names({_LAST})
    kept = opset13.gather(product.input_value(0), places, opset13.constant(np.int64(0)))
    product.input(0).replace_source_output(kept.output(0))
    network.add_parameters([places])
    network.validate_nodes_and_infer_types()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")

"""A language model by torch and transformers, on a CPU or a GPU: the network of one step.

All chunks of a step go through the network as one row of tokens, so that its weights are read once. Only attention sees
chunks: those of one token together, longer ones each by itself. Keys and values lie in blocks (`loop.py`).
On a GPU, steps of single tokens are captured as CUDA graphs, one for each number of answers and blocks, rounded up.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handlers.device import to_device
from handlers.errors import LoadError
from handlers.text.backend import Backend
from handlers.text.backends import TRANSFORMERS, BackendOptions, ModelFiles
from handlers.text.backends.files import read_model_facts
from handlers.text.backends.loop import PagedBackend
from handlers.text.backends.runner import Chunk
from handlers.text.backends.tokens import Tokens

_BLOCK_TOKENS = 32
_CPU_STEP_TOKENS, _CPU_BESIDE_TOKENS, _GPU_STEP_TOKENS = 256, 64, 2048
#: Our attention's name among those of transformers.
_ATTENTION = "tsctl_blocks"


def open_transformers(model: ModelFiles, options: BackendOptions) -> Backend:
    """The backend.

    Raises:
        LoadError: the model is none that transformers reads, or its attention is of a kind that is not computed here.
        ModuleNotFoundError: transformers, or for GGUF the package gguf, is missing.
    """
    facts = read_model_facts(model)
    context = options.context or facts.context
    if context > facts.context:
        raise LoadError(f"generation.context is {context}, and the model was trained with {facts.context}")
    runner = TorchRunner(_load(model.weights, options), options)
    return PagedBackend(runner, Tokens(facts), context, options.most_running, options.shares_prompts)


def _load(weights: Path, options: BackendOptions) -> Any:
    """The network with its weights, in float32 where the backend is exact on a CPU, else in bfloat16."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the archive has all files; nothing is asked of a hub
    from transformers import AutoModelForCausalLM

    is_file = weights.is_file()
    if is_file:
        import gguf  # noqa: F401 - transformers would only say that it is missing after a search for it

    dtype = torch.float32 if options.device == "cpu" and options.is_exact else torch.bfloat16
    try:
        if is_file:
            network = AutoModelForCausalLM.from_pretrained(
                weights.parent, gguf_file=weights.name, dtype=dtype, local_files_only=True
            )
        else:
            network = AutoModelForCausalLM.from_pretrained(weights, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise LoadError(f"{weights.name} cannot be read by transformers: {error}") from error
    return network


@dataclass(slots=True)
class _Step:
    """What attention needs to know of the chunks of one step. Chunks of one token come first.

    Args:
        write: place of each token's keys and values, shape (tokens,).
        tables: blocks of each chunk of one token, shape (chunks, blocks).
        ends: number of each such token in its text, shape (chunks,).
        longer: for the other chunks, their length, the tokens before, and the places of all their tokens.
    """

    write: torch.Tensor
    tables: torch.Tensor
    ends: torch.Tensor
    longer: Sequence[tuple[int, int, torch.Tensor]]


@dataclass(slots=True)
class _Graph:
    """A captured step, with all tensors that it reads and writes: their memory must not be given to others."""

    graph: Any
    ids: torch.Tensor
    step: _Step
    logits: torch.Tensor


class TorchRunner:
    """A network of transformers, with keys and values in blocks.

    Args:
        network: a causal language model, on any device; it is changed in place.

    Raises:
        LoadError: it has another kind of attention, such as one with a window.
    """

    block_tokens = _BLOCK_TOKENS

    name = TRANSFORMERS

    def __init__(self, network: Any, options: BackendOptions) -> None:
        device = torch.device(options.device)
        if device.type == "cpu" and options.threads:
            torch.set_num_threads(options.threads)
        config = network.config.get_text_config()
        heads = config.num_key_value_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._device = device
        self._is_captured = device.type == "cuda" and options.is_captured
        self._network: Any = network.to(device).eval().requires_grad_(False)
        self.step_tokens = options.step_tokens or (_CPU_STEP_TOKENS if device.type == "cpu" else _GPU_STEP_TOKENS)
        self.beside_tokens = min(self.step_tokens, _CPU_BESIDE_TOKENS) if device.type == "cpu" else self.step_tokens
        dtype = network.dtype
        bytes_per_block = 2 * config.num_hidden_layers * _BLOCK_TOKENS * heads * width * dtype.itemsize
        self.blocks = options.cache_bytes // bytes_per_block
        places = (self.blocks + 1) * _BLOCK_TOKENS  # what pads a captured step writes to the last block
        shape = (config.num_hidden_layers, 2, places, heads, width)
        self._attention = _Attention(torch.zeros(shape, dtype=dtype, device=device))
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._pool: Any = None
        self._use_attention()

    def _use_attention(self) -> None:
        from transformers import AttentionInterface

        # no mask of that name is registered: then transformers makes none
        AttentionInterface.register(_ATTENTION, _attend)
        self._network.set_attn_implementation(_ATTENTION)
        for module in self._network.modules():
            if hasattr(module, "layer_idx"):
                module.blocks_attention = self._attention
        try:
            self.run([Chunk([0, 0], 0, [self.blocks])])
        except NotImplementedError as error:
            raise LoadError(f"the transformers backend cannot serve this model: {error}") from error

    def run(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        with torch.inference_mode():
            return self._run(chunks)

    def _run(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        order = sorted(range(len(chunks)), key=lambda index: len(chunks[index].tokens) > 1)
        ordered = [chunks[index] for index in order]
        if self._is_captured and len(ordered[-1].tokens) == 1:
            return self._run_captured(ordered)
        lengths = np.array([len(chunk.tokens) for chunk in ordered])
        ids = np.concatenate([chunk.tokens for chunk in ordered])
        positions = np.concatenate([np.arange(c.past, c.past + len(c.tokens)) for c in ordered])
        logits = self._forward(self._tensor(ids), self._tensor(positions), self._step(ordered), np.cumsum(lengths) - 1)
        if order == sorted(order):
            return logits
        return logits[torch.from_numpy(np.argsort(order)).to(self._device)]

    def close(self) -> None:
        self._graphs = {}
        self._attention.cache = torch.empty(0)
        self._network = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    # ---- one step ----------------------------------------------------------------------------------------------------

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, step: _Step, last: Any = None) -> torch.Tensor:
        """Logits after the tokens at the places `last`; None: after all of them."""
        self._attention.step = step
        kept = 0 if last is None else self._tensor(last)  # 0 is transformers' word for all
        output = self._network(
            input_ids=ids[None], position_ids=positions[None], use_cache=False, logits_to_keep=kept, return_dict=True
        )
        logits: torch.Tensor = output.logits[0]
        return logits.float()

    def _step(self, chunks: Sequence[Chunk]) -> _Step:
        """The step of chunks whose single tokens come first."""
        single = [chunk for chunk in chunks if len(chunk.tokens) == 1]
        most = max((chunk.past // _BLOCK_TOKENS + 1 for chunk in single), default=1)
        places = [_places(chunk) for chunk in chunks]
        write = np.concatenate([place[chunk.past :] for place, chunk in zip(places, chunks, strict=True)])
        longer = [
            (len(chunk.tokens), chunk.past, self._tensor(place))
            for chunk, place in zip(chunks[len(single) :], places[len(single) :], strict=True)
        ]
        return _Step(self._tensor(write), self._tensor(self._tables(single, most)), self._tensor(_ends(single)), longer)

    def _tables(self, chunks: Sequence[Chunk], blocks: int) -> np.ndarray:
        tables = np.full((len(chunks), blocks), self.blocks)
        for table, chunk in zip(tables, chunks, strict=True):
            used = min(len(chunk.blocks), blocks)
            table[:used] = chunk.blocks[:used]
        return tables

    def _tensor(self, values: Any) -> torch.Tensor:
        return to_device(torch.from_numpy(np.asarray(values, np.int64)), self._device)

    # ---- CUDA graphs -------------------------------------------------------------------------------------------------

    def _run_captured(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        """A step of single tokens by a captured graph, padded to its size."""
        count = _rounded(len(chunks), 1)
        blocks = _rounded(max(chunk.past for chunk in chunks) // _BLOCK_TOKENS + 1, 8)
        padding = [Chunk([0], 0, [self.blocks])] * (count - len(chunks))
        padded = [*chunks, *padding]
        captured = self._graphs.get((count, blocks))
        if captured is None:
            captured = self._graphs[count, blocks] = self._capture(count, blocks)
        captured.ids.copy_(self._tensor([chunk.tokens[0] for chunk in padded]), non_blocking=True)
        captured.step.ends.copy_(self._tensor(_ends(padded)), non_blocking=True)
        captured.step.tables.copy_(self._tensor(self._tables(padded, blocks)), non_blocking=True)
        captured.step.write.copy_(self._tensor([_places(chunk)[-1] for chunk in padded]), non_blocking=True)
        captured.graph.replay()
        return captured.logits[: len(chunks)]

    def _capture(self, count: int, blocks: int) -> _Graph:
        chunks = [Chunk([0], 0, [self.blocks])] * count
        step = _Step(
            self._tensor([_places(chunk)[-1] for chunk in chunks]),
            self._tensor(self._tables(chunks, blocks)),
            self._tensor(_ends(chunks)),
            [],
        )
        ids = self._tensor([0] * count)
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):  # once outside the graph: libraries initialise themselves
            self._forward(ids, step.ends, step)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits = self._forward(ids, step.ends, step)
        self._pool = self._pool or graph.pool()
        return _Graph(graph, ids, step, logits)


class _Attention:
    """Attention over keys and values in blocks; one for all layers.

    Args:
        cache: shape (layers, keys and values, places, heads, width).
    """

    step: _Step

    def __init__(self, cache: torch.Tensor) -> None:
        self.cache = cache

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        """Keeps keys and values, and attends to all of each chunk's text up to each token.

        Args:
            query: shape (tokens, heads, width); key and value with the heads of the cache.

        Returns:
            shape (tokens, heads, width).
        """
        step, (keys, values) = self.step, self.cache[layer]
        keys.index_copy_(0, step.write, key)
        values.index_copy_(0, step.write, value)
        single = step.tables.shape[0]
        parts = []
        if single:
            parts.append(self._attend_single(query[:single], keys, values, scale))
        begin = single
        for length, past, places in step.longer:
            own = query[begin : begin + length]
            parts.append(_attend_longer(own, keys[places], values[places], past, scale))
            begin += length
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend_single(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        """One token of each of several texts; places after its text are masked."""
        tables = self.step.tables
        offsets = torch.arange(_BLOCK_TOKENS, device=tables.device)
        places = (tables[:, :, None] * _BLOCK_TOKENS + offsets).flatten(1)
        count, room = places.shape
        heads = keys.shape[1]
        own_keys = keys.index_select(0, places.flatten()).view(count, room, heads, -1).transpose(1, 2)
        own_values = values.index_select(0, places.flatten()).view(count, room, heads, -1).transpose(1, 2)
        mask = torch.arange(room, device=tables.device) <= self.step.ends[:, None]
        grouped = query.view(count, heads, -1, query.shape[-1])  # heads that share keys, as if they were tokens
        attended = torch.nn.functional.scaled_dot_product_attention(
            grouped, own_keys, own_values, attn_mask=mask[:, None, None, :], scale=scale
        )
        return attended.reshape(count, -1, query.shape[-1])


def _attend_longer(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, past: int, scale: float | None
) -> torch.Tensor:
    """Several tokens of one text; keys and values are those of all of it."""
    length, room, heads = len(query), len(keys), keys.shape[1]
    grouped = query.view(length, heads, -1, query.shape[-1]).permute(1, 2, 0, 3)  # (heads, sharing, tokens, width)
    sharing = grouped.shape[1]
    own_keys = keys.transpose(0, 1)[:, None].expand(-1, sharing, -1, -1)
    own_values = values.transpose(0, 1)[:, None].expand(-1, sharing, -1, -1)
    mask = None
    if past:
        places = torch.arange(room, device=query.device)
        mask = places[None, :] <= places[past:, None]
    attended = torch.nn.functional.scaled_dot_product_attention(
        grouped, own_keys, own_values, attn_mask=mask, is_causal=not past, scale=scale
    )
    return attended.permute(2, 0, 1, 3).reshape(length, -1, query.shape[-1])


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' call; shapes (1, heads, tokens, width), and (1, tokens, heads, width) back."""
    unknown = [name for name in ("sliding_window", "softcap", "s_aux", "position_bias") if more.get(name) is not None]
    if unknown:
        raise NotImplementedError(f"its attention has {' and '.join(unknown)}")
    rows = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    attended = module.blocks_attention.attend(module.layer_idx, *rows, scaling)
    return attended[None], None


def _places(chunk: Chunk) -> np.ndarray:
    """Where keys and values of its text lie, up to its last token."""
    length = chunk.past + len(chunk.tokens)
    blocks = np.asarray(chunk.blocks[: -(-length // _BLOCK_TOKENS)])
    places: np.ndarray = (blocks[:, None] * _BLOCK_TOKENS + np.arange(_BLOCK_TOKENS)).ravel()[:length]
    return places


def _ends(chunks: Sequence[Chunk]) -> list[int]:
    return [chunk.past for chunk in chunks]


def _rounded(number: int, least: int) -> int:
    """The next power of two."""
    return max(least, 1 << (number - 1).bit_length())

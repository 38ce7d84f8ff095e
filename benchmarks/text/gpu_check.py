"""The transformers backend on one GPU against transformers' own `generate`, one prompt at a time; in one run.

    python -m benchmarks.text.gpu_check [--out FILE]

The model has the shape of Llama 3.2 1B and random weights: what it says is nonsense, what it costs is not. Needs torch,
transformers and tokenizers only. On a machine without a GPU it measures a tiny model on the CPU, to check itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from handlers.text.backends import BackendOptions
from handlers.text.backends.files import Facts
from handlers.text.backends.loop import PagedBackend
from handlers.text.backends.runner import Chunk
from handlers.text.backends.tokens import Tokens
from handlers.text.backends.transformers import TorchRunner
from handlers.text.sampling import Sampling

USERS = (1, 4, 16, 64)
PROMPT_TOKENS = 64
ANSWER_TOKENS = 128 if torch.cuda.is_available() else 8
CONTEXT = 2048
#: Llama 3.2 1B, and one for a CPU.
SHAPES = {
    "cuda": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "cpu": {
        "vocab_size": 2048,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}


def make_network(device: str) -> Any:
    """A Llama with random weights; bfloat16 on a GPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(max_position_embeddings=CONTEXT, eos_token_id=None, bos_token_id=None, **SHAPES[device])
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            network = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(previous)
    return network.eval().requires_grad_(False)


def make_tokens() -> Tokens:
    """A tokenizer of bytes."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return Tokens(Facts("llama", CONTEXT, tokenizer, {}, frozenset(), None, {}))


def prompts(users: int) -> list[list[int]]:
    """Different prompts of one length."""
    return [[(7 * user + 3 * place) % 250 for place in range(PROMPT_TOKENS)] for user in range(users)]


def finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def naive(network: Any, device: str, count: int) -> dict[str, Any]:
    """`generate`, one prompt after the other."""
    answers = []

    def ask(prompt: Sequence[int]) -> None:
        ids = torch.tensor([list(prompt)], device=device)
        output = network.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=ANSWER_TOKENS, do_sample=False, pad_token_id=0
        )
        answers.append(output[0, PROMPT_TOKENS:].tolist())

    with torch.inference_mode():
        ask(prompts(1)[0])
        answers.clear()
        finish(device)
        began = time.perf_counter()
        for prompt in prompts(count):
            ask(prompt)
        finish(device)
        took = time.perf_counter() - began
    return {"tokens_s": round(count * ANSWER_TOKENS / took, 1), "answers": answers}


def reference_logits(network: Any, device: str) -> torch.Tensor:
    """Of transformers' own attention, after each of two prompts; before the backend takes the network over."""
    with torch.inference_mode():
        ids = torch.tensor(prompts(2), device=device)
        return network(input_ids=ids, use_cache=False).logits[:, -1].float()


def logits_difference(runner: TorchRunner, reference: torch.Tensor) -> dict[str, float]:
    """The largest difference to transformers' own: of prompts, and where the last token is a step of its own."""
    blocks = -(-PROMPT_TOKENS // runner.block_tokens)
    tables = [list(range(index * blocks, (index + 1) * blocks)) for index in range(2)]
    pairs = list(zip(prompts(2), tables, strict=True))
    whole = runner.run([Chunk(prompt, 0, table) for prompt, table in pairs]).clone()
    runner.run([Chunk(prompt[:-1], 0, table) for prompt, table in pairs])
    last = runner.run([Chunk(prompt[-1:], PROMPT_TOKENS - 1, table) for prompt, table in pairs])
    return {
        "largest_logit": round(float(reference.abs().max()), 4),
        "prompt": round(float((whole - reference).abs().max()), 5),
        "single_tokens": round(float((last - reference).abs().max()), 5),
    }


class Measured:
    """Answers of one load, and what its steps took."""

    def __init__(self, backend: PagedBackend, users: int, first_key: int) -> None:
        self.answers: dict[int, list[int]] = {first_key + user: [] for user in range(users)}
        self.steps_s: list[float] = []
        first_tokens: dict[int, float] = {}
        began = time.perf_counter()
        for key, prompt in zip(self.answers, prompts(users), strict=True):
            backend.add(key, prompt, Sampling(ANSWER_TOKENS, temperature=0, ignore_end=True))
        left = users
        while left:
            step = time.perf_counter()
            produced = list(backend.step())
            now = time.perf_counter()
            self.steps_s.append(now - step)
            for each in produced:
                self.answers[each.key] += [token.id for token in each.tokens]
                first_tokens.setdefault(each.key, now - began)
                left -= bool(each.finish)
        self.took_s = time.perf_counter() - began
        self.first_s = statistics.median(first_tokens.values())

    def figures(self) -> dict[str, float]:
        ordered = sorted(self.steps_s)
        return {
            "tokens_s": round(sum(map(len, self.answers.values())) / self.took_s, 1),
            "step_ms_median": round(1e3 * statistics.median(ordered), 3),
            "step_ms_p99": round(1e3 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 3),
            "first_token_ms_median": round(1e3 * self.first_s, 2),
        }


def ours(runner: TorchRunner, reference: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Tokens/s by number of users; the first turn of each, which captures graphs, is not counted."""
    backend = PagedBackend(runner, make_tokens(), CONTEXT, max(USERS), shares_prompts=False)
    result: dict[str, Any] = {}
    key = 0
    for users in USERS:
        warm = Measured(backend, users, key)
        turns = [Measured(backend, users, key + users * (turn + 1)) for turn in range(3)]
        key += users * 4
        best = sorted(turns, key=lambda turn: turn.took_s)[1]
        agreeing = [_agreeing(a, b) for a, b in zip(best.answers.values(), reference, strict=False)]
        result[str(users)] = {
            **best.figures(),
            "warm_up_s": round(warm.took_s, 2),
            "tokens_as_naive": f"{sum(agreeing)} of {len(agreeing) * ANSWER_TOKENS}",
        }
    return result


def _agreeing(one: Sequence[int], other: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def library_batching(network: Any, users: int) -> dict[str, Any]:
    """transformers' own continuous batching, as `generate_batch` has it."""
    from transformers import GenerationConfig

    settings = GenerationConfig(max_new_tokens=ANSWER_TOKENS, do_sample=False, eos_token_id=-1, pad_token_id=0)
    network.generate_batch(inputs=prompts(users)[:1], generation_config=settings)
    began = time.perf_counter()
    outputs = network.generate_batch(inputs=prompts(users), generation_config=settings)
    took = time.perf_counter() - began
    tokens = sum(len(output.generated_tokens) for output in outputs.values())
    return {"tokens_s": round(tokens / took, 1), "tokens": tokens}


def attempt(name: str, result: dict[str, Any], work: Callable[[], Any]) -> Any:
    """Keep what `work` gives, or why it failed: the other figures are still of use."""
    began = time.perf_counter()
    try:
        result[name] = work()
    except Exception as error:  # noqa: BLE001 - is in the result, and on stderr whole
        traceback.print_exc()
        result[name] = {"failed": f"{type(error).__name__}: {error}"[:500]}
    sys.stderr.write(f"{name}: {time.perf_counter() - began:.1f} s\n")
    return result[name]


def measure(write: Callable[[dict[str, Any]], None]) -> None:
    """All figures, written after each part; last those of code that is not ours, which might hang."""
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    network = make_network(device)
    result["parameters"] = sum(each.numel() for each in network.parameters())
    base = attempt("naive", result, partial(naive, network, device, 4 if device == "cuda" else 1))
    answers = base.pop("answers", [])
    reference = reference_logits(network, device)
    cache = (8 << 30) if device == "cuda" else (64 << 20)
    for name, is_captured in (("captured", True), ("not_captured", False)):
        runner = TorchRunner(network, BackendOptions(device=device, cache_bytes=cache, is_captured=is_captured))
        attempt(f"logits_{name}", result, partial(logits_difference, runner, reference))
        attempt(name, result, partial(ours, runner, answers))
        write(result)
        if device == "cpu":
            break
    if device == "cuda":
        result["memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    if "tokens_s" in base and "1" in result["captured"]:
        rates = {users: figures["tokens_s"] for users, figures in result["captured"].items()}
        result["times_naive"] = {users: round(rate / base["tokens_s"], 1) for users, rate in rates.items()}
    write(result)
    network.set_attn_implementation("sdpa")
    for users in (1, 16):
        attempt(f"library_batching_{users}", result, partial(library_batching, network, users))
        write(result)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out

    def write(result: dict[str, Any]) -> None:
        text = json.dumps(result)
        sys.stderr.write(text + "\n")
        if out is not None:
            out.write_text(text + "\n")

    measure(write)


if __name__ == "__main__":
    main()

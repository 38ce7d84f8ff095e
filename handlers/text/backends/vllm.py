"""The backend vllm: vLLM's engine in this process, in the Python of its own environment.

vLLM schedules, keeps keys and values, and chooses tokens. Tokens come from `tokens.py`, as with every backend. A GGUF
is converted beside itself when it is first opened, because vLLM reads folders of Hugging Face.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from handlers.errors import LoadError
from handlers.text.backend import LENGTH, STOP, Produced, Token
from handlers.text.backends import BackendOptions, ModelFiles
from handlers.text.backends.files import read_model_facts
from handlers.text.backends.tokens import Tokenized, Tokens
from handlers.text.backends.vllm_folder import convert
from handlers.text.sampling import Sampling

_FINISHES = {"stop": STOP, "length": LENGTH}


def open_vllm(model: ModelFiles, options: BackendOptions) -> VllmBackend:
    """The engine with the model.

    Raises:
        LoadError: it cannot be loaded.
        ModuleNotFoundError: this Python has no vLLM.
    """
    os.environ.update(environment(options))
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    facts = read_model_facts(model)
    tokens = Tokens(facts)
    dtype = "float32" if options.is_exact and options.device == "cpu" else "bfloat16"
    context = options.context or facts.context
    memory: dict[str, Any] = {"kv_cache_memory_bytes": options.cache_bytes}
    arguments = EngineArgs(
        model=str(_folder(model.weights, dtype)), dtype=dtype, max_model_len=context, max_num_seqs=options.most_running,
        enable_prefix_caching=options.shares_prompts, generation_config="vllm", disable_log_stats=True,
        **({"max_num_batched_tokens": options.step_tokens} if options.step_tokens else {}), **memory,
    )  # fmt: skip
    try:
        engine = LLMEngine.from_engine_args(arguments)
    except (ValueError, RuntimeError) as error:
        raise LoadError(f"vLLM cannot load the model: {str(error).splitlines()[0]}") from error
    return VllmBackend(engine, tokens, context)


def environment(options: BackendOptions) -> dict[str, str]:
    """Variables that vLLM reads while it is imported: it asks the network nothing, and works in this process."""
    cores = sorted(os.sched_getaffinity(0))[: options.threads or None]
    return {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_LOGGING_LEVEL": "WARNING",
    }


def _folder(weights: Path, dtype: str) -> Path:
    """The folder that vLLM reads; it is made where it is missing."""
    if weights.is_dir():
        return weights
    folder = weights.with_name(f"{weights.stem}-{dtype}")
    if not folder.is_dir():
        convert(weights, dtype, folder)
    return folder


class VllmBackend(Tokenized):
    """A `handlers.text.backend.Backend`."""

    name = "vllm"

    def __init__(self, engine: Any, tokens: Tokens, context: int) -> None:
        self.context = context
        self._engine = engine
        self._tokens = tokens
        self._tops: dict[str, int] = {}  # alternatives that an answer asked for, by its key

    # ---- any thread --------------------------------------------------------------------------------------------------

    def grammar(self, schema: str, salt: str | None = None) -> Any:
        return None  # vLLM compiles schemas in a thread of its own, and keeps them

    def cache_usage(self) -> float:
        return float(self._engine.engine_core.engine_core.scheduler.kv_cache_manager.usage)

    # ---- the working thread ------------------------------------------------------------------------------------------

    def add(self, key: int, prompt: Sequence[int], sampling: Sampling, salt: str | None = None) -> None:
        """As in `Backend`. Prompts with the same salt share keys and values; None: with no other."""
        self._require_room(prompt)
        given = {"prompt_token_ids": list(prompt), "cache_salt": f"salt {salt}" if salt is not None else f"key {key}"}
        self._engine.add_request(str(key), given, self._parameters(sampling, self.context - len(prompt)))
        self._tops[str(key)] = sampling.top_logprobs or 0

    def cancel(self, key: int) -> None:
        self._engine.abort_request([str(key)])
        self._tops.pop(str(key), None)

    def step(self) -> Iterable[Produced]:
        if not self._engine.has_unfinished_requests():
            return []
        return [self._produced(output) for output in self._engine.step()]

    def _produced(self, output: Any) -> Produced:
        """What vLLM says of one answer, as ours."""
        key, [answer] = output.request_id, output.outputs
        top = self._tops[key]
        places = answer.logprobs or [None] * len(answer.token_ids)
        tokens = tuple(_token(number, place, top) for number, place in zip(answer.token_ids, places, strict=True))
        if not output.finished:
            return Produced(int(key), tokens)
        del self._tops[key]
        finish = _FINISHES.get(answer.finish_reason, "")
        return Produced(int(key), tokens, finish, "" if finish else f"vLLM ended it: {answer.finish_reason}")

    def close(self) -> None:
        self._engine.engine_core.shutdown()

    def _parameters(self, sampling: Sampling, room: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        schema = sampling.json_schema
        return SamplingParams(
            max_tokens=min(sampling.max_tokens, room),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            frequency_penalty=sampling.frequency_penalty,
            presence_penalty=sampling.presence_penalty,
            seed=None if sampling.seed is None else sampling.seed % (1 << 63),
            logprobs=sampling.top_logprobs,
            ignore_eos=sampling.ignore_end,
            stop_token_ids=None if sampling.ignore_end else sorted(self._tokens.ends),
            structured_outputs=None if schema is None else StructuredOutputsParams(json=schema),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )


def _token(number: int, place: Mapping[int, Any] | None, top: int) -> Token:
    """A token with its log probability, and the likeliest ones at its place; vLLM ranks them from 1 on."""
    if place is None:
        return Token(number)
    likeliest = sorted((each.rank, token, each.logprob) for token, each in place.items() if 0 < each.rank <= top)
    return Token(number, place[number].logprob, tuple((token, logprob) for _, token, logprob in likeliest))

"""The backend vllm over an engine that answers as vLLM's does; with a real vLLM: tests/vllm."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from handlers.errors import LoadError
from handlers.text.backend import LENGTH, STOP, Produced, Token
from handlers.text.backends import BackendOptions, ModelFiles, open_backend
from handlers.text.backends.tokens import Tokens
from handlers.text.backends.vllm import VllmBackend, environment
from handlers.text.sampling import Sampling


class Engine:
    """Gives out what the test has written down, a list of outputs for each step."""

    def __init__(self) -> None:
        self.steps: list[list[Any]] = []
        self.added: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        self.aborted: list[str] = []

    def add_request(self, key: str, given: dict[str, Any], parameters: dict[str, Any]) -> None:
        self.added[key] = given, parameters

    def abort_request(self, keys: list[str]) -> None:
        self.aborted += keys

    def has_unfinished_requests(self) -> bool:
        return bool(self.steps)

    def step(self) -> list[Any]:
        return self.steps.pop(0)


def output(key: str, tokens: list[int], finish: str | None = None, logprobs: Any = None) -> Any:
    answer = SimpleNamespace(token_ids=tokens, logprobs=logprobs, finish_reason=finish)
    return SimpleNamespace(request_id=key, outputs=[answer], finished=finish is not None)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> VllmBackend:
    module, inner = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    vars(module)["SamplingParams"] = dict
    vars(inner)["StructuredOutputsParams"] = dict
    vars(inner)["RequestOutputKind"] = SimpleNamespace(DELTA="delta")
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", inner)
    return VllmBackend(Engine(), cast(Tokens, SimpleNamespace(ends=frozenset((2,)))), 10)


def engine_of(backend: VllmBackend) -> Engine:
    return cast(Engine, backend._engine)


def test_tokens_come_as_steps_make_them_and_an_end_that_is_none_of_ours_is_a_failure(backend: VllmBackend) -> None:
    for key in (1, 2, 3):
        backend.add(key, [5, 6], Sampling(4))
    engine_of(backend).steps = [
        [output("1", [7]), output("2", [8, 9], "length"), output("3", [])],
        [output("1", [2], "stop"), output("3", [], "abort")],
    ]
    assert list(backend.step()) == [
        Produced(1, (Token(7),)),
        Produced(2, (Token(8), Token(9)), LENGTH),
        Produced(3),
    ]
    assert list(backend.step()) == [
        Produced(1, (Token(2),), STOP),
        Produced(3, (), "", "vLLM ended it: abort"),
    ]
    assert list(backend.step()) == []


def test_alternatives_are_the_likeliest_ones_whether_the_token_is_among_them_or_not(backend: VllmBackend) -> None:
    place = {9: SimpleNamespace(rank=7, logprob=-4.0), 5: SimpleNamespace(rank=2, logprob=-2.0),
             6: SimpleNamespace(rank=1, logprob=-1.0)}  # fmt: skip
    for key, top in ((1, 2), (2, 1), (3, 0)):
        backend.add(key, [5], Sampling(1, top_logprobs=top))
    engine_of(backend).steps = [[output(str(key), [9], "length", [place]) for key in (1, 2, 3)]]
    produced = [each.tokens[0] for each in backend.step()]
    assert [token.logprob for token in produced] == [-4.0] * 3
    assert [token.top for token in produced] == [((6, -1.0), (5, -2.0)), ((6, -1.0),), ()]


def test_settings_reach_the_engine_and_prompts_are_shared_within_one_salt_only(backend: VllmBackend) -> None:
    backend.add(1, [5, 6, 7], Sampling(100, temperature=0.5, seed=3, json_schema='{"type":"object"}'), salt="anna")
    backend.add(2, [5, 6, 7], Sampling(2, ignore_end=True), salt=None)
    backend.add(3, [5, 6, 7], Sampling(2), salt=None)
    (given, parameters), (alone, on), (other, _) = engine_of(backend).added.values()
    assert (given["prompt_token_ids"], parameters["max_tokens"]) == ([5, 6, 7], 7), "as far as the context goes"
    assert (parameters["temperature"], parameters["seed"], parameters["stop_token_ids"]) == (0.5, 3, [2])
    assert parameters["structured_outputs"] == {"json": '{"type":"object"}'}
    assert (on["ignore_eos"], on["stop_token_ids"]) == (True, None)
    assert len({given["cache_salt"], alone["cache_salt"], other["cache_salt"]}) == 3
    with pytest.raises(ValueError, match="has 10 tokens, and the model reads 10"):
        backend.add(4, [5] * 10, Sampling(1))


def test_a_cancelled_answer_is_aborted(backend: VllmBackend) -> None:
    backend.add(1, [5], Sampling(4))
    backend.cancel(1)
    assert engine_of(backend).aborted == ["1"]


def test_without_vllm_the_error_says_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment(BackendOptions()):
        monkeypatch.setenv(name, "")  # and what opening sets is taken back
    weights = tmp_path / "model.gguf"
    weights.touch()
    with pytest.raises(LoadError, match=r"needs the package vllm in this worker's Python: tsctl engines install vllm"):
        open_backend("vllm", ModelFiles(weights), BackendOptions())
    assert environment(BackendOptions(threads=1))["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"

"""The metrics of a version that vLLM serves, under the names of our own workers; vLLM's own stand beside them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from handlers.adapters.vllm.translate import Tokens
from handlers.contract import METRICS_FOLDER_VARIABLE
from handlers.telemetry.metrics import Telemetry, telemetry

#: vLLM's gauge of the share of its cache in use.
CACHE_GAUGE = "vllm:kv_cache_usage_perc"


@dataclass
class Measured:
    """Times of one request.

    Args:
        telemetry: None: a check, which is not counted.
    """

    telemetry: Telemetry | None
    answers: int
    begun_at: float = field(default_factory=time.monotonic)
    first_at: float | None = None

    def first(self) -> None:
        """The first token of a stream is there; of an answer in one piece only vLLM knows."""
        self.first_at = self.first_at or time.monotonic()

    def ended(self, outcome: str, tokens: Tokens, finish: str) -> None:
        """Nothing more comes.

        Args:
            outcome: "ok", or the kind of the error.
            finish: of the first answer, as one of `contract.ANSWER_ENDS`.
        """
        if self.telemetry is None:
            return
        self.telemetry.answered(outcome)
        if tokens.prompt:
            self.telemetry.prompt(tokens.prompt)
        took_s, token_s = time.monotonic() - self.begun_at, 0.0
        first_s = tokens.first_s if self.first_at is None else self.first_at - self.begun_at
        if first_s is not None:
            self.telemetry.first_token(min(tokens.queued_s, first_s), first_s)
            if (each := tokens.answer / self.answers) > 1:
                token_s = max(0.0, took_s - first_s) / (each - 1)
        for number in range(self.answers):  # vLLM says how many tokens all of them have together
            share = tokens.answer // self.answers + (number < tokens.answer % self.answers)
            self.telemetry.answer_ended(finish, share, token_s)


def open_telemetry(model: str, version: str, in_hand: Callable[[], int]) -> Telemetry:
    """The metrics of this process.

    Args:
        in_hand: answers in the making.
    """
    telling = telemetry(model, version, True, os.environ.get(METRICS_FOLDER_VARIABLE), is_text=True)
    telling.watch_text(lambda: (in_hand(), cache_usage()))
    return telling


def cache_usage() -> float:
    """The share of vLLM's cache in use; 0 where vLLM does not say."""
    from prometheus_client import REGISTRY

    found = (sample.value for metric in REGISTRY.collect() if metric.name == CACHE_GAUGE for sample in metric.samples)
    return max(found, default=0.0)

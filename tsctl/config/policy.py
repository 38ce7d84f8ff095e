"""The schema of rollout policies in `deployment.yaml`: steps, their duration, and the evidence against a canary."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from tsctl.config.spec import Address, SpecModel
from tsctl.config.weights import TOTAL

#: Kinds of evidence that may end a rollout, and the share of each in the average of their e-values (tsctl/statistics).
#: `limit`, the error rate cap, is always judged: it needs no version to compare with.
Signal = Literal["errors", "refused", "slow", "mix", "labels", "tokens", "finish", "length"]
PARTS: dict[str, int] = {
    "errors": 5, "refused": 1, "slow": 2, "mix": 1, "labels": 2, "tokens": 2, "finish": 1, "length": 1, "limit": 1,
}  # fmt: skip
LIMIT = "limit"
#: Signals that only answers of a language model have, and those that only other answers have.
TEXT_SIGNALS, OTHER_SIGNALS = frozenset({"tokens", "finish", "length"}), frozenset({"mix", "labels"})
#: Where the policy names none: of a language model, and of any other model.
USUAL_OF_TEXT: tuple[Signal, ...] = ("errors", "refused", "slow", "tokens", "finish", "length")
USUAL: tuple[Signal, ...] = ("errors", "refused", "slow", "mix")
#: Settings that came after the first journals with a policy. Where they have their default, they are not written: so a
#: newer tsctl does not take the policy of a rollout in progress for an edited one, and an older one reads it.
LATER = ("min_labels", "shadow")

Percent = Annotated[float, Field(gt=0, le=100, strict=False)]
Seconds = Annotated[float, Field(ge=0, le=30 * 86_400, strict=False)]
Share = Annotated[float, Field(gt=0, lt=1, strict=False)]


class ShadowStage(SpecModel):
    """The stage before the first step: the canary gets copies of requests, and its answers are compared."""

    percent: Percent = 100.0  # of the route's requests that are copied
    min_pairs: Annotated[int, Field(ge=1, le=10_000_000)] = 1000  # before it may pass
    max_disagreement: Share = 0.005  # above stable's own noise

    @property
    def share(self) -> int:
        """The copied requests in hundredths of a percent."""
        return max(1, round(self.percent * TOTAL / 100))


class RolloutPolicy(SpecModel):
    """The rules by which a canary becomes stable or is rolled back."""

    #: Percent of the route's requests, growing, the last one 100.
    steps: tuple[Percent, ...] = Field(default=(1, 5, 25, 50, 100), strict=False, min_length=1, max_length=50)
    hold_s: Seconds = 300.0  # minimum duration of a step
    max_hold_s: Seconds = 86_400.0  # maximum time that a step may stay undecided
    at_max_hold: Literal["hold", "rollback"] = "hold"  # the action after that time
    min_requests: Annotated[int, Field(ge=1, le=100_000_000)] = 200  # of the canary, at each step
    max_error_rate: Share = 0.05  # of the canary: above it is a fail, and below it surely before a step passes
    alpha: Share = 0.01  # probability that a canary which is no worse is ever rolled back
    #: Kinds of evidence that may end a rollout; of a language model, those of its answers.
    signals: tuple[Signal, ...] = Field(default=USUAL, strict=False)
    count_4xx: bool = False  # whether an answer of 4xx is an error as well
    slow_quantile: Share = 0.95  # slower than this share of stable's answers before the step is slow
    settle_s: Seconds = 5.0  # after a step began, latency is not judged; half of hold_s where that is no longer
    max_utilisation: Share = 0.8  # of the canary's workers, as predicted before a step
    max_memory_growth: Annotated[float, Field(gt=1, le=100, strict=False)] = (
        2.0  # of a canary's worker, since its warm-up
    )
    shadow: ShadowStage | None = None  # None: the first step begins at once
    min_labels: Annotated[int, Field(ge=0, le=100_000_000)] = 0  # of the canary's items, before a step passes
    keep: Annotated[int, Field(ge=0, le=10)] = 1  # old versions that stay registered and warm, for a rollback
    tick_s: Annotated[float, Field(ge=0.1, le=60, strict=False)] = 0.5  # how often evidence is read
    prometheus: Address | None = None  # where counts are read; None: from Envoy itself

    @model_serializer(mode="wrap")
    def _without_later(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = write(self)
        fields = type(self).model_fields
        return {name: v for name, v in content.items() if name not in LATER or v != fields[name].default}

    @field_validator("steps")
    @classmethod
    def _steps_grow(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if any(later <= earlier for earlier, later in pairwise(steps)) or steps[-1] != 100:
            raise ValueError("must grow, and end with 100")
        if any(abs(step * 100 - round(step * 100)) > 1e-9 for step in steps):
            raise ValueError("may have two decimals at most, such as 0.25")
        return steps

    @model_validator(mode="before")
    @classmethod
    def _settles_within_a_short_hold(cls, policy: Any) -> Any:
        """A hold time that is no longer than the default of settle_s needs no settle_s beside it."""
        if not isinstance(policy, Mapping) or "settle_s" in policy or "slow" not in (policy.get("signals") or USUAL):
            return policy
        hold_s = policy.get("hold_s")
        if not isinstance(hold_s, int | float) or hold_s > cls.model_fields["settle_s"].default:
            return policy  # a value that is no number is reported later
        return {**policy, "settle_s": hold_s / 2}

    @model_validator(mode="after")
    def _times_fit(self) -> RolloutPolicy:
        if self.max_hold_s < self.hold_s:
            raise ValueError(f"max_hold_s must be at least hold_s, {self.hold_s:g}")
        if "slow" in self.signals and self.settle_s and self.settle_s >= self.hold_s:
            raise ValueError(
                f"settle_s is {self.settle_s:g} and must be less than hold_s, {self.hold_s:g}: so long after a step"
                " began no answer is judged as slow, and none ever would be. Leave it out, or take a longer hold_s"
            )
        if self.min_labels and "labels" not in self.signals:
            raise ValueError("min_labels needs the signal labels: name it in signals")
        if len(set(self.signals)) != len(self.signals):
            raise ValueError("signals must not name one twice")
        return self

    def judging(self, is_text: bool) -> RolloutPolicy:
        """The policy with the signals that answers have, of a language model or of another model.

        The usual signals are those of USUAL_OF_TEXT for a language model.
        """
        named = USUAL_OF_TEXT if is_text and self.signals == USUAL else self.signals
        signals = tuple(name for name in named if name not in (OTHER_SIGNALS if is_text else TEXT_SIGNALS))
        return self.model_copy(update={"signals": signals, "min_labels": 0 if is_text else self.min_labels})

    @property
    def weights(self) -> tuple[int, ...]:
        """The canary's weight at each step, in hundredths of a percent."""
        return tuple(round(step * TOTAL / 100) for step in self.steps)

    @property
    def shares(self) -> dict[str, float]:
        """The share of each judged signal in the average; they sum to 1."""
        named = [*self.signals, LIMIT]
        total = sum(PARTS[name] for name in named)
        return {name: PARTS[name] / total for name in named}

    @property
    def digest(self) -> str:
        """Equal for equal policies: 16 hex digits."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

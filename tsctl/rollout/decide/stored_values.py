"""How policies and windows stand in a journal. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, TypeAdapter

from tsctl.config.policy import RolloutPolicy
from tsctl.rollout.decide.windows import Window


def _without_removed(policy: Any) -> Any:
    """A policy without settings that older journals have, and that never had a source of evidence."""
    if not isinstance(policy, Mapping):
        return policy
    kept = {name: value for name, value in policy.items() if name != "shadow_floor"}
    if isinstance(signals := kept.get("signals"), list):
        kept["signals"] = [signal for signal in signals if signal != "disagreement"]
    return kept


StoredPolicy = Annotated[
    RolloutPolicy,
    BeforeValidator(_without_removed),
    PlainSerializer(lambda policy: policy.model_dump(mode="json")),
]
_WINDOW = TypeAdapter(Window)
#: Zeros are not stored.
StoredWindow = Annotated[Window, PlainSerializer(lambda window: _WINDOW.dump_python(window, exclude_defaults=True))]

"""Says what a rollout's signals could not compare: no event where nothing was compared is no proof. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from tsctl.gateway.access_log import LEAST_TOKENS
from tsctl.rollout.decide.evidence import OTHER, Evidence, class_count
from tsctl.rollout.decide.state import State
from tsctl.rollout.evidence.totals import LEAST_ANSWERS, MOST_CLASSES
from tsctl.views.rollout.wording import signal_name

#: With a larger share of the predictions in OTHER, the class distribution hardly compares anything.
MOST_OTHER = 0.5


def gaps(state: State) -> tuple[str, ...]:
    """A sentence for each signal that compared nothing or little; none before the canary's first requests."""
    evidence = state.evidence
    if not evidence.canary.requests and not evidence.set_aside:
        return ()
    return tuple(_gaps(state, evidence))


def _gaps(state: State, evidence: Evidence) -> Iterator[str]:
    signals = state.policy.signals
    if evidence.set_aside:
        yield (
            f"{evidence.set_aside:,} requests that nobody answered count for no version: a node, or stable as well, was"
            " unavailable."
        )
    if not evidence.stable.requests and signals:
        named = ", ".join(map(signal_name, signals))
        yield f"Nothing was compared with stable ({named}): it had no requests beside the canary's."
        return
    if state.is_text:
        yield from _texts(state, evidence)
    elif "slow" in signals and state.thresholds.slow_ms is None:
        yield f"No answer was judged as slow: stable computed too few answers for a threshold, {LEAST_ANSWERS}."
    elif "slow" in signals and evidence.cold and not evidence.warm:
        yield (
            "No answer was judged as slow: the canary's cache was colder than stable's all the time. A step of 50%, or"
            " a longer one, lets it warm."
        )
    if "mix" in signals:
        yield from _classes(state, evidence)
    if "labels" in signals and not evidence.labels.pairs:
        yield (
            "No labels were compared: the route is sticky, and its users are no single items."
            if state.sticky
            else "No labels were compared: of both versions, recorded requests of this rollout need labels"
            " ('tsctl labels add FILE')."
        )


def _texts(state: State, evidence: Evidence) -> Iterator[str]:
    """What of a language model's answers was not compared."""
    signals, compared = state.policy.signals, evidence.compared
    few = f"{LEAST_ANSWERS} are needed for a threshold"
    if "slow" in signals and state.thresholds.slow_ms is None:
        yield f"No first token was judged as slow: stable had too few streams, {few}."
    if "tokens" in signals and state.thresholds.token_ms is None:
        yield f"No tokens were judged as slow: stable had too few answers of {LEAST_TOKENS} tokens or more, {few}."
    elif "tokens" in signals and not any(process.logs for process in compared.processes["tokens"].values()):
        yield "No tokens were judged as slow: none took as long as the threshold while times were judged."
    texts = [signal_name(signal) for signal in ("finish", "length") if signal in signals]
    if texts and not any(process.logs for process in compared.processes["finish"].values()):
        yield (
            f"Nothing was compared by {' and '.join(texts)}: too few answers of both versions say how they ended, and"
            " how many tokens they have."
        )


def _classes(state: State, evidence: Evidence) -> Iterator[str]:
    both = evidence.stable + evidence.canary
    total = sum(both.classes.values())
    if not state.classes:
        yield "The class distribution compared nothing: stable had named no class before the rollout began."
    elif not total:
        yield "The class distribution compared nothing: no answer named a class."
    elif (other := class_count(both.classes, OTHER, evidence.compared.processes["mix"]) / total) > MOST_OTHER:
        yield (
            f"The class distribution compared little: {other:.0%} of the predictions are of classes that are not judged"
            f" one by one, because stable had not named them or {MOST_CLASSES} others were more frequent."
        )
    elif len(both.classes) == 1:
        yield "The class distribution compared nothing: every prediction is of one class."

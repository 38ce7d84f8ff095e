"""What a line of the access log is evidence of: its answer, its times, and those of a language model's answer. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import floor, inf, nextafter

from tsctl.gateway.access_log import AccessLogEntry
from tsctl.rollout.decide.evidence import LENGTHS
from tsctl.rollout.decide.windows import OutcomeCounts, Thresholds
from tsctl.rollout.evidence.answers import BROKEN, FAILED, HIT, Answer

#: The share of a language model's answers that take no longer than `longest_s`.
NEARLY_ALL = 0.99


def answer_of(entry: AccessLogEntry) -> Answer:
    """The answer in a line of the access log."""
    texts = (entry.predicted_class, entry.flags, entry.deadline, entry.cache, entry.finish)
    return Answer(str(entry.status), *(text or "" for text in texts))


def is_slow(entry: AccessLogEntry, slow_ms: float | None) -> bool:
    """Whether its client waited as long as the slow threshold; not where there is none, or nothing was computed."""
    waited_ms = computed_ms(entry)
    return slow_ms is not None and waited_ms is not None and waited_ms >= slow_ms


def computed_ms(entry: AccessLogEntry) -> float | None:
    """How long its client waited for an answer that was not from a cache; None where no node answered.

    Of a language model's stream that is the time to its first token. An answer in one piece has none: the time of all
    of it depends on its length.
    """
    is_whole_text = entry.finish is not None and not entry.is_stream
    return None if entry.cache == HIT or is_whole_text else entry.waited_ms


def text_counts(entry: AccessLogEntry, token_ms: float | None) -> OutcomeCounts:
    """What a language model's answer tells besides; nothing where it is none, or not complete.

    Args:
        token_ms: an answer whose tokens take as long each has slow tokens; None: none has.
    """
    if entry.finish is None or entry.finish in (FAILED, BROKEN) or answer_of(entry).is_of_client:
        return OutcomeCounts()
    tokens = entry.tokens_out
    return OutcomeCounts(
        finishes={entry.finish: 1},
        lengths={} if tokens is None else {length_class(tokens): 1},
        paced=int(entry.token_ms is not None),
        slow_tokens=int(token_ms is not None and entry.token_ms is not None and entry.token_ms >= token_ms),
    )


def length_class(tokens: int) -> str:
    """The class of LENGTHS that an answer of so many tokens is in."""
    return min("0" if tokens < 1 else str(1 << tokens.bit_length() - 1), LENGTHS[-1], key=int)


def text_thresholds(entries: Iterable[AccessLogEntry], quantile: float, least: int) -> Thresholds:
    """From which times on a language model's answers are slow: longer than this share of these took.

    Args:
        entries: of one version.
        least: answers whose time is known, for a threshold.
    """
    complete = [entry for entry in entries if text_counts(entry, None).complete]
    firsts = [first_ms for entry in complete if (first_ms := computed_ms(entry)) is not None]
    tokens = [token_ms for entry in complete if (token_ms := entry.token_ms) is not None]
    return Thresholds(
        slow_ms=_beyond(firsts, quantile) if len(firsts) >= least else None,
        token_ms=_beyond(tokens, quantile) if len(tokens) >= least else None,
        longest_s=_beyond([entry.duration_ms / 1000 for entry in complete], NEARLY_ALL) if complete else None,
    )


def _beyond(values: Sequence[float], quantile: float) -> float:
    """The least number that at most a share of 1 - quantile of the values reach."""
    most = floor((1 - quantile) * len(values) + 1e-9)
    return nextafter(sorted(values, reverse=True)[most], inf)

"""Chooses the next token of each answer from its logits. A choice depends on its own row and number alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from handlers.text.backend import Token
from handlers.text.sampling import Sampling

_LIKELIEST = 1024  # sorted first; all tokens only where these have less than top_p together
_LEAST = torch.finfo(torch.float32).tiny  # a temperature; one that is less would be 0
_GROUP = 256  # probabilities that are summed up before a token is drawn among them


@dataclass(frozen=True, slots=True)
class Row:
    """What decides on the next token of one answer besides its logits.

    Args:
        counts: how often each token is in the answer so far.
        number: drawn at random, from 0 to under 1.
        allowed: whether each token may come, shape (vocabulary,), bool; None: all may.
    """

    sampling: Sampling
    counts: Mapping[int, int]
    number: float
    allowed: torch.Tensor | None = None


def choose(logits: torch.Tensor, rows: Sequence[Row]) -> list[Token]:
    """The next token of each row.

    Log probabilities are the model's own: of the logits before penalties, temperature and what is not allowed.

    Args:
        logits: shape (rows, vocabulary), float32; is not changed.
    """
    fitted = _fitted(logits, rows)
    chosen = fitted.argmax(1)
    drawn = [index for index, row in enumerate(rows) if not row.sampling.is_greedy]
    if drawn:
        chosen[drawn] = _draw(fitted[drawn], [rows[index] for index in drawn])
    ids = chosen.tolist()
    return [_token(logits[index], ids[index], row.sampling.top_logprobs) for index, row in enumerate(rows)]


def _fitted(logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """The logits with penalties, and minus infinity for what is not allowed."""
    fitted = logits
    for index, row in enumerate(rows):
        sampling = row.sampling
        is_penalised = (sampling.frequency_penalty or sampling.presence_penalty) and row.counts
        if not is_penalised and row.allowed is None:
            continue
        if fitted is logits:
            fitted = logits.clone()
        if is_penalised:
            ids = torch.tensor(list(row.counts), device=logits.device)
            counts = torch.tensor(list(row.counts.values()), dtype=logits.dtype, device=logits.device)
            fitted[index, ids] -= sampling.frequency_penalty * counts + sampling.presence_penalty
        if row.allowed is not None:
            fitted[index].masked_fill_(~row.allowed.to(logits.device), -torch.inf)
    return fitted


def _draw(logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    device = logits.device
    temperatures = torch.tensor([row.sampling.temperature for row in rows], device=device).clamp(min=_LEAST)
    # from the likeliest token down, so that it stays at 0 however small a temperature is
    shares = torch.softmax((logits - logits.amax(1, keepdim=True)) / temperatures[:, None], 1)
    if any(row.sampling.top_p < 1 for row in rows):
        shares = _nucleus(shares, torch.tensor([row.sampling.top_p for row in rows], device=device))
    numbers = torch.tensor([row.number for row in rows], dtype=torch.float64, device=device)
    return _place(shares, numbers)


def _nucleus(shares: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """The likeliest tokens up to the one with which they have top_p together; 0 for the others."""
    for most in (min(_LIKELIEST, shares.shape[1]), shares.shape[1]):
        likeliest, ids = shares.topk(most, 1)
        sums = likeliest.cumsum(1)
        if bool((sums[:, -1] >= top_p).all()):
            break
    is_kept = sums - likeliest < top_p[:, None]
    is_kept[:, 0] = True  # also where float32 takes top_p for 0
    kept = likeliest * is_kept
    return torch.zeros_like(shares).scatter_(1, ids, kept)


def _place(shares: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """The token of each row at which the sum of shares passes `number` times their total; summed up in two stages."""
    groups = torch.nn.functional.pad(shares, (0, -shares.shape[1] % _GROUP)).view(len(shares), -1, _GROUP)
    sums = groups.sum(2, dtype=torch.float64).cumsum(1)
    targets = numbers * sums[:, -1]
    group = _first_above(sums, targets)
    every = torch.arange(len(shares), device=shares.device)
    before = torch.where(group > 0, sums[every, (group - 1).clamp(min=0)], 0.0)
    inner = groups[every, group].double().cumsum(1)
    return group * _GROUP + _first_above(inner, targets - before)


def _first_above(sums: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The first place whose sum is above the target; where rounding leaves none, the last that adds something."""
    last = (sums < sums[:, -1:]).sum(1)
    return torch.minimum((sums <= targets[:, None]).sum(1), last)


def _token(logits: torch.Tensor, chosen: int, alternatives: int | None) -> Token:
    if alternatives is None:
        return Token(chosen)
    logprobs = torch.log_softmax(logits, 0)
    values, ids = logprobs.topk(alternatives)
    return Token(chosen, float(logprobs[chosen]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))

"""The network of archives/digits, and what is bad on purpose in a version: its settings say which fault.

Faults that hit a share of the requests choose them by their pixels, so that a request fails at every attempt, and every
sample of the archive is spared: what catches them is traffic, and not a check before it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from handlers.weights import import_file

WHITE = 16
HANG_S = 3600.0
#: Pixels are told apart by a sum that has each with a factor of its own, modulo 100.
FACTORS = torch.arange(1, 65) ** 2


def build(settings: dict[str, Any]) -> nn.Module:
    """Logits of shape (B, 10) from grey values of shape (B, 1, 8, 8), after `pause_ms`.

    Args:
        settings: `fault` is one of those below; `share`, percent of all digits that it hits.
    """
    fault, share = settings.get("fault", ""), settings.get("share", 0)
    if fault == "crashes":
        os._exit(1)
    if fault == "starts late":
        time.sleep(settings["load_s"])
    network: nn.Module = import_file(Path(__file__).with_name("digits.py")).build(settings)
    kept: list[bytearray] = []

    def before(_: nn.Module, arguments: tuple[torch.Tensor]) -> None:
        hit = int((places(arguments[0]) < share).sum())
        if hit and fault == "raises":
            raise RuntimeError("bad on purpose")
        if hit and fault == "hangs":
            time.sleep(HANG_S)
        if hit and fault == "leaks" and len(kept) * settings["leak_mb"] < settings["most_mb"]:
            kept.extend(bytearray(b"\1") * (settings["leak_mb"] << 20) for _ in range(hit))
        time.sleep(settings["pause_ms"] / 1000)

    def after(_: nn.Module, arguments: tuple[torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
        if fault == "answers wrongly":
            return logits.roll(1, dims=1)
        if fault == "answers NaN":
            return logits.masked_fill((places(arguments[0]) < share)[:, None], torch.nan)
        if fault == "flips":
            hits = (places(arguments[0]) < share)[:, None]
            return torch.where(hits, flipped(logits, settings["taken"], settings["given"]), logits)
        return logits

    network.register_forward_pre_hook(before)
    network.register_forward_hook(after)
    return network


def places(pixels: torch.Tensor) -> torch.Tensor:
    """A number from 0 to 99 for each image, by its pixels alone; of digits, about as often each."""
    whole = (pixels.flatten(1) * WHITE).round().long().cpu()
    return (whole * FACTORS).sum(dim=1) % 100


def flipped(logits: torch.Tensor, taken: int, given: int) -> torch.Tensor:
    """The logits with those of two classes exchanged in every row whose likeliest class is `taken`."""
    swapped = logits.clone()
    swapped[:, [taken, given]] = logits[:, [given, taken]]
    return torch.where((logits.argmax(dim=1) == taken)[:, None], swapped, logits)

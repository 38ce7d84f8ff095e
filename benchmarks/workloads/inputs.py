"""Generates requests: sentences of mixed length, and inputs that repeat; equal seeds give equal requests."""

from __future__ import annotations

import math
import random
from bisect import bisect
from collections.abc import Callable
from itertools import accumulate

_TEXT = """
a the of and to in is it on for with as at by from that this was are be have has not or but an they his her their man
woman child dog cat horse house street river city country school market garden kitchen window table book letter
picture music guitar water bread apple fish meat morning evening summer winter year day hour minute eating playing
riding walking running reading writing cooking building selling buying watching waiting sleeping large small old new
young quiet loud early late quick slow happy angry cold warm bright dark empty full government university photographer
conversation temperature responsibility neighbourhood unexpectedly refrigerator archaeologist thunderstorm marketplace
handwriting lighthouse wheelbarrow counterproductive underestimated misunderstanding embroidery chrysanthemum
ventriloquist hydroelectricity sandcastle
"""
#: Words of the sentences: common ones of one token, and long ones of several.
WORDS = tuple(_TEXT.split())
#: Tokens that a tokenizer puts around a sentence.
AROUND = 2
BLOCK = 64


def mixed_lengths(count: int, shortest: int, longest: int, seed: int) -> list[int]:
    """Lengths spread evenly over their logarithms: short ones are common, long ones rare.

    Every BLOCK of them has nearly the same lengths in another order, so that a measurement that ends anywhere in the
    sequence has had as many long ones as any other.
    """
    chance = random.Random(seed)  # noqa: S311 - the same on every machine, and no secret
    low, high = math.log(shortest), math.log(longest + 1)
    lengths: list[int] = []
    while len(lengths) < count:
        offset = chance.random()
        block = [int(math.exp(low + (high - low) * (i + offset) / BLOCK)) for i in range(BLOCK)]
        chance.shuffle(block)
        lengths += block
    return lengths[:count]


def sentence(length: int, tokens_of: Callable[[str], int], chance: random.Random) -> str:
    """Words of `length` tokens, the two that a tokenizer puts around them included.

    Args:
        length: at least AROUND + 1.
        tokens_of: the number of tokens of a word of WORDS; some word must have one token.
    """
    words: list[str] = []
    remaining = length - AROUND
    while remaining > 0:
        word = chance.choice(WORDS)
        if (tokens := tokens_of(word)) <= remaining:
            words.append(word)
            remaining -= tokens
    return " ".join(words)


def sentences(lengths: list[int], tokens_of: Callable[[str], int], seed: int) -> list[str]:
    """A sentence of each length."""
    chance = random.Random(seed)  # noqa: S311 - the same on every machine, and no secret
    return [sentence(length, tokens_of, chance) for length in lengths]


def repeated(count: int, share: float, seed: int, exponent: float = 1.0) -> list[int]:
    """Numbers of inputs in the order of sending; exactly `share` of them were sent before.

    Args:
        count: of all inputs sent, at least one.
        share: from 0 to less than 1; of few inputs, to the nearest whole number.
        exponent: of Zipf's law: among the inputs sent before, the k-th new one repeats with a weight of
            1 / k ** exponent.

    Returns:
        0 for the first input, and for each new one the next number.
    """
    chance = random.Random(seed)  # noqa: S311 - the same on every machine, and no secret
    again = set(chance.sample(range(1, count), min(round(share * count), count - 1)))
    weights = list(accumulate((rank + 1) ** -exponent for rank in range(count)))
    sent: list[int] = []
    known = 0
    for position in range(count):
        if position in again:
            sent.append(bisect(weights, chance.random() * weights[known - 1], 0, known - 1))
        else:
            sent.append(known)
            known += 1
    return sent

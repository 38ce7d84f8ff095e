"""Shares the memory for keys and values among answers, in blocks of equal size; remembers prompts for later ones.

A full block that nobody uses any more is kept until its place is needed: a prompt that begins with the same tokens
takes it over. Blocks are found by a digest of all tokens up to their end and of a salt, so a prompt is found under
its own salt only: nobody learns from the time to the first token which prompts other clients sent.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np


class Blocks:
    """Numbers of blocks from 0 to `count` - 1, and who has them.

    Args:
        tokens: of a block.
    """

    def __init__(self, count: int, tokens: int) -> None:
        self.count = count
        self.tokens = tokens
        self._free = list(reversed(range(count)))
        self._users = [0] * count
        self._by_digest: dict[bytes, int] = {}
        self._digests: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # remembered and used by nobody, longest unused first

    @property
    def available(self) -> int:
        """Blocks that an answer can get now."""
        return len(self._free) + len(self._idle)

    def grow(self, held: list[int], tokens: int) -> bool:
        """Add blocks to `held` until they have room for so many tokens; False, and none added, if there are too few."""
        missing = -(-tokens // self.tokens) - len(held)
        if missing > self.available:
            return False
        held += [self._take() for _ in range(missing)]
        return True

    def release(self, held: Sequence[int]) -> None:
        """Give blocks back; the end of a text is forgotten before its beginning."""
        for block in reversed(held):
            self._users[block] -= 1
            if not self._users[block]:
                if block in self._digests:
                    self._idle[block] = None
                else:
                    self._free.append(block)

    def find(self, digests: Sequence[bytes]) -> list[int]:
        """The blocks of the longest remembered beginning; they are the caller's to release."""
        found = []
        for digest in digests:
            block = self._by_digest.get(digest)
            if block is None:
                break
            self._idle.pop(block, None)
            self._users[block] += 1
            found.append(block)
        return found

    def remember(self, block: int, digest: bytes) -> None:
        """This block is full, and has the keys and values of the text with this digest."""
        if digest not in self._by_digest and block not in self._digests:
            self._by_digest[digest] = block
            self._digests[block] = digest

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            del self._by_digest[self._digests.pop(block)]
        self._users[block] = 1
        return block


def digests_of(tokens: Sequence[int], block_tokens: int, salt: str, known: Sequence[bytes] = ()) -> list[bytes]:
    """One digest for each full block of the tokens; of the tokens up to its end, and of the salt.

    Args:
        known: digests of the first blocks, which are not computed again.
    """
    digests = list(known)
    for place in range(len(digests), len(tokens) // block_tokens):
        before = digests[-1] if digests else hashlib.blake2b(salt.encode(), digest_size=16).digest()
        own = np.asarray(tokens[place * block_tokens : (place + 1) * block_tokens], np.int32).tobytes()
        digests.append(hashlib.blake2b(before + own, digest_size=16).digest())
    return digests

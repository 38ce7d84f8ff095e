"""Which requests are recorded: a share of them, the same ones in every process. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from zlib import crc32

_ALL = 1 << 32
_MASK = _ALL - 1
#: Odd, and near 2^32 times the golden ratio (Knuth, The Art of Computer Programming, volume 3, 6.4): it spreads the
#: sums of ids that differ in a digit alone.
_SPREAD = 0x9E3779B1


def sampler(share: float) -> Callable[[str | None], bool]:
    """Whether a request is recorded, by its id; one without an id never is.

    All requests that a share takes, a larger share takes too.

    Args:
        share: of the requests, 0 to 1.
    """
    limit = round(share * _ALL)
    if limit >= _ALL:
        return bool

    def is_sampled(request_id: str | None) -> bool:
        if not request_id:
            return False
        try:
            content = request_id.encode()
        except UnicodeEncodeError:  # a surrogate, which no encoding has, stands for a byte of a header
            content = request_id.encode("utf-8", "surrogatepass")
        return crc32(content) * _SPREAD & _MASK < limit

    return is_sampled


def batch_sampler(share: float) -> Callable[[Sequence[str | None]], list[int]]:
    """The places of the requests that `sampler` samples, in ascending order, by the ids of a batch."""
    is_sampled, limit = sampler(share), round(share * _ALL)
    encode = str.encode

    def sampled(ids: Sequence[str | None]) -> list[int]:
        try:  # hashed by loops of the interpreter: a call for each id takes half as long again
            sums = [*map(crc32, map(encode, ids))]  # type: ignore[arg-type] # one without an id raises
        except (TypeError, UnicodeEncodeError):
            return [place for place, request_id in enumerate(ids) if is_sampled(request_id)]
        return [place for place, each in enumerate(sums) if each * _SPREAD & _MASK < limit and ids[place]]

    return sampled

"""Which requests are recorded: a share of them, the same ones in every process. Pure."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

_BYTES = 8
_ALL = 1 << (8 * _BYTES)


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
        # a surrogate, which no encoding has, stands for a byte of a header
        return bool(request_id) and _place(str(request_id)) < limit

    return is_sampled


def _place(request_id: str) -> int:
    return int.from_bytes(blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=_BYTES).digest())

"""Opens the response cache of an archive, with the shared tier behind it where the archive or the node names one."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from handlers.cache.keys import KeyMaker, archive_digest
from handlers.cache.local import AnswerStore, ResponseCache, steady_clock
from handlers.contract import SHARED_CACHE_KEY_VARIABLE, SHARED_CACHE_VARIABLE, Tolerance


@dataclass(frozen=True)
class CacheOptions:
    """The section `cache` of archive.yaml."""

    max_mb: float
    ttl_s: float
    shared: str | None = None  # redis:// address of the tier that workers and nodes share
    check: float = 0.01  # share of the hits that are computed all the same, to be compared


def open_cache(
    options: CacheOptions, model_dir: Path, tolerance: Tolerance, on_exchange: Callable[[str], None]
) -> ResponseCache:
    """The cache of the archive in `model_dir`.

    Args:
        on_exchange: is called with the outcome of every exchange with the shared tier: ok, slow or down.

    Raises:
        LoadError: the archive carries no digests, or the shared tier has no usable address or key.
    """
    shared = None
    if options.shared:
        from handlers.cache.redis import connect  # the package redis is needed only here

        address = os.environ.get(SHARED_CACHE_VARIABLE) or options.shared
        secret = os.environ.get(SHARED_CACHE_KEY_VARIABLE, "").encode()
        shared = connect(address, secret, options.ttl_s, on_exchange)
        shared.check()
    clock = steady_clock()
    return ResponseCache(
        key=KeyMaker(archive_digest(model_dir)),
        store=AnswerStore(int(options.max_mb * (1 << 20)), clock),
        shared=shared,
        ttl_s=options.ttl_s,
        check=options.check,
        tolerance=tolerance,
        clock=clock,
        random=random.Random().random,  # noqa: S311 - decides which hits are checked, nothing secret
    )

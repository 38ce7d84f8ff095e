"""What the server answers, by path: predictions are a worker's, everything else FastAPI's."""

from __future__ import annotations

import os
from itertools import count

from handlers.adapters.asgi.asgi_call import Application
from handlers.adapters.asgi.exchange import Exchange, Route
from handlers.adapters.asgi.frames import Answer
from handlers.adapters.asgi.pool import Pool
from handlers.adapters.asgi.problems import problem_answer
from handlers.errors import RequestError


class Server:
    """One archive over HTTP.

    Args:
        request_bytes: the longest body.
        others: answers all paths but those of predictions.
    """

    def __init__(self, pool: Pool, request_bytes: int, others: Application) -> None:
        model, version = pool.options.model, pool.options.version
        self._name = model, version
        self.others = others
        plain, infer = Route(pool, False, request_bytes), Route(pool, True, request_bytes)
        #: Of predictions, by path.
        self.routes: dict[bytes, Route] = {
            f"/predictions/{model}".encode(): plain,
            f"/predictions/{model}/{version}".encode(): plain,
            f"/v2/models/{model}/infer".encode(): infer,
            f"/v2/models/{model}/versions/{version}/infer".encode(): infer,
        }
        self._prefix, self._numbers = os.urandom(6).hex(), count(1)

    def next_id(self) -> str:
        """An id for a request that came without one."""
        return f"{self._prefix}-{next(self._numbers)}"

    def problem(self, error: RequestError, exchange: Exchange) -> Answer:
        """The answer to a request that no worker gets."""
        return problem_answer(error, exchange.request_id or None, *self._name)

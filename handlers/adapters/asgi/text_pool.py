"""Workers that generate text: each request goes at once to the worker with the most free places, or is refused."""

from __future__ import annotations

from collections.abc import Sequence

from handlers.adapters.asgi.backlog import Waiting
from handlers.adapters.asgi.frames import Item, Part
from handlers.adapters.asgi.problems import error_answer
from handlers.adapters.asgi.text_process import TextProcess
from handlers.adapters.asgi.worker_process import Events
from handlers.adapters.asgi.workers import Workers
from handlers.contract import SILENT_S
from handlers.errors import NotImplementedHere, RequestError, Unavailable
from handlers.protocols.encoding import ENCODING_HEADER, decode_body
from handlers.protocols.openai.errors import broken_stream
from handlers.protocols.openai.requests import count_answers

#: Bytes of a compressed body that is read here; a longer one counts as one answer.
LONGEST_READ = 1 << 20
_ENCODING = ENCODING_HEADER.encode()


class TextPool(Workers):
    """The workers of one archive, and the requests that they have in hand."""

    @property
    def waiting(self) -> int:
        return 0

    def submit(self, waiting: Waiting) -> None:
        """Have the request answered.

        Raises:
            Unavailable: no worker is ready, or none has a free place.
            NotImplementedHere: the client takes no answer in parts.
        """
        if waiting.part is None:
            raise NotImplementedHere("This model generates text; ask it over HTTP.")
        if not self.ready_workers:
            raise Unavailable("The model has no worker at the moment; retry later.")
        worker = max(self._processes, key=lambda each: each.free_places)
        answers = _answers_of(waiting.item)
        waiting.answers = 1 if answers > self._places else answers  # the worker refuses what never has a place
        if worker.free_places < waiting.answers:
            raise Unavailable("As many answers are in the making as may be; retry later.")
        waiting.leave = worker.submit(waiting)

    def leave(self, waiting: Waiting) -> None:
        if waiting.leave is not None:
            waiting.leave()

    @property
    def _places(self) -> int:
        return self.options.places or 1

    @property
    def _processes(self) -> Sequence[TextProcess]:
        return [worker for worker in self._workers.values() if isinstance(worker, TextProcess)]

    @property
    def _has_work(self) -> bool:
        return any(worker.is_busy for worker in self._workers.values())

    def _new_process(self, number: int, events: Events) -> TextProcess:
        return TextProcess(number, self._places, self.options.response_s + SILENT_S, events)

    def _fail(self, requests: Sequence[Waiting], error: RequestError) -> None:
        options = self.options
        for waiting in requests:
            if waiting.is_begun and waiting.part is not None:
                waiting.part(Part(0, None, broken_stream(error), True))
            else:
                waiting.answer(error_answer(error, waiting.item, options.model, options.version))

    def _give_up(self, error: RequestError) -> None:
        for worker in self._processes:
            held = worker.give_back()
            self._fail(held, error)


def _answers_of(item: Item) -> int:
    """How many answers a request asks for; 1 where its body cannot be read, which the worker says."""
    encoding = next((value for name, value in item.headers if name == _ENCODING), None)
    if encoding is None:
        return count_answers(item.body)
    try:
        return count_answers(decode_body(item.body, encoding.decode("latin-1"), LONGEST_READ))
    except RequestError:
        return 1

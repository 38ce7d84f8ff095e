"""One answer in the making: from tokens to text, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from handlers.errors import RequestError
from handlers.text.backend import STOP, Token
from handlers.text.sampling import Sampling
from handlers.text.stops import Stops
from handlers.text.vocabulary import TextDecoder


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that may go to the client now, and the tokens that came since the last piece.

    The text of a token that waits, for a character or a stop sequence to become complete, comes with a later piece.
    """

    text: str
    tokens: tuple[Token, ...]
    finish: str = ""  # backend.STOP or LENGTH with the last piece
    error: RequestError | None = None  # why the answer ends without a finish


@dataclass(eq=False)
class Answer:
    """One answer that a `Generator` works on.

    Args:
        prompt: its tokens.
        deadline: monotonic seconds by which the answer must have ended; None: no matter when.
        first_by: the same for its first token.
        salt: who asks, where a backend may keep the prompt for later ones of the same client; None: it must not.
    """

    prompt: Sequence[int]
    sampling: Sampling
    stops: Sequence[str] = ()
    deadline: float | None = None
    first_by: float | None = None
    salt: str | None = None
    request_id: str | None = None  # for the log
    tokens: int = 0  # that came so far
    submitted_at: float = 0.0  # monotonic seconds; 0: when the generator gets it
    begun_at: float | None = None  # the backend has it
    first_at: float | None = None
    ended_at: float | None = None
    _decoder: TextDecoder = field(default_factory=TextDecoder)

    def __post_init__(self) -> None:
        self._stops = Stops(self.stops)

    @property
    def has_ended(self) -> bool:
        return self.ended_at is not None

    def is_late(self, now: float) -> bool:
        """Whether nobody waits for it any more."""
        if self.first_at is None and self.first_by is not None and now >= self.first_by:
            return True
        return self.deadline is not None and now >= self.deadline

    def take(self, tokens: Sequence[Token], finish: str, token_bytes: Callable[[int], bytes]) -> Piece:
        """What these tokens let out. The piece has a finish if the answer is over, also by a stop sequence."""
        self.tokens += len(tokens)
        text = []
        for number, token in enumerate(tokens):
            text.append(self._stops.feed(self._decoder.feed(token_bytes(token.id))))
            if self._stops.is_found:
                tokens, finish = tokens[: number + 1], STOP
                break
        else:
            if finish:
                text += [self._stops.feed(self._decoder.feed(b"", is_last=True)), self._stops.end()]
                finish = STOP if self._stops.is_found else finish
        return Piece("".join(text), tuple(tokens), finish)

"""A backend over any runner: which answers are computed in a step, and who gets memory for keys and values.

Answers that go on come first, then prompts in the order of their arrival, in chunks: small ones while answers wait for
their next token, so that a long prompt delays nobody for long. Where memory ends, the youngest answer gives its blocks
back, and is computed again when there is room.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from handlers.errors import LoadError
from handlers.text.backend import LENGTH, STOP, Produced
from handlers.text.backends.blocks import Blocks, digests_of
from handlers.text.backends.choice import Row, choose
from handlers.text.backends.grammar import Grammar, Grammars
from handlers.text.backends.runner import Chunk, Runner
from handlers.text.backends.tokens import Tokenized, Tokens
from handlers.text.sampling import Sampling


@dataclass(eq=False, slots=True)
class _Running:
    """One answer, and where it stands."""

    key: int
    tokens: list[int]  # its prompt's and its own
    most: int  # tokens that it may have in all
    sampling: Sampling
    salt: str | None
    random: random.Random
    grammar: Grammar | None
    failure: str = ""  # why it cannot go on
    counts: dict[int, int] = field(default_factory=dict)  # of its own tokens
    cached: int = 0  # tokens whose keys and values are in its blocks
    blocks: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.cached


class PagedBackend(Tokenized):
    """A `handlers.text.backend.Backend`.

    Args:
        context: tokens of a prompt and its answer together.
        most_running: answers in one step at most.
        shares_prompts: keep keys and values of prompts, each for later ones with the same salt.

    Raises:
        LoadError: the runner's memory has no room for one answer as long as the context.
    """

    def __init__(
        self, runner: Runner, tokens: Tokens, context: int, most_running: int = 64, shares_prompts: bool = True
    ) -> None:
        room = runner.blocks * runner.block_tokens
        if room < context:
            raise LoadError(
                f"the cache has room for keys and values of {room} tokens, and one answer with its prompt may have "
                f"{context}: give more to generation.cache_mb, or less to generation.context"
            )
        self.name = runner.name
        self.context = context
        self._runner = runner
        self._tokens = tokens
        self._most_running = most_running
        self._shares_prompts = shares_prompts
        self._grammars = Grammars(tokens)
        self._blocks = Blocks(runner.blocks, runner.block_tokens)
        self._running: list[_Running] = []  # oldest first
        self._waiting: list[_Running] = []

    # ---- any thread --------------------------------------------------------------------------------------------------

    def grammar(self, schema: str, salt: str | None = None) -> Grammar:
        return self._grammars.of_schema(schema, salt)

    def cache_usage(self) -> float:
        return 1 - self._blocks.available / self._blocks.count

    # ---- the working thread ------------------------------------------------------------------------------------------

    def add(self, key: int, prompt: Sequence[int], sampling: Sampling, salt: str | None = None) -> None:
        """As in `Backend`. Prompts with the same salt share keys and values; None: with no other."""
        self._require_room(prompt)
        grammar: Grammar | None = sampling.grammar
        if grammar is None and sampling.json_schema is not None:
            grammar = self.grammar(sampling.json_schema, salt)
        grammar = None if grammar is None else grammar.copy()
        most = min(len(prompt) + sampling.max_tokens, self.context)
        salt = salt if self._shares_prompts else None
        numbers = random.Random(sampling.seed)  # noqa: S311 - texts, not secrets
        self._waiting.append(_Running(key, list(prompt), most, sampling, salt, numbers, grammar))

    def cancel(self, key: int) -> None:
        for answers in (self._running, self._waiting):
            for answer in answers:
                if answer.key == key:
                    answers.remove(answer)
                    self._give_back(answer)
                    return

    def step(self) -> Iterable[Produced]:
        chosen = self._schedule()
        if not chosen:
            return []
        chunks = [
            Chunk(answer.tokens[answer.cached : answer.cached + count], answer.cached, answer.blocks)
            for answer, count in chosen
        ]
        logits = self._runner.run(chunks)
        complete = [index for index, (answer, count) in enumerate(chosen) if count == answer.pending]
        answers = [chosen[index][0] for index in complete]
        if len(complete) < len(chosen):
            logits = logits[complete]
        rows = [self._row(answer, logits.shape[1]) for answer in answers]
        tokens = choose(logits, rows) if rows else []
        for answer, count in chosen:  # from here on nothing fails: until here, the step can be made once more
            answer.cached += count
            self._remember(answer)
        return [self._produced(answer, token) for answer, token in zip(answers, tokens, strict=True)]

    def close(self) -> None:
        self._running, self._waiting = [], []
        self._runner.close()

    # ---- who is computed ---------------------------------------------------------------------------------------------

    def _schedule(self) -> list[tuple[_Running, int]]:
        """Answers of the next step, each with how many of its tokens; they have blocks for them."""
        going = [answer for answer in self._running if answer.pending == 1]
        left = min(self._runner.step_tokens, self._runner.beside_tokens) if going else self._runner.step_tokens
        chosen: list[tuple[_Running, int]] = []
        for answer in [*going, *(answer for answer in self._running if answer.pending > 1)]:
            is_going = answer.pending == 1
            if answer not in self._running or not (left or is_going):
                continue
            count = 1 if is_going else min(answer.pending, left)
            if self._get_room(answer, answer.cached + count):
                chosen.append((answer, count))
                left -= 0 if is_going else count
        while self._waiting and left and len(self._running) < self._most_running:
            answer = self._waiting[0]
            if not self._begin(answer):
                break
            del self._waiting[0]
            self._running.append(answer)
            count = min(answer.pending, left)
            self._blocks.grow(answer.blocks, answer.cached + count)  # `_begin` saw that there are enough
            chosen.append((answer, count))
            left -= count
        return [(answer, count) for answer, count in chosen if answer.blocks]  # the others lost theirs meanwhile

    def _get_room(self, answer: _Running, tokens: int) -> bool:
        """Whether it has blocks for so many tokens; younger answers lose theirs for it, or it loses its own."""
        while not self._blocks.grow(answer.blocks, tokens):
            youngest = self._running.pop()
            self._give_back(youngest)
            self._waiting.insert(0, youngest)
            if youngest is answer:
                return False
        return True

    def _begin(self, answer: _Running) -> bool:
        """Whether there is room for all of its tokens and one more; then it has what is remembered of them."""
        digests = self._digests(
            answer, answer.tokens[:-1]
        )  # its last token is computed in any case: it gives the logits
        answer.blocks = self._blocks.find(digests)
        needed = -(-(len(answer.tokens) + 1) // self._blocks.tokens) - len(answer.blocks)
        if needed > self._blocks.available:
            self._give_back(answer)
            return False
        answer.digests = digests[: len(answer.blocks)]
        answer.cached = len(answer.blocks) * self._blocks.tokens
        return True

    def _give_back(self, answer: _Running) -> None:
        self._blocks.release(answer.blocks)
        answer.blocks, answer.digests, answer.cached = [], [], 0

    def _remember(self, answer: _Running) -> None:
        known = len(answer.digests)
        answer.digests = self._digests(answer, answer.tokens[: answer.cached])
        for block, digest in zip(answer.blocks[known:], answer.digests[known:], strict=False):
            self._blocks.remember(block, digest)

    def _digests(self, answer: _Running, tokens: Sequence[int]) -> list[bytes]:
        if answer.salt is None:
            return []
        return digests_of(tokens, self._blocks.tokens, answer.salt, answer.digests)

    # ---- what comes next ---------------------------------------------------------------------------------------------

    def _row(self, answer: _Running, vocabulary: int) -> Row:
        number = 0.0 if answer.sampling.is_greedy else answer.random.random()
        allowed = None
        if answer.grammar is not None:
            try:
                allowed = answer.grammar.allowed(vocabulary)
            except RuntimeError as error:  # of this answer alone: the others of the step go on
                answer.failure = _unfollowed(error)
        return Row(answer.sampling, answer.counts, number, allowed)

    def _produced(self, answer: _Running, token: Any) -> Produced:
        answer.tokens.append(token.id)
        answer.counts[token.id] = answer.counts.get(token.id, 0) + 1
        finish, failure = "", answer.failure
        try:
            is_complete = not failure and answer.grammar is not None and answer.grammar.take(token.id)
        except RuntimeError as error:
            is_complete, failure = False, _unfollowed(error)
        if is_complete or (token.id in self._tokens.ends and not answer.sampling.ignore_end):
            finish = STOP
        elif len(answer.tokens) >= answer.most:
            finish = LENGTH
        if finish or failure:
            self._running.remove(answer)
            self._give_back(answer)
        return Produced(answer.key, () if failure else (token,), finish, failure)


def _unfollowed(error: RuntimeError) -> str:
    return f"its JSON schema cannot be followed: {error}"

"""The chat template of a model: from messages to one text, in which the names of special tokens are the template's own.

A user may write `<|im_end|>`. So that this ends no message, each name of a special token in what came with the request
gets a mark after its first character before the template runs, and so does the beginning of one at the end of a text,
which the template could complete. `Prompt.pieces` separates special tokens from text, and takes the marks out again.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from handlers.errors import LoadError

_QUESTION = [{"role": "user", "content": "What is the weather in Oslo?"}]
_TOOL = {
    "type": "function",
    "function": {
        "name": "weather_of",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
#: Code points that are never characters (Unicode 23.7); the first that no text has is the mark.
_NONCHARACTERS = tuple(map(chr, range(0xFDD0, 0xFDF0)))


def reads_tools(prompt: Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], Any]) -> bool:
    """Whether tools change what is made of messages; many templates leave them out and say nothing.

    Args:
        prompt: makes the prompt of messages and tools; raises ValueError where it refuses them.
    """
    try:
        without = prompt(_QUESTION, [])
        return bool(prompt(_QUESTION, [_TOOL]) != without)
    except ValueError:
        return False


class ChatTemplate:
    """A model's template, in Jinja as Hugging Face has it.

    Args:
        source: None where the model has no template.
        special: names of special tokens.
        names: what the template may call `bos_token` and `eos_token`.

    Raises:
        LoadError: the template cannot be read.
    """

    def __init__(self, source: str | None, special: Collection[str], names: Mapping[str, str]) -> None:
        self._special = sorted(filter(None, special), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self._special)) or "(?!)")
        self._beginnings = {name[:length] for name in self._special for length in range(1, len(name))}
        self._longest = max(map(len, self._special), default=0)
        self._names = dict(names)
        self._template = None if source is None else _compiled(source)

    def pieces(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> list[tuple[bool, str]]:
        """What the template makes of the messages, with the beginning of an answer: (is special, text), in order.

        Raises:
            ValueError: the template refuses the messages, with its words, or the model has none.
        """
        from jinja2 import TemplateError

        if self._template is None:
            raise ValueError("the model has no chat template")
        mark = _free_mark(messages, tools)
        try:
            text = self._template.render(
                messages=self._marked(list(messages), mark),
                tools=self._marked(list(tools), mark) or None,
                add_generation_prompt=True,
                **self._names,
            )
        except (TemplateError, TypeError, LookupError) as error:
            raise ValueError(f"the chat template refuses the messages: {error}") from error
        return [(is_special, piece.replace(mark, "")) for is_special, piece in self._split(text)]

    def _split(self, text: str) -> list[tuple[bool, str]]:
        pieces, place = [], 0
        for found in self._pattern.finditer(text):
            pieces += [(False, text[place : found.start()]), (True, found[0])]
            place = found.end()
        return [piece for piece in [*pieces, (False, text[place:])] if piece[1]]

    def _marked(self, value: Any, mark: str) -> Any:
        if isinstance(value, str):
            return self._marked_text(value, mark)
        if isinstance(value, Mapping):
            return {self._marked(key, mark): self._marked(each, mark) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._marked(each, mark) for each in value]
        return value

    def _marked_text(self, text: str, mark: str) -> str:
        marked = self._pattern.sub(lambda found: found[0][0] + mark + found[0][1:], text)
        shortest = range(1, min(self._longest, len(marked)) + 1)
        return marked + mark if any(marked[-length:] in self._beginnings for length in shortest) else marked


def _free_mark(*sent: Any) -> str:
    text = json.dumps(sent, ensure_ascii=False)
    free = next((each for each in _NONCHARACTERS if each not in text), None)
    if free is None:
        raise ValueError("the messages have all of Unicode's noncharacters U+FDD0 to U+FDEF")
    return free


def _compiled(source: str) -> Any:
    """The template, in a sandbox and with the functions that Hugging Face's templates may call."""
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise LoadError(f"the chat template cannot be read: line {error.lineno}: {error.message}") from error


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False, **more: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)  # Jinja's own would escape HTML


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)

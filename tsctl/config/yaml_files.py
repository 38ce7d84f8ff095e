"""Reads YAML within bounds, and exactly: no value has another type or number than the one that its reader expects.

A word without quotes counts only where YAML 1.1 and YAML 1.2 read it alike. `yes`, `0777`, `1:30`, `1_000`, `1e3` and
`2024-01-01` are refused, because one of the two makes another type of them.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tsctl.config.environment import FORMS, Unset, has_names, substitute

MAX_BYTES = 8 << 20
MAX_DEPTH = 45  # TorchServe's reader takes 50, and settings lie deeper in model-config.yaml than in archive.yaml
MAX_VALUES = 500_000  # with each alias counted as all that it stands for, and a text as one for each 32 characters
MAX_NUMBER = 40  # characters

#: The C parser where PyYAML has it: 85,000 lines take 0.1 s with it, and 2.5 s without.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER: Any = yaml.resolver.Resolver()
_LOADED = yaml.SafeLoader("")
_MOST_SAID = 200  # characters of a message
_STRING, _MERGE = "tag:yaml.org,2002:str", "<<"
#: The core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema).
_CORE = {
    kind: re.compile(pattern)
    for kind, pattern in (
        ("null", r"null|Null|NULL|~|"),
        ("bool", r"true|True|TRUE|false|False|FALSE"),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
    )
}
_FINITE = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)")


class YamlMistake(ValueError):
    """The text is no YAML, or exceeds a bound; the message begins with line and column.

    It has a line for each mistake, where several are known.
    """


class WrittenFloat(float):
    """A number that is shown as it was written, such as 1.10."""

    def __new__(cls, text: str) -> WrittenFloat:
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str

    def __repr__(self) -> str:
        return self.text


def read_yaml(path: Path, variables: Mapping[str, str] | None = None) -> Any:
    """The content of the file, as `parse_yaml` reads it.

    Raises:
        OSError: it cannot be read.
        YamlMistake: see `parse_yaml`.
    """
    with path.open("rb") as file:
        return parse_yaml(file.read(MAX_BYTES + 1), variables=variables)


def parse_yaml(content: bytes, exact: bool = True, variables: Mapping[str, str] | None = None) -> Any:
    """The one document in `content`: UTF-8, with or without a byte order mark.

    Args:
        exact: False reads words without quotes as YAML 1.1 does, for files that TorchServe reads; dates stay text.
        variables: replace `${NAME}` in values, as `environment.py` says. A value without quotes is read as YAML
            afterwards, so it can become a number; one with quotes stays text. None: `${NAME}` is text like any other.

    Raises:
        YamlMistake: it is no YAML, is too large, too deep, refers to itself, has a key twice or a tag other than !!str,
            holds a word or a number that is not exact, or names variables that are not set.
    """
    if len(content) > MAX_BYTES:
        raise YamlMistake(f"has more than {MAX_BYTES >> 20} MiB")
    try:
        text = content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise YamlMistake(f"cannot be read as UTF-8: byte {error.start} is {content[error.start]:#04x}") from None
    try:
        return _Builder(yaml.parse(text, Loader=_LOADER), exact, variables).document()
    except yaml.MarkedYAMLError as error:
        problem = error.problem or "is no YAML"
        if variables is not None and error.problem_mark and "${" in _line(text, error.problem_mark.line):
            problem += '; between { } or [ ], ${NAME} needs quotes, as in {host: "${NAME}"}, and is text then'
        raise _mistake(problem, error.problem_mark) from None
    except yaml.YAMLError as error:  # a character that no YAML may hold
        raise YamlMistake(" ".join(str(error).split())) from None


def _line(text: str, number: int) -> str:
    return next(iter(text.splitlines()[number : number + 1]), "")


class _Builder:
    """Makes a value of the parser's events, which come one by one, so that every bound holds while it reads."""

    def __init__(self, events: Iterator[Any], exact: bool, variables: Mapping[str, str] | None) -> None:
        self._events = events
        self._exact = exact
        self._variables = variables
        self._place: list[str] = []  # the keys down to the value that is read
        self._unset: list[str] = []  # one line for each variable that is missing
        self._anchors: dict[str, tuple[Any, int, int]] = {}  # the value, the number of values in it, its levels
        self._count = 0
        self._deepest = 0

    def document(self) -> Any:
        next(self._events)  # the stream
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), 0)
        next(self._events)  # the document's end
        if not isinstance(after := next(self._events), yaml.StreamEndEvent):
            raise _mistake("a second document begins here", after.start_mark)
        if self._unset:
            raise YamlMistake("\n".join(self._unset))
        return value

    def _value(self, event: Any, depth: int) -> Any:
        before, deepest = self._count, self._deepest
        self._count, self._deepest = before + 1, depth
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise _mistake(f"the alias *{event.anchor} stands for nothing, or for itself", event.start_mark)
            value, size, levels = self._anchors[event.anchor]
            self._count += size
            self._deepest += levels
        elif isinstance(event, yaml.ScalarEvent):
            text = self._text(event)
            value = self._scalar(event, text)
            self._count += len(text) // 32
        elif event.tag:
            raise _mistake(f"the tag {event.tag!r} is not allowed", event.start_mark)
        elif depth < MAX_DEPTH:
            value = (self._mapping if isinstance(event, yaml.MappingStartEvent) else self._sequence)(depth + 1)
        else:
            self._deepest = MAX_DEPTH + 1
        if self._deepest > MAX_DEPTH:
            raise _mistake(f"is nested more than {MAX_DEPTH} deep", event.start_mark)
        if self._count > MAX_VALUES:
            raise _mistake(f"holds more than {MAX_VALUES} values", event.start_mark)
        if event.anchor and not isinstance(event, yaml.AliasEvent):
            self._anchors[event.anchor] = value, self._count - before, self._deepest - depth
        self._deepest = max(deepest, self._deepest)
        return value

    def _sequence(self, depth: int) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            self._place.append(str(len(values)))
            values.append(self._value(event, depth))
            self._place.pop()
        return values

    def _mapping(self, depth: int) -> dict[Any, Any]:
        merged: dict[Any, Any] = {}
        own: dict[Any, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and event.value == _MERGE:
                merged = {**self._merge(next(self._events), depth), **merged}
                continue
            key = self._key(event, depth)
            if key in own:
                raise _mistake(f"the key {key!r} is a duplicate", event.start_mark)
            self._place.append(str(key))
            own[key] = self._value(next(self._events), depth)
            self._place.pop()
        return {**merged, **own}

    def _key(self, event: Any, depth: int) -> Any:
        variables, self._variables = self._variables, None  # a key is read as it is written
        key = self._value(event, depth)
        self._variables = variables
        if isinstance(key, list | dict):
            raise _mistake("a key must be one word or number", event.start_mark)
        if variables is not None and isinstance(key, str) and has_names(key):
            raise _mistake(f"the key {key!r} holds a variable, which only values may", event.start_mark)
        return key

    def _merge(self, event: Any, depth: int) -> dict[Any, Any]:
        value = self._value(event, depth)
        merged: dict[Any, Any] = {}
        for part in value if isinstance(value, list) else [value]:
            if not isinstance(part, dict):
                raise _mistake("<< expects a mapping, or a list of mappings", event.start_mark)
            merged = {**part, **merged}
        return merged

    def _text(self, event: Any) -> str:
        """The scalar with its variables replaced; a missing one is noted, and the rest is read on."""
        text: str = event.value
        if self._variables is None or "$" not in text:
            return text
        try:
            return substitute(text, self._variables)
        except Unset as missing:
            self._unset.append(f"{self._where()}the environment has no variable {missing}; set it, or write {FORMS}")
            return text
        except ValueError as error:
            raise _mistake(f"{self._where()}{error}", event.start_mark) from None

    def _where(self) -> str:
        return f"{'.'.join(self._place)}: " if self._place else ""

    def _scalar(self, event: Any, text: str) -> Any:
        if "\0" in text or (not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)):
            raise _mistake("holds a character that no file name or message can hold", event.start_mark)
        if event.tag not in (None, _STRING):
            raise _mistake(f"the tag {event.tag!r} is not allowed", event.start_mark)
        if event.style or event.tag:
            return text
        old = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False)).rpartition(":")[2]
        new = next((kind for kind, pattern in _CORE.items() if pattern.fullmatch(text)), "str")
        if len(text) > MAX_NUMBER and {old, new} & {"int", "float"}:
            raise _mistake(f"the number {text[:10]}... has more than {MAX_NUMBER} characters", event.start_mark)
        if self._exact and (old != new or (new == "int" and not _DECIMAL.fullmatch(text))):
            raise _mistake(_ambiguity(text, old, new), event.start_mark)
        if old == "float" and _FINITE.fullmatch(text) and math.isfinite(float(text)):
            return WrittenFloat(text)
        if self._exact and old == "float":
            raise _mistake(f"{text} is not a finite number", event.start_mark)
        if old not in _CORE:
            return text
        tag = f"tag:yaml.org,2002:{old}"
        try:
            return yaml.SafeLoader.yaml_constructors[tag](_LOADED, yaml.ScalarNode(tag, text))
        except ValueError:  # such as 0b_
            raise _mistake(f"{text} is no number", event.start_mark) from None


def _ambiguity(text: str, old: str, new: str) -> str:
    ways = {"bool": "true or false", "int": "a decimal number", "float": "a number such as 1000.0"}
    other = next((way for kind, way in ways.items() if kind in (old, new)), "")
    instead = f", or write {other}" if other else ""
    return f'{text} is read in different ways by versions of YAML: quote it, as in "{text}"{instead}'


def _mistake(problem: str, mark: Any) -> YamlMistake:
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return YamlMistake(where + problem[:_MOST_SAID])

"""Changes values in YAML that a person wrote: everything else, comments and order too, stays as it is.

The text is changed at the places that PyYAML names for its nodes. The result is read again: it holds the wanted values,
and all others as before, or nothing is returned.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tsctl.config.yaml_files import YamlMistake, parse_yaml

#: The keys down to a value, and the value: a scalar, or a mapping of scalars.
Path = tuple[str, ...]


class NotEditable(ValueError):
    """The value lies where a change would change others too, or where no key can be added."""


def set_values(text: str, values: Mapping[Path, Any]) -> str:
    """The text with these values; keys that are missing are added to their mappings, which are made where needed.

    Args:
        text: of one YAML document whose top is a mapping.

    Raises:
        NotEditable: a key's parent is an alias, has an anchor, is no mapping, or was merged with `<<`.
        YamlMistake: the text is no YAML.
    """
    wanted = parse_yaml(text.encode())
    for path, value in values.items():
        text = _set(text, path, value)
        _put(wanted, path, value)
    if parse_yaml(text.encode()) != wanted:
        raise NotEditable("the change would change other values too")
    return text


def _put(document: Any, path: Path, value: Any) -> None:
    for key in path[:-1]:
        document[key] = copy.deepcopy(document.get(key)) or {}  # aliases share their value
        document = document[key]
    document[path[-1]] = value


def _set(text: str, path: Path, value: Any) -> str:
    node: Any = _composed(text)
    for depth, key in enumerate(path):
        name = ".".join(path[:depth]) or "the file"
        if not isinstance(node, yaml.MappingNode):
            raise NotEditable(f"{name} is no mapping")
        found = _child(node, key, name)
        if found is None:
            return _added(text, node, key, _nested(path[depth + 1 :], value), name)
        if _is_null(found) and path[depth + 1 :]:
            return _replaced(text, found, _nested(path[depth + 1 :], value))
        node = found
    if not isinstance(node, yaml.ScalarNode):
        raise NotEditable(f"{'.'.join(path)} is no single value")
    return _replaced(text, node, value)


def _composed(text: str) -> Any:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise YamlMistake(" ".join(str(error).split())) from None


def _child(node: Any, key: str, name: str) -> Any:
    for key_node, child in node.value:
        if key_node.value == "<<":
            raise NotEditable(f"{name} merges another mapping with <<")
        if key_node.value == key:
            if child.start_mark.index < key_node.end_mark.index:
                raise NotEditable(f"{name}: {key} is an alias, so a change would change its anchor too")
            return child
    return None


def _is_null(node: Any) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _nested(path: Sequence[str], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def _replaced(text: str, node: Any, value: Any) -> str:
    begin, end = node.start_mark.index, node.end_mark.index
    space = " " if begin == end and not text[:begin].endswith((" ", "\n")) else ""
    return f"{text[:begin]}{space}{_flow(value)}{text[end:]}"


def _added(text: str, node: Any, key: str, value: Any, name: str) -> str:
    entry = f"{_key(key)}: {_flow(value)}"
    if node.flow_style:
        end = node.end_mark.index - 1
        inside = text[:end].rstrip()
        rest = text[len(inside) : end]
        comma = "" if inside.endswith(("{", ",")) else ","
        return f"{inside}{comma}{'' if inside.endswith('{') else ' '}{entry}{rest}{text[end:]}"
    if not node.value:
        raise NotEditable(f"{name} has no key beside which another one can be added")
    first, last = node.value[0][0], node.value[-1]
    line_end = text.find("\n", max(last[0].end_mark.index, _last_index(last[1])))
    at = len(text) if line_end < 0 else line_end + 1
    before = text[:at] if text[:at].endswith("\n") else f"{text[:at]}\n"
    return f"{before}{' ' * first.start_mark.column}{entry}\n{text[at:]}"


def _last_index(node: Any) -> int:
    """Where the last scalar of a node ends; a block's own end lies past the comments behind it."""
    if isinstance(node, yaml.ScalarNode) or node.flow_style or not node.value:
        return int(node.end_mark.index) - (1 if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">") else 0)
    last = node.value[-1]
    return max(_last_index(one) for one in last) if isinstance(last, tuple) else _last_index(last)


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)}: {_flow(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value) if not isinstance(value, str) else _word(value)


def _key(key: str) -> str:
    return _word(key)


def _word(text: str) -> str:
    """A text, without quotes where all versions of YAML read it as a text then."""
    return text if text.replace("_", "a").isidentifier() and _reads_as_text(text) else json.dumps(text)


def _reads_as_text(text: str) -> bool:
    try:
        return bool(parse_yaml(text.encode()) == text)
    except YamlMistake:
        return False

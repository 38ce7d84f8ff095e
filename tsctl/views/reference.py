"""Renders the reference of a YAML file as Markdown: a table for each section, made of its JSON Schema."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import Any

from tsctl.config.schema import FILES, json_schema, models_in

_BEFORE = {
    "archive": """\
# archive.yaml

Every key of `archives/MODEL/archive.yaml`. [archive-format.md](archive-format.md) says what becomes of the file, and
[writing-a-handler.md](writing-a-handler.md) how to begin. A section under `versions.VERSION` replaces the model's;
`settings` are merged key by key.
""",
    "deployment": """\
# deployment.yaml

Every key of `deployment.yaml`. Any value may come from the environment: `${NAME}` or `${NAME:-default}`
([scripting.md](scripting.md#values-of-the-environment)). [plan-and-apply.md](plan-and-apply.md) says how the file is
made true.
""",
}
_EDITORS = """
`tsctl schema {file}` prints the JSON Schema of the file; [schemas/{file}.json](schemas/{file}.json) is the same. With
this first line, editors that have yaml-language-server complete keys and mark mistakes:

```yaml
# yaml-language-server: $schema={path}
```

This page is generated: `tsctl schema {file} --markdown`.
"""
_PATHS = {"archive": "../../docs/schemas/archive.json", "deployment": "docs/schemas/deployment.json"}


def reference(file: str) -> str:
    """The page of `archive` or `deployment`."""
    return _BEFORE[file] + _EDITORS.format(file=file, path=_PATHS[file]) + "".join(_sections(file))


def _sections(file: str) -> Iterator[str]:
    schema = json_schema(file)
    parts = schema.get("$defs", {})
    documents = {model.__name__: inspect.getdoc(model) or "" for model in models_in(FILES[file])}
    paths = _paths(FILES[file].__name__, schema, parts)
    for name, path in paths.items():
        part = parts.get(name, schema)
        engine = part["properties"].get("engine", {}).get("const")
        heading = f"`{path}`" if path else f"{file}.yaml"
        yield f"\n## {heading}{f', engine `{engine}`' if engine else ''}\n{documents[name]}\n\n"
        yield "| key | value | default | meaning |\n|---|---|---|---|\n"
        required = part.get("required", [])
        for key, node in part["properties"].items():
            value = _value(node)
            first = [paths[held] for held, _ in _inside(f"{path}.{key}".lstrip("."), node)][:1]
            elsewhere = first and first[0] not in (each for _, each in _inside(f"{path}.{key}".lstrip("."), node))
            value += f", as `{first[0]}`" if elsewhere else ""
            default = "required" if key in required else _default(node)
            yield f"| `{key}` | {value} | {default} | {_meaning(node)} |\n"


def _paths(name: str, schema: Any, parts: dict[str, Any]) -> dict[str, str]:
    """The first place of each section in the file, by the name of its model, in the order of the page."""
    paths = {name: ""}
    waiting = [name]
    while waiting:
        name = waiting.pop(0)
        for key, node in parts.get(name, schema)["properties"].items():
            for held, path in _inside(f"{paths[name]}.{key}".lstrip("."), node):
                if held not in paths:
                    paths[held] = path
                    waiting.append(held)
    return paths


def _inside(path: str, node: Any) -> Iterator[tuple[str, str]]:
    """The sections that a value may be, or hold: the name of the model, and the path."""
    for option in _options(node):
        if name := _referred(option):
            yield name, path
        for held in (option.get("additionalProperties"), *option.get("patternProperties", {}).values()):
            if isinstance(held, dict):
                yield from _inside(f"{path}.NAME", held)


def _options(node: Any) -> list[Any]:
    options = node.get("anyOf") or node.get("oneOf") or [node]
    return [deeper for option in options for deeper in (_options(option) if option is not node else [option])]


def _referred(node: Any) -> str:
    return str(node["$ref"]).rpartition("/")[2] if "$ref" in node else ""


def _value(node: Any) -> str:
    said = dict.fromkeys(text for option in _options(node) if (text := _one(option)) and not _is_variable(option))
    return " or ".join(said)


def _is_variable(option: Any) -> bool:
    return str(option.get("description", "")).startswith("From the environment")


def _one(option: Any) -> str:
    if _referred(option):
        return "section"
    match option.get("type"):
        case "null":
            return ""
        case "object":
            return "mapping of names to sections" if _holds_sections(option) else "mapping"
        case "array":
            items: Any = option.get("items") or next(iter(option.get("prefixItems", [])), {})
            kind = _value(items) or "values"
            return f"list: {kind}"
        case "boolean":
            return "`true` or `false`"
        case "integer" | "number" as kind:
            return _number(option, "whole number" if kind == "integer" else "number")
        case _:
            if "const" in option:
                return f"`{option['const']}`"
            return ", ".join(f"`{each}`" for each in option.get("enum", [])) or "text"


def _holds_sections(option: Any) -> bool:
    held = [option.get("additionalProperties"), *option.get("patternProperties", {}).values()]
    return any(isinstance(each, dict) and any(map(_referred, _options(each))) for each in held)


def _number(option: Any, kind: str) -> str:
    bounds = (
        ("minimum", "at least {}"),
        ("exclusiveMinimum", "more than {}"),
        ("maximum", "at most {}"),
        ("exclusiveMaximum", "less than {}"),
    )
    return ", ".join([kind, *(text.format(f"{option[key]:,}") for key, text in bounds if key in option)])


def _default(node: Any) -> str:
    if "default" not in node or node["default"] is None:
        return "-"
    return "" if isinstance(node["default"], dict) else f"`{json.dumps(node['default'])}`"


def _meaning(node: Any) -> str:
    text = str(node.get("description", "")).replace("|", "\\|").rstrip(".")
    return text.replace(". None:", ". Left out:").replace("None:", "left out:")

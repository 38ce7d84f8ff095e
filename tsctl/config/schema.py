"""JSON Schema of `archive.yaml` and `deployment.yaml`, for editors and other tools; made of the pydantic models.

A schema says less than the models: rules between keys are checked by tsctl alone. It refuses nothing that they take.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from tsctl.config.archive import ArchiveSpec
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.descriptions import description_of
from tsctl.config.spec import SpecModel

#: The models by the names of their files, without `.yaml`.
FILES: dict[str, type[SpecModel]] = {"archive": ArchiveSpec, "deployment": DeploymentSpec}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: A value that comes from the environment; in deployment.yaml it may stand for any scalar.
_VARIABLE = {"type": "string", "pattern": r"\$\{", "description": "From the environment: ${NAME} or ${NAME:-default}."}
_SCALARS = {"integer", "number", "boolean", "string"}


def json_schema(file: str) -> dict[str, Any]:
    """The schema of `archive` or `deployment`, in which every key has its meaning."""
    model = FILES[file]
    schema = model.model_json_schema()
    parts: dict[str, Any] = schema.get("$defs", {})
    for used in models_in(model):
        part = schema if used is model else parts.get(used.__name__)
        for name, field in (part or {}).get("properties", {}).items():
            field["description"] = description_of(used, name)
    if file == "deployment":
        schema = _with_variables(schema)
    _tidy(schema)
    return {"$schema": _DIALECT, **schema, "title": f"{file}.yaml of tsctl"}


def models_in(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The model and all that its fields hold, each once, in the order of the fields."""
    seen: dict[type[BaseModel], None] = {}

    def visit(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            if annotation not in seen:
                seen[annotation] = None
                for field in annotation.model_fields.values():
                    visit(field.annotation)
                    visit_all(field.metadata)
            return
        visit_all(getattr(annotation, "__args__", ()))

    def visit_all(annotations: Any) -> None:
        for each in annotations:
            visit(each)

    visit(model)
    yield from seen


def _with_variables(node: Any) -> Any:
    """The schema with a variable beside each value that is no text of any form."""
    if isinstance(node, list):
        return [_with_variables(each) for each in node]
    if not isinstance(node, dict):
        return node
    made = {
        key: value if key in ("propertyNames", "discriminator") else _with_variables(value)
        for key, value in node.items()
    }
    is_free = node.get("type") == "string" and not {"pattern", "enum", "maxLength"} & node.keys()
    if node.get("type") not in _SCALARS or "const" in node or is_free:
        return made
    outside = {key: made.pop(key) for key in ("description", "default", "title") if key in made}
    return {**outside, "anyOf": [made, _VARIABLE]}


def _tidy(node: Any) -> None:
    """Leave out titles, which repeat the keys; refuse names that do not have the form of names."""
    if isinstance(node, list):
        for each in node:
            _tidy(each)
    elif isinstance(node, dict):
        if isinstance(node.get("title"), str):
            del node["title"]
        if "patternProperties" in node:
            node.setdefault("additionalProperties", False)
        for each in node.values():
            _tidy(each)

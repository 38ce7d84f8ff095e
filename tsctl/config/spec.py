"""Reads the YAML that people write, and reports every mistake as file, key, value and expectation.

All mistakes against a schema are reported at once, and nothing is coerced: a version 1.0 without quotes is a number in
YAML, and it is refused rather than guessed. `yaml_files.py` has the bounds, and what YAML itself may not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError

from tsctl.addresses import without_secrets
from tsctl.config.yaml_files import YamlMistake, read_yaml
from tsctl.errors import SpecError
from tsctl.mistakes import expectation, place, suggestion


class SpecModel(BaseModel):
    """Base of every schema: unknown keys are mistakes, values are never coerced, and the result is frozen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _not_token(name: str) -> str:
    if name.lower().startswith("token"):
        raise ValueError("must not begin with 'token': TorchServe treats a path with /token in it as its token API")
    return name


def _plain_version(version: str) -> str:
    if version in {"all", "set-default"}:
        raise ValueError("is a word of TorchServe's management API and cannot be a version")
    return _not_token(version)


def _address(value: str) -> str:
    parts = urlsplit(value)
    try:
        port = parts.port
    except ValueError:
        port = None
    has_more = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port or has_more:
        raise ValueError("must be an address such as http://127.0.0.1:8080, with its port and without a path")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must hold no user or password, which messages and logs would repeat")
    return value.rstrip("/")


#: An HTTP address, without a slash at the end.
Address = Annotated[str, AfterValidator(_address)]
#: A model's name as TorchServe's archiver accepts it.
ModelName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_\-.]*$", max_length=64), AfterValidator(_not_token)
]
#: A version as it can stand in a URL and a file name.
ModelVersion = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.]*$", max_length=32), AfterValidator(_plain_version)
]


def version_mistake(version: str) -> str:
    """Why no version can have this name; empty where one can."""
    try:
        TypeAdapter(ModelVersion).validate_python(version)
    except ValidationError as error:
        return expectation(error.errors()[0])
    return ""


MOST_MISTAKES = 30
Spec = TypeVar("Spec", bound=SpecModel)


def read_spec(path: Path, model: type[Spec], variables: Mapping[str, str] | None = None) -> Spec:
    """The file's content as `model`.

    Args:
        variables: replace `${NAME}` in its values; None: nothing is replaced.

    Raises:
        SpecError: the file is missing, is not YAML, or does not fit; the message has one line per mistake.
    """
    try:
        content = read_yaml(path, variables)
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
    except YamlMistake as error:
        raise SpecError("\n".join(f"{path}: {line}" for line in str(error).split("\n"))) from error
    if not isinstance(content, dict):
        value = "nothing" if content is None else _shortened(content)
        raise SpecError(f"{path}: expected a mapping of keys to values, got {value}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise SpecError("\n".join(mistakes(str(path), model, error))) from error


def mistakes(name: str, model: type[BaseModel], error: ValidationError) -> list[str]:
    """One line for each mistake, up to MOST_MISTAKES: `file: key: value: expectation`."""
    lines = []
    schema = model.model_json_schema()
    for entry in error.errors(include_url=False)[:MOST_MISTAKES]:
        # pydantic names the key of a bad mapping key '[key]'; people know only the key itself
        where, parent = _place(schema, [part for part in place(entry) if part != "[key]"])
        key = ".".join(part if part.isprintable() and len(part) < 60 else _shortened(part) for part in where)
        kind = entry["type"]
        if not key and kind == "value_error":  # of the whole file, whose beginning would say nothing
            lines.append(f"{name}: {expectation(entry)}")
        elif kind == "extra_forbidden":
            lines.append(f"{name}: {key}: {expectation(entry)}{suggestion(where[-1], parent)}")
        elif kind in ("missing", "union_tag_not_found"):
            lines.append(f"{name}: {key}: {expectation(entry)}")
        else:
            wrong = entry["ctx"]["tag"] if kind == "union_tag_invalid" else entry["input"]
            value = "***" if {"options", "webhook"} & set(where) else _shortened(wrong)  # which hold secrets
            lines.append(f"{name}: {key or 'content'}: {value}: {_expectation(entry)}")
    if error.error_count() > MOST_MISTAKES:
        lines.append(f"{name}: {error.error_count() - MOST_MISTAKES} more mistakes")
    return lines


def _expectation(entry: Any) -> str:
    if entry["type"] == "string_type" and isinstance(entry["input"], int | float):
        return f'{expectation(entry)}; quote it, as in "{entry["input"]}"'
    return expectation(entry)


def _shortened(value: object) -> str:
    """The value as it is shown, without the secrets of an address."""
    text = without_secrets(repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def _place(schema: Any, where: list[str]) -> tuple[list[str], list[str]]:
    """The place as people know it, and the keys beside its last one; none where it is no key of a model.

    pydantic puts the tag of a union's variant into the place, which is no key.
    """
    keys: list[str] = []
    beside: list[str] = []
    node: Any = schema
    for part in where:
        node = _resolve(schema, node)
        variants = node.get("discriminator", {}).get("mapping", {})
        if part in variants:
            node = {"$ref": variants[part]}
            continue
        keys.append(part)
        beside = list(node.get("properties", {}))
        patterns = node.get("patternProperties", {})  # a mapping whose keys are constrained
        node = node.get("properties", {}).get(part) or next(iter(patterns.values()), None) or {}
    return keys, beside


def _resolve(schema: Any, node: Any) -> Any:
    for option in node.get("anyOf", [node]) if isinstance(node, dict) else []:
        if "$ref" in option:
            return schema["$defs"][option["$ref"].rsplit("/", 1)[-1]]
        if "properties" in option or "patternProperties" in option or "additionalProperties" in option:
            return option
    return node if isinstance(node, dict) else {}

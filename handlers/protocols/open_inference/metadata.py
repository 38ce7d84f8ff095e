"""What a model takes and gives, and what a server offers, as clients of the protocol ask for it. Pure.

The inputs are the fields of the handler's `Request`. The outputs are those of the archive's golden answers, because a
handler's answers have no schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from handlers.contract import OPEN_INFERENCE_EXTENSIONS, SERVER_NAME, SERVER_VERSION
from handlers.protocols.open_inference.response import columns_of, tensor_of

#: The answer to a client that asks for a model: name, versions, platform, inputs, outputs.
ModelMetadata = dict[str, Any]
PLATFORM = "pytorch"
#: The number of rows, and any other size that differs from request to request.
ANY_SIZE = -1
_DATATYPES = {"boolean": "BOOL", "integer": "INT64", "number": "FP64", "string": "BYTES"}


def describe_model(
    model: str, versions: Sequence[str], request: type[BaseModel], answers: Sequence[Any]
) -> ModelMetadata:
    """A model's metadata.

    Args:
        request: the handler's own.
        answers: JSON values that the model has answered, each to one item.
    """
    return {
        "name": model,
        "versions": list(versions),
        "platform": PLATFORM,
        "inputs": _inputs(request.model_json_schema()),
        "outputs": _outputs(answers),
    }


def json_outputs(answers: Sequence[Any]) -> list[str]:
    """Names of the outputs that the metadata calls BYTES because they are not always a tensor: JSON, not texts."""
    return [name for name, values in _columns(answers).items() if _common(name, values) is None]


def server_metadata() -> dict[str, Any]:
    """A server's metadata."""
    return {"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": list(OPEN_INFERENCE_EXTENSIONS)}


def _inputs(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The fields that a tensor can fill; others, such as nested objects, are left out."""
    inputs = []
    for name, field in schema.get("properties", {}).items():
        tensor = _tensor(field, schema.get("$defs", {}))
        if tensor is not None:
            datatype, sizes = tensor
            inputs.append({"name": name, "datatype": datatype, "shape": [ANY_SIZE, *sizes]})
    return inputs


def _tensor(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> tuple[str, list[int]] | None:
    """Datatype and sizes of a value; of a choice, the one with the most dimensions. None where it is no tensor."""
    if "$ref" in field:  # a class of its own, such as an enumeration
        name = field["$ref"].rpartition("/")[2]
        rest = {key: value for key, value in definitions.items() if key != name}  # so that a class in itself ends
        return _tensor(definitions.get(name, {}), rest)
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in field:
            found = [tensor for part in field[choice] if (tensor := _tensor(part, definitions)) is not None]
            return max(found, key=lambda tensor: len(tensor[1]), default=None)
    if field.get("type") == "array":
        inner = _tensor(field.get("items", {}), definitions)
        if inner is None:
            return None
        least, most = field.get("minItems"), field.get("maxItems")
        return inner[0], [most if most is not None and least == most else ANY_SIZE, *inner[1]]
    values = field.get("enum", [field["const"]] if "const" in field else [])
    if values:
        kinds = {type(value) for value in values} - {type(None)}
        known = {bool: "BOOL", int: "INT64", float: "FP64", str: "BYTES"}
        return (known[kinds.pop()], []) if len(kinds) == 1 and kinds <= known.keys() else None
    datatype = _DATATYPES.get(field.get("type", ""))
    return (datatype, []) if datatype else None


def _outputs(answers: Sequence[Any]) -> list[dict[str, Any]]:
    as_json = {"datatype": "BYTES", "shape": [ANY_SIZE]}  # a text for each row
    return [{"name": name, **(_common(name, values) or as_json)} for name, values in _columns(answers).items()]


def _columns(answers: Sequence[Any]) -> dict[str, list[Any]]:
    """The values of each output that are known."""
    columns = columns_of(answers) if answers else {}
    return {name: [value for value in values if value is not None] for name, values in columns.items()}


def _common(name: str, values: list[Any]) -> dict[str, Any] | None:
    """Datatype and shape that hold all of these values, each of one row; None where only JSON does."""
    tensors = [tensor_of(name, [value]) for value in values]
    datatypes = {tensor["datatype"] for tensor in tensors}
    lengths = {len(tensor["shape"]) for tensor in tensors}
    if datatypes == {"INT64", "FP64"}:
        datatypes = {"FP64"}
    if len(datatypes) != 1 or len(lengths) != 1 or any("parameters" in tensor for tensor in tensors):
        return None
    sizes = [set(of_all) for of_all in zip(*(tensor["shape"][1:] for tensor in tensors), strict=True)]
    shape = [ANY_SIZE, *(size.pop() if len(size) == 1 else ANY_SIZE for size in sizes)]
    return {"datatype": datatypes.pop(), "shape": shape}

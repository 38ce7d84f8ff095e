"""Named arrays in requests and answers: their schema, JSON and .npy to arrays, arrays to short JSON. Pure."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, FailFast, Field, create_model

from handlers.errors import DoesNotFit, UndecodableBody
from handlers.schema import Schema

#: The item of a handler whose model reads arrays: one array for each input, without the batch's dimension.
Arrays = dict[str, np.ndarray]
#: Significant digits of a floating-point number in an answer: what float32 and float16 hold; float64 keeps all.
DIGITS = {2: 4, 4: 7}
#: Bytes of the header of a .npy file that are parsed.
MOST_HEADER = 10_000


@dataclass(frozen=True)
class ArrayInput:
    """One input of a model.

    Args:
        dtype: of numpy; object for texts.
        shape: of one item: a size, or the name of a size that differs from request to request; sizes of one name are
            equal within a request. An empty name is no other's.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int | str, ...]


def request_of(inputs: Sequence[ArrayInput]) -> type[Schema]:
    """A request with one field for each input: nested lists of its shape; the first mistake of a list is reported."""
    fields: Any = {
        f"input_{place}": (_lists(spec), Field(alias=spec.name)) for place, spec in enumerate(inputs)
    }  # a client's name is an alias, because it may be one that pydantic uses itself
    return create_model("Request", __base__=Schema, **fields)


def arrays_of(inputs: Sequence[ArrayInput], request: BaseModel) -> Arrays:
    """The values of a request that `request_of` describes.

    Raises:
        DoesNotFit: lists differ in length, or sizes of one name differ.
    """
    arrays = {spec.name: _array(spec, getattr(request, f"input_{place}")) for place, spec in enumerate(inputs)}
    check_sizes(inputs, arrays)
    return arrays


def read_npy(spec: ArrayInput, body: bytes) -> np.ndarray:
    """The array in the body, a .npy file, for the input; nothing in it is unpickled.

    Raises:
        UndecodableBody: it is no .npy file, or another number of bytes than its header says.
        DoesNotFit: another type or shape, NaN or infinity.
    """
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(file, max_header_size=MOST_HEADER)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        if math.prod(shape) * dtype.itemsize != len(body) - file.tell():
            raise ValueError("it has another length than its header says")
        array = np.frombuffer(body, dtype, offset=file.tell()).reshape(shape, order="F" if is_fortran else "C")
    except (ValueError, EOFError, OverflowError) as error:
        raise UndecodableBody(f"The body is not a .npy file that can be read: {error}.") from None
    if not np.can_cast(dtype, spec.dtype, "same_kind"):
        raise _unfit(spec.name, f"has the type {dtype}, expected {spec.dtype}")
    wanted = ", ".join(str(size or "any") for size in spec.shape)
    if len(shape) != len(spec.shape) or any(
        found != size if isinstance(size, int) else found == 0 for found, size in zip(shape, spec.shape, strict=True)
    ):
        raise _unfit(spec.name, f"has the shape ({', '.join(map(str, shape))}), expected ({wanted})")
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise _unfit(spec.name, "holds NaN or infinity")
    with np.errstate(over="ignore"):
        cast = array.astype(spec.dtype, order="C")  # a copy: the body's bytes cannot be written
    if cast.dtype.kind == "f" and not np.isfinite(cast).all():
        raise _unfit(spec.name, f"holds a number that is too large for {spec.dtype}")
    return cast


def check_sizes(inputs: Sequence[ArrayInput], arrays: Mapping[str, np.ndarray]) -> None:
    """Check that sizes of one name are equal.

    Raises:
        DoesNotFit: two differ.
    """
    sizes: dict[str, tuple[int, str]] = {}
    for spec in inputs:
        for name, size in zip(spec.shape, arrays[spec.name].shape, strict=True):
            if isinstance(name, str) and name:
                known, owner = sizes.setdefault(name, (size, spec.name))
                if known != size:
                    raise _unfit(spec.name, f"its size {name} is {size}, and that of {owner} is {known}")


def alike(items: Sequence[Arrays]) -> list[list[int]]:
    """Indices of the items, in groups whose arrays have equal shapes, so that they can be stacked."""
    groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(tuple(array.shape for array in item.values()), []).append(place)
    return list(groups.values())


def short(value: Any) -> Any:
    """An array, or what lists and dictionaries hold, as JSON values with the digits that its type holds."""
    if isinstance(value, Mapping):
        return {str(key): short(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [short(entry) for entry in value]
    if isinstance(value, float):  # of a map of ONNX, which are float32
        return float(f"{value:.{DIGITS[4]}g}")
    if not isinstance(value, np.ndarray | np.generic):
        return value
    if value.dtype.kind != "f" or value.dtype.itemsize not in DIGITS:
        return value.tolist()
    return rounded(np.asarray(value), DIGITS[value.dtype.itemsize]).tolist()


def rounded(array: np.ndarray, digits: int) -> np.ndarray:
    """The numbers in float64 with so many significant digits; what is not finite stays."""
    wide = array.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        power = np.power(10.0, digits - 1 - np.floor(np.log10(np.abs(wide))))
        cut = np.round(wide * power) / power
    return np.where(np.isfinite(cut), cut, wide)  # zero has no logarithm


def _lists(spec: ArrayInput) -> Any:
    kind: Any = _scalar(spec.dtype)
    for size in reversed(spec.shape):
        least, most = (size, size) if isinstance(size, int) else (1, None)
        kind = Annotated[list[kind], Field(min_length=least, max_length=most), FailFast()]
    return kind


def _scalar(dtype: np.dtype) -> Any:
    if dtype.kind == "f":
        largest = float(np.finfo(dtype).max)
        return float if dtype.itemsize == 8 else Annotated[float, Field(ge=-largest, le=largest)]
    if dtype.kind in "iu":
        return Annotated[int, Field(ge=int(np.iinfo(dtype).min), le=int(np.iinfo(dtype).max))]
    return bool if dtype.kind == "b" else str


def _array(spec: ArrayInput, values: Any) -> np.ndarray:
    try:
        array = np.array(values, dtype=spec.dtype)
    except ValueError:
        raise _unfit(spec.name, "its lists differ in length") from None
    if array.ndim != len(spec.shape):  # lists of texts that differ in length, which an array of objects takes
        raise _unfit(spec.name, "its lists differ in length")
    return array


def _unfit(name: str, message: str) -> DoesNotFit:
    return DoesNotFit(f"{name}: {message}.", [{"field": name, "message": message}])

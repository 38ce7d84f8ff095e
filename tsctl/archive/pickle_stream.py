"""Reads a pickle as a loader would, and imports, calls and keeps nothing: which modules it names is the result.

The opcodes are those of Python's own unpickler, so what it would read is read here, byte for byte. Objects are inert,
bytes are skipped, and dictionaries keep only what their keys as text say: no value is hashed, called or compared.

Loaders differ: joblib reads arrays out of the middle of a stream, where others read on. So such a stream is read in
both ways, and names all that either way meets.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from io import BufferedReader
from typing import Any, BinaryIO, ClassVar

#: The first value in a file of torch.save before torch 1.6; four more pickles follow, and then tensors.
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_TORCH_PICKLES = 4
_WRAPPER = ("joblib.numpy_pickle", "NumpyArrayWrapper")
_OBJECT_WRAPPERS = {"NDArrayWrapper", "ZNDArrayWrapper"}  # of joblib before 0.10: their arrays lie in other files
_BLOCK = 1 << 20
#: Bytes of the elements of torch's storages.
_ITEM_BYTES = {
    "Double": 8, "Float": 4, "Half": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
    "BFloat16": 2, "ComplexDouble": 16, "ComplexFloat": 8,
}  # fmt: skip


class Unreadable(Exception):
    """It cannot be read to its end; the message says why."""


@dataclass
class Imports:
    """What the pickles of a stream name, module and name, as far as they were read."""

    names: set[tuple[str, str]] = field(default_factory=set)
    has_arrays: bool = False  # of joblib


class _Inert:
    """Stands for anything that a pickle imports or makes."""

    __slots__ = ("args", "name", "state")

    def __init__(self, name: tuple[str, str] = ("", ""), args: Any = ()) -> None:
        self.name, self.args, self.state = name, args, None

    def append(self, value: object) -> None:
        """Ignore it, as all that fills an object."""

    extend = add = update = append

    def __setitem__(self, key: object, value: object) -> None:
        pass


class _Named(dict[str, Any]):
    """A dictionary that keeps only values whose keys are text."""

    def __setitem__(self, key: object, value: Any) -> None:
        if isinstance(key, str):
            super().__setitem__(key, value)


#: The one that is written in Python, whose steps can be replaced.
_Unpickler: Any = vars(pickle)["_Unpickler"]


class _Reader(_Unpickler):  # type: ignore[misc]  # typeshed has no members of it
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_Unpickler.dispatch)

    def __init__(self, file: BinaryIO, imports: Imports, as_joblib: bool) -> None:
        super().__init__(file)
        self._source, self._imports, self._as_joblib = file, imports, as_joblib

    def find_class(self, module: str, name: str) -> Any:
        self._imports.names.add((module, name))
        return _Inert((module, name))

    def persistent_load(self, pid: object) -> Any:
        return _Inert(args=pid)

    def get_extension(self, code: int) -> None:
        raise Unreadable(f"it uses the registered extension {code}")

    def load_reduce(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self.stack.append(_Inert(function.name if isinstance(function, _Inert) else ("", ""), args))

    def load_newobj(self) -> None:
        self.load_reduce()

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_reduce()

    def load_inst(self) -> None:
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        self.stack.append(self._made(self.find_class(module, name), self.pop_mark()))

    def load_obj(self) -> None:
        values = self.pop_mark()
        self.stack.append(self._made(values[0], values[1:]))

    @staticmethod
    def _made(kind: Any, args: Any) -> _Inert:
        return _Inert(kind.name if isinstance(kind, _Inert) else ("", ""), args)

    def load_dict(self) -> None:
        values, made = self.pop_mark(), _Named()
        for key, value in zip(values[::2], values[1::2], strict=True):
            made[key] = value
        self.stack.append(made)

    def load_empty_dictionary(self) -> None:
        self.stack.append(_Named())

    def load_empty_set(self) -> None:
        self.stack.append(_Inert(("builtins", "set")))

    def load_frozenset(self) -> None:
        self.stack.append(_Inert(("builtins", "frozenset"), self.pop_mark()))

    def load_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if not isinstance(made, _Inert):
            return
        made.state = state
        if made.name == _WRAPPER:
            self._imports.has_arrays = True
            if self._as_joblib:
                self._skip_array(state)
        elif made.name[0].startswith("joblib") and made.name[1] in _OBJECT_WRAPPERS:
            raise Unreadable("its arrays lie in files of their own: write it again with joblib.dump")

    def load_bytes(self, length_bytes: int) -> None:
        """Skip a value of bytes, whose length comes before it."""
        _skip(int.from_bytes(self.read(length_bytes), "little"), self.read)
        self.stack.append(_Inert(("builtins", "bytes")))

    def _skip_array(self, state: Any) -> None:
        """Skip what joblib writes into the stream behind the description of an array."""
        frame = self._unframer.current_frame
        if frame is not None and frame.read(1):
            raise Unreadable("an array begins inside a frame")
        self._unframer.current_frame = None
        if not isinstance(state, _Named) or not isinstance(state.get("dtype"), _Inert):
            raise Unreadable("an array has no description")
        size, has_objects = _item_bytes(state["dtype"])
        if has_objects:
            _Reader(self._source, self._imports, as_joblib=False).load()
            return
        count = 1
        for length in state.get("shape", ()):
            count *= _length(length)
        if state.get("numpy_array_alignment_bytes") is not None:
            _skip(_exactly(self._source, 1)[0], self._source.read)
        _skip(count * size, self._source.read)

    for _opcode, _width in ((pickle.SHORT_BINBYTES, 1), (pickle.BINBYTES, 4), (pickle.BINBYTES8, 8)):
        dispatch[_opcode[0]] = partial(load_bytes, length_bytes=_width)
    dispatch[pickle.BYTEARRAY8[0]] = partial(load_bytes, length_bytes=8)
    for _opcode, _load in (
        (pickle.REDUCE, load_reduce), (pickle.NEWOBJ, load_newobj), (pickle.NEWOBJ_EX, load_newobj_ex),
        (pickle.INST, load_inst), (pickle.OBJ, load_obj), (pickle.DICT, load_dict),
        (pickle.EMPTY_DICT, load_empty_dictionary), (pickle.EMPTY_SET, load_empty_set),
        (pickle.FROZENSET, load_frozenset), (pickle.BUILD, load_build),
    ):  # fmt: skip
        dispatch[_opcode[0]] = _load


def _item_bytes(dtype: _Inert) -> tuple[int, bool]:
    """Bytes of one element of a pickled numpy dtype, and whether it holds objects."""
    code = dtype.args[0] if isinstance(dtype.args, tuple) and dtype.args else None
    if dtype.name[0] not in {"numpy", "numpy.dtypes"} or not isinstance(code, str):
        raise Unreadable("the type of an array cannot be read")
    state = dtype.state
    fields = state[4] if isinstance(state, tuple) and len(state) > 4 else None
    if code.startswith("O"):
        return 8, True
    if isinstance(fields, _Named):
        parts = [part[0] for part in fields.values() if isinstance(part, tuple) and isinstance(part[0], _Inert)]
        has_objects = any(_item_bytes(part)[1] for part in parts)
        return _length(state[5]), has_objects
    if isinstance(state, tuple) and len(state) > 3 and isinstance(state[3], tuple):  # an array in each element
        return _length(state[5]), _item_bytes(state[3][0])[1]
    kind, digits = code[:1], code[1:]
    if kind not in "biufcmMSVU?" or not digits.isdecimal() or len(digits) > 9:
        raise Unreadable(f"the type {code[:20]!r} of an array cannot be read")
    if kind in "SVU" and isinstance(state, tuple) and len(state) > 5 and _length_or_none(state[5]) is not None:
        return _length(state[5]), False
    return int(digits) * (4 if kind == "U" else 1), False


def _length_or_none(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _length(value: object) -> int:
    if isinstance(value, _Inert) and value.name[1] == "scalar":
        raise Unreadable("the shape of an array is no plain number")
    length = _length_or_none(value)
    if length is None or length > 1 << 48:
        raise Unreadable("the shape of an array cannot be read")
    return length


#: What a damaged or hostile pickle makes Python's own unpickler raise.
_FAILURES = (
    pickle.UnpicklingError, EOFError, AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError,
    UnicodeError, AssertionError, RecursionError, ImportError, NotImplementedError,
)  # fmt: skip


def read_one(file: BinaryIO, imports: Imports, as_joblib: bool = False) -> Any:
    """The next pickle's value, of inert objects; raises Unreadable. Imports are added as they are met."""
    try:
        return _Reader(file, imports, as_joblib).load()
    except _FAILURES as error:
        raise Unreadable(str(error) or type(error).__name__) from None


def read_stream(reopen: Callable[[], BinaryIO], imports: Imports) -> None:
    """Read all pickles of a stream, one after the other; behind those of a torch file there are only tensors.

    Args:
        reopen: the stream at its begin, anew at each call.

    Raises:
        Unreadable: a pickle is damaged, or bytes follow that are none.
    """
    _read_all(reopen(), imports, as_joblib=True)
    if imports.has_arrays:
        with suppress(Unreadable):  # an array is no pickle; what stands before the first byte that is none counts
            _read_all(reopen(), imports, as_joblib=False)


def _read_all(file: BinaryIO, imports: Imports, as_joblib: bool) -> None:
    stream = BufferedReader(file)  # type: ignore[type-var]  # it needs no more than readinto
    first = read_one(stream, imports, as_joblib)
    if first == TORCH_MAGIC:
        for _ in range(_TORCH_PICKLES):
            read_one(stream, imports)
        with suppress(Unreadable):
            read_one(stream, imports)  # by a loader that reads on: the same as for arrays
        return
    while stream.peek(1):
        read_one(stream, imports, as_joblib)


def read_storages(file: BinaryIO, imports: Imports) -> None:
    """Read the member `storages` of a tar file of torch 0.1: a number, and for each a pickle and its bytes."""
    for _ in range(_length(read_one(file, imports))):
        match read_one(file, imports):
            case (_, _, _Inert(name=("torch", str(kind)))) if kind.removesuffix("Storage") in _ITEM_BYTES:
                size = _ITEM_BYTES[kind.removesuffix("Storage")]
            case _:
                raise Unreadable("a storage has an unknown type")
        _skip(int.from_bytes(_exactly(file, 8), "little") * size, file.read)
    read_one(file, imports)


def read_tensors(file: BinaryIO, imports: Imports) -> None:
    """Read the member `tensors` of a tar file of torch 0.1: a number, and for each a pickle, sizes and strides."""
    for _ in range(_length(read_one(file, imports))):
        read_one(file, imports)
        axes = int.from_bytes(_exactly(file, 4), "little")
        _skip(4 + axes * 16 + 8, file.read)


def _exactly(file: BinaryIO, length: int) -> bytes:
    content = file.read(length)
    if len(content) != length:
        raise Unreadable("it is cut off")
    return content


def _skip(length: int, read: Callable[[int], bytes]) -> None:
    while length > 0:
        block = read(min(length, _BLOCK))
        if not block:
            raise Unreadable("it is cut off")
        length -= len(block)

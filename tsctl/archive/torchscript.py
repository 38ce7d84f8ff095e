"""Judges the code in a TorchScript file: its operators compute, but for a few that reach files, processes or networks.

TorchScript's code has Python's syntax, and calls operators as `torch.add` and `ops.quantized.linear`. Operators of
tensors are known by their library; those of other libraries are unknown.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

MAX_CODE_BYTES = 32 << 20
#: Libraries whose operators compute only.
_COMPUTE = {
    "aten", "prim", "prims", "quantized", "_quantized", "quantization", "sparse", "mkldnn", "mkldnn_prepacked",
    "onednn", "inductor", "inductor_prims", "torchvision", "torchaudio", "profiler",
}  # fmt: skip
#: Classes in C++ that hold tensors only: `__torch__.torch.classes.LIBRARY`.
_CLASSES = {"quantized", "sparse", "mkldnn", "xnnpack", "onednn", "profiler"}
#: Operators that do more, and what.
_REACHING = {
    "save": "writes a file",
    "from_file": "reads or writes a file",
    "load_tensor": "reads a file",
    "PythonOp": "calls Python",
    "IgnoredPythonOp": "calls Python",
    "rpc_async": "calls other machines",
    "rpc_sync": "calls other machines",
    "rpc_remote": "calls other machines",
}


def judge_code(source: bytes) -> Iterator[tuple[str, bool]]:
    """What the code does besides computing, and whether that is dangerous; False: it is unknown."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        yield "has code that cannot be read", False
        return
    for node in ast.walk(tree):
        name = _operator(node)
        if name in _REACHING:
            yield f"calls {name}, which {_REACHING[name]}", True
        match _dotted(node):
            case ["ops", library, operator] if library not in _COMPUTE:
                yield f"calls {library}.{operator} of another library", False
            case ["__torch__", "torch", "classes", library, *_] if library not in _CLASSES:
                yield f"holds objects of the library {library}", False
            case _:
                pass


def _operator(node: ast.AST) -> str:
    """The operator that a node names: of a module, of a value, or as text for getattr."""
    match node:
        case ast.Attribute(attr=name):
            return name
        case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(name)), *_]):
            return name
        case ast.Call(func=ast.Name(id=name)):
            return name
        case _:
            return ""


def _dotted(node: ast.AST) -> list[str]:
    """The parts of `a.b.c`; empty for another node."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) and parts else []


def is_known_class(module: str) -> bool:
    """Whether a class of C++ that a pickle names, `__torch__.torch.classes.LIBRARY`, holds tensors only."""
    parts = module.split(".")
    return parts[:3] != ["__torch__", "torch", "classes"] or (len(parts) > 3 and parts[3] in _CLASSES)

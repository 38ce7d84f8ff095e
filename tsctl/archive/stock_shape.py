"""Reads from the source of a stock handler what a ServingHandler around it can carry over, and what not. Pure.

Nothing is run: the source is parsed. What the parser cannot see, such as a name that is made at run time, shows in
`verify` and `archive diff` of the converted archive.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: Handlers that TorchServe brings with it, by the name in the manifest, and their classes.
OWN_CLASSES = {
    "image_classifier": "ImageClassifier",
    "image_segmenter": "ImageSegmenter",
    "object_detector": "ObjectDetector",
    "text_classifier": "TextClassifier",
}
_TS = "ts.torch_handler"
#: What a handler may read of its context outside of `initialize`: it is the same for every request.
_CONSTANT = ("manifest", "model_name", "model_yaml_config", "system_properties")
_PARTS = ("send_intermediate_predict_response", "stopping_criteria")
#: Keys of model-config.yaml that change how TorchServe calls a handler, and what becomes of them.
_KEYS = {
    "asyncCommunication": "its worker answers many requests at once (asyncCommunication)",
    "continuousBatching": "its batches change between steps (continuousBatching)",
    "sequenceMaxIdleMSec": "it keeps a state between requests (sequence batching)",
    "sequenceTimeoutMSec": "it keeps a state between requests (sequence batching)",
    "parallelType": "its model is spread over several processes (parallelType)",
}


@dataclass(frozen=True)
class Finding:
    """Something of a stock archive that is not carried over."""

    text: str
    line: int | None = None  # of the handler's source
    is_blocker: bool = True  # it cannot be converted; else it is, without this

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}" if self.line else self.text


@dataclass(frozen=True)
class Shape:
    """What a handler is.

    Attributes:
        module: to import its class from.
        name: of the class; empty where there is none to wrap.
    """

    module: str
    name: str
    findings: tuple[Finding, ...]

    @property
    def blockers(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.is_blocker]


def shape_of(handler: str, source: str | None, model: Mapping[str, Any], config: Mapping[str, Any]) -> Shape:
    """The shape of a stock handler.

    Args:
        handler: as the manifest names it, such as `handler.py` or `image_classifier`.
        source: of the handler's module; None where it is not in the archive.
        model: `model` of the manifest.
        config: model-config.yaml.
    """
    general = [*_of_settings(model, config)]
    file, _, function = handler.partition(":")
    module = file.removesuffix(".py")
    if source is None:
        if module in OWN_CLASSES:
            return Shape(f"{_TS}.{module}", OWN_CLASSES[module], tuple(general))
        return Shape("", "", (*general, Finding(f"its handler {handler} is not in the archive")))
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        return Shape("", "", (*general, Finding(f"its handler {file} is not Python: {error}")))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    found = [*general, *_of_functions(tree, function), *_of_parts(tree)]
    if len(classes) == 1:
        found += _of_class(tree, classes[0])
    elif not found:
        found.append(Finding(f"it defines {len(classes)} classes, and TorchServe takes a module with one"))
    return Shape(module, classes[0].name if len(classes) == 1 else "", tuple(found))


def _of_settings(model: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[Finding]:
    yield from (Finding(text) for key, text in _KEYS.items() if config.get(key))
    if "micro_batching" in config:
        yield Finding("micro_batching is left out: a batch passes the steps whole", is_blocker=False)
    if name := model.get("requirementsFile"):
        yield Finding(f"the packages of {name} are not installed: install them beside tsctl", is_blocker=False)


def _of_functions(tree: ast.Module, function: str) -> Iterator[Finding]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == (function or "handle"):
            yield Finding(f"function style: {node.name}(data, context) has no steps to call one by one", node.lineno)


def _of_parts(tree: ast.Module) -> Iterator[Finding]:
    """Answers in parts, wherever they are sent."""
    for node in ast.walk(tree):
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        if name in _PARTS:
            yield Finding(f"it answers in parts ({name})", node.lineno)  # type: ignore[attr-defined]  # both have one


def _of_class(tree: ast.Module, node: ast.ClassDef) -> Iterator[Finding]:
    if not set(_names_of_bases(node)) & _handlers_of_ts(tree):
        yield Finding(f"{node.name} does not derive from TorchServe's BaseHandler, which has the steps", node.lineno)
    for method in node.body:
        if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        match method.name:
            case "handle":
                yield Finding(f"{node.name} overrides handle, so its steps are not the whole request", method.lineno)
            case "explain_handle" | "get_insights":
                yield Finding(f"explanations ({method.name}) are left out", method.lineno, is_blocker=False)
            case "describe_handle":
                yield Finding("its own description (describe_handle) is left out", method.lineno, is_blocker=False)
            case "initialize" | "__init__":
                pass
            case _:
                yield from _of_context(method)


def _of_context(method: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Finding]:
    """Uses of the context of one request, which the steps of a ServingHandler do not get."""
    seen = set()
    for node in ast.walk(method):
        if not isinstance(node, ast.Attribute) or node.attr in _CONSTANT or not _is_context(node.value):
            continue
        if node.attr not in seen:
            seen.add(node.attr)
            yield Finding(f"{method.name} uses the context of the request (context.{node.attr})", node.lineno)


def _is_context(node: ast.expr) -> bool:
    """Whether it is `context` or `self.context`."""
    return (isinstance(node, ast.Name) and node.id == "context") or (
        isinstance(node, ast.Attribute) and node.attr == "context"
    )


def _names_of_bases(node: ast.ClassDef) -> Iterator[str]:
    for base in node.bases:
        if isinstance(base, ast.Name | ast.Attribute):
            yield ast.unparse(base)


def _handlers_of_ts(tree: ast.Module) -> set[str]:
    """Names, as the source writes them, of classes and modules that come from TorchServe's handlers."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(_TS):
            names |= {alias.asname or alias.name for alias in node.names}
            names |= {f"{alias.asname or alias.name}.{each}" for alias in node.names for each in _CLASSES}
        elif isinstance(node, ast.Import):
            names |= {
                f"{alias.asname or alias.name}.{each}"
                for alias in node.names
                if alias.name.startswith(_TS)
                for each in _CLASSES
            }
    return names


_CLASSES = ("BaseHandler", "VisionHandler", "TextHandler", *OWN_CLASSES.values())

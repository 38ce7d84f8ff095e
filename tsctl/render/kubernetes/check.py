"""Validates manifests as strictly as an API server would, and more: without a cluster, by schemas that are files here.

A schema is made strict (an unknown key is a mistake), its defaults are filled in first, as an API server does, and then
its rules in CEL are evaluated. Behind that come rules that no schema has, such as that a name is one of DNS.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from tsctl.errors import SpecError

Json = dict[str, Any]

#: The version of Kubernetes whose schemas are used.
KUBERNETES = "1.37"
PACKAGES = ("kubernetes-validate", "cel-python", "jsonschema")
_CRDS = Path(__file__).with_name("crds")
_FILES = {
    "GRPCRoute": "gateway.networking.k8s.io_grpcroutes.yaml",
    "Gateway": "gateway.networking.k8s.io_gateways.yaml",
    "HTTPRoute": "gateway.networking.k8s.io_httproutes.yaml",
    "InferenceService": "serving.kserve.io_inferenceservices.yaml",
}
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SERVICE = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_VALUE = re.compile(r"(?=.{0,63}$)([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
#: Words of CEL that a key of an object may be; the rules write them so.
_RESERVED = frozenset(
    (
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    )
)
#: Kinds whose name is a part of a name in DNS.
_NAMED_AS_LABEL = ("Namespace",)
_NAMED_AS_SERVICE = ("Service", "InferenceService")


def mistakes(manifests: Sequence[Json]) -> list[str]:
    """What is wrong with the manifests, as `Kind name: path: why`; nothing where all is right.

    Raises:
        SpecError: a package that this needs is not installed.
    """
    found: list[str] = []
    for manifest in manifests:
        kind, name = manifest.get("kind", "?"), (manifest.get("metadata") or {}).get("name", "?")
        found += [f"{kind} {name}: {why}" for why in mistakes_of(manifest)]
    return found + list(_between(manifests))


def mistakes_of(manifest: Json) -> list[str]:
    """What is wrong with one manifest."""
    kind = manifest.get("kind", "")
    if kind in _FILES:
        group = manifest.get("apiVersion", "")
        definition = definition_of(kind)
        if group != definition.api_version:
            return [f"apiVersion: {group!r}: expected {definition.api_version}"]
        found = definition.mistakes(manifest)
    else:
        found = _of_kubernetes(manifest)
    found += _names(manifest)
    return found or (list(_route(manifest)) if kind == "HTTPRoute" else [])


def _of_kubernetes(manifest: Json) -> list[str]:
    try:
        import kubernetes_validate
    except ImportError as error:
        raise _missing(error) from None
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path)) or 'content'}: {_shortened(error.message)}"]
    except (kubernetes_validate.SchemaNotFoundError, KeyError):
        return [f"{manifest.get('apiVersion')} {manifest.get('kind')} is no kind of Kubernetes {KUBERNETES}"]
    return []


@dataclass
class Definition:
    """A kind that a CustomResourceDefinition describes."""

    api_version: str
    schema: Json  # as the file has it
    strict: Json
    _programs: dict[str, Callable[[Any], bool]] = field(default_factory=dict)

    def with_defaults(self, manifest: Json) -> Json:
        """The object as an API server stores it: with every default filled in."""
        made: Json = copy.deepcopy(manifest)
        _fill(self.schema, made)
        return made

    def mistakes(self, manifest: Json) -> list[str]:
        """What an API server would say, an unknown key included."""
        try:
            import jsonschema
        except ImportError as error:
            raise _missing(error) from None
        full = self.with_defaults(manifest)
        validator = jsonschema.Draft202012Validator(self.strict)
        errors = sorted(validator.iter_errors(full), key=lambda error: [str(part) for part in error.path])
        found = [f"{'.'.join(map(str, e.path)) or 'content'}: {_shortened(e.message)}" for e in errors]
        return found or [*_repeated(self.schema, full, ""), *self._rules(self.schema, full, "")]

    def _rules(self, schema: Json, value: Any, where: str) -> Iterator[str]:
        """What the rules in CEL say against a value, and against all that it holds."""
        for rule in schema.get("x-kubernetes-validations", ()):
            if not self._program(rule["rule"])(value):
                yield f"{where.lstrip('.') or 'content'}: {rule.get('message') or rule['rule']}"
        if isinstance(value, dict):
            for key, inner in value.items():
                part = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
                if isinstance(part, dict):
                    yield from self._rules(part, inner, f"{where}.{key}")
        elif isinstance(value, list) and isinstance(schema.get("items"), dict):
            for number, inner in enumerate(value):
                yield from self._rules(schema["items"], inner, f"{where}.{number}")

    def _program(self, rule: str) -> Callable[[Any], bool]:
        if rule not in self._programs:
            self._programs[rule] = compiled(rule)
        return self._programs[rule]


def compiled(rule: str) -> Callable[[Any], bool]:
    """A rule in CEL as a function of `self`; a rule that cannot be evaluated is broken, as for an API server."""
    try:
        import celpy
    except ImportError as error:
        raise _missing(error) from None
    environment = celpy.Environment()
    program = environment.program(environment.compile(rule))

    def holds(value: Any) -> bool:
        try:
            return bool(program.evaluate({"self": celpy.json_to_cel(_escaped(value))}))
        except celpy.CELEvalError:
            return False

    return holds


@lru_cache
def definition_of(kind: str) -> Definition:
    """The definition of a kind that is in the files here."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content = yaml.load((_CRDS / _FILES[kind]).read_text("utf-8"), Loader=loader)  # noqa: S506 - both are safe
    version = next(one for one in content["spec"]["versions"] if one["storage"])
    schema = version["schema"]["openAPIV3Schema"]
    return Definition(f"{content['spec']['group']}/{version['name']}", schema, _strict(schema, is_root=True))


def _strict(schema: Json, is_root: bool = False) -> Json:
    """The schema with unknown keys refused; `metadata` is checked by the rules for names."""
    made: Json = {key: value for key, value in schema.items() if key not in ("properties", "items", "default")}
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "properties" in schema:
        made["properties"] = {key: _strict(value) for key, value in schema["properties"].items()}
        if is_root:
            made["properties"]["metadata"] = {"type": "object"}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
            made["additionalProperties"] = False
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = _strict(schema["additionalProperties"])
    if isinstance(schema.get("items"), dict):
        made["items"] = _strict(schema["items"])
    return made


def _fill(schema: Json, value: Any) -> None:
    if isinstance(value, dict):
        for key, part in schema.get("properties", {}).items():
            if key not in value and "default" in part:
                value[key] = copy.deepcopy(part["default"])
            if key in value:
                _fill(part, value[key])
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for inner in value:
            _fill(schema["items"], inner)


def _repeated(schema: Json, value: Any, where: str) -> Iterator[str]:
    """Entries of lists that are sets or maps, and hold one twice."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _repeated(schema.get("properties", {}).get(key, {}), inner, f"{where}.{key}")
    if not isinstance(value, list):
        return
    kind, keys = schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys", ())
    names = [str(one) if kind == "set" else str([one.get(key) for key in keys]) for one in value if kind in _UNIQUE]
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{where.lstrip('.')}: holds {name} {count} times"
    for number, inner in enumerate(value):
        yield from _repeated(schema.get("items", {}), inner, f"{where}.{number}")


_UNIQUE = ("set", "map")


def _names(manifest: Json) -> Iterator[str]:
    """Names and labels that an API server would refuse."""
    metadata, kind = manifest.get("metadata") or {}, manifest.get("kind")
    name = str(metadata.get("name", ""))
    form = _SERVICE if kind in _NAMED_AS_SERVICE else _LABEL if kind in _NAMED_AS_LABEL else _SUBDOMAIN
    if not form.fullmatch(name):
        yield f"metadata.name: {name!r}: is no name of DNS that a {kind} may have"
    if "namespace" in metadata and not _LABEL.fullmatch(str(metadata["namespace"])):
        yield f"metadata.namespace: {metadata['namespace']!r}: is no name of DNS"
    for place in _labelled(manifest):
        for key, value in place.items():
            if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(str(value)):
                yield f"labels: {key}: {value!r}: is no label"
    for key in metadata.get("annotations") or {}:
        if not _LABEL_KEY.fullmatch(key):
            yield f"metadata.annotations: {key!r}: is no key"


def _labelled(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("labels", "matchLabels") and isinstance(inner, dict):
                yield inner
            else:
                yield from _labelled(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _labelled(inner)


def _route(route: Json) -> Iterator[str]:
    """Mistakes of a route that no schema has: requests that two rules match, copies beyond all requests."""
    seen: dict[str, str] = {}
    for number, rule in enumerate((route.get("spec") or {}).get("rules") or ()):
        name = rule.get("name", str(number))
        for match in rule.get("matches") or ():
            key = repr(_sorted(match))
            if key in seen:
                yield f"spec.rules.{number}: rule {name} matches what {seen[key]} matches: {_shortened(key)}"
            seen.setdefault(key, f"rule {name}")
        services = Counter(one.get("name") for one in rule.get("backendRefs") or ())
        yield from (f"spec.rules.{number}: {one} is in it {n} times" for one, n in services.items() if n > 1)
        weights = [one.get("weight", 1) for one in rule.get("backendRefs") or () if isinstance(one, dict)]
        if weights and not sum(weights):
            yield f"spec.rules.{number}: rule {name} gives no Service a weight, so every request gets 500"
        copies = sum(_copied(one["requestMirror"]) for one in rule.get("filters") or () if one.get("requestMirror"))
        if copies > 1:
            yield f"spec.rules.{number}: rule {name} copies {copies:.0%} of its requests, which is more than all"


def _copied(mirror: Json) -> float:
    fraction = mirror.get("fraction")
    if fraction is not None:
        return float(fraction.get("numerator", 0)) / float(fraction.get("denominator") or 100)
    return float(mirror.get("percent", 100)) / 100


def _between(manifests: Sequence[Json]) -> Iterator[str]:
    """Objects that are there twice, and references to objects that are not there."""
    keys = Counter((m.get("kind"), (m.get("metadata") or {}).get("name")) for m in manifests)
    yield from (f"{kind} {name}: is there {count} times" for (kind, name), count in keys.items() if count > 1)
    services = {name for kind, name in keys if kind == "Service"}
    services |= {f"{name}-predictor" for kind, name in keys if kind == "InferenceService"}
    for route in manifests:
        if route.get("kind") not in ("HTTPRoute", "GRPCRoute"):
            continue
        for reference in _references(route.get("spec")):
            if reference not in services:
                yield f"{route['kind']} {route['metadata']['name']}: names Service {reference}, which is not rendered"
    pods = [m["spec"]["template"]["metadata"]["labels"] for m in manifests if m.get("kind") == "Deployment"]
    for service in manifests:
        if service.get("kind") == "Service" and not any(
            service["spec"]["selector"].items() <= one.items() for one in pods
        ):
            yield f"Service {service['metadata']['name']}: selects no pod that is rendered"


def _references(value: Any) -> Iterator[str]:
    """The Services that a route names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "backendRefs":
                yield from (one["name"] for one in inner)
            if key == "backendRef":
                yield inner["name"]
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return sorted((key, _sorted(inner)) for key, inner in value.items())
    return sorted(map(_sorted, value), key=repr) if isinstance(value, list) else value


def _escaped(value: Any) -> Any:
    """The value with the keys that are words of CEL written as its rules write them."""
    if isinstance(value, dict):
        return {f"__{key}__" if key in _RESERVED else key: _escaped(inner) for key, inner in value.items()}
    return [_escaped(inner) for inner in value] if isinstance(value, list) else value


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:80]} ... {text[-115:]}"  # a value, and then what is wrong with it


def _missing(error: ImportError) -> SpecError:
    return SpecError(
        f"validation needs {', '.join(PACKAGES)}, and {error.name} is not installed",
        "Install them: pip install 'tsctl[kubernetes]'",
    )

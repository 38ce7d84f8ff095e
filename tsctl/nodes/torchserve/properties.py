"""Reads and writes Java properties: TorchServe's config.properties and its snapshots. Renders those of a node."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from tsctl.config.nodes import TorchServeSpec
from tsctl.errors import SpecError

#: Read by log4j2.xml.
CONSOLE_OFF = "-Dtsctl.console=off"
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_WRITTEN = {"\\": "\\\\", **{character: "\\" + letter for letter, character in _ESCAPES.items()}}
# a key ends at the first unescaped '=', ':' or white space
_KEY_END = re.compile(r"(?<!\\)(?:\\\\)*[=:\s]")
_ESCAPED = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)


def read_properties(path: Path) -> dict[str, str]:
    """The properties in a file: UTF-8, with or without a byte order mark.

    Raises:
        SpecError: it is no UTF-8 text.
    """
    try:
        return parse_properties(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: cannot be read as UTF-8: {error.reason} at byte {error.start}") from None


def parse_properties(text: str) -> dict[str, str]:
    """The properties in `text` as java.util.Properties reads them; a duplicate key keeps its last value."""
    properties = {}
    for line in _logical_lines(text):
        end = _KEY_END.search(line)
        split = end.end() - 1 if end else len(line)
        value = re.sub(r"^\s*[=:]?\s*", "", line[split:])
        properties[_unescape(line[:split])] = _unescape(value)
    return properties


def render_properties(properties: Mapping[str, object], comment: str = "") -> str:
    """Text that `parse_properties` and java.util.Properties read back as the same."""
    lines = [f"# {line}" for line in comment.splitlines()]
    lines += [f"{_escape(key, is_key=True)}={_escape(str(value))}" for key, value in properties.items()]
    return "\n".join(lines) + "\n"


def node_properties(defaults: Mapping[str, str], node: TorchServeSpec, store: Path, cores: int) -> dict[str, str]:
    """The properties that this node runs with.

    Args:
        defaults: of config.properties.
        store: the model store, absolute.
        cores: of the node; as many threads serve HTTP, where the defaults set no number. TorchServe's own default is
            twice as many, which on few cores only adds context switches (decision 0006).

    TorchServe loads no models itself. They are registered afterwards, one by one, so that one that fails stops no other
    and its reason is reported.
    """
    inference_grpc, management_grpc = node.grpc_ports
    addresses = {
        "inference_address": node.inference,
        "management_address": node.management,
        "metrics_address": node.metrics,
        "grpc_inference_address": node.host,
        "grpc_management_address": node.host,
        "grpc_inference_port": str(inference_grpc),
        "grpc_management_port": str(management_grpc),
        "model_store": str(store),
        "allowed_urls": f"file://{_pattern(store)}/[^/]+\\.mar",
    }
    kept = {key: value for key, value in defaults.items() if key not in {"load_models", "model_snapshot", "vmargs"}}
    # versions are registered by the API of models, which TorchServe has off where nobody says otherwise
    return {"number_of_netty_threads": str(max(2, cores)), "enable_model_api": "true", **kept, **addresses}


def jvm_arguments(defaults: Mapping[str, str], log_config: Path) -> list[str]:
    """The JVM's arguments: `vmargs` of config.properties, with the log configuration by its absolute path.

    The node's own log is a file that rotates, so nothing of it goes to the console as well.
    """
    arguments = [word for word in defaults.get("vmargs", "").split() if not word.startswith("-Dlog4j")]
    return [*arguments, f"-Dlog4j2.configurationFile={log_config}", CONSOLE_OFF]


def _logical_lines(text: str) -> list[str]:
    lines: list[str] = []
    pending = ""
    for raw in re.split(r"\r\n|\r|\n", text):
        line = raw.lstrip(" \t\f")
        if not pending and (not line or line[0] in "#!"):
            continue
        line = pending + line
        backslashes = len(line) - len(line.rstrip("\\"))
        if backslashes % 2:
            pending = line[:-1]
            continue
        lines.append(line)
        pending = ""
    return [*lines, pending] if pending else lines


def _unescape(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        code = match[1]
        return chr(int(code[1:], 16)) if len(code) == 5 else _ESCAPES.get(code, code)

    # Java writes a character past U+FFFF as its two surrogates
    return _ESCAPED.sub(replace, text).encode("utf-16-be", "surrogatepass").decode("utf-16-be")


def _escape(text: str, is_key: bool = False) -> str:
    escaped = "".join(_escape_character(character, is_key) for character in text)
    return "\\" + escaped if escaped.startswith(" ") else escaped


def _escape_character(character: str, is_key: bool) -> str:
    if character in _WRITTEN:
        return _WRITTEN[character]
    if is_key and character in " =:#!":
        return "\\" + character
    if 0x20 <= ord(character) < 0x7F:
        return character
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def _pattern(folder: Path) -> str:
    # the value is a list with commas between its patterns, so a comma in the path is matched as any character
    return re.escape(str(folder)).replace(",", ".")

"""Which kind of model a file or folder is, by its first bytes and names, and which handler serves that kind.

Pure: `read_look` is the only function that opens a file, and it reads no pickle and runs nothing.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tsctl.archive.container import MANIFEST, UNREADABLE
from tsctl.errors import SpecError

_HEAD_BYTES = 4096
_MOST_NAMES = 100_000
_MOST_CONFIG_BYTES = 4 << 20
#: In a program of torch.export, by older and newer versions of torch.
_EXPORTED = ("serialized_exported_program.json", "models/model.json")
#: Suffixes of the files that torch.save wrote as plain pickles.
_OF_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_COMPRESSED = (b"\x78", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x5d\x00\x00")  # zlib, gzip, bz2, xz, lzma


@dataclass(frozen=True)
class Look:
    """What is seen of a model without running any of it."""

    name: str
    head: bytes = b""  # the first bytes of a file
    entries: frozenset[str] = frozenset()  # of a zip file
    files: frozenset[str] | None = None  # names in a folder; None: it is a file
    config: Mapping[str, Any] = field(default_factory=dict)  # of a folder's config.json

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix.lower()


@dataclass(frozen=True)
class Kind:
    """A kind of model, and how it is served."""

    words: str  # what it is called
    handler: str | None = None  # None: no ready-made one
    sample: str | None = None  # a JSON request that every model of this kind takes; None: the user has one
    spec: Mapping[str, Any] = field(default_factory=dict)  # further keys of archive.yaml
    weights: str = ""  # the file in a folder that is the archive's `weights`; empty: the whole
    instead: str = ""  # what to do where there is no handler


ARCHIVE = Kind("an archive", instead="It is served as it is.")
#: Needs the file with the network too.
CHECKPOINT = Kind("weights of a network", "handlers.network")
_GENERATION = {"generation": {}, "tolerance": {"tokens": 6}, "timeouts": {"startup_s": 300, "response_s": 300}}
_TEXT = '{"text": "A sentence to begin with."}'
_CHAT = '{"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16, "temperature": 0}'

#: Architectures of Hugging Face by the end of their names.
ARCHITECTURES: tuple[tuple[str, Kind], ...] = (
    (
        "ForSequenceClassification",
        Kind("a text classifier of Hugging Face", "handlers.text_classification", _TEXT, weights="model.safetensors"),
    ),
    ("ForCausalLM", Kind("a language model of Hugging Face", "handlers.text_generation", _CHAT, _GENERATION)),
    ("LMHeadModel", Kind("a language model of Hugging Face", "handlers.text_generation", _CHAT, _GENERATION)),
    (
        "Model",
        Kind("an encoder of Hugging Face", "handlers.embedding", _TEXT, weights="model.safetensors"),
    ),
)  # fmt: skip


def _entry(look: Look, ending: str) -> bool:
    return any(name.partition("/")[2] == ending for name in look.entries)


def _is_pickle(look: Look) -> bool:
    is_plain = len(look.head) > 1 and look.head[0] == 0x80 and 2 <= look.head[1] <= 5
    return is_plain or (look.suffix in (".joblib", ".pkl", ".pickle") and look.head.startswith(_COMPRESSED))


#: The first row that fits says the kind.
TABLE: tuple[tuple[Callable[[Look], bool], Kind], ...] = (
    (lambda look: MANIFEST in look.entries, ARCHIVE),
    (
        lambda look: _entry(look, "constants.pkl") and any("/code/" in name for name in look.entries),
        Kind("a model in TorchScript", "handlers.torchscript"),
    ),
    (
        lambda look: any(name.endswith(_EXPORTED) for name in look.entries),
        Kind("a program of torch.export", "handlers.torchscript"),
    ),
    (lambda look: "schema.json" in look.entries, Kind("a scikit-learn model in a file of skops", "handlers.sklearn")),
    (lambda look: _entry(look, "data.pkl") or (_is_pickle(look) and look.suffix in _OF_TORCH), CHECKPOINT),
    (
        lambda look: look.head.startswith(b"GGUF"),
        Kind("a language model in GGUF", "handlers.text_generation", _CHAT, _GENERATION),
    ),
    (lambda look: look.suffix == ".safetensors", CHECKPOINT),
    (lambda look: look.suffix == ".onnx" and look.head.startswith(b"\x08"), Kind("an ONNX model", "handlers.onnx")),
    (
        lambda look: look.head.startswith(b"tree\n") and b"version=" in look.head,
        Kind("a model of LightGBM", "handlers.gbm"),
    ),
    (
        lambda look: look.suffix in (".json", ".ubj") and b"learner" in look.head[:64],
        Kind("a model of XGBoost", "handlers.gbm"),
    ),
    (_is_pickle, Kind("a pickle, such as joblib writes", "handlers.sklearn")),
)


def kind_of(look: Look) -> Kind:
    """The kind of a model.

    Raises:
        SpecError: it is of none that is known; the message says what was seen.
    """
    if look.files is not None:
        return _of_folder(look)
    for fits, kind in TABLE:
        if fits(look):
            return kind
    raise SpecError(
        f"{look.name} is no model of a known kind: it begins with {look.head[:8]!r}",
        "Known are .mar, TorchScript, torch.export, ONNX, skops, joblib and other pickles, LightGBM, XGBoost, GGUF, and"
        " folders of Hugging Face.",
    )


def _of_folder(look: Look) -> Kind:
    named = look.config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    if not architecture:
        raise SpecError(
            f"{look.name} is no folder of Hugging Face: it has no config.json that names `architectures`",
            "Save the model with save_pretrained(folder, safe_serialization=True), and its tokenizer there as well.",
        )
    for ending, kind in ARCHITECTURES:
        if architecture.endswith(ending):
            missing = [name for name in ("tokenizer.json",) if name not in (look.files or ())]
            if not any(name.endswith(".safetensors") for name in look.files or ()):
                missing.append("model.safetensors")
            if missing:
                raise SpecError(
                    f"{look.name} has no {' and no '.join(missing)}, which {kind.handler} reads",
                    "Save it with save_pretrained(folder, safe_serialization=True), and its tokenizer as well.",
                )
            return kind
    raise SpecError(
        f"{look.name} holds a {architecture}, for which there is no ready-made handler",
        f"There are some for names that end with {', '.join(ending for ending, _ in ARCHITECTURES)}; for others, write"
        " one (docs/writing-a-handler.md).",
    )


def read_look(path: Path) -> Look:
    """Look at a file or a folder.

    Raises:
        SpecError: there is none, or it cannot be read.
    """
    try:
        if path.is_dir():
            names = frozenset(inside.relative_to(path).as_posix() for inside in path.rglob("*") if inside.is_file())
            return Look(path.name, files=names, config=_config(path / "config.json"))
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}") from None
    return Look(path.name, head, _entries(path) if head.startswith(b"PK\x03\x04") else frozenset())


def _entries(path: Path) -> frozenset[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(archive.namelist()[:_MOST_NAMES])
    except UNREADABLE as error:
        raise SpecError(f"{path} is a zip file that cannot be read: {error}") from None


def _config(path: Path) -> Mapping[str, Any]:
    if not path.is_file() or path.stat().st_size > _MOST_CONFIG_BYTES:
        return {}
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}

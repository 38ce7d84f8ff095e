"""The folder of an archive around a model that exists: archive.yaml, the model's files, and a first sample.

Nothing of the model is run or unpickled here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tsctl.archive.container import digest_of
from tsctl.archive.samples import media_type_of_file
from tsctl.archive.sources import files_below
from tsctl.errors import SpecError
from tsctl.scaffold.files import NewFile
from tsctl.scaffold.kinds import CHECKPOINT, Kind
from tsctl.scaffold.project import require_model_name

VERSION = "1.0"
#: The folder in the archive that holds a model of several files.
INSIDE = "model"
#: Names that say nothing: the model is called as the folder around the file.
_SAYS_NOTHING = {"model", "weights", "pytorch_model", "best", "final", "checkpoint"}
#: Of a folder of Hugging Face: the same weights in other forms, pickles among them, which no handler reads.
_NOT_READ = {".bin", ".ckpt", ".h5", ".msgpack", ".onnx", ".ot", ".pt", ".pth"}
_PICKLE_SUFFIXES = {".joblib", ".pkl", ".pickle"}


def name_of(source: Path) -> str:
    """A name for the model in a file or folder, as a model can have it."""
    path = source.absolute()
    word = path.parent.name if path.is_file() and path.stem.lower() in _SAYS_NOTHING else path.stem
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", word).strip("-._").lower()[:64]
    return require_model_name(name or "model")


def adopted_files(
    source: Path, kind: Kind, model: str, samples: Sequence[Path], network: Path | None = None
) -> dict[str, NewFile]:
    """The files of an archive with this model, by their paths in the project.

    Args:
        kind: of `source`; one that has a handler.
        samples: requests that the user has; empty: one that every model of the kind takes.
        network: the Python file with the network, for weights.

    Raises:
        SpecError: there is no sample or network, or what there is cannot be one.
    """
    folder = f"archives/{model}"
    _check_network(source, kind, network)
    if source.is_dir():
        files = {name: path for name, path in files_below(source).items() if path.suffix not in _NOT_READ}
        contents = {f"{folder}/{INSIDE}/{name}": path for name, path in files.items()}
        named, weights = INSIDE, "/".join(filter(None, (INSIDE, kind.weights)))
    else:
        contents = {f"{folder}/{source.name}": source}
        named = weights = source.name
    if network is not None:
        contents[f"{folder}/model.py"] = network
    spec: dict[str, Any] = {
        "model": model,
        "description": f"{kind.words[:1].upper()}{kind.words[1:]}, from {source.name}.",
        "handler": kind.handler,
        "weights": weights,
        "files": [named, "model.py"] if network is not None else [named],
        **kind.spec,
        **({"settings": settings} if (settings := _settings(source, kind, samples)) else {}),
        **({"trust": [f"{source.name}@sha256:{digest_of(source)}"]} if source.suffix in _PICKLE_SUFFIXES else {}),
        "versions": {VERSION: {}},
    }
    written = {name: NewFile(path) for name, path in {**contents, **_samples(folder, kind, samples)}.items()}
    text = yaml.safe_dump(spec, sort_keys=False, allow_unicode=True, width=120)
    return {f"{folder}/archive.yaml": NewFile(text.encode()), **written}


def _check_network(source: Path, kind: Kind, network: Path | None) -> None:
    if network is None and kind is CHECKPOINT:
        raise SpecError(
            f"{source} has weights, and not the network that they are for",
            "Name the Python file with the network: --network net.py. Its function build(settings) returns it.",
        )
    if network is not None and kind is not CHECKPOINT:
        raise SpecError(f"--network is for weights alone, and {source} is {kind.words}", "Leave it out.")
    if network is not None and not network.is_file():
        raise SpecError(f"--network {network}: no such file")


def _samples(folder: str, kind: Kind, samples: Sequence[Path]) -> dict[str, Path | bytes]:
    if not samples:
        if kind.sample is None:
            raise SpecError(
                f"{kind.words} needs a request to begin with, and only you know one that it takes",
                "Write it into a file and name it: --sample first.json. docs/ready-made-handlers.md says what a request"
                f" to {kind.handler} has.",
            )
        return {f"{folder}/samples/first.json": f"{kind.sample}\n".encode()}
    found: dict[str, Path | bytes] = {}
    for path in samples:
        if not path.is_file():
            raise SpecError(f"--sample {path}: no such file")
        if media_type_of_file(path.name, {}) is None:
            raise SpecError(
                f"--sample {path}: its suffix says no media type",
                "Name it as what it is, such as first.json or first.wav.",
            )
        found[f"{folder}/samples/{path.name}"] = path
    return found


def _settings(source: Path, kind: Kind, samples: Sequence[Path]) -> dict[str, Any]:
    """What archive.yaml has to say of requests, because the model's file does not; a program of torch.export does."""
    if kind.handler in ("handlers.torchscript", "handlers.network") and source.suffix != ".pt2":
        return {"inputs": inputs_of(samples)}
    return columns_of(samples) if kind.handler == "handlers.sklearn" else {}


def _objects(samples: Sequence[Path]) -> list[dict[str, Any]]:
    """The samples that are an object in JSON, and not empty."""
    objects = []
    for path in samples:
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            continue
        if isinstance(content, dict) and content:
            objects.append(content)
    return objects


def inputs_of(samples: Sequence[Path]) -> list[dict[str, Any]]:
    """The inputs that the first sample in JSON has: a field for each, a list for each dimension after the batch's.

    Whole numbers are int64, and numbers with a point float32. Empty where no sample says it.
    """
    return [_input(name, value) for content in _objects(samples)[:1] for name, value in content.items()]


def columns_of(samples: Sequence[Path]) -> dict[str, Any]:
    """Settings of handlers.sklearn that the samples in JSON say: which columns hold texts, whether values are missing.

    A sample with a field `text` alone is for a model that begins with a vectorizer. Which texts a column may have no
    sample says, so `categories` is left to the author.
    """
    rows = _objects(samples)
    if rows and all(set(row) == {"text"} and isinstance(row["text"], str) for row in rows):
        return {"input": "text"}
    texts = list(dict.fromkeys(name for row in rows for name, value in row.items() if isinstance(value, str)))
    has_gaps = any(value is None for row in rows for value in row.values())
    return {**({"texts": texts} if texts else {}), **({"missing": True} if has_gaps else {})}


def _input(name: str, value: Any) -> dict[str, Any]:
    shape: list[int | str] = ["batch"]
    row, numbers = value, [value]
    while isinstance(row, list) and row:
        shape.append(len(row))
        row, numbers = row[0], [inside for each in numbers if isinstance(each, list) for inside in each]
    has_points = any(not isinstance(number, int) for number in numbers)
    return {"name": name, "shape": shape, "dtype": "float32" if has_points else "int64"}

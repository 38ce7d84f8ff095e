"""Proposes an archive folder around a stock archive whose handler derives from TorchServe's BaseHandler.

The archive's own files are copied as they are; what is new is archive.yaml and one module, whose ServingHandler calls
the stock handler's own steps. Nothing of the archive runs.
"""

from __future__ import annotations

import json
import pprint
import re
import shutil
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from pydantic import ValidationError

from handlers.contract import ANY_MEDIA_TYPE, BINARY
from tsctl.archive.container import CONFIG, open_archive, read_entry, unpack
from tsctl.archive.inspect import Facts, read_facts
from tsctl.archive.known import golden_file, known, name_of
from tsctl.archive.samples import media_type_of_file
from tsctl.archive.stock_shape import Finding, shape_of
from tsctl.archive.written import scratch
from tsctl.config.archive import ArchiveSpec
from tsctl.config.spec import mistakes
from tsctl.errors import ArchiveError

_TEMPLATE = Path(__file__).parent / "templates" / "converted.py.txt"
#: Names of the new module; the first that is free.
_MODULES = ("serving_handler.py", "converted_handler.py", "tsctl_handler.py")
#: Entries of the stock archive that are made anew.
_MADE_ANEW = ("MAR-INF/", "handlers/", "samples/", "golden/", ".built/")


@dataclass(frozen=True)
class Converted:
    """The folder that was written."""

    folder: Path
    model: str
    version: str  # of the archive that is built from it
    left_out: tuple[Finding, ...]  # what it does not carry over
    samples: tuple[str, ...]
    has_golden: bool  # the stock archive's golden answers are its own


def convert(path: Path, folder: Path, version: str | None, samples: Sequence[Path]) -> Converted:
    """Write the folder of an archive that wraps a stock archive.

    Args:
        folder: may exist, without an archive.yaml; what is in it stays.
        version: None: the next one.
        samples: requests to the model, besides those that are kept beside the stock archive.

    Raises:
        ArchiveError: it cannot be read or converted, or the folder cannot be written.
    """
    with open_archive(path) as archive:
        facts = read_facts(archive)
        if not facts.is_stock:
            raise ArchiveError(f"{path.name} was built by tsctl, so there is nothing to convert")
        file = f"{facts.manifest.model.handler.partition(':')[0].removesuffix('.py')}.py"
        has_source = file in archive.namelist()
        source = read_entry(archive, file).decode("utf-8", "replace") if has_source else None
    model = facts.manifest.model.model_dump(exclude_unset=True)
    shape = shape_of(facts.manifest.model.handler, source, model, facts.config)
    if blockers := shape.blockers:
        reasons = "\n".join(f"  {file}: {finding}" for finding in blockers)
        raise ArchiveError(
            f"{' '.join(facts.names)} cannot be converted:\n{reasons}",
            "It is served as it is: tsctl archive add. docs/writing-a-handler.md has how to write a handler.",
        )
    if (folder / "archive.yaml").exists():
        raise ArchiveError(f"{folder / 'archive.yaml'} exists", "Name another folder with --to.")
    with scratch("tsctl-convert-") as unpacked:
        unpack(path, unpacked)
        own = _own_files(unpacked)
        module = next((name for name in _MODULES if name not in own), None)
        if module is None:
            raise ArchiveError(f"{path.name} has files of all the names {', '.join(_MODULES)}", "Rename one of them.")
        _require_free(folder, [*own, module])
        version = version or next_version(facts.names[1])
        tops = sorted({PurePosixPath(name).parts[0] for name in own})
        bodies = _bodies(path, samples)
        spec = _spec(facts, module, tops, version, list(bodies))
        folder.mkdir(parents=True, exist_ok=True)
        for name in own:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(unpacked / name, folder / name)
    for name, body in bodies.items():
        (folder / "samples").mkdir(exist_ok=True)
        if not (folder / "samples" / name).exists():
            (folder / "samples" / name).write_bytes(body)
    has_golden = _keep_golden(path, folder, version, list(bodies))
    types = sorted({media_type_of_file(name, {}) or BINARY for name in bodies}) or [ANY_MEDIA_TYPE]
    (folder / module).write_text(_module(facts, shape.module, shape.name, model, types))
    (folder / "archive.yaml").write_text(_yaml(spec, " ".join(facts.names)))
    return Converted(folder, facts.names[0], version, shape.findings, tuple(bodies), has_golden)


def next_version(version: str) -> str:
    """The version after this one: its first number is one more."""
    match = re.match(r"\d+", version)
    return f"{int(match[0]) + 1}{version[match.end() :]}" if match else f"{version}.1"


def _own_files(unpacked: Path) -> list[str]:
    """The stock archive's files that are copied, by name."""
    names = [str(file.relative_to(unpacked)) for file in sorted(unpacked.rglob("*")) if file.is_file()]
    return [name for name in names if name != CONFIG and not name.startswith(_MADE_ANEW)]


def _require_free(folder: Path, names: Sequence[str]) -> None:
    if there := [name for name in names if (folder / name).exists()]:
        raise ArchiveError(f"{folder} has {', '.join(there[:8])} already", "Name another folder with --to.")


def _bodies(path: Path, samples: Sequence[Path]) -> dict[str, bytes]:
    """Samples by name: those of the stock archive, and these files."""
    bodies = {name_of(sample): sample[1] for sample in known(path).samples}
    for file in samples:
        try:
            bodies[file.name] = file.read_bytes()
        except OSError as error:
            raise ArchiveError(f"sample {file} cannot be read: {error.strerror}") from None
    return dict(sorted(bodies.items()))


def _keep_golden(path: Path, folder: Path, version: str, samples: Sequence[str]) -> bool:
    """Make the golden answers of the stock archive those of the new version, where every sample has one."""
    target = golden_file(folder, version)
    answers = dict(known(path).answers)
    if target.exists() or not samples or set(samples) != set(answers):
        return target.exists()
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(answers, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return True


def _module(facts: Facts, module: str, name: str, model: dict[str, Any], types: Sequence[str]) -> str:
    return string.Template(_TEMPLATE.read_text()).substitute(
        title=f"{module}.{name} of {' '.join(facts.names)}",
        module=module,
        name=name,
        media_types=repr(tuple(types)),
        manifest=pprint.pformat({"model": model}, width=100),
        config=pprint.pformat(facts.config, width=100),
    )


def _spec(facts: Facts, module: str, files: Sequence[str], version: str, samples: Sequence[str]) -> dict[str, Any]:
    """The content of archive.yaml, with what TorchServe was told by model-config.yaml."""
    timeouts = {"response_s": facts.integer("responseTimeout"), "startup_s": facts.integer("startupTimeout")}
    stated = {key: value for key, value in timeouts.items() if value}
    workers = facts.integer("minWorkers")
    unknown = {Path(name).suffix.lower() for name in samples if media_type_of_file(name, {}) is None}
    spec: dict[str, Any] = {
        "model": facts.names[0],
        "handler": module,
        "files": list(files),
        **({"weights": facts.manifest.model.serializedFile} if facts.manifest.model.serializedFile else {}),
        "batch": {"size": facts.batch_size, "max_delay_ms": facts.integer("maxBatchDelay") or 1},
        **({"workers": {"min": workers}} if workers else {}),
        **({"timeouts": stated} if stated else {}),
        **({"sample_types": dict.fromkeys(sorted(unknown), "application/octet-stream")} if unknown else {}),
        "versions": {version: None},
    }
    try:
        ArchiveSpec.model_validate(spec)
    except ValidationError as error:
        raise ArchiveError("\n".join(mistakes("its archive.yaml", ArchiveSpec, error))) from None
    return spec


def _yaml(spec: dict[str, Any], title: str) -> str:
    return f"# Made by 'tsctl archive convert' from {title}; edit it.\n{yaml.safe_dump(spec, sort_keys=False)}"

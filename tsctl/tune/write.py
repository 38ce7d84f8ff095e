"""Writes settings into archive.yaml: for the version alone where the model has several, else for the model. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tsctl.config.archive import ArchiveSpec, Batch, Workers
from tsctl.config.yaml_edit import NotEditable, set_values
from tsctl.config.yaml_files import YamlMistake
from tsctl.errors import SpecError


def edited(path: Path, text: str, spec: ArchiveSpec, version: str, settings: Mapping[str, Any]) -> str:
    """The text of archive.yaml with the settings.

    A section of a version replaces the model's whole section, so one that is new gets all keys that differ from their
    defaults.

    Args:
        settings: by their names in Settings, without the engine.

    Raises:
        SpecError: the text cannot be changed at this place.
    """
    own = spec.versions[version]
    at_version = len(spec.versions) > 1
    set_here = own.model_fields_set if own is not None else set()
    values: dict[tuple[str, ...], Any] = {}
    for section, content in sections(spec, version, settings).items():
        inside = ("versions", version) if at_version or section in set_here else ()
        is_there = section in (set_here if inside else spec.model_fields_set)
        if isinstance(content, dict) and is_there:
            values |= {(*inside, section, key): value for key, value in content.items()}
        elif isinstance(content, dict):
            full = {**_section(spec, version, section).model_dump(exclude_defaults=True), **content}
            values[(*inside, section)] = full
        else:
            values[(*inside, section)] = content
    try:
        return set_values(text, values)
    except (NotEditable, YamlMistake) as error:
        wanted = "; ".join(f"{'.'.join(place)}: {value}" for place, value in values.items())
        raise SpecError(f"{path} cannot be changed: {error}", f"Write it by hand: {wanted}") from None


def sections(spec: ArchiveSpec, version: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by the keys of archive.yaml; those of a section are in a mapping."""
    serving = spec.serving(version)
    found: dict[str, Any] = {name: settings[name] for name in ("threads", "compile", "dtype") if name in settings}
    batch = {key: settings[name] for name, key in (("batch", "size"), ("delay_ms", "max_delay_ms")) if name in settings}
    workers = {"min": settings["workers"]} if "workers" in settings else {}
    if workers and serving.workers.max is not None and serving.workers.max < workers["min"]:
        workers["max"] = workers["min"]
    return {**({"batch": batch} if batch else {}), **({"workers": workers} if workers else {}), **found}


def _section(spec: ArchiveSpec, version: str, name: str) -> Batch | Workers:
    serving = spec.serving(version)
    return serving.batch if name == "batch" else serving.workers

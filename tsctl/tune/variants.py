"""Writes variants of an archive: the same entries with other settings, into a store that is not the project's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from handlers.contract import threads_per_worker
from tsctl.archive.build import with_digests
from tsctl.archive.container import CONFIG, DIGESTS, Content, open_archive, unpack
from tsctl.archive.inspect import Facts, read_facts
from tsctl.archive.store import StoredArchive, write_archive
from tsctl.config.project import Project
from tsctl.errors import ArchiveError, SpecError
from tsctl.tune.space import Settings


class Variants:
    """The variants of one archive.

    Args:
        archive: built by tsctl.
        folder: empty; the archive is unpacked there.
        own: the project whose store gets the variants.
        most_workers: that a variant is served with.
        has_cache: whether variants remember answers as the archive does; requests that come again would be measured
            without the model.
    """

    def __init__(self, archive: Path, folder: Path, own: Project, most_workers: int, has_cache: bool) -> None:
        with open_archive(archive) as content:
            self.facts = read_facts(content)
        unpack(archive, folder)
        self._entries: dict[str, Content] = {
            name: path
            for path in folder.rglob("*")
            if path.is_file() and (name := path.relative_to(folder).as_posix()) not in (CONFIG, DIGESTS)
        }
        self._config: dict[str, Any] = yaml.safe_load((folder / CONFIG).read_bytes())
        self._own, self._most_workers, self._has_cache = own, most_workers, has_cache
        self._made: dict[Settings, StoredArchive] = {}

    def variant(self, settings: Settings) -> StoredArchive:
        """The archive with these settings; workers are not among them, because the node gives them.

        Raises:
            ArchiveError: it cannot be written.
        """
        key = Settings("", settings.batch, settings.delay_ms, 1, settings.threads, settings.compile, settings.dtype)
        if key not in self._made:
            content = yaml.safe_dump(self._changed(settings), sort_keys=False).encode()
            entries = with_digests({**self._entries, CONFIG: content})
            self._made[key] = write_archive(entries, self._own.store, *self.facts.names)
        return self._made[key]

    def _changed(self, settings: Settings) -> dict[str, Any]:
        serving = self._config["serving"]
        acceleration = {
            **serving.get("acceleration", {}), "compile": settings.compile, "dtype": settings.dtype
        }  # fmt: skip
        return {
            **self._config,
            "batchSize": settings.batch,
            "maxBatchDelay": settings.delay_ms,
            "maxWorkers": max(self._most_workers, self._config.get("maxWorkers", 1)),
            "serving": {
                **serving,
                "threads": settings.threads,
                "acceleration": acceleration,
                "cache": serving.get("cache") if self._has_cache else None,
            },
        }


def present_settings(facts: Facts, engine: str, workers: int | None, cores: int) -> Settings:
    """The settings with which the archive is served now.

    Args:
        workers: as deployment.yaml says; None: as the archive does.
    """
    workers = workers or facts.integer("minWorkers") or 1
    serving = facts.config.get("serving", {})
    acceleration = serving.get("acceleration", {})
    most = facts.integer("maxWorkers") or 1
    return Settings(
        engine,
        facts.batch_size,
        facts.integer("maxBatchDelay") or 1,
        workers,
        threads_per_worker(serving.get("threads"), cores, most),
        bool(acceleration.get("compile", False)),
        str(acceleration.get("dtype", "float32")),
    )


def why_fixed(facts: Facts) -> dict[str, str]:
    """Why `compile` or `dtype` cannot vary, by its name; what only the worker knows is found by a trial.

    Raises:
        SpecError: the model's settings are others.
        ArchiveError: the archive was not built by tsctl.
    """
    name = " ".join(facts.names)
    if facts.is_stock:
        raise ArchiveError(
            f"{name} was not built by tsctl, so its settings cannot be varied", "See tsctl archive convert."
        )
    if facts.is_text:
        raise SpecError(
            f"{name} generates text, and its backend forms the batches itself, so there is nothing to tune here",
            "Its places and memory are in generation; see docs/text-generation.md.",
        )
    if quantize := facts.config.get("serving", {}).get("acceleration", {}).get("quantize"):
        return dict.fromkeys(("compile", "dtype"), f"quantize: {quantize} excludes others")
    return {}

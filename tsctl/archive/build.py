"""Builds an archive in the store from archive.yaml, the output of its recipe, and the package `handlers`."""

from __future__ import annotations

import ast
import codecs
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tsctl.archive.container import (
    CONFIG,
    DIGESTS,
    GOLDEN,
    MANIFEST,
    MAX_CONFIG_BYTES,
    REFERENCE,
    Content,
    check_names,
    digest_of,
)
from tsctl.archive.packable import require_packable, shadowing_names
from tsctl.archive.packages import read_requirements
from tsctl.archive.recipe import KEY_FILE, recipe_output
from tsctl.archive.reference import make_reference, reference_data
from tsctl.archive.samples import media_type_of_file, sample_types
from tsctl.archive.sources import files_below, handlers_package, is_leaving
from tsctl.archive.store import StoredArchive, list_archives, make_current, write_archive
from tsctl.archive.team_modules import INIT, PACKAGE, is_blank, replaced, require_modules
from tsctl.config.archive import MOST_TOKENS, ArchiveSpec, Serving, read_archive_spec
from tsctl.config.project import Project
from tsctl.errors import ArchiveError, SpecError
from tsctl.host.documents import parse_json
from tsctl.host.locks import exclusive
from tsctl.host.progress import Note, Progress

#: The module that the manifest names: TorchServe's adapter, which imports the author's module that CONFIG names.
ENTRY = "handlers.adapters.torchserve.entry"
#: Requests that TorchServe gives a text worker beyond its places, so that it refuses them at once; they would wait in
#: TorchServe's queue.
SPARE = 32
#: The most items that an archive may ask TorchServe for at a time.
MOST_ITEMS = 1024
#: Seconds for the first token of an answer where archive.yaml does not say.
FIRST_TOKEN_S = 30
_CREATED = "01/01/1980 00:00:00"  # TorchServe wants a time; a true one would make every build another archive


@dataclass(frozen=True)
class Built:
    """The result of building one version."""

    archive: StoredArchive
    is_new: bool  # False: the same bytes, undamaged, were in the store already
    lines: tuple[str, ...]  # printed by the recipe when it ran
    superseded: tuple[str, ...]  # names of older archives of the same version, which stay in the store


def read_archive_folders(project: Project) -> dict[str, tuple[Path, ArchiveSpec]]:
    """Folder and spec by model, for every `archives/*/archive.yaml`.

    Raises:
        SpecError: a spec has mistakes, or two folders name the same model.
    """
    folders, mistakes = sound_archive_folders(project)
    if mistakes:
        raise mistakes[0]
    return folders


def sound_archive_folders(project: Project) -> tuple[dict[str, tuple[Path, ArchiveSpec]], list[SpecError]]:
    """As `read_archive_folders`, without the specs that have mistakes, and those mistakes."""
    folders: dict[str, tuple[Path, ArchiveSpec]] = {}
    mistakes: list[SpecError] = []
    for path in sorted(project.archives.glob("*/archive.yaml")):
        try:
            spec = read_archive_spec(path)
            if spec.model in folders:
                other = folders[spec.model][0] / "archive.yaml"
                raise SpecError(f"{path}: model: {spec.model!r}: is named by {other} too")
            folders[spec.model] = (path.parent, spec)
        except SpecError as error:
            mistakes.append(error)
    return folders, mistakes


def select_versions(project: Project, names: Sequence[str] | None) -> dict[tuple[str, str], tuple[Path, ArchiveSpec]]:
    """Folder and spec by (model, version), for each MODEL or MODEL:VERSION; a model alone means all its versions.

    Args:
        names: None: every version of every model, but for those that are built on request.

    Raises:
        SpecError: a name that no archive.yaml has, or, without names, an archive.yaml that has mistakes.
    """
    folders, mistakes = sound_archive_folders(project)
    if mistakes and names is None:
        raise mistakes[0]
    every = {(model, version): found for model, found in folders.items() for version in found[1].versions}
    if names is None and not every and not list_archives(project):
        raise SpecError(f"no archives/*/archive.yaml in {project.root}", "See docs/writing-a-handler.md.")
    selected: dict[tuple[str, str], tuple[Path, ArchiveSpec]] = {}
    for name in [name for name, (_, spec) in folders.items() if not spec.on_request] if names is None else names:
        model, _, version = name.partition(":")
        matching = {pair: found for pair, found in every.items() if pair[0] == model and version in ("", pair[1])}
        if not matching and mistakes:  # one of them may be the model's
            raise SpecError("\n".join(mistake.message for mistake in mistakes), f"No other archive.yaml names {name}.")
        if not matching:
            raise SpecError(f"no archive.yaml names {name}", f"There are: {', '.join(map(':'.join, every)) or 'none'}.")
        selected |= matching
    return selected


def built_on_request(project: Project) -> list[str]:
    """The models that are built only where something names them."""
    return [model for model, (_, spec) in sound_archive_folders(project)[0].items() if spec.on_request]


def build_versions(project: Project, names: Sequence[str] | None, progress: Progress) -> list[Built]:
    """Build each version that `select_versions` selects; the same inputs give the same archive.

    Raises:
        SpecError: a name that no archive.yaml has.
        ArchiveError: a recipe failed, or a file is missing.
    """
    selected = select_versions(project, names)
    return [build_shown(project, *found, version, progress) for (_, version), found in selected.items()]


def build_shown(project: Project, folder: Path, spec: ArchiveSpec, version: str, progress: Progress) -> Built:
    """Build one version as a step of the progress; raises as `build_version`."""
    with progress.step(f"building {spec.model} {version}") as step:
        made = build_version(project, folder, spec, version, step.note)
        step.done(made.archive.path.name if made.is_new else f"{made.archive.path.name} unchanged")
    for line in made.lines if made.is_new else ():
        progress.line(f"  {line}")
    return made


def build_version(project: Project, folder: Path, spec: ArchiveSpec, version: str, note: Note) -> Built:
    """Build one version into the store and make it the current archive of its version.

    Raises:
        ArchiveError: the recipe failed, or a file is missing.
        ConflictError: another tsctl builds it at this moment.
    """
    with exclusive(folder / ".built" / f".{version}.lock", f"the archive {spec.model} {version}"):
        made, lines = recipe_output(folder, spec, version, note)
        entries = assemble(folder, spec, version, made)
        if (data := reference_data(folder, spec, made)) is not None:
            entries[REFERENCE], changed = make_reference(folder, spec, version, data, entries, note)
            lines += [changed] if changed else []
        entries = with_digests(entries)
        before = {archive.path.name: archive.path.stat().st_mtime_ns for archive in list_archives(project)}
        archive = make_current(project, write_archive(entries, project.store, spec.model, version))
    older = (a.path.name for a in list_archives(project) if a.key == archive.key)
    superseded = tuple(name for name in older if name != archive.path.name)
    is_new = before.get(archive.path.name) != archive.path.stat().st_mtime_ns  # a damaged one was made anew
    return Built(archive, is_new, tuple(lines), superseded)


def assemble(
    folder: Path, spec: ArchiveSpec, version: str, made: Path | None, has_golden: bool = True
) -> dict[str, Content]:
    """Every entry of the archive but its digests.

    Args:
        folder: the archive's folder.
        made: the folder that the recipe wrote; None without a recipe.
        has_golden: False leaves the golden answers out, for the run that makes them.

    Raises:
        ArchiveError: something that archive.yaml names is missing, or two sources claim one entry.
    """
    entries = _Entries()
    entries.add_core(handlers_package())
    entries.add(MANIFEST, _json(manifest(spec, version, _manifest_handler(folder, spec))))
    samples = _samples(folder, spec)
    entries.add(CONFIG, _config(folder, spec, version, samples))
    for name, path in samples.items():
        entries.add(f"samples/{name}", path)
    if has_golden:
        entries.add(GOLDEN, _golden(folder, spec, version, set(samples)))
    if spec.handler.endswith(".py"):
        entries.add(spec.handler, _required(folder, spec.handler))
    for name in spec.files:
        entries.add_tree(name, _required(folder, name))
    if not spec.handler.endswith(".py") and f"{spec.handler.replace('.', '/')}.py" not in entries.by_name:
        raise ArchiveError(f"handler {spec.handler}: the package handlers has no such module, nor have `files`")
    if made is not None:
        entries.add_tree("", made, lambda name: name != KEY_FILE and not _is_below(name, spec.reference))
    if "weights" in spec.model_fields_set and not any(_is_below(name, spec.weights) for name in entries.by_name):
        if not (folder / spec.weights).exists():
            raise ArchiveError(
                f"weights: {spec.weights} is not in the archive {spec.model} {version}",
                f"Have the recipe write it, or put it into {folder}.",
            )
        entries.add_tree(spec.weights, folder / spec.weights)
    generation = spec.serving(version).generation
    if generation and generation.chat_template and generation.chat_template not in entries.by_name:
        raise ArchiveError(
            f"generation.chat_template: {generation.chat_template} is not in the archive {spec.model} {version}",
            "Name it under `files`, or have the recipe write it.",
        )
    require_packable(entries.by_name, folder)
    require_modules(entries.by_name, entries.core, folder)
    if unsafe := check_names(entries.by_name):
        raise ArchiveError(
            f"{spec.model} {version} cannot be packed: {'; '.join(unsafe)}",
            "Rename the file, or leave it out of `files`.",
        )
    return entries.by_name


def with_digests(entries: Mapping[str, Content]) -> dict[str, Content]:
    """Add an entry that holds the SHA-256 of each."""
    digests = {name: digest_of(entries[name]) for name in sorted(entries)}
    return {**entries, DIGESTS: _json(digests)}


def manifest(spec: ArchiveSpec, version: str, handler: str) -> dict[str, Any]:
    """MANIFEST.json as TorchServe reads it; `handler` is the module that it imports."""
    return {
        "createdOn": _CREATED,
        "runtime": "python",
        "model": {
            "modelName": spec.model,
            "modelVersion": version,
            "handler": handler,
            "serializedFile": spec.weights,
            "configFile": CONFIG,
        },
        "archiverVersion": "0.12.0",
    }


def model_config(spec: ArchiveSpec, version: str) -> dict[str, Any]:
    """model-config.yaml: TorchServe's keys, and under `serving` the handler's."""
    serving = spec.serving(version)
    return {
        "minWorkers": serving.workers.min,
        "maxWorkers": serving.workers.max or serving.workers.min,
        "batchSize": _batch_size(serving),
        "maxBatchDelay": 1 if serving.generation else serving.batch.max_delay_ms,
        "responseTimeout": serving.timeouts.response_s,
        "startupTimeout": serving.timeouts.startup_s,
        "maxRetryTimeoutInSec": serving.timeouts.retry_s,
        "jobQueueSize": serving.queue_size,
        **({"continuousBatching": True} if serving.generation else {}),  # answers come in parts
        "serving": {
            "handler": spec.handler.removesuffix(".py"),
            "threads": serving.threads,
            **({} if serving.batch.tokens is None else {"batch_tokens": serving.batch.tokens}),
            "cache": serving.cache.model_dump() if serving.cache else None,
            **({"records": serving.records.model_dump()} if serving.records else {}),
            **({"compare": serving.compare.model_dump()} if serving.compare else {}),
            "acceleration": {
                "compile": serving.compile,
                "dtype": serving.dtype,
                "quantize": serving.quantize,
                "channels_last": serving.channels_last,
            },
            "metrics": serving.metrics,
            "wire": serving.wire,
            "warmup": serving.warmup.model_dump(),
            "limits": serving.limits.model_dump(),
            "tolerance": tolerance_values(serving),
            **({"generation": _generation(serving)} if serving.generation else {}),
            "settings": serving.settings,
        },
    }


def tolerance_values(serving: Serving) -> dict[str, Any]:
    """As `handlers.contract.Tolerance` has it: with `tokens` for a text model, and for no other."""
    values = serving.tolerance.model_dump(exclude_none=True)
    return {**values, "tokens": serving.tolerance.tokens or MOST_TOKENS} if serving.generation else values


def _batch_size(serving: Serving) -> int:
    """Items that TorchServe gives a worker at a time."""
    if serving.generation is None:
        return serving.batch.size
    return min(serving.generation.max_answers + SPARE, MOST_ITEMS)


def _generation(serving: Serving) -> dict[str, Any]:
    """As `handlers.text.options.GenerationOptions` has it."""
    timeouts = serving.timeouts
    first_token_s = timeouts.first_token_s or min(FIRST_TOKEN_S, timeouts.response_s)
    return {**(serving.generation.model_dump() if serving.generation else {}), "first_token_s": float(first_token_s)}


def _manifest_handler(folder: Path, spec: ArchiveSpec) -> str:
    """The module that TorchServe imports: the adapter's, or the author's own where it defines a function `handle`."""
    if spec.handler.endswith(".py") and not defines_class(_required(folder, spec.handler)):
        return spec.handler.removesuffix(".py")
    return ENTRY


def defines_class(path: Path) -> bool:
    """Whether a handler file defines its one class; False where it defines the function `handle` in place of it.

    A worker imports it by its bare name before the standard library's, and takes the one class that it defines.

    Raises:
        ArchiveError: its name shadows a module, it is no Python, or it defines no class or several.
    """
    if path.stem == "handlers" or shadowing_names([path.name]):
        raise ArchiveError(f"{path.name} would replace the module {path.stem!r} in the worker", "Rename the file.")
    try:
        tree = ast.parse(path.read_bytes(), path.name)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # also where it is nested too deep
        raise ArchiveError(f"{path}: is not Python: {error}") from error
    if any(isinstance(node, ast.FunctionDef) and node.name == "handle" for node in tree.body):
        return False
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    if len(classes) != 1:
        content = f"defines {len(classes)} classes ({', '.join(classes)})" if classes else "defines no class"
        raise ArchiveError(
            f"{path}: {content}, and a handler module has exactly one",
            "Put other classes inside the handler's, as Request is, or into a file of their own under `files`.",
        )
    return True


class _Entries:
    """Collects the entries of an archive; one name has one source."""

    def __init__(self) -> None:
        self.by_name: dict[str, Content] = {}
        self.core: frozenset[str] = frozenset()  # entries of the package handlers that tsctl brings

    def add_core(self, package: Path) -> None:
        self.add_tree(PACKAGE, package, lambda name: name.endswith(".py"))
        self.core = frozenset(self.by_name)

    def add(self, name: str, content: Content) -> None:
        if name in self.core and isinstance(content, Path):
            if name == INIT and is_blank(content):
                return  # a team's package beside the core's, whose module it is
            raise replaced(name, content)
        if name in self.by_name:
            raise ArchiveError(f"two sources write the entry {name} of the archive", "Rename one of them.")
        self.by_name[name] = content

    def add_tree(self, name: str, path: Path, wanted: Callable[[str], bool] = lambda name: True) -> None:
        """A file under the name, or every wanted file of a folder under it."""
        for inside, file in files_below(path).items():
            if wanted(inside):
                self.add("/".join(filter(None, (name, inside))), file)


def _is_below(name: str, top: str | None) -> bool:
    """Whether a file is the one of that name, or in the folder of that name."""
    return top is not None and (name == top or name.startswith(f"{top}/"))


def _config(folder: Path, spec: ArchiveSpec, version: str, samples: Iterable[str]) -> bytes:
    config = model_config(spec, version)
    if types := sample_types(samples, spec.sample_types):
        config["serving"]["sample_types"] = types
    if requirements := read_requirements(folder, spec):
        config["serving"]["requirements"] = requirements
    if spec.secrets:
        config["serving"]["secrets"] = list(spec.secrets)
    if spec.embeddings:
        config["serving"]["embeddings"] = True
    content = yaml.safe_dump(config, sort_keys=False).encode()
    if len(content) > MAX_CONFIG_BYTES:
        raise ArchiveError(
            f"{folder / 'archive.yaml'}: settings: {len(content)} bytes in {CONFIG}, of which TorchServe reads at most"
            f" {MAX_CONFIG_BYTES}",
            "Put long lists into a file, name it under `files`, and let the handler read it.",
        )
    return content


def _golden(folder: Path, spec: ArchiveSpec, version: str, samples: set[str]) -> bytes:
    path = folder / spec.golden / f"{version}.json"
    make = f"Look at the answers and keep them: tsctl archive golden {spec.model}:{version}"
    if not path.is_file():
        raise ArchiveError(f"no golden answers: {path} does not exist", make)
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        golden = parse_json(content)
    except ValueError as error:
        raise ArchiveError(f"{path} is not JSON: {error}", make) from None
    names = set(golden) if isinstance(golden, dict) else set()
    if names != samples:
        odd = ", ".join(sorted(names ^ samples))
        raise ArchiveError(f"{path} and {spec.samples}/ do not match one to one: {odd}", make)
    return content


def _samples(folder: Path, spec: ArchiveSpec) -> dict[str, Path]:
    """The samples by their names."""
    path = _required(folder, spec.samples)
    if not path.is_dir() or all(is_leaving(file.name) for file in path.iterdir()):
        raise ArchiveError(f"{path} holds no sample", "Put at least one request there, such as one.json.")
    samples = files_below(path)
    for name, file in samples.items():
        if "/" in name:
            raise ArchiveError(f"{file} is no sample: samples lie in {path} itself")
        if media_type_of_file(name, spec.sample_types) is None:
            raise ArchiveError(
                f"{file} is no sample: its suffix says no media type",
                f"Name it in archive.yaml, such as `sample_types: {{{file.suffix.lower() or '.wav'}: audio/wav}}`.",
            )
    return samples


def _required(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.exists():
        raise ArchiveError(f"{folder / 'archive.yaml'} names {name}, and {path} does not exist")
    return path


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()

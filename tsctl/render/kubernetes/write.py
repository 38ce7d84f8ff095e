"""Writes manifests into a folder, as YAML that people can read and compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from tsctl.errors import SpecError
from tsctl.host.files import new_public, unwritable
from tsctl.render.kubernetes.manifests import Manifest, adapter_rules, kustomizations

#: Not a manifest: values of prometheus-adapter, which the autoscaler's own metric needs.
ADAPTER = "prometheus-adapter-values.yaml"
_MARK = "# Rendered by 'tsctl render kubernetes' from deployment.yaml; changes here are lost at the next time.\n"


class _Plain(yaml.SafeDumper):
    """Writes every value out: no value refers to another one."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def documents(made: Sequence[Manifest]) -> dict[str, str]:
    """The content of every file, by its path in the folder."""
    files: dict[str, list[Any]] = {}
    for manifest in made:
        files.setdefault(manifest.file, []).append(manifest.content)
    contents: dict[str, list[Any]] = {**files, **{name: [one] for name, one in kustomizations(made).items()}}
    if any(manifest.content["kind"] == "HorizontalPodAutoscaler" for manifest in made):
        contents[ADAPTER] = [{"rules": {"custom": adapter_rules()["rules"]}}]
    return {name: _MARK + "---\n".join(map(_text, several)) for name, several in sorted(contents.items())}


def write(files: Mapping[str, str], folder: Path) -> None:
    """Put the files into the folder, in place of those that an earlier call wrote there.

    Where one cannot be written, none has changed.

    Raises:
        SpecError: the folder holds a file that tsctl did not write, or no folder can have its path.
        OSError: this machine refuses to write them.
    """
    try:
        present = _present(folder)
        with ExitStack() as written:
            for name, content in files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                written.enter_context(new_public(path, content))  # in place once all are on the disk
    except OSError as error:
        raise unwritable(Path(error.filename or folder), error, "Name another folder.") from None
    for name in present - files.keys():
        (folder / name).unlink()


def _present(folder: Path) -> set[str]:
    """The files of an earlier call; raises SpecError at the first one that somebody else wrote."""
    names = set()
    for path in folder.rglob("*"):
        if path.is_dir():
            continue
        if not path.is_file() or not _is_marked(path):
            raise SpecError(f"{path} was not written by tsctl, and would be lost", "Name another folder.")
        names.add(path.relative_to(folder).as_posix())
    return names


def _is_marked(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MARK.encode())) == _MARK.encode()


def _text(content: Any) -> str:
    return yaml.dump(content, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120)

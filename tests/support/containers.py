"""Builds and runs what a Containerfile and a compose.yaml say, in plain folders: no container engine is needed.

Each stage of a Containerfile is a folder; bubblewrap runs its commands with these folders in place of the machine's
own, and `COPY`, `ENV`, `WORKDIR` and the like do what they say. A service then runs from the last stage as the first
process of its own process namespace, as its user, with everything read-only but its volumes. Two things differ from an
engine: the programs of the base image are this machine's, and all services share this machine's network.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.programs import program

#: Folders of an image that its commands may write; all else is this machine's, read-only.
OWN = ("base", "build", "etc", "opt", "run", "srv", "tmp")
#: Of this machine's /etc, where a network and certificates are looked for.
_ETC = ("alternatives", "ca-certificates", "group", "ld.so.cache", "localtime", "nsswitch.conf", "passwd",
        "resolv.conf", "ssl")  # fmt: skip
_SYSTEM = ("bin", "lib", "lib32", "lib64", "sbin")
_VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)\}")
#: Given to the commands that build, as an engine gives them the proxies of its user.
_PASSED = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE")
BUILD_TIMEOUT_S = 450

#: Replaces a command of RUN; None keeps it.
Replace = Callable[[list[str]], list[str] | None]


@dataclass
class Image:
    """One stage: its folders, and what its instructions said."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    labels: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    check: list[str] = field(default_factory=list)
    stop_signal: str = "SIGTERM"
    volumes: list[str] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)


def instructions(text: str) -> list[tuple[str, str]]:
    """Each instruction and its words, comments left out and continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in joined.splitlines() if line.strip()]


def build(context: Path, dockerfile: str, folder: Path, replace: Replace, secrets: Mapping[str, Path]) -> Image:
    """Build the image of `context / dockerfile` in `folder`; every command must succeed.

    Args:
        replace: of commands of RUN.
        secrets: files that RUN may mount, by their id.
    """
    stages: dict[str, Image] = {}
    arguments: dict[str, str] = {}
    image = Image(folder)
    for name, rest in instructions((context / dockerfile).read_text(encoding="utf-8")):
        if name == "ARG":
            key, _, value = rest.partition("=")
            arguments[key] = value
        elif name == "FROM":
            base, _, alias = rest.partition(" AS ")
            assert _expanded(base, arguments), "the base image has no name"
            image = stages[alias or "final"] = Image(folder / (alias or "final"))
            _make_root(image.root)
        else:
            _apply(image, stages, context, name, rest, replace, secrets)
    return image


def _apply(
    image: Image, stages: Mapping[str, Image], context: Path, name: str, rest: str, replace: Replace,
    secrets: Mapping[str, Path],
) -> None:  # fmt: skip
    options = re.findall(r"^((?:--\S+\s+)*)", rest)[0].split()
    words = rest[len("".join(f"{one} " for one in options)) :].strip()
    match name:
        case "ENV":
            for word in shlex.split(words):
                key, _, value = word.partition("=")
                image.environment[key] = _expanded(
                    value, image.environment | {"PATH": image.environment.get("PATH", _PATH)}
                )
        case "LABEL":
            image.labels |= dict(word.split("=", 1) for word in shlex.split(words))
        case "WORKDIR":
            image.folder = words
            inside(image, words).mkdir(parents=True, exist_ok=True)
        case "COPY":
            _copy(image, stages, context, options, json.loads(words))
        case "RUN":
            command = json.loads(words)
            mounts = [dict(part.split("=", 1) for part in one.removeprefix("--mount=").split(",")) for one in options]
            _run(
                image,
                replace(command) or command,
                {one["target"]: secrets[one["id"]] for one in mounts if one["id"] in secrets},
            )
        case "USER":
            image.user = words
        case "EXPOSE":
            image.ports = [int(port) for port in words.split()]
        case "VOLUME":
            image.volumes = json.loads(words)
        case "STOPSIGNAL":
            image.stop_signal = words
        case "HEALTHCHECK":
            image.check = json.loads(words.partition("CMD ")[2])
        case "ENTRYPOINT":
            image.entrypoint = json.loads(words)
        case _:
            raise AssertionError(f"{name} is not known here")


def inside(image: Image, path: str) -> Path:
    """Where a path of the image lies on this machine."""
    parts = Path(path).parts[1:]
    assert parts[0] in OWN, f"{path} is outside the folders of an image: {', '.join(OWN)}"
    return image.root.joinpath(*parts)


def _copy(
    image: Image, stages: Mapping[str, Image], context: Path, options: Sequence[str], words: Sequence[str]
) -> None:
    *sources, target = words
    given = dict(option.removeprefix("--").split("=", 1) for option in options)
    place = (
        target if target.startswith("/") else os.path.normpath(f"{image.folder}/{target}") + "/" * target.endswith("/")
    )
    into = inside(image, place)
    for source in sources:
        of_stage = stages.get(given.get("from", ""))
        origin = inside(of_stage, source) if of_stage is not None else context / source
        assert origin.exists(), f"COPY {source}: there is none"
        if origin.is_dir():
            link = of_stage is not None
            shutil.copytree(
                origin, into, symlinks=True, dirs_exist_ok=True, copy_function=os.link if link else shutil.copy2
            )
        else:
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(origin, into / origin.name if place.endswith("/") else into)
    if mode := given.get("chmod"):
        into.chmod(int(mode, 8))


def _run(image: Image, command: Sequence[str], mounts: Mapping[str, Path]) -> None:
    binds = [word for target, source in mounts.items() for word in ("--ro-bind", str(source), target)]
    network = {name: os.environ[name] for name in _PASSED if name in os.environ}
    ended = subprocess.run(
        [*_bubblewrap(image, {**network, **image.environment}, "0:0", writes=True), *binds, "--chdir", image.folder,
         "--", *command],
        capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, f"RUN {command}\n{ended.stdout}\n{ended.stderr}"


_PATH = "/base:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _bubblewrap(image: Image, environment: Mapping[str, str], user: str, writes: bool) -> list[str]:
    uid, _, gid = user.partition(":")
    command = [
        program("bwrap", "bubblewrap"),
        "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--die-with-parent",
        "--uid", uid, "--gid", gid, "--ro-bind", "/usr", "/usr",
    ]  # fmt: skip
    for name in _SYSTEM:
        place = Path("/", name)
        if place.is_symlink():
            command += ["--symlink", str(place.readlink()), str(place)]
        elif place.is_dir():
            command += ["--ro-bind", str(place), str(place)]
    for name in OWN:
        command += ["--bind" if writes else "--ro-bind", str(image.root / name), f"/{name}"]
    for path in _needed(with_pip=writes):
        command += ["--ro-bind", path, path]
    if java := shutil.which("java", path=_PATH):  # images have none of the system's
        command += ["--ro-bind", "/dev/null", str(Path(java).resolve())]
    command += ["--proc", "/proc", "--dev", "/dev", "--clearenv"]
    for name, value in {"PATH": _PATH, **environment}.items():
        command += ["--setenv", name, value]
    return command


def _needed(with_pip: bool) -> list[str]:
    """What else of this machine is seen: its Python where that is not in /usr, the tests' packages, files of pip."""
    places = [sys.base_prefix, sys.prefix]
    if with_pip:  # the files of an index in a folder lie beside its `simple`
        settings = " ".join(value.replace("/simple", "") for value in _pip_settings().values())
        places += re.findall(r"(?:^|\s|file://)(/\S+)", settings)
    found = [path for path in dict.fromkeys(places) if Path(path).exists() and not f"{path}/".startswith("/usr/")]
    return [path for path in found if not any(path.startswith(f"{other}/") for other in found)]


def _make_root(root: Path) -> None:
    for name in OWN:
        (root / name).mkdir(parents=True)
    for name in _ETC:
        source = Path("/etc", name)
        if source.is_dir():
            shutil.copytree(source, root / "etc" / name, symlinks=True, ignore=shutil.ignore_patterns("private"))
        elif source.exists():
            shutil.copy(source, root / "etc" / name)
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc" / "pip.conf").touch()
    (root / "base" / "python").symlink_to(Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}"))


def _expanded(text: str, variables: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: variables[match[1] or match[2]], text)


def _pip_settings() -> dict[str, str]:
    """pip's settings here, by key; those of the environment last, which win."""
    printed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    lines = [line.partition("=") for line in printed.splitlines()]
    rows = {key: value.strip("'").replace("\\n", " ") for key, _, value in lines}
    ordered = sorted(rows.items(), key=lambda row: row[0].startswith(":env:"))
    return {key.rpartition(".")[2]: value for key, value in ordered}


def pip_conf(path: Path) -> Path:
    """A file with pip's settings of this machine, for the secret of the build."""
    settings = configparser.RawConfigParser()
    settings["global"] = _pip_settings()
    with path.open("w", encoding="utf-8") as file:
        settings.write(file)
    return path


#: For bubblewrap to make a service's root.
STARTED_S = 20.0


@dataclass
class Service:
    """One service of compose.yaml while it runs."""

    name: str
    process: subprocess.Popen[str]
    image: Image
    environment: dict[str, str]
    check: list[str]
    folders: dict[str, Path]  # its volumes, by the path inside
    pid: int  # of its first process, as this machine sees it
    log: Path

    def execute(self, *command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as `docker compose exec` does."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        entered = [
            program("nsenter", "util-linux"),
            "--target",
            str(self.pid),
            "--user",
            "--preserve-credentials",
            "--mount",
            "--pid",
            "--ipc",
        ]
        inner = ["env", "-i", "-C", self.image.folder, *variables, *command]
        return subprocess.run([*entered, *inner], capture_output=True, text=True, timeout=timeout_s, check=False)

    @property
    def is_healthy(self) -> bool:
        """Whether the command of its health check succeeds now."""
        return self.execute(*self.check).returncode == 0

    def wait_healthy(self, timeout_s: float = 150) -> None:
        """Poll the health check until it succeeds; the service must not end meanwhile."""
        end = time.monotonic() + timeout_s
        while not self.is_healthy:
            assert self.process.poll() is None, f"{self.name} ended: {self.log.read_text()}"
            assert time.monotonic() < end, f"{self.name} is not healthy: {self.log.read_text()}"
            time.sleep(0.2)

    def stop(self, timeout_s: float = 90) -> int:
        """Send the stop signal to the first process; the exit code."""
        os.kill(self.pid, signal.Signals[self.image.stop_signal])
        return self.process.wait(timeout_s)


def _is_bubblewrap(pid: int) -> bool:
    try:
        return b"--as-pid-1" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it has ended, which whoever waits for it reports
        return False


def _wait_started(process: subprocess.Popen[str], pid: int) -> None:
    """Wait until the first process is the service's: bubblewrap says its number before the root is in place."""
    end = time.monotonic() + STARTED_S
    while process.poll() is None and _is_bubblewrap(pid):
        assert time.monotonic() < end, f"bubblewrap has not started the service within {STARTED_S:g} s"
        time.sleep(0.02)


@contextmanager
def running(
    compose: Path, name: str, image: Image, state: Path, words: Mapping[str, str] | None = None,
    command: Sequence[str] | None = None,
) -> Iterator[Service]:  # fmt: skip
    """The service `name` of a compose.yaml, from the image, while the block runs.

    Args:
        state: where its volumes lie, which services share by name.
        words: replace words of its command: ports, where two services would take one of this machine.
        command: in place of the image's entry point.
    """
    import yaml

    document: dict[str, Any] = yaml.safe_load(compose.read_text(encoding="utf-8"))
    spec = document["services"][name]
    assert spec["read_only"] and spec["cap_drop"] == ["ALL"]
    hosts = image.root / "etc" / "hosts"
    hosts.write_text("127.0.0.1 localhost " + " ".join(document["services"]) + "\n")
    environment = {**image.environment, **spec.get("environment", {})}
    binds: list[str] = []
    folders: dict[str, Path] = {}
    for volume in spec.get("volumes", ()):
        source, target, only_read = (
            (volume["source"], volume["target"], volume["read_only"])
            if isinstance(volume, dict)
            else (*volume.split(":"), False)
        )
        folder = folders[target] = state / source
        inside(image, target).mkdir(parents=True, exist_ok=True)  # an engine makes the place of a mount
        if not folder.is_dir():  # a new volume has what the image has there
            shutil.copytree(inside(image, target), folder)
            folder.chmod(0o700)
        binds += ["--ro-bind" if only_read else "--bind", str(folder), target]
    for config in spec.get("configs", ()):
        binds += ["--ro-bind", str(compose.parent / document["configs"][config["source"]]["file"]), config["target"]]
    for secret in spec.get("secrets", ()):
        place = inside(image, secret["target"])
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
        binds += ["--ro-bind", str(compose.parent / document["secrets"][secret["source"]]["file"]), secret["target"]]
    for place in spec["tmpfs"]:
        binds += ["--tmpfs", place.partition(":")[0]]
    for path in _needed(with_pip=False):  # a checkout in /tmp, for one, lies below one of these
        binds += ["--ro-bind", path, path]
    started = [(words or {}).get(word, word) for word in command or image.entrypoint]
    log = state / f"{name}.log"
    read, write = os.pipe()
    with log.open("w") as output:
        process = subprocess.Popen(
            [*_bubblewrap(image, environment, spec["user"], writes=False), *binds, "--as-pid-1", "--cap-drop", "ALL",
             "--remount-ro", "/", "--info-fd", str(write), "--chdir", image.folder, "--", *started],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, text=True, pass_fds=(write,),
        )  # fmt: skip
    os.close(write)
    try:
        with os.fdopen(read) as information:
            pid = int(json.load(information)["child-pid"])
        _wait_started(process, pid)
        yield Service(
            name, process, image, {"PATH": _PATH, **environment}, spec["healthcheck"]["test"][1:], folders, pid, log
        )
    finally:
        if process.poll() is None:
            process.kill()  # and so everything in its namespace
        process.wait()

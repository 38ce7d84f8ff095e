"""The Containerfiles of a node and of the gateway, instruction by instruction. Pure.

Every command is in the exec form: no shell is the first process, so SIGTERM reaches tsctl, and no name is split. The
build stage has pip and what it downloads; the image gets its result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tsctl.render.image.places import (
    CREDENTIALS,
    DEPLOYMENT,
    ENVIRONMENT,
    EVERYWHERE,
    METRICS_PORT,
    PACKAGES,
    PROJECT,
    STATE,
    USER_ID,
)

#: Seconds between two checks; one takes half a second of a core.
CHECK_EVERY_S, CHECK_TIMEOUT_S, CHECK_TRIES = 15, 10, 3
#: Seconds in which a failed check means that it is still starting.
START_S = 300
#: The first second that a zip file can hold: Python compiles by content and not by time where this is set.
EPOCH = "315532800"
HEADING = (
    "# Rendered by 'tsctl render image'; an edit here is lost. docs/images.md of tsctl says how it is built and run.",
)
#: As pip is told in the build stage: nothing is compiled, guessed or left behind.
_PIP = ("--disable-pip-version-check", "--no-input", "install", "--no-cache-dir", "--no-deps", "--only-binary", ":all:")


@dataclass(frozen=True)
class ImageFile:
    """What one Containerfile says."""

    title: str
    base: str  # the default of the build argument BASE
    folder: str  # of its own files in the build context
    labels: Mapping[str, str]
    ports: Sequence[int]
    check: Sequence[str]  # the command of HEALTHCHECK; it succeeds when all is ready
    wheel: str  # the file name of tsctl's own
    has_packages: bool = False  # models require packages of their own
    gpu: bool = False
    pulls: Sequence[str] = ()  # MODEL:VERSION@DIGEST that come from the store; none: they lie in the context


def containerfile(image: ImageFile) -> str:
    """The file's text."""
    lines = [*HEADING, f"ARG BASE={image.base}", "", *_build(image), "", *_final(image)]
    return "\n".join(lines) + "\n"


def _build(image: ImageFile) -> Iterator[str]:
    python, program = f"{ENVIRONMENT}/bin/python", f"{ENVIRONMENT}/bin/tsctl"
    yield "FROM ${BASE} AS build"
    variables = {"SOURCE_DATE_EPOCH": EPOCH, "TSCTL_PROJECT": PROJECT, "TSCTL_PACKAGES": PACKAGES}
    if image.pulls:
        variables |= {"AWS_SHARED_CREDENTIALS_FILE": CREDENTIALS, "GOOGLE_APPLICATION_CREDENTIALS": CREDENTIALS}
    yield _env(variables)
    yield "WORKDIR /build"
    yield _run("python", "-m", "venv", ENVIRONMENT)
    yield _exec("COPY", f"{image.folder}/requirements.txt", f"wheels/{image.wheel}", "./")
    yield "# A secret of this name may hold pip's settings: an index of your own, with its password."
    secret = "--mount=type=secret,id=pip.conf,target=/etc/pip.conf"  # noqa: S105 - a name
    yield _run(python, "-m", "pip", *_PIP, "--require-hashes", "--requirement", "requirements.txt", mount=secret)
    yield f"WORKDIR {PROJECT}"
    yield _exec("COPY", f"{image.folder}/archives/", "./archives/")
    if not image.pulls:
        yield _run("sha256sum", "--check", "--strict", "archives/store/SHA256SUMS")
    yield _exec("COPY", f"{image.folder}/deployment.yaml", "./")
    if image.pulls:
        yield "# A secret of this name may hold the credentials of the store."
        credentials = f"--mount=type=secret,id=store.credentials,target={CREDENTIALS}"
        yield _run(program, "archive", "pull", *image.pulls, mount=credentials)
        yield _run("sha256sum", "--check", "--strict", "archives/store/SHA256SUMS")
    yield "# takes the archives in, so that nothing has to be written where they are"
    yield _run(program, "archive", "list")
    if image.has_packages:
        yield "# what archive.yaml requires of each model"
        yield _run(program, "archive", "packages", mount=secret)


def _final(image: ImageFile) -> Iterator[str]:
    yield "FROM ${BASE}"
    yield "LABEL " + " \\\n      ".join(f"{_quoted(name)}={_quoted(text)}" for name, text in image.labels.items())
    users = f"tsctl:x:{USER_ID}:{USER_ID}::{PROJECT}:/usr/sbin/nologin"
    yield _run("sh", "-c", f"echo {users} >> /etc/passwd && echo tsctl:x:{USER_ID}: >> /etc/group")
    variables = {
        "PATH": f"{ENVIRONMENT}/bin:$PATH",
        "HOME": "/tmp",  # noqa: S108 - of the container
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "TSCTL_PROJECT": PROJECT,
        "TSCTL_PACKAGES": PACKAGES,
    }
    if image.gpu:
        variables |= {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
    yield _env(variables)
    yield _exec("COPY", ENVIRONMENT, ENVIRONMENT, options=["--from=build"])
    if image.has_packages:
        yield _exec("COPY", PACKAGES, PACKAGES, options=["--from=build"])
    yield _exec("COPY", f"{PROJECT}/archives", f"{PROJECT}/archives", options=["--from=build"])
    yield _exec("COPY", f"{image.folder}/deployment.yaml", DEPLOYMENT)
    owner = [f"--chown={USER_ID}:{USER_ID}", "--chmod=0700"]
    yield _exec("COPY", "state/", f"{STATE}/", options=owner)
    yield f"WORKDIR {PROJECT}"
    yield f"USER {USER_ID}:{USER_ID}"
    yield f"EXPOSE {' '.join(map(str, image.ports))}"
    yield "# The only places that are written: this one, and /tmp. Everything else may be mounted read-only."
    yield _exec("VOLUME", STATE)
    yield "STOPSIGNAL SIGTERM"
    times = f"--interval={CHECK_EVERY_S}s --timeout={CHECK_TIMEOUT_S}s --start-period={START_S}s"
    yield f"HEALTHCHECK {times} --retries={CHECK_TRIES} \\\n    {_exec('CMD', *image.check)}"
    yield _exec("ENTRYPOINT", "tsctl", "up", "--foreground", "--metrics", f"{EVERYWHERE}:{METRICS_PORT}")


def _exec(instruction: str, *words: str, options: Iterable[str] = ()) -> str:
    return " ".join([instruction, *options, json.dumps(words)])


def _run(*words: str, mount: str | None = None) -> str:
    return _exec("RUN", *words, options=[mount] if mount else [])


def _env(variables: Mapping[str, str]) -> str:
    return "ENV " + " \\\n    ".join(f"{name}={_quoted(value, keeps='$')}" for name, value in variables.items())


def _quoted(text: str, keeps: str = "") -> str:
    """In double quotes; `$` begins the name of a variable unless it is escaped."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped if keeps else escaped.replace("$", chr(92) + "$")}"'

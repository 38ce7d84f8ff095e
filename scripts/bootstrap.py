"""Makes `.venv` from requirements.lock with any Python 3.11 or newer; standard library only.

Invariant: the stamp lies in `.venv` only while everything there is what the lock and pyproject.toml say. It is taken
away before the first change and written after the last, so whatever an interruption leaves is made anew.
Nothing outside `.venv` is changed, except `.tsctl/setup.lock` and the checkout's own tsctl.egg-info.
"""

import sys

# First, and in syntax that Python 3.6 reads, so that an older Python says this and not something stranger.
if sys.version_info < (3, 11):  # noqa: UP036 - this file is what finds out
    sys.exit(
        f"error: {sys.executable} is Python {sys.version_info[0]}.{sys.version_info[1]}, and 3.11 or newer is needed\n"
        "       Install Python 3.11, or name one: make setup PYTHON=/path/to/python3.11"
    )

import fcntl
import hashlib
import importlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from _display import Display, PipProgress, normalized

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
PYPROJECT = ROOT / "pyproject.toml"
VENV = ROOT / ".venv"
STAMP = VENV / "setup.stamp"
LOG = VENV / "setup.log"
PYTHON = VENV / "bin" / "python"
TURN = ROOT / ".tsctl" / "setup.lock"
#: How long a second setup waits for the first; a slow network can make the first take this long.
TURN_WAIT_S = 1800.0
#: Settings that would send packages elsewhere than into `.venv`, or take modules from elsewhere.
REDIRECTIONS = ("PIP_PREFIX", "PIP_PYTHON", "PIP_ROOT", "PIP_TARGET", "PYTHONHOME", "PYTHONPATH")
#: Imported once at the end: proves that they load on this machine, and compiles them before a worker waits for it.
#: `pip install --no-compile` and this take half the time of compiling every file of every package.
FIRST_IMPORTS = {
    "torch": "torch",
    "torchserve": "ts.service",
    "transformers": "transformers.models.auto.modeling_auto",
    "scikit-learn": "sklearn.linear_model",
    "safetensors": "safetensors.torch",
    "typer": "typer",
    "pytest": "pytest",
}


class SetupError(Exception):
    """The environment cannot be made; the message says what to do next."""


def locked_names(lock: str) -> list[str]:
    """Names of the packages that the lock pins, normalized, in its order.

    Raises:
        SetupError: a line is not `name==version`, with or without pip's `; condition` for where it is wanted.
    """
    names = []
    for number, line in enumerate(lock.splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!]*)(; [^;]+)?", text)
        if match is None:
            raise SetupError(f"requirements.lock, line {number}: {text!r} is not name==version")
        names.append(normalized(match[1]))
    return names


def wanted_state() -> dict[str, object]:
    """What the stamp says when `.venv` fits this checkout."""
    lock, project = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (LOCK, PYPROJECT))
    return {"lock": lock, "project": project, "root": str(ROOT), "python": os.path.realpath(PYTHON)}


def stamped_state() -> dict[str, object]:
    """What the stamp says; empty where there is none that can be read."""
    try:
        state = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def is_ready() -> bool:
    """Whether `.venv` is complete and up to date; a linked one belongs to another checkout, and need only fit."""
    state, wanted = stamped_state(), wanted_state()
    keys = ("lock", "project") if VENV.is_symlink() else tuple(wanted)
    return os.access(PYTHON, os.X_OK) and all(state.get(key) == wanted[key] for key in keys)


def installed_records() -> set[str]:
    """Normalized names of the packages that lie complete in `.venv`."""
    records = set()
    for folder in VENV.glob("lib/python*/site-packages/*.dist-info"):
        if (folder / "RECORD").is_file():
            records.add(normalized(folder.name.split("-")[0]))
    return records


def run(command: list[str], note: Callable[[str], None], turn: int, progress: PipProgress | None = None) -> None:
    """Run the command with its whole output in the log.

    Raises:
        SetupError: it failed; the message has the end of its output.
    """
    environment = {name: value for name, value in os.environ.items() if name not in REDIRECTIONS}
    environment["PIP_USER"] = "0"
    with LOG.open("ab") as log:
        log.write(f"$ {' '.join(command)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(turn,),  # a pip that outlives this process still holds the turn
        )
        try:
            _follow(process, log.write, note, progress)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode:
        tail = LOG.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        raise SetupError(
            f"'{' '.join(command[-4:])}' ended with status {process.returncode}:\n"
            + "\n".join(f"    {line}" for line in tail)
            + f"\n       The whole output is in {LOG}. Mend the cause and run 'make setup' again."
        )


def _follow(
    process: "subprocess.Popen[bytes]",
    write: Callable[[bytes], object],
    note: Callable[[str], None],
    progress: PipProgress | None,
) -> None:
    """Copy the output to its end and keep the display moving, also while nothing is written."""
    pipe = process.stdout.fileno()
    rest = b""
    while True:
        if select.select([pipe], [], [], 0.1)[0]:
            chunk = os.read(pipe, 65536)
            if not chunk:
                break
            write(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            if progress:
                for line in lines:
                    progress.read(line.decode(errors="replace"))
        note(progress.text() if progress else "")
    process.wait()


def require_venv_modules() -> None:
    """Raises SetupError where this Python was packaged without what makes environments."""
    try:
        for module in ("ensurepip", "venv"):
            importlib.import_module(module)
    except ImportError as error:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise SetupError(
            f"{sys.executable} (Python {version}) cannot make a virtual environment: {error}\n"
            f"       On Debian and Ubuntu: apt-get install python{version}-venv\n"
            "       Or name another Python: make setup PYTHON=/path/to/python3.11"
        ) from None


def require_own_venv() -> None:
    """Raises SetupError where `.venv` is not this script's to change."""
    if VENV.is_symlink():
        raise SetupError(
            f"{VENV} is a link to {VENV.readlink()}, which does not fit this checkout's requirements.lock\n"
            "       Run 'make setup' where it points to, or remove the link and run this again."
        )
    if VENV.exists() and not LOG.exists() and any(VENV.iterdir()):
        raise SetupError(
            f"{VENV} was not made by this script, and is left as it is\n"
            "       Move it away or remove it, then run 'make setup' again."
        )


def clear() -> None:
    """Empty `.venv`; the folder itself stays, because it may be a mount."""
    for child in VENV.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


def set_up(display: Display, turn: int) -> None:
    """`.venv` holds what the lock says, and this checkout; raises SetupError where that cannot be done."""
    require_own_venv()
    names = locked_names(LOCK.read_text(encoding="utf-8"))
    before = stamped_state()
    STAMP.unlink(missing_ok=True)
    keeps = os.access(PYTHON, os.X_OK) and all(before.get(key) == wanted_state()[key] for key in ("root", "python"))
    if keeps:
        LOG.write_bytes(b"")
    else:
        before = {}
        make_empty_venv(display, turn)
    pip = [str(PYTHON), "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
    if before.get("lock") != wanted_state()["lock"]:
        install_packages(display, turn, pip, names, gone=sorted(set(before.get("packages", [])) - set(names)))
    with display.step("installing this checkout") as note:
        run([*pip, "install", "--no-compile", "--no-deps", "--no-build-isolation", "-e", str(ROOT)], note, turn)
    STAMP.write_text(json.dumps({**wanted_state(), "packages": names}, indent=1) + "\n", encoding="utf-8")


def make_empty_venv(display: Display, turn: int) -> None:
    """`.venv` holds nothing but Python and pip; the log lies there from the start, as the sign of whose it is."""
    require_venv_modules()
    if VENV.exists():
        with display.step("removing an incomplete .venv"):
            clear()
    VENV.mkdir(exist_ok=True)
    LOG.write_bytes(b"")
    with display.step("making .venv") as note:
        # the base: this Python may be the one of the .venv that was just emptied
        run([sys._base_executable, "-I", "-m", "venv", str(VENV)], note, turn)


def install_packages(display: Display, turn: int, pip: list[str], names: list[str], gone: list[str]) -> None:
    """The locked packages are there and load; `gone`, which the lock named before, are not."""
    if gone:
        with display.step("removing what the lock dropped") as note:
            run([*pip, "uninstall", "--yes", *gone], note, turn)
    with display.step(f"installing {len(names)} packages") as note:
        arguments = ["install", "--no-compile", "--progress-bar=off", "-r", str(LOCK)]
        run([*pip, *arguments], note, turn, PipProgress(len(names), installed_records))
    modules = [module for package, module in FIRST_IMPORTS.items() if package in names]
    with display.step("trying the imports") as note:
        run([str(PYTHON), "-I", "-c", "".join(f"import {module}\n" for module in modules)], note, turn)


@contextmanager
def turn_taken(display: Display) -> Iterator[int]:
    """One setup at a time: yields the descriptor of the lock, which the kernel frees with its last holder.

    Raises:
        SetupError: somebody else still holds it after TURN_WAIT_S seconds.
    """
    TURN.parent.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(TURN, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _try_lock(descriptor):
            with display.step("waiting for another setup") as note:
                end = time.monotonic() + TURN_WAIT_S
                while not _try_lock(descriptor):
                    holder = os.pread(descriptor, 32, 0).decode().strip()
                    if time.monotonic() > end:
                        raise SetupError(f"process {holder} has been setting up this checkout for {TURN_WAIT_S:.0f} s")
                    note(f"process {holder}")
                    time.sleep(0.1)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Exit status: 0 ready, 1 failed, 130 interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    begin = time.monotonic()
    try:
        ready_before = is_ready()
        if not ready_before:
            display = Display()
            with turn_taken(display) as turn:
                ready_before = is_ready()  # the one that was waited for may have done it
                if not ready_before:
                    set_up(display, turn)
        if not VENV.is_symlink():
            STAMP.touch()  # newer than the lock again, for make, when only a time stamp had changed
    except (SetupError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; 'make setup' starts over", file=sys.stderr)
        return 130
    print(".venv is ready, nothing to do" if ready_before else f".venv is ready, in {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

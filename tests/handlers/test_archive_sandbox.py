"""Code that an archive brings reaches nothing of the operator's, stays within bounds, and is gone afterwards."""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.handlers.test_archive_verify import CHECKOUT, failures, make, tsctl, verified
from tests.support.commands import hear_signals, run_command
from tsctl.archive import sandbox, trial
from tsctl.archive.recipe import recipe_output
from tsctl.archive.sandbox import SWITCH, Ended, run_confined, why_open
from tsctl.archive.syscalls import REFUSED
from tsctl.archive.trial import scan_pickles
from tsctl.config.archive import read_archive_spec
from tsctl.errors import ArchiveError


@pytest.fixture(params=["sandbox", "open"])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "open":
        monkeypatch.setenv(SWITCH, "off")
    else:
        require_sandbox()
    return str(request.param)


@pytest.fixture
def inside() -> None:
    require_sandbox()


def require_sandbox() -> None:
    if reason := why_open():
        pytest.skip(f"no sandbox here: {reason}")


def run(folder: Path, code: str, timeout_s: float = 60) -> Ended:
    return run_confined([sys.executable, "-I", "-c", code], folder, writes=[folder], timeout_s=timeout_s)


def said(folder: Path, code: str) -> str:
    ended = run(folder, code)
    assert ended.status == 0, ended.log
    return ended.output.decode().strip()


def running(argument: str) -> list[int]:
    """Pids of the processes with this argument."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if argument in (process.info["cmdline"] or []) and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


# ---- what it reaches ---------------------------------------------------------------------------------------------


def test_the_environment_holds_nothing_of_the_operators(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TSCTL_TEST_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert "secret" not in said(tmp_path, "import os; print(dict(os.environ))")
    assert said(tmp_path, "import os; print('PYTHONPATH' in os.environ)") == "False"


@pytest.mark.usefixtures("inside")
def test_no_other_process_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSCTL_TEST_TOKEN", "secret")
    code = (
        "import glob, os\n"
        "print([open(p, 'rb').read().count(b'TSCTL_TEST_TOKEN') for p in glob.glob('/proc/[0-9]*/environ')])\n"
        "print(sorted(p for p in os.listdir('/proc') if p.isdigit()), os.getppid())"
    )
    assert said(tmp_path, code) == "[0, 0]\n['1', '2'] 1"


@pytest.mark.usefixtures("inside")
def test_there_is_no_network(tmp_path: Path, port: int) -> None:
    code = f"import socket\nprint(socket.socket().connect_ex(('127.0.0.1', {port})))\nprint(socket.if_nameindex())"
    refused, interfaces = said(tmp_path, code).splitlines()
    assert refused != "0"
    assert interfaces == "[(1, 'lo')]"


@pytest.mark.usefixtures("inside")
def test_files_of_the_operator_are_not_there_and_others_cannot_be_changed(tmp_path: Path) -> None:
    work, state = tmp_path / "work", tmp_path / ".tsctl"
    work.mkdir()
    state.mkdir()
    (state / "key").write_text("secret")
    places = [
        state,
        CHECKOUT / "deployment.yaml",
        Path.home() / ".ssh",
        Path("/var"),
        Path("/etc/shadow"),
        Path("/run"),
    ]
    code = f"import os\nprint([p for p in {[str(place) for place in places]} if os.path.exists(p)])"
    assert said(work, code) == "[]"
    kernel = "/proc/sys/kernel"
    targets = [
        sys.executable,
        "/usr/x",
        "/x",
        "/etc/x",
        "/dev/x",
        "/sys/x",
        f"{kernel}/core_pattern",
        f"{kernel}/hostname",
    ]
    code = (
        "import os\ndone = []\n"
        f"for path in {targets}:\n"
        "    try: open(path, 'r+b' if os.path.exists(path) else 'wb'); done.append(path)\n"
        "    except OSError: pass\n"
        "print(done)\n"
        f"open('here', 'w').write('1'); open('{tmp_path}/beside', 'w').write('1')"
    )
    assert said(work, code) == "[]"
    assert not (tmp_path / "beside").exists(), "it is in the sandbox's own /tmp"
    assert (work / "here").read_text() == "1"


@pytest.mark.usefixtures("inside")
def test_it_has_no_rights_and_gets_none(tmp_path: Path) -> None:
    code = (
        "import ctypes, os\n"
        "print(next(l for l in open('/proc/self/status') if l.startswith('CapEff')).split()[1])\n"
        "libc = ctypes.CDLL(None)\n"
        "print(libc.mount(b'/', b'/tmp', None, 4096, None), libc.unshare(0x10000000), 'a user namespace')"
    )
    assert said(tmp_path, code) == "0000000000000000\n-1 -1 a user namespace"


@pytest.mark.usefixtures("inside")
@pytest.mark.skipif(platform.machine() not in REFUSED, reason="no numbers of system calls for this machine")
def test_system_calls_that_reach_out_of_it_are_refused(tmp_path: Path) -> None:
    code = (
        "import ctypes\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"calls = {REFUSED[platform.machine()]}\n"
        "import json\n"
        "print(json.dumps({n: ctypes.get_errno() for n, c in calls.items() if libc.syscall(c, 1, 1, 1, 1, 1) == -1}))"
    )
    assert json.loads(said(tmp_path, code)) == dict.fromkeys(REFUSED[platform.machine()], errno.EPERM)


@pytest.mark.usefixtures("inside")
def test_it_cannot_stop_the_process_that_would_end_it(tmp_path: Path) -> None:
    for code in (
        "import ctypes; ctypes.CDLL(None).ptrace(16, 1, 0, 0)",
        "import os; os.kill(1, 19)",
    ):  # ATTACH, SIGSTOP
        ended = run(tmp_path, code, timeout_s=30)
        assert (ended.status, ended.stopped) == (0, "")


# ---- its bounds --------------------------------------------------------------------------------------------------

BOUNDS = {
    "time": ("import time; time.sleep(600)", "stopped after 3 s"),
    "output": ("while True: print('x' * 100_000)", "stopped because it wrote more than 64 MiB of output"),
    "log": ("import sys\nwhile True: sys.stderr.write('x' * 100_000)", "wrote more than 16 MiB of output"),
    "processes": (
        "import os, time\nfor _ in range(300):\n    if not os.fork(): time.sleep(600)\ntime.sleep(600)",
        "stopped because it started more than 256 processes",
    ),
    "memory": ("x = bytearray(b'1') * (300 << 20)\nimport time; time.sleep(600)", "MiB of memory, of 100 MiB"),
    "memory of children": (
        "import os, time\nfor _ in range(3):\n    if not os.fork(): x = bytearray(b'1') * (60 << 20); time.sleep(600)\n"
        "time.sleep(600)",
        "MiB of memory, of 100 MiB",
    ),
}


@pytest.mark.parametrize(("code", "why"), BOUNDS.values(), ids=BOUNDS)
def test_a_bound_stops_it(tmp_path: Path, mode: str, code: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "memory" in why:
        monkeypatch.setattr(sandbox, "MEMORY_SHARE", (100 << 20) / psutil.virtual_memory().available)
    ended = run(tmp_path, code, timeout_s=3 if "3 s" in why else 60)
    if "memory" in why:
        assert "MiB of memory, of " in ended.stopped
    else:
        assert why in ended.stopped
    assert ended.status != 0
    assert len(ended.log) <= 1 << 16


def test_a_full_disk_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_WRITTEN_BYTES", 50 << 20)
    code = "import time\nopen('big', 'wb').write(bytes(200 << 20)); time.sleep(600)"
    ended = run(tmp_path, code)
    assert "stopped because it fills the disk" in ended.stopped
    (tmp_path / "big").unlink()


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("place", ["/tmp", "/dev/shm"])  # noqa: S108 - of the sandbox
def test_folders_in_memory_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setattr(sandbox, "FOLDER_SHARE", (10 << 20) / psutil.virtual_memory().available)
    ended = run(tmp_path, f"open('{place}/x', 'wb').write(bytes(100 << 20))")
    assert "No space left on device" in ended.log


# ---- its end -----------------------------------------------------------------------------------------------------

DAEMON = (
    "import subprocess, sys\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', '{name}'], start_new_session=True,"
    " stdin=-3, stdout={pipe}, stderr={pipe})\n"
)


@pytest.mark.parametrize("pipe", ["-3", "None"], ids=["closed", "holding the pipes"])
def test_what_it_leaves_behind_is_dead(tmp_path: Path, mode: str, pipe: str) -> None:
    name = f"left-behind-{tmp_path.name}"
    begin = time.monotonic()
    assert run(tmp_path, DAEMON.format(name=name, pipe=pipe)).status == 0
    assert time.monotonic() - begin < 60, "a daemon that holds the pipes is not waited for"
    assert running(name) == []


#: Without a sandbox nothing can end what a killed tsctl ran; docs/archive-format.md says so.
SIGNALS = [
    *(("sandbox", number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL)),
    *(("off", number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)),
]


@pytest.mark.parametrize(("mode", "number"), SIGNALS)
def test_a_signal_to_verify_ends_what_it_runs(tmp_path: Path, mode: str, number: signal.Signals) -> None:
    if mode == "sandbox":
        require_sandbox()
    name = f"survivor-{mode}-{number.name}-{tmp_path.name}"
    child = f"[sys.executable, '-c', 'import time; time.sleep(600)', '{name}']"
    load = f"import subprocess, sys, time; subprocess.Popen({child}); time.sleep(600)"
    project = make(tmp_path / "p", load=load)
    assert tsctl(project, "build").status == 0
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "tsctl.cli.main", "archive", "verify", "toy"],
        cwd=project.root,
        env={**os.environ, "TMPDIR": str(temporary), SWITCH: mode},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=hear_signals,
    ) as process:
        wait_for(lambda: bool(running(name)), "the archive's process")
        process.send_signal(number)
        process.wait(30)
    wait_for(lambda: not running(name), "its end")
    if number is not signal.SIGKILL:
        assert process.returncode == 130
        assert list(temporary.iterdir()) == []


def wait_for(is_true: object, what: str) -> None:
    end = time.monotonic() + 60
    while not is_true():  # type: ignore[operator]
        assert time.monotonic() < end, f"{what} was waited for"
        time.sleep(0.1)


# ---- verify, golden, recipe --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("inside")
def test_verify_golden_and_recipe_run_inside(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSCTL_TEST_TOKEN", "secret")
    secret = tmp_path / ".tsctl"
    secret.mkdir()
    spy = (
        f"import os, socket; assert not os.path.exists({str(secret)!r}), 'state';"
        " assert 'TSCTL_TEST_TOKEN' not in os.environ, 'environment';"
        f" assert socket.socket().connect_ex(('127.0.0.1', {port})), 'network'"
    )
    project = make(tmp_path, load=spy)
    folder = project.archives / "toy"
    (folder / "recipe.py").write_text(
        f"import sys, pathlib\n{spy}\nout = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])\n"
        "(out / 'w.txt').write_text('w')\n"
        "try: pathlib.Path('x').write_text('x')\nexcept OSError as error: print(error)\n"
        "sys.stdout.buffer.write(b'\\xff\\x1b[2J no end')\n"
    )
    with (folder / "archive.yaml").open("a") as spec:
        spec.write("recipe: recipe.py\n")
    assert failures(verified(project)) == {}
    built = tsctl(project, "build")
    assert built.status == 0
    golden = tsctl(project, "golden")
    assert golden.status == 0, golden.err
    assert not (folder / "x").exists()


def test_without_a_sandbox_a_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")
    project = make(tmp_path)
    folder = project.archives / "toy"
    (folder / "recipe.py").write_text("print('made')\n")
    with (folder / "archive.yaml").open("a") as spec:
        spec.write("recipe: recipe.py\n")
    built = tsctl(project, "build")
    assert "recipe.py ran with your rights and not in a sandbox: TSCTL_SANDBOX is off" in built.err
    assert "in a sandbox: TSCTL_SANDBOX is off" in tsctl(project, "golden").err
    [report] = json.loads(tsctl(project, "verify", "--json").out)
    [check] = [check for check in report["checks"] if check["check"] == "sandbox"]
    assert (check["outcome"], check["detail"]) == ("warn", "none: TSCTL_SANDBOX is off")
    assert report["is_good"]


def test_why_there_is_no_sandbox_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sandbox._why_missing.cache_clear()
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert why_open() == "bubblewrap cannot make it: bwrap: No permissions to create new namespace"
    sandbox._why_missing.cache_clear()
    monkeypatch.setenv("PATH", "/nowhere")
    assert why_open() == "bubblewrap is not installed"
    sandbox._why_missing.cache_clear()


def test_a_scan_that_crashes_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pkl").write_bytes(b"N.")
    assert scan_pickles(tmp_path) == []
    monkeypatch.setattr(trial, "handlers_package", lambda: tmp_path / "nowhere" / "handlers")
    [unsafe] = scan_pickles(tmp_path)
    assert unsafe.finding.startswith("cannot be scanned: ModuleNotFoundError: No module named")
    assert unsafe.is_dangerous


# ---- what it leaves in folders -----------------------------------------------------------------------------------

WRITTEN = {
    "a link to a file of the operator's": ("os.symlink({secret!r}, out / 'w')", "is a link that leads out of"),
    "a link in place of tsctl's own file": ("os.symlink({secret!r}, out / '.inputs')", "is a link that leads out of"),
    "a link to a folder": ("os.symlink('/', out / 'w')", "is a link that leads out of"),
    "a link to nothing yet": ("os.symlink('../../../new', out / 'w')", "is a link that leads out of"),
    "a pipe": ("os.mkfifo(out / 'w')", "is neither a file nor a folder"),
    "deep folders": (
        "os.chdir(out)\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')",
        "has folders that are nested more than 30 deep",
    ),
}


@pytest.mark.parametrize(("code", "why"), WRITTEN.values(), ids=WRITTEN)
def test_a_recipe_cannot_lead_tsctl_out_of_its_folder(tmp_path: Path, mode: str, code: str, why: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    project = make(tmp_path / "p")
    folder = project.archives / "toy"
    (folder / "recipe.py").write_text(
        "import os, pathlib, sys\nout = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])\n"
        + code.format(secret=str(secret))
    )
    with (folder / "archive.yaml").open("a") as spec:
        spec.write("recipe: recipe.py\n")
    with pytest.raises(ArchiveError, match=why):
        recipe_output(folder, read_archive_spec(folder / "archive.yaml"), "1.0", lambda _: None)
    assert secret.read_text() == "key"
    assert list((folder / ".built").glob(".1.0.*")) == [], "it is removed, however deep"
    assert not (tmp_path / "p" / "new").exists()


def test_what_verify_runs_cannot_keep_its_folder_from_being_removed(tmp_path: Path, mode: str) -> None:
    deep = "import os; os.chdir(self.model_dir); [(os.mkdir('d'), os.chdir('d')) for _ in range(3000)]"
    project = make(tmp_path / "p", load=deep)
    assert tsctl(project, "build").status == 0
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = run_command(["archive", "verify", "toy"], project.root, {**os.environ, "TMPDIR": str(temporary)}, 120)
    assert "Traceback" not in done.err
    assert list(temporary.iterdir()) == []


@pytest.mark.usefixtures("inside")
def test_the_projects_state_is_hidden_within_what_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / ".tsctl").mkdir()
    (tmp_path / ".tsctl" / "key").write_text("secret")
    monkeypatch.setenv("TSCTL_PROJECT", str(tmp_path))
    assert said(tmp_path, f"import os; print(os.listdir({str(tmp_path / '.tsctl')!r}))") == "[]"


def test_many_files_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_WRITTEN_FILES", 1000)
    ended = run(tmp_path, "import itertools\nfor number in itertools.count(): open(str(number), 'w').close()")
    assert ended.stopped == "stopped because it made more than 1000 files"

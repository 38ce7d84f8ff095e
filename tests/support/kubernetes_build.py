"""Finds a kube-apiserver, or builds one from Debian's source of Kubernetes, once for a checkout.

Debian 12 has the source of 1.20.2 in `kubernetes`, with everything that it needs, and packages kubectl alone. The build
takes Go's cache of a gigabyte, which is removed afterwards.

The source is of 2021, and two of its libraries fail under Go 1.18 and later. `reflect2`, by which it writes JSON, ends
the server: Debian's package of a later one takes its place. The validation of CRDs compares a value's insides to find
out whether it is null, and then takes each empty text for null: that comparison is removed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.support.sites import CHECKOUT

#: A kube-apiserver of another version can be named here.
VARIABLE = "KUBE_APISERVER"
BUILT = CHECKOUT / ".tsctl" / "kubernetes" / "kube-apiserver"
LIMIT_S = 3600.0
_NEEDED = {"go": "golang-go", "dpkg-source": "dpkg-dev", "apt-get": "apt", "openssl": "openssl"}
_ROOT = "k8s.io/kubernetes"
_REFLECT = Path("github.com/modern-go/reflect2")
#: Where golang-github-modern-go-reflect2-dev has it.
_NEW_REFLECT = Path("/usr/share/gocode/src") / _REFLECT
_COMPARISON = " || reflect.DeepEqual(reflect.Zero(reflect.TypeOf(data)), reflect.ValueOf(data))"
#: Folders whose types the server describes; the file with their descriptions is made by its build and is in no source.
_NOT_DESCRIBED = ("sample", "examples", "code-generator", "/testing", "testdata")


def kube_apiserver() -> Path:
    """The server's program; the first call builds it, in some 11 minutes on two busy cores.

    Raises:
        RuntimeError: the build failed.
    """
    named = os.environ.get(VARIABLE) or shutil.which("kube-apiserver")
    if named:
        return Path(named)
    if not BUILT.is_file():
        began = time.monotonic()
        _build()
        print(f"kube-apiserver was built in {time.monotonic() - began:.0f} s")  # noqa: T201 - said once, by make
    return BUILT


def _build() -> None:
    missing = [package for name, package in _NEEDED.items() if shutil.which(name) is None]
    missing += [] if _NEW_REFLECT.is_dir() else ["golang-github-modern-go-reflect2-dev"]
    if missing:
        pytest.fail(f"to build kube-apiserver, {', '.join(missing)} must be installed (apt-get install)")
    BUILT.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tsctl-kubernetes-", ignore_cleanup_errors=True) as folder:
        path = Path(folder)
        source = path / "go" / "src" / _ROOT
        source.parent.mkdir(parents=True)
        _source(path).rename(source)
        shutil.rmtree(source / "vendor" / _REFLECT)
        validation = source / "vendor/k8s.io/kube-openapi/pkg/validation/validate/type.go"
        text = validation.read_text("utf-8")
        if _COMPARISON not in text:
            raise RuntimeError(f"{validation.name} of the source is another one than that of 1.20")
        validation.write_text(text.replace(_COMPARISON, ""), "utf-8")
        left_out = shutil.ignore_patterns("*_test.go")
        shutil.copytree(_NEW_REFLECT, source / "vendor" / _REFLECT, ignore=left_out)
        environment = {
            **os.environ, "GOPATH": str(path / "go"), "GOCACHE": str(path / "cache"), "GO111MODULE": "off",
            "GOFLAGS": "", "GOPROXY": "off", "CGO_ENABLED": "0", "GOTMPDIR": folder,
        }  # fmt: skip
        _describe(source, environment)
        made = path / "kube-apiserver"
        arguments = ["build", "-p", "1", "-ldflags", "-s -w", "-o", str(made), f"{_ROOT}/cmd/kube-apiserver"]
        _go(arguments, source, environment)
        shutil.copy2(made, BUILT.with_suffix(".new"))
        BUILT.with_suffix(".new").rename(BUILT)


def _source(folder: Path) -> Path:
    """Debian's source of Kubernetes, from the places that this machine's apt has, with lists of its own."""
    targets = ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Origin: Debian"]
    lines = subprocess.run(targets, capture_output=True, text=True, check=True).stdout.splitlines()
    sources = [f"deb-src {line}" for line in dict.fromkeys(lines) if line.endswith(" main")]
    (folder / "sources.list").write_text("\n".join(sources) + "\n")
    (folder / "lists" / "partial").mkdir(parents=True)
    options = ["-o", f"Dir::Etc::SourceList={folder / 'sources.list'}", "-o", "Dir::Etc::SourceParts=/dev/null",
               "-o", f"Dir::State::Lists={folder / 'lists'}"]  # fmt: skip
    for action in (["update"], ["source", "kubernetes"]):
        ended = subprocess.run(["apt-get", *options, *action], cwd=folder, capture_output=True, text=True, timeout=600)
        if ended.returncode:
            raise RuntimeError(f"apt-get {' '.join(action)}: {ended.stderr[-2000:]}")
    [source] = [path for path in folder.glob("kubernetes-*") if path.is_dir()]
    return source


def _describe(source: Path, environment: dict[str, str]) -> None:
    """Make the file that describes the server's types."""
    maker = source / "openapi-gen"
    _go(
        ["build", "-p", "1", "-o", str(maker), f"{_ROOT}/vendor/k8s.io/kube-openapi/cmd/openapi-gen"],
        source,
        environment,
    )
    folders = {
        path.parent.relative_to(source).as_posix()
        for place in ("staging/src/k8s.io", "pkg", "cmd")
        for path in (source / place).rglob("*.go")
        if not path.name.startswith("zz_generated") and b"+k8s:openapi-gen=" in path.read_bytes()
    }
    packages = sorted(
        f"{_ROOT}/{folder.replace('staging/src/', 'vendor/', 1)}"
        for folder in folders
        if not any(one in folder for one in _NOT_DESCRIBED)
    )
    command = [
        str(maker), "-i", ",".join(packages), "-p", f"{_ROOT}/pkg/generated/openapi", "-O", "zz_generated.openapi",
        "-h", "hack/boilerplate/boilerplate.generatego.txt", "-r", "/dev/null", "-o", f"{environment['GOPATH']}/src",
    ]  # fmt: skip
    _run(command, source, environment)


def _go(arguments: list[str], source: Path, environment: dict[str, str]) -> None:
    _run(["nice", "-n", "10", "go", *arguments], source, environment)


def _run(command: list[str], source: Path, environment: dict[str, str]) -> None:
    # Go takes the folder's name from PWD where GOPATH is in use
    inside = {**environment, "PWD": str(source)}
    ended = subprocess.run(command, cwd=source, env=inside, capture_output=True, text=True, timeout=LIMIT_S)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)[:200]}: {ended.stderr[-2000:]}")

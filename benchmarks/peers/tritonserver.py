"""How the stock tritonserver of the engine's environment is started on a model repository."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tritonserver:
    """A tritonserver with Triton's python backend.

    Args:
        python: of the engine's environment.
        folder: where the backend is copied, with the part of it that fits this Python.
    """

    python: Path
    folder: Path

    def prepare(self) -> None:
        """Copy the backend."""
        server, backends = self._server, self._backends
        shutil.rmtree(backends, ignore_errors=True)
        shutil.copytree(server / "backends" / "python", backends / "python")
        stub = server / "python_backend_stubs" / ".".join(map(str, sys.version_info[:2])) / "triton_python_backend_stub"
        shutil.copy(stub, backends / "python")

    def command(self, repository: Path, ports: Sequence[int]) -> list[str]:
        """The command line.

        Args:
            ports: for HTTP, and for gRPC; without the second, gRPC is off.
        """
        over_grpc = ["--grpc-address=127.0.0.1", f"--grpc-port={ports[1]}"] if ports[1:] else ["--allow-grpc=false"]
        return [
            str(self._server / "bin" / "tritonserver"), f"--model-repository={repository}",
            f"--backend-directory={self._backends}", "--http-address=127.0.0.1", f"--http-port={ports[0]}", *over_grpc,
            "--allow-metrics=false", "--exit-timeout-secs=2",
            f"--backend-config=python,shm-region-prefix-name=peer-{ports[0]}-",
        ]  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the process, by which it finds its libraries, and its backend this Python."""
        libraries = [str(self._packages / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
        return {
            "PATH": os.pathsep.join([str(self.python.parent), os.environ.get("PATH", os.defpath)]),
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        }

    @property
    def _packages(self) -> Path:
        return self.python.parents[1] / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)

    @property
    def _server(self) -> Path:
        return self._packages / "pytriton" / "tritonserver"

    @property
    def _backends(self) -> Path:
        return self.folder / "backends"

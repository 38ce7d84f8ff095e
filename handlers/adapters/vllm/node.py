"""A node of vLLM: `python -m handlers.adapters.vllm.node`, with the arguments of `handlers.adapters.asgi.node`.

It has that node's admin API, list and restarts. The requests of a version do not pass through it: each has a server of
vLLM on a port of its own.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from handlers.adapters.asgi.node import __main__ as plain
from handlers.adapters.asgi.node.registry import Opened, Unpacked
from handlers.adapters.vllm.keeper import Keeper, Version
from handlers.errors import LoadError


@dataclass
class Ports:
    """The ports of a node's versions.

    Args:
        first: the first one; so is the last.
    """

    host: str
    first: int
    last: int
    _taken: dict[tuple[str, str], int] = field(default_factory=dict)

    def of(self, key: tuple[str, str]) -> int:
        """The port of a version, the same as before where it had one.

        Raises:
            LoadError: every port belongs to a version, or somebody else listens on it.
        """
        if key not in self._taken:
            free = (port for port in range(self.first, self.last + 1) if port not in self._taken.values())
            port = next((port for port in free if _is_free(self.host, port)), None)
            if port is None:
                raise LoadError(f"no port from {self.first} to {self.last} is free; give the node more of them")
            self._taken[key] = port
        return self._taken[key]

    def give_back(self, key: tuple[str, str]) -> None:
        """The version needs its port no more."""
        self._taken.pop(key, None)


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: old connections are no obstacle
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def has_gpu(devices: Path = Path("/dev")) -> bool:
    """Whether the machine has a GPU of NVIDIA."""
    return (devices / "nvidiactl").exists()


def opener(arguments: argparse.Namespace, tokens: Mapping[str, str]) -> Callable[[Unpacked], Opened]:
    """What starts a version's server."""
    ports = Ports(arguments.host, *arguments.ports)

    def open_version(unpacked: Unpacked) -> Opened:
        section = unpacked.content["serving"]
        if section.get("generation") is None:
            raise LoadError(f"{unpacked.options.model} is no language model, and vLLM serves no others")
        options = unpacked.options
        key = options.model, options.version
        port = ports.of(key)
        version = Version(
            replace(options, workers=min(1, options.workers)), unpacked.content,
            options.folder / unpacked.manifest["serializedFile"], arguments.folder, arguments.python, arguments.host,
            port, arguments.gpu_share, has_gpu(), None if arguments.open else tokens["inference"],
        )  # fmt: skip
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        return Opened(Keeper(version, unpacked.refused, lambda: ports.give_back(key)), address=f"http://{host}:{port}")

    return open_version


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that this node has besides."""
    parser.add_argument("--python", type=Path, required=True, help="of vLLM's environment")
    parser.add_argument("--ports", type=int, nargs=2, required=True, metavar=("FIRST", "LAST"), help="of versions")
    parser.add_argument("--gpu-share", type=float, default=0.9, help="of a GPU's memory, for each version")


def main() -> int:
    """Serve until a signal comes; the exit status."""
    return plain.main("python -m handlers.adapters.vllm.node", opener=opener, add_arguments=add_arguments)


if __name__ == "__main__":
    sys.exit(main())

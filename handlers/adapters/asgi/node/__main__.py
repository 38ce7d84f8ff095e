"""Runs a node: `python -m handlers.adapters.asgi.node --folder DIR --store DIR [--host H] [--port P]`.

The folder has the file of tokens, and gets the list of what the node serves, the archives unpacked, metrics and logs.
Ends with 0 after SIGTERM or SIGINT, when the requests at hand are answered; with 3 where its files are damaged, and
with 4 where the address cannot be had.
"""

from __future__ import annotations

import argparse
import json
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path

from handlers.adapters.asgi import http_server
from handlers.adapters.asgi.listener import listen
from handlers.adapters.asgi.node.app import Node
from handlers.adapters.asgi.node.fetched import fetch_by
from handlers.adapters.asgi.node.registry import Opened, Registry, Unpacked, open_workers

DAMAGED, NO_ADDRESS = 3, 4
LOG_BYTES, LOG_FILES = 10 << 20, 5


Serve = Callable[[Node, argparse.Namespace, socket.socket], Awaitable[None]]
#: By the arguments and the node's tokens.
Opener = Callable[[argparse.Namespace, Mapping[str, str]], Callable[[Unpacked], Opened]]


def main(
    program: str = "python -m handlers.adapters.asgi.node",
    serve: Serve | None = None,
    opener: Opener | None = None,
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> int:
    """Serve until a signal comes; the exit status.

    Args:
        serve: serves a node on a listener until a signal comes; None: under uvicorn.
        opener: gives what makes the workers of a version, by the arguments; None: our own workers.
        add_arguments: adds arguments of its own to the command line.
    """
    parser = argparse.ArgumentParser(prog=program)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--folder", type=Path, required=True, help="of the node")
    parser.add_argument("--store", type=Path, required=True, help="with the archives")
    parser.add_argument("--open", action="store_true", help="requests for answers need no token")
    parser.add_argument("--fetch", type=Path, help="a file that says how to pull an archive that is not in the store")
    add_arguments(parser)
    arguments = parser.parse_args()
    _log_into(arguments.folder / "logs" / "node.log")
    try:
        tokens = json.loads((arguments.folder / "key_file.json").read_text(encoding="utf-8"))
        admin_token, token = str(tokens["admin"]), str(tokens["inference"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"error: no key_file.json with tokens: {type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return DAMAGED
    try:
        listener = listen(arguments.host, arguments.port)
    except OSError as error:
        print(f"error: cannot listen on {arguments.host}:{arguments.port}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return NO_ADDRESS
    with listener:
        try:
            token_wanted = None if arguments.open else token
            make = opener(arguments, tokens) if opener is not None else open_workers
            fetch = fetch_by(arguments.fetch) if arguments.fetch is not None else None
            registry = Registry(arguments.folder, arguments.store, make, fetch)
            http_server.run(_run(registry, arguments, admin_token, token_wanted, listener, serve or _serve))
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a program of its own
            return DAMAGED
    return 0


async def _run(
    registry: Registry,
    arguments: argparse.Namespace,
    admin_token: str,
    token: str | None,
    listener: socket.socket,
    serve: Serve,
) -> None:
    await registry.restore()
    try:
        await serve(Node(registry, admin_token, token), arguments, listener)
    finally:
        await registry.stop()


async def _serve(node: Node, arguments: argparse.Namespace, listener: socket.socket) -> None:
    await http_server.serve(http_server.http_server(node), listener)


def _log_into(path: Path) -> None:
    """Log into a file that rotates; what cannot be written, on a disk that is full, is lost."""
    logging.raiseExceptions = False
    handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
    logging.basicConfig(handlers=[handler], level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())

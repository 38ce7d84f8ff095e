"""A node with many versions as a service of BentoML: its application around that of `handlers.adapters.asgi.node`.

It is BentoML's application without BentoML's supervisor, which would start this process a second time and open ports of
its own: a node's process is found, ended and started by tsctl.
"""

from __future__ import annotations

import argparse
import socket
from typing import Any

import bentoml
import uvicorn

from handlers.adapters.asgi.node import __main__ as plain
from handlers.adapters.asgi.node.app import Node
from handlers.adapters.asgi.options import DRAIN_S


def main() -> int:
    """Serve until a signal comes, with the arguments of `handlers.adapters.asgi.node`; the exit status."""
    return plain.main("handlers.adapters.bentoml.node", serve)


async def serve(node: Node, arguments: argparse.Namespace, listener: socket.socket) -> None:
    """Serve the node on the listener."""
    config = uvicorn.Config(
        build_application(node), log_config=None, access_log=False,
        timeout_graceful_shutdown=DRAIN_S, server_header=False, date_header=False,
    )  # fmt: skip
    await uvicorn.Server(config).serve([listener])


def build_application(node: Node) -> Any:
    """BentoML's application with the node mounted in it.

    BentoML's own page of metrics is off: it needs no token, and the node has one at the same path. Its deadline is off,
    because each version has its own, and because it keeps a timer of every request until the deadline has passed.
    """

    @bentoml.service(name="tsctl-node", workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
    class Service:
        """The versions of a node."""

    service: Any = Service  # of BentoML's class, which the decorator makes
    service.mount_asgi_app(node, path="/")
    application = service.to_asgi()
    application.user_middleware = [
        middleware for middleware in application.user_middleware if middleware.cls.__name__ != "TimeoutMiddleware"
    ]
    return application

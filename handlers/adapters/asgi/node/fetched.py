"""Gets an archive that is not in the node's store, by a command that whoever started the node has written into a file.

The command is a process of its own: it may have credentials, which workers must not inherit, and the node goes on
serving while it runs.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from handlers.adapters.asgi.node.served import Entry
from handlers.errors import LoadError

#: Seconds that the command may take.
FETCH_S = 3600.0
_DIGITS = 12
_SHOWN = 500

Fetch = Callable[[Entry], Awaitable[None]]


def fetch_by(path: Path) -> Fetch:
    """Runs the command of the file with `MODEL:VERSION@DIGEST` behind it; see `tsctl/nodes/fetching.py`."""

    async def fetch(entry: Entry) -> None:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            command, environment = [*map(str, content["command"])], dict(content["environment"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LoadError(
                f"{entry.archive} is not in the node's store, and {path} cannot be read: {error}"
            ) from error
        await _run([*command, f"{_source(entry)}@{entry.digest}"], environment, entry.archive)

    return fetch


def _source(entry: Entry) -> str:
    """Model and version of the archive, which may be served as another version."""
    begin, end = f"{entry.model}-", f"-{entry.digest[:_DIGITS]}.mar"
    if not (entry.archive.startswith(begin) and entry.archive.endswith(end)):
        raise LoadError(f"{entry.archive} is not in the node's store, and its name does not say what it holds")
    return f"{entry.model}:{entry.archive[len(begin) : -len(end)]}"


async def _run(command: list[str], environment: dict[str, str], archive: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(FETCH_S):
            _, said = await process.communicate()
    except TimeoutError:
        raise LoadError(f"{archive} is not in the node's store, and was not pulled within {FETCH_S:g} s") from None
    finally:
        if process.returncode is None:  # the version was unregistered meanwhile, or the node ends
            process.kill()
            await process.wait()
    if process.returncode:
        text = said.decode("utf-8", "replace").strip()
        reason = text.rpartition("error: ")[2] or f"its command ended with {process.returncode}"
        raise LoadError(f"{archive} is not in the node's store, and is not pulled: {' '.join(reason.split())[:_SHOWN]}")

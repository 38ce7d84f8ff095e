"""A program that runs the plans of `client` without a server, in the folder of an unpacked archive.

`python -m benchmarks.text.in_process CHANGES`: CHANGES are JSON that replaces members of the archive's `generation`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.text.loop import Loop, serve_plans
from handlers.adapters.asgi.child import config_here
from handlers.errors import LoadError
from handlers.text.backend import Backend
from handlers.text.options import GenerationOptions
from handlers.text_generation import TextGenerationHandler
from handlers.worker.make import make_worker


def opened_backend(changes: Mapping[str, Any]) -> Backend:
    """The backend of the archive in the current folder.

    Raises:
        LoadError: it does not load, or is none of text.
    """
    config = config_here(0, "in-process")
    config = replace(config, generation=replace(config.generation or GenerationOptions(), **changes))
    handler = make_worker(config).handler
    if not isinstance(handler, TextGenerationHandler):
        raise LoadError("the archive in this folder does not generate text")
    handler.load()
    return handler.backend


if __name__ == "__main__":
    serve_plans(lambda: Loop(opened_backend(json.loads(sys.argv[1]))))

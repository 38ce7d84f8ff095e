"""Runs vLLM's own OpenAI server, in vLLM's environment: `python run_server.py` with that server's arguments.

The package `handlers`, with the middleware, is the one around this file; nothing else beside it is on the path. The
process ends with the one that started it.
"""

import ctypes
import os
import signal
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def load_package() -> None:
    """Import the package around this file as `handlers`."""
    file = Path(__file__).resolve().parents[2] / "__init__.py"
    spec = spec_from_file_location("handlers", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"no package in {file}")
    sys.modules["handlers"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules["handlers"])


def end_with_parent() -> None:
    """Let the kernel end this process when its parent has ended, also where that happened already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        sys.exit(1)


if __name__ == "__main__":
    end_with_parent()
    load_package()
    from vllm.entrypoints.launchers.api_server.entry import main

    main()

"""Takes a model from a file of weights to a safe release on TorchServe nodes.

`handlers.contract` comes from the package that was installed beside this one. A package `handlers` on PYTHONPATH or in
the current folder, such as a team's own, does not take its place.
"""

import sys
from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"

_BESIDE = str(Path(__file__).resolve().parents[1])

if "handlers" not in sys.modules:
    sys.path.insert(0, _BESIDE)
    try:
        import_module("handlers")  # its modules are found by its own path from now on
    finally:
        sys.path.remove(_BESIDE)

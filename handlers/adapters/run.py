"""Runs `main` of a module of the package around this file: `python run.py handlers.adapters.vllm.node [ARGUMENT]...`.

The environment may have no package `handlers`, or another one of that name: nothing beside this package is on the path.
"""

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def load_package() -> None:
    """Import the package around this file as `handlers`."""
    file = Path(__file__).resolve().parents[1] / "__init__.py"
    spec = spec_from_file_location("handlers", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"no package in {file}")
    sys.modules["handlers"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules["handlers"])


if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder of this file, in which a package is called bentoml
    load_package()
    sys.exit(import_module(sys.argv.pop(1)).main())

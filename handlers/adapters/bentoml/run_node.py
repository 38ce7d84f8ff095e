"""Runs `handlers.adapters.bentoml.node` as a file, in an environment that has no package `handlers`.

The package is the one around this file. Nothing else that lies beside it is on the path.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def load_package() -> None:
    """Import the package around this file as `handlers`."""
    file = Path(__file__).resolve().parents[2] / "__init__.py"
    spec = spec_from_file_location("handlers", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"no package in {file}")
    sys.modules["handlers"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules["handlers"])


if __name__ == "__main__":
    load_package()
    from handlers.adapters.bentoml.node import main

    sys.exit(main())

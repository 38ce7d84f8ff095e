"""Takes a model from a file of weights to a safe release on TorchServe nodes.

Every process of tsctl imports parts of the package `handlers`, which is the core of every archive. Installed, that
package lies inside this one, so that an installation adds no top-level name `handlers`; in a checkout it lies beside
this one. A team's own package `handlers` stays importable in the same process: both folders are in its `__path__`
(docs/decisions/0058-two-packages-called-handlers.md).
"""

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import extend_path

__version__ = "0.1.0"

_HERE = Path(__file__).resolve().parent
_BUNDLED = _HERE / "bundled" / "handlers"
#: The folder of the package `handlers` that belongs to this tsctl.
CORE = _BUNDLED if _BUNDLED.is_dir() else _HERE.with_name("handlers")


def _import_core() -> None:
    """Make the modules in CORE importable as `handlers`, and keep those of another package of that name."""
    theirs = sys.modules.get("handlers")
    if theirs is None:
        if not (CORE / "__init__.py").is_file():
            raise ModuleNotFoundError(f"No module named 'handlers': tsctl is installed without {CORE}")
        spec = spec_from_file_location("handlers", CORE / "__init__.py", submodule_search_locations=[str(CORE)])
        if spec is None or spec.loader is None:
            raise ImportError(f"tsctl is installed without its package 'handlers': {CORE} is missing")
        ours = sys.modules["handlers"] = module_from_spec(spec)
        spec.loader.exec_module(ours)
        ours.__path__ = extend_path([str(CORE)], "handlers")
    elif CORE not in [Path(folder).resolve() for folder in theirs.__path__]:
        theirs.__path__ = [*theirs.__path__, str(CORE)]
        for name in ("contract", "forks", "record_files"):
            module = find_spec(f"handlers.{name}")
            if module is None or not Path(module.origin or "").resolve().is_relative_to(CORE):
                raise ImportError(
                    f"the module 'handlers.{name}' of {theirs.__path__[0]} hides tsctl's own of that name:"
                    " rename it, or import tsctl first"
                )


_import_core()

"""Reads pickled models: the one place where a worker unpickles more than tensors.

Reading a pickle runs what it names. Invariant: nobody calls this for a file that tsctl has not verified; `trust` of
archive.yaml and deployment.yaml says which pickles may be served, and the verifier refuses all others.
"""

from __future__ import annotations

import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from handlers.errors import LoadError
from handlers.packages import needed

SUFFIXES = (".joblib", ".pickle", ".pkl")


def load_pickle(path: Path) -> Any:
    """The object in a file of joblib, pickle or cloudpickle, whose suffix is one of SUFFIXES.

    joblib reads all three, and many of its files are called .pkl; plain pickles need no joblib.

    Raises:
        LoadError: the file is missing or cannot be read, or a package that it needs is missing or too old or new.
    """
    if not path.is_file():
        raise LoadError(f"the archive has no weights file {path.name}")
    try:
        if path.suffix == ".joblib" or find_spec("joblib") is not None:
            with needed("joblib", "joblib", path.name):
                import joblib
            return joblib.load(path)
        with path.open("rb") as file:
            return pickle.load(file)  # noqa: S301 - verified, see above
    except LoadError:
        raise
    except ModuleNotFoundError as error:
        raise LoadError(f"{path.name} needs the module {error.name}, which is not installed here") from error
    except Exception as error:
        raise LoadError(f"{path.name} cannot be unpickled here: {type(error).__name__}: {error}") from error

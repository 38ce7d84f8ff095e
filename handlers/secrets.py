"""Gives a model its secrets: deployment.yaml names them, and tsctl writes each into a file that its worker reads.

Nothing here logs a value, and an error names the secret alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from handlers.contract import MOST_SECRET_BYTES, SECRETS_VARIABLE
from handlers.errors import LoadError

#: The model of this process, and the names that its archive.yaml lists.
_model = ""
_names: frozenset[str] = frozenset()


def open_secrets(model: str, names: Sequence[str]) -> None:
    """Let this process read the secrets of its model."""
    global _model, _names
    _model, _names = model, frozenset(names)


def secret(name: str) -> str:
    """The present value of a secret that `secrets` of archive.yaml lists; read anew at each call.

    Raises:
        LoadError: archive.yaml does not list it, or deployment.yaml does not give it.
    """
    if name not in _names:
        raise LoadError(f"archive.yaml does not list the secret {name}: add it to `secrets`")
    folder = os.environ.get(SECRETS_VARIABLE)
    if folder:
        try:
            with Path(folder, _model, name).open("rb") as file:
                return file.read(MOST_SECRET_BYTES).decode()
        except FileNotFoundError:
            pass
        except (OSError, UnicodeDecodeError) as error:
            raise LoadError(f"the secret {name} cannot be read: {type(error).__name__}") from None
    raise LoadError(f"there is no secret {name}: name its source under models: {_model}: secrets: in deployment.yaml")

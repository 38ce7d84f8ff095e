"""Lets a worker import the Python packages of its own model, which tsctl installed before it registered the version.

They lie in a folder of their own, behind those of the node on the path: they add packages and replace none.
"""

from __future__ import annotations

import importlib
import os
import site
from collections.abc import Sequence
from pathlib import Path

from handlers.contract import PACKAGES_VARIABLE, packages_key
from handlers.errors import LoadError

#: In the folder of one set of packages.
SITE = "site"


def use_packages(requirements: Sequence[str]) -> None:
    """Put the packages on the path of this process.

    Raises:
        LoadError: they are not installed here.
    """
    if not requirements:
        return
    folder = os.environ.get(PACKAGES_VARIABLE)
    place = Path(folder, packages_key(requirements), SITE) if folder else None
    if place is None or not place.is_dir():
        raise LoadError(
            f"the packages that archive.yaml requires ({', '.join(requirements[:3])} ...) are not installed on this"
            " node: register the version with tsctl apply, up or rollout, which install them"
        )
    site.addsitedir(str(place.resolve()))
    importlib.invalidate_caches()

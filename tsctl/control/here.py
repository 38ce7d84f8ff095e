"""The place and the leases of a project, by `control` of its deployment.yaml.

The key is read alone: a mistake elsewhere in the file must not keep a rollout from being aborted.
"""

from __future__ import annotations

import os
import re
from functools import cache

from tsctl.config.environment import Unset, substitute
from tsctl.config.project import Project
from tsctl.config.yaml_files import YamlMistake, read_yaml
from tsctl.control.leases import Leases
from tsctl.control.open import open_place
from tsctl.control.place import Place
from tsctl.errors import SpecError

#: The key in a file that is no YAML, as somebody may be editing it.
_KEY = re.compile(r"""^(["']?)control\1\s*:\s*(["']?)([^\s#"']+)\2\s*(?:#.*)?$""", re.MULTILINE)


def control_address(project: Project) -> str | None:
    """The address of the place; None where deployment.yaml names none, or is missing.

    Raises:
        SpecError: the file cannot be read, the address is no text, or it names a variable that is not set. Without the
            place two machines could decide at once, so it counts as missing only where the file says so.
    """
    try:
        content = read_yaml(project.deployment)
        address = content.get("control") if isinstance(content, dict) else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SpecError(
            f"{project.deployment}: cannot be read: {error.strerror}", "It says which place machines share."
        ) from None
    except YamlMistake:
        found = _KEY.search(project.deployment.read_text("utf-8", errors="replace"))
        address = found[3] if found else None
    if address is None:
        return None
    if not isinstance(address, str) or not address:
        raise SpecError(
            f"{project.deployment}: control: {address!r}: must be an address",
            "Give an absolute path, redis://... or s3://BUCKET/PREFIX, or remove the key.",
        )
    try:
        return substitute(address, os.environ)
    except Unset as error:
        raise SpecError(
            f"{project.deployment}: control: the variable {error} is not set", f"Set it: export {error}=..."
        ) from None
    except ValueError as error:
        raise SpecError(f"{project.deployment}: control: {error}") from None


def shared_place(project: Project) -> Place | None:
    """The place, checked once in this process; None where the project has none.

    Raises:
        PlaceUnusable, PlaceUnreachable: as they say.
    """
    address = control_address(project)
    return None if address is None else place_at(address)


def shared_leases(project: Project) -> Leases | None:
    """The leases at the place, as this process has watched them so far; None where the project has none."""
    address = control_address(project)
    return None if address is None else _leases(address)


#: The place at an address, which was checked once in this process; raises as `open_place`.
place_at = cache(open_place)


@cache
def _leases(address: str) -> Leases:
    return Leases(place_at(address))

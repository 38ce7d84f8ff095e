"""What images of workers are called, and what a pod may expect of them: ports, user, paths. Pure."""

from __future__ import annotations

import re

#: The user of a worker's process; no machine's own users begin so high.
USER = 10_001
#: Folders in an image that a worker writes to; all else may be read-only.
WRITABLE = {"tmp": "/tmp", "state": "/var/lib/tsctl"}  # noqa: S108 - of the image
#: Folder of the secrets of models, a folder for each.
SECRETS = "/run/secrets/tsctl"
DIGITS = 12


def image_name(prefix: str, model: str, version: str, digest: str) -> str:
    """The name of the image with one archive, such as `registry.example.com/tsctl/digits:1.0-0123456789ab`.

    Args:
        prefix: the registry, and folders in it.
        digest: the SHA-256 of the archive; its first digits are in the name, so that an image is never another one.
    """
    letters = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    return f"{prefix}/{letters}:{version}-{digest[:DIGITS]}"

"""What a pod expects of the images that `tsctl render image` describes: user, folders, archives. Pure."""

from __future__ import annotations

#: The user of every process; no machine's own users begin so high.
USER = 10_001
#: The project in an image, its archives, and the folders that a worker writes to; all else may be read-only.
PROJECT = "/srv/tsctl"
STORE = f"{PROJECT}/archives/store"
WRITABLE = {"tmp": "/tmp", "state": f"{PROJECT}/.tsctl"}  # noqa: S108 - of the image
#: The programs in an image.
PYTHON, TSCTL = "/opt/tsctl/bin/python", "/opt/tsctl/bin/tsctl"
#: Folder of the secrets of models in a pod, a folder for each.
SECRETS = "/run/secrets/tsctl"

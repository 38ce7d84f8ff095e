"""Reads the two documents of an unpacked archive that say what it is and how it is served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml


def read_documents(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The section `model` of the archive's manifest, and its model-config.yaml.

    Raises:
        OSError: the folder has no archive.
    """
    manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text(encoding="utf-8"))["model"]
    return manifest, yaml.safe_load((folder / "model-config.yaml").read_text(encoding="utf-8"))

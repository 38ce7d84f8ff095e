"""The fuzz targets find the tests' own workers and messages, as the handlers' tests do."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "handlers"))

import served  # noqa: F401 - it imports TorchServe, which leaves a file open, without the warning

"""What Triton's python backend loads: a copy of this file lies beside the folder `archive` in a version's folder.

It puts the archive before everything else on the path, so that the archive's own package `handlers` runs. The libraries
of the environment that LIBRARIES_VARIABLE names come last: Triton's own environment has an older NumPy, which its
backend needs, and the model's libraries are elsewhere.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

_ARCHIVE = Path(__file__).resolve().parent / "archive"
#: Folder of Python packages that are searched last; as in handlers.contract, which is not on the path yet.
LIBRARIES_VARIABLE = "TSCTL_LIBRARIES"

sys.dont_write_bytecode = True  # where a version's folder changes, Triton loads all of its workers anew
if _ARCHIVE.is_dir():
    sys.path.insert(0, str(_ARCHIVE))
if os.environ.get(LIBRARIES_VARIABLE):
    sys.path.append(os.environ[LIBRARIES_VARIABLE])

gc.disable()  # modules stay, torch's first of all, and the collector would walk them again and again
from handlers.adapters.triton.entry import Entry  # noqa: E402 - of the archive, which is on the path only now

gc.freeze()
gc.enable()


class TritonPythonModel(Entry):
    """The name under which Triton looks for it."""

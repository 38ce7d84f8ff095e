"""What a process that runs an archive's code inherits from an operator's environment: nothing that may be a secret."""

from __future__ import annotations

from collections.abc import Mapping

#: PYTHONPATH is not among them: it would stand before an archive's own packages.
INHERITED = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS",
)  # fmt: skip


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of `environment` that may be passed on."""
    return {name: environment[name] for name in INHERITED if name in environment}

"""The part of an operator's environment that processes inherit: nothing that may be a secret."""

from __future__ import annotations

from collections.abc import Mapping

#: Without PYTHONPATH, whose packages would come before an archive's own.
INHERITED = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS",
)  # fmt: skip


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of `environment` that are passed on."""
    return {name: environment[name] for name in INHERITED if name in environment}

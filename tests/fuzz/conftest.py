"""The fuzz targets use the handlers' tests' own workers and messages."""

from tests.support import workers  # noqa: F401 - it imports TorchServe, which leaves a file open, without the warning

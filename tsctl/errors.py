"""The errors that tsctl raises on purpose, and the exit code each one owns.

    TsctlError            1  base, never raised itself
      SpecError           2  a YAML file, an option or the configuration does not say what it should
      ArchiveError        3  an archive cannot be built, read or trusted
      NodeError           4  a node cannot be started, reached, or does not do what it was told
      GatewayError        5  the gateway refuses or does not serve what it was given
      AnalysisError       6  evidence cannot be read or judged
      ConflictError       7  somebody else holds the lock, or the state changed underneath

Outcomes are not errors: a rollout that was rolled back exits 10, one left undecided 11, and a plan that would change
something 12.
"""


class TsctlError(Exception):
    """Something failed that a person can mend.

    Args:
        message: what failed, with which values, and what was expected.
        hint: what to do next, as a full sentence; empty where the message says it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def summary(self) -> str:
        """The message on one line."""
        return " ".join(self.message.split())


class SpecError(TsctlError):
    """A YAML file, an option or the configuration does not say what it should."""

    exit_code = 2


class ArchiveError(TsctlError):
    """An archive cannot be built, read or trusted."""

    exit_code = 3


class NodeError(TsctlError):
    """A node cannot be started, reached, or does not do what it was told."""

    exit_code = 4


class GatewayError(TsctlError):
    """The gateway refuses or does not serve what it was given."""

    exit_code = 5


class AnalysisError(TsctlError):
    """Evidence cannot be read or judged."""

    exit_code = 6


class ConflictError(TsctlError):
    """Somebody else holds the lock, or the state changed underneath."""

    exit_code = 7

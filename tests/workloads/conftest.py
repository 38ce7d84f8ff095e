"""What live tests have for their workers and JVMs."""

from tests.live.conftest import _classes, _forks  # noqa: F401 - fixtures of every test

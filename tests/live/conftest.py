"""Real nodes for tests: one that all share, and projects of a test's own, whose processes are gone afterwards."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
import yaml

from handlers.contract import FORK_SERVER_VARIABLE, WORKER_ENVIRONMENT
from handlers.forks.client import new_address, start_server
from tests.support.commands import Result
from tests.support.java_classes import make_class_archive
from tests.support.sites import CHECKOUT, MODELS, Site, copy_archives, empty, make_site, processes_of
from tsctl.host.process import inherited


@pytest.fixture(scope="session", autouse=True)
def _classes() -> None:
    """What every JVM of `make_site` begins with."""
    make_class_archive()


@pytest.fixture(scope="session", autouse=True)
def _forks() -> None:
    """The fork server of all workers that tests of this process start: most nodes have one or two.

    It ends with this process. A node's own one is what tests/live/test_node.py and test_serve.py have.
    """
    address = os.environ[FORK_SERVER_VARIABLE] = new_address()
    start_server(address, sys.executable, {**WORKER_ENVIRONMENT, **inherited(os.environ)}, os.getpid())


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An own project for one test; its node is stopped afterwards, and nothing of it may be left.

    Its path has a blank and a letter beyond ASCII, and is short: a socket's path has at most 107 bytes.
    """
    made = make_site(tmp_path_factory.mktemp("prö jekt"))
    made.environment["LC_ALL"] = "C"
    yield made
    made.run("down", status=None)
    assert processes_of(made.root) == [], "processes are left behind"


@pytest.fixture(scope="session")
def shared_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The project of `shared`; its node is started when a test first needs it."""
    made = make_site(tmp_path_factory.mktemp("shared") / "site")
    yield made
    made.run("down", status=None)
    assert processes_of(made.root) == [], "processes are left behind"


@pytest.fixture
def shared(shared_project: Site) -> Iterator[Site]:
    """A project whose node runs and serves nothing. Tests share the node, and the project is empty after each."""
    before = shared_project.deployment
    if not shared_project.is_running:
        shared_project.run("node", "start")
    yield shared_project
    empty(shared_project, before)


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Result]]:
    """The whole deployment of this checkout on one node for all tests that only read, and what `up` printed.

    PYTHONPATH names a folder with a broken package `handlers`: the archives' own must be the one that runs.
    """
    root = tmp_path_factory.mktemp("deployment")
    made = make_site(root / "site")
    foreign = root / "foreign" / "handlers"
    foreign.mkdir(parents=True)
    (foreign / "__init__.py").write_text("raise ImportError('a package from PYTHONPATH runs in a worker')\n")
    made.environment["PYTHONPATH"] = str(foreign.parent)
    made.environment["SECRET_OF_THE_OPERATOR"] = "must-not-reach-a-worker"
    copy_archives(made, *MODELS)
    made.deploy(yaml.safe_load((CHECKOUT / "deployment.yaml").read_text())["models"])
    try:
        yield made, made.run("up")
    finally:
        made.run("down", status=None)
    assert processes_of(made.root) == [], "processes are left behind"


@pytest.fixture
def node(up: tuple[Site, Result]) -> Site:
    """The shared node."""
    return up[0]

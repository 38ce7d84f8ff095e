"""What `tsctl archive build`, `try` and `packages`, and `tsctl up --foreground`, say where little is there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from tests.support.commands import Result, run_command
from tests.support.sites import Site, write_tiny
from tsctl.archive.container import MANIFEST, write_entries
from tsctl.archive.store import find_archive, import_archive
from tsctl.config.project import Project
from tsctl.deploy.applied_state import remember


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A project with the stock archive `stock`."""
    (tmp_path / "archives").mkdir()
    manifest = {"model": {"modelName": "stock", "modelVersion": "1.0", "handler": "stock.py"}}
    with (tmp_path / "stock.mar").open("wb") as file:
        write_entries({MANIFEST: json.dumps(manifest).encode(), "stock.py": b""}, file)
    import_archive(Project(tmp_path), tmp_path / "stock.mar")
    return Site(tmp_path)


def run(site: Site, *arguments: str) -> Result:
    return run_command(arguments, site.root, os.environ, 60)


def test_try_of_an_archive_without_a_folder_says_what_to_do(site: Site) -> None:
    ended = run(site, "archive", "try", "stock", "x.json")
    assert ended.status == 2
    assert "needs a folder with archive.yaml" in ended.err and "tsctl archive convert stock" in ended.err
    assert "no archive.yaml names nothing" in run(site, "archive", "try", "nothing", "x.json").err


def test_a_build_says_that_its_version_was_served_from_other_bytes(site: Site) -> None:
    write_tiny(site, "tiny", {"1.0": {}})
    assert "was served" not in run(site, "archive", "build", "tiny").out
    project = Project(site.root)
    first = find_archive(project, "tiny", "1.0")
    remember(project, {"tiny:1.0": first.path.name})
    assert "was served" not in run(site, "archive", "build", "tiny").out, "these are the bytes"
    (site.root / "archives" / "tiny" / "samples" / "half.json").write_text('{"x":  0.5}\n')
    said = run(site, "archive", "build", "tiny")
    assert said.status == 0
    assert f"tiny 1.0 was served from {first.digest} before" in said.out


def test_packages_are_installed_of_those_that_require_some(site: Site) -> None:
    assert run(site, "archive", "packages").out == "no archive requires packages\n"
    ended = run(site, "archive", "packages", "tiny")
    assert ended.status == 3 and "no archive of tiny is in the store" in ended.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--metrics", "127.0.0.1:0"], "Give --foreground as well."),
        (["--foreground"], "deployment.yaml places nothing on this machine: a are elsewhere"),
    ],
)
def test_up_in_the_foreground_needs_something_here(site: Site, words: list[str], says: str) -> None:
    nodes = {"a": {"engine": "uvicorn", "address": "http://127.0.0.1:9", "key_file": "elsewhere.json"}}
    (site.root / "deployment.yaml").write_text(yaml.safe_dump({"nodes": nodes}))
    ended = run(site, "up", *words)
    assert ended.status == 2 and says in ended.err

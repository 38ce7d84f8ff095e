"""Every template of `tsctl init` builds, passes every check, and gives the golden answers that it brings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsctl.archive.build import build_version, read_archive_folders
from tsctl.archive.verify import verify
from tsctl.config.project import Project
from tsctl.scaffold.files import write_files
from tsctl.scaffold.project import EMPTY, project_files, template_files, template_names

PASSED = {"pass", "skip"}


@pytest.mark.parametrize("template", [name for name in template_names() if name != EMPTY])
def test_a_template_is_built_and_passes_verification(tmp_path: Path, template: str) -> None:
    models, files = template_files(template, None)
    write_files(tmp_path, {**files, **project_files(models)})
    project = Project(tmp_path)
    [(folder, spec)] = read_archive_folders(project).values()
    built = build_version(project, folder, spec, "1.0", lambda _: None)
    checks = {check.name: (check.outcome, check.detail) for check in verify(built.archive.path).checks}
    checks.pop("sandbox")  # of this machine
    assert "golden samples alone" in checks or any(name.startswith("golden") for name in checks)
    assert {name: check for name, check in checks.items() if check[0] not in PASSED} == {}

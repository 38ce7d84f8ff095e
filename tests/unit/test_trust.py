"""A pickle is trusted by its name and digest, stated once in archive.yaml or deployment.yaml, and by nothing else."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tsctl.archive.checks import pickle_check, trust_check
from tsctl.archive.container import digest_of
from tsctl.archive.pickles import unsafe_pickles
from tsctl.archive.scans import scan_of
from tsctl.archive.store import archive_of, store_name
from tsctl.archive.trust import Trust, judge, require_trusted, scanned, stated_trust
from tsctl.config.archive import read_archive_spec
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.deploy.desired import desired_state
from tsctl.deploy.plan import make_plan
from tsctl.deploy.state import Actual
from tsctl.errors import ArchiveError, SpecError
from tsctl.nodes.observed import ObservedNode


class Unknown:
    def __reduce__(self) -> Any:
        return sorted, ([1],)


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def entry(folder: Path, name: str) -> str:
    return f"{name}@sha256:{digest_of(folder / name)}"


def verdict_of(folder: Path, *entries: str) -> Any:
    return judge(scanned(unsafe_pickles(folder), folder), Trust("m", entries))


def test_a_file_is_trusted_by_its_name_and_its_bytes_only(tmp_path: Path) -> None:
    (tmp_path / "m.joblib").write_bytes(pickle.dumps(Unknown()))
    right = entry(tmp_path, "m.joblib")
    trusted = verdict_of(tmp_path, right)
    assert (trusted.refused, trusted.hint) == ([], "")
    assert trusted.accepted == ["m.joblib is trusted by its digest, and imports builtins.sorted"]
    [told] = trust_check(trusted.accepted, trusted.unused)
    assert told.outcome == "warn", "what is trusted is told each time"
    (tmp_path / "m.joblib").rename(tmp_path / "other.joblib")
    assert verdict_of(tmp_path, right).refused, "another name"
    (tmp_path / "m.joblib").write_bytes(pickle.dumps([Unknown()]))
    changed = verdict_of(tmp_path, right)
    assert "m.joblib is trusted with another digest, so its bytes changed." in changed.hint
    assert entry(tmp_path, "m.joblib") in changed.hint
    assert verdict_of(tmp_path, right, entry(tmp_path, "m.joblib")).refused[0].file == "other.joblib"


def test_the_refusal_names_the_line_to_add(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Unknown()))
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(Evil()))
    verdict = verdict_of(tmp_path)
    check = pickle_check(verdict.refused, trust=False, hint=verdict.hint)
    line = next(line for line in check.hint.splitlines() if "trust:" in line)
    stated = yaml.safe_load(line)["trust"]
    assert not verdict_of(tmp_path, *stated).refused, "the line does what it says"
    assert "b.pkl can run any program" in check.hint
    with pytest.raises(ArchiveError, match=r"m 1.0 does not run: b.pkl imports posix.system; a.pkl imports") as raised:
        require_trusted(unsafe_pickles(tmp_path), tmp_path, Trust("m"), "m 1.0")
    assert line in raised.value.hint


def test_trust_of_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "safe.pkl").write_bytes(pickle.dumps([1]))
    verdict = verdict_of(tmp_path, entry(tmp_path, "safe.pkl"), f"gone.pkl@sha256:{'0' * 64}")
    assert verdict.unused == [
        "trust names safe.pkl, which holds no pickle that needs it",
        "trust names gone.pkl, and the archive has no such file",
    ]


def project_with(root: Path, trust: list[str] | None, deployed: list[str] | None) -> Project:
    (root / "archives" / "m").mkdir(parents=True, exist_ok=True)
    spec = {"model": "m", "handler": "handlers.tabular", "versions": {"1.0": None}, "trust": trust or []}
    (root / "archives" / "m" / "archive.yaml").write_text(yaml.safe_dump(spec))
    models = {"m": {"default": "1.0", "versions": {"1.0": None}, "trust": deployed or []}}
    (root / "deployment.yaml").write_text(yaml.safe_dump({"nodes": {"a": {}}, "models": models}))
    return Project(root)


def test_both_files_of_the_project_may_state_it(tmp_path: Path) -> None:
    one, two = (f"{name}@sha256:{digit * 64}" for name, digit in (("one.pkl", "1"), ("two.pkl", "2")))
    trust_of = stated_trust(project_with(tmp_path, [one], [two, one]))
    assert trust_of("m").entries == (one, two)
    assert trust_of("other") == Trust("other", (), "deployment.yaml")
    assert stated_trust(None)("m").entries == ()
    (tmp_path / "deployment.yaml").write_text("models: {}\n")
    assert stated_trust(Project(tmp_path))("m").entries == (one,)
    assert "nodes: missing" in stated_trust(Project(tmp_path))("m").unread


@pytest.mark.parametrize("wrong", ["m.pkl", "m.pkl@sha256:12", f"/m.pkl@sha256:{'0' * 64}", f"../m@sha256:{'0' * 64}"])
def test_a_mistake_in_an_entry_is_named(tmp_path: Path, wrong: str) -> None:
    project = project_with(tmp_path, [wrong], None)
    with pytest.raises(SpecError, match="must be NAME@sha256:DIGEST"):
        read_archive_spec(project.archives / "m" / "archive.yaml")


def stored(project: Project, files: dict[str, bytes]) -> Path:
    project.store.mkdir(parents=True, exist_ok=True)
    path = project.store / "new"
    with zipfile.ZipFile(path, "w") as content:
        model = {"modelName": "m", "modelVersion": "1.0", "handler": "h.py"}
        content.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": model}))
        for name, data in files.items():
            content.writestr(name, data)
    return path.rename(project.store / store_name("m", "1.0", digest_of(path)))


def test_a_plan_registers_no_archive_whose_pickles_nobody_trusts(tmp_path: Path) -> None:
    project = project_with(tmp_path, None, None)
    content = pickle.dumps(Unknown())
    (tmp_path / "m.pkl").write_bytes(content)
    path = stored(project, {"m.pkl": content})
    model = {"default": "1.0", "versions": {"1.0": None}}

    def refusals(**more: Any) -> list[Any]:
        deployment = {"nodes": {"a": {}}, "models": {"m": {**model, **more}}}
        desired = desired_state(project, DeploymentSpec.model_validate(deployment))
        return list(make_plan(desired, Actual((ObservedNode("a"),))).refusals)

    [refused] = refusals()
    assert refused.error is ArchiveError
    assert refused.reason == "m 1.0 is not registered: m.pkl imports builtins.sorted"
    assert entry(tmp_path, "m.pkl") in refused.hint
    assert refusals(trust=[entry(tmp_path, "m.pkl")]) == []
    [kept] = (project.state / "scans").iterdir()
    assert kept.name == f"{path.name}.json"
    assert kept.stat().st_mode & 0o077 == 0


def test_a_scan_is_kept_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project(tmp_path)
    archive = archive_of(stored(project, {"m.pkl": pickle.dumps(Unknown())}))
    first = scan_of(project, archive)
    assert [unsafe.finding for unsafe in first.unsafe] == ["imports builtins.sorted"]
    monkeypatch.setattr("tsctl.archive.scans.scan_pickles", lambda folder: [])
    assert scan_of(project, archive) == first
    kept = project.state / "scans" / f"{archive.path.name}.json"
    kept.write_text("{")
    assert scan_of(project, archive).unsafe == ()
    os.utime(archive.path, ns=(1, 1))
    kept.write_text(json.dumps({"key": {}, "files": [], "unsafe": [], "digests": {}}))
    assert scan_of(project, archive).files == ("MAR-INF/MANIFEST.json", "m.pkl")

"""One build of each version is published; the others are at hand for nodes until nothing needs them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsctl.archive.container import MANIFEST
from tsctl.archive.store import (
    StoredArchive,
    archive_of,
    find_archive,
    import_archive,
    list_archives,
    make_current,
    require_whole,
    strangers,
    write_archive,
)
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.deploy.applied_state import remember
from tsctl.deploy.tidy import builds_and_uses, leftovers
from tsctl.errors import ArchiveError, NodeError


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def entries(content: bytes, version: str = "1.0") -> dict[str, bytes]:
    manifest = {"modelName": "toy", "modelVersion": version, "handler": "handler.py"}
    return {"w": content, MANIFEST: json.dumps({"model": manifest}).encode()}


def build(project: Project, content: bytes, version: str = "1.0") -> StoredArchive:
    return make_current(project, write_archive(entries(content, version), project.store, "toy", version))


def copied(project: Project, content: bytes) -> Path:
    """An archive that was copied into the published folder by hand."""
    return write_archive(entries(content), project.published, "toy", "1.0").path


def published(project: Project) -> list[str]:
    """What a plain TorchServe loads: files that are not hidden."""
    return sorted(path.name for path in project.published.iterdir() if not path.name.startswith("."))


def test_the_last_build_alone_is_published_and_the_older_ones_stay_at_hand(project: Project) -> None:
    old, new, other = build(project, b"1"), build(project, b"2"), build(project, b"3", "2.0")
    assert published(project) == sorted([new.path.name, other.path.name])
    assert {archive.path.name for archive in list_archives(project)} == {a.path.name for a in (old, new, other)}
    assert [a.digest for a in list_archives(project) if not a.is_current] == [old.digest]
    assert [(project.store / archive.path.name).resolve() for archive in (new, other)] == [new.path, other.path]
    assert new.other_build(old.path.name) == project.store / old.path.name
    assert archive_of(project.store / old.path.name).other_build(new.path.name).samefile(new.path)
    assert find_archive(project, "toy", "1.0") == new
    for archive in list_archives(project):
        require_whole(archive)


def test_an_older_build_becomes_current_again(project: Project) -> None:
    old, new = build(project, b"1"), build(project, b"2")
    before = (project.store / old.path.name).stat().st_mtime_ns
    assert build(project, b"1") == old
    assert (published(project), find_archive(project, "toy", "1.0")) == ([old.path.name], old)
    assert old.path.stat().st_mtime_ns == before, "it was not written again"
    require_whole(archive_of(project.store / new.path.name))


def test_an_older_build_that_is_added_becomes_current_again(project: Project) -> None:
    old, new = build(project, b"1"), build(project, b"2")
    added = import_archive(project, project.store / old.path.name)
    assert (added, published(project), find_archive(project, "toy", "1.0")) == (old, [old.path.name], old)
    assert import_archive(project, old.path) == old
    assert import_archive(project, project.store / new.path.name) == new == find_archive(project, "toy", "1.0")


def test_a_removed_archive_is_gone_and_the_newest_of_the_others_counts(project: Project) -> None:
    old, older, new = build(project, b"1"), build(project, b"2"), build(project, b"3")
    os.utime(project.store / older.path.name, (1, 1))
    new.path.unlink()
    assert not (project.store / new.path.name).is_file()
    assert find_archive(project, "toy", "1.0").digest == old.digest
    with pytest.raises(ArchiveError, match=r"no archive of toy 2\.0 in archives/store") as raised:
        find_archive(project, "toy", "2.0")
    assert "There are: toy 1.0.\n" in raised.value.hint
    assert "tsctl archive build" not in raised.value.hint, "it would fail"
    spec = project.archives / "toy" / "archive.yaml"
    spec.parent.mkdir(parents=True)
    spec.write_text('model: toy\nhandler: handler.py\nversions: {"2.0": }\n')
    with pytest.raises(ArchiveError) as raised:
        find_archive(project, "toy", "2.0")
    assert "\n       Build it: tsctl archive build toy:2.0\n" in raised.value.hint


def test_files_that_lie_side_by_side_are_taken_in_and_the_newest_is_published(project: Project) -> None:
    first, second = copied(project, b"1"), copied(project, b"2")
    os.utime(first, (1, 1))
    assert [archive.path.name for archive in list_archives(project)] == sorted([first.name, second.name])
    assert published(project) == [second.name]
    assert copied(project, b"1") == first
    assert find_archive(project, "toy", "1.0").path.name == first.name, "the one that was copied last"
    assert published(project) == [first.name]


def test_a_link_that_leads_nowhere_and_a_folder_are_no_archives(project: Project) -> None:
    one = build(project, b"1")
    (project.published / "toy-1.0-0123456789ab.mar").symlink_to("nowhere")
    (project.published / "toy-1.0-0123456789ac.mar").mkdir()
    assert list_archives(project) == [one]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", None])
def test_a_broken_file_beside_the_current_build_does_not_take_its_place(
    project: Project, content: bytes | None
) -> None:
    good = build(project, b"1")
    other = build(project, b"3", "2.0").path.read_bytes()
    names = ["toy-1.0-0123456789ab.mar", "any name.mar"]
    for name in names:
        (project.published / name).write_bytes(other if content is None else content)
    assert find_archive(project, "toy", "1.0") == good
    names = names[: 1 if content is None else 2]  # a whole archive of any name is taken in, here as what is there
    assert published(project) == sorted([good.path.name, find_archive(project, "toy", "2.0").path.name, *names])
    assert strangers(project).keys() == set(names)
    with pytest.raises(ArchiveError, match="is damaged: its digest is not the one in its name"):
        import_archive(project, project.published / names[0])


def test_a_copied_file_of_any_name_is_the_current_build_of_its_version(project: Project) -> None:
    old, path = build(project, b"1"), copied(project, b"2")
    path.rename(project.published / "resnet 18.mar")
    assert find_archive(project, "toy", "1.0").path == path
    assert published(project) == [path.name]
    assert {archive.path.name for archive in list_archives(project)} == {old.path.name, path.name}
    assert strangers(project) == {}


def test_an_archive_under_the_name_of_another_version_is_a_stranger(project: Project) -> None:
    path = build(project, b"1").path
    odd = path.rename(project.published / path.name.replace("-1.0-", "-2.0-"))
    assert list_archives(project) == []
    assert strangers(project) == {odd.name: f"{odd.name} holds toy 1.0"}


def test_a_published_file_is_imported_where_it_lies(project: Project) -> None:
    path = copied(project, b"1")
    assert import_archive(project, path) == import_archive(project, project.store / path.name)
    assert published(project) == [path.name]
    with pytest.raises(ArchiveError, match="no such file"):
        import_archive(project, path.with_name("toy-1.0-000000000000.mar"))


@given(st.lists(st.tuples(st.sampled_from("bcr"), st.sampled_from(["1.0", "2.0"]), st.integers(0, 2)), max_size=12))
def test_whatever_happened_before_one_whole_build_of_a_version_is_published(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, int]]
) -> None:
    project = Project(tmp_path_factory.mktemp("project"))
    for step, version, number in steps:
        folder = project.published if step == "c" else project.store
        archive = write_archive(entries(b"%d" % number, version), folder, "toy", version)
        if step == "b":
            make_current(project, archive)
        elif step == "r":
            archive.path.unlink(missing_ok=True)
    every = list_archives(project)
    shown = [
        archive_of(project.published / name) for name in (published(project) if project.published.is_dir() else [])
    ]
    assert len({archive.key for archive in shown}) == len(shown)
    assert {archive.path.name for archive in shown} == {archive.path.name for archive in every if archive.is_current}
    for archive in every:
        require_whole(archive)


@pytest.mark.parametrize("damage", [b"", b"other", None])
def test_a_damaged_archive_is_refused_and_made_anew(project: Project, damage: bytes | None) -> None:
    archive = build(project, b"1")
    archive.path.unlink() if damage is None else archive.path.write_bytes(damage)
    with pytest.raises(ArchiveError, match="is damaged: its digest is not the one in its name") as raised:
        require_whole(archive)
    assert "tsctl archive build toy:1.0" in raised.value.hint
    assert build(project, b"1") == archive
    require_whole(archive)
    assert published(project) == [archive.path.name]


def test_no_file_has_wider_rights_than_0644(project: Project) -> None:
    before = os.umask(0)
    try:
        archive = build(project, b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE(archive.path.stat().st_mode) == 0o644


# ---- what nothing needs any more -------------------------------------------------------------------------------------


def deployment(**version: str) -> DeploymentSpec:
    models = {"toy": {"default": "1.0", "versions": {"1.0": version or None}}}
    return DeploymentSpec.model_validate({"nodes": {"a": {}}, "models": models})


def uses(project: Project, spec: DeploymentSpec) -> dict[str, str]:
    return {archive.digest: use for archive, use in builds_and_uses(project, spec)}


def test_a_build_that_nothing_needs_has_no_use(project: Project) -> None:
    old, new = build(project, b"1"), build(project, b"2")
    assert uses(project, deployment()) == {old.digest: "", new.digest: "the current build"}


def test_what_is_pinned_or_was_served_or_will_be_is_needed(project: Project) -> None:
    pinned, first, at_start, new = (build(project, content) for content in (b"1", b"2", b"3", b"4"))
    remember(project, {"toy:1.0": first.path.name})
    served = {"model": "toy", "version": "1.0", "archive": at_start.path.name, "is_default": True}
    (project.state / "nodes" / "gone").mkdir(parents=True)
    (project.state / "nodes" / "gone" / "restore.json").write_text(
        json.dumps([{**served, "min_workers": 1, "max_workers": 1}])
    )
    assert uses(project, deployment(digest=pinned.digest)) == {
        pinned.digest: "deployment.yaml pins it",
        first.digest: "the way back: this version was served from it",
        at_start.digest: "node gone when it starts",
        new.digest: "the current build",
    }


def test_what_killed_builds_and_removed_archives_left_is_found(project: Project) -> None:
    archive = build(project, b"1")
    half, young = project.store / ".writing.1", project.store / ".writing.2"
    half.touch()
    young.touch()
    os.utime(half, (1, 1))
    assert leftovers(project) == [half]
    archive.path.unlink()
    assert set(leftovers(project)) == {half, project.store / archive.path.name}


def test_a_node_elsewhere_that_does_not_answer_keeps_everything(project: Project) -> None:
    build(project, b"1")
    spec = DeploymentSpec.model_validate({"nodes": {"b": {"key_file": "key.json"}}})
    with pytest.raises(NodeError, match="node b does not answer, so the builds that it needs are not known"):
        builds_and_uses(project, spec)

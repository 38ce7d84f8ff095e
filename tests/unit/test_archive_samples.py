"""Media types of samples: by suffix, from archive.yaml, and as a worker and the gateway are told them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from handlers.contract import JSON
from tests.unit.test_archive_build import entries, make
from tsctl.archive.build import build_version
from tsctl.archive.samples import media_type_of_file, read_samples, sample_types
from tsctl.archive.store import find_archive
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project
from tsctl.errors import SpecError


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.json", JSON),
        ("A.JPG", "image/jpeg"),
        ("a.csv", "text/csv"),
        ("a.wav", "audio/x-wav"),
        ("a.npy", "application/x-npy"),
        ("a.pb", "application/x-protobuf"),
        ("a.abc", "audio/x-abc"),
    ],
)
def test_the_suffix_says_the_media_type(name: str, media_type: str) -> None:
    assert media_type_of_file(name, {".abc": "audio/x-abc"}) == media_type


@pytest.mark.parametrize("name", ["a", "a.abc", "a.bin", "a.json.gz"])
def test_a_suffix_may_say_nothing(name: str) -> None:
    assert media_type_of_file(name, {}) is None


def test_a_worker_is_told_what_it_does_not_know() -> None:
    assert sample_types(["a.json", "b.csv", "c.csv"], {".abc": "x/y"}) == {".abc": "x/y", ".csv": "text/csv"}
    assert sample_types(["a.json", "b.png"], {}) == {}


def with_samples(root: Path, samples: dict[str, bytes], **spec: Any) -> Project:
    project = make(root)
    folder = root / "archives" / "toy"
    for name, body in samples.items():
        (folder / "samples" / name).write_bytes(body)
    (folder / "golden" / "1.0.json").write_text(json.dumps(dict.fromkeys(("one.json", *samples), 1)))
    content = yaml.safe_load((folder / "archive.yaml").read_text())
    (folder / "archive.yaml").write_text(yaml.safe_dump({**content, **spec}))
    return project


def test_an_archive_carries_its_media_types(tmp_path: Path) -> None:
    project = with_samples(tmp_path, {"table.csv": b"a,b", "sound.pcm": b"\0"}, sample_types={".pcm": "audio/l16"})
    folder = project.archives / "toy"
    build_version(project, folder, read_archive_spec(folder / "archive.yaml"), "1.0", print)
    path = find_archive(project, "toy", "1.0").path
    assert [(name, media_type) for name, _, media_type in read_samples(path)] == [
        ("samples/one.json", JSON), ("samples/sound.pcm", "audio/l16"), ("samples/table.csv", "text/csv"),
    ]  # fmt: skip
    config = yaml.safe_load(entries(project)["model-config.yaml"])
    assert "embeddings" not in config["serving"]
    assert config["serving"]["sample_types"] == {".csv": "text/csv", ".pcm": "audio/l16"}


def test_an_archive_that_embeds_says_so(tmp_path: Path) -> None:
    project = with_samples(tmp_path, {}, embeddings=True)
    folder = project.archives / "toy"
    build_version(project, folder, read_archive_spec(folder / "archive.yaml"), "1.0", print)
    assert yaml.safe_load(entries(project)["model-config.yaml"])["serving"]["embeddings"] is True


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ({".json": "text/plain"}, "is application/json always"),
        ({"wav": "audio/wav"}, "sample_types"),
        ({".wav": "audio"}, "sample_types"),
        ({".wav": "audio/wav; rate=1"}, "sample_types"),
    ],
)
def test_a_wrong_media_type_is_named(tmp_path: Path, types: dict[str, str], message: str) -> None:
    project = with_samples(tmp_path, {}, sample_types=types)
    with pytest.raises(SpecError, match=message):
        read_archive_spec(project.archives / "toy" / "archive.yaml")

"""Every mistake in archive.yaml is told as file, key, value and expectation, all at once."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tsctl.archive.build import read_archive_folders, sound_archive_folders
from tsctl.config.archive import ArchiveSpec, read_archive_spec
from tsctl.config.project import Project
from tsctl.config.yaml_files import WrittenFloat
from tsctl.errors import SpecError

CHECKOUT = Path(__file__).resolve().parents[2]


class Dumper(yaml.SafeDumper):
    """Writes a number as it was written."""


Dumper.add_representer(
    WrittenFloat, lambda dumper, number: dumper.represent_scalar("tag:yaml.org,2002:float", number.text)
)
GOOD: dict[str, Any] = {"model": "toy", "handler": "handlers.image", "versions": {"1.0": None}}


def write(folder: Path, content: Any) -> Path:
    path = folder / "archive.yaml"
    path.write_text(content if isinstance(content, str) else yaml.dump(content, Dumper=Dumper, sort_keys=False))
    return path


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"batches": {}}, "batches: unknown key; did you mean batch?"),
    "unknown key inside": ({"batch": {"delay": 1}}, "batch.delay: unknown key; known here: max_delay_ms, size, tokens"),
    "no delay": ({"batch": {"max_delay_ms": 0}}, "batch.max_delay_ms: 0: should be greater than or equal to 1"),
    "size as text": ({"batch": {"size": "8"}}, "batch.size: '8': should be a valid integer"),
    "size as a fraction": ({"batch": {"size": 8.0}}, "batch.size: 8.0: should be a valid integer"),
    "size as a boolean": ({"batch": {"size": True}}, "batch.size: True: should be a valid integer"),
    "more than the maximum": ({"workers": {"min": 3, "max": 2}}, "max (2) must not be less than min (3)"),
    "no worker": ({"workers": {"min": 0}}, "workers.min: 0: should be greater than or equal to 1"),
    "a path out": ({"files": ["../secret"]}, "files.0: '../secret': must be a plain relative path inside"),
    "an absolute path": ({"samples": "/etc"}, "samples: '/etc': must be a plain relative path inside"),
    "a backslash": ({"recipe": "a\\b.py"}, "must be a plain relative path inside the archive's folder, with /"),
    "a handler elsewhere": ({"handler": "somewhere.else"}, "handler: 'somewhere.else': should match"),
    "a model named token": ({"model": "Tokens"}, "must not begin with 'token'"),
    "a model with a slash": ({"model": "a/b"}, "model: 'a/b': should match pattern"),
    "no version": ({"versions": {}}, "versions: {}: should have at least 1 item, not 0"),
    "a version as a number": (
        {"versions": {1.0: None}},
        'versions.1.0: 1.0: should be a valid string; quote it, as in "1.0"',
    ),
    "a version that ends with a zero": (
        {"versions": {WrittenFloat("1.10"): None}},
        'versions.1.10: 1.10: should be a valid string; quote it, as in "1.10"',
    ),
    "a line in a path": ({"weights": "a\nb"}, "must be a plain relative path inside the archive's folder"),
    "a version with a dash": ({"versions": {"1-0": None}}, "versions.1-0: '1-0': should match pattern"),
    "a version TorchServe reads otherwise": ({"versions": {"all": None}}, "is a word of TorchServe's management API"),
    "warming longer than starting": (
        {"warmup": {"budget_s": 500.0}},
        "warmup.budget_s (500) must be less than timeouts.startup_s (120)",
    ),
    "the same in one version": (
        {"versions": {"1.0": {"timeouts": {"startup_s": 10}}}},
        "warmup.budget_s (20) must be less than timeouts.startup_s (10)",
    ),
    "an option that the comparator does not take": (
        {"compare": {"by": "label", "least": 0.5}},
        "label does not take least; it takes field",
    ),
    "a share that every answer has": ({"compare": {"by": "top_k", "least": -0.5}}, "least (-0.5) of top_k is a share"),
    "a date in the settings": (
        {"settings": {"released": datetime.date(2024, 1, 1)}},
        '2024-01-01 is read in different ways by versions of YAML: quote it, as in "2024-01-01"',
    ),
    "a version named token": ({"versions": {"token1": None}}, "must not begin with 'token'"),
    "a cache without a bound": ({"cache": {"max_mb": 0}}, "cache.max_mb: 0: should be greater than 0"),
    "a share above one": ({"cache": {"check": 2.0}}, "cache.check: 2.0: should be less than or equal to 1"),
    "a shared cache that is no Redis": (
        {"cache": {"shared": "http://127.0.0.1"}},
        "cache.shared: 'http://127.0.0.1': must be an address such as redis://",
    ),
    "a password in an archive": (
        {"cache": {"shared": "redis://me:secret@host:6379/0"}},
        "must hold no user or password: set TS_SHARED_CACHE_URL in the node's environment",
    ),
    "a dtype without hardware": ({"dtype": "fp8"}, "dtype: 'fp8': should be 'float32' or 'bf16'"),
    "two arithmetics at once": (
        {"quantize": "int8-dynamic", "dtype": "bf16"},
        "quantize: int8-dynamic excludes compile and dtype: bf16",
    ),
    "an unknown backend": (
        {"generation": {"backend": "llama"}},
        "generation.backend: 'llama': should be 'auto', 'openvino', 'transformers' or 'vllm'",
    ),
    "more tokens by default than at most": (
        {"handler": "handlers.text_generation", "generation": {"max_tokens": 2000}},
        "max_tokens (2000) must not be more than most_tokens (1024)",
    ),
    "no room for a prompt": (
        {"handler": "handlers.text_generation", "generation": {"context": 1024}},
        "most_tokens (1024) must be less than context (1024), which holds the prompt as well",
    ),
    "a chat template elsewhere": (
        {"generation": {"chat_template": "/etc/passwd"}},
        "generation.chat_template: '/etc/passwd': must be a plain relative path inside",
    ),
    "a text model in batches": (
        {
            "handler": "handlers.text_generation",
            "generation": {},
            "batch": {"size": 8},
            "cache": {},
            "quantize": "int8-dynamic",
        },
        "generation excludes batch.size, cache, quantize: the backend forms the batches",
    ),
    "a text model with a reference": (
        {"handler": "handlers.text_generation", "generation": {}, "reference": "reference.jsonl"},
        "reference is not for text models, which have generation: leave it out",
    ),
    "embeddings of a text model": (
        {"handler": "handlers.text_generation", "generation": {}, "embeddings": True},
        "embeddings is not for text models, which have generation: leave it out",
    ),
    "no generation in a version": (
        {"handler": "handlers.text_generation", "versions": {"1.0": {"generation": {}}, "2.0": None}},
        "version 2.0: handler: handlers.text_generation needs generation, at least as generation: {}",
    ),
    "generation of a picture": ({"generation": {}}, "version 1.0: handler: handlers.image excludes generation"),
    "tokens of no text": ({"tolerance": {"tokens": 8}}, "tolerance.tokens is for text models, which have generation"),
    "a first token of no text": (
        {"timeouts": {"first_token_s": 5.0}},
        "timeouts.first_token_s is for text models, which have generation",
    ),
    "a first token after the whole": (
        {
            "handler": "handlers.text_generation",
            "generation": {},
            "timeouts": {"first_token_s": 60.0, "response_s": 30},
        },
        "timeouts.first_token_s (60) must not be more than timeouts.response_s (30)",
    ),
    "a negative tolerance": ({"tolerance": {"absolute": -1.0}}, "tolerance.absolute: -1.0: should be greater than"),
}


@pytest.mark.parametrize(("change", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_names_file_key_value_and_expectation(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    path = write(tmp_path, {**GOOD, **change})
    with pytest.raises(SpecError) as raised:
        read_archive_spec(path)
    assert expected in raised.value.message
    assert all(line.startswith(f"{path}: ") for line in raised.value.message.splitlines())


@pytest.mark.parametrize(
    "address",
    [
        "redis://me:hunter2@host:6379/0",
        "redis://:hunter2@host/0",
        "redis://hunter2@host/0",
        "redis://host:6379/0?password=hunter2",
        "redis://host:6379/0?db=1&username=hunter2",
        "redis://me:hunter2@host:notaport/0",
        "http://me:hunter2@host",
    ],
)
def test_no_part_of_a_password_stands_in_a_message(tmp_path: Path, address: str) -> None:
    with pytest.raises(SpecError) as raised:
        read_archive_spec(write(tmp_path, {**GOOD, "cache": {"shared": address}}))
    assert "hunter2" not in raised.value.message
    assert "cache.shared" in raised.value.message


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, {"handler": "handlers.image", "batch": {"size": 0}, "versions": {"1.0": None}, "x": 1})
    with pytest.raises(SpecError) as raised:
        read_archive_spec(path)
    keys = [line.removeprefix(f"{path}: ").partition(":")[0] for line in raised.value.message.splitlines()]
    assert sorted(keys) == ["batch.size", "model", "x"]


def test_a_thousand_mistakes_are_counted_and_not_all_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as raised:
        read_archive_spec(write(tmp_path, {**GOOD, **{f"{number}{'x' * 99}": 1 for number in range(1000)}}))
    lines = raised.value.message.splitlines()
    assert len(lines) == 31
    assert lines[-1].endswith(": 970 more mistakes")
    assert max(map(len, lines)) < len(str(tmp_path)) + 400


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected a mapping of keys to values, got nothing"),
        ("- a\n", "expected a mapping of keys to values, got ['a']"),
        ("model: toy\nmodel: toy\n", "line 2, column 1: the key 'model' is a duplicate"),
        ("model: [\n", "line 2, column 1"),
        ("model: {{ x }}\n", "line 1, column 9: a key must be one word or number"),
        ("model: 2024-99-99\n", "line 1, column 8: 2024-99-99 is read in different ways"),
        ("model: !!python/object/apply:os.system [true]\n", "python/object/apply:os.system' is not allowed"),
        ('"\\e[31m": 1\n', r"'\x1b[31m': unknown key"),
    ],
)
def test_what_is_no_mapping_is_told_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(SpecError, match=r"archive\.yaml") as raised:
        read_archive_spec(write(tmp_path, text))
    assert expected in raised.value.message


def test_a_missing_file_and_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        read_archive_spec(tmp_path / "archive.yaml")
    (tmp_path / "archive.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="cannot be read"):
        read_archive_spec(tmp_path / "archive.yaml")


def test_a_version_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    version = {"batch": {"size": 8}, "settings": {"b": 3}}
    content = {**GOOD, "batch": {"size": 4, "max_delay_ms": 5}, "settings": {"a": 1, "b": 2}, "queue_size": 7}
    spec = read_archive_spec(write(tmp_path, {**content, "versions": {"1.0": None, "2.0": version}}))
    plain, own = spec.serving("1.0"), spec.serving("2.0")
    assert (plain.batch.size, plain.batch.max_delay_ms, plain.settings) == (4, 5, {"a": 1, "b": 2})
    assert (own.batch.size, own.batch.max_delay_ms, own.settings) == (8, 1, {"a": 1, "b": 3})
    assert own.queue_size == 7


def test_a_null_in_a_version_means_the_models_value(tmp_path: Path) -> None:
    content = {**GOOD, "queue_size": 7, "cache": {}, "versions": {"1.0": {"queue_size": None, "cache": None}}}
    serving = read_archive_spec(write(tmp_path, content)).serving("1.0")
    assert serving.queue_size == 7
    assert serving.cache is not None


@pytest.mark.parametrize("path", sorted(CHECKOUT.glob("archives/*/archive.yaml")), ids=lambda path: path.parent.name)
def test_the_archives_of_the_checkout_are_right(path: Path) -> None:
    spec = read_archive_spec(path)
    assert isinstance(spec, ArchiveSpec)
    assert spec.model == path.parent.name
    assert spec.description


def test_a_spec_with_mistakes_hides_no_other(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for name, content in (("a", "model: [odd]\n"), ("b", GOOD), ("c", "no: yaml: at: all"), ("d", GOOD)):
        folder = project.archives / name
        folder.mkdir(parents=True)
        write(folder, content)
    folders, mistakes = sound_archive_folders(project)
    assert list(folders) == ["toy"]
    for name, mistake in zip("acd", mistakes, strict=True):  # d names a model that b names
        assert str(project.archives / name) in mistake.message
    with pytest.raises(SpecError):
        read_archive_folders(project)

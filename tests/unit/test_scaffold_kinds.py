"""The kind of a model is told from its bytes and names; no pickle is read, and what is not known is said."""

from __future__ import annotations

import json
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tsctl import CORE
from tsctl.config.archive import read_archive_spec
from tsctl.errors import SpecError
from tsctl.scaffold.adopt import adopted_files, columns_of, inputs_of, name_of
from tsctl.scaffold.files import write_files
from tsctl.scaffold.kinds import ARCHITECTURES, ARCHIVE, TABLE, Kind, Look, kind_of, read_look

TORCHSCRIPT = frozenset({"m/data.pkl", "m/code/__torch__.py", "m/constants.pkl", "m/version"})
EXPORTED = frozenset({"m/models/model.json", "m/archive_format", "m/data/weights/model_weights_config.json"})
PICKLE = pickle.dumps({"a": 1})

KINDS: dict[str, tuple[Look, str | None]] = {
    "TorchScript": (Look("m.pt", b"PK\x03\x04", TORCHSCRIPT), "handlers.torchscript"),
    "torch.export": (Look("m.pt2", b"PK\x03\x04", EXPORTED), "handlers.torchscript"),
    "older torch.export": (
        Look("m.pt2", b"PK\x03\x04", frozenset({"serialized_exported_program.json"})), "handlers.torchscript"
    ),
    "a state dict": (Look("m.pt", b"PK\x03\x04", frozenset({"m/data.pkl", "m/version"})), "handlers.network"),
    "an old state dict": (Look("m.pth", PICKLE), "handlers.network"),
    "safetensors": (Look("model.safetensors", b"\x08\0\0\0\0\0\0\0{}"), "handlers.network"),
    "ONNX": (Look("m.onnx", b"\x08\x09\x12\x07pytorch"), "handlers.onnx"),
    "skops": (Look("m.skops", b"PK\x03\x04", frozenset({"schema.json"})), "handlers.sklearn"),
    "joblib": (Look("m.joblib", PICKLE), "handlers.sklearn"),
    "compressed joblib": (Look("m.joblib", zlib.compress(PICKLE)), "handlers.sklearn"),
    "a pickle": (Look("m.pkl", PICKLE), "handlers.sklearn"),
    "LightGBM": (Look("m.txt", b"tree\nversion=v4\nnum_class=1\n"), "handlers.gbm"),
    "XGBoost": (Look("m.json", b'{"learner":{"attributes":{}'), "handlers.gbm"),
    "XGBoost's binary": (Look("m.ubj", b"{L\0\0\0\0\0\0\0\x07learner{"), "handlers.gbm"),
    "GGUF": (Look("m.gguf", b"GGUF\x03\0\0\0"), "handlers.text_generation"),
}  # fmt: skip
FOLDERS = {
    "BertForSequenceClassification": "handlers.text_classification",
    "LlamaForCausalLM": "handlers.text_generation",
    "GPT2LMHeadModel": "handlers.text_generation",
    "BertModel": "handlers.embedding",
}
FILES = frozenset({"config.json", "tokenizer.json", "model.safetensors"})


@pytest.mark.parametrize(("look", "handler"), KINDS.values(), ids=KINDS)
def test_a_file_has_a_kind(look: Look, handler: str | None) -> None:
    kind = kind_of(look)
    assert kind.handler == handler
    assert kind.handler or kind.instead, "where there is no handler, the message says what to do"


def test_an_archive_comes_before_all_that_may_be_in_it() -> None:
    assert kind_of(Look("m.mar", b"PK\x03\x04", TORCHSCRIPT | {"MAR-INF/MANIFEST.json"})) is ARCHIVE


@pytest.mark.parametrize(("architecture", "handler"), FOLDERS.items())
def test_a_folder_of_hugging_face_has_the_kind_of_its_architecture(architecture: str, handler: str) -> None:
    assert kind_of(Look("m", files=FILES, config={"architectures": [architecture]})).handler == handler


UNKNOWN: dict[str, tuple[Look, str]] = {
    "text": (Look("m.txt", b"hello"), "begins with b'hello'"),
    "JSON": (Look("m.json", b"{}"), "no model of a known kind"),
    "an empty file": (Look("m.onnx", b""), "no model of a known kind"),
    "something that only has ONNX's name": (Look("m.onnx", b"hello"), "no model of a known kind"),
    "a folder without config.json": (Look("m", files=frozenset({"a"})), "it has no config.json"),
    "odd architectures": (Look("m", files=FILES, config={"architectures": "BertModel"}), "it has no config.json"),
    "another architecture": (Look("m", files=FILES, config={"architectures": ["ViTForMaskedThing"]}), "no ready-made"),
    "no tokenizer": (
        Look("m", files=FILES - {"tokenizer.json"}, config={"architectures": ["BertModel"]}), "has no tokenizer.json"
    ),
    "pickled weights": (
        Look("m", files=frozenset({"tokenizer.json", "pytorch_model.bin"}), config={"architectures": ["BertModel"]}),
        "has no model.safetensors",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("look", "message"), UNKNOWN.values(), ids=UNKNOWN)
def test_what_is_not_known_is_told_with_what_was_seen(look: Look, message: str) -> None:
    with pytest.raises(SpecError, match=message) as raised:
        kind_of(look)
    assert raised.value.hint


def test_every_handler_of_the_tables_is_in_the_core() -> None:
    named = {kind.handler for _, kind in [*TABLE, *ARCHITECTURES] if kind.handler}
    assert [name for name in named if not (CORE.parent / f"{name.replace('.', '/')}.py").is_file()] == []


class Loud:
    """Its pickle runs code when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("unpickled",))


def test_no_pickle_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.joblib"
    path.write_bytes(pickle.dumps(Loud()))
    assert kind_of(read_look(path)).handler == "handlers.sklearn"
    assert "unpickled" not in capsys.readouterr().out


def test_what_cannot_be_looked_at_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read: No such file"):
        read_look(tmp_path / "nothing")
    (tmp_path / "m.pt").write_bytes(b"PK\x03\x04" + b"\0" * 100)
    with pytest.raises(SpecError, match="is a zip file that cannot be read"):
        read_look(tmp_path / "m.pt")


def test_files_and_folders_are_looked_at(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/constants.pkl", "")
        archive.writestr("m/code/__torch__.py", "")
    assert kind_of(read_look(tmp_path / "m.pt")).handler == "handlers.torchscript"
    folder = tmp_path / "encoder"
    (folder / "1_Pooling").mkdir(parents=True)
    for name in ("tokenizer.json", "model.safetensors", "1_Pooling/config.json"):
        (folder / name).write_text("{}")
    (folder / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    look = read_look(folder)
    assert look.files == FILES | {"1_Pooling/config.json"}
    (folder / "config.json").write_text("[" * 100_000)
    assert read_look(folder).config == {}, "what is no JSON says nothing"


NAMES = {
    "churn.onnx": "churn", "My Model (v2).pt": "my-model-v2", "fraud/model.joblib": "fraud", "fraud/best.pt": "fraud",
    "_x_.pt": "x", "über.pt": "ber",
}  # fmt: skip


@pytest.mark.parametrize(("path", "name"), NAMES.items())
def test_a_model_is_called_as_its_file_or_the_folder_around_it(tmp_path: Path, path: str, name: str) -> None:
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).touch()
    assert name_of(tmp_path / path) == name


def write(tmp_path: Path, source: Path, kind: Kind, *samples: Path) -> Path:
    write_files(tmp_path / "project", adopted_files(source, kind, "churn", samples))
    return tmp_path / "project" / "archives" / "churn"


def test_a_file_becomes_an_archives_folder(tmp_path: Path) -> None:
    source, sample = tmp_path / "churn.gguf", tmp_path / "one.json"
    source.write_bytes(b"GGUF\x03\0\0\0")
    sample.write_text("{}")
    folder = write(tmp_path, source, kind_of(read_look(source)), sample)
    spec = read_archive_spec(folder / "archive.yaml")
    assert (spec.model, spec.handler, spec.weights, spec.files) == (
        "churn", "handlers.text_generation", "churn.gguf", ["churn.gguf"]
    )  # fmt: skip
    assert (folder / "churn.gguf").read_bytes() == source.read_bytes()
    assert [path.name for path in (folder / "samples").iterdir()] == ["one.json"]


def test_a_folder_comes_whole_and_with_a_request_that_all_of_its_kind_take(tmp_path: Path) -> None:
    source = tmp_path / "encoder"
    (source / "1_Pooling").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json", "training_args.bin"):
        (source / name).write_text("{}")
    folder = write(tmp_path, source, kind_of(Look("encoder", files=FILES, config={"architectures": ["BertModel"]})))
    spec = read_archive_spec(folder / "archive.yaml")
    assert (spec.weights, spec.files) == ("model/model.safetensors", ["model"])
    assert (folder / "model" / "1_Pooling" / "config.json").is_file()
    assert not (folder / "model" / "training_args.bin").exists(), "a pickle that no handler reads"
    assert list(json.loads((folder / "samples" / "first.json").read_text())) == ["text"]


def test_a_sample_is_asked_for_where_none_can_be_made(tmp_path: Path) -> None:
    source = tmp_path / "churn.onnx"
    source.write_bytes(b"\x08\x09")
    kind = kind_of(read_look(source))
    with pytest.raises(SpecError, match="an ONNX model needs a request to begin with") as raised:
        write(tmp_path, source, kind)
    assert "--sample first.json" in raised.value.hint
    for name, message in (("nothing.json", "no such file"), ("odd.q", "its suffix says no media type")):
        if name == "odd.q":
            (tmp_path / name).touch()
        with pytest.raises(SpecError, match=message):
            write(tmp_path, source, kind, tmp_path / name)
    assert not (tmp_path / "project").exists()


COLUMNS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "numbers": (['{"age": 41, "income": 2.5}'], {}),
    "a column of texts": (['{"age": 41, "plan": "basic", "city": "Bonn"}'], {"texts": ["plan", "city"]}),
    "a text in the second sample, a gap in the first": (
        ['{"age": 41, "plan": null}', '{"age": 30, "plan": "basic"}'], {"texts": ["plan"], "missing": True}
    ),
    "a vectorizer": (['{"text": "Where is my parcel?"}'], {"input": "text"}),
    "a table with a column called text": (['{"text": "late", "age": 3}'], {"texts": ["text"]}),
    "columns without names": (['{"features": [1, 2, 3]}'], {}),
    "no JSON": (["age,plan"], {}),
    "a list": (["[1, 2]"], {}),
}  # fmt: skip


@pytest.mark.parametrize(("samples", "settings"), COLUMNS.values(), ids=COLUMNS)
def test_columns_of_texts_and_gaps_are_read_off_the_samples(
    tmp_path: Path, samples: list[str], settings: dict[str, Any]
) -> None:
    paths = [tmp_path / f"{number}.json" for number in range(len(samples))]
    for path, text in zip(paths, samples, strict=True):
        path.write_text(text)
    assert columns_of(paths) == settings
    source = tmp_path / "churn.joblib"
    source.write_bytes(PICKLE)
    spec = read_archive_spec(write(tmp_path, source, kind_of(read_look(source)), *paths) / "archive.yaml")
    assert spec.serving("1.0").settings == settings


def test_weights_come_with_the_file_of_their_network(tmp_path: Path) -> None:
    weights, network, sample = (tmp_path / name for name in ("m.safetensors", "net.py", "one.json"))
    weights.write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    network.write_text("def build(settings): ...")
    sample.write_text('{"x": [1.0, 2.0]}')
    kind = kind_of(read_look(weights))
    write_files(tmp_path / "project", adopted_files(weights, kind, "m", [sample], network))
    folder = tmp_path / "project" / "archives" / "m"
    spec = read_archive_spec(folder / "archive.yaml")
    assert (spec.handler, spec.weights, spec.files) == (
        "handlers.network",
        "m.safetensors",
        ["m.safetensors", "model.py"],
    )
    assert (folder / "model.py").read_text() == network.read_text()
    with pytest.raises(SpecError, match="not the network that they are for"):
        adopted_files(weights, kind, "m", [sample])
    with pytest.raises(SpecError, match="no such file"):
        adopted_files(weights, kind, "m", [sample], tmp_path / "other.py")
    with pytest.raises(SpecError, match="for weights alone"):
        adopted_files(weights, Kind("an ONNX model", "handlers.onnx"), "m", [sample], network)


def test_a_pickle_is_trusted_by_name_and_digest(tmp_path: Path) -> None:
    source, sample = tmp_path / "churn.joblib", tmp_path / "one.json"
    source.write_bytes(PICKLE)
    sample.write_text("{}")
    folder = write(tmp_path, source, kind_of(read_look(source)), sample)
    [trusted] = yaml.safe_load((folder / "archive.yaml").read_text())["trust"]
    assert trusted.startswith("churn.joblib@sha256:") and len(trusted.rpartition(":")[2]) == 64


INPUTS = {
    "numbers with a point": ('{"x": [1, 2.5]}', [{"name": "x", "shape": ["batch", 2], "dtype": "float32"}]),
    "whole numbers": ('{"ids": [[1, 2], [3, 4]]}', [{"name": "ids", "shape": ["batch", 2, 2], "dtype": "int64"}]),
    "one point in a later row": (
        '{"x": [[1, 2], [3, 4.0]]}',
        [{"name": "x", "shape": ["batch", 2, 2], "dtype": "float32"}],
    ),
    "single numbers": (
        '{"a": 1.5, "b": 2}',
        [{"name": "a", "shape": ["batch"], "dtype": "float32"}, {"name": "b", "shape": ["batch"], "dtype": "int64"}],
    ),
    "no object": ("[1]", []),
    "no JSON": ("x", []),
}


@pytest.mark.parametrize(("text", "inputs"), INPUTS.values(), ids=INPUTS)
def test_the_inputs_of_torchscript_are_those_of_the_sample(tmp_path: Path, text: str, inputs: list[Any]) -> None:
    path = tmp_path / "one.json"
    path.write_text(text)
    assert inputs_of([path]) == inputs

"""Whatever is written into an archive is read within bounds, and is one clear error where it does not fit."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.contract import JSON, Tolerance
from tests.unit.test_archive_canonical import concatenated
from tsctl.archive.behaviour import GoldenSample, bad_items, comparison_check
from tsctl.archive.checks import FAIL, PASS, WARN, pickle_check, structure_checks
from tsctl.archive.container import MAX_CONFIG_BYTES, MAX_SAMPLES_BYTES, open_archive, unpack, write_entries
from tsctl.archive.inspect import inspect_archive, read_facts, read_golden_answers
from tsctl.archive.pickles import unsafe_pickles
from tsctl.archive.samples import read_samples
from tsctl.archive.store import archive_of, require_readable, store_name
from tsctl.archive.trial import ItemRequest
from tsctl.cli.archive import inspect
from tsctl.cli.output import print_table
from tsctl.errors import ArchiveError, printable
from tsctl.host.documents import MAX_DEPTH, parse_json
from tsctl.host.progress import Progress
from tsctl.nodes.torchserve import versions

MODEL = {"modelName": "toy", "modelVersion": "1.0", "handler": "h", "configFile": "model-config.yaml"}


def archive(folder: Path, entries: Mapping[str, bytes] | None = None, config: str = "batchSize: 4") -> Path:
    path = folder / "toy.mar"
    content = {"MAR-INF/MANIFEST.json": json.dumps({"model": MODEL}).encode(), "model-config.yaml": config.encode()}
    with path.open("wb") as file:
        write_entries({**content, **(entries or {})}, file)
    return path


def deflated(path: Path, entries: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": MODEL}))
        for name, content in entries.items():
            made.writestr(name, content)
    return path


# ---- sizes -------------------------------------------------------------------------------------------------------


def test_many_small_bombs_are_one_bomb(tmp_path: Path) -> None:
    path = deflated(tmp_path / "toy.mar", {f"{number}.bin": bytes(1 << 20) for number in range(40)})
    with pytest.raises(ArchiveError, match=r"it grows \d+-fold when unpacked; at most 200-fold"):
        unpack(path, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_large_file_that_compresses_well_among_weights_is_no_bomb(tmp_path: Path) -> None:
    weights = b"".join(number.to_bytes(4, "big") * 3 for number in range(400_000))
    unpack(deflated(tmp_path / "toy.mar", {"zeros": bytes(17 << 20), "w": weights}), tmp_path / "folder")
    assert (tmp_path / "folder" / "zeros").stat().st_size == 17 << 20


def test_an_archive_that_does_not_fit_on_the_disk_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive(tmp_path, {"w": bytes(2000)})
    monkeypatch.setattr("tsctl.archive.container.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(ArchiveError, match=r"unpacks to \d+ bytes, and .* has room for 1000"):
        unpack(path, tmp_path / "folder")


@pytest.mark.parametrize("name", ["MAR-INF/MANIFEST.json", "model-config.yaml"])
def test_a_document_full_of_spaces_is_not_read(tmp_path: Path, name: str) -> None:
    big = bytes((16 << 20) + 1)
    stored = archive(tmp_path, {name: big})
    with pytest.raises(ArchiveError, match=rf"{name} has {len(big)} bytes; at most \d+ are read"):
        require_readable(stored)


def test_samples_are_read_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path, {"samples/a.json": b"{}", "samples/b.txt": b"b", "samples/": b""})
    assert read_samples(path) == [("samples/a.json", b"{}", JSON), ("samples/b.txt", b"b", "text/plain")]
    monkeypatch.setattr("tsctl.archive.samples.MAX_SAMPLES_BYTES", 2)
    with pytest.raises(ArchiveError, match="its samples have more than 2 bytes"):
        read_samples(path)
    assert MAX_SAMPLES_BYTES < 1 << 30


# ---- types and ranges --------------------------------------------------------------------------------------------

DEEP = b"[" * 100_000
WRONG_MANIFESTS: dict[str, bytes] = {
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "nothing": b"",
    "deep": DEEP,
    "deep and closed": b'{"model": ' + b"[" * 200 + b"]" * 200 + b"}",
    "a model that is a list": b'{"model": []}',
    "a name that is a list": b'{"model": {"modelName": [], "handler": "h"}}',
    "a name that is a number": b'{"model": {"modelName": 1, "handler": "h"}}',
    "a version that is a number": b'{"model": {"modelName": "m", "modelVersion": 1.0, "handler": "h"}}',
    "a handler that is an object": b'{"model": {"modelName": "m", "handler": {}}}',
    "a config file that is a list": b'{"model": {"modelName": "m", "handler": "h", "configFile": ["a"]}}',
    "two names": b'{"model": {"modelName": "m", "modelName": "n", "handler": "h"}}',
    "a huge number": b'{"model": {"modelName": "m", "handler": "h", "x": ' + b"9" * 10_000 + b"}}",
    "NaN": b'{"model": {"modelName": "m", "handler": "h", "x": NaN}}',
    "infinity": b'{"model": {"modelName": "m", "handler": "h", "x": 1e999}}',
    "no UTF-8": b'{"model": {"modelName": "\xff", "handler": "h"}}',
    "a terminal escape": b'{"model": {"modelName": "\\u001b[2J", "handler": "h"}}',
    "half a character": b'{"model": {"modelName": "\\ud800", "handler": "h"}}',
    "a long name": b'{"model": {"modelName": "' + b"x" * 1_000_000 + b'", "handler": "h"}}',
    "a long key twice": b'{"' + b"x" * 1_000_000 + b'": 1, "' + b"x" * 1_000_000 + b'": 2}',
    "a long number": b"1e" + b"9" * 1_000_000,
    "a 7z file": b"7z\xbc\xaf\x27\x1c" + bytes(100),
}
WRONG_CONFIGS: dict[str, str] = {
    "a list": "[1]",
    "a word": "word",
    "aliases": "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "deep": "a: " + "[" * 5000,
    "an object of Python": "a: !!python/object/apply:os.system ['true']",
    "a huge number": "batchSize: " + "9" * 6000,
    "a batch of 1e9": "batchSize: 1000000000",
    "a batch of none": "batchSize: 0",
    "a thousand workers": "minWorkers: 1000",
    "a timeout of years": "responseTimeout: 99999999",
    "serving that is a list": "serving: [1]",
    "limits that are a number": "serving: {limits: 3}",
    "a request of 1e12 bytes": "serving: {limits: {request_bytes: 1000000000000}}",
    "a request of a word": "serving: {limits: {request_bytes: many}}",
    "a tolerance that is a list": "serving: {tolerance: [1]}",
    "a tolerance of a word": "serving: {tolerance: {absolute: much}}",
    "an unknown tolerance": "serving: {tolerance: {wide: 1}}",
    "an infinite tolerance": "serving: {tolerance: {absolute: .inf}}",
    "a handler that is a list": "serving: {handler: [h]}",
}  # fmt: skip


def test_a_configuration_that_torchserve_would_ignore_is_not_read(tmp_path: Path) -> None:
    path = archive(tmp_path, config=f"batchSize: 4\nx: {'x' * MAX_CONFIG_BYTES}\n")
    with pytest.raises(ArchiveError, match=r"model-config\.yaml has \d+ bytes; at most"):
        require_readable(path)


def assert_one_error(path: Path) -> None:
    for read in (require_readable, inspect_archive):
        with pytest.raises(ArchiveError) as raised:
            read(path)
        assert len(raised.value.message) < 2000
        assert raised.value.message.replace("\n", "").isprintable()


@pytest.mark.parametrize("content", WRONG_MANIFESTS.values(), ids=WRONG_MANIFESTS)
def test_a_wrong_manifest_is_one_error(tmp_path: Path, content: bytes) -> None:
    path = archive(tmp_path, {"MAR-INF/MANIFEST.json": content})
    with pytest.raises(ArchiveError) as raised:
        require_readable(path)
    assert len(raised.value.message) < 2000
    assert raised.value.message.replace("\n", "").isprintable()


@pytest.mark.parametrize("config", WRONG_CONFIGS.values(), ids=WRONG_CONFIGS)
def test_a_wrong_configuration_is_one_error(tmp_path: Path, config: str) -> None:
    assert_one_error(archive(tmp_path, config=config))


@pytest.mark.parametrize("content", [b"[]", b"1", DEEP, b'{"a": 1, "a": 2}', b"{", b'{"a": 1e999}', b"\xff"])
def test_wrong_golden_answers_are_one_error(tmp_path: Path, content: bytes) -> None:
    path = archive(tmp_path, {"golden.json": content})
    with open_archive(path) as opened, pytest.raises(ArchiveError, match=r"golden\.json"):
        read_golden_answers(opened)


def test_an_archive_of_torch_model_archiver_may_have_keys_of_its_own(tmp_path: Path) -> None:
    config = "deviceType: gpu\nhandler: {mapping: x}\nmicro_batching: {mb_size: 4}\nbatchSize: 8\nparallelType: pp\n"
    with open_archive(archive(tmp_path, config=config)) as opened:
        facts = read_facts(opened)
    assert (facts.batch_size, facts.is_stock, facts.names) == (8, True, ("toy", "1.0"))
    assert facts.config["deviceType"] == "gpu"


@pytest.mark.parametrize(
    "header",
    [
        b'{"a": {"dtype": "F32", "shape": [' + b"1," * 100_000 + b"1]}}",
        b"[]",
        DEEP,
        b'{"a": 1}',
        b'{"a": {"dtype": 1, "shape": 2}}',
        b'{"a": {"dtype": "F32", "shape": ["x"]}}',
    ],
)
def test_a_wrong_header_of_tensors_shows_none(tmp_path: Path, header: bytes) -> None:
    content = len(header).to_bytes(8, "little") + header
    path = archive(tmp_path, {"w.safetensors": content, "x.safetensors": (1 << 60).to_bytes(8, "little")})
    assert inspect_archive(path).tensors == {"w.safetensors": [], "x.safetensors": []}


@pytest.mark.parametrize(
    "name",
    ["a\nb.py", "\x1b[2J.py", "a\x7f", "a//b", "./a", "a/./b", "‮.py", "x" * 1001, "/".join("a" * 40), ""],
)  # fmt: skip
def test_a_name_that_is_not_plain_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError) as raised:
        require_readable(archive(tmp_path, {name: b"1"}))
    assert raised.value.message.isprintable()


def test_names_that_are_one_on_some_disks_are_refused_in_any_form(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="appears twice"):
        require_readable(archive(tmp_path, {"\u00e9.py": b"1", "E\u0301.py": b"2"}))


def test_json_has_a_depth() -> None:
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH) is not None
    for depth in (MAX_DEPTH + 1, 500, 100_000):
        with pytest.raises(ValueError, match=f"nested more than {MAX_DEPTH} deep"):
            parse_json(b"[" * depth + b"]" * depth)


def test_what_is_printed_holds_no_character_that_a_terminal_obeys() -> None:
    assert printable("a\x1b[2J\rb\n\u202ec\ud800") == "a\\x1b[2J\\rb\\n\\u202ec\\ud800"
    assert printable("ä, 漢字") == "ä, 漢字"
    error = ArchiveError("one\x1b]0;title\x07\ntwo")
    assert error.message == str(error) == "one\\x1b]0;title\\x07\ntwo"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PARTS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("model", "modelName", "handler", "batchSize", "minWorkers", "serving", "tolerance", "limits"), VALUES
    ),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(manifest=VALUES | PARTS, model=VALUES | PARTS, config=VALUES | PARTS, serving=VALUES | PARTS, golden=VALUES)
def test_whatever_the_documents_hold_is_read_or_is_an_archive_error(
    tmp_path: Path, manifest: Any, model: Any, config: Any, serving: Any, golden: Any
) -> None:
    if isinstance(manifest, dict):
        manifest["model"] = {**MODEL, **model} if isinstance(model, dict) else model
    if isinstance(config, dict) and serving is not None:
        config["serving"] = serving
    documents = {"MAR-INF/MANIFEST.json": manifest, "model-config.yaml": config, "golden.json": golden}
    path = archive(tmp_path, {name: json.dumps(content).encode() for name, content in documents.items()})
    with suppress(ArchiveError):
        inspect_archive(path)
        require_readable(path)
        with open_archive(path) as opened:
            facts, answers = read_facts(opened), read_golden_answers(opened)
        own = [GoldenSample(name, ItemRequest(b"", JSON), value, True, True) for name, value in answers.items()]
        comparison_check(own, answers, facts.tolerance, facts.is_stock)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_bytes_are_changed_it_is_read_or_is_an_archive_error(tmp_path: Path, data: st.DataObject) -> None:
    path = archive(tmp_path, {"samples/a.json": b"{}", "golden.json": b'{"a.json": 1}', "w.safetensors": bytes(40)})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    list(structure_checks(path))
    with suppress(ArchiveError):
        inspect_archive(path)
        read_samples(path)
        unpack(path, tmp_path / "folder")


# ---- pickles -----------------------------------------------------------------------------------------------------


def test_a_torch_file_that_readers_read_in_different_ways_is_never_trusted(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(concatenated())
    check = pickle_check(unsafe_pickles(tmp_path), trust=True)
    assert check.outcome == FAIL
    assert check.detail.startswith("model.pt is a zip file that readers read in different ways")


def test_a_7z_file_is_unknown_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(100))
    found = unsafe_pickles(tmp_path)
    assert (pickle_check(found, trust=False).outcome, pickle_check(found, trust=True).outcome) == (FAIL, WARN)


class Unknown:
    def __reduce__(self) -> Any:
        return sorted, ([1],)


class Evil:
    def __reduce__(self) -> Any:
        return eval, ("1",)


def test_a_dangerous_import_comes_before_all_unknown_ones(tmp_path: Path) -> None:
    for number in range(120):
        (tmp_path / f"{number:03}.pkl").write_bytes(pickle.dumps(Unknown()))
    (tmp_path / "z.pkl").write_bytes(pickle.dumps(Evil()))
    assert unsafe_pickles(tmp_path)[0].file == "z.pkl"


@pytest.mark.parametrize(
    "operator",
    ["torch.jit._pickle\nbuild_intlist", "torch.jit._pickle\nrestore_type_tag", "__torch__.m\nM", "torch\nfloat32",
     "torch._utils\n_rebuild_qtensor", "builtins\ncomplex"],
)  # fmt: skip
def test_the_operators_of_torchs_formats_are_safe(tmp_path: Path, operator: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02c" + operator.encode() + b"\n.")
    (tmp_path / "model.pt").write_bytes(buffer.getvalue())
    assert pickle_check(unsafe_pickles(tmp_path), trust=False).outcome == PASS


@pytest.mark.parametrize("operator", ["torch.jit._pickle\nx", "torch.jit\nload", "torch\nload", "torch.hub\nload"])
def test_other_functions_of_torch_are_not(tmp_path: Path, operator: str) -> None:
    (tmp_path / "model.pkl").write_bytes(b"\x80\x02c" + operator.encode() + b"\n.")
    assert pickle_check(unsafe_pickles(tmp_path), trust=False).outcome == FAIL


# ---- something to compare ----------------------------------------------------------------------------------------


def sample(name: str, has_golden: bool = True, is_own: bool = True, media_type: str = JSON) -> GoldenSample:
    return GoldenSample(name, ItemRequest(b"\x89PNG\r\n\x1a\n" + bytes(40), media_type), 1, has_golden, is_own)


@pytest.mark.parametrize(
    ("samples", "golden", "is_stock", "outcome"),
    [
        ([sample("a")], {"a": 1}, False, PASS),
        ([], {}, False, FAIL),
        ([sample("a", has_golden=False)], {}, False, FAIL),
        ([sample("a"), sample("b", has_golden=False)], {"a": 1}, False, FAIL),
        ([sample("a")], {"a": 1, "b": 1}, False, FAIL),
        ([sample("a", has_golden=False, is_own=False)], {}, False, FAIL),
        ([sample("a"), sample("b", has_golden=False, is_own=False)], {"a": 1}, False, PASS),
        ([], {}, True, WARN),
        ([sample("a", has_golden=False, is_own=False)], {}, True, WARN),
    ],
)
def test_nothing_to_compare_is_no_pass(
    samples: list[GoldenSample], golden: dict[str, Any], is_stock: bool, outcome: str
) -> None:
    assert comparison_check(samples, golden, Tolerance(), is_stock).outcome == outcome


@pytest.mark.parametrize(
    ("golden", "tolerance", "outcome"),
    [
        ({"y": 0.5}, Tolerance(0.01), PASS),
        ({"y": 0.0}, Tolerance(0.01), PASS),
        ({"y": 0.5, "label": "cat"}, Tolerance(1e300), PASS),
        ([1], Tolerance(1e300), PASS),
        ({"faces": []}, Tolerance(1e300), PASS),
        ({"y": 0.5}, Tolerance(1e300), FAIL),
        ({"y": 0.5}, Tolerance(0.0, 100.0), FAIL),
        ({}, Tolerance(), FAIL),
        ([[], {}], Tolerance(), FAIL),
    ],
)
def test_golden_answers_that_any_answer_fits_are_no_pass(golden: Any, tolerance: Tolerance, outcome: str) -> None:
    samples = [GoldenSample("a", ItemRequest(b"", JSON), golden, has_golden=True, is_own=True)]
    assert comparison_check(samples, {"a": golden}, tolerance, is_stock=False).outcome == outcome


def test_bad_items_have_the_media_types_of_the_samples() -> None:
    items = {bad.name: bad for bad in bad_items([sample("a.png", media_type="image/png")], 10)}
    assert {bad.request.media_type for bad in items.values()} == {"image/png", "application/x-nothing"}
    malformed = items["malformed image/png"]
    assert malformed.request.body.startswith(b"\x89PNG\r\n")
    assert 415 not in malformed.statuses, "a refused media type says nothing of the decoder"
    assert len(items["oversized"].request.body) == 11
    assert {bad.request.media_type for bad in bad_items([], None)} == {JSON, "application/x-nothing"}
    assert "oversized" not in {bad.name for bad in bad_items([], 1 << 30)}


# ---- what people see ---------------------------------------------------------------------------------------------


def test_inspect_prints_no_character_that_a_terminal_obeys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    escape = "\x1b[2J\n\rerror: forged\u202e"
    header = json.dumps({escape: {"dtype": escape, "shape": [1]}}).encode()
    model = {**MODEL, "handler": escape}
    config = json.dumps({escape: escape, "batchSize": 1, "serving": {escape: [escape] * 1000}})
    path = archive(
        tmp_path,
        {"MAR-INF/MANIFEST.json": json.dumps({"model": model}).encode(),
         "w.safetensors": len(header).to_bytes(8, "little") + header},
        config,
    )  # fmt: skip
    inspect(str(path))
    printed = capsys.readouterr().out
    assert "\\x1b[2J\\n\\rerror: forged\\u202e" in printed
    assert [line for line in printed.split("\n") if not line.isprintable() or line.startswith("error")] == []
    assert len(printed) < 10_000
    inspect(str(path), json=True)
    assert json.loads(capsys.readouterr().out)[0]["handler"] == escape


def test_details_of_checks_are_printed_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("check", "detail"), [("loads", "one\x1b[2J\ntwo")])
    assert capsys.readouterr().out.splitlines()[1] == "loads  one\\x1b[2J\\ntwo"
    Progress().line("a\x1b[2J[red]b")
    assert capsys.readouterr().err == "a\\x1b[2J[red]b\n"


# ---- the way to a node -------------------------------------------------------------------------------------------


class Client:
    """A node that has no version, and takes none."""

    def describe(self, model: str, version: str) -> list[Any]:
        return []

    def register(self, archive: str, workers: int) -> None:
        raise AssertionError("TorchServe got it")


@pytest.mark.parametrize("act", [versions.register, versions.ensure, versions.replace])
def test_no_archive_with_two_readings_reaches_a_node(tmp_path: Path, act: Any) -> None:
    path = tmp_path / store_name("toy", "1.0", sha256(concatenated()).hexdigest())
    path.write_bytes(concatenated())
    node = SimpleNamespace(name="a", client=Client(), lock=lambda model: tmp_path / f"{model}.lock")
    with pytest.raises(ArchiveError, match="bytes that belong to no entry"):
        act(node, archive_of(path), 1, lambda _: None)

"""Archives are judged by what they answer in a process of their own: good ones pass, and each fault has its check."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import Result, run_command
from tests.support.stock import save_torchscript
from tsctl.archive.attempt import AttemptOptions, attempt, bodies, in_batches
from tsctl.archive.build import assemble, build_version, with_digests
from tsctl.archive.container import open_archive, unpack
from tsctl.archive.golden import make_golden
from tsctl.archive.inspect import inspect_archive
from tsctl.archive.store import find_archive, import_archive, write_archive
from tsctl.archive.trial import ItemRequest, run_probe
from tsctl.archive.trust import Trust, stated_trust
from tsctl.archive.verify import Report, verify
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project
from tsctl.errors import ArchiveError

CHECKOUT = Path(__file__).resolve().parents[2]
HANDLER = """
import torch

from handlers.base import ServingHandler
from handlers.schema import Schema


class Toy(ServingHandler):
    class Request(Schema):
        x: float

    def load(self):
        {load}

    def preprocess(self, items):
        return torch.tensor([item.x for item in items])

    def inference(self, inputs):
        return {inference}

    def postprocess(self, outputs):
        {postprocess}
        return [{{"y": value}} for value in outputs.tolist()]
"""


def make(root: Path, load: str = "pass", inference: str = "inputs * 2", postprocess: str = "pass") -> Project:
    """A project with one archive, whose handler is right unless a part of it is replaced."""
    folder = root / "archives" / "toy"
    for name in ("samples", "golden"):
        (folder / name).mkdir(parents=True)
    (folder / "handler.py").write_text(HANDLER.format(load=load, inference=inference, postprocess=postprocess))
    for name, x in (("one", 0.5), ("two", -3.0)):
        (folder / "samples" / f"{name}.json").write_text(json.dumps({"x": x}))
    (folder / "golden" / "1.0.json").write_text('{"one.json": {"y": 1.0}, "two.json": {"y": -6.0}}')
    spec: dict[str, Any] = {
        "model": "toy",
        "handler": "handler.py",
        "batch": {"size": 4},
        "threads": 1,
        "warmup": {"budget_s": 1.0},
        "versions": {"1.0": None},
    }
    (folder / "archive.yaml").write_text(yaml.safe_dump(spec))
    return Project(root)


def verified(project: Project) -> Report:
    folder = project.archives / "toy"
    made = build_version(project, folder, read_archive_spec(folder / "archive.yaml"), "1.0", lambda _: None)
    return verify(made.archive.path)


def failures(report: Report) -> dict[str, str]:
    return {check.name: check.detail for check in report.checks if check.outcome == "fail"}


def test_a_pickle_that_its_owner_trusts_is_read_everywhere(tmp_path: Path) -> None:
    load = "import gzip, pickle; pickle.loads(gzip.decompress((self.model_dir / 'm.joblib').read_bytes()))"
    project = make(tmp_path, load)
    folder = project.archives / "toy"
    (folder / "m.joblib").write_bytes(gzip.compress(pickle.dumps(Fraction(1, 2))))
    path = folder / "archive.yaml"
    path.write_text(path.read_text() + "files: [m.joblib]\n")
    report = verified(project)
    assert failures(report) == {"pickles": "m.joblib imports fractions.Fraction"}
    assert "loads" not in {check.name for check in report.checks}, "nothing ran"
    with pytest.raises(ArchiveError, match=r"m.joblib imports fractions.Fraction") as refused:
        make_golden(folder, read_archive_spec(path), "1.0", lambda _: None)
    line = refused.value.hint.splitlines()[-1].strip()
    path.write_text(f"{path.read_text()}{line}\n")
    spec = read_archive_spec(path)
    assert make_golden(folder, spec, "1.0", lambda _: None) == []
    made = build_version(project, folder, spec, "1.0", lambda _: None)
    assert failures(verify(made.archive.path, trust_of=stated_trust(project))) == {}
    with open_archive(made.archive.path) as archive:
        assert not any(b"sha256:" in archive.read(name) for name in archive.namelist()), "no archive trusts itself"
    batches = in_batches(bodies(folder, spec, "one.json", None), None)
    tried = attempt(folder, spec, "1.0", batches, AttemptOptions(turns=1), lambda _: None, stated_trust(project)("toy"))
    assert [answer.status for answer in tried.batches[0].answers] == [200]
    with pytest.raises(ArchiveError, match=r"toy 1.0 does not run: m.joblib imports fractions.Fraction"):
        attempt(folder, spec, "1.0", batches, AttemptOptions(turns=1), lambda _: None, Trust("toy"))


def test_a_good_archive_passes_every_check(tmp_path: Path) -> None:
    report = verified(make(tmp_path))
    assert failures(report) == {}
    assert [check.name for check in report.checks] == [
        "zip file",
        "manifest",
        "file name",
        "digests",
        "no module is shadowed",
        "timeouts and numbers",
        "pickles",
        "sandbox",
        "samples and golden answers",
        "loads",
        "samples are answered",
        "golden answers, alone",
        "golden answers, in a batch of 4",
        "answers do not depend on neighbours",
        "empty application/json item",
        "malformed application/json item",
        "wrong media type item",
        "oversized item",
        "one empty application/json item among good ones",
        "one malformed application/json item among good ones",
        "one wrong media type item among good ones",
        "one oversized item among good ones",
    ]


FAULTS: dict[str, tuple[dict[str, str], str, str]] = {
    "a wrong answer": ({"inference": "inputs * 2.01"}, "loads", "is not the golden answer: y: expected 1.0, got 1.00"),
    "answers that depend on their neighbours": (
        {"inference": "inputs * 2 + (inputs - inputs.mean())"},
        "loads",
        "one.json, in a batch, is not the golden answer",
    ),
    "a batch that only works in halves": (
        {"inference": "inputs * 2 if len(inputs) < 3 else 1 / 0"},
        "loads",
        "ZeroDivisionError",
    ),
    "no load": ({"load": "raise OSError('no weights')"}, "loads", "OSError: no weights"),
    "a missing module": ({"load": "import no_such_module"}, "loads", "No module named 'no_such_module'"),
    "an end of the process": ({"load": "import os; os._exit(3)"}, "loads", "the process ended without a result"),
    "an answer too few": ({"postprocess": "outputs = outputs[1:]"}, "loads", "postprocess returned 0 answers for 1"),
    "an answer that is no number": ({"inference": "inputs / 0"}, "loads", "The model answered NaN or infinity"),
    "answers in another order": ({"inference": "(inputs * 2).flip(0)"}, "loads", "is not the golden answer"),
}


@pytest.mark.parametrize(("parts", "check", "detail"), FAULTS.values(), ids=FAULTS)
def test_a_fault_fails_its_check(tmp_path: Path, parts: dict[str, str], check: str, detail: str) -> None:
    found = failures(verified(make(tmp_path, **parts)))
    assert list(found) == [check]
    assert detail in found[check]


STOCK = '''
import json

class Stock:
    """As TorchServe's documentation writes handlers: one bad item fails its batch."""

    def initialize(self, context):
        self.seen = 0

    def handle(self, data, context):
        self.seen += 1
        bodies = [row.get("data") or row.get("body") for row in data]
        return {answer}
'''


def stock_archive(folder: Path, answer: str) -> Path:
    """An archive made by torch-model-archiver."""
    folder.mkdir()
    (folder / "stock_handler.py").write_text(STOCK.format(answer=answer))
    (folder / "model-config.yaml").write_text("batchSize: 4\nmaxBatchDelay: 1\n")
    return stock(folder, "--handler", "stock_handler.py", "--config-file", "model-config.yaml")


def test_a_stock_archive_is_warned_of_and_not_refused(tmp_path: Path) -> None:
    path = stock_archive(tmp_path / "stock", "[{'y': 3 * body['x']} for body in bodies]")
    (tmp_path / "sample.json").write_text('{"x": 2}')
    report = verify(path, samples=[tmp_path / "sample.json"])
    assert report.is_good, failures(report)
    outcomes = {check.name: check.outcome for check in report.checks}
    assert outcomes["answers do not depend on neighbours"] == "pass"
    assert outcomes["one malformed application/json item among good ones"] == "warn"
    assert verify(path).is_good, "without a sample too"


def test_a_stock_archive_whose_answers_depend_on_their_neighbours_is_told(tmp_path: Path) -> None:
    path = stock_archive(tmp_path / "stock", "[{'y': sum(b['x'] for b in bodies)} for body in bodies]")
    (tmp_path / "sample.json").write_text('{"x": 2}')
    outcomes = {check.name: check.outcome for check in verify(path, samples=[tmp_path / "sample.json"]).checks}
    assert outcomes["answers do not depend on neighbours"] == "warn"


def test_nothing_of_a_dangerous_archive_runs(tmp_path: Path) -> None:
    project = make(tmp_path / "p", load=f"open({str(tmp_path / 'ran')!r}, 'w')")
    folder = project.archives / "toy"
    (folder / "weights.pkl").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    spec = yaml.safe_load((folder / "archive.yaml").read_text())
    (folder / "archive.yaml").write_text(yaml.safe_dump({**spec, "files": ["weights.pkl"]}))
    assert failures(verified(project)) == {"pickles": "weights.pkl imports posix.system"}
    assert not (tmp_path / "ran").exists()


def test_an_archive_that_does_not_end_is_stopped_with_what_it_started(tmp_path: Path) -> None:
    project = make(tmp_path, load="import subprocess, time; subprocess.Popen(['sleep', '3617']); time.sleep(600)")
    verified_path = tmp_path / "toy.mar"
    folder = project.archives / "toy"
    made = build_version(project, folder, read_archive_spec(folder / "archive.yaml"), "1.0", lambda _: None)
    verified_path.hardlink_to(made.archive.path)
    found = failures(verify(verified_path, timeout_s=8))
    assert "stopped after 8 s" in found["loads"]
    commands = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if os.access(p, os.R_OK)]
    assert b"sleep\x003617\x00" not in commands


@pytest.mark.parametrize("model", ["digits:1.0", "breast_cancer:1.0"])
def test_the_bundled_handlers_run_and_not_the_checkouts(model: str, tmp_path: Path) -> None:
    archive = find_archive(Project(CHECKOUT), *model.split(":"))
    unpack(archive.path, tmp_path)
    trial = run_probe(tmp_path, 1, [[ItemRequest(b"", "application/json")]])
    assert trial.answers[0][0].status == 400
    assert trial.handlers_file is not None
    assert Path(trial.handlers_file) == tmp_path / "handlers" / "__init__.py"


def test_golden_answers_are_made_from_the_present_ones_and_hold(tmp_path: Path) -> None:
    project = make(tmp_path, inference="inputs * 2 / 3")
    folder = project.archives / "toy"
    spec = read_archive_spec(folder / "archive.yaml")
    (folder / "samples" / "new.json").write_text('{"x": 0}')
    assert make_golden(folder, spec, "1.0", lambda _: None) == ["new.json", "one.json", "two.json"]
    kept = json.loads((folder / "golden" / "1.0.json").read_text())
    assert kept == {"new.json": {"y": 0.0}, "one.json": {"y": 0.333333}, "two.json": {"y": -2.0}}
    assert make_golden(folder, spec, "1.0", lambda _: None) == []
    by_hand = '{"new.json": {"y": 0.0}, "one.json": {"y": 0.33334}, "two.json": {"y": -2.0}}'
    (folder / "golden" / "1.0.json").write_text(by_hand)
    assert make_golden(folder, spec, "1.0", lambda _: None) == [], "within the tolerance"
    assert (folder / "golden" / "1.0.json").read_text() == by_hand
    (folder / "golden" / "1.0.json").write_text("{broken")
    assert make_golden(folder, spec, "1.0", lambda _: None) == ["new.json", "one.json", "two.json"]
    assert failures(verified(project)) == {}


def test_a_sample_that_is_refused_gives_no_golden_answer(tmp_path: Path) -> None:
    project = make(tmp_path)
    folder = project.archives / "toy"
    (folder / "samples" / "bad.json").write_text('{"z": 0}')
    with pytest.raises(ArchiveError, match=r"sample bad\.json: answered 422"):
        make_golden(folder, read_archive_spec(folder / "archive.yaml"), "1.0", lambda _: None)


def test_inspect_tells_tensors_without_torch() -> None:
    archive = find_archive(Project(CHECKOUT), "digits", "2.0")
    contents = inspect_archive(archive.path)
    assert contents.digest.startswith(archive.digest)
    tensors = {tensor.name: tensor for tensor in contents.tensors["model.safetensors"]}
    assert len(tensors) > 4
    assert {tensor.dtype for tensor in tensors.values()} == {"F32"}
    assert contents.manifest["model"]["modelVersion"] == "2.0"


# ---- the command line --------------------------------------------------------------------------------------------


def tsctl(project: Project, *arguments: str) -> Result:
    return run_command(["archive", *arguments], project.root, os.environ, 120)


def test_exit_codes_tell_a_script_what_is_wrong(tmp_path: Path) -> None:
    project = make(tmp_path)
    assert "no archive of toy 1.0" in tsctl(project, "verify", "toy").err
    first = tsctl(project, "build", "--json")
    assert (first.status, json.loads(first.out)[0]["is_new"]) == (0, True)
    assert "nothing to build: 1 archive unchanged" in tsctl(project, "build").out
    good = tsctl(project, "verify", "--json")
    assert (good.status, json.loads(good.out)[0]["is_good"]) == (0, True)

    (project.archives / "toy" / "golden" / "1.0.json").write_text('{"one.json": {"y": 1.0}, "two.json": {"y": 7.0}}')
    assert tsctl(project, "build").status == 0
    bad = tsctl(project, "verify", "toy:1.0")
    assert bad.status == 3
    assert "two.json, alone, is not the golden answer: y: expected 7.0, got -6.0" in " ".join(bad.out.split())
    assert "error: failed verification: toy-1.0-" in bad.err

    (project.archives / "toy" / "archive.yaml").write_text("model: toy\n")
    assert tsctl(project, "build").status == 2
    unknown = tsctl(project, "build", "nothing")
    assert unknown.status == 2
    assert "Traceback" not in unknown.err
    missing = tsctl(project, "inspect", str(tmp_path / "none.mar"))
    assert (missing.status, "no such file" in missing.err) == (3, True)


def test_an_imported_stock_archive_is_listed_and_inspected(tmp_path: Path) -> None:
    project = make(tmp_path / "p")
    archive = import_archive(project, stock_archive(tmp_path / "stock", "[body for body in bodies]"))
    [row] = json.loads(tsctl(project, "list", "--json").out)
    assert (row["model"], row["digest"], row["current"]) == ("stock", archive.digest, True)
    told = tsctl(project, "inspect", str(archive.path)).out
    assert "torch-model-archiver" in told
    assert "stock_handler.py" in told


# ---- stock archives, TorchScript, and other media types ----------------------------------------------------------

SCRIPTED = """
import torch

class Scripted:
    def initialize(self, context):
        self.network = torch.jit.load(context.system_properties["model_dir"] + "/model.pt")

    def handle(self, data, context):
        rows = [row.get("data") or row.get("body") for row in data]
        return self.network(torch.tensor([row["x"] for row in rows])).tolist()
"""


def torchscript_archive(folder: Path) -> Path:
    """An archive of torch-model-archiver that serves TorchScript."""
    folder.mkdir()
    save_torchscript(folder / "model.pt")
    (folder / "scripted.py").write_text(SCRIPTED)
    return stock(folder, "--handler", "scripted.py", "--serialized-file", "model.pt")


def stock(folder: Path, *arguments: str) -> Path:
    subprocess.run(
        [Path(sys.executable).parent / "torch-model-archiver", "--model-name", "stock", "--version", "1.0",
         "--export-path", folder, *arguments],
        check=True, timeout=60, capture_output=True, cwd=folder,
    )  # fmt: skip
    return folder / "stock.mar"


def test_a_torchscript_archive_passes_without_trust(tmp_path: Path) -> None:
    path = torchscript_archive(tmp_path / "stock")
    (tmp_path / "sample.json").write_text('{"x": [2.0]}')
    report = verify(path, samples=[tmp_path / "sample.json"])
    assert report.is_good, failures(report)
    assert {check.name: check.outcome for check in report.checks}["pickles"] == "pass"


def test_a_sample_that_is_not_answered_fails_a_stock_archive_too(tmp_path: Path) -> None:
    path = stock_archive(tmp_path / "stock", "1 / 0")
    (tmp_path / "sample.json").write_text('{"x": 2}')
    found = failures(verify(path, samples=[tmp_path / "sample.json"]))
    assert list(found) == ["samples are answered"]
    assert found["samples are answered"].startswith("sample.json: answered 503")


def test_a_stock_archive_with_nothing_to_compare_is_warned_of(tmp_path: Path) -> None:
    report = verify(stock_archive(tmp_path / "stock", "[1 for body in bodies]"))
    [check] = [check for check in report.checks if check.name == "samples and golden answers"]
    assert (check.outcome, check.detail) == ("warn", "no sample, so no answer is compared: name one with --sample")


def test_an_archive_without_golden_answers_fails_and_does_not_run(tmp_path: Path) -> None:
    project = make(tmp_path / "p", load=f"open({str(tmp_path / 'ran')!r}, 'w')")
    folder = project.archives / "toy"
    entries = assemble(folder, read_archive_spec(folder / "archive.yaml"), "1.0", None)
    entries["golden.json"] = b"{}"
    path = write_archive(with_digests(entries), project.store, "toy", "1.0").path
    found = failures(verify(path))
    assert list(found) == ["samples and golden answers"]
    assert "do not match one to one: one.json, two.json" in found["samples and golden answers"]


PICTURES = """
from handlers.base import ServingHandler
from handlers.errors import UndecodableBody


class Pictures(ServingHandler):
    media_types = ("image/png",)

    def load(self):
        pass

    def decode(self, body, media_type):
        {decode}
        return len(body)

    def preprocess(self, items):
        return items

    def inference(self, inputs):
        return inputs

    def postprocess(self, outputs):
        return [{{"bytes": count}} for count in outputs]
"""


@pytest.mark.parametrize(
    ("decode", "outcome"),
    [("if not body.startswith(b'\\x89PNG') or len(body) > 50: raise UndecodableBody('no picture')", {}),
     ("if not body: raise UndecodableBody('no')", {"malformed image/png item": "answered 200, expected 400 or 422"})],
    ids=["that checks", "that does not"],
)  # fmt: skip
def test_the_decoder_of_a_handler_of_pictures_is_tried(tmp_path: Path, decode: str, outcome: dict[str, str]) -> None:
    project = make(tmp_path)
    folder = project.archives / "toy"
    (folder / "handler.py").write_text(PICTURES.format(decode=decode))
    for sample in (folder / "samples").iterdir():
        sample.unlink()
    (folder / "samples" / "one.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    (folder / "golden" / "1.0.json").write_text('{"one.png": {"bytes": 28}}')
    found = failures(verified(project))
    assert {name: found[name] for name in outcome} == outcome
    assert bool(found) == bool(outcome)

"""TorchScript and programs of torch.export: inputs by the file or the settings, outputs of every form, sounds too."""

from __future__ import annotations

import importlib.util
import io
import json
import warnings
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handlers.errors import LoadError
from handlers.torchscript import TorchScriptHandler
from tests.handlers.test_onnx_handler import npy, post
from tests.support.workers import Worker, assert_problem, write_archive_folder

X = {"name": "x", "shape": ["batch", "size"], "dtype": "float32"}


class Sums(torch.nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """The sum of a row, and the row doubled."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.sum(dim=1), x * 2


class Named(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": x + y, "product": x * y}


def scripted(module: torch.nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module.eval()).save(path)
    return path


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Worker]:
    """A worker of a model's file that answers a sample as it should."""

    def made(model: Path, request: Any, answer: Any, **settings: Any) -> Worker:
        samples, golden = {"one.json": json.dumps(request).encode()}, {"one.json": answer}
        folder = write_archive_folder(tmp_path / "toy", samples, golden, settings, weights=model)
        return Worker(TorchScriptHandler(), folder)

    return made


@pytest.fixture(scope="module")
def digits_program(unpack_example: Callable[[str], Path]) -> Worker:
    return Worker(TorchScriptHandler(), unpack_example("digits"))


@pytest.fixture(scope="module")
def voices(unpack_example: Callable[[str], Path]) -> Worker:
    folder = unpack_example("voice_activity")
    spec = importlib.util.spec_from_file_location("voice_activity_handler", folder / "handler.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Worker(module.VoiceActivityHandler(), folder)


def test_an_exported_program_says_what_it_takes(digits_program: Worker) -> None:
    metadata = digits_program.entry.worker.protocols.metadata()
    assert metadata["inputs"] == [{"name": "pixels", "datatype": "FP64", "shape": [-1, 8, 8]}]
    body = (digits_program.folder / "samples" / "digit-3.npy").read_bytes()
    reply = digits_program.ask_one(body, "application/x-npy")
    assert reply.json()["label"] == reply.headers["x-prediction-class"] == "3"
    wrong, right = post(digits_program, {"pixels": [[0.0] * 8] * 7}, {"pixels": np.load(io.BytesIO(body)).tolist()})
    assert [error["field"] for error in assert_problem(wrong, 422)["errors"]] == ["pixels"]
    assert right.json()["label"] == "3"


def test_outputs_of_torchscript_are_named_by_the_settings(tmp_path: Path, serve: Callable[..., Worker]) -> None:
    path = scripted(Sums(), tmp_path / "model.pt")
    golden = {"total": 3.0, "double": [2.0, 4.0]}
    worker = serve(path, {"x": [1, 2]}, golden, inputs=[X], output_names=["total", "double"])
    answers = post(worker, {"x": [1, 1, 1]}, {"x": [5]})
    assert [reply.json() for reply in answers] == [
        {"total": 3, "double": [2, 2, 2]},
        {"total": 5, "double": [10]},
    ]


def test_outputs_without_names_are_numbered(tmp_path: Path, serve: Callable[..., Worker]) -> None:
    path = scripted(Sums(), tmp_path / "model.pt")
    serve(path, {"x": [1, 2]}, {"output_0": 3.0, "output_1": [2.0, 4.0]}, inputs=[X])


def test_a_dictionary_of_outputs(tmp_path: Path, serve: Callable[..., Worker]) -> None:
    path = scripted(Named(), tmp_path / "model.pt")
    both = [{"name": name, "shape": ["n"]} for name in ("x", "y")]
    names = ["sum", "product"]
    worker = serve(path, {"x": 2, "y": 3}, {"sum": 5.0, "product": 6.0}, inputs=both, output_names=names)
    assert post(worker, {"x": 1, "y": 4})[0].json() == {"sum": 5, "product": 4}


def test_an_exported_program_of_several_inputs_and_a_fixed_batch(tmp_path: Path, serve: Callable[..., Worker]) -> None:
    program = torch.export.export(Named(), (torch.zeros(4, 2),), {"y": torch.zeros(4, 2)})
    torch.export.save(program, tmp_path / "model.pt2")
    request, answer = {"x": [1, 2], "y": [3, 4]}, {"product": [3.0, 8.0]}
    worker = serve(
        tmp_path / "model.pt2", request, answer, batch_axis=0, output_names=["sum", "product"], outputs=["product"]
    )
    answers = post(worker, *({"x": [number, 0], "y": [number, 1]} for number in range(5)))
    assert [reply.json()["product"] for reply in answers] == [[number**2, 0] for number in range(5)]


def test_acceleration_reaches_an_exported_program(digits_program: Worker) -> None:
    assert isinstance(digits_program.handler.network, torch.nn.Module)


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "no inputs": ({}, r"does not say which shapes .* settings\.inputs: \[\{name: x, shape"),
    "an input without a shape": ({"inputs": [{"name": "x"}]}, "each has name, shape and dtype"),
    "a type that is none": ({"inputs": [{**X, "dtype": "float3"}]}, "each has name, shape and dtype"),
    "a type of texts": ({"inputs": [{**X, "dtype": "str"}]}, "the dtype of x is <U0"),
    "too few names": ({"inputs": [X], "output_names": ["a"]}, "the model gave 2 outputs"),
}


@pytest.mark.parametrize(("settings", "reason"), UNFIT.values(), ids=UNFIT)
def test_settings_that_do_not_fit_the_model_are_named(
    tmp_path: Path, serve: Callable[..., Worker], settings: dict[str, Any], reason: str
) -> None:
    path = scripted(Sums(), tmp_path / "model.pt")
    with pytest.raises(LoadError, match=reason):
        serve(path, {"x": [1, 2]}, {}, **settings)


@pytest.mark.parametrize("name", ["model.pt", "model.pt2"])
def test_a_file_that_is_no_model_is_named(tmp_path: Path, serve: Callable[..., Worker], name: str) -> None:
    (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(LoadError, match=rf"{name} cannot be loaded by torch: ."):
        serve(tmp_path / name, {}, {}, inputs=[X])


def sound(values: np.ndarray, rate: int = 8000, channels: int = 1) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((channels, 2, rate, len(values), "NONE", ""))
        file.writeframes((values * 32767).astype("<i2").tobytes())
    return out.getvalue()


def test_sounds_reach_a_ready_made_handler_through_a_few_lines(voices: Worker) -> None:
    body = (voices.folder / "samples" / "voice.wav").read_bytes()
    by_file = voices.ask_one(body, "audio/x-wav").json()
    assert [set(part) for part in by_file["speech"]] == [{"begin_s", "end_s"}]
    with wave.open(io.BytesIO(body)) as file:
        numbers = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
    assert post(voices, {"sound": numbers.tolist()})[0].json() == by_file


SOUNDS: dict[str, tuple[bytes, int, str]] = {
    "no sound": (b"RIFF", 400, "is not a WAV file"),
    "another rate": (sound(np.zeros(512), rate=16000), 422, "16000 samples a second"),
    "two channels": (sound(np.zeros(512), channels=2), 422, "2 channels"),
    "too short": (sound(np.zeros(10)), 422, "at least 256 samples"),
}


@pytest.mark.parametrize(("body", "status", "detail"), SOUNDS.values(), ids=SOUNDS)
def test_sounds_that_do_not_fit_are_refused(voices: Worker, body: bytes, status: int, detail: str) -> None:
    assert detail in assert_problem(voices.ask_one(body, "audio/wav"), status)["detail"]


def test_records_of_arrays_say_no_more_than_numbers(digits_program: Worker) -> None:
    item = digits_program.handler.decode_row({"pixels": [[1.0] * 8] * 8})
    summary = digits_program.handler.summarize(item)
    assert (summary["pixels.mean"], summary["pixels.max"]) == (1.0, 1.0)
    assert digits_program.handler.redact(item) == {"pixels": [[1.0] * 8] * 8}
    assert npy(item["pixels"])

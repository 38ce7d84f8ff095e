"""Handlers of other media types than JSON and pictures: their samples, and what clients may send."""

from __future__ import annotations

import io
import wave
from typing import Any, ClassVar

import pytest
import torch
from pydantic import BaseModel

from handlers.base import ServingHandler
from handlers.errors import UndecodableBody
from handlers.schema import Schema
from tests.support.workers import Worker, assert_problem, write_archive_folder


def sound(frames: int, rate: int = 8000) -> bytes:
    """A silent WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, rate, frames, "NONE", ""))
        file.writeframes(bytes(2 * frames))
    return out.getvalue()


class Sound(Schema):
    frames: int
    rate: int


class SoundHandler(ServingHandler):
    """Seconds of a sound."""

    media_types: ClassVar = ("audio/wav",)

    def load(self) -> None:
        self.network = torch.nn.Identity()

    def decode(self, body: bytes, media_type: str) -> BaseModel:
        try:
            with wave.open(io.BytesIO(body)) as file:
                return Sound(frames=file.getnframes(), rate=file.getframerate())
        except (wave.Error, EOFError) as error:
            raise UndecodableBody(f"This is no WAV file: {error}.") from None

    def preprocess(self, items: list[Sound]) -> torch.Tensor:
        return torch.tensor([item.frames / item.rate for item in items])

    def postprocess(self, outputs: torch.Tensor) -> list[Any]:
        return [{"seconds": value} for value in outputs.tolist()]


class AnyHandler(SoundHandler):
    """Bytes of a body, and its media type."""

    media_types: ClassVar = ("*/*",)

    def decode(self, body: bytes, media_type: str) -> Any:
        return media_type, len(body)

    def preprocess(self, items: list[Any]) -> Any:
        return items

    def postprocess(self, outputs: Any) -> list[Any]:
        return [{"type": media_type, "bytes": size} for media_type, size in outputs]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    folder = write_archive_folder(
        tmp_path_factory.mktemp("sound") / "toy",
        {"one.wav": sound(8000)},
        {"one.wav": {"seconds": 1.0}},
        serving={"sample_types": {".wav": "audio/wav"}, "limits": {"request_bytes": 1 << 20}},
    )
    return Worker(SoundHandler(), folder)


@pytest.fixture(scope="module")
def anything(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    folder = tmp_path_factory.mktemp("any") / "toy"
    golden = {"one.json": {"type": "application/json", "bytes": 2}}
    return Worker(AnyHandler(), write_archive_folder(folder, {"one.json": b"{}"}, golden))


def test_samples_of_another_media_type_are_verified_and_warm(worker: Worker) -> None:
    assert worker.ask_one(sound(4000), "audio/wav").json() == {"seconds": 0.5}


@pytest.mark.parametrize("sent_as", ["", "application/octet-stream"])
def test_a_body_without_a_media_type_is_of_the_only_one_that_is_read(worker: Worker, sent_as: str) -> None:
    assert worker.ask_one(sound(16000), sent_as).json() == {"seconds": 2.0}
    assert_problem(worker.ask_one(b"RIFF", sent_as), 400)


@pytest.mark.parametrize("name", ["audio/x-wav", "audio/vnd.wave", "audio/wave"])
def test_other_names_of_a_media_type_are_read(worker: Worker, name: str) -> None:
    assert worker.ask_one(sound(4000), name).json() == {"seconds": 0.5}


def test_a_handler_may_read_a_media_type_by_any_of_its_names(tmp_path_factory: pytest.TempPathFactory) -> None:
    class OldName(SoundHandler):
        media_types: ClassVar = ("audio/x-wav",)

    golden, serving = {"one.wav": {"seconds": 1.0}}, {"sample_types": {".wav": "audio/vnd.wave"}}
    limits = {"limits": {"request_bytes": 1 << 20}}
    folder = tmp_path_factory.mktemp("old") / "toy"
    write_archive_folder(folder, {"one.wav": sound(8000)}, golden, serving={**serving, **limits})
    worker = Worker(OldName(), folder)
    assert worker.ask_one(sound(4000), "audio/wav").json() == {"seconds": 0.5}
    assert worker.ask_one(sound(4000), "audio/wave").json() == {"seconds": 0.5}


def test_any_other_media_type_is_named(worker: Worker) -> None:
    assert "audio/wav" in assert_problem(worker.ask_one(b"{}", "application/json"), 415)["detail"]


@pytest.mark.parametrize(
    ("body", "sent_as", "media_type"),
    [
        (b"{}", "application/x-own", "application/x-own"),
        (b"{}", "", "application/json"),
        (b"\xff\xd8\xff\xe0", "", "image/jpeg"),
        (sound(1), "application/octet-stream", "audio/wav"),
        (b"PK\x03\x04", "", "application/octet-stream"),
        (b"\x00\x01", "", "application/octet-stream"),
    ],
)
def test_a_handler_of_any_media_type_is_told_which(
    anything: Worker, body: bytes, sent_as: str, media_type: str
) -> None:
    assert anything.ask_one(body, sent_as).json() == {"type": media_type, "bytes": len(body)}

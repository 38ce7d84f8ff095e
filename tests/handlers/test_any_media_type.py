"""A handler of any media type, or of raw bytes, is built and verified with samples of every kind."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import yaml

from tests.handlers.test_archive_verify import failures
from tests.handlers.test_media_types import sound
from tsctl.archive.build import build_version
from tsctl.archive.golden import make_golden
from tsctl.archive.samples import read_samples
from tsctl.archive.verify import Report, verify
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project

ANY = '''
"""The mean of numbers, in whatever way they come."""

import io
import json
import struct
import wave

import numpy as np

from handlers.base import ServingHandler
from handlers.errors import UndecodableBody, UnsupportedMedia


class Mean(ServingHandler):
    media_types = ("*/*",)

    def load(self):
        pass

    def decode(self, body, media_type):
        try:
            return media_type, self.numbers(body, media_type)
        except (EOFError, KeyError, TypeError, ValueError, struct.error, wave.Error) as error:
            raise UndecodableBody(f"These are no numbers: {error}.") from None

    def numbers(self, body, media_type):
        match media_type:
            case "application/json":
                return [float(value) for value in json.loads(body)["numbers"]]
            case "text/csv":
                return [float(value) for value in body.decode().split(",")]
            case "audio/wav":
                with wave.open(io.BytesIO(body)) as file:
                    return np.frombuffer(file.readframes(file.getnframes()), "<i2").tolist()
            case "application/x-npy":
                return np.load(io.BytesIO(body), allow_pickle=False).tolist()
            case "application/x-protobuf":
                if body[:1] != b"\\x0a" or body[1] != len(body) - 2:
                    raise ValueError("no packed field 1")
                return list(struct.unpack(f"<{body[1] // 4}f", body[2:]))
            case "audio/l16" | "application/octet-stream":
                return np.frombuffer(body[: len(body) // 2 * 2], ">i2").tolist()
        raise UnsupportedMedia(f"{media_type} holds no numbers.")

    def preprocess(self, items):
        return items

    def inference(self, inputs):
        return inputs

    def postprocess(self, outputs):
        return [{"type": kind, "mean": round(float(np.mean(numbers)), 6)} for kind, numbers in outputs]
'''


def npy() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([1.0, 2.0]))
    return out.getvalue()


SAMPLES = {
    "one.json": b'{"numbers": [1, 2]}',
    "two.csv": b"1,2,6",
    "three.wav": sound(50),
    "four.npy": npy(),
    "five.pb": b"\x0a\x08" + struct.pack("<2f", 1.5, 2.5),
    "six.pcm": b"\x00\x01\x00\x03",
}


def built(root: Path, handler: str, samples: dict[str, bytes]) -> Path:
    """The archive of a handler with these samples, and golden answers that it gave itself."""
    folder = root / "archives" / "toy"
    (folder / "samples").mkdir(parents=True)
    (folder / "handler.py").write_text(handler)
    for name, body in samples.items():
        (folder / "samples" / name).write_bytes(body)
    spec = {
        "model": "toy", "handler": "handler.py", "batch": {"size": 4}, "threads": 1, "warmup": {"budget_s": 0.1},
        "sample_types": {".pcm": "audio/l16"}, "versions": {"1.0": None},
    }  # fmt: skip
    (folder / "archive.yaml").write_text(yaml.safe_dump(spec))
    read = read_archive_spec(folder / "archive.yaml")
    assert len(make_golden(folder, read, "1.0", lambda _: None)) == len(samples)
    return build_version(Project(root), folder, read, "1.0", lambda _: None).archive.path


def outcomes(report: Report) -> dict[str, tuple[str, str]]:
    return {check.name: (check.outcome, check.detail) for check in report.checks}


def test_a_handler_of_any_media_type_passes_with_samples_of_all(tmp_path: Path) -> None:
    path = built(tmp_path, ANY, SAMPLES)
    types = {name.removeprefix("samples/"): media_type for name, _, media_type in read_samples(path)}
    assert types["five.pb"] == "application/x-protobuf"
    assert types["six.pcm"] == "audio/l16"
    report = verify(path)
    assert failures(report) == {}
    found = outcomes(report)
    assert found["wrong media type item"] == ("pass", "415"), "its own answer to what it cannot read"
    assert found["malformed application/x-npy item"] == ("pass", "400")
    assert found["malformed audio/l16 item"][0] == "pass"


def test_raw_bytes_that_are_all_good_are_a_warning_and_no_failure(tmp_path: Path) -> None:
    handler = ANY.replace('("*/*",)', '("audio/l16",)')
    found = outcomes(verify(built(tmp_path, handler, {"six.pcm": SAMPLES["six.pcm"]})))
    assert found["malformed audio/l16 item"][0] == "warn"
    assert found["one malformed audio/l16 item among good ones"][0] == "pass"
    assert found["wrong media type item"] == ("pass", "415")
    assert not [name for name, (outcome, _) in found.items() if outcome == "fail"]

"""Whole messages to a worker's socket: forms, headers and media types, and the bytes that go back."""

from __future__ import annotations

from pathlib import Path

from handlers.contract import JPEG, PNG
from handlers.image import ImageHandler
from tests.fuzz import fields
from tests.fuzz.answered import Between
from tests.fuzz.surface import Surface
from tests.support.messages import message
from tests.support.workers import JSON, Worker, unpacked

FORM = ("Content-Type", "multipart/form-data; boundary=x")


def open_surface(folder: Path) -> Surface:
    """A worker of the archive `digits`, unpacked into `folder`."""
    between = Between(Worker(ImageHandler(), unpacked("digits", "2.0", folder)))

    def check(content: bytes) -> None:
        between.check([(headers, parts) for _, headers, parts in fields.read(content)])

    tokens = tuple(text.encode() for text in (*fields.NAMES, *fields.VALUES) if 0 < len(text) < 60)
    return Surface(check, seeds(folder / "samples"), fields.mutate, tokens=tokens)


def seeds(samples: Path) -> dict[str, bytes]:
    """Messages of the archive's samples as bare bodies and as forms, with the headers that mean something."""
    picture = next(path for path in sorted(samples.iterdir()) if path.suffix == ".png").read_bytes()
    photo = next(path for path in sorted(samples.iterdir()) if path.suffix == ".jpg").read_bytes()
    row = next(path for path in sorted(samples.iterdir()) if path.suffix == ".json").read_bytes()
    kinds = {"json": (JSON, row), "png": (PNG, picture), "jpeg": (JPEG, photo), "none": ("", row)}
    found = {
        f"bare-{name}": message([("1", [("content-type", kind)], [("body", kind, body)])])
        for name, (kind, body) in kinds.items()
    }
    forms = {f"form-{name}": [("data", kind, body)] for name, (kind, body) in kinds.items()}
    forms["form-repeated"] = [("data", JSON, row), ("data", JSON, b"{}")]
    forms["form-two"] = [("data", JSON, row), ("body", PNG, picture)]
    forms["form-empty"] = [("data", "", b"")]
    forms["form-none"] = []
    found |= {name: message([("1", [FORM], parts)]) for name, parts in forms.items()}
    for name in fields.NAMES:
        for number, value in enumerate(("0", "True", "999999999999999")):
            found[f"header-{name or 'empty'}-{number}"] = message([("1", [(name, value)], [("body", JSON, row)])])
    found["describe"] = message([("1", [("describe", "True")], [])])
    found["urlencoded"] = message([("1", [("Content-Type", fields.VALUES[8])], [(row.decode(), "", b"")])])
    return found

"""Every input that ever found a defect, and every seed, holds on every run; and the mutators keep their formats."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from handlers.adapters.torchserve.wire import Reader
from tests.fuzz import fields, pictures, texts
from tests.fuzz.surface import Surface, bounded
from tests.support.messages import Connection, message

HERE = Path(__file__).resolve().parent
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.py"))


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """Loading a handler changes its worker's environment; this process gets its own back."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Surface]:
    name = request.param
    module = importlib.import_module(f"tests.fuzz.fuzz_{name}")
    return name, module.open_surface(tmp_path_factory.mktemp(name) / "archives")


def test_what_found_a_defect_and_every_seed_keep_the_invariants(target: tuple[str, Surface]) -> None:
    name, surface = target
    check = bounded(surface.check)
    for path in sorted((HERE / "found" / name).glob("*")):
        check(path.read_bytes())
    for content in surface.seeds.values():
        assert len(content) <= surface.longest
        check(content)


def test_found_inputs_belong_to_a_target() -> None:
    assert {path.name for path in (HERE / "found").iterdir()} <= set(TARGETS)


def numbers(seed: int) -> Random:
    return Random(seed)  # noqa: S311 - not a secret


def change(content: bytes, longest: int) -> bytes:
    """Stands where the engine's mutator is: turns some bits, and adds a byte where there is room."""
    turned = bytes(byte ^ 0x40 if at % 7 == 3 else byte for at, byte in enumerate(content))
    return (turned + b"\x00")[:longest]


@pytest.mark.parametrize("seed", range(40))
def test_a_changed_picture_is_still_a_file_with_right_check_sums(seed: int) -> None:
    whole = pictures.png_of(8, 8, 8, 0, 1)
    changed = pictures.mutate(whole, 10_000, AlwaysParts(seed), change)
    chunks = pictures.png_chunks(changed)
    assert changed == pictures.png(chunks)
    assert chunks != pictures.png_chunks(whole) or changed == whole


@pytest.mark.parametrize("seed", range(40))
def test_a_changed_message_is_still_one(seed: int) -> None:
    whole = message([("1", [("content-type", "application/json")], [("body", "application/json", b"{}")])])
    changed = fields.mutate(whole, 1 << 20, numbers(seed), change)
    reader = Reader(Connection(changed, [1 << 16]).recv)
    assert reader.take(1) == b"I"
    assert len(reader.batch()) == len(fields.read(changed))


@pytest.mark.parametrize("how", [texts.mutate, pictures.mutate, fields.mutate])
@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xd8", pictures.PNG_SIGNATURE, b"\x89PNG", b"I\xff\xff\xff\xfe"])
def test_any_bytes_can_be_changed_and_none_grows_past_the_bound(how: object, content: bytes) -> None:
    for seed in range(50):
        assert callable(how)
        assert len(how(content, 64, numbers(seed), change)) <= 64


class AlwaysParts(Random):
    """Never draws the share in which a picture's bytes are changed without its parts."""

    def random(self) -> float:
        return 0.5


def test_jpeg_segments_are_put_together_again() -> None:
    whole = pictures.jpeg([(0xE0, b"JFIF\0"), (0xDB, bytes(65))], b"\xff\xda\0\2pixels\xff\xd9")
    assert pictures.jpeg(*pictures.jpeg_segments(whole)) == whole

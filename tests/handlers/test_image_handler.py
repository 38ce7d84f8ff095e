"""Digits from JSON and from pictures of every make: an answer, or a refusal that says why."""

from __future__ import annotations

import io
import json
import struct
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from handlers.contract import JPEG, JSON, PNG
from handlers.errors import UndecodableBody
from handlers.image import MOST_SCANS, WORTH_THREADS, ImageHandler
from tests.support.workers import Item, Worker, assert_problem

BLANK = [[0] * 8] * 8


def pixels(value: Any) -> bytes:
    return json.dumps({"pixels": value}).encode()


def written(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def sample(worker: Worker, name: str) -> bytes:
    return (worker.folder / "samples" / name).read_bytes()


def grey(worker: Worker, name: str = "digit-2.png") -> Image.Image:
    return Image.open(io.BytesIO(sample(worker, name))).convert("L")


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds one row of nothing."""
    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes, is_damaged: bool = False) -> bytes:
    """A PNG chunk, whose check sum may be wrong."""
    check = zlib.crc32(kind + content) ^ is_damaged
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def segment(marker: int, content: bytes) -> bytes:
    """A JPEG segment."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


#: An EXIF block that says: shown turned by a quarter to the right; whole, and with another entry that cannot be read.
TURNED = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, 6, 0)
ODD = b"II*\0" + struct.pack("<IHHHIIHHIII", 8, 2, 0x0112, 3, 1, 6, 0x0201, 99, 7, 0x7FFFFFFF, 0)

DAMAGED_CHUNKS = {
    "text with a wrong check sum": chunk(b"tEXt", b"a\0b", is_damaged=True),
    "text packed in an unknown way": chunk(b"zTXt", b"a\0\5xx"),
    "text that is not packed": chunk(b"zTXt", b"a\0\0xx"),
    "text that swells": chunk(b"zTXt", b"a\0\0" + zlib.compress(b"a" * 100_000_000)),
    "very much text": chunk(b"zTXt", b"a\0\0" + zlib.compress(b"a" * 1_000_000)) * 70,
    "cut text": chunk(b"iTXt", b"a"),
    "a cut profile": chunk(b"iCCP", b"a\0\7xx"),
    "EXIF that is none": chunk(b"eXIf", b"garbage that is no TIFF"),
    "cut EXIF": chunk(b"eXIf", b"II"),
    "EXIF with a wrong check sum": chunk(b"eXIf", TURNED, is_damaged=True),
    "EXIF as text that is none": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 10\nzzzz")),
    "a cut gamma": chunk(b"gAMA", b""),
    "cut sides": chunk(b"pHYs", b"1"),
    "a cut colour space": chunk(b"sRGB", b""),
    "cut colours": chunk(b"cHRM", b"123"),
    "a cut animation": chunk(b"acTL", b"1"),
    "an unknown chunk with a wrong check sum": chunk(b"abCd", b"xx", is_damaged=True),
}
DAMAGED_SEGMENTS = {
    "EXIF that is none": segment(0xE1, b"Exif\0\0garbage"),
    "cut EXIF": segment(0xE1, b"Exif\0\0II"),
    "EXIF that points nowhere": segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\x7f"),
    "an orientation that is a text": segment(0xE1, b"Exif\0\0" + TURNED.replace(b"\x12\1\3", b"\x12\1\2")),
    "an orientation that does not exist": segment(0xE1, b"Exif\0\0" + TURNED.replace(b"\6\0", b"\x63\0")),
    "metadata that are none": segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0\xff tiff:Orientation="99999999999"'),
    "several pictures, cut": segment(0xE2, b"MPF\0garbage"),
    "a profile without its number": segment(0xE2, b"ICC_PROFILE\0"),
    "a cut profile": segment(0xE2, b"ICC_PROFILE\0\1"),
    "cut resources": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\xff\xff"),
    "a cut mark of Adobe": segment(0xEE, b"Adobe\0"),
    "a cut mark of JFIF": segment(0xE0, b"JFIF\0"),
    "a comment of any bytes": segment(0xFE, bytes(range(256))),
}


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_both_versions_load_and_name_real_held_out_digits(
    version: str, unpack: Callable[[str, str], Path], digits: Worker
) -> None:
    worker = digits if version == "2.0" else Worker(ImageHandler(), unpack("digits", version))
    files = sorted((worker.folder / "samples").iterdir())
    types = {".json": JSON, ".png": PNG, ".jpg": JPEG}
    replies = worker.ask(*(Item(file.read_bytes(), types[file.suffix]) for file in files))
    assert {file.suffix for file in files} == set(types)
    for file, reply in zip(files, replies, strict=True):
        answer = reply.json()
        assert answer["label"] == file.stem.removeprefix("digit-")
        assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-5)
        assert len(answer["probabilities"]) == 10
        best = [entry["probability"] for entry in answer["top_k"]]
        assert best == sorted(answer["probabilities"], reverse=True)[:3]
        assert answer["top_k"][0]["label"] == answer["label"]


def test_the_versions_differ(unpack: Callable[[str, str], Path]) -> None:
    sizes = [(unpack("digits", version) / "model.safetensors").stat().st_size for version in ("1.0", "2.0")]
    assert sizes[1] > 2 * sizes[0]


def test_a_png_of_the_same_pixels_gives_the_same_answer(digits: Worker) -> None:
    rows = json.loads(sample(digits, "digit-5.json"))["pixels"]
    picture = Image.fromarray(np.round(np.array(rows) * (255 / 16)).astype(np.uint8))
    answer, same = digits.ask(Item(pixels(rows)), Item(written(picture), PNG))
    assert same.json()["probabilities"] == pytest.approx(answer.json()["probabilities"], abs=0.02)


WRONG_PIXELS: dict[str, tuple[Any, str]] = {
    "nothing": ([], "pixels"),
    "text": ("1", "pixels"),
    "null": (None, "pixels"),
    "8 x 9": ([[0] * 9] * 8, "pixels.0"),
    "9 x 8": ([[0] * 8] * 9, "pixels"),
    "ragged": ([[0] * 8] * 7 + [[0] * 7], "pixels.7"),
    "one row of text": ([[0] * 8] * 7 + ["00000000"], "pixels.7"),
    "a number as text": ([[0] * 8] * 7 + [[0] * 7 + ["1"]], "pixels.7.7"),
    "a boolean": ([[0] * 8] * 7 + [[True] + [0] * 7], "pixels.7.0"),
    "a null": ([[None] + [0] * 7] + [[0] * 8] * 7, "pixels.0.0"),
    "too dark": ([[-1] + [0] * 7] + [[0] * 8] * 7, "pixels.0.0"),
    "too bright": ([[16.5] + [0] * 7] + [[0] * 8] * 7, "pixels.0.0"),
    "an endless number": ([[10**400] + [0] * 7] + [[0] * 8] * 7, "pixels.0.0"),
    "another dimension": ([[[0] * 8] * 8] * 8, "pixels.0.0"),
}


@pytest.mark.parametrize(("value", "field"), WRONG_PIXELS.values(), ids=WRONG_PIXELS)
def test_pixels_that_do_not_fit(digits: Worker, value: Any, field: str) -> None:
    document = assert_problem(digits.ask_one(pixels(value)), 422)
    assert document["errors"][0]["field"] == field
    assert document["detail"].startswith(f"{field}: ")


def test_very_many_mistakes_are_counted_and_not_listed(digits: Worker) -> None:
    document = assert_problem(digits.ask_one(pixels([["x"] * 8] * 8)), 422)
    assert len(document["errors"]) == 20
    assert document["detail"].endswith("(63 more).")
    assert len(digits.ask_one(b'{"pixels": [[' + b'"",' * 300_000 + b'""]]}').body) < 10_000


def test_the_description_says_what_pixels_must_be(digits: Worker) -> None:
    rows = digits.entry.worker.describe()["request_schema"]["properties"]["pixels"]
    assert (rows["minItems"], rows["items"]["maxItems"], rows["items"]["items"]["maximum"]) == (8, 8, 16)


def test_pictures_of_every_make_are_seen_alike(digits: Worker) -> None:
    original = grey(digits)
    wide = Image.fromarray(np.asarray(original).astype(np.uint16) << 8)
    ink = Image.merge("LA", (Image.new("L", (8, 8), 255), original))  # white ink, whose alpha is the digit
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned by a quarter to the right
    made = {
        "RGB": written(original.convert("RGB")),
        "RGBA": written(original.convert("RGBA")),
        "palette": written(original.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)),
        "16 bits": written(wide),
        "transparent": written(ink),
        "large": written(original.resize((400, 400), Image.Resampling.NEAREST)),
        "animated": written(original, save_all=True, append_images=[Image.new("L", (8, 8))]),
        "interlaced text": written(original, pnginfo=None, optimize=True),
        "turned": written(original.transpose(Image.Transpose.ROTATE_90), exif=turned),
    }
    replies = digits.ask(*(Item(body, PNG) for body in made.values()))
    expected = digits.ask_one(written(original), PNG).json()
    for name, reply in zip(made, replies, strict=True):
        assert reply.json()["label"] == "2", name
        assert reply.json()["probabilities"] == pytest.approx(expected["probabilities"], abs=0.02), name


def test_jpegs_of_every_make_are_seen_alike(digits: Worker) -> None:
    large = grey(digits).resize((64, 64), Image.Resampling.NEAREST)
    made = {
        "grey": written(large, "JPEG", quality=95),
        "RGB": written(large.convert("RGB"), "JPEG", quality=95),
        "CMYK": written(large.convert("RGB").convert("CMYK"), "JPEG", quality=95),
        "progressive": written(large, "JPEG", quality=95, progressive=True),
        "trailing garbage": written(large, "JPEG", quality=95) + b"\0garbage" * 100,
    }
    for name, reply in zip(made, digits.ask(*(Item(body, JPEG) for body in made.values())), strict=True):
        assert reply.json()["label"] == "2", name


@pytest.mark.parametrize("damage", DAMAGED_CHUNKS.values(), ids=DAMAGED_CHUNKS)
def test_what_is_damaged_beside_the_pixels_of_a_png_does_not_matter(digits: Worker, damage: bytes) -> None:
    whole = written(grey(digits))
    turned = written(grey(digits).transpose(Image.Transpose.ROTATE_90))
    good, beside, last, upright = digits.ask(
        *(Item(body, PNG) for body in (
            whole, whole[:33] + damage + whole[33:], whole[:-12] + damage + whole[-12:],
            turned[:33] + chunk(b"eXIf", TURNED) + damage + turned[33:],
        ))
    )  # fmt: skip
    assert good.json() == beside.json()
    assert last.status == 200
    if damage[4:8] != b"eXIf" and b"Raw profile" not in damage:
        assert upright.json() == good.json()


@pytest.mark.parametrize("damage", DAMAGED_SEGMENTS.values(), ids=DAMAGED_SEGMENTS)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_what_is_damaged_beside_the_pixels_of_a_jpeg_does_not_matter(digits: Worker, damage: bytes, mode: str) -> None:
    large = grey(digits).resize((64, 64), Image.Resampling.NEAREST)
    whole = written(large.convert("RGB").convert(mode), "JPEG", quality=95)
    good, beside = digits.ask(Item(whole, JPEG), Item(whole[:2] + damage + whole[2:], JPEG))
    assert good.json() == beside.json()


def test_an_orientation_is_read_where_the_rest_of_the_exif_is_damaged(digits: Worker) -> None:
    turned = written(grey(digits).transpose(Image.Transpose.ROTATE_90))
    whole, odd, plain = digits.ask(
        *(Item(turned[:33] + chunk(b"eXIf", exif) + turned[33:], PNG) for exif in (TURNED, ODD)),
        Item(written(grey(digits)), PNG),
    )
    assert whole.json() == odd.json() == plain.json()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_every_orientation_is_turned_upright_as_pillow_turns_it(digits: Worker, orientation: int, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = written(grey(digits, "digit-2.png"), form, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(body)))
    got, expected = digits.ask(Item(body, f"image/{form.lower()}"), Item(written(upright), PNG))
    assert got.json() == expected.json()


@pytest.mark.parametrize(
    "sent_as", ["image/jpg", "image/pjpeg", "IMAGE/JPG; q=1", "image/x-png", "application/octet-stream"]
)
def test_a_picture_under_an_alias_or_an_unknown_type_is_read(digits: Worker, sent_as: str) -> None:
    name = "digit-2.png" if "png" in sent_as else "digit-4.jpg"
    body = sample(digits, name)
    good, alias = digits.ask(Item(body, PNG if "png" in sent_as else JPEG), Item(body, sent_as))
    assert good.json() == alias.json()


def test_one_black_pixel_is_a_picture(digits: Worker) -> None:
    blank, picture, flat = digits.ask(
        Item(pixels(BLANK)), Item(written(Image.new("1", (1, 1))), PNG), Item(written(Image.new("L", (9, 1))), PNG)
    )
    assert picture.json() == flat.json() == blank.json()


@pytest.mark.parametrize(("name", "media_type"), [("digit-2.png", PNG), ("digit-4.jpg", JPEG)])
def test_a_picture_cut_anywhere_is_answered(digits: Worker, name: str, media_type: str) -> None:
    body = sample(digits, name)
    cuts = [body[: len(body) * tenth // 10] for tenth in range(1, 10)]
    for reply in digits.ask(*(Item(cut, media_type) for cut in cuts)):
        if reply.status != 200:  # what is missing may be the end mark only
            assert_problem(reply, 400)


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (2001, 2000), (12_000, 12_000)])
def test_a_picture_that_claims_to_be_huge_is_not_decoded(digits: Worker, size: tuple[int, int]) -> None:
    document = assert_problem(digits.ask_one(png_header(*size), PNG), 413)
    assert "4000000" in document["detail"]


def test_a_jpeg_of_very_many_scans_is_not_decoded(digits: Worker) -> None:
    """Each empty scan is a few bytes in the file, and a pass over all pixels in the decoder."""
    picture = written(Image.new("L", (2000, 2000), 128), "JPEG", progressive=True)
    last = picture[picture.rindex(b"\xff\xda") : -2]
    assert len(last) < 20
    begin = time.process_time()
    few, many = (Item(picture[:-2] + last * more + picture[-2:], JPEG) for more in (MOST_SCANS // 2, 50_000))
    good, refused = digits.ask(few, many)
    assert good.status == 200
    assert str(MOST_SCANS) in assert_problem(refused, 413)["detail"]
    assert time.process_time() - begin < 3


@pytest.mark.parametrize("size", [(0, 0), (0, 8), (8, 8)])
def test_a_picture_without_its_pixels_is_undecodable(digits: Worker, size: tuple[int, int]) -> None:
    assert_problem(digits.ask_one(png_header(*size), PNG), 400)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "BMP", "TIFF", "JPEG"])
def test_bytes_that_are_no_png_are_undecodable_as_one(digits: Worker, form: str) -> None:
    document = assert_problem(digits.ask_one(written(grey(digits), form), PNG), 400)
    assert "PNG" in document["detail"]


def test_a_picture_without_a_media_type_is_recognised(digits: Worker) -> None:
    for name in ("digit-2.png", "digit-4.jpg"):
        assert digits.ask_one(sample(digits, name), "").status == 200
    assert_problem(digits.ask_one(written(grey(digits), "GIF"), ""), 400)


def test_a_compressed_comment_that_swells_is_refused_or_skipped(digits: Worker) -> None:
    text = b"zTXt" + b"Comment\0\0" + zlib.compress(b"a" * 100_000_000)
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    body = written(grey(digits))
    swollen = body[:33] + chunk + body[33:]
    assert digits.ask_one(swollen, PNG).json() == digits.ask_one(body, PNG).json()


def test_large_pictures_are_decoded_on_several_threads_with_the_same_outcomes(
    digits: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = np.random.default_rng(0)
    noise = [written(Image.fromarray(chance.integers(0, 256, (300, 300), dtype=np.uint8))) for _ in range(6)]
    items = [*((PNG, body) for body in noise), (PNG, noise[0][:500]), np.zeros((8, 8), np.float32)]
    assert sum(map(len, noise)) > WORTH_THREADS
    handler = digits.handler
    assert isinstance(handler, ImageHandler)
    alone = handler.prepare(items)
    used: set[str] = set()
    decoded = handler._from_picture

    def watched(media_type: str, body: bytes) -> np.ndarray:
        used.add(threading.current_thread().name)
        return decoded(media_type, body)

    monkeypatch.setattr(handler, "_from_picture", watched)
    with ThreadPoolExecutor(2, "decode") as pool:
        monkeypatch.setattr(handler, "_pool", pool)
        together = handler.prepare(items)
    assert all(name.startswith("decode") for name in used)
    assert [type(outcome) for outcome in together] == [np.ndarray] * 6 + [UndecodableBody, np.ndarray]
    for one, other in zip(alone[:6], together[:6], strict=True):
        assert np.array_equal(one, other)

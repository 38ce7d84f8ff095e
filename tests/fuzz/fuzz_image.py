"""Any bytes to a handler of pictures, as PNG, JPEG or JSON, whichever they begin like."""

from __future__ import annotations

import struct
from pathlib import Path
from random import Random

from handlers.contract import JPEG, JSON, PNG
from handlers.image import ImageHandler
from tests.fuzz import pictures, texts
from tests.fuzz.answered import Between, bare
from tests.fuzz.surface import Mutate, Surface
from tests.support.workers import Worker, unpacked

#: What a picture of the most pixels needs of a file where it is black.
_LONGEST = 16_384


def open_surface(folder: Path) -> Surface:
    """A worker of the archive `digits`, unpacked into `folder`."""
    between = Between(Worker(ImageHandler(), unpacked("digits", "2.0", folder)))

    def check(content: bytes) -> None:
        between.check([bare(content, said_type(content))])

    return Surface(check, seeds(folder / "samples"), mutate, tokens=(*texts.ODD, b"IHDR", b"IDAT"), longest=_LONGEST)


def said_type(content: bytes) -> str:
    """The media type that the client names: often the right one, sometimes none or another one."""
    if content.startswith(b"\x89P"):
        return PNG if len(content) % 8 else ""
    if content.startswith(b"\xff\xd8"):
        return JPEG if len(content) % 8 else ""
    return (JSON, JSON, JSON, PNG, JPEG, "")[len(content) % 6]


def mutate(content: bytes, longest: int, random: Random, change: Mutate) -> bytes:
    """Pictures stay pictures, and JSON stays a row of tokens."""
    how = pictures.mutate if content[:1] in (b"\x89", b"\xff") else texts.mutate
    return how(content, longest, random, change)


def seeds(samples: Path) -> dict[str, bytes]:
    """The archive's samples, a picture of each type that PNG knows, large ones, and ones that claim to be huge."""
    found = {path.name: path.read_bytes() for path in samples.iterdir()}
    for colour, samples_of in ((0, 1), (2, 3), (3, 1), (4, 2), (6, 4)):
        for depth in (1, 8, 16):
            found[f"png-{colour}-{depth}"] = pictures.png_of(8, 8, depth, colour, samples_of)
    found["png-largest"] = pictures.png_of(2000, 2000, 8, 0, 1)
    found["png-largest-grey"] = pictures.png_of(2000, 2000, 1, 0, 1)
    found["png-too-large"] = pictures.png_of(2001, 2000, 1, 0, 1)
    chunks = pictures.png_chunks(found["png-0-8"])
    for side in (20_000, 2**31 - 1):
        head = struct.pack("!IIBBBBB", side, side, 8, 6, 0, 0, 0)
        found[f"png-claims-{side}"] = pictures.png([(b"IHDR", head), *chunks[1:]])
    found["png-animated"] = pictures.png([chunks[0], *pictures.ANIMATION, *chunks[1:]])
    found["png-texts"] = pictures.png([chunks[0], pictures.BOMB, *chunks[1:]])
    return {name: content for name, content in found.items() if len(content) <= _LONGEST}

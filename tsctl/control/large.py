"""Objects that are larger than a place takes: their content is in parts, which the object names.

Invariant: parts are there before the object that names them, belong to it alone, and are removed after it. So whoever
reads the object finds its parts, whatever other writers do.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from secrets import token_hex

from tsctl.control.place import LARGEST, READERS, AlreadyThere, Place, PlaceUnreachable, TooLarge
from tsctl.host.documents import parse_json

#: Bytes of a content at most.
MOST = 64 << 20
#: Bytes of a part at most.
PART = LARGEST - 1
#: Parts of `gateway/generations/000041.json` are `parts/gateway/generations/000041-TOKEN/00` and so on.
PARTS = "parts"
#: The form of an object that names parts. What readers of whole objects find as `format` is none that they know.
_FORMAT = 2
_HEAD = b'{"parts": ['
_NUMBERED = re.compile(r"(\d+)-[0-9a-f]+/\d+")


def create(place: Place, name: str, content: bytes) -> bool:
    """The object is there as `Place.create` has it, in parts where it is too large for one; whether it has parts.

    Raises:
        AlreadyThere: an object has the name, whatever its content.
        TooLarge: the content has more than MOST bytes.
    """
    if len(content) < LARGEST:
        place.create(name, content)
        return False
    if len(content) > MOST:
        raise TooLarge(name, len(content), MOST)
    folder = f"{PARTS}/{name.removesuffix('.json')}-{token_hex(8)}"
    parts = {
        f"{folder}/{at:02}": content[begin : begin + PART] for at, begin in enumerate(range(0, len(content), PART))
    }
    with ThreadPoolExecutor(READERS) as writers:
        list(writers.map(place.create, parts.keys(), parts.values()))
    try:
        place.create(name, json.dumps({"parts": list(parts), "format": _FORMAT}).encode())
    except AlreadyThere:
        with suppress(PlaceUnreachable):  # then they are removed with those of old objects
            for part in parts:
                place.delete(part)
        raise
    return True


def read(place: Place, name: str) -> bytes | None:
    """The object's content, put together from its parts; None where there is no object.

    Where the place has lost a part, the content ends before it.
    """
    content = place.read(name)
    if content is None or not content.startswith(_HEAD):
        return content
    try:
        names = [str(part) for part in parse_json(content)["parts"]]
        if not all(part.startswith(f"{PARTS}/") for part in names):
            raise ValueError("it names something else than parts")
        with ThreadPoolExecutor(READERS) as readers:
            found = list(readers.map(place.read, names))
    except (ValueError, KeyError, TypeError):
        return b""  # damaged: no document begins so
    if None in found and place.read(name) is None:  # it was removed meanwhile
        return None
    whole = found[: found.index(None)] if None in found else found
    return b"".join(part for part in whole if part is not None)


def delete_parts(place: Place, prefix: str, up_to: int) -> None:
    """Remove the parts of numbered objects below a prefix with this number or a smaller one.

    The objects themselves are gone, or were never written.
    """
    folder = f"{PARTS}/{prefix}/"
    for name in place.names(folder):
        match = _NUMBERED.fullmatch(name.removeprefix(folder))
        if match is not None and int(match[1]) <= up_to:
            place.delete(name)

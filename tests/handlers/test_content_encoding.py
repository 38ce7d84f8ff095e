"""Bodies that clients encoded, marked or did not name: read like plain ones, or refused with the reason."""

from __future__ import annotations

import codecs
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.base import ServingHandler
from handlers.contract import OPEN_INFERENCE, PROTOCOL_HEADER
from handlers.errors import PayloadTooLarge
from handlers.protocols.encoding import decode_body
from handlers.schema import Schema
from tests.support.workers import Item, Worker, assert_problem, write_archive_folder

BODY = b'{"number": 2}'
LIMIT = 1024  # of write_archive_folder


class Doubler(ServingHandler):
    """Doubles numbers."""

    class Request(Schema):
        """A number."""

        number: float

    def load(self) -> None:
        """Nothing to load."""

    def preprocess(self, items: list[Any]) -> torch.Tensor:
        return torch.tensor([item.number for item in items])

    def inference(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * 2

    def postprocess(self, outputs: torch.Tensor) -> list[Any]:
        return [{"double": double} for double in outputs.tolist()]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    folder = tmp_path_factory.mktemp("toy") / "toy"
    return Worker(Doubler(), write_archive_folder(folder, {"two.json": BODY}, {"two.json": {"double": 4.0}}))


def encoded(body: bytes, encoding: str, **headers: str) -> Item:
    return Item(body, headers={"Content-Encoding": encoding, **headers})


@pytest.mark.parametrize("encode", [gzip.compress, zlib.compress])
def test_a_compressed_body_is_read_like_a_plain_one(worker: Worker, encode: Callable[[bytes], bytes]) -> None:
    name = " GZIP" if encode is gzip.compress else "deflate"
    plain, same, not_encoded = worker.ask(Item(BODY), encoded(encode(BODY), name), encoded(BODY, "identity"))
    assert plain.json() == same.json() == not_encoded.json() == {"double": 4.0}


def test_an_infer_request_may_be_compressed_too(worker: Worker) -> None:
    tensor = {"name": "number", "shape": [2], "datatype": "FP64", "data": [1, 2]}
    body = gzip.compress(json.dumps({"inputs": [tensor]}).encode())
    [reply] = worker.ask(encoded(body, "gzip", **{PROTOCOL_HEADER: OPEN_INFERENCE}))
    assert reply.json()["outputs"][0]["data"] == [2.0, 4.0]


WRONG = {
    "an encoding that is not read": (BODY, "br", 415, "Content-Encoding br "),
    "zstd": (BODY, "zstd", 415, "Content-Encoding zstd "),
    "two at once": (gzip.compress(gzip.compress(BODY)), "gzip, gzip", 415, "gzip, gzip"),
    "a long name": (BODY, "x" * 4000, 415, "x" * 50 + " is"),
    "not gzip": (BODY, "gzip", 400, "not gzip"),
    "cut": (gzip.compress(BODY)[:-1], "gzip", 400, "whole gzip"),
    "bytes behind it": (gzip.compress(BODY) + b"x", "gzip", 400, "whole gzip"),
    "a second member": (gzip.compress(BODY) * 2, "gzip", 400, "whole gzip"),
    "a wrong check sum": (gzip.compress(BODY)[:-8] + b"x" * 8, "gzip", 400, "not gzip"),
    "nothing": (b"", "gzip", 400, "whole gzip"),
    "nothing inside": (gzip.compress(b""), "gzip", 400, "no body"),
    "not JSON inside": (gzip.compress(b"x"), "gzip", 400, "not JSON"),
    "too much inside": (gzip.compress(b" " * (LIMIT + 1)), "gzip", 413, "1024"),
    "too much outside": (b"x" * (LIMIT + 1), "gzip", 413, "1024"),
}


@pytest.mark.parametrize(("body", "encoding", "status", "reason"), WRONG.values(), ids=WRONG)
def test_an_encoding_that_cannot_be_read_is_named(
    worker: Worker, body: bytes, encoding: str, status: int, reason: str
) -> None:
    refused, good = worker.ask(encoded(body, encoding), Item(BODY))
    assert reason in assert_problem(refused, status)["detail"]
    assert good.status == 200


def test_a_body_that_swells_takes_no_more_memory_than_the_limit() -> None:
    bomb = gzip.compress(b" " * 500_000_000, 1)
    tracemalloc.start()
    with pytest.raises(PayloadTooLarge):
        decode_body(bomb, "gzip", 8 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20


@pytest.mark.parametrize(
    "mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE]
)
def test_a_byte_order_mark_says_how_a_body_is_read(worker: Worker, mark: bytes) -> None:
    encoding = {
        codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be",
        codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be",
    }[mark]  # fmt: skip
    bodies = (BODY, b'{"number": "two"}', b"nonsense")
    good, misfit, wrong = worker.ask(*(Item(mark + body.decode().encode(encoding)) for body in bodies))
    assert good.json() == {"double": 4.0}
    assert assert_problem(misfit, 422)["errors"][0]["field"] == "number"
    assert_problem(wrong, 400)


@pytest.mark.parametrize("body", [codecs.BOM_UTF8 * 300, codecs.BOM_UTF8, codecs.BOM_UTF16_LE + b"x", b"\xff\xfe\0\0x"])
def test_a_byte_order_mark_without_a_text_is_undecodable(worker: Worker, body: bytes) -> None:
    assert_problem(worker.ask_one(body), 400)


@pytest.mark.parametrize("part_type", ["", "application/octet-stream", "binary/octet-stream", "text/json"])
@pytest.mark.parametrize("form_type", ["multipart/form-data; boundary=x", ""])
def test_a_body_of_an_unknown_type_is_recognised(worker: Worker, part_type: str, form_type: str) -> None:
    bare = Item(BODY, part_type)
    part = Item(media_type=form_type, form=(("file", part_type, BODY),)) if form_type else bare
    assert worker.ask(part)[0].json() == {"double": 4.0}


def test_an_author_may_read_the_unknown_type_and_an_alias_under_their_own_names(tmp_path: Path) -> None:
    class Raw(Doubler):
        """Reads bytes of any kind."""

        media_types = ("application/json", "application/octet-stream", "image/jpg")

        def decode(self, body: bytes, media_type: str) -> Any:
            return super().decode(body if media_type == "application/json" else b'{"number": %d}' % len(media_type), "")

    worker = Worker(Raw(), write_archive_folder(tmp_path / "toy", {"two.json": BODY}, {"two.json": {"double": 4.0}}))
    answers = worker.ask(Item(BODY, "application/octet-stream"), Item(BODY, "image/jpg"), Item(BODY, ""))
    assert [answer.json()["double"] for answer in answers] == [48.0, 18.0, 4.0]


def test_one_body_under_two_names_of_its_type_is_cached_once(tmp_path: Path) -> None:
    cache = {"max_mb": 1.0, "ttl_s": 60.0, "check": 0.0}
    folder = write_archive_folder(
        tmp_path / "toy", {"two.json": BODY}, {"two.json": {"double": 4.0}}, serving={"cache": cache}
    )
    (folder / "MAR-INF" / "DIGESTS.json").write_text("{}")
    worker = Worker(Doubler(), folder)
    states = [worker.ask(item)[0].headers["x-cache"] for item in (
        Item(BODY), Item(BODY, "text/json"), Item(BODY, "application/octet-stream"),
        encoded(gzip.compress(BODY), "gzip"), Item(codecs.BOM_UTF8 + BODY),
    )]  # fmt: skip
    assert states == ["miss", "hit", "hit", "hit", "hit"]

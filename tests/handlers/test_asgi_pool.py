"""Which requests a pool computes together; the worker is a real process of an archive."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from handlers.adapters.asgi.backlog import Waiting
from handlers.adapters.asgi.frames import Answer, Item
from handlers.adapters.asgi.pool import ROUND, Pool
from handlers.adapters.asgi.workers import PoolOptions
from tests.support.sites import make_site, write_tiny
from tsctl.archive.build import build_versions
from tsctl.archive.container import unpack
from tsctl.config.project import Project
from tsctl.host.progress import Progress

BATCH = 4
START_S = 60.0
#: Answers each text with the lengths of all texts of its batch, but for the sample's.
HANDLER = """
from handlers import Schema, ServingHandler


class Lengths(ServingHandler):
    is_fixed_shape = {is_fixed_shape}

    class Request(Schema):
        text: str

    def load(self):
        pass  # no weights

    def preprocess(self, items):
        return sorted(len(item.text) for item in items)

    def inference(self, lengths):
        return lengths

    def postprocess(self, lengths):
        return [{{"beside": [length for length in lengths if length != 4]}} for _ in lengths]
"""


def options(folder: Path, batch_size: int = BATCH) -> PoolOptions:
    return PoolOptions(
        folder, folder, "tiny", "1.0", workers=1, batch_size=batch_size, most_waiting=100, most_bytes=1 << 20,
        response_s=START_S, startup_s=START_S,
    )  # fmt: skip


def unpacked(folder: Path, is_fixed_shape: bool) -> Path:
    """An archive of HANDLER."""
    site = make_site(folder / "site")
    write_tiny(site, "tiny", {"1.0": {}})
    source = site.root / "archives" / "tiny"
    (source / "handler.py").write_text(HANDLER.format(is_fixed_shape=is_fixed_shape))
    (source / "samples" / "half.json").write_text('{"text": "four"}')
    (source / "golden" / "1.0.json").write_text('{"half.json": {"beside": []}}')
    [built] = build_versions(Project(site.root), ["tiny:1.0"], Progress(Console(quiet=True)))
    (folder / "unpacked").mkdir()
    unpack(built.archive.path, folder / "unpacked")
    return folder / "unpacked"


async def beside(pool: Pool, lengths: list[int]) -> dict[int, list[int]]:
    """The lengths of the batch of each text, where the first text is computed while the others come, in this order."""
    loop = asyncio.get_running_loop()
    answers: dict[int, asyncio.Future[Answer]] = {length: loop.create_future() for length in lengths}
    headers = [(b"content-type", b"application/json")]

    def submit(length: int) -> Waiting:
        item = Item(headers, json.dumps({"text": "x" * length}).encode(), f"r{length}")
        waiting = Waiting(item, loop.time(), loop.time() + START_S, answers[length].set_result)
        pool.submit(waiting)
        return waiting

    first = submit(lengths[0])
    await asyncio.sleep(0)  # the loop's next turn hands it out
    assert first.is_taken
    for length in lengths[1:]:  # in one turn of the loop, so that no answer comes between them
        submit(length)
    return {length: json.loads((await answer).body)["beside"] for length, answer in answers.items()}


@pytest.mark.parametrize(
    ("is_fixed_shape", "batches"),
    [
        (False, [[1], [10, 20, 30, 40], [500, 600, 700, 800]]),
        (True, [[1], [10, 20, 500, 600], [30, 40, 700, 800]]),  # in the order of arrival
    ],
)
def test_items_that_differ_in_shape_are_computed_beside_those_of_their_length(
    tmp_path: Path, is_fixed_shape: bool, batches: list[list[int]]
) -> None:
    async def run() -> None:
        pool = Pool(options(unpacked(tmp_path, is_fixed_shape)), pytest.fail)
        await pool.start()
        try:
            await asyncio.wait_for(pool.ready.wait(), START_S)
            found = await beside(pool, [1, 500, 10, 600, 20, 700, 30, 800, 40])
        finally:
            await pool.stop()
        assert found == {length: batch for batch in batches for length in batch}

    asyncio.run(run())


@pytest.mark.parametrize(
    ("report", "batch_size", "most_in_round"),
    [
        ({}, 8, 1),  # an archive of an older build
        ({"is_fixed_shape": True}, 8, 1),
        ({"is_fixed_shape": False}, 8, ROUND * 8),
        ({"is_fixed_shape": False}, 1, 1),  # nothing is padded
    ],
)
def test_the_pool_orders_by_length_where_a_batch_is_padded(
    report: dict[str, Any], batch_size: int, most_in_round: int
) -> None:
    async def run() -> None:
        pool = Pool(options(Path(), batch_size), lambda _: None)
        pool._worker_ready(cast(Any, SimpleNamespace(number=0)), report)
        assert pool._backlog.most_in_round == most_in_round

    asyncio.run(run())

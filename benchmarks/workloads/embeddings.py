"""Workload B, a model that computes: sentences of mixed length through MiniLM, against stock and against a bare loop.

The bare loop has the cores to itself; the servers share them with the load generator. Processor time per request
tells the two apart: what workers take per sentence is the model's cost, and the rest is what serving costs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import BASELINES
from benchmarks.harness.figures import Figure, Result, Target, Turn, fastest, times
from benchmarks.harness.scripts import script_says
from benchmarks.harness.workload import TakeTurn, Traffic, Workload, load_turns, own_folder, started, take_turns, warm
from benchmarks.harness.wrk import require_wrk
from benchmarks.targets.node import OnNode, OwnNode
from benchmarks.targets.own_project import archived_by_torchserve, own_project
from benchmarks.workloads.inputs import AROUND, BLOCK, mixed_lengths, sentences
from benchmarks.workloads.linear import write_stock_config
from tsctl.archive.build import build_version
from tsctl.config.archive import Batch, Warmup, read_archive_spec
from tsctl.config.project import Project
from tsctl.host.progress import Progress

SENTENCES = 512
SHORTEST, LONGEST = 4, 128
SEED = 20
#: Twice the batch, so that the next one is full while one is computed.
CONNECTIONS = 64
BATCH = 32
WARMING_S = 6
BARE_BATCHES = (1, 2, 4, 8, 16, 32, 64)
#: Seconds for each batch size of the bare loop, and until when all of it must be over.
BARE_S = 2.5
BARE_END_S = 300
ORDERS = ("as they come", "sorted")
OURS = "ServingHandler"
STOCK = "BaseHandler"
SHARE_OF_BARE = Target(0.9)
TIMES_STOCK = Target(1.3)
JSON = "application/json"


def run(project: Project, rounds: int, seconds: int, progress: Progress) -> Result:
    """Both handlers and the bare loop, in turns.

    Raises:
        TsctlError: wrk is missing, or a way does not serve.
    """
    require_wrk()
    with own_folder() as folder:
        workload, encoder = embeddings_workload(project, folder, progress)
        with started(workload, progress) as addresses:
            warm(workload, addresses, folder, progress)
            turns = load_turns(workload, addresses, seconds, folder)
            bare = {"bare loop": bare_turn(encoder, workload.traffic, folder)}
            found = take_turns({**turns, **bare}, rounds, progress)
    settings = {
        "connections": CONNECTIONS,
        "batch": BATCH,
        "sentences": SENTENCES,
        "tokens": [SHORTEST, LONGEST],
        "seed": SEED,
        "threads": usable_cores(),
    }
    return Result("b", "MiniLM, sentences of 4 to 128 tokens", settings, found, _figures(found), workload.notes)


def embeddings_workload(project: Project, folder: Path, progress: Progress) -> tuple[Workload, Path]:
    """Both handlers on one node with equal batches and threads, and the folder of the encoder."""
    own = own_project(project, folder / "built")
    copied = own.archives / "embeddings"
    shutil.copytree(project.archives / "embeddings", copied)
    written = read_archive_spec(copied / "archive.yaml")
    own_values = {"batch": Batch(size=BATCH, max_delay_ms=1), "threads": usable_cores(), "warmup": Warmup(budget_s=2.0)}
    spec = written.model_copy(update=own_values)
    with progress.step("building the encoder's archives") as step:
        ours = build_version(own, copied, spec, "1.0", step.note).archive.path
        encoder = copied / ".built" / "1.0" / "encoder"
        config = write_stock_config(copied / "model-config.yaml", spec.serving("1.0"), usable_cores())
        handler = BASELINES / "embeddings_handler.py"
        stock = archived_by_torchserve("stock_embeddings", "1.0", handler, [*encoder.iterdir()], own.root, config)
        texts = mixed_sentences(encoder)
    bodies = [json.dumps({"text": text}).encode() for text in texts]
    here = OwnNode(project, folder / "here")
    ways = [OnNode(OURS, here, ours, JSON), OnNode(STOCK, here, stock, JSON)]
    return Workload(Traffic(bodies, CONNECTIONS, WARMING_S), ways, embedding), encoder


def mixed_sentences(encoder: Path) -> list[str]:
    """The fixed set: SENTENCES texts, each of exactly its length in tokens of the encoder's tokenizer.

    Raises:
        ValueError: the tokenizer counts otherwise than word by word.
    """
    count = _counter(encoder)
    lengths = mixed_lengths(SENTENCES, SHORTEST, LONGEST, SEED)
    texts = sentences(lengths, lambda word: count(word) - AROUND, SEED)
    wrong = [text for text, length in zip(texts, lengths, strict=True) if count(text) != length]
    if wrong:
        raise ValueError(f"{len(wrong)} sentences have other lengths than asked for, the first is {wrong[0]!r}")
    return texts


def embedding(answer: Any) -> list[float]:
    """The numbers of the one sentence of an answer."""
    return [float(number) for number in answer["embeddings"][0]]


def usable_cores() -> int:
    """Cores that this process may use; torch gets as many threads by every way."""
    return len(os.sched_getaffinity(0))


def bare_turn(encoder: Path, traffic: Traffic, folder: Path) -> TakeTurn:
    """Runs the same sentences without a server, in a process of its own."""
    listed = folder / "sentences.json"
    listed.write_text(json.dumps([json.loads(body)["text"] for body in traffic.bodies]))
    options = {
        "encoder": encoder, "sentences": listed, "threads": usable_cores(), "batches": json.dumps(BARE_BATCHES),
        "block": BLOCK, "seconds": BARE_S,
    }  # fmt: skip

    def turn() -> dict[str, Turn]:
        return {
            f"bare loop, {order}, batch {batch}": Turn(
                round(one["sentences_s"], 1), cpu_us={"workers": round(one["cpu_us"], 1)}
            )
            for order, sizes in script_says("bare_sentences.py", options, BARE_END_S).items()
            for batch, one in sizes.items()
        }

    return turn


def _counter(encoder: Path) -> Callable[[str], int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda text: len(tokenizer.encode(text).ids)


def _figures(found: dict[str, list[Turn]]) -> list[Figure]:
    bare = {order: {n: t for n, t in found.items() if n.startswith(f"bare loop, {order},")} for order in ORDERS}
    best = {order: fastest(ways) for order, ways in bare.items()}
    ours, stock = found[OURS], found[STOCK]
    return [
        times(f"of the {best['as they come']}", ours, found[best["as they come"]], SHARE_OF_BARE),
        times("over BaseHandler", ours, stock, TIMES_STOCK),
        times(f"of the {best['sorted']}", ours, found[best["sorted"]]),
    ]

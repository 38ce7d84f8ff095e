"""Workload b, a model that computes: sentences of mixed length through MiniLM, against stock and against a bare loop.

The bare loop has the cores to itself; the servers share them with the load generator. Processor time per request
separates the two: the workers' time per sentence is the model's cost, and the rest is the cost of serving.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import BASELINES
from benchmarks.harness.figures import Figure, Goal, Result, Turn, fastest, times
from benchmarks.harness.run import Job
from benchmarks.harness.scripts import run_script
from benchmarks.harness.target import Target
from benchmarks.harness.workload import Requests, TakeTurn, Workload, measure_turns, own_folder
from benchmarks.harness.wrk import require_wrk
from benchmarks.targets.node import BenchmarkNode, NodeTarget
from benchmarks.targets.project import build_stock_archive, write_stock_config
from benchmarks.targets.served import ServedTarget
from benchmarks.workloads.inputs import AROUND, BLOCK, mixed_lengths, sentences
from tsctl.archive.build import build_version
from tsctl.compare.nodes import own_project
from tsctl.config.archive import Batch, Warmup, Workers, read_archive_spec
from tsctl.config.project import Project
from tsctl.host.progress import Progress

SENTENCES = 512
SHORTEST, LONGEST = 4, 128
SEED = 20
CONNECTIONS = 64
#: The archive's own. While one batch is computed, several wait.
BATCH = 16
WARMING_S = 6
BARE_BATCHES = (1, 2, 4, 8, 16, 32, 64)
#: Seconds for each batch size of the bare loop, and for all of it.
BARE_S = 2.5
BARE_TIMEOUT_S = 300
ORDERS = ("as they come", "sorted")
OURS = "ServingHandler"
SERVED = "ServingHandler, uvicorn"
EACH_CORE = "a worker for each core"
OURS_EACH, SERVED_EACH = f"{OURS}, {EACH_CORE}", f"{SERVED}, {EACH_CORE}"
STOCK = "BaseHandler"
SHARE_OF_BARE, SHARE_OF_SORTED = Goal(0.9), Goal(0.95)
TIMES_STOCK = Goal(1.3)
JSON = "application/json"


def run(job: Job) -> Result:
    """Both handlers and the bare loop, in turns.

    Raises:
        TsctlError: wrk is missing, or a target does not serve.
    """
    require_wrk()
    with own_folder() as folder:
        workload, encoder = embeddings_workload(job.project, folder, job.progress)
        bare = {"bare loop": bare_turn(encoder, workload.requests, folder)}
        turns = measure_turns(workload, job.rounds, job.seconds, folder, job.progress, bare)
    settings = {
        "connections": CONNECTIONS,
        "batch": BATCH,
        "sentences": SENTENCES,
        "tokens": [SHORTEST, LONGEST],
        "seed": SEED,
        "threads": usable_cores(),
    }
    return Result("b", "MiniLM, sentences of 4 to 128 tokens", settings, turns, _figures(turns))


def embeddings_workload(project: Project, folder: Path, progress: Progress) -> tuple[Workload, Path]:
    """The targets, ours also with a worker for each core in place of one worker for all; the encoder's folder."""
    own = own_project(project, folder / "built")
    copied = own.archives / "embeddings"
    shutil.copytree(project.archives / "embeddings", copied)
    written = read_archive_spec(copied / "archive.yaml")
    changes = {
        "batch": Batch(size=BATCH, max_delay_ms=1),
        "threads": usable_cores(),
        "warmup": Warmup(budget_s=2.0),
        "reference": None,  # nobody asks for drift, and the encoder would answer all of its data
    }
    spec = written.model_copy(update=changes)
    with progress.step("building the encoder's archives") as step:
        each_core = {"workers": Workers(min=usable_cores()), "threads": 1}
        ours, ours_each = (
            Path(shutil.copy2(build_version(own, copied, each, "1.0", step.note).archive.path, folder))
            for each in (spec, spec.model_copy(update=each_core))
        )  # copied, because the second build takes the place of the first
        encoder = copied / ".built" / "1.0" / "encoder"
        config = write_stock_config(copied / "model-config.yaml", spec.serving("1.0"), usable_cores())
        handler = BASELINES / "embeddings_handler.py"
        stock = build_stock_archive("stock_embeddings", "1.0", handler, [*encoder.iterdir()], own.root, config)
        texts = mixed_sentences(encoder)
    bodies = [json.dumps({"text": text}).encode() for text in texts]
    node = BenchmarkNode(project, folder / "here")
    targets: list[Target] = [
        NodeTarget(OURS, node, ours, JSON),
        NodeTarget(OURS_EACH, BenchmarkNode(project, folder / "each"), ours_each, JSON, usable_cores()),
        ServedTarget(SERVED, ours, folder / "served", JSON),
        ServedTarget(SERVED_EACH, ours_each, folder / "served-each", JSON),
        NodeTarget(STOCK, node, stock, JSON),
    ]
    return Workload(Requests(bodies, CONNECTIONS, WARMING_S), targets, embedding), encoder


def mixed_sentences(encoder: Path) -> list[str]:
    """SENTENCES texts, the same in every run, each of exactly its length in tokens of the encoder's tokenizer.

    Raises:
        ValueError: the tokenizer does not count word by word.
    """
    count = _counter(encoder)
    lengths = mixed_lengths(SENTENCES, SHORTEST, LONGEST, SEED)
    texts = sentences(lengths, lambda word: count(word) - AROUND, SEED)
    wrong = [text for text, length in zip(texts, lengths, strict=True) if count(text) != length]
    if wrong:
        raise ValueError(f"{len(wrong)} sentences have other lengths than asked for, the first is {wrong[0]!r}")
    return texts


def embedding(answer: Any) -> list[float]:
    """The numbers of the only sentence of an answer."""
    return [float(number) for number in answer["embeddings"][0]]


def usable_cores() -> int:
    """Cores that this process may use; torch gets as many threads on every target."""
    return len(os.sched_getaffinity(0))


def bare_turn(encoder: Path, requests: Requests, folder: Path) -> TakeTurn:
    """Runs the same sentences without a server, in a process of its own."""
    texts = folder / "sentences.json"
    texts.write_text(json.dumps([json.loads(body)["text"] for body in requests.bodies]))
    options = {
        "encoder": encoder, "sentences": texts, "threads": usable_cores(), "batches": json.dumps(BARE_BATCHES),
        "block": BLOCK, "seconds": BARE_S,
    }  # fmt: skip

    def take_turn() -> dict[str, Turn]:
        return {
            f"bare loop, {order}, batch {batch}": Turn(
                round(speed["sentences_s"], 1), cpu_us={"workers": round(speed["cpu_us"], 1)}
            )
            for order, sizes in run_script("bare_sentences.py", options, BARE_TIMEOUT_S).items()
            for batch, speed in sizes.items()
        }

    return take_turn


def _counter(encoder: Path) -> Callable[[str], int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda text: len(tokenizer.encode(text).ids)


def _figures(turns: dict[str, list[Turn]]) -> list[Figure]:
    bare = {order: {n: t for n, t in turns.items() if n.startswith(f"bare loop, {order},")} for order in ORDERS}
    best = {order: fastest(loops) for order, loops in bare.items()}
    ours, stock = turns[OURS], turns[STOCK]
    return [
        times(f"of the {best['as they come']}", ours, turns[best["as they come"]], SHARE_OF_BARE),
        times("over BaseHandler", ours, stock, TIMES_STOCK),
        *(times(f"{name}, of the {best['sorted']}", turns[name], turns[best["sorted"]], SHARE_OF_SORTED)
          for name in (OURS, OURS_EACH, SERVED, SERVED_EACH)),
        times(f"{SERVED}, over BaseHandler", turns[SERVED], stock),
    ]  # fmt: skip

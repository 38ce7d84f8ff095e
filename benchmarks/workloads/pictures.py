"""Workload c, small pictures: digits as PNG files, each decoded by itself."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import BASELINES
from benchmarks.harness.figures import Goal, Result, times
from benchmarks.harness.run import Job
from benchmarks.harness.workload import Requests, Workload, measure_turns, own_folder
from benchmarks.harness.wrk import require_wrk
from benchmarks.targets.node import BenchmarkNode, NodeTarget
from benchmarks.targets.project import build_stock_archive, write_stock_config
from tsctl.archive.build import build_version
from tsctl.compare.nodes import own_project
from tsctl.config.archive import ArchiveSpec, Warmup, read_archive_spec
from tsctl.config.project import Project
from tsctl.host.progress import Progress

PICTURES = 300
CONNECTIONS = 128
WARMING_S = 6
#: Torch's threads on every target: for a network this small more threads wait for each other longer than they compute.
THREADS = 1
VERSION = "2.0"
OURS = "ServingHandler"
STOCK = "BaseHandler, Pillow"
CLASSIFIER = "image_classifier"
CLASSIFIER_MODULE = "ts.torch_handler.image_classifier"
TIMES_STOCK = Goal(1.5)
PNG = "image/png"


def run(job: Job) -> Result:
    """Both handlers, and image_classifier where its packages are installed.

    Raises:
        TsctlError: wrk is missing, or a target does not serve.
    """
    require_wrk()
    with own_folder() as folder:
        workload, spec = pictures_workload(job.project, folder, job.progress)
        turns = measure_turns(workload, job.rounds, job.seconds, folder, job.progress)
    figures = [times("over BaseHandler with Pillow", turns[OURS], turns[STOCK], TIMES_STOCK)]
    if CLASSIFIER in turns:
        figures.append(times("over image_classifier", turns[OURS], turns[CLASSIFIER]))
    batch = spec.serving(VERSION).batch
    settings = {
        "connections": CONNECTIONS,
        "batch": batch.size,
        "max_delay_ms": batch.max_delay_ms,
        "pictures": PICTURES,
        "threads": THREADS,
    }
    return Result("c", "digits, PNG of 8 x 8 pixels", settings, turns, figures, workload.notes)


def pictures_workload(project: Project, folder: Path, progress: Progress) -> tuple[Workload, ArchiveSpec]:
    """The handlers on one node, with the same network, batch and threads, and the archive's spec."""
    own = own_project(project, folder / "built")
    copied = own.archives / "digits"
    shutil.copytree(project.archives / "digits", copied)
    written = read_archive_spec(copied / "archive.yaml")
    changes = {"threads": THREADS, "warmup": Warmup(budget_s=2.0), "reference": None}  # nobody asks for drift
    spec = written.model_copy(update=changes)
    node = BenchmarkNode(project, folder / "here")
    with progress.step("building the archives of digits") as step:
        ours = build_version(own, copied, spec, VERSION, step.note).archive.path
        targets = [NodeTarget(OURS, node, ours, PNG)]
        config = write_stock_config(copied / "model-config.yaml", spec.serving(VERSION), THREADS)
        extra = [copied / ".built" / VERSION / "model.safetensors", copied / "model.py", copied / "archive.yaml"]
        extra += [BASELINES / "digits_handler.py"]
        why_not = import_failure(CLASSIFIER_MODULE)
        handlers = {STOCK: "digits_png_handler.py", **({} if why_not else {CLASSIFIER: "digits_classifier.py"})}
        for name, handler in handlers.items():
            model = handler.removesuffix(".py")
            archive = build_stock_archive(model, VERSION, BASELINES / handler, extra, own.root, config)
            targets.append(NodeTarget(name, node, archive, PNG))
    notes = (f"{CLASSIFIER}: left out, {CLASSIFIER_MODULE} cannot be imported ({why_not})",) if why_not else ()
    bodies = [body for body, _ in digit_pictures()]
    return Workload(Requests(bodies, CONNECTIONS, WARMING_S), targets, probabilities, notes), spec


def import_failure(module: str) -> str:
    """Why the module cannot be imported, tried in a process of its own; empty where it can.

    Installed is not enough: a torchvision for CUDA does not load beside a torch for the CPU.
    """
    ended = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True, check=False)
    return "" if ended.returncode == 0 else (ended.stderr.strip().splitlines() or ["no reason given"])[-1]


def digit_pictures() -> list[tuple[bytes, int]]:
    """PICTURES of scikit-learn's digits as 8-bit grey PNG files, 8 x 8 pixels, each with its class."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures = []
    for values, digit in zip(digits.images[:PICTURES], digits.target[:PICTURES], strict=True):
        written = io.BytesIO()
        Image.fromarray(np.round(values * (255 / 16)).astype(np.uint8)).save(written, "PNG")
        pictures.append((written.getvalue(), int(digit)))
    return pictures


def probabilities(answer: Any) -> list[float]:
    """The probability of each digit, from 0 to 9; image_classifier names them, the likeliest first."""
    numbers = answer.get("probabilities") or [answer[str(digit)] for digit in range(10)]
    return [float(number) for number in numbers]

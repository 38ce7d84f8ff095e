"""Workload C, small pictures: digits as PNG files, each decoded by itself."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import BASELINES
from benchmarks.harness.figures import Result, Target, times
from benchmarks.harness.workload import Traffic, Workload, load_turns, own_folder, started, take_turns, warm
from benchmarks.harness.wrk import require_wrk
from benchmarks.targets.node import OnNode, OwnNode, Way
from benchmarks.targets.own_project import archived_by_torchserve, own_project
from benchmarks.workloads.linear import write_stock_config
from tsctl.archive.build import build_version
from tsctl.config.archive import ArchiveSpec, Warmup, read_archive_spec
from tsctl.config.project import Project
from tsctl.host.progress import Progress

PICTURES = 300
CONNECTIONS = 128
WARMING_S = 6
#: Of torch, by every way: for a network this small more threads wait for each other longer than they compute.
THREADS = 1
VERSION = "2.0"
OURS = "ServingHandler"
STOCK = "BaseHandler, Pillow"
CLASSIFIER = "image_classifier"
CLASSIFIER_MODULE = "ts.torch_handler.image_classifier"
TIMES_STOCK = Target(1.5)
PNG = "image/png"


def run(project: Project, rounds: int, seconds: int, progress: Progress) -> Result:
    """Both handlers, and image_classifier where its packages are.

    Raises:
        TsctlError: wrk is missing, or a way does not serve.
    """
    require_wrk()
    with own_folder() as folder:
        workload, spec = pictures_workload(project, folder, progress)
        with started(workload, progress) as addresses:
            warm(workload, addresses, folder, progress)
            found = take_turns(load_turns(workload, addresses, seconds, folder), rounds, progress)
    figures = [times("over BaseHandler with Pillow", found[OURS], found[STOCK], TIMES_STOCK)]
    if CLASSIFIER in found:
        figures.append(times("over image_classifier", found[OURS], found[CLASSIFIER]))
    batch = spec.serving(VERSION).batch
    settings = {
        "connections": CONNECTIONS,
        "batch": batch.size,
        "max_delay_ms": batch.max_delay_ms,
        "pictures": PICTURES,
        "threads": THREADS,
    }
    return Result("c", "digits, PNG of 8 x 8 pixels", settings, found, figures, workload.notes)


def pictures_workload(project: Project, folder: Path, progress: Progress) -> tuple[Workload, ArchiveSpec]:
    """The handlers on one node, with the same network, batch and threads, and the archive's spec."""
    own = own_project(project, folder / "built")
    copied = own.archives / "digits"
    shutil.copytree(project.archives / "digits", copied)
    written = read_archive_spec(copied / "archive.yaml")
    spec = written.model_copy(update={"threads": THREADS, "warmup": Warmup(budget_s=2.0)})
    here = OwnNode(project, folder / "here")
    with progress.step("building the archives of digits") as step:
        ours = build_version(own, copied, spec, VERSION, step.note).archive.path
        ways: list[Way] = [OnNode(OURS, here, ours, PNG)]
        config = write_stock_config(copied / "model-config.yaml", spec.serving(VERSION), THREADS)
        extra = [copied / ".built" / VERSION / "model.safetensors", copied / "model.py", copied / "archive.yaml"]
        extra += [BASELINES / "digits_handler.py"]
        why_not = import_mistake(CLASSIFIER_MODULE)
        handlers = {STOCK: "digits_png_handler.py", **({} if why_not else {CLASSIFIER: "digits_classifier.py"})}
        for name, handler in handlers.items():
            model = handler.removesuffix(".py")
            made = archived_by_torchserve(model, VERSION, BASELINES / handler, extra, own.root, config)
            ways.append(OnNode(name, here, made, PNG))
    notes = (f"{CLASSIFIER}: left out, {CLASSIFIER_MODULE} cannot be imported ({why_not})",) if why_not else ()
    bodies = [body for body, _ in digit_pictures()]
    return Workload(Traffic(bodies, CONNECTIONS, WARMING_S), ways, probabilities, notes), spec


def import_mistake(module: str) -> str:
    """Why the module cannot be imported, in a process of its own; empty where it can.

    Installed is not enough: a torchvision for CUDA does not load beside a torch for the CPU.
    """
    ended = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True, check=False)
    return "" if ended.returncode == 0 else (ended.stderr.strip().splitlines() or ["no reason given"])[-1]


def digit_pictures() -> list[tuple[bytes, int]]:
    """PICTURES of scikit-learn's digits as 8-bit grey PNG files, 8 x 8 pixels, each with the digit that it shows."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    found = load_digits()
    pictures = []
    for values, digit in zip(found.images[:PICTURES], found.target[:PICTURES], strict=True):
        written = io.BytesIO()
        Image.fromarray(np.round(values * (255 / 16)).astype(np.uint8)).save(written, "PNG")
        pictures.append((written.getvalue(), int(digit)))
    return pictures


def probabilities(answer: Any) -> list[float]:
    """The probability of each digit, from 0 to 9; image_classifier names them, the likeliest first."""
    found = answer.get("probabilities") or [answer[str(digit)] for digit in range(10)]
    return [float(number) for number in found]

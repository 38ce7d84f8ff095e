"""Triton's calls on a model instance: one worker in a process of its own.

Triton calls `initialize` once, `execute` with each batch of requests, and `finalize` at the end.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from handlers.adapters.triton import raw
from handlers.worker import startup
from handlers.worker.config import WorkerConfig, handler_class, read_config
from handlers.worker.worker import Worker


class Entry:
    """One worker behind Triton."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Make the worker ready; logs one line on how that ended.

        Args:
            args: `model_config` as JSON, `model_repository` (the model's folder), `model_version` (the folder's name),
                `model_instance_kind` (CPU or GPU) and `model_instance_device_id`, among others.

        Raises:
            LoadError: the instance must not serve. Triton answers the load command with its text.
        """
        logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(message)s")
        folder = Path(args["model_repository"]).resolve() / args["model_version"] / "archive"
        os.chdir(folder)  # as TorchServe's workers: an author's relative path is in the archive
        manifest = json.loads(Path("MAR-INF/MANIFEST.json").read_text(encoding="utf-8"))["model"]
        with startup.reported_load(manifest["modelName"], manifest["modelVersion"]) as facts:
            config = worker_config(folder, manifest, args)
            self._worker = Worker(handler_class(config.handler)(), config)
            facts |= startup.start(self._worker)
        self._batch_s = config.response_timeout_s

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request, in order.

        A batch that takes longer than the archive's `response_s` ends the process by SIGALRM: a thread could not, where
        the author's code never gives up the interpreter.
        """
        signal.setitimer(signal.ITIMER_REAL, self._batch_s)
        try:
            return raw.execute(self._worker, requests)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def finalize(self) -> None:
        """Write the last metrics."""
        self._worker.handler.telemetry.flush()


def worker_config(folder: Path, manifest: Mapping[str, Any], args: Mapping[str, str]) -> WorkerConfig:
    """The configuration in the unpacked archive, with Triton's choice of the GPU.

    Raises:
        LoadError: the archive was not built by tsctl.
    """
    content = yaml.safe_load((folder / "model-config.yaml").read_text(encoding="utf-8"))
    on_gpu = args["model_instance_kind"] == "GPU" and torch.cuda.is_available()
    return read_config(folder, manifest, content, gpu_id=int(args["model_instance_device_id"]) if on_gpu else None)

"""Triton's calls on a model instance: one worker in a process of its own.

Triton calls `initialize` once, `execute` with each batch of requests, and `finalize` at the end. The inputs in
config.pbtxt say what comes: whole HTTP bodies (raw.py), or the tensors of the handler's schema (typed.py).
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from handlers.adapters.triton import raw, typed
from handlers.contract import ANSWER_LIMIT_VARIABLE, TRITON_MODEL_PARAMETER, TRITON_VERSION_PARAMETER
from handlers.log_lines import name_lines
from handlers.secrets import open_secrets
from handlers.unpacked import read_documents
from handlers.worker import startup
from handlers.worker.config import WorkerConfig, handler_class, read_config
from handlers.worker.worker import Worker


class Entry:
    """One worker behind Triton."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Make the worker ready; logs one line on how that ended.

        A load that takes longer than the archive's `startup_s` ends the process as a batch does (see `execute`): Triton
        would wait for it for ever, and could not unload it.

        Args:
            args: `model_config` as JSON, `model_repository` (the model's folder), `model_version` (the folder's name),
                `model_instance_kind` (CPU or GPU) and `model_instance_device_id`, among others.

        Raises:
            LoadError: the instance must not serve. Triton answers the load command with its text.
        """
        logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(message)s")
        folder = Path(args["model_repository"]).resolve() / args["model_version"] / "archive"
        os.chdir(folder)  # as TorchServe's workers: an author's relative path is in the archive
        config = worker_config(folder, args)
        name_lines(f"{config.model} {config.version}")  # Triton has one log for the workers of all versions
        signal.setitimer(signal.ITIMER_REAL, config.startup_timeout_s)
        try:
            with startup.reported_load(config.model, config.version) as facts:
                open_secrets(config.model, config.secrets)
                self._worker = Worker(handler_class(config.handler)(), config)
                facts |= startup.start(self._worker)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._execute = typed.executor(json.loads(args["model_config"])) or raw.execute
        self._batch_s = config.response_timeout_s

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request, in order.

        A batch that takes longer than the archive's `response_s` ends the process by SIGALRM: a thread could not, where
        the author's code never gives up the interpreter.
        """
        signal.setitimer(signal.ITIMER_REAL, self._batch_s)
        try:
            return self._execute(self._worker, requests)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def finalize(self) -> None:
        """Write the last metrics."""
        self._worker.handler.telemetry.flush()


def worker_config(folder: Path, args: Mapping[str, str]) -> WorkerConfig:
    """The configuration in the unpacked archive, with Triton's choice of the GPU and the names in config.pbtxt.

    Raises:
        LoadError: the archive was not built by tsctl.
    """
    manifest, content = read_documents(folder)
    parameters = json.loads(args["model_config"]).get("parameters", {})
    model, version = (
        parameters.get(name, {}).get("string_value") for name in (TRITON_MODEL_PARAMETER, TRITON_VERSION_PARAMETER)
    )
    on_gpu = args["model_instance_kind"] == "GPU" and torch.cuda.is_available()
    gpu_id = int(args["model_instance_device_id"]) if on_gpu else None
    longest = float(os.environ.get(ANSWER_LIMIT_VARIABLE) or math.inf)
    return read_config(folder, manifest, content, model=model, version=version, gpu_id=gpu_id, answer_bytes=longest)

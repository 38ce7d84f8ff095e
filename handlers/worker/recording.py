"""Opens the records of a worker, whatever its model answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from handlers.contract import MOST_RECORDS_MB, RECORDS_FOLDER_VARIABLE, RECORDS_MB_VARIABLE
from handlers.records.record import Recording
from handlers.records.recorder import Recorder, open_recorder
from handlers.records.repeats import AnswerAgain
from handlers.records.summary import Features
from handlers.worker.config import WorkerConfig


def open_records(
    config: WorkerConfig,
    summarize: Callable[[Any], Features],
    canonical: Callable[[Any], bytes],
    redact: Callable[[Any], Any],
    count: Callable[[str, int], None],
    answer: AnswerAgain,
    batch_size: int,
) -> Recorder | None:
    """Records of a worker's answers; None where the archive wants none, or the server gives no folder.

    Args:
        summarize: and the next two, as of `Recording`.
        count: and the others, as of `open_recorder`.
    """
    folder = os.environ.get(RECORDS_FOLDER_VARIABLE)
    options = config.records
    if options is None or not options.share or not folder:
        return None
    recording = Recording(
        config.model,
        config.version,
        summarize,
        canonical,
        redact,
        keeps_inputs=options.input_days is not None,
        keeps_answers=options.answers,
    )
    most_bytes = int(os.environ.get(RECORDS_MB_VARIABLE) or MOST_RECORDS_MB) << 20
    return open_recorder(options, recording, Path(folder), most_bytes, count, answer, batch_size)

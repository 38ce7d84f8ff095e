"""Starts an unpacked archive's worker without a server: what every engine is compared with."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handlers.contract import WORKER_ENVIRONMENT
from tsctl.compare.recorded import RecordedRequest
from tsctl.errors import ArchiveError
from tsctl.host.process import inherited
from tsctl.nodes.observed import Reply

_PROGRAM = Path(__file__).with_name("bare_worker.py")
#: Seconds beyond the measured ones: the worker loads and warms up first.
SPARE_S = 300.0


@dataclass(frozen=True)
class BareWorker:
    """An archive that is unpacked in `folder`."""

    folder: Path
    batch: int
    workers: int

    def answers(self, requests: Sequence[RecordedRequest]) -> list[Reply]:
        """The answer to each request, alone in its batch.

        Raises:
            ArchiveError: the archive does not load, or was built by a tsctl that is too old.
        """
        found = self._run(requests, 0.0, 0, with_answers=True)["answers"]
        return [Reply(answer["status"], base64.b64decode(answer["body"])) for answer in found]

    def measure(self, requests: Sequence[RecordedRequest], seconds: float) -> tuple[float, float]:
        """Requests/s of all workers at once, with full batches, and the median milliseconds of a batch of one.

        Raises:
            ArchiveError: as `answers`.
        """
        with ThreadPoolExecutor(self.workers) as pool:
            found = list(pool.map(lambda number: self._run(requests, seconds, number), range(self.workers)))
        return sum(each["requests_s"] for each in found), min(each["lone_ms"] for each in found)

    def _run(
        self, requests: Sequence[RecordedRequest], seconds: float, number: int, with_answers: bool = False
    ) -> dict[str, Any]:
        order = {
            "folder": str(self.folder),
            "seconds": seconds,
            "batch": self.batch,
            "number": number,
            "answers": with_answers,
            "requests": [
                {
                    "body": base64.b64encode(request.body).decode(),
                    "media_type": request.media_type,
                    "headers": {name.lower(): value for name, value in request.headers.items()},
                }
                for request in requests
            ],
        }
        try:
            ended = subprocess.run(
                [sys.executable, "-I", str(_PROGRAM)],
                input=json.dumps(order).encode(),
                cwd=self.folder,
                env={**WORKER_ENVIRONMENT, **inherited(os.environ)},  # as workers of engines have it
                capture_output=True,
                check=False,
                timeout=seconds + SPARE_S,
            )
        except subprocess.TimeoutExpired:
            raise ArchiveError(f"the archive's worker did not end within {seconds + SPARE_S:g} s") from None
        if ended.returncode != 0:
            last = ended.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise ArchiveError(
                f"the archive's worker does not run without a server (worker {number}): {last}",
                "If another tsctl built the archive, build it again: tsctl archive build",
            )
        return dict(json.loads(ended.stdout))

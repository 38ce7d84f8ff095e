"""A worker's whole work on a batch, without a node, with metrics and records on and off in turns: JSON, microseconds.

Both are measured in one process, in turns of a few milliseconds, because two processes under load differ by more than
metrics cost. Processor time of all threads is counted, so also what writes metrics and records.
"""

import argparse
import base64
import importlib
import json
import os
import socket
import statistics
import sys
import time
import zipfile
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--archive", type=Path)
parser.add_argument("--sample", type=Path)
parser.add_argument("--folder", type=Path, help="empty; the archive is unpacked there, and metrics are written")
parser.add_argument("--batch", type=int)
parser.add_argument("--turns", type=int)
parser.add_argument("--batches", type=int, help="in each turn")
options = parser.parse_args()

unpacked, metrics, records = (options.folder / name for name in ("archive", "metrics", "records"))
metrics.mkdir()
with zipfile.ZipFile(options.archive) as archive:
    archive.extractall(unpacked)
    manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
sys.path.insert(0, str(unpacked))
os.chdir(unpacked)

from tsctl.archive.probe import encode_batch, load  # noqa: E402 - brings a package `handlers` of its own

for imported in [name for name in sys.modules if name.partition(".")[0] == "handlers"]:
    del sys.modules[imported]
importlib.import_module("handlers")  # the archive's own

service = load(
    {
        "model": manifest["modelName"],
        "folder": str(unpacked),
        "handler": manifest["handler"],
        "batch_size": options.batch,
    }
)

from ts.protocol.otf_message_handler import retrieve_msg  # noqa: E402 - after the handler has replaced it

from handlers.cache.keys import canonical  # noqa: E402
from handlers.records.record import Recording  # noqa: E402
from handlers.records.recorder import Recorder, RecordOptions, open_recorder  # noqa: E402
from handlers.telemetry.metrics import Telemetry  # noqa: E402 - the archive's own package

worker = service._entry_point.__self__.worker
pipeline, on, off = worker.pipeline, worker.handler.telemetry, Telemetry()
if not on.is_on:
    sys.exit("the archive's metrics are off")
item = {"media_type": "application/json", "body": base64.b64encode(options.sample.read_bytes()).decode()}
message = encode_batch({f"request-{number}": item for number in range(options.batch)})
node, connection = socket.socketpair()


def recorder(share: float) -> Recorder:
    """Records so many of the requests, all of which have the same few ids."""
    handler = worker.handler
    recording = Recording("linear", "1.0", handler.summarize, canonical, handler.redact, keeps_inputs=False)
    recorded = RecordOptions(share, 30, repeats=0)  # no request here has a copy that goes to a shadow
    return open_recorder(recorded, recording, records, 1 << 30, on.recorded, worker.answer_again, options.batch)


def turn(telemetry: Telemetry, recorder: Recorder | None = None) -> float:
    """Microseconds of processor time per batch."""
    pipeline.open(None, telemetry, recorder)
    begin = time.process_time()
    for number in range(options.batches):
        node.sendall(message)
        _, batch = retrieve_msg(connection)
        service.predict(batch)
        if recorder is not None and number % 16 == 15:
            recorder.flush()  # as its thread does, before the queue is full
    telemetry.flush()
    if recorder is not None:
        recorder.flush()
    return (time.process_time() - begin) / options.batches * 1e6


everything, nothing = recorder(1.0), recorder(1e-12)
for telemetry in (on, off) * 5:
    turn(telemetry)
pairs = [(turn(on), turn(off)) for _ in range(options.turns)]
recorded = [(turn(on), turn(on, nothing), turn(on, everything)) for _ in range(options.turns)]
everything.close()
found = {
    "on_us": statistics.median(with_metrics for with_metrics, _ in pairs),
    "off_us": statistics.median(without for _, without in pairs),
    "item_us": statistics.median(none for none, _, _ in recorded) / options.batch,
    "unsampled_us": statistics.median(asked - none for none, asked, _ in recorded) / options.batch,
    "record_us": statistics.median(whole - asked for _, asked, whole in recorded) / options.batch,
    "share": statistics.median(1 - without / with_metrics for with_metrics, without in pairs),
}
print(json.dumps(found))  # noqa: T201 - what the benchmark reads

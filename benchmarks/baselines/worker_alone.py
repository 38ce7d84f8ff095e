"""A worker's whole work on a batch, without a node, with its metrics on and off in turns: JSON with microseconds each.

Both are measured in one process, in turns of a few milliseconds, because two processes under load differ by more than
metrics cost. Processor time of all threads is counted, so also what writes the metrics down.
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

unpacked, metrics = options.folder / "archive", options.folder / "metrics"
metrics.mkdir()
with zipfile.ZipFile(options.archive) as archive:
    archive.extractall(unpacked)
    manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
sys.path.insert(0, str(unpacked))
os.chdir(unpacked)

importlib.import_module("handlers")  # the archive's own; tsctl imports the one beside itself where there is none yet

from tsctl.archive.probe import encode_batch, load  # noqa: E402 - after the archive's package

service = load(
    {
        "model": manifest["modelName"],
        "folder": str(unpacked),
        "handler": manifest["handler"],
        "batch_size": options.batch,
    }
)

from ts.protocol.otf_message_handler import retrieve_msg  # noqa: E402 - after the handler has replaced it

from handlers.telemetry.metrics import Telemetry  # noqa: E402 - the archive's own package

worker = service._entry_point.__self__.worker
pipeline, on, off = worker.pipeline, worker.handler.telemetry, Telemetry()
if not on.is_on:
    sys.exit("the archive's metrics are off")
item = {"media_type": "application/json", "body": base64.b64encode(options.sample.read_bytes()).decode()}
message = encode_batch([item] * options.batch)
node, connection = socket.socketpair()


def turn(telemetry: Telemetry) -> float:
    """Microseconds of processor time per batch."""
    pipeline.open(None, telemetry)
    begin = time.process_time()
    for _ in range(options.batches):
        node.sendall(message)
        _, batch = retrieve_msg(connection)
        service.predict(batch)
    telemetry.flush()
    return (time.process_time() - begin) / options.batches * 1e6


for telemetry in (on, off) * 5:
    turn(telemetry)
pairs = [(turn(on), turn(off)) for _ in range(options.turns)]
found = {
    "on_us": statistics.median(with_metrics for with_metrics, _ in pairs),
    "off_us": statistics.median(without for _, without in pairs),
    "share": statistics.median(1 - without / with_metrics for with_metrics, without in pairs),
}
print(json.dumps(found))  # noqa: T201 - what the benchmark reads

"""What TorchServe's management API lacks, and the client makes up for."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tsctl.config.nodes import TorchServeSpec
from tsctl.nodes.torchserve.client import ManagementClient, ManagementError

#: What TorchServe 0.12 answers when the change meets a worker between two requests.
RACE = 'Cannot invoke "org.pytorch.serve.job.Job.isControlCmd()" because "job" is null'


@contextmanager
def management(*failures: str) -> Iterator[tuple[ManagementClient, list[str]]]:
    """A client, whose server fails with these messages and then succeeds, and the requests that came."""
    left, came = list(failures), []

    class Scripted(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            came.append(self.path.partition("?")[0])
            status, body = 202, {"status": "Processing worker updates..."}
            if left:
                status, body = 500, {"code": "500", "type": "InternalServerException", "message": left.pop(0)}
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Write nothing to standard error."""

    with HTTPServer(("127.0.0.1", 0), Scripted) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{listening.server_port}"
            spec = TorchServeSpec(inference="http://127.0.0.1:1", management=address, metrics="http://127.0.0.1:2")
            yield ManagementClient(spec, None), came
        finally:
            listening.shutdown()
            thread.join()


def test_a_change_of_workers_that_met_a_worker_between_two_requests_is_sent_again() -> None:
    with management(RACE) as (client, came):
        client.scale("tiny", "1.0", 0)
        assert came == ["/models/tiny/1.0"] * 2


@pytest.mark.parametrize(("failures", "tries"), [((RACE, RACE), 2), (("Failed to start the worker",), 1)])
def test_any_other_failure_is_told(failures: tuple[str, ...], tries: int) -> None:
    with management(*failures) as (client, came):
        with pytest.raises(ManagementError, match=r"job|worker"):
            client.scale("tiny", "1.0", 0)
        assert len(came) == tries

"""A Python of "vLLM's environment" for tests: what it is asked to run is a small server that answers like vLLM's.

`python_in(folder)` writes it. Its model is the text in the GGUF: the answer, or `crash`, which ends it while it loads.
Each server has a child, which goes on when its server is killed, as vLLM's do.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

#: What the child's command line ends with.
CHILD = "child-of-a-fake-vllm"


def python_in(folder: Path) -> Path:
    """A program that takes the arguments of Python."""
    folder.mkdir(parents=True)
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} "$@"\n')
    program.chmod(0o755)
    return program


def convert(gguf: Path, dtype: str, folder: Path) -> None:
    folder.mkdir()
    (folder / "dtype").write_text(dtype)
    (folder / "model").write_bytes(gguf.read_bytes())
    token = {"content": "<|im_end|>", "special": True}
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": [token]}))


def serve(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    for name in ("--model", "--host", "--port", "--dtype", "--max-model-len"):
        parser.add_argument(name, required=True)
    given, _ = parser.parse_known_args(arguments)
    answer = (Path(given.model) / "model").read_text()
    if answer == "crash":
        sys.exit(7)
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", CHILD])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200 if self.path == "/health" else 404, b"")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            time.sleep(body.get("sleep_s", 0))
            content: dict[str, Any] = {
                "choices": [{"message": {"content": answer}, "finish_reason": "length"}],
                "headers": dict(self.headers),
                "path": self.path,
                "environment": dict(os.environ),
                "arguments": arguments,
            }
            self._answer(200, json.dumps(content).encode())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    ThreadingHTTPServer((given.host, int(given.port)), Handler).serve_forever()


if __name__ == "__main__":
    words = sys.argv[1:]
    if any(word.endswith("vllm_folder.py") for word in words):
        convert(Path(words[-3]), words[-2], Path(words[-1]))
    else:
        program = next(word for word in words if word.endswith("run_server.py"))
        runpy.run_path(program)["end_with_parent"]()  # as the real program begins
        serve(words[words.index("--model") :])

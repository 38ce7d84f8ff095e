"""gRPC as no client would send it: frames by hand, and curl, which sends any of them over HTTP/2."""

from __future__ import annotations

import subprocess

#: curl loses most of the answers that come before it has sent the body.
TRIES = 60


def framed(message: bytes, flag: int = 0, length: int | None = None) -> bytes:
    """A message in its frame.

    Args:
        length: that the frame says; None: the message's.
    """
    return bytes([flag]) + (len(message) if length is None else length).to_bytes(4, "big") + message


def curl(base: str, path: str, body: bytes, *headers: str, media_type: str = "application/grpc") -> dict[str, str]:
    """Headers and trailers of the answer; `:status` is that of HTTP."""
    asked = [f"content-type: {media_type}", "te: trailers", *headers]
    command = [
        "curl", "-s", "--http2-prior-knowledge", "--path-as-is", "--max-time", "10", "-D", "-", "-o", "/dev/null",
        *(part for header in asked for part in ("-H", header)), "--data-binary", "@-", base + path,
    ]  # fmt: skip
    for _ in range(TRIES):
        ended = subprocess.run(command, input=body, capture_output=True, check=False)
        if ended.stdout:
            break
    lines = ended.stdout.decode().splitlines()
    pairs = [line.partition(": ") for line in lines if ": " in line]
    return {":status": lines[0].split()[1], **{name: value for name, _, value in pairs}}

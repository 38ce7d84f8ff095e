"""Runs one archive in a clean process, through TorchServe's own loader, decoder, service and encoder.

A script, not a module of tsctl: it is started as `python -I probe.py`, must import nothing but the standard library and
`ts`, and has the unpacked archive first on its path, as a worker has. It reads its order from standard input and writes
its result to standard output, both JSON; whatever else writes to standard output writes to standard error.
"""

from __future__ import annotations

import base64
import gc
import importlib
import json
import logging
import os
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: TorchServe's header of a part after which more follows ("true").
_NEXT = "ts_stream_next"


def main() -> None:
    """Load the archive as the order says, answer its batches, and write the result, whatever happens."""
    order = json.load(sys.stdin)
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr  # what the archive prints would be lost in the other's buffer when this process ends
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    sys.path.insert(0, order["folder"])
    os.chdir(order["folder"])
    result: dict[str, Any] = {"is_loaded": False, "error": "", "answers": []}
    begin = time.monotonic()
    gc.disable()  # while modules are imported, whose objects stay
    try:
        importlib.import_module("ts.protocol.otf_message_handler")  # and torch with it
        gc.freeze()
        gc.enable()
        if order["golden"]:
            entry, context = entry_and_context(order)
            result["golden"] = entry.golden_answers(context)
        elif order["compare"] is not None:
            entry, context = entry_and_context(order)
            result["distances"] = entry.compare_answers(context, order["compare"])
        elif order["reference"]:
            entry, context = entry_and_context(order)
            files = [Path(file) for file in order["reference"]["files"]]
            result["reference_items"] = entry.write_reference(context, files, Path(order["reference"]["out"]))
        else:
            service = load(order)
            result["load_s"] = round(time.monotonic() - begin, 3)
            result["is_loaded"] = True
            result["media_types"] = media_types(service)
            batches = ([order["items"][place] for place in batch] for batch in order["batches"])
            if order["to"]:
                write_answers(service, batches, order["to"])
            else:
                result["answers"] = [answer(service, batch)[0] for batch in batches]
        result["handlers_file"] = getattr(sys.modules.get("handlers"), "__file__", None)
    except BaseException as error:  # noqa: BLE001 - an archive may raise anything, and the parent process needs the reason
        result["error"] = f"{type(error).__name__}: {error}"
        print_traceback(error)
    json.dump(result, results)
    results.flush()
    os._exit(0)  # threads and exit handlers of the archive are not waited for


def print_traceback(error: BaseException) -> None:
    """Write where the error began; of an archive that tsctl built, from the author's code on."""
    while error.__cause__ is not None:
        error = error.__cause__
    tracebacks = sys.modules.get("handlers.tracebacks")
    told = tracebacks.own_traceback(error) if tracebacks else "".join(traceback.format_exception(error))
    sys.stderr.write(f"{told}\n")


def load(order: dict[str, Any]) -> Any:
    """The archive as TorchServe's service."""
    from ts.model_loader import ModelLoaderFactory

    service = ModelLoaderFactory.get_model_loader().load(
        order["model"],
        order["folder"],
        order["handler"],
        None,
        order["batch_size"],
        None,
        True,
        metrics(order["model"]),
    )
    service.set_cl_socket(None)
    return service


def media_types(service: Any) -> list[str]:
    """Those that the archive's handler reads; empty for a stock one."""
    entry = getattr(service._entry_point, "__self__", None)
    handler = getattr(getattr(entry, "worker", None), "handler", None)
    return [str(media_type) for media_type in getattr(handler, "media_types", ())]


def entry_and_context(order: dict[str, Any]) -> tuple[Any, Any]:
    """A new object of the one class of the module that the manifest names, and TorchServe's context for it."""
    from ts.service import Service
    from ts.utils.util import list_classes_from_module

    [entry_class] = list_classes_from_module(importlib.import_module(order["handler"]))
    manifest = json.loads(Path("MAR-INF/MANIFEST.json").read_text())
    service = Service(order["model"], order["folder"], manifest, None, None, order["batch_size"], True, None)
    return entry_class(), service.context


def metrics(model: str) -> Any:
    """The metrics that a worker gives its service."""
    import ts
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

    cache = MetricsCacheYamlImpl(config_file_path=str(Path(ts.__file__).parent / "configs" / "metrics.yaml"))
    cache.initialize_cache()
    cache.model_name = model
    return cache


def write_answers(service: Any, batches: Iterable[list[dict[str, Any]]], to: str) -> None:
    """Write the answers to each batch, and the milliseconds that it took, as a line of JSON."""
    with Path(to).open("a", buffering=1) as file:  # appended to, line by line: the parent process has it open too
        for batch in batches:
            answers, seconds = answer(service, batch)
            short = [{name: each[name] for name in ("status", "body")} for each in answers]
            file.write(json.dumps({"ms": round(seconds * 1000, 4), "answers": short}) + "\n")


def answer(service: Any, batch: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], float]:
    """The answers to one batch, and the seconds that they took.

    The batch is written to a socket as the node writes it, and read back as the node reads it. Where answers come in
    parts, the node asks again and again, each time with the requests that it still waits for; or the handler writes
    parts to the node's socket itself, before the rest that it returns (send_intermediate_predict_response).
    """
    answers: dict[str, dict[str, Any]] = {}
    waiting = {f"request-{number}": item for number, item in enumerate(batch)}
    names, seconds = list(waiting), 0.0
    while waiting:
        message = received(encode_batch(waiting))
        with _Sent(service) as sent:
            begin = time.perf_counter()
            written = service.predict(message)
            seconds += time.perf_counter() - begin
        last = decode_parts(bytes(written))
        for name, part in [*decode_parts(sent.content), *last]:
            known = answers.setdefault(name, {**part, "body": b""})
            known["body"] += part["body"]
            known["status"] = part["status"]
        for name, part in last:
            if part["headers"].get(_NEXT) != "true":
                del waiting[name]
    return [_as_json(answers[name]) for name in names], seconds


class _Sent:
    """What the service writes to its connection to the node while the block runs; `content` has it afterwards."""

    def __init__(self, service: Any) -> None:
        self.content = b""
        self._node, self._worker = socket.socketpair()
        self._reader = threading.Thread(target=self._read)
        service.set_cl_socket(self._worker)

    def _read(self) -> None:
        while part := self._node.recv(1 << 16):
            self.content += part

    def __enter__(self) -> _Sent:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()  # the reader has all of it then
        self._reader.join()
        self._node.close()


def received(message: bytes) -> Any:
    """A message of the node, as a worker reads it from its socket."""
    from ts.protocol.otf_message_handler import retrieve_msg

    node, worker = socket.socketpair()
    with node, worker:
        sender = threading.Thread(target=node.sendall, args=(message,))
        sender.start()
        _, read = retrieve_msg(worker)
        sender.join()
    return read


def encode_batch(batch: dict[str, dict[str, Any]]) -> bytes:
    """An inference command with one raw body per item, each for the model and not for the handler's cache."""
    parts = [b"I"]
    for name, item in batch.items():
        parts.append(_field(name.encode()))
        if item["media_type"]:
            parts += [_field(b"Content-Type"), _field(item["media_type"].encode())]
        for name, value in {**item.get("headers", {}), "Cache-Control": "no-store"}.items():
            parts += [_field(name.encode()), _field(value.encode())]
        parts.append(struct.pack("!i", -1))
        parts += [_field(b"body"), _field(item["media_type"].encode()), _field(base64.b64decode(item["body"]))]
        parts.append(struct.pack("!i", -1))
    return b"".join([*parts, struct.pack("!i", -1)])


def decode_answers(message: bytes) -> list[dict[str, Any]]:
    """The items of a predict response to the requests `request-0`, `request-1` and so on, in their order."""
    parts = dict(decode_parts(message))
    return [_as_json(parts[f"request-{number}"]) for number in range(len(parts))]


def decode_parts(messages: bytes) -> list[tuple[str, dict[str, Any]]]:
    """The items of predict responses, each with its request, in their order."""
    reader = _Reader(messages)
    answers = []
    while not reader.is_at_end:
        reader.number()
        reader.field()
        while (length := reader.number()) != -1:
            request_id = reader.take(length).decode()
            media_type = reader.field().decode()
            status = reader.number()
            reader.field()
            headers = {reader.field().decode(): reader.field().decode() for _ in range(reader.number())}
            part = {"status": status, "media_type": media_type, "headers": headers, "body": reader.field()}
            answers.append((request_id, part))
    return answers


def _as_json(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "body": base64.b64encode(item["body"]).decode()}


def _field(value: bytes) -> bytes:
    return struct.pack("!i", len(value)) + value


class _Reader:
    """Reads the fields of a message one after the other."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._at = 0

    @property
    def is_at_end(self) -> bool:
        return self._at >= len(self._message)

    def take(self, length: int) -> bytes:
        self._at += length
        return self._message[self._at - length : self._at]

    def number(self) -> int:
        value: int = struct.unpack("!i", self.take(4))[0]
        return value

    def field(self) -> bytes:
        return self.take(self.number())


if __name__ == "__main__":
    main()

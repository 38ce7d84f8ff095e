"""What workers, the gateway and tsctl agree on: header names, environment variables, processor cores, the problem
document, golden answers, load reports and metric names. Beside it, record_files.py has the files of records.

Both worlds import it. Invariant: standard library only, and importing it does no work; a name that two
sides of the wire use is defined here and nowhere else.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

# ---- headers ---------------------------------------------------------------------------------------------------------

REQUEST_ID_HEADER = "x-request-id"
MODEL_VERSION_HEADER = "x-model-version"
#: How long the client waits, counted from when the header was sent; whole milliseconds.
TIMEOUT_HEADER = "x-request-timeout-ms"
#: When the gateway sent the request to the node: milliseconds of a clock that need not be the worker's.
SENT_HEADER = "x-tsctl-sent-ms"
#: A request that no client sent, and that no metric counts: CHECK_HEALTH may be answered by what the worker knows of
#: itself, CHECK_ANSWER is answered by the model.
CHECK_HEADER, CHECK_HEALTH, CHECK_ANSWER = "x-tsctl-check", "health", "answer"
#: The name of the client's key, and the part that the version plays for this request, as the gateway says. A shadow's
#: copies are marked by SHADOW_HEADER; their track is that of the version that answers the client.
CLIENT_HEADER, ASSIGNED_TRACK_HEADER, SHADOW_HEADER = "x-tsctl-client", "x-tsctl-track", "x-tsctl-shadow"
#: A request of which the gateway sends a copy to a shadow, and the copy; workers measure the noise floor by them.
COPIED_HEADER = "x-tsctl-copied"
#: How stable answered an item again: by itself, or in another batch than the first time.
REPEAT_ALONE, REPEAT_BATCH = "alone", "batch"
#: Of W3C Trace Context: the trace that a request belongs to, and whether its spans are kept.
TRACEPARENT_HEADER, TRACESTATE_HEADER = "traceparent", "tracestate"
#: How the gateway chose the version of a request.
CHOSEN_BY_HEADER = "x-tsctl-by"
#: What the response cache did: one of CACHE_STATES.
CACHE_HEADER = "x-cache"
CACHE_STATES = ("hit", "miss", "bypass")
#: The predicted class; the gateway counts the classes of each version, and releases are judged by them.
CLASS_HEADER = "x-prediction-class"
#: The longest name of a class that a header and the label of a metric can carry, and what it is made of.
LONGEST_CLASS = 64
#: The class in place of those that are too many to be counted one by one, and the most that a worker tells in its life.
OTHER_CLASS = "other"
MOST_CLASSES = 2048
CLASS_NAME = re.compile(rf"[\w.:\-]{{1,{LONGEST_CLASS}}}", re.ASCII)
#: Workers of one version on one node.
MOST_WORKERS = 256
#: The protocol of a request body; the gateway sets it on the protocol's paths. Absent: the handler's own format.
PROTOCOL_HEADER, OPEN_INFERENCE = "x-tsctl-protocol", "oip-v2"
#: A value of PROTOCOL_HEADER: the request asks for the model's metadata, and for no prediction.
OPEN_INFERENCE_METADATA = "oip-v2-metadata"
#: Values of PROTOCOL_HEADER: a request of the OpenAI API, by its route. Errors have that API's form then.
OPENAI_CHAT, OPENAI_COMPLETION, OPENAI_EMBEDDINGS = "openai-chat", "openai-completion", "openai-embeddings"
#: What an answer of a language model cost and how it ended: `prompt=12;answer=34;finish=stop`. A header of an answer in
#: one piece; a stream has it in a comment after its last event, `: tokens prompt=12;answer=34;finish=stop`.
TOKENS_HEADER, TOKENS_COMMENT = "x-tokens", ": tokens "
#: How an answer ended: the model ended it, or a stop sequence; it has as many tokens as it may; it could not go on.
FINISHES = ("stop", "length", "error")
#: A worker ends each answer itself when its time is over. One that has requests and gives nothing for so many seconds
#: longer than an answer may take, hangs, and is ended.
SILENT_S = 10.0


def tokens_text(prompt: int, answer: int, finish: str) -> str:
    """The value of TOKENS_HEADER; in a stream it follows TOKENS_COMMENT."""
    return f"prompt={prompt};answer={answer};finish={finish}"


#: The versions that the gateway routes to, with commas between; a worker knows only its own.
VERSIONS_HEADER = "x-tsctl-versions"
#: The length of the JSON in a body in which tensors in binary follow it.
HEADER_LENGTH_HEADER = "inference-header-content-length"
#: Name and version that a server gives itself, whichever engine answers; the version is the package's.
SERVER_NAME, SERVER_VERSION = "tsctl", "0.1.0"
#: States of a model in the index of the repository.
READY_STATE, UNAVAILABLE_STATE = "READY", "UNAVAILABLE"
#: What a server says that it offers besides the protocol itself.
OPEN_INFERENCE_EXTENSIONS = ("binary_tensor_data", "model_repository_index")

# ---- gRPC of the Open Inference Protocol -----------------------------------------------------------------------------

GRPC_SERVICE = "inference.GRPCInferenceService"
#: gRPC's status of an answer by its HTTP status; 13 (INTERNAL) for any other.
GRPC_CODES = {
    400: 3, 422: 3,  # INVALID_ARGUMENT
    401: 16,  # UNAUTHENTICATED
    403: 7,  # PERMISSION_DENIED
    404: 5,  # NOT_FOUND
    405: 12, 415: 12, 501: 12,  # UNIMPLEMENTED
    408: 4, 504: 4,  # DEADLINE_EXCEEDED
    413: 8, 429: 8, 431: 8,  # RESOURCE_EXHAUSTED
    500: 13,  # INTERNAL
    502: 14, 503: 14,  # UNAVAILABLE
}  # fmt: skip

#: On a server's errors that another node may not make: refused, no worker has begun with the request; died, one may
#: have. The gateway takes it off.
RETRY_HEADER, RETRY_REFUSED, RETRY_DIED = "x-tsctl-retry", "refused", "died"

# ---- media types -----------------------------------------------------------------------------------------------------

JSON = "application/json"
PNG = "image/png"
JPEG = "image/jpeg"
#: Of the Open Inference Protocol: JSON with tensors in binary behind it, and one message of its gRPC service.
BINARY, PROTOBUF = "application/octet-stream", "application/x-protobuf"
#: Media type of a sample file by its suffix.
SAMPLE_MEDIA_TYPES = {".json": JSON, ".png": PNG, ".jpg": JPEG, ".jpeg": JPEG, ".txt": "text/plain"}
#: The entry of a handler's `media_types` that stands for every media type.
ANY_MEDIA_TYPE = "*/*"


def sample_media_type(name: str, types: Mapping[str, str]) -> str | None:
    """The media type of a sample file; None where its name says none.

    Args:
        types: by suffixes in lower case, such as `.wav`; those of SAMPLE_MEDIA_TYPES are known besides.
    """
    suffix = PurePosixPath(name).suffix.lower()
    return SAMPLE_MEDIA_TYPES.get(suffix) or types.get(suffix)


# ---- environment of a worker -----------------------------------------------------------------------------------------

#: Folder of the metric files. prometheus_client reads it at import, to decide whether it writes files at all.
METRICS_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
#: The Python that runs workers where the server that starts them has an environment without the models' libraries.
WORKER_PYTHON_VARIABLE = "TSCTL_WORKER_PYTHON"
#: The folder of a node of ours on this machine, where its workers' processes are started by a server that is not ours.
NODE_FOLDER_VARIABLE = "TSCTL_NODE_FOLDER"
#: Address of the fork server that makes a node's workers (handlers/forks); absent: the node has one of its own.
#: FORK_SERVER_OFF: each worker imports torch by itself.
FORK_SERVER_VARIABLE, FORK_SERVER_OFF = "TSCTL_FORK_SERVER", "off"
#: Address of the shared cache; replaces the archive's `cache.shared`, and may hold the password that no archive holds.
SHARED_CACHE_VARIABLE = "TS_SHARED_CACHE_URL"
#: Secret with which nodes authenticate the answers that they share; one that has it takes no answer made without it.
SHARED_CACHE_KEY_VARIABLE = "TS_SHARED_CACHE_KEY"
#: Folder of the prediction records, and the most megabytes (of 2^20 bytes) of all files in it.
RECORDS_FOLDER_VARIABLE, RECORDS_MB_VARIABLE = "TS_RECORDS_FOLDER", "TS_RECORDS_MB"
MOST_RECORDS_MB = 1024  # where nobody says
#: Address to which workers post spans of sampled requests, as OTLP over HTTP. Absent or empty: they make none.
TRACES_VARIABLE = "TS_TRACES_ENDPOINT"
#: Bytes of the longest answer that the node reads, as TorchServe's own variable for `max_response_size` is called.
ANSWER_LIMIT_VARIABLE = "TS_MAX_RESPONSE_SIZE"
#: Folder of Python packages that a worker in another environment than tsctl's searches last.
LIBRARIES_VARIABLE = "TSCTL_LIBRARIES"

# ---- the start of a worker -------------------------------------------------------------------------------------------

#: For `python -c`: runs a module or a script, the first argument, as `python -m` and `python` do, and imports torch
#: before. The garbage collector rests meanwhile: it would walk all objects of torch, which stay, again and again.
_TORCH_FIRST = (
    "import gc; gc.disable(); import torch; gc.freeze(); gc.enable(); import os, runpy, sys; del sys.argv[0]; "
)
RUN_MODULE = _TORCH_FIRST + "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
RUN_SCRIPT = (
    _TORCH_FIRST + "sys.path[0] = os.path.dirname(sys.argv[0]); runpy.run_path(sys.argv[0], run_name='__main__')"
)

# ---- packages of one model -------------------------------------------------------------------------------------------

#: In the environment of every worker: the folder in which each set of packages has a folder of its own.
PACKAGES_VARIABLE = "TS_PACKAGES_FOLDER"


def packages_key(requirements: Sequence[str]) -> str:
    """The name of the folder with the packages of these requirements, for this Python."""
    content = "\n".join([f"python{sys.version_info.major}.{sys.version_info.minor}", *sorted(requirements)])
    return sha256(content.encode()).hexdigest()[:16]


# ---- secrets ---------------------------------------------------------------------------------------------------------

#: In the environment of every worker: the folder with `<model>/<NAME>`, a file for each secret.
SECRETS_VARIABLE = "TS_SECRETS_FOLDER"
MOST_SECRET_BYTES = 1 << 16

# ---- Triton ----------------------------------------------------------------------------------------------------------

#: Input and output of a model that gets whole HTTP bodies: bytes (UINT8), because Triton takes BYTES apart in Python,
#: and a malformed one ends the worker.
TRITON_BODY, TRITON_ANSWER = "body", "answer"
#: Headers of a client that Triton would act on, and the names under which the worker gets them: Triton decodes a body
#: however large it becomes, and HEADER_LENGTH_HEADER tells it that the whole body is the one input. HELD_NONE: the
#: client sent none.
HELD_ENCODING_HEADER, HELD_LENGTH_HEADER, HELD_NONE = "x-tsctl-held-encoding", "x-tsctl-held-length", "none"
#: Bytes of the longest answer of a worker on a node of Triton: the gateway takes the whole answer apart.
TRITON_LONGEST_ANSWER = 16 << 20
#: Parameters of config.pbtxt: the names under which the worker serves. Absent: those in the archive's manifest.
TRITON_MODEL_PARAMETER, TRITON_VERSION_PARAMETER = "tsctl_model", "tsctl_version"
#: Parameter of config.pbtxt: names of the outputs that are a JSON text for each row, as a JSON list. Absent: none.
TRITON_JSON_PARAMETER = "tsctl_json_outputs"

#: Of every worker, unless the server's own environment says otherwise: torch's threads sleep while they wait for each
#: other. Where they spin, which is the default, a batch takes ten times as long beside another process on their cores.
WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive"}

# ---- processor cores -------------------------------------------------------------------------------------------------


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use, at least one: its affinity mask, lowered by the quotas of its control groups.

    Args:
        root: of the file system with /proc, and with cgroup v1 or v2 in /sys/fs/cgroup.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(quota // period for quota, period in _cpu_quotas(root))]))


def _cpu_quotas(root: Path) -> Iterator[tuple[int, int]]:
    """Quota and period of each group around this process that has them, in microseconds."""
    groups, mounted = root / "proc" / "self" / "cgroup", root / "sys" / "fs" / "cgroup"
    for group in groups.read_text().splitlines() if groups.is_file() else ():
        _, controllers, path = group.split(":", 2)
        mounts = [mounted / controllers, mounted / "cpu"] if "cpu" in controllers.split(",") else []
        for mount in mounts or ([] if controllers else [mounted, mounted / "unified"]):
            inside = mount / path.strip("/")
            # a container sees its own group at the mount, and may have the path of another view
            for folder in (each for each in (inside, *inside.parents) if each.is_relative_to(mount)):
                files = ["cpu.cfs_quota_us", "cpu.cfs_period_us"] if controllers else ["cpu.max"]
                numbers = " ".join((folder / name).read_text() for name in files if (folder / name).is_file()).split()
                if len(numbers) == 2 and numbers[0] not in ("max", "-1"):
                    yield int(numbers[0]), int(numbers[1])


def threads_per_worker(configured: int | None, cores: int, workers: int) -> int:
    """A worker's threads of computation: as configured, else the cores shared among the workers, at least one.

    More threads than cores slows every worker down; TorchServe's default of all cores for each of several workers
    does that.
    """
    return configured or max(1, cores // max(1, workers))


# ---- problem document (RFC 9457) -------------------------------------------------------------------------------------

PROBLEM_MEDIA_TYPE = "application/problem+json"
PROBLEM_TYPE_PREFIX = "urn:tsctl:problem:"
#: Titles of the kinds of problems that several servers answer with, by kind.
PROBLEM_TITLES = {
    "bad-request": "The request cannot be read",
    "headers-too-large": "The headers are too large",
    "method-not-allowed": "The method is not allowed",
    "not-found": "There is no such route",
    "not-implemented": "This operation is not offered",
    "payload-too-large": "The request is too large",
    "too-slow": "The request came too slowly",
    "unavailable": "No worker could take the request",
    "undecodable-body": "The body cannot be decoded",
    "unsupported-media-type": "The media type is not supported",
    "worker-failed": "The worker failed on this request",
}


def problem_document(
    kind: str,
    title: str,
    status: int | str,
    detail: str,
    request_id: str | None,
    model: str,
    version: str,
) -> dict[str, Any]:
    """The members of a problem document, in their order; a worker and the gateway answer with the same ones.

    `error` is the detail once more, where clients of the Open Inference Protocol look for it.

    Args:
        status: an int; the gateway's templates give a placeholder.
    """
    return {
        "type": f"{PROBLEM_TYPE_PREFIX}{kind}",
        "title": title,
        "status": status,
        "detail": detail,
        "request_id": request_id,
        "model": model,
        "version": version,
        "error": detail,
    }


# ---- errors of the OpenAI API ----------------------------------------------------------------------------------------

#: A request that cannot be answered as it is; OpenAI's clients do not send it again.
OPENAI_INVALID = "invalid_request_error"
#: Types of errors by status; others below 500 are OPENAI_INVALID, and the rest OPENAI_FAILED.
OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
OPENAI_FAILED = "server_error"


def openai_error(status: int, message: str, code: str, field: str | None = None) -> dict[str, Any]:
    """The document of an error in the form of the OpenAI API; a worker and the gateway answer with the same ones.

    Args:
        code: the kind of the problem, as in `problem_document`.
        field: the parameter that is wrong, where one is.
    """
    kind = OPENAI_TYPES.get(status) or (OPENAI_INVALID if status < 500 else OPENAI_FAILED)
    return {"error": {"message": message, "type": kind, "param": field, "code": code}}


# ---- golden answers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tolerance:
    """How far a number may lie from the golden one: |answer - golden| <= absolute + relative * |golden|."""

    absolute: float = 1e-4
    relative: float = 0.0
    #: Of an answer of a language model: how many of its first tokens must be the golden ones. None: of another model.
    tokens: int | None = None

    def holds(self, answer: float, golden: float) -> bool:
        """Whether `answer` is finite and close enough."""
        if not math.isfinite(answer):
            return False
        return abs(answer - golden) <= self.absolute + self.relative * abs(golden)


def difference(answer: Any, golden: Any, tolerance: Tolerance, path: str = "") -> str | None:
    """The first place where two JSON values differ, as a sentence; None where they agree.

    Integers, strings, booleans and null must be equal. Only a golden number with a fraction has a tolerance. With
    `tolerance.tokens`, the golden value is that of `golden_texts`, and the answer is a whole answer of the OpenAI API.
    """
    if tolerance.tokens is not None:
        return _texts_difference(answer, golden, tolerance.tokens)
    place = path or "the answer"
    if isinstance(golden, dict):
        if not isinstance(answer, dict) or answer.keys() != golden.keys():
            got = sorted(answer) if isinstance(answer, dict) else answer
            return f"{place}: expected the fields {sorted(golden)}, got {_shortened(got)}"
        pairs = [(f"{path}.{key}" if path else key, answer[key], golden[key]) for key in golden]
    elif isinstance(golden, list):
        if not isinstance(answer, list) or len(answer) != len(golden):
            got = f"{len(answer)} entries" if isinstance(answer, list) else _shortened(answer)
            return f"{place}: expected {len(golden)} entries, got {got}"
        pairs = [(f"{path}[{i}]", a, g) for i, (a, g) in enumerate(zip(answer, golden, strict=True))]
    else:
        return None if _agree(answer, golden, tolerance) else f"{place}: expected {golden!r}, got {_shortened(answer)}"
    return next((text for inner, a, g in pairs if (text := difference(a, g, tolerance, inner))), None)


def golden_texts(answers: Iterable[tuple[Iterable[str], str]]) -> dict[str, Any]:
    """The golden value of a language model's answers: of each its text, token by token, and its finish."""
    return {"answers": [{"tokens": list(tokens), "finish": finish} for tokens, finish in answers]}


def _texts_difference(answer: Any, golden: Any, tokens: int) -> str | None:
    """The first place where texts differ: in one of their first tokens, or in length or finish where all must agree."""
    try:
        expected = texts_of(golden)
        got = [("".join(pieces), finish) for pieces, finish in texts_of(answer)]
    except (KeyError, TypeError):
        return f"the answer: expected choices with a text and a finish_reason, got {_shortened(answer)}"
    if len(got) != len(expected):
        return f"the answer: expected {len(expected)} choices, got {len(got)}"
    for index, ((pieces, golden_finish), (text, finish)) in enumerate(zip(expected, got, strict=True)):
        place, beginning = f"choices[{index}]", "".join(pieces[:tokens])
        if not text.startswith(beginning):
            same = next(n for n in range(len(pieces)) if not text.startswith("".join(pieces[: n + 1])))
            got_there = text[len("".join(pieces[:same])) :]
            return f"{place}: after {same} tokens, expected {pieces[same]!r}, got {_shortened(got_there)}"
        if tokens >= len(pieces) and (len(text) > len(beginning) or finish != golden_finish):
            ended = f"{golden_finish!r} after {len(pieces)} tokens"
            return f"{place}: expected the end, {ended}, got {finish!r} after {_shortened(text[len(beginning) :])}"
    return None


def texts_of(answer: Any) -> list[tuple[list[str], str]]:
    """The texts of golden answers token by token, and of a whole answer of the OpenAI API letter by letter."""
    if "answers" in answer:
        return [(each["tokens"], each["finish"]) for each in answer["answers"]]
    return [
        (list(choice["message"]["content"] if "message" in choice else choice["text"]), choice["finish_reason"])
        for choice in answer["choices"]
    ]


def _agree(answer: Any, golden: Any, tolerance: Tolerance) -> bool:
    if isinstance(golden, float) and isinstance(answer, int | float) and not isinstance(answer, bool):
        return tolerance.holds(float(answer), golden)
    return type(answer) is type(golden) and answer == golden


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# ---- load reports ----------------------------------------------------------------------------------------------------

#: Begins the log line in which a worker says how its load ended; tsctl reads it from the node's log.
LOAD_MARKER = "[TSCTL LOAD]"


@dataclass(frozen=True)
class LoadReport:
    """How the load of one worker ended."""

    model: str
    version: str
    pid: int
    is_ready: bool
    reason: str = ""  # why it was refused; empty where it is ready
    facts: dict[str, Any] = field(default_factory=dict)  # device, threads, warm-up times and so on

    def line(self) -> str:
        """The log line."""
        outcome = {"outcome": "ready"} if self.is_ready else {"outcome": "refused", "reason": self.reason}
        who = {"model": self.model, "version": self.version, "pid": self.pid}
        return f"{LOAD_MARKER} {json.dumps({**who, **outcome, **self.facts})}"


def parse_load_report(line: str) -> LoadReport | None:
    """The report in a log line; None where the line has none, or was cut off."""
    _, marker, text = line.partition(LOAD_MARKER)
    if not marker:
        return None
    try:
        content = json.loads(text)
    except ValueError:
        return None  # the end of the line is not written yet
    if not isinstance(content, dict):
        return None
    return LoadReport(
        model=str(content.pop("model", None)),
        version=str(content.pop("version", None)),
        pid=int(content.pop("pid", None) or 0),
        is_ready=content.pop("outcome", None) == "ready",
        reason=str(content.pop("reason", "")),
        facts=content,
    )


# ---- metric names ----------------------------------------------------------------------------------------------------

STAGE_SECONDS = "tsctl_worker_stage_seconds"
BATCH_SECONDS = "tsctl_worker_batch_seconds"
BATCH_ITEMS = "tsctl_worker_batch_items"
ANSWERED_ITEMS = "tsctl_worker_answered_items_total"
CACHE_ITEMS = "tsctl_worker_cache_items_total"
SHARED_CACHE_EXCHANGES = "tsctl_worker_shared_cache_exchanges_total"
COMPUTED_ITEMS = "tsctl_worker_computed_items_total"
INPUT_POSITIONS = "tsctl_worker_input_positions_total"
MEMORY_SPLITS = "tsctl_worker_memory_splits_total"
BISECTIONS = "tsctl_worker_bisections_total"
WORKER_STARTS = "tsctl_worker_starts_total"
WARMUP_SECONDS = "tsctl_worker_warmup_seconds"
SPANS = "tsctl_worker_spans_total"
#: What became of a span; all but the first are dropped.
SPAN_OUTCOMES = ("exported", "queue-full", "failed")
RECORDED_ITEMS = "tsctl_worker_records_total"
#: Of workers that generate text.
FIRST_TOKEN_SECONDS = "tsctl_worker_first_token_seconds"  # noqa: S105 - no password
OUTPUT_TOKEN_SECONDS = "tsctl_worker_output_token_seconds"  # noqa: S105 - no password
ANSWER_QUEUE_SECONDS = "tsctl_worker_answer_queue_seconds"
PROMPT_TOKENS = "tsctl_worker_prompt_tokens_total"
ANSWER_TOKENS = "tsctl_worker_answer_tokens_total"
FINISHED_ANSWERS = "tsctl_worker_finished_answers_total"
OPEN_ANSWERS = "tsctl_worker_open_answers"
KV_CACHE_USAGE = "tsctl_worker_kv_cache_usage_ratio"
#: What became of an answer: FINISHES, and one that nobody reads any more.
ANSWER_ENDS = (*FINISHES, "cancelled")
#: What became of an item that was to be recorded: no record was written, it was written without its input, or it was
#: written. `repeat-lost` counts second answers that could not be written; they are no items.
WRITTEN, INPUT_FAILED, REPEAT_LOST = "written", "input-failed", "repeat-lost"
DROPPED_RECORDS = ("queue-full", "disk-full", "unwritable", "failed")
RECORD_OUTCOMES = (WRITTEN, *DROPPED_RECORDS, INPUT_FAILED, REPEAT_LOST)

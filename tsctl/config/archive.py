"""The schema of `archives/<model>/archive.yaml`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, Field, ValidationError, model_validator

from handlers.contract import MOST_WORKERS, SAMPLE_MEDIA_TYPES
from tsctl.config.requirements import Requirements
from tsctl.config.secrets import SecretNames
from tsctl.config.spec import ModelName, ModelVersion, SpecModel, read_spec
from tsctl.config.trust import TrustList
from tsctl.mistakes import first_mistake


def _inside(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or path != str(pure) or not path.isprintable():
        raise ValueError("must be a plain relative path inside the archive's folder, with /")
    return path


def _redis_address(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in {"redis", "rediss"} or not parts.hostname:
        raise ValueError("must be an address such as redis://cache.internal:6379/0")
    if "@" in parts.netloc or {"password", "username"} & parse_qs(parts.query).keys():
        raise ValueError("must hold no user or password: set TS_SHARED_CACHE_URL in the node's environment instead")
    return address


def _json_values(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as their JSON gives them back."""
    try:
        return dict(json.loads(json.dumps(settings, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"must hold JSON values only ({error})") from None


#: Passed to the recipe and the handler as JSON.
Settings = Annotated[dict[str, Any], AfterValidator(_json_values)]

#: The ready-made handler of text models.
TEXT_HANDLER = "handlers.text_generation"
#: More than any model reads; for bounds.
MOST_TOKENS = 1 << 24

#: A file or folder beside archive.yaml.
InsidePath = Annotated[str, AfterValidator(_inside)]


class Batch(SpecModel):
    """How TorchServe forms a batch of this model."""

    size: Annotated[int, Field(ge=1, le=1024)] = 1  # items of a batch at most
    #: How long a batch waits for more items; 0 breaks TorchServe's batching.
    max_delay_ms: Annotated[int, Field(ge=1, le=10_000)] = 1
    #: Of a text model's micro-batch, with its padding; None: each worker finds the fastest at its warm-up.
    tokens: Annotated[int, Field(ge=1, le=1 << 24)] | None = None


class Workers(SpecModel):
    """Worker processes per node when nothing else is asked for."""

    min: Annotated[int, Field(ge=1, le=MOST_WORKERS)] = 1  # at the start
    max: Annotated[int, Field(ge=1, le=MOST_WORKERS)] | None = None  # None: as many as min

    @model_validator(mode="after")
    def _check_order(self) -> Workers:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max ({self.max}) must not be less than min ({self.min})")
        return self


class Timeouts(SpecModel):
    """Always written into model-config.yaml, because TorchServe ignores every other place once that file exists."""

    startup_s: Annotated[int, Field(ge=5, le=86_400)] = 120  # of a worker: load, golden answers and warm-up
    response_s: Annotated[int, Field(ge=1, le=86_400)] = 30  # of a batch, from the node to the answer
    retry_s: Annotated[int, Field(ge=5, le=86_400)] = 60  # how long TorchServe restarts a crashing worker
    first_token_s: Annotated[float, Field(gt=0, le=86_400)] | None = None  # of a text model; None: 30, or response_s


class Tolerance(SpecModel):
    """How far a number may lie from the golden answer: |answer - golden| <= absolute + relative * |golden|."""

    absolute: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4  # of any number
    relative: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0  # times the golden number
    #: Of a text model's golden answers: the first tokens that must agree. None: all, and how the answer ends.
    tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None


class Warmup(SpecModel):
    """The part of startup_s that warming may take."""

    budget_s: Annotated[float, Field(gt=0, le=3600)] = 20.0  # seconds


class Limits(SpecModel):
    """Limits of one request."""

    request_bytes: Annotated[int, Field(ge=1, le=1 << 30)] = 1 << 20  # of a body; a larger one gets 413


class Cache(SpecModel):
    """The cache of answers in each worker; shared with other workers and nodes where `shared` names a Redis."""

    max_mb: Annotated[float, Field(gt=0, le=1 << 20)] = 64.0  # in each worker's memory
    ttl_s: Annotated[float, Field(gt=0, le=31_536_000)] = 300.0  # seconds that an answer is remembered
    #: Address of a Redis for all workers; None: no shared cache.
    shared: Annotated[str, AfterValidator(_redis_address)] | None = None
    check: Annotated[float, Field(ge=0, le=1)] = 0.01  # share of the hits that are computed again and compared


class Records(SpecModel):
    """Prediction records: of whom, and how long they are kept; see docs/records.md."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.01  # of the requests, by a hash of their ids
    days: Annotated[float, Field(gt=0, le=3660)] = 30.0  # that records are kept
    input_days: Annotated[float, Field(gt=0, le=3660)] | None = None  # None: inputs are not kept
    answers: bool = False  # whether answers are kept whole, for comparisons and examples
    #: Of the recorded requests with a shadow's copy, the share that stable answers again; see docs/shadow.md.
    repeats: Annotated[float, Field(ge=0, le=1)] = 1.0


#: What each comparator takes beside its name; docs/shadow.md says what it means.
COMPARE_OPTIONS: Mapping[str, frozenset[str]] = {
    "label": frozenset({"field"}),
    "top_k": frozenset({"field", "k", "least"}),
    "number": frozenset({"field"}),
    "vector": frozenset({"field", "least"}),
    "text": frozenset({"field", "most"}),
    "json": frozenset(),
    "tokens": frozenset({"least"}),
    "length": frozenset({"field", "most"}),
    "embedding": frozenset({"field", "least", "model"}),
    "handler": frozenset({"most"}),
}


def compare_mistake(by: str, given: Mapping[str, object]) -> str:
    """Why these options, by name, do not fit the comparator; empty where they do."""
    ignored = [name for name in given if name not in COMPARE_OPTIONS[by]]
    if ignored:
        takes = ", ".join(sorted(COMPARE_OPTIONS[by])) or "no option"
        return f"{by} does not take {', '.join(ignored)}; it takes {takes}"
    least = given.get("least")
    if by in ("top_k", "tokens") and isinstance(least, int | float) and not 0 < least <= 1:
        return f"least ({least:g}) of {by} is a share, and must be above 0 and at most 1"
    return ""


class Compare(SpecModel):
    """How answers of two versions are compared; see docs/shadow.md."""

    #: What of two answers is compared.
    by: Literal["label", "top_k", "number", "vector", "text", "json", "tokens", "length", "embedding", "handler"]
    field: str | None = None  # place of the value in the answer, with dots; None: where a record has it
    k: Annotated[int, Field(ge=1, le=1000)] = 5  # classes of top_k
    least: Annotated[float, Field(ge=-1, le=1)] | None = None  # share of top_k or tokens; cosine of vector or embedding
    #: Share of a text that may be edited, or by which a length differs; of handler, the distance that agrees.
    most: Annotated[float, Field(ge=0)] = 0.0
    model: Annotated[str, Field(min_length=1)] = "embeddings"  # of embedding: an archive in the store, or MODEL:VERSION

    @model_validator(mode="after")
    def _check_options(self) -> Compare:
        fields = type(self).model_fields
        given = {name: value for name, value in self if name != "by" and value != fields[name].default}
        if mistake := compare_mistake(self.by, given):
            raise ValueError(mistake)
        return self

    @model_validator(mode="after")
    def _check_most(self) -> Compare:
        if self.most > 1 and self.by != "handler":
            raise ValueError(f"most ({self.most:g}) is a share, and must be at most 1")
        return self


class Generation(SpecModel):
    """How a text model answers; its presence makes an archive one. See docs/text-generation.md."""

    backend: Literal["auto", "openvino", "transformers", "vllm"] = "auto"  # auto: the one that fits the machine
    context: Annotated[int, Field(ge=16, le=MOST_TOKENS)] = 2048  # tokens of a prompt and its answer
    max_answers: Annotated[int, Field(ge=1, le=4096)] = 64  # in the making at once; beyond it a request gets 503
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] = 256  # of an answer whose request does not say
    most_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] = 1024  # that a request may ask for
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0  # of a request that does not say
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0  # of a request that does not say
    cache_mb: Annotated[int, Field(ge=1, le=1 << 20)] = 256  # keys and values
    chat_template: InsidePath | None = None  # a file of the archive; None: the template in the model

    @model_validator(mode="after")
    def _check_tokens(self) -> Generation:
        if self.max_tokens > self.most_tokens:
            raise ValueError(f"max_tokens ({self.max_tokens}) must not be more than most_tokens ({self.most_tokens})")
        if self.most_tokens >= self.context:
            raise ValueError(
                f"most_tokens ({self.most_tokens}) must be less than context ({self.context}), which holds the prompt"
                " as well"
            )
        return self


class ServingFields(SpecModel):
    """The settings of served versions; a model sets them for all of its versions, and a version for itself."""

    batch: Batch = Batch()  # how batches are formed
    workers: Workers = Workers()  # per node, where deployment.yaml does not say
    timeouts: Timeouts = Timeouts()  # after which a worker is given up
    tolerance: Tolerance = Tolerance()  # of golden answers
    warmup: Warmup = Warmup()  # batches before the first request
    limits: Limits = Limits()  # of one request
    #: Requests of the version that wait at a node; more get 503.
    queue_size: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    cache: Cache | None = None  # remembered answers; None: every request is computed
    records: Records | None = None  # None: nothing is recorded
    compare: Compare | None = None  # None: by label where answers have one, else all of it within the tolerance
    compile: bool = False  # torch.compile, with the shapes of the warm-up
    dtype: Literal["float32", "bf16"] = "float32"  # bf16 only on devices that have it
    quantize: Literal["int8-dynamic"] | None = None  # linear layers, on the CPU
    channels_last: bool = False  # memory layout of images that convolutions like
    metrics: bool = True  # a worker's times, batches and outcomes; see docs/metrics.md
    wire: Literal["bulk", "stock"] = "bulk"  # TorchServe's messages; see docs/request-path.md
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None  # torch threads a worker; None: cores / workers
    generation: Generation | None = None  # of a text model; None: of another one
    settings: Settings = {}  # passed to the handler as it is


class Serving(ServingFields):
    """The settings of one served version, which fit together."""

    @model_validator(mode="after")
    def _check_warmup_budget(self) -> Serving:
        if self.warmup.budget_s >= self.timeouts.startup_s:
            raise ValueError(
                f"warmup.budget_s ({self.warmup.budget_s:g}) must be less than timeouts.startup_s"
                f" ({self.timeouts.startup_s}), or TorchServe kills the worker during its warm-up"
            )
        return self

    @model_validator(mode="after")
    def _check_quantize(self) -> Serving:
        if self.quantize and (self.compile or self.dtype != "float32"):
            raise ValueError(f"quantize: {self.quantize} excludes compile and dtype: bf16")
        return self

    @model_validator(mode="after")
    def _check_generation(self) -> Serving:
        if self.generation is None:
            if self.tolerance.tokens is not None:
                raise ValueError("tolerance.tokens is for text models, which have generation")
            if self.timeouts.first_token_s is not None:
                raise ValueError("timeouts.first_token_s is for text models, which have generation")
            return self
        unfit = {
            "batch.size": self.batch.size > 1,
            "batch.tokens": self.batch.tokens is not None,
            "cache": self.cache is not None,
            "compile": self.compile,
            "quantize": self.quantize is not None,
            "channels_last": self.channels_last,
            "wire: stock": self.wire == "stock",
        }
        if named := [name for name, is_set in unfit.items() if is_set]:
            raise ValueError(
                f"generation excludes {', '.join(named)}: the backend forms the batches and computes each answer anew"
            )
        first_s, response_s = self.timeouts.first_token_s, self.timeouts.response_s
        if first_s is not None and first_s > response_s:
            raise ValueError(
                f"timeouts.first_token_s ({first_s:g}) must not be more than timeouts.response_s ({response_s}),"
                " which bounds the whole answer"
            )
        return self


class VersionSpec(ServingFields):
    """The settings of one version: a section replaces the model's, and `settings` are merged key by key."""

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        return {key: value for key, value in content.items() if value is not None}


def _suffix(suffix: str) -> str:
    if suffix in SAMPLE_MEDIA_TYPES:
        raise ValueError(f"{suffix} is {SAMPLE_MEDIA_TYPES[suffix]} always")
    return suffix


Suffix = Annotated[str, Field(pattern=r"^\.[a-z0-9]{1,16}$"), AfterValidator(_suffix)]
MediaType = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9!#$&^_.+\-]{0,62}/[a-z0-9][a-z0-9!#$&^_.+\-]{0,62}$")]
SampleTypes = Annotated[dict[Suffix, MediaType], Field(max_length=64)]


class ArchiveSpec(Serving):
    """One model and its versions."""

    model: ModelName  # its name in paths and commands
    description: str = ""  # for people
    #: `handlers.NAME`, a ready-made one, or a file with one class.
    handler: Annotated[str, Field(pattern=r"^(handlers\.[a-z_][a-z0-9_]*|[A-Za-z_][A-Za-z0-9_]*\.py)$")]
    recipe: InsidePath | None = None  # script that writes the weights; None: they are among `files`
    weights: InsidePath = "model.safetensors"  # where the weights lie in the archive
    files: list[InsidePath] = []  # files and folders that the archive holds too
    samples: InsidePath = "samples"  # the folder of requests, at least one
    golden: InsidePath = "golden"  # the folder of golden answers, one file a version
    sample_types: SampleTypes = {}  # media types of samples by suffixes, where Python's mimetypes knows none
    #: Files of the archive that may be read although reading them runs code, as NAME@sha256:DIGEST.
    trust: TrustList = ()
    #: Packages of this model alone, as NAME==VERSION: a list, or a file beside archive.yaml.
    requirements: InsidePath | Requirements = ()
    secrets: SecretNames = ()  # names that the handler asks `handlers.secret` for; deployment.yaml has their sources
    embeddings: bool = False  # requests to /v1/embeddings are answered; the handler defines count_tokens
    on_request: bool = False  # built only where a command, a node or a deployment names it
    reference: InsidePath | None = None  # requests beside archive.yaml or in the recipe's output; docs/drift.md
    #: By name; each may replace settings of the model.
    versions: Annotated[dict[ModelVersion, VersionSpec | None], Field(min_length=1)]

    @model_validator(mode="after")
    def _check_versions(self) -> ArchiveSpec:
        for version in self.versions:
            try:
                self.serving(version)
            except ValidationError as error:
                raise ValueError(f"version {version}: {first_mistake(error)}") from None
        is_text_handler = self.handler == TEXT_HANDLER
        for version in self.versions if self.handler.startswith("handlers.") else ():
            if (self.serving(version).generation is not None) != is_text_handler:
                raise ValueError(
                    f"version {version}: handler: {self.handler} "
                    + ("needs generation, at least as generation: {}" if is_text_handler else "excludes generation")
                )
        if self.embeddings and any(self.serving(version).generation for version in self.versions):
            raise ValueError("embeddings is not for text models, which have generation: leave it out")
        if self.reference is not None and any(self.serving(version).generation for version in self.versions):
            raise ValueError("reference is not for text models, which have generation: leave it out")
        return self

    def serving(self, version: str) -> Serving:
        """The settings in force for one version: the model's, replaced by the version's."""
        model = {key: getattr(self, key) for key in Serving.model_fields}
        changes = self.versions[version] or VersionSpec()
        merged = model | {key: getattr(changes, key) for key in changes.model_fields_set}
        merged["settings"] = {**self.settings, **changes.settings}
        return Serving(**merged)


def read_archive_spec(path: Path) -> ArchiveSpec:
    """`archive.yaml` as an ArchiveSpec; SpecError names every mistake."""
    return read_spec(path, ArchiveSpec)

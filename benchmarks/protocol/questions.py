"""What is asked of each server, and its answer in a few words that can be compared with another server's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import tritonclient.http
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from benchmarks import ARCHIVES
from benchmarks.protocol.asking import (
    BINARY,
    ENCODINGS,
    GRPC,
    HEADER_LENGTH,
    JSON,
    Answer,
    InferRequest,
    Tensor,
    ask,
    call,
    rest,
)
from benchmarks.protocol.servers import INPUTS, MODEL, OUTPUTS, Place

_FOLDER = ARCHIVES / MODEL
#: Answers of the model by sample.
GOLDEN: dict[str, dict[str, Any]] = json.loads((_FOLDER / "golden" / "1.0.json").read_text(encoding="utf-8"))
SAMPLES: list[dict[str, Any]] = [json.loads((_FOLDER / "samples" / name).read_text("utf-8")) for name in GOLDEN]
EXPECTED = {name: [answer[name] for answer in GOLDEN.values()] for name in OUTPUTS}
#: On which benchmarks/archives/typed/answer.py fails.
FAILING = "fail"
YES = "yes"


def tensors(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """The inputs for some rows."""
    made = {}
    for name, (datatype, size) in INPUTS.items():
        values = [row[name] for row in rows]
        flat = [value for row in values for value in row] if size > 1 else values
        made[name] = Tensor(datatype, [len(rows), size], flat)
    return made


GOOD = InferRequest(tensors(SAMPLES))


def changed(**inputs: Tensor | None) -> InferRequest:
    """The good request with other inputs; None: without that input."""
    kept = {**GOOD.inputs, **inputs}
    return replace(GOOD, inputs={name: tensor for name, tensor in kept.items() if tensor is not None})


# ---- answers ---------------------------------------------------------------------------------------------------------


def in_each_encoding(say: Callable[[Answer], str], request: InferRequest = GOOD) -> Callable[[Place], str]:
    """A question on the answer to the request, in one text where the encodings do not differ.

    An encoding in which the server refuses everything is left out: that has a row of its own.
    """

    def question(place: Place) -> str:
        said = {}
        for encoding in ENCODINGS:
            if ask(place, GOOD, encoding).is_good:
                answer = ask(place, request, encoding)
                said[encoding] = say(answer) if answer.is_good else f"refused, {answer.status}"
        if len(set(said.values())) == 1:
            return said[JSON]
        if said.get(BINARY, said[JSON]) == said[JSON]:
            return f"{said[JSON]}; {said[GRPC]} over gRPC"
        return "; ".join(f"{text} {encoding}" for encoding, text in said.items())

    return question


def is_answered(place: Place, encoding: str) -> str:
    answer = ask(place, GOOD, encoding)
    return is_read(answer) if answer.is_good else f"refused, {answer.status}"


def names_and_datatypes(answer: Answer) -> str:
    return ", ".join(f"{name} {output['datatype']}" for name, output in answer.outputs.items())


def values(answer: Answer) -> str:
    """Whether the values are those of the model."""
    for name, expected in EXPECTED.items():
        size = OUTPUTS[name][1]
        flat = [value for row in expected for value in row] if size > 1 else expected
        data = answer.outputs[name]["data"]
        given = [json.loads(text) for text in data] if name == "lengths" else data
        if np.ravel(np.array(given, object)).tolist() != flat:
            return f"{name} is {given}"
    return "the model's"


def shape(name: str) -> Callable[[Answer], str]:
    return lambda answer: f"`{list(answer.outputs[name]['shape'])}`"


def is_named(place: Place) -> str:
    """Whether the answer names model and version."""

    def say(answer: Answer) -> str:
        named = answer.document.get("model_name"), answer.document.get("model_version")
        return YES if named == (place.model, place.version) else f"{named[0]}, {named[1]}"

    return in_each_encoding(say)(place)


def given_id(answer: Answer) -> str:
    said = answer.document.get("id")
    return {"mine": "the request's", "": "none", None: "none"}.get(said, "one of its own")


def members(place: Place) -> str:
    """The members of an answer in JSON, and of its outputs, beside those that the protocol names."""
    document = ask(place, GOOD, JSON).document
    more = beside(document, "model_name", "model_version", "id", "outputs")
    of_outputs = {name for output in document["outputs"] for name in output}
    return f"{more}; of outputs: {beside(of_outputs, 'name', 'shape', 'datatype', 'data')}"


def beside(found: Iterable[str], *names: str) -> str:
    """What there is beside these names, and which of them is missing."""
    missing = [f"no `{name}`" for name in names if name not in found]
    return ", ".join([f"`{name}`" for name in sorted(set(found) - set(names))] + missing) or "none"


def selected(answer: Answer) -> str:
    """Which outputs came of two that were asked for in another order than the model's."""
    orders = {"upper, total": "these, in the request's order", "total, upper": "these, in the model's order"}
    return orders.get(", ".join(answer.outputs), "all")


def is_binary(place: Place) -> str:
    """Media type of an answer in binary, and the members of its outputs."""
    answer = ask(place, GOOD, BINARY)
    if not answer.is_good or HEADER_LENGTH not in answer.headers:
        return f"refused, {answer.status}" if not answer.is_good else "answered in JSON"
    first = answer.document["outputs"][0]
    return f"{answer.headers['content-type']}; {', '.join(sorted(first['parameters']))}"


def mixed(place: Place) -> str:
    """Inputs in binary, and one output of two as JSON."""
    answer = ask(place, replace(GOOD, outputs={"total": False, "doubled": True}), BINARY)
    if not answer.is_good:
        return f"refused, {answer.status}"
    doubled = [value for row in EXPECTED["doubled"] for value in row]
    wanted = {"total": (None, EXPECTED["total"]), "doubled": (8 * len(doubled), doubled)}
    given = {
        name: (output.get("parameters", {}).get("binary_data_size"), output["data"])
        for name, output in answer.outputs.items()
    }
    return "answered" if given == wanted else f"answered with {given}"


def is_read(answer: Answer) -> str:
    return "answered" if values(answer) == "the model's" else f"answered, {values(answer)}"


def default_client(place: Place) -> str:
    """`tritonclient` over HTTP as it comes, in binary and with all outputs."""
    client = tritonclient.http.InferenceServerClient(place.rest)
    inputs = []
    for name, tensor in GOOD.inputs.items():
        given = tritonclient.http.InferInput(name, list(tensor.shape), tensor.datatype)
        kind = {"FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_, "BYTES": np.object_}[tensor.datatype]
        given.set_data_from_numpy(np.array(tensor.values, kind).reshape(tensor.shape))
        inputs.append(given)
    try:
        result = client.infer(place.model, inputs, headers=dict(place.headers))
    except InferenceServerException as error:
        return f"refused, {error.status()}"
    finally:
        client.close()
    is_right = result.as_numpy("total").ravel().tolist() == EXPECTED["total"]
    return "read" if is_right else "read wrongly"


# ---- errors ----------------------------------------------------------------------------------------------------------


def over_both(over_rest: Answer, over_grpc: Answer) -> str:
    """Status over REST and over gRPC, and where the reason is missing; or that the request was answered."""
    said = []
    for answer in (over_rest, over_grpc):
        said.append(answer.status if answer.is_good or answer.reason else f"{answer.status} without a reason")
    return "answered" if over_rest.is_good and over_grpc.is_good else ", ".join(said)


def mistake(request: InferRequest) -> Callable[[Place], str]:
    """A question on the refusal of a request."""
    return lambda place: over_both(ask(place, request, JSON), ask(place, request, GRPC))


def unknown_version(place: Place) -> str:
    return mistake(replace(GOOD, version="9"))(place)


def no_json(place: Place) -> str:
    sent = {"content-type": "application/json"}
    answer = rest(place, "POST", f"/v2/models/{place.model}/infer", b"{", sent)
    return answer.status if answer.reason else f"{answer.status} without a reason"


def too_long(place: Place) -> str:
    """A tensor in binary whose length is beyond the end of the body."""
    described = {"name": "numbers", "shape": [1, 3], "datatype": "FP64", "parameters": {"binary_data_size": 24}}
    head = json.dumps({"inputs": [described]}).encode()
    sent = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    answer = rest(place, "POST", f"/v2/models/{place.model}/infer", head + b"12345678", sent)
    return answer.status if answer.reason else f"{answer.status} without a reason"


# ---- metadata and health ---------------------------------------------------------------------------------------------


def described(place: Place, side: str, say: Callable[[list[Any]], str]) -> str:
    """Names, datatypes and shapes of the inputs or outputs in the metadata, over REST and gRPC."""
    document = rest(place, "GET", f"/v2/models/{place.model}").document
    _, message = call(place, "ModelMetadata", pb.ModelMetadataRequest(name=place.model))
    over_rest = [(tensor["name"], tensor["datatype"], list(tensor["shape"])) for tensor in document[side]]
    over_grpc = [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in getattr(message, side)]
    return say(over_rest) if over_rest == over_grpc else f"{say(over_rest)}; {say(over_grpc)} over gRPC"


def kinds(tensors: list[Any]) -> str:
    return ", ".join(f"{name} {datatype}" for name, datatype, _ in tensors)


def sizes_of(*names: str) -> Callable[[list[Any]], str]:
    """The shapes of these tensors."""
    return lambda tensors: ", ".join(f"`{shape}`" for name, _, shape in tensors if name in names)


def members_of(path: str, *names: str) -> Callable[[Place], str]:
    return lambda place: beside(rest(place, "GET", path.format(model=place.model)).document, *names)


def versions(place: Place) -> str:
    document = rest(place, "GET", f"/v2/models/{place.model}").document
    _, message = call(place, "ModelMetadata", pb.ModelMetadataRequest(name=place.model))
    said = [list(document.get("versions", [])), list(message.versions)]
    if said == [[place.version]] * 2:
        return YES
    return "none" if said == [[], []] else f"{said[0]}; {said[1]} over gRPC"


def indexed(place: Place, body: bytes) -> str:
    """The model's entry in the index."""
    answer = rest(place, "POST", "/v2/repository/index", body, {"content-type": "application/json"} if body else {})
    status, message = call(place, "RepositoryIndex", pb.RepositoryIndexRequest())
    if not answer.is_good or status != "OK":
        return f"{answer.status}, {status}"
    [entry] = [entry for entry in answer.document["list"] if entry["name"] == place.model]
    [one] = [model for model in message.models if model.name == place.model]
    same = (entry.get("version"), entry["state"]) == (one.version, one.state) == (place.version, "READY")
    return "version and READY" if same else f"{entry.get('version')} {entry['state']}; {one.version} {one.state}"


def health(path: str, method: str, message: Any) -> Callable[[Place], str]:
    """Status over REST, and the answer over gRPC."""

    def question(place: Place) -> str:
        over_rest = rest(place, "GET", path.format(model=place.model))
        status, said = call(place, method, message(place))
        flag = str(said.ready if hasattr(said, "ready") else said.live).lower() if status == "OK" else status
        return f"{over_rest.status}, {flag}"

    return question


def unknown_metadata(place: Place) -> str:
    answer = rest(place, "GET", "/v2/models/nothing")
    status, said = call(place, "ModelMetadata", pb.ModelMetadataRequest(name="nothing"))
    return over_both(answer, Answer(status, said or ""))


def _row(**values: Any) -> dict[str, Any]:
    return {**SAMPLES[0], **values}


_SIX = Tensor("FP64", [2, 3], [1.0] * 5)
_AS_FP32 = Tensor("FP32", [2, 3], GOOD.inputs["numbers"].values)
_AS_TEXT = Tensor("BYTES", [2, 3], list("abcdef"))
_FLAT_COUNT = Tensor("INT64", [2], GOOD.inputs["count"].values)
#: By the text that stands before the answers in a table.
QUESTIONS: dict[str, Callable[[Place], str]] = {
    "an answer names model and version": is_named,
    "its `id`": in_each_encoding(given_id),
    "its `id` where the request has none": in_each_encoding(given_id, replace(GOOD, id="")),
    "names and datatypes of the outputs": in_each_encoding(names_and_datatypes),
    "values of the outputs": in_each_encoding(values),
    "shape of an output with one value for each row": in_each_encoding(shape("total")),
    "shape of an output with three values for each row": in_each_encoding(shape("doubled")),
    "members of an answer in JSON beside the protocol's": members,
    "outputs that the request selects": in_each_encoding(
        selected, replace(GOOD, outputs={"upper": None, "total": None})
    ),
    "a request in binary, by hand": partial(is_answered, encoding=BINARY),
    "media type of an answer in binary, and an output's parameters": is_binary,
    "inputs in binary, one output of two as JSON": mixed,
    "`tritonclient`'s default over HTTP (binary)": default_client,
    "nested data": lambda place: over_both(
        *(ask(place, changed(numbers=replace(GOOD.inputs["numbers"], is_nested=True)), way) for way in (JSON, GRPC))
    ),
    "FP32 for an input of FP64": in_each_encoding(is_read, changed(numbers=_AS_FP32)),
    "shape `[N]` for an input with one value for each row": in_each_encoding(is_read, changed(count=_FLAT_COUNT)),
    "an unknown model": mistake(replace(GOOD, model="nothing")),
    "an unknown version": unknown_version,
    "an unknown input": mistake(changed(pears=GOOD.inputs["count"])),
    "an input that is missing": mistake(changed(count=None)),
    "an unknown output": mistake(replace(GOOD, outputs={"pears": None})),
    "texts for an input of numbers": mistake(changed(numbers=_AS_TEXT)),
    "a shape that does not fit the data": mistake(changed(numbers=_SIX)),
    "inputs with different numbers of rows": mistake(changed(count=Tensor("INT64", [1, 1], [3]))),
    "more rows than a batch has": mistake(InferRequest(tensors(SAMPLES * 3))),
    "a row on which the model fails": mistake(InferRequest(tensors([*SAMPLES, _row(text=FAILING)]))),
    "a body that is no JSON": no_json,
    "a length in binary beyond the end": too_long,
    "members of the model's metadata beside the protocol's": members_of(
        "/v2/models/{model}", "name", "versions", "platform", "inputs", "outputs"
    ),
    "names and datatypes of inputs in the metadata": partial(described, side="inputs", say=kinds),
    "names and datatypes of outputs in the metadata": partial(described, side="outputs", say=kinds),
    "shapes in the metadata, one value for each row": partial(described, side="outputs", say=sizes_of("total")),
    "shapes in the metadata, three values for each row": partial(described, side="outputs", say=sizes_of("doubled")),
    "`versions` in the metadata are those of the model": versions,
    "metadata of an unknown model": unknown_metadata,
    "members of the server's metadata beside the protocol's": members_of("/v2", "name", "version", "extensions"),
    "the index, asked with a body": partial(indexed, body=b"{}"),
    "the index, asked without a body": partial(indexed, body=b""),
    "`live` of the server": health("/v2/health/live", "ServerLive", lambda _: pb.ServerLiveRequest()),
    "`ready` of the server": health("/v2/health/ready", "ServerReady", lambda _: pb.ServerReadyRequest()),
    "`ready` of the model": health(
        "/v2/models/{model}/ready", "ModelReady", lambda place: pb.ModelReadyRequest(name=place.model)
    ),
    "`ready` of an unknown model": health(
        "/v2/models/nothing/ready", "ModelReady", lambda _: pb.ModelReadyRequest(name="nothing")
    ),
}


def answers(place: Place) -> dict[str, str]:
    """What the server answers to every question."""
    return {title: question(place) for title, question in QUESTIONS.items()}

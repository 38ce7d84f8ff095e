"""A client of TorchServe's own gRPC inference API: message classes made from the facts of its inference.proto, and
grpcio's channel, as code that the protocol compiler generates uses them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.empty_pb2 import Empty

PACKAGE = "org.pytorch.serve.grpc.inference"
SERVICE = f"/{PACKAGE}.InferenceAPIsService"
_FIELD = descriptor_pb2.FieldDescriptorProto


def _field(name: str, number: int, kind: Any = _FIELD.TYPE_STRING, **more: Any) -> Any:
    return _FIELD(name=name, number=number, type=kind, **{"label": _FIELD.LABEL_OPTIONAL, **more})


def _classes() -> tuple[Any, Any, Any]:
    """Request, response, and health."""
    request = descriptor_pb2.DescriptorProto(
        name="PredictionsRequest",
        field=[
            _field("model_name", 1),
            _field("model_version", 2),
            _field(
                "input",
                3,
                _FIELD.TYPE_MESSAGE,
                label=_FIELD.LABEL_REPEATED,
                type_name=f".{PACKAGE}.PredictionsRequest.InputEntry",
            ),
            _field("sequence_id", 4),
        ],
        nested_type=[
            descriptor_pb2.DescriptorProto(
                name="InputEntry",
                field=[_field("key", 1), _field("value", 2, _FIELD.TYPE_BYTES)],
                options=descriptor_pb2.MessageOptions(map_entry=True),
            )
        ],
    )
    response = descriptor_pb2.DescriptorProto(
        name="PredictionResponse", field=[_field("prediction", 1, _FIELD.TYPE_BYTES), _field("sequence_id", 2)]
    )
    health = descriptor_pb2.DescriptorProto(name="TorchServeHealthResponse", field=[_field("health", 1)])
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(
        name="inference.proto", package=PACKAGE, syntax="proto3", message_type=[request, response, health]
    )
    pool.Add(file)
    made = [
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{m.name}")) for m in file.message_type
    ]
    return made[0], made[1], made[2]


PredictionsRequest, PredictionResponse, Health = _classes()


@dataclass
class Said:
    """What a call came to."""

    code: str
    details: str
    answers: list[Any] = field(default_factory=list)  # in order, those before an error too
    headers: dict[str, str] = field(default_factory=dict)  # of the answer, and its trailers

    @property
    def answer(self) -> Any:
        """The only one."""
        [answer] = self.answers
        return answer

    def json(self) -> Any:
        """The only answer as a JSON value."""
        return json.loads(self.answer)


class Client:
    """The three calls, each with its metadata."""

    def __init__(self, channel: Any, **metadata: str) -> None:
        self._channel, self._metadata = channel, metadata

    def ping(self, **metadata: str) -> Said:
        call = self._channel.unary_unary(
            f"{SERVICE}/Ping", request_serializer=Empty.SerializeToString, response_deserializer=Health.FromString
        )
        said = self._said(call, Empty(), 10, metadata)
        return Said(said.code, said.details, [answer.health for answer in said.answers], said.headers)

    def predict(
        self, model: str, inputs: Mapping[str, bytes], version: str = "", timeout_s: float = 20, **metadata: str
    ) -> Said:
        call = self._channel.unary_unary(
            f"{SERVICE}/Predictions",
            request_serializer=PredictionsRequest.SerializeToString,
            response_deserializer=PredictionResponse.FromString,
        )
        request = PredictionsRequest(model_name=model, model_version=version, input=inputs)
        return self._predictions(self._said(call, request, timeout_s, metadata))

    def begin_stream(
        self, model: str, inputs: Mapping[str, bytes], version: str = "", timeout_s: float = 20, **metadata: str
    ) -> Any:
        """The running call, which gives one message after the other."""
        call = self._channel.unary_stream(
            f"{SERVICE}/StreamPredictions",
            request_serializer=PredictionsRequest.SerializeToString,
            response_deserializer=PredictionResponse.FromString,
        )
        request = PredictionsRequest(model_name=model, model_version=version, input=inputs)
        return call(request, timeout=timeout_s, metadata=self._sent(metadata))

    def stream(self, *arguments: Any, **more: Any) -> Said:
        return finish(self.begin_stream(*arguments, **more))

    def _sent(self, metadata: Mapping[str, str]) -> list[tuple[str, str]]:
        """The client's own and the call's, which takes the place of one of the same name; an empty one is not sent."""
        merged = {name.replace("_", "-"): value for name, value in {**self._metadata, **metadata}.items()}
        return [(name, value) for name, value in merged.items() if value]

    def _said(self, call: Any, request: Any, timeout_s: float, metadata: Mapping[str, str]) -> Said:
        try:
            answer, done = call.with_call(request, timeout=timeout_s, metadata=self._sent(metadata))
            return Said("OK", "", [answer], dict(done.initial_metadata()))
        except grpc.RpcError as error:
            return Said(error.code().name, error.details(), [], _headers(error))

    @staticmethod
    def _predictions(said: Said) -> Said:
        return Said(said.code, said.details, [answer.prediction for answer in said.answers], said.headers)


def finish(call: Any) -> Said:
    """The rest of a stream, and how it ended."""
    answers: list[bytes] = []
    with suppress(grpc.RpcError):  # the call's code says it
        answers.extend(answer.prediction for answer in call)
    return Said(call.code().name, call.details(), answers, _headers(call))


def _headers(call: Any) -> dict[str, str]:
    return dict([*(call.initial_metadata() or ()), *(call.trailing_metadata() or ())])


@contextmanager
def client(base: str, **metadata: str) -> Iterator[Client]:
    """A client of the gateway at this address, whose calls all have this metadata."""
    with grpc.insecure_channel(base.removeprefix("http://")) as channel:
        yield Client(channel, **metadata)

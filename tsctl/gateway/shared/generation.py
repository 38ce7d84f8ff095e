"""A generation: all that the gateways are to have in force, and its bytes in the place. Pure.

Invariant: a generation is whole. A gateway that takes it needs nothing of an earlier one. It has keys of clients and
tokens of nodes in plain, because Envoy compares and sends them so: whoever reads the place can ask as any client.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tsctl.errors import GatewayError
from tsctl.gateway.envoy.render.upstreams import Endpoint, Offer, Probe, Upstream, VersionKey, Way
from tsctl.gateway.keys import Record
from tsctl.gateway.shared.packed import pack, unpack
from tsctl.gateway.traffic import Shadow, Traffic
from tsctl.host.documents import checked, parse_json

#: Names in the place: `gateway/generations/000041.json`.
GENERATIONS = "gateway/generations"
FORMAT = 1


class DamagedGeneration(GatewayError):
    """An object of the place is no generation, or is cut short."""


@dataclass(frozen=True)
class Generation:
    """What all gateways are to have in force.

    Args:
        number: the generations of a place are numbered from 1 without gaps; 0: nothing was ever published.
        why: the change, for people.
        by: the person and the machine.
        at: UTC, ISO 8601, by that machine's clock; nothing depends on it.
        deployment: the text of deployment.yaml, its variables not replaced.
        plain: keys of clients by their SHA-256.
        fences: the last term of each writer that may be replaced by another one, such as a rollout; one with an older
            term may not publish.
    """

    number: int = 0
    why: str = ""
    by: str = ""
    at: str = ""
    deployment: str = ""
    traffic: tuple[Traffic, ...] = ()
    records: tuple[Record, ...] = ()
    plain: Mapping[str, str] = field(default_factory=dict, repr=False)
    upstreams: tuple[Upstream, ...] = ()
    fences: Mapping[str, int] = field(default_factory=dict)

    @property
    def routes(self) -> dict[str, Traffic]:
        """By model."""
        return {route.model: route for route in self.traffic}

    @property
    def by_version(self) -> dict[VersionKey, Upstream]:
        return {upstream.key: upstream for upstream in self.upstreams}

    def is_as(self, other: Generation) -> bool:
        """Whether both put the same into force."""
        return _content(self) == _content(other)


def to_bytes(generation: Generation) -> bytes:
    """The generation as an object of the place."""
    shown = {
        "format": FORMAT,
        "number": generation.number,
        "why": generation.why,
        "by": generation.by,
        "at": generation.at,
        "fences": dict(generation.fences),
        "traffic": [asdict(route) for route in generation.traffic],
    }
    packed = {
        "deployment": generation.deployment,
        "records": [asdict(record) for record in generation.records],
        "plain": dict(generation.plain),
        "upstreams": [_upstream_json(upstream) for upstream in generation.upstreams],
    }
    return json.dumps({**shown, "packed": pack(packed)}).encode()


def from_bytes(content: bytes, name: str) -> Generation:
    """The generation in an object; raises DamagedGeneration, and GatewayError where a later tsctl wrote it."""
    try:
        read = parse_json(content)
        if read["format"] != FORMAT:
            raise GatewayError(f"{name} has format {read['format']}, and this tsctl reads {FORMAT}", "Update tsctl.")
        packed = unpack(read["packed"])
        return Generation(
            number=int(read["number"]),
            why=str(read["why"]),
            by=str(read["by"]),
            at=str(read["at"]),
            deployment=str(packed["deployment"]),
            traffic=tuple(_traffic(route) for route in read["traffic"]),
            records=tuple(checked(Record(**record)) for record in packed["records"]),
            plain={str(sha256): str(key) for sha256, key in packed["plain"].items()},
            upstreams=tuple(_upstream(upstream) for upstream in packed["upstreams"]),
            fences={str(writer): int(term) for writer, term in read["fences"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedGeneration(
            f"{name} in the place of control is damaged: {error}",
            "On the operator's machine: 'tsctl gateway publish' puts the newest sound one into force again.",
        ) from None


def merged(own: Sequence[Upstream], before: Generation, now: Generation) -> list[Upstream]:
    """The versions of a gateway that takes a generation.

    A version stays as the gateway itself has it since, where the generation has it as the one before: the gateway asks
    the nodes more often than anybody publishes.
    """
    mine, old, new = {upstream.key: upstream for upstream in own}, before.by_version, now.by_version
    routed = {(route.model, version) for route in now.traffic for version in route.versions}
    kept = {key: upstream for key, upstream in mine.items() if key not in old or key in routed}
    taken = {key: mine[key] if upstream == old.get(key) and key in mine else upstream for key, upstream in new.items()}
    return [upstream for _, upstream in sorted((kept | taken).items())]


def _content(generation: Generation) -> tuple[object, ...]:
    return (
        generation.deployment,
        [(route, list(route.weights)) for route in generation.traffic],  # the order of the versions has a meaning
        generation.records,
        generation.plain,
        generation.upstreams,
        generation.fences,
    )


def _traffic(read: Mapping[str, Any]) -> Traffic:
    shadow = Shadow(**read["shadow"]) if read["shadow"] is not None else None
    return checked(Traffic(read["model"], dict(read["weights"]), read["canary"], shadow))


def _upstream_json(upstream: Upstream) -> dict[str, Any]:
    probe = upstream.probe
    body = None if probe is None else {**asdict(probe), "body": base64.b64encode(probe.body).decode()}
    return {**asdict(upstream), "probe": body}


def _upstream(read: Mapping[str, Any]) -> Upstream:
    probe, way, offer = read["probe"], read["way"], read["offer"]
    made = Upstream(
        **{
            **read,
            "endpoints": tuple(Endpoint(**endpoint) for endpoint in read["endpoints"]),
            "probe": None if probe is None else Probe(base64.b64decode(probe["body"]), probe["media_type"]),
            "way": None if way is None else Way(**way),
            "offer": None if offer is None else Offer(**offer),
        }
    )
    return checked(made)

"""The schema of `tracing` in `deployment.yaml`: where spans are sent, and which requests have some."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from tsctl.config.spec import Address, SpecModel


def _without_tls(address: str) -> str:
    if not address.startswith("http://"):
        raise ValueError(
            "must begin with http://; for a collector behind TLS, run one beside the gateway that passes spans on"
        )
    return address


#: The address of a collector that takes OTLP over HTTP; TRACES_PATH is added.
Collector = Annotated[Address, AfterValidator(_without_tls)]
TRACES_PATH = "/v1/traces"


def _is_possible(share: float) -> float:
    if 0 < share < LEAST_SHARE:
        raise ValueError(f"must be 0, or at least {LEAST_SHARE:f}: Envoy knows no smaller share")
    return share


#: Envoy takes a share as parts of a million.
LEAST_SHARE = 1e-6


class TracingSpec(SpecModel):
    """Spans of OpenTelemetry, sent over OTLP/HTTP."""

    endpoint: Collector  # where spans are sent; /v1/traces is added
    #: Of the requests that are traced, chosen by the gateway.
    share: Annotated[float, Field(ge=0, le=1, strict=False), AfterValidator(_is_possible)] = 0.01
    #: Whether a client's `traceparent` is continued, which decides then whether its request is traced.
    continue_clients: bool = False

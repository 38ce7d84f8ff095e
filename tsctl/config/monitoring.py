"""The schema of `monitoring` in `deployment.yaml`: addresses of its servers, and the objectives of models."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from tsctl.config.policy import Share
from tsctl.config.spec import Address, SpecModel


def _without_tls(address: str) -> str:
    if not address.startswith("http://"):
        raise ValueError("must begin with http://: it is where the server listens, without TLS")
    return address


ServerAddress = Annotated[Address, AfterValidator(_without_tls)]
Webhook = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/@]+(/[^\s@]*)?$", max_length=2048)]


class Objectives(SpecModel):
    """What clients of a model may expect, over 30 days."""

    availability: Share = 0.999  # of requests, answered without an error of ours
    latency: Share = 0.99  # of answers, begun within latency_ms
    latency_ms: Annotated[int, Field(ge=1, le=60_000)] = 500  # an edge of the gateway's histogram

    def replaced_by(self, own: Objectives | None) -> Objectives:
        """These objectives, with those keys of a model's own that its author wrote."""
        return self if own is None else self.model_copy(update=own.model_dump(exclude_unset=True))


class MonitoringSpec(SpecModel):
    """Where Prometheus, Alertmanager and the exporter listen, and what alerts are measured by."""

    prometheus: ServerAddress = "http://127.0.0.1:9090"  # where it listens
    alertmanager: ServerAddress = "http://127.0.0.1:9093"  # where it listens
    exporter: ServerAddress = "http://127.0.0.1:9464"  # where `tsctl metrics serve` listens
    webhook: Webhook | None = None  # where Alertmanager sends alerts; None: nowhere
    scrape_s: Annotated[int, Field(ge=1, le=60)] = 15  # interval of scrapes and rules
    keep_days: Annotated[int, Field(ge=4, le=3650)] = 15  # the longest window of an alert is three days
    #: Expected between two false alarms of drift, for each version.
    drift_days: Annotated[float, Field(ge=1, le=3650, strict=False)] = 30.0
    objectives: Objectives = Objectives()  # of models without their own

    @model_validator(mode="after")
    def _check_places(self) -> MonitoringSpec:
        places = (self.prometheus, self.alertmanager, self.exporter)
        if len(set(places)) != len(places):
            raise ValueError(f"prometheus, alertmanager and exporter need different addresses, got {', '.join(places)}")
        return self

"""What a gateway says of itself, once a second, for those on other machines; and its bytes in the place. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from tsctl.errors import GatewayError
from tsctl.gateway.envoy.admin import Host
from tsctl.gateway.shared.packed import pack, unpack
from tsctl.host.documents import checked, parse_json

#: Names in the place: `gateway/reports/a/000123.json`. Only the newest of a gateway means anything.
REPORTS = "gateway/reports"
FORMAT = 1
_REPORT = re.compile(rf"{REPORTS}/([^/]+)/([0-9]{{6,}})\.json")
#: A gateway reports so often, and at once when it has taken a generation.
REPORT_S = 1.0


@dataclass(frozen=True)
class Report:
    """One gateway, as it was a moment ago.

    Args:
        number: of this gateway's reports, which rises with each.
        origin: tells the machine that reports from another one that has the same name.
        at: seconds since 1970 by that machine's clock.
        generation: in force there.
        refused: the newest generation that could not be put into force; `error` says why. 0: none.
        is_live: Envoy answers.
        is_stopped: a person stopped the gateway.
        sharing: the gateways among which it divides the budgets of clients.
        problem: of its processes, or of its settings; empty where there is none.
        hosts: nodes of each cluster as Envoy sees them.
        counters: requests that clusters got, and those in flight.
        page: the metrics by which rollouts judge, as `Admin.page` has them.
    """

    gateway: str
    number: int
    origin: str
    at: float
    generation: int
    refused: int = 0
    error: str = ""
    is_live: bool = False
    is_stopped: bool = False
    address: str = ""
    sharing: int = 1
    problem: str = ""
    hosts: Mapping[str, Sequence[Host]] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    page: str = field(default="", repr=False)


def newest_reports(names: Iterable[str]) -> dict[str, int]:
    """The number of the newest report of each gateway, from the names of all; a name of something else is none."""
    newest: dict[str, int] = {}
    for match in filter(None, map(_REPORT.fullmatch, names)):
        newest[match[1]] = max(newest.get(match[1], 0), int(match[2]))
    return newest


def to_bytes(report: Report) -> bytes:
    """The report as an object of the place."""
    shown = {name: value for name, value in vars(report).items() if name not in ("hosts", "counters", "page")}
    hosts = {cluster: [asdict(host) for host in hosts] for cluster, hosts in report.hosts.items()}
    packed = {"hosts": hosts, "counters": dict(report.counters), "page": report.page}
    return json.dumps({"format": FORMAT, **shown, "packed": pack(packed)}).encode()


def from_bytes(content: bytes, name: str) -> Report:
    """The report in an object; raises GatewayError where it is damaged, or another tsctl wrote it."""
    try:
        read = parse_json(content)
        if read.pop("format") != FORMAT:
            raise GatewayError(f"{name} has another format than {FORMAT}", "Update tsctl on all machines.")
        packed = unpack(read.pop("packed"))
        hosts = {cluster: [Host(**host) for host in hosts] for cluster, hosts in packed["hosts"].items()}
        return checked(Report(**read, hosts=hosts, counters=packed["counters"], page=packed["page"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GatewayError(
            f"{name} in the place of control is damaged: {error}", "The gateway's next one replaces it; run this again."
        ) from None

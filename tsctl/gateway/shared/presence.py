"""How each of several gateways stands to what was published last. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tsctl.gateway.shared.report import Report


@dataclass(frozen=True)
class Presence:
    """One gateway.

    Args:
        reports: now; else `problem` says since when it does not.
        generation: that it reported last as in force; clients of a gateway that is cut off get answers by it. None: it
            has never reported.
        newest: generation that was published.
        sharing: the gateways among which it divides the budgets of clients.
    """

    name: str
    address: str
    reports: bool
    is_live: bool
    generation: int | None
    newest: int
    sharing: int
    problem: str = ""

    @property
    def is_ready(self) -> bool:
        """It has the newest generation in force, and Envoy answers."""
        return self.reports and self.is_live and self.generation == self.newest and not self.problem

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "is_ready": self.is_ready}

    @property
    def line(self) -> str:
        """The gateway in a line, for people."""
        state = "ready" if self.is_ready else "not ready" if self.reports else "does not report"
        has = "no generation" if self.generation is None else f"generation {self.generation}"
        behind = f" of {self.newest}" if self.generation != self.newest else ""
        why = f": {self.problem}" if self.problem else ""
        return f"gateway {self.name}: {state}, {has}{behind}, {self.address}{why}"


def presences(
    addresses: Mapping[str, str],
    newest: int,
    reports: Mapping[str, Report],
    silent: Mapping[str, str],
) -> list[Presence]:
    """Each gateway of deployment.yaml.

    Args:
        addresses: of the gateways, by name.
        reports: the newest of each that ever reported.
        silent: why others do not count as present.
    """
    return [_presence(name, address, newest, reports.get(name), silent) for name, address in addresses.items()]


def _presence(name: str, address: str, newest: int, report: Report | None, silent: Mapping[str, str]) -> Presence:
    if report is None:
        return Presence(name, address, False, False, None, newest, 0, silent.get(name, ""))
    problem = silent.get(name) or report.problem
    if report.refused > report.generation:
        problem = "; ".join(filter(None, [problem, f"it refused generation {report.refused}: {report.error}"]))
    return Presence(
        name, address, name not in silent, report.is_live, report.generation, newest, report.sharing, problem
    )


def trouble(gateways: Sequence[Presence]) -> str:
    """The problems of all, in a line; empty where each is ready."""
    return "; ".join(f"gateway {one.name}: {one.problem or _behind(one)}" for one in gateways if not one.is_ready)


def _behind(one: Presence) -> str:
    return f"it has generation {one.generation} of {one.newest}" if one.is_live else "Envoy does not run"

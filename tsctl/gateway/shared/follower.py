"""One of several gateways takes what is published, and reports what it has in force.

Runs beside Envoy, in a thread of its supervisor. Invariants: a gateway that cannot reach the place keeps what it has in
force; it reports only after it has looked for the newest generation, so that no report after a cut says less than it
could know; a generation that it could not put into force is reported with the reason, and not tried again.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from tsctl.config.deployment import DeploymentSpec, read_deployment
from tsctl.config.project import Project
from tsctl.control import large
from tsctl.control.open import open_place
from tsctl.control.place import AlreadyThere, Place, numbered, numbers
from tsctl.errors import ConflictError, GatewayError, SpecError, TsctlError
from tsctl.gateway.envoy.admin import Admin, NotAnswering
from tsctl.gateway.envoy.render.upstreams import Upstream
from tsctl.gateway.files import (
    GatewayFiles,
    damaged_follows,
    followed_name,
    read_document,
    recorded,
    running_pid,
)
from tsctl.gateway.keys import write_keys
from tsctl.gateway.notices import Notices
from tsctl.gateway.publish import put_clusters, put_routes
from tsctl.gateway.shared.generation import GENERATIONS, DamagedGeneration, Generation, from_bytes, merged, to_bytes
from tsctl.gateway.shared.report import REPORT_S, REPORTS, Report, newest_reports
from tsctl.gateway.shared.report import to_bytes as report_bytes
from tsctl.gateway.state import Gateway, changing, open_named, traffic_in_force, upstreams_written
from tsctl.host.due import Due
from tsctl.host.files import make_folder, with_reserve, write_document, write_public, write_secret

logger = logging.getLogger(__name__)

#: The next generation is looked for so often, and the newest of all so often, should some have been removed.
POLL_S, LIST_S = 0.25, 5.0
#: A gateway counts as one that shares budgets until it has not reported for so long.
SHARES_S = 10.0
#: How many of its own reports stay in the place.
REPORTS_KEPT = 3
#: A node is put back into rotation after so long, where the process that drains it has ended without doing so.
DRAINED_MOST_S = 180.0
#: What of Envoy's counters is reported, and of its metrics.
COUNTED = r"^cluster\..*\.upstream_rq_(total|active|pending_active)$"
METRICS = "tsctl"


def prepare(project: Project, name: str, control: str) -> Follower:
    """The gateway of this name, before it is this machine's: nothing is written, and nothing asked."""
    before = read_document(GatewayFiles(project.state / "gateway").follows) or {}
    origin = before.get("origin") if before.get("name") == name else None
    return Follower(project, name, control, origin if isinstance(origin, str) else secrets.token_hex(4))


@dataclass
class Follower:
    """The state of one gateway's following between two steps.

    Args:
        project: whose deployment.yaml is replaced by the published one.
    """

    project: Project
    name: str
    address: str
    origin: str
    notices: Notices = field(default_factory=lambda: Notices(logger))
    _place: Place | None = None
    _in_force: Generation | None = None
    _opened: tuple[int, Gateway] | None = None  # and when deployment.yaml was changed last
    _taken_at: float = field(default_factory=time.monotonic)
    _refused: tuple[int, str] = (0, "")
    _report: int | None = None  # the number of the last one
    _in_parts: int | None = None  # the number of the last one that had parts; None: not known
    _others: dict[str, tuple[int, float]] = field(default_factory=dict)  # newest report and when it was seen first
    _due: Due = field(default_factory=Due)

    @property
    def files(self) -> GatewayFiles:
        return GatewayFiles(self.project.state / "gateway")

    @property
    def place(self) -> Place:
        if self._place is None:
            self._place = open_place(self.address)
        return self._place

    def remember(self) -> None:
        """From now on this machine's gateway is this one."""
        for folder in (self.project.state, *self.files.folders):
            make_folder(folder)
        write_document(self.files.follows, {"name": self.name, "control": self.address, "origin": self.origin})

    def step(self) -> None:
        """Take the newest generation, and report where that is due; raises where the place cannot be reached."""
        is_listed = self._due.is_due("list", LIST_S)
        is_new = self.take_newest() if is_listed else self._take_next()
        if self._due.is_due("sharing", SHARES_S / 5):
            self._share()
        self._end_draining()
        if is_new or self._due.is_due("report", REPORT_S):
            self._due.put_off("report", REPORT_S)
            self.report()

    # ---- taking ------------------------------------------------------------------------------------------------------

    @property
    def in_force(self) -> Generation:
        """The generation that was put into force last; number 0 where none was, or its file is damaged.

        Then the newest one is taken once more.
        """
        if self._in_force is None:
            path = self.files.generation
            try:
                self._in_force = from_bytes(path.read_bytes(), str(path)) if path.is_file() else Generation()
            except DamagedGeneration as error:
                logger.error("%s; the newest generation is taken again", error.message)
                self._in_force = Generation()
        return self._in_force

    @property
    def refusal(self) -> str:
        """Why the newest generation is not in force; empty where it is."""
        return self._refused[1]

    @property
    def _known(self) -> int:
        return max(self.in_force.number, self._refused[0])

    def take_newest(self) -> bool:
        """Put the newest generation into force, unless it is, or was refused; whether there was a new one."""
        newest = max(numbers(self.place, GENERATIONS), default=0)
        return newest > self._known and self._take(newest)

    def _take_next(self) -> bool:
        """As `take_newest`, by the next number alone, which costs the place less."""
        if self.place.read(numbered(GENERATIONS, self._known + 1)) is None:
            return False
        return self.take_newest()

    def _take(self, number: int) -> bool:
        name = numbered(GENERATIONS, number)
        content = large.read(self.place, name)
        if content is None:  # removed, as a newer one is there
            return False
        try:
            self._put(from_bytes(content, name))
        except (ConflictError, NotAnswering):  # another process changes it, or Envoy ended just now: it is tried again
            raise
        except (TsctlError, OSError) as error:
            reason = error.message if isinstance(error, TsctlError) else str(error)
            logger.error("generation %d is not in force here: %s", number, reason)
            self._refused = number, reason
        return True

    def _put(self, generation: Generation) -> None:
        before, deployment = self.in_force, self._deployment_of(generation)
        gateway = open_named(self.project, deployment, self.name)
        with changing(gateway):
            upstreams = merged(upstreams_written(gateway), before, generation)
            put_clusters(gateway, upstreams, [*traffic_in_force(gateway).values(), *generation.traffic])
            put_routes(gateway, generation.traffic, generation.records, generation.plain)
            with_reserve(self.files.reserve, lambda: write_keys(self.files.keys, generation.records))
            put_clusters(gateway, upstreams, generation.traffic)
            text = generation.deployment
            if not _has(self.project.deployment, text):
                write_public(self.project.deployment, text)
            write_secret(self.files.generation, to_bytes(generation).decode())
        self._in_force, self._taken_at, self._refused = generation, time.monotonic(), (0, "")
        logger.info("generation %d is in force: %s, by %s", generation.number, generation.why, generation.by)

    def _deployment_of(self, generation: Generation) -> DeploymentSpec:
        """The deployment.yaml of a generation; raises SpecError where it means nothing on this machine."""
        make_folder(self.files.folder)
        path = self.files.folder / "deployment.yaml"
        write_public(path, generation.deployment)
        try:
            return read_deployment(path)
        except SpecError as error:
            raise SpecError(
                error.message.replace(str(path), "deployment.yaml"),
                "Variables that it names must be in the environment of each gateway.",
            ) from None
        finally:
            path.unlink(missing_ok=True)

    def _end_draining(self) -> None:
        generation = self.in_force
        if time.monotonic() - self._taken_at < DRAINED_MOST_S or not any(up.is_draining for up in generation.upstreams):
            return
        self._taken_at = time.monotonic()
        gateway = self._open()
        with changing(gateway):
            upstreams = [_undrained(upstream) for upstream in upstreams_written(gateway)]
            put_clusters(gateway, upstreams, traffic_in_force(gateway).values())
        logger.error("nodes are drained for longer than %g s; they get requests again", DRAINED_MOST_S)

    def _open(self) -> Gateway:
        """The gateway by deployment.yaml as it is now, which is read when it has changed."""
        changed_ns = self.project.deployment.stat().st_mtime_ns
        if self._opened is None or self._opened[0] != changed_ns:
            deployment = read_deployment(self.project.deployment)
            self._opened = changed_ns, open_named(self.project, deployment, self.name)
        return self._opened[1]

    # ---- sharing -----------------------------------------------------------------------------------------------------

    def _share(self) -> None:
        """Divide the budgets of clients among the gateways that report; as before where the place is unreachable."""
        now, opened = time.monotonic(), self._open()
        for name, number in newest_reports(self.place.names(f"{REPORTS}/")).items():
            if number > self._others.get(name, (-1, 0.0))[0]:
                self._others[name] = number, now
        sharing = sum(
            name == self.name or now - self._others.get(name, (0, -SHARES_S))[1] < SHARES_S
            for name in opened.deployment.gateways
        )
        if sharing == opened.sharing:
            return
        with changing(opened):
            write_document(self.files.sharing, {"gateways": sharing})
            put_routes(opened, traffic_in_force(opened).values())
        logger.info("budgets of clients are divided among %d gateways", sharing)

    # ---- reporting ---------------------------------------------------------------------------------------------------

    def report(self, is_stopped: bool = False) -> None:
        """Write what is in force; raises GatewayError where another machine reports as this gateway."""
        number = self._last_report() + 1
        prefix = f"{REPORTS}/{self.name}"
        try:
            has_parts = large.create(self.place, numbered(prefix, number), report_bytes(self._now(number, is_stopped)))
        except AlreadyThere:
            self._report = None  # read anew
            raise GatewayError(
                f"another machine reports as gateway {self.name}",
                "Each gateway has a name of its own: tsctl gateway follow NAME",
            ) from None
        self._report = number
        if (old := number - REPORTS_KEPT) > 0:
            self.place.delete(numbered(prefix, old))
        if has_parts or self._in_parts is None:  # an earlier process may have left some
            self._in_parts = number
        if old <= self._in_parts:
            large.delete_parts(self.place, prefix, old)

    def _last_report(self) -> int:
        if self._report is None:
            self._report = max(numbers(self.place, f"{REPORTS}/{self.name}"), default=0)
        return self._report

    def _now(self, number: int, is_stopped: bool) -> Report:
        refused, error = self._refused
        report = Report(
            self.name, number, self._origin(), time.time(), self.in_force.number, refused, error, is_stopped=is_stopped
        )
        try:
            gateway = self._open()
            report = replace(report, address=gateway.spec.address, sharing=gateway.sharing)
            return replace(report, problem="") if is_stopped else self._with_envoy(report, gateway.admin)
        except (TsctlError, OSError) as error_now:
            return replace(report, problem=str(error_now))

    def _with_envoy(self, report: Report, admin: Admin) -> Report:
        if not admin.is_live():
            has_ended = running_pid(self.files.envoy_record) is None and self.files.envoy_record.exists()
            return replace(report, problem="Envoy has ended by itself" if has_ended else "Envoy does not run")
        return replace(
            report, is_live=True, hosts=admin.hosts(), counters=admin.counters(COUNTED), page=admin.page(METRICS)
        )

    def _origin(self) -> str:
        """Of this machine and of Envoy's process, whose counters begin with it."""
        process = recorded(self.files.envoy_record)
        return f"{self.origin}-{process.pid}-{process.started_ticks}" if process is not None else self.origin


def open_follower(project: Project) -> Follower | None:
    """The follower of this machine's gateway; None where it is not one of several."""
    files = GatewayFiles(project.state / "gateway")
    name, followed = followed_name(files), read_document(files.follows)
    if name is None or followed is None:
        return None
    control, origin = followed.get("control"), followed.get("origin")
    if not isinstance(control, str) or not isinstance(origin, str):
        raise damaged_follows(files)
    return Follower(project, name, control, origin)


def run(follower: Follower, ended: threading.Event) -> None:
    """Follow until the event is set. What fails is logged once, and tried again."""
    while not ended.wait(POLL_S):
        try:
            follower.step()
        except (TsctlError, OSError) as error:
            follower.notices.trouble("the place of control", str(error))
            follower._due.hurry("list")  # what was missed meanwhile is read at once
        except Exception as error:  # noqa: BLE001  # whatever it is, the gateway must go on taking changes
            follower.notices.trouble("the place of control", f"{type(error).__name__}: {error}", error)
        else:
            follower.notices.over("the place of control")


def _has(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except FileNotFoundError:
        return False


def _undrained(upstream: Upstream) -> Upstream:
    return replace(upstream, endpoints=tuple(replace(place, is_draining=False) for place in upstream.endpoints))

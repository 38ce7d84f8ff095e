"""The operator's side of several gateways: publishes generations, and reads what the gateways report.

Invariant: generation n is written by one writer, who has read n - 1. So a change that was decided on an older state is
refused by the place, whatever the clocks of machines say.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from tsctl.control import large
from tsctl.control.open import open_place
from tsctl.control.place import AlreadyThere, Place, PlaceUnreachable, numbered, numbers
from tsctl.errors import ConflictError, GatewayError
from tsctl.gateway.shared.generation import GENERATIONS, DamagedGeneration, Generation, from_bytes, to_bytes
from tsctl.gateway.shared.presence import Presence, presences
from tsctl.gateway.shared.report import REPORTS, Report, newest_reports
from tsctl.gateway.shared.report import from_bytes as report_of
from tsctl.host.files import make_folder, write_document
from tsctl.host.person import person
from tsctl.host.wait import wait_until

#: A gateway reports each second. One that has not for so long is dead, or cut off from the place, and not waited for.
SILENT_S = 6.0
#: A report counts as new where the clocks of both machines say so; else the next one is waited for.
FRESH_S = 4.0
#: A gateway that reports has so long to put a generation into force; one of a thousand versions takes seconds.
TAKEN_S = 40.0
POLL_S = 0.1
#: Reports that were read are used again for so long.
KEPT_S = 0.2
#: How often a change is made anew because another machine was first; then its caller gets the conflict.
OVERTAKEN_MOST = 5
#: Generations that stay in the place, for people; a gateway takes the newest.
GENERATIONS_KEPT = 20


class Overtaken(ConflictError):
    """Somebody else published first; the same call decides anew on what is in force now."""


@dataclass
class SharedGateways:
    """All gateways of deployment.yaml, as seen from any machine.

    Args:
        names: of deployment.yaml.
        folder: of this machine; remembers which reports were seen.
        fence: the writer and its term, where another machine may replace this one as the writer.

    Attributes:
        absent: gateways that did not take the last generation of this object because they do not report, and since
            when, by name.
    """

    address: str
    names: tuple[str, ...]
    folder: Path
    fence: tuple[str, int] | None = None
    absent: dict[str, str] = field(default_factory=dict)
    clock: Callable[[], float] = time.time
    _base: Generation | None = None
    _is_held: bool = False
    _read: tuple[float, dict[str, Report]] | None = None

    @cached_property
    def place(self) -> Place:
        return open_place(self.address)

    # ---- what is to be in force --------------------------------------------------------------------------------------

    def head(self) -> Generation:
        """The newest generation; number 0 where nothing was ever published."""
        after = numbers(self.place, GENERATIONS)[-1:]
        base = self._base.number if self._base is not None else 0
        if not after:
            return self._keep(Generation())
        if self._base is None or after[0] != base:
            name = numbered(GENERATIONS, after[0])
            content = large.read(self.place, name)
            if content is None:
                raise GatewayError(f"{name} was removed while it was read", "Run this again.")
            return self._keep(from_bytes(content, name))
        return self._base

    def mend(self) -> None:
        """Where the newest generation is damaged, the newest sound one before it is published once more behind it.

        Raises:
            DamagedGeneration: there is no sound one.
            Overtaken: somebody else published meanwhile.
        """
        try:
            self.head()
        except DamagedGeneration as error:
            damaged = error
        else:
            return
        *before, newest = numbers(self.place, GENERATIONS)
        for number in reversed(before):
            name = numbered(GENERATIONS, number)
            with suppress(DamagedGeneration):
                if (content := large.read(self.place, name)) is not None:
                    sound = from_bytes(content, name)
                    self._require_term(sound)
                    why = f"generation {number} again, because {newest} is damaged"
                    self._keep(self._create(newest, why, self._fenced(sound)))
                    return
        raise DamagedGeneration(damaged.message, "No generation before it is sound: restore it from a copy.")

    @property
    def base(self) -> Generation:
        """The generation on which a change is built: inside of `held` the one that was read first, else the newest."""
        return self._base if self._is_held and self._base is not None else self.head()

    @contextmanager
    def held(self) -> Iterator[None]:
        """While the block decides and publishes, it reads one generation, so that `publish` finds what is newer."""
        self.head()
        before, self._is_held = self._is_held, True
        try:
            yield
        finally:
            self._is_held = before

    def _keep(self, generation: Generation) -> Generation:
        self._base = generation
        return generation

    def publish(self, why: str, edit: Callable[[Generation], Generation]) -> Generation:
        """The edited generation is in force on every gateway that reports; `absent` names the others.

        Where it is equal to the one before, nothing is published, and the gateways are waited for all the same.

        Raises:
            Overtaken: somebody else has published since `base` was read.
            ConflictError: this writer was replaced by another one.
            GatewayError: a gateway refused it, and all went back; or one that reports did not take it within TAKEN_S.
            PlaceUnreachable: it may have been published or not.
        """
        base = self.base
        self._require_term(base)
        edited = self._fenced(edit(base))
        if edited.is_as(base) and base.number:
            if refusals := self._wait(base.number):
                raise _refusal(refusals)
            return base
        made = self._create(base.number, why, edited)
        self._keep(made)
        refusals = self._wait(made.number)
        if refusals:
            if base.number:
                self._keep(self._create(made.number, f"back, because of: {why}"[:200], base))
                self._wait(self.base.number)
            raise _refusal(refusals)
        self._tidy(made.number)
        return made

    def publish_anew(self, why: str, edit: Callable[[Generation], Generation]) -> Generation:
        """As `publish`, for an edit that is right whatever others have published meanwhile, or since `held` began."""
        for _ in range(OVERTAKEN_MOST):
            with suppress(Overtaken):
                return self.publish(why, edit)
        return self.publish(why, edit)

    def take_fence(self, writer: str, term: int) -> None:
        """A process that has an older term of this writer publishes no more: the next generation has this term.

        Raises:
            ConflictError: the writer has a newer term, or others publish without a pause.
        """
        self.fence = (writer, term)
        for _ in range(OVERTAKEN_MOST):
            base = self.head()
            self._require_term(base)
            if base.number == 0 or base.fences.get(writer) == term:
                return
            with suppress(Overtaken):
                self._keep(self._create(base.number, f"{writer} goes on here", self._fenced(base)))
                return
        raise ConflictError("other machines change the gateways without a pause", "Run this again.")

    def _fenced(self, edited: Generation) -> Generation:
        if self.fence is None:
            return edited
        writer, term = self.fence
        return replace(edited, fences={**edited.fences, writer: term})

    def _require_term(self, base: Generation) -> None:
        if self.fence is None:
            return
        writer, term = self.fence
        newest = base.fences.get(writer, term)
        if newest > term:
            raise ConflictError(
                f"{writer} goes on elsewhere: its term is {newest}, and this process has {term}",
                "This process changes nothing any more.",
            )

    def _create(self, after: int, why: str, content: Generation) -> Generation:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        made = replace(content, number=after + 1, why=why, by=person(), at=at)
        name = numbered(GENERATIONS, made.number)
        try:
            large.create(self.place, name, to_bytes(made))
        except AlreadyThere:
            self._base = None
            other = self.head()
            raise Overtaken(
                f"somebody else changed the gateways meanwhile: generation {other.number} by {other.by}, {other.why}",
                "Run this again.",
            ) from None
        except PlaceUnreachable:
            self._base = None
            raise
        return made

    def _tidy(self, newest: int) -> None:
        with suppress(PlaceUnreachable):
            for number in numbers(self.place, GENERATIONS):
                if number <= newest - GENERATIONS_KEPT:
                    self.place.delete(numbered(GENERATIONS, number))
            large.delete_parts(self.place, GENERATIONS, newest - GENERATIONS_KEPT)

    def _wait(self, number: int) -> dict[str, str]:
        """Waits until every gateway that reports has the generation, or refused it; the refusals by gateway.

        Raises:
            GatewayError: a gateway reports, and has not taken it.
        """
        waiting: set[str] = set()
        refused: dict[str, str] = {}
        self.absent = {}

        def is_settled() -> bool:
            present, silent = self._presence(max_age_s=0.0)
            waiting.clear()
            self.absent = {name: since for name, since in silent.items() if since}
            for name, report in present.items():
                if report.refused >= number and report.generation < number:
                    refused[name] = report.error
                elif report.generation < number:
                    waiting.add(name)
            waiting.update(name for name, since in silent.items() if not since)
            return bool(refused) or not waiting

        if not wait_until(is_settled, TAKEN_S, POLL_S):
            raise GatewayError(
                f"gateway {', '.join(sorted(waiting))} did not take generation {number} within {TAKEN_S:g} s",
                "It tries on. See 'tsctl gateway status'.",
            )
        return refused

    # ---- what is in force --------------------------------------------------------------------------------------------

    def reports(self, max_age_s: float = KEPT_S) -> dict[str, Report]:
        """The newest report of each gateway of deployment.yaml that ever reported, by name."""
        if self._read is not None and time.monotonic() - self._read[0] <= max_age_s:
            return self._read[1]
        newest = newest_reports(self.place.names(f"{REPORTS}/"))
        wanted = {
            gateway: numbered(f"{REPORTS}/{gateway}", number)
            for gateway, number in newest.items()
            if gateway in self.names
        }
        with ThreadPoolExecutor(max(1, len(wanted))) as readers:
            contents = readers.map(lambda name: large.read(self.place, name), wanted.values())
            read = {
                gateway: report_of(content, name)
                for (gateway, name), content in zip(wanted.items(), contents, strict=True)
                if content is not None
            }
        before = self._read[1] if self._read is not None else {}
        read = {**before, **read}  # one that was replaced while it was read
        self._read = time.monotonic(), read
        return read

    def present(self) -> dict[str, Report]:
        """The reports of the gateways that report now; one that may be silent is waited for, for SILENT_S."""
        wait_until(lambda: all(self._presence(KEPT_S)[1].values()), SILENT_S + 1.0, POLL_S)
        return self._presence(KEPT_S)[0]

    def silent(self) -> dict[str, str]:
        """Why the others do not count as present, by name."""
        self.present()
        return self._presence(KEPT_S)[1]

    def presences(self, addresses: Mapping[str, str]) -> tuple[Presence, ...]:
        """How each gateway stands to the newest generation; one that may be silent is waited for, for SILENT_S.

        Args:
            addresses: of the gateways, by name.

        Raises:
            GatewayError: the newest generation or a report is damaged.
            PlaceUnreachable, PlaceUnusable: as they say.
        """
        newest, silent = self.head().number, self.silent()
        return tuple(presences(addresses, newest, self.reports(), silent))

    def _presence(self, max_age_s: float) -> tuple[dict[str, Report], dict[str, str]]:
        """The gateways that report, and the others with the reason; an empty one where that is not known yet."""
        reports, now = self.reports(max_age_s), self.clock()
        seen = self._seen()
        present: dict[str, Report] = {}
        silent: dict[str, str] = {}
        changed = dict(seen)
        for name in self.names:
            report = reports.get(name)
            if report is None:
                silent[name] = "it has never reported"
                continue
            number, since, has_advanced = seen.get(name, (-1, now, 0))
            if number != report.number:
                is_next = number >= 0 and name in self._looked
                changed[name] = number, since, has_advanced = report.number, now, int(is_next)
            self._looked.add(name)
            if report.is_stopped:
                silent[name] = "it was stopped"
            elif now - since >= SILENT_S:
                silent[name] = f"no report for {now - since:.0f} s or more; it has generation {report.generation}"
            elif has_advanced or abs(now - report.at) <= FRESH_S:
                present[name] = report
            else:
                silent[name] = ""
        if changed != seen:
            self._remember(changed)
        return present, silent

    @cached_property
    def _looked(self) -> set[str]:
        """The gateways whose report this object has read before."""
        return set()

    @property
    def _memory(self) -> Path:
        return self.folder / "seen.json"

    def _seen(self) -> Mapping[str, tuple[int, float, int]]:
        """The newest report of each gateway that this machine has seen, when it saw it first, and if it was waited for.

        By this machine's own clock, so that the clocks of other machines do not matter.
        """
        if self._remembered is None:
            try:
                read = json.loads(self._memory.read_text(encoding="utf-8"))
                self._remembered = {str(name): (int(n), float(since), 0) for name, (n, since, _) in read.items()}
            except (FileNotFoundError, ValueError, TypeError, AttributeError):
                self._remembered = {}  # then a silent gateway is waited for once more
        return self._remembered

    def _remember(self, seen: Mapping[str, tuple[int, float, int]]) -> None:
        self._remembered = seen
        with suppress(OSError):  # a full disk: then a silent gateway is waited for once more
            make_folder(self.folder)
            write_document(self._memory, {name: list(entry) for name, entry in seen.items()})

    _remembered: Mapping[str, tuple[int, float, int]] | None = None

    def require_all(self, what: str) -> None:
        """Raises GatewayError where a gateway does not report, and so may still send requests as it did before."""
        if silent := self.silent():
            reasons = ", ".join(f"{name} ({why})" for name, why in silent.items())
            raise GatewayError(
                f"{what}: gateway {reasons} may still send it requests",
                "Run this again when it reports. If its machine is gone for good, remove it from deployment.yaml.",
            )


def _refusal(refusals: Mapping[str, str]) -> GatewayError:
    reasons = "; ".join(f"gateway {name}: {error}" for name, error in refusals.items())
    return GatewayError(f"refused, and what was in force there stays: {reasons}", "See 'tsctl gateway status'.")


def describe(absent: Mapping[str, str]) -> Sequence[str]:
    """A line for each gateway that did not take a change."""
    return [f"gateway {name} does not have it: {why}. It takes it when it is back" for name, why in absent.items()]

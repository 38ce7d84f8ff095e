"""Decides whether an archive may be served: static checks first, then its answers in a clean process.

Invariant: nothing of an archive runs before its static checks have passed. A stock archive, made by
torch-model-archiver, cannot keep the contract of tsctl's handlers, so a breach is a warning there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tsctl.archive.behaviour import behaviour_checks
from tsctl.archive.checks import FAIL, PASS, WARN, Check, content_checks, pickle_check, structure_checks, trust_check
from tsctl.archive.container import open_archive, unpack
from tsctl.archive.inspect import Facts, read_facts
from tsctl.archive.sandbox import why_open
from tsctl.archive.trial import TIMEOUT_S, scan_pickles
from tsctl.archive.trust import Trust, judge, scanned
from tsctl.archive.written import scratch
from tsctl.errors import ArchiveError


@dataclass
class Report:
    """All checks of one archive."""

    path: Path
    checks: list[Check] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return all(check.outcome != FAIL for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        checks = [
            {"check": c.name, "outcome": c.outcome, "detail": c.detail, **({"hint": c.hint} if c.hint else {})}
            for c in self.checks
        ]
        return {"archive": self.path.name, "is_good": self.is_good, "checks": checks}


def verify(
    path: Path,
    samples: Sequence[Path] = (),
    trust_pickles: bool = False,
    timeout_s: float = TIMEOUT_S,
    trust_of: Callable[[str], Trust] = Trust,
) -> Report:
    """Run every check of one archive; the archive itself runs only after all static checks have passed.

    Args:
        samples: request bodies to send besides the archive's own; for stock archives, which carry none.
        trust_pickles: treat imports that are only unknown as a warning; dangerous ones still fail.
        trust_of: the files that are trusted, by the model's name.

    Raises:
        ArchiveError: there is no such file, or TorchServe is not installed.
    """
    report = Report(path)
    with scratch("tsctl-verify-") as folder:
        facts = _check_statically(report, folder, trust_pickles, timeout_s, trust_of)
        if facts is not None:
            reason = why_open()
            report.checks.append(Check("sandbox", WARN if reason else PASS, f"none: {reason}" if reason else ""))
            report.checks += behaviour_checks(path, folder, facts, samples, timeout_s)
    return report


@contextmanager
def runnable(
    path: Path,
    trust_pickles: bool = False,
    timeout_s: float = TIMEOUT_S,
    trust_of: Callable[[str], Trust] = Trust,
) -> Iterator[tuple[Path, Facts]]:
    """An archive unpacked in a temporary folder, after all of its static checks have passed.

    Raises:
        ArchiveError: there is no such file, or a check failed.
    """
    report = Report(path)
    with scratch("tsctl-run-") as folder:
        facts = _check_statically(report, folder, trust_pickles, timeout_s, trust_of)
        if facts is None:
            bad = [check for check in report.checks if check.outcome == FAIL]
            failed = "; ".join(f"{check.name}: {check.detail}" for check in bad)
            raise ArchiveError(
                f"{path.name} does not run, because it failed verification: {failed}", bad[0].hint if bad else ""
            )
        yield folder, facts


def _check_statically(
    report: Report, folder: Path, trust_pickles: bool, timeout_s: float, trust_of: Callable[[str], Trust]
) -> Facts | None:
    """Add the checks that run nothing of the archive, and unpack it; None where one failed."""
    path = report.path
    if not path.exists():
        raise ArchiveError(f"no such file: {path}")
    report.checks += structure_checks(path)
    if not report.is_good:
        return None
    with open_archive(path) as archive:
        facts = read_facts(archive)
        report.checks += content_checks(path, archive, facts)
    unpack(path, folder)
    verdict = judge(scanned(scan_pickles(folder, timeout_s), folder), trust_of(facts.names[0]))
    report.checks.append(pickle_check(verdict.refused, trust_pickles, verdict.hint))
    report.checks += trust_check(verdict.accepted, verdict.unused)
    return facts if report.is_good else None

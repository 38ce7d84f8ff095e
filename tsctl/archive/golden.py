"""Makes golden answers: a version's present answers to its samples, rounded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handlers import contract
from tsctl.archive.build import assemble, tolerance_values
from tsctl.archive.container import place
from tsctl.archive.recipe import recipe_output
from tsctl.archive.trial import run_probe, scan_pickles
from tsctl.archive.trust import Trust, require_trusted
from tsctl.archive.written import scratch
from tsctl.config.archive import ArchiveSpec, Tolerance
from tsctl.errors import ArchiveError
from tsctl.host.documents import parse_json
from tsctl.host.files import write_public
from tsctl.host.progress import Note

#: More digits would compare one machine's rounding with another's.
SIGNIFICANT_DIGITS = 6
#: The share of the tolerance that rounding may use up.
LARGEST_SHARE = 0.1


def make_golden(folder: Path, spec: ArchiveSpec, version: str, note: Note, trust: Trust | None = None) -> list[str]:
    """Write golden/<version>.json again.

    Args:
        trust: the pickles that may be read; None: those that archive.yaml trusts.

    Returns:
        The names of the samples whose answers changed beyond the tolerance, came or went; the file is left as it is
        where there is none.

    Raises:
        ArchiveError: a pickle is not trusted, or the version does not load, or answers a sample with an error.
    """
    made, _ = recipe_output(folder, spec, version, note)
    with scratch("tsctl-golden-") as unpacked:
        for name, content in assemble(folder, spec, version, made, has_golden=False).items():
            place(content, unpacked / name)
        trust = trust or Trust(spec.model, spec.trust)
        require_trusted(scan_pickles(unpacked), unpacked, trust, f"{spec.model} {version}")
        note("running the samples")
        trial = run_probe(unpacked, spec.serving(version).batch.size, [], golden=True)
    if trial.error:
        raise ArchiveError(f"{spec.model} {version} gives no golden answers: {trial.error}\n{trial.log}")
    tolerance = contract.Tolerance(**tolerance_values(spec.serving(version)))
    return write_answers(folder / spec.golden / f"{version}.json", trial.golden, tolerance)


def write_answers(path: Path, answers: Mapping[str, Any], tolerance: contract.Tolerance) -> list[str]:
    """Make these the golden answers of a file, rounded; one that is right already, within the tolerance, stays.

    Returns:
        The names of the samples whose answers changed beyond the tolerance, came or went; the file is left as it is
        where there is none.
    """
    before = read_golden(path)
    after = {name: rounded(answer, tolerance) for name, answer in answers.items()}
    for name in before.keys() & after.keys():
        if contract.difference(answers[name], before[name], tolerance) is None:
            after[name] = before[name]  # the answer of another machine is right here too
    if after == before:
        return []
    path.parent.mkdir(parents=True, exist_ok=True)
    write_public(path, json.dumps(after, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def read_golden(path: Path) -> dict[str, Any]:
    """The golden answers of the file; none where there is no file, or its content is no JSON object."""
    try:
        content = parse_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def rounded(answer: Any, tolerance: contract.Tolerance | Tolerance) -> Any:
    """The answer with its floats at SIGNIFICANT_DIGITS, and as they are where that would use up the tolerance.

    They stay floats, and so keep their tolerance.
    """
    if isinstance(answer, dict):
        return {key: rounded(value, tolerance) for key, value in answer.items()}
    if isinstance(answer, list):
        return [rounded(value, tolerance) for value in answer]
    if isinstance(answer, float) and math.isfinite(answer):
        short = float(f"{answer:.{SIGNIFICANT_DIGITS}g}")
        allowed = tolerance.absolute + tolerance.relative * abs(answer)
        return short if abs(short - answer) <= LARGEST_SHARE * allowed else answer
    return answer

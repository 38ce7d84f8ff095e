"""Fuzzes the way of a request through a worker: `python -m tests.fuzz.run --seconds 60 [TARGET ...]`.

Each target of tests/fuzz runs in a process of its own, with bounds on its memory and on the time of one input. Its
corpus stays in .tsctl/fuzz, so that the next run begins where this one ended; an input that fails is kept beside it.
Exit status: 0 nothing failed, 1 an input or a target failed, 2 there is nothing to fuzz with.
"""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "fuzz"
KEPT = ROOT / ".tsctl" / "fuzz"
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in FOLDER.glob("fuzz_*.py"))
#: Seconds on the wall after which one input counts as one that never ends.
INPUT_S = 30
#: Seconds that a target has to load its models and to end, beside its own.
SPARE_S = 240
_PROGRESS = re.compile(r"^#(\d+)\s+(\w+)\s+cov: (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Result:
    """What came of one target."""

    target: str
    seconds: float
    runs: int
    coverage: int  # branches reached
    new: int  # of these, the ones that the corpus did not reach when it began
    failing: list[Path]
    status: int  # of its process
    log: str

    @property
    def is_failed(self) -> bool:
        """Also where nothing ran, which has shown nothing."""
        return bool(self.failing) or self.status != 0 or self.runs == 0


def main() -> int:
    arguments = parse()
    if importlib.util.find_spec("atheris") is None:
        print("error: atheris is not in .venv: it has wheels for Python 3.11 to 3.13 on x86-64 Linux", file=sys.stderr)
        return 2
    print(f"{'target':<8}{'seconds':>9}{'runs':>10}{'branches':>10}{'new':>6}{'failing':>9}")
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(lambda target: fuzz(target, arguments.seconds, arguments.seed), arguments.targets))
    failed = [result for result in results if result.is_failed]
    for result in failed:
        explain(result)
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fuzz the way of a request through a worker.")
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all where none is named"
    )
    parser.add_argument("--seconds", type=int, default=60, help="of each target, without its start; 60")
    parser.add_argument("--seed", type=int, default=0, help="of the engine's random numbers; 0, the default: any")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=cores, help="targets that run at a time; as many as cores")
    arguments = parser.parse_args()
    arguments.targets = arguments.targets or TARGETS
    unknown = sorted(set(arguments.targets) - set(TARGETS))
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    return arguments


def fuzz(target: str, seconds: int, seed: int) -> Result:
    """One target, from its kept corpus, its found inputs and its seeds; prints its line."""
    corpus, failing = KEPT / target / "corpus", KEPT / target / "failing"
    for folder in (corpus, failing):
        folder.mkdir(parents=True, exist_ok=True)
    found = FOLDER / "found" / target
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tsctl-fuzz-") as work:
        left = Path(work) / "failing"
        left.mkdir()
        options = [f"-max_total_time={seconds}", f"-timeout={INPUT_S}", f"-seed={seed}", f"-artifact_prefix={left}/"]
        folders = [str(corpus), *([str(found)] if found.is_dir() else [])]
        command = [sys.executable, "-m", "tests.fuzz.engine", target, work, *options, *folders]
        status, log = run(command, seconds + SPARE_S, Path(work))
        inputs = [Path(shutil.move(path, failing / path.name)) for path in sorted(left.iterdir())]
    seen = [(int(runs), word, int(reached)) for runs, word, reached in _PROGRESS.findall(log)]
    first = next((reached for _, word, reached in seen if word == "INITED"), 0)
    runs, _, reached = seen[-1] if seen else (0, "", 0)
    (KEPT / target / "log").write_text(log)
    result = Result(target, time.monotonic() - begin, runs, reached, reached - first, inputs, status, log)
    print(
        f"{target:<8}{result.seconds:>9.0f}{runs:>10,}{reached:>10,}{result.new:>6}{len(inputs):>9}",
        flush=True,
    )
    return result


def run(command: list[str], limit_s: float, work: Path) -> tuple[int, str]:
    """The exit status and output of a process, which is ended where it takes longer; -9 then."""
    environment = {**os.environ, "TMPDIR": str(work)}
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    return process.returncode, output.decode(errors="replace")


def explain(result: Result) -> None:
    """The end of what a failed target said, and what to do with its input."""
    lines = [line for line in result.log.splitlines() if not line.startswith("INFO: Instrumenting")]
    ends = [at for at, line in enumerate(lines) if "Uncaught Python exception" in line or "ERROR: libFuzzer" in line]
    begin = ends[0] if ends else max(0, len(lines) - 30)
    print(f"\n{result.target}: failed, status {result.status}", file=sys.stderr)
    for line in lines[begin : begin + 40]:
        print(f"    {line[:300]}", file=sys.stderr)
    for path in result.failing:
        place = FOLDER.relative_to(ROOT) / "found" / result.target
        print(f"  the input is kept in {path}: mend the cause, and move it to {place}/", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

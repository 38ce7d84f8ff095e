"""Fuzzes one target in this process: `python -m tests.fuzz.engine TARGET FOLDER [libFuzzer options, corpus folders]`.

The code under test is instrumented while it is imported, so nothing of it may be imported before.
"""

from __future__ import annotations

import importlib
import logging
import random
import sys
import warnings
from pathlib import Path

import atheris

INSTRUMENTED = ["handlers", "PIL", "ts"]
#: Above the bound of surface.py, which names the input; this one ends a process that would not come so far.
SPARE_MB = 1200


def main(name: str, folder: Path, options: list[str]) -> None:
    """Does not return: libFuzzer ends the process, with a status other than 0 where an input fails."""
    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=INSTRUMENTED), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        surface_module = importlib.import_module("tests.fuzz.surface")
        surface = importlib.import_module(f"tests.fuzz.fuzz_{name}").open_surface(folder / "archives")
    seeds = folder / "seeds"
    seeds.mkdir()
    for seed, content in surface.seeds.items():
        (seeds / seed.replace("/", "_")).write_bytes(content)
    tokens = folder / "tokens.dict"
    tokens.write_text("".join(f'"{_escaped(token)}"\n' for token in surface.tokens if token))
    arguments = [
        sys.argv[0],
        f"-dict={tokens}",
        f"-max_len={surface.longest}",
        f"-rss_limit_mb={int(surface_module.peak_mb()) + SPARE_MB}",
        *options,
        str(seeds),
    ]

    def mutate(content: bytes, longest: int, seed: int) -> bytes:
        mutated: bytes = surface.mutate(content, longest, random.Random(seed), atheris.Mutate)  # noqa: S311 - no secret
        return mutated

    atheris.Setup(arguments, surface_module.bounded(surface.check), custom_mutator=mutate)
    atheris.Fuzz()


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])

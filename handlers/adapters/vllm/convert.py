"""Makes the folder that vLLM reads from a GGUF, in vLLM's environment: `python convert.py GGUF FOLDER`.

The weights are those of the GGUF, each computed from its blocks and kept in bfloat16; tokenizer and chat template are
the GGUF's. The folder appears whole or not at all.
"""

import shutil
import sys
from pathlib import Path


def convert(gguf: Path, folder: Path) -> None:
    """Write the model of a GGUF into a new folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    making = folder.with_name(f".{folder.name}.making")
    shutil.rmtree(making, ignore_errors=True)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(making)
    tokenizer.save_pretrained(making)
    making.rename(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))

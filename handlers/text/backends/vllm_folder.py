"""Makes the folder that vLLM reads from a GGUF, in vLLM's environment: `python vllm_folder.py GGUF DTYPE FOLDER`.

The weights are those of the GGUF, each computed from its blocks and kept as DTYPE, such as float32; tokenizer and chat
template are the GGUF's. The folder appears whole or not at all.
"""

import shutil
import sys
from pathlib import Path


def convert(gguf: Path, dtype: str, folder: Path) -> None:
    """Write the model of a GGUF into a new folder.

    Args:
        dtype: of its weights, as torch calls it.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    making = folder.with_name(f".{folder.name}.making")
    shutil.rmtree(making, ignore_errors=True)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=getattr(torch, dtype), quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(making)
    tokenizer.save_pretrained(making)
    making.rename(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))

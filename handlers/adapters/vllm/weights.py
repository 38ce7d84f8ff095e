"""The folders of weights that vLLM reads, each made once from an archive's GGUF and known by its digest."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from handlers.adapters.vllm.command import CONVERT, offline
from handlers.errors import LoadError

#: Begins the names of folders; another number where CONVERT makes other folders from the same file.
FORM = "bf16-1"
CONVERT_S = 900.0


def folder_of(weights: Path, root: Path) -> Path:
    """The folder of these weights; reads the whole file."""
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return root / f"{FORM}-{digest}"


async def model_folder(weights: Path, root: Path, python: Path, output: int) -> Path:
    """The folder that vLLM reads, which is made where it is missing.

    Args:
        weights: a GGUF, or a folder that vLLM reads as it is.
        root: the folder for what is made.
        python: of vLLM's environment.
        output: the file that takes what is printed meanwhile.

    Raises:
        LoadError: it cannot be made.
    """
    if weights.is_dir():
        return weights
    if weights.suffix != ".gguf":
        raise LoadError(f"vLLM reads a GGUF or a folder of Hugging Face, and no file {weights.name}")
    folder = await asyncio.to_thread(folder_of, weights, root)
    if folder.is_dir():
        return folder
    root.mkdir(mode=0o700, exist_ok=True)
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        python, "-I", CONVERT, weights, folder, env={**environment, **offline()},
        stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
    )  # fmt: skip
    try:
        status = await asyncio.wait_for(process.wait(), CONVERT_S)
    except BaseException as error:
        process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise LoadError(f"{weights.name} was not converted within {CONVERT_S:g} s") from None
        raise
    if status or not folder.is_dir():
        raise LoadError(f"{weights.name} cannot be converted for vLLM: exit status {status}; see the node's log")
    return folder


def remove_others(root: Path, kept: Collection[Path]) -> None:
    """Remove the folders of weights that no version uses."""
    for path in root.iterdir() if root.is_dir() else ():
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)

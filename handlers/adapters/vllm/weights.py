"""The folders of weights that vLLM reads, each made once from a GGUF and known by its digest.

A folder is kept while the unpacked archive of some version names it; what nothing names goes when the next one is made.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from pathlib import Path

from handlers.adapters.vllm.command import CONVERT, offline
from handlers.errors import LoadError

#: Part of the names of folders; another one where CONVERT makes other folders from the same file.
FORM = "1"
CONVERT_S = 900.0
#: In an unpacked archive: the name of its folder.
MARKER = "weights-of-vllm.txt"
#: One folder is made at a time.
_turn = asyncio.Lock()


def folder_of(weights: Path, dtype: str, root: Path) -> Path:
    """The folder of these weights; reads the whole file."""
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return root / f"{dtype}-{FORM}-{digest}"


async def model_folder(weights: Path, dtype: str, root: Path, python: Path, output: int, archive: Path) -> Path:
    """The folder that vLLM reads, which is made where it is missing.

    Args:
        weights: a GGUF, or a folder that vLLM reads as it is.
        dtype: of the numbers in the folder that is made.
        root: the folder for what is made.
        python: of vLLM's environment.
        output: the file that takes what is printed meanwhile.
        archive: the unpacked archive.

    Raises:
        LoadError: it cannot be made.
    """
    if weights.is_dir():
        return weights
    if weights.suffix != ".gguf":
        raise LoadError(f"vLLM reads a GGUF or a folder of Hugging Face, and no file {weights.name}")
    folder = await asyncio.to_thread(folder_of, weights, dtype, root)
    (archive / MARKER).write_text(folder.name, encoding="utf-8")
    async with _turn:
        if not folder.is_dir():
            root.mkdir(mode=0o700, exist_ok=True)
            await asyncio.to_thread(remove_unnamed, root, archive.parent)
            await _convert(weights, dtype, folder, python, output)
    return folder


async def _convert(weights: Path, dtype: str, folder: Path, python: Path, output: int) -> None:
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        python, "-I", CONVERT, weights, dtype, folder, env={**environment, **offline()},
        stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
    )  # fmt: skip
    try:
        status = await asyncio.wait_for(process.wait(), CONVERT_S)
    except BaseException as error:
        if process.returncode is None:
            process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise LoadError(f"{weights.name} was not converted within {CONVERT_S:g} s") from None
        raise
    if status or not folder.is_dir():
        raise LoadError(f"{weights.name} cannot be converted for vLLM: exit status {status}; see the node's log")


def remove_unnamed(root: Path, archives: Path) -> None:
    """Remove the folders of weights that no unpacked archive names.

    Args:
        archives: the folder with the unpacked archives.
    """
    named = {marker.read_text(encoding="utf-8") for marker in archives.glob(f"*/{MARKER}")}
    for path in root.iterdir():
        if path.name not in named:
            shutil.rmtree(path, ignore_errors=True)

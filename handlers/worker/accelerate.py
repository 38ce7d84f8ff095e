"""Makes a network faster by the options of archive.yaml: lower precision, another memory layout, compiled graphs.

Each may change answers, so the self-test compares the answers with the golden ones, which are made without them.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from torch.utils._pytree import tree_map

from handlers.errors import LoadError
from handlers.worker.config import Acceleration


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself; where it does not, bfloat16 is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # asked by name, because torch keeps these private; oneDNN's own answer is no help, it emulates bfloat16 on AVX-512
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)


def compile_mode(device: torch.device, is_fixed_shape: bool) -> str:
    """torch.compile's mode: captured CUDA graphs where every batch has a warmed shape, else the default."""
    return "reduce-overhead" if device.type == "cuda" and is_fixed_shape else "default"


def accelerate(
    network: torch.nn.Module, wanted: Acceleration, device: torch.device, is_fixed_shape: bool
) -> dict[str, str]:
    """Change the network in place; returns the effect by option, with the reason where an option has none here.

    Args:
        is_fixed_shape: whether all items have one shape, so that a batch size is all that varies.

    Raises:
        LoadError: this torch or this network does not support an option.
    """
    done: dict[str, str] = {}
    dtype = torch.float32
    if wanted.quantize:
        done["quantize"] = _quantize(network, wanted.quantize, device)
    if wanted.dtype == "bf16":
        if has_bf16(device):
            dtype = torch.bfloat16
            network.to(dtype)
        done["dtype"] = "bf16" if dtype == torch.bfloat16 else f"float32, because this {device.type} has no bf16"
    if wanted.channels_last:
        network.to(memory_format=torch.channels_last)
        done["channels_last"] = "yes"
    if dtype != torch.float32 or wanted.channels_last:
        _adapt(network, dtype, wanted.channels_last)
    if wanted.compile:
        mode = compile_mode(device, is_fixed_shape)
        # its pool of processes would outlive a worker that TorchServe kills
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        network.compile(mode=mode, dynamic=not is_fixed_shape)
        done["compile"] = mode
    return done


def _quantize(network: torch.nn.Module, kind: str, device: torch.device) -> str:
    if device.type != "cpu":
        return f"no, because it is for the CPU and this worker has {device.type}"
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, UserWarning):  # torch's, on every call; see decision 0007
                warnings.simplefilter("ignore", category)
            from torch.ao.quantization import quantize_dynamic

            quantize_dynamic(network, {torch.nn.Linear}, dtype=torch.qint8, inplace=True)
    except ImportError as error:
        raise LoadError(f"quantize: {kind} is not in torch {torch.__version__}") from error
    if not any("quantized" in type(module).__module__ for module in network.modules()):
        raise LoadError(f"quantize: {kind} found no linear layer in the network")
    return kind


def _adapt(network: torch.nn.Module, dtype: torch.dtype, channels_last: bool) -> None:
    """Have the network take float32 inputs and give float32 outputs, whatever it holds inside."""

    def inward(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        value = value.to(dtype)
        return value.contiguous(memory_format=torch.channels_last) if channels_last and value.dim() == 4 else value

    def outward(value: Any) -> Any:
        is_lowered = isinstance(value, torch.Tensor) and value.dtype == dtype != torch.float32
        return value.float() if is_lowered else value

    def before(_: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        return tree_map(inward, args), tree_map(inward, kwargs)

    def after(_: torch.nn.Module, args: Any, output: Any) -> Any:
        return tree_map(outward, output)

    network.register_forward_pre_hook(before, with_kwargs=True)
    network.register_forward_hook(after)

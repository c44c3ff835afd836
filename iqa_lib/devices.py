"""The one place, beside `iqa_lib.training`, that knows a device: which there is, moving onto it, what it computes."""

import os
import re
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

META = torch.device("meta")
"""Tensors with shapes and no storage: `with META:` builds a network at no cost."""


def best_device() -> torch.device:
    """The GPU of this process, else the CPU, as Accelerate sees it."""
    return Accelerator(mixed_precision="no").device


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters or buffers are."""
    return next(tensor.device for tensor in (*model.parameters(), *model.buffers()))


def check_device(device: torch.device | str) -> None:
    """Raise ValueError if there is no such device here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device: got {str(device)!r}, which is not here ({reason}): give device='cpu'") from error


def to_device(item: Tensor | nn.Module | list, device: torch.device | str) -> Tensor | nn.Module | list:
    """Tensors, networks and lists of them onto the device; 8-bit images become floats in [0, 1] there."""
    if isinstance(item, nn.Module):
        return item.to(device)
    if not isinstance(item, Tensor):
        return [to_device(part, device) for part in item]
    item = item.to(device, non_blocking=True)
    return item.float() / 255 if item.dtype == torch.uint8 else item


def resolved_precision(precision: str, device: torch.device | None = None) -> str:
    """`"auto"` as `"bf16"` on a device that computes it natively, else as `"fp32"`; another precision as it is.

    Emulated, as on a CPU without bf16 instructions, bf16 takes ten times as long as fp32.
    """
    if precision != "auto":
        return precision
    return "bf16" if _has_native_bf16(device or best_device()) else "fp32"


def _has_native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    vectors = torch.backends.cpu.get_cpu_capability().startswith(("AVX512", "SVE"))
    allowed = any(name in limit for name in ("ALL", "DEFAULT", "BF16", "FP16", "AMX"))
    return device.type == "cpu" and vectors and allowed and _cpu_lists_bf16()


def _cpu_lists_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    return cpuinfo.exists() and re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", cpuinfo.read_text()) is not None

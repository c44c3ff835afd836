"""All that the package, outside `iqa_lib.training`, knows about devices: which to use, moving to it, its precision."""

import os
import platform
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from iqa_lib.checks import check_choice

PRECISIONS = ("auto", "fp32", "bf16")

THREADS = 4  # that read ahead of a GPU

CPU = torch.device("cpu")
META = torch.device("meta")  # tensors with shapes and no storage: `with META:` builds a network at no cost


def best_device() -> torch.device:
    """This process's GPU if there is one, else the CPU, as Accelerate chooses."""
    from accelerate import Accelerator  # slow to import

    return Accelerator(mixed_precision="no").device


def use_one_thread() -> None:
    """Compute on one CPU core from now on: digits no longer depend on their number, and no thread spins in waiting."""
    torch.set_num_threads(1)


def device_of(model: nn.Module | None) -> torch.device:
    """Where a model's parameters or buffers are; the CPU if it has none."""
    tensors = () if model is None else (*model.parameters(), *model.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or device.type


def instructions() -> str:
    """The vector instructions that torch uses on the CPU, such as `"AVX2"`, and whether it computes bf16 natively."""
    native = _has_native_bf16(torch.device("cpu"))
    return torch.backends.cpu.get_cpu_capability() + ", native bf16" * native


def check_device(device: torch.device | str) -> None:
    """Raise ValueError if this machine has no such device, or it holds no values, as "meta"."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device: got {str(device)!r}, expected one of this machine ({reason}): use 'cpu'") from error


def to_device(item: Tensor | list | nn.Module, device: torch.device | str):
    """Move a model, a tensor or nested lists of tensors; 8-bit images become floats in [0, 1].

    Batches of maps go channels last: on one CPU core, convolutions take half the time.
    """
    if isinstance(item, nn.Module):
        layout = torch.channels_last if torch.device(device).type == "cuda" else torch.preserve_format
        return item.to(device, memory_format=layout)
    if not isinstance(item, Tensor):
        return [to_device(part, device) for part in item]
    layout = torch.channels_last if item.ndim == 4 else torch.preserve_format
    item = item.to(device, non_blocking=True, memory_format=layout)
    return item.float() / 255 if item.dtype == torch.uint8 else item


def ahead(function: Callable, items: Iterable, device: torch.device) -> Iterator:
    """`map(function, items)` for what `device` takes next: beside a GPU, threads compute the results before their turn.

    So images are decoded while the GPU computes; `items` must not fail, and threads have autograd's own settings. A CPU
    is busy itself: there each is computed when it is asked for.
    """
    if device.type == "cpu":
        yield from map(function, items)
        return
    items, pool = iter(items), ThreadPoolExecutor(THREADS)
    try:
        waiting = deque(pool.submit(function, item) for item in islice(items, 2 * THREADS))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(items, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def fast_kernels(*, tf32: bool = True) -> AbstractContextManager:
    """For training on a GPU: cuDNN's timed kernels, and TF32 in fp32 products, which rounds the factors to 10 bits.

    The quickest kernel for each shape is measured when the shape is new; it may differ from run to run.
    """
    return _kernels(tf32=tf32, timed=True)


def exact_kernels() -> AbstractContextManager:
    """For scores and features on a GPU: fp32 as on a CPU, where torch by itself would round a convolution's factors."""
    return _kernels(tf32=False, timed=False)


@contextmanager
def _kernels(*, tf32: bool, timed: bool) -> Iterator[None]:
    """torch's flags as given within the block. They are the process's: threads side by side change each other's."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = tf32, tf32, timed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def digits_of(device: torch.device) -> str:
    """What the last digits of a result hang on there, for the key of what is kept."""
    return f"{torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def determinism(device: torch.device) -> str:
    """What of a run its repetition on this device repeats, for the record."""
    if device.type == "cpu":
        return f"same seed, versions and instructions, {digits_of(device)}: the same digits"
    return "same seed: the same order, crops and dropout; TF32, timed kernels and atomic sums move the last digits"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a network computes in `precision`, one of `PRECISIONS`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=resolved_precision(precision, device) == "bf16")


def resolved_precision(precision: str, device: torch.device | None = None) -> str:
    """`"auto"` as `"bf16"` if that is native (emulated, it takes ten times as long), else `"fp32"`; others as given."""
    check_choice(PRECISIONS, precision=precision)
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


@cache
def _cpu_lists_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    flags = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    return re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", flags) is not None

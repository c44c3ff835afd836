"""What a GPU makes of each network at its paper's sizes: right outputs, images a second, memory, share of its rate.

python benchmarks/gpu.py            eight minutes on one GPU; writes benchmarks/gpu.json and docs/gpu.md
python benchmarks/gpu.py --tiny     small networks and images, on what is there: only prints

Each network, with random weights: its outputs on the CPU and on the GPU in true fp32 (largest difference, of the
largest output), what bf16 changes (of the same), and a training step and scoring in fp32, TF32 and bf16, and compiled
in bf16 as long as time is left. An image is one crop of one image: a pair has 2, a triplet 3. MFU is the share of the
rate that one large bf16 product reaches on this card; multiply-adds count as two operations, the attention's and the
deformable convolution's among them. Reading is what workers decode and cut from PNG files of 768 x 512.

benchmarks/gpu.json, which `make plan` reads: `device`, `matmul_tflops` (bf16), `torch`, and `networks`, by name:
`train` and `score`: images a second by precision (`fp32`, `tf32`, `bf16`, `bf16 compiled`; what was not measured is
left out); `memory`, peak GiB likewise, by `train` and `score`; `mfu` of the training step, or of scoring what does not
train; `waits` of a training step (0, or the first operation that waited), `parity`, `drift`, and `reading`: images a
second that the data pipeline gives for it with `workers`.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from iqa_lib.backbones import PACKAGED
from iqa_lib.data.base import IQADataset, Label, Pair, Triplet
from iqa_lib.devices import autocast, best_device, device_name, fast_kernels, to_device
from iqa_lib.files import atomic, repo_root
from iqa_lib.images import encode_png
from iqa_lib.losses import mse, preference_bce
from iqa_lib.models import AHIQ, FRNR, IQATMFM, CFANet, LPIPSPlus, PRFNet
from iqa_lib.training import peak_memory
from iqa_lib.views import Crops

MINUTES = 8
PRECISIONS = ("fp32", "tf32", "bf16")


@dataclass(frozen=True)
class Case:
    """A network and its sizes: images a record, `(batch, *shape)` of one input in a step and in scoring."""

    build: Callable[[], nn.Module]
    images: int
    score: tuple[int, ...]
    train: tuple[int, ...] | None = None


PAPER = {  # sizes of params/*/paper.yaml; IQA-TMFM draws 4 crops of each image
    "IQATMFM": Case(partial(IQATMFM, weights="random"), 3, (96, 3, 224, 224), (4, 4, 3, 224, 224)),
    "PRFNet": Case(partial(PRFNet, weights="random"), 3, (8, 3, 512, 768), (16, 3, 448, 448)),
    "AHIQ": Case(partial(AHIQ, cnn_weights="random", vit_weights="random"), 2, (20, 3, 224, 224), (8, 3, 224, 224)),
    "FRNR": Case(partial(FRNR, weights="random"), 2, (8, 3, 384, 512), (8, 3, 384, 512)),
    "CFANet": Case(partial(CFANet, weights="random"), 2, (1, 3, 384, 512), (16, 3, 384, 384)),
    "LPIPSPlus": Case(partial(LPIPSPlus, weights="random"), 2, (1, 3, 384, 512)),
}
NARROW = dict(backbone=PACKAGED, crop=32, dim=16, heads=2, head_dim=8, hidden=16)
FROZEN = dict(backbone=PACKAGED, branches=("frp",))
TINY = {
    "IQATMFM": Case(partial(IQATMFM, weights="random", **NARROW), 3, (2, 3, 32, 32), (2, 2, 3, 32, 32)),
    "FRNR": Case(partial(FRNR, weights="random", **FROZEN), 2, (2, 3, 32, 48), (2, 3, 32, 48)),
    "LPIPSPlus": Case(partial(LPIPSPlus, net="squeeze", weights="random"), 2, (1, 3, 32, 48)),
}


def inputs(case: Case, shape: tuple[int, ...], device: torch.device) -> list[Tensor]:
    """A reference and its images with noise of various strengths."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(shape, generator=generator)
    strengths = torch.linspace(0.05, 0.5, shape[0]).view(-1, *[1] * (len(shape) - 1))
    noises = (torch.rand(shape, generator=generator) for _ in range(case.images - 1))
    return to_device([reference, *(torch.lerp(reference, noise, strengths) for noise in noises)], device)


def kernels(precision: str, device: torch.device) -> ExitStack:
    stack = ExitStack()
    stack.enter_context(fast_kernels(tf32=precision != "fp32"))
    stack.enter_context(autocast(device, "bf16" if precision == "bf16" else "fp32"))
    return stack


def training_step(case: Case, model: nn.Module, call: nn.Module, device: torch.device) -> Callable[[], None]:
    """A step of `iqa_lib.training.fit` on one batch that stays on the device."""
    given, target = inputs(case, case.train, device), torch.full((case.train[0],), 0.5, device=device)
    weights = [weight for weight in model.train().parameters() if weight.requires_grad]
    updater = torch.optim.AdamW(weights, lr=1e-6, fused=True)
    loss = mse if case.images == 2 else preference_bce

    def step(precision: str) -> None:
        with kernels(precision, device):
            output = call(*given)
            loss(output.float(), target).backward()
            updater.step()
            updater.zero_grad(set_to_none=True)

    return step


def scoring(case: Case, model: nn.Module, call: nn.Module, device: torch.device) -> Callable[[], None]:
    given = inputs(case, case.score, device)

    def score(precision: str) -> Tensor:
        with torch.inference_mode(), kernels(precision, device):
            return call(*given).float()

    model.eval()
    return score


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measured(call: Callable[[], object], device: torch.device, least: float) -> tuple[float, float]:
    """Seconds a call, of calls for about `least` seconds after three that do not count, and peak memory in GiB."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        call()
    wait(device)
    started = time.perf_counter()
    call()
    wait(device)
    repeats = max(1, round(least / (time.perf_counter() - started)))
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    wait(device)
    return (time.perf_counter() - started) / repeats, peak_memory(device) / 2**30


def matmul_rate(device: torch.device, side: int, least: float) -> float:
    """Operations a second of one bf16 product."""
    a, b = torch.rand(2, side, side, device=device, dtype=torch.bfloat16).unbind()
    return 2 * side**3 / measured(lambda: a @ b, device, least)[0]


def _deformed(x, weight, offset, mask, bias, *options, out_shape, **_) -> int:
    return 2 * np.prod(out_shape) * np.prod(weight[1:])


def _deformed_back(gradient, x, weight, *options, **_) -> int:
    return 4 * np.prod(gradient) * np.prod(weight[1:])


def operations(call: Callable[[], object]) -> int:
    ops = torch.ops.torchvision
    known = {ops.deform_conv2d: _deformed, ops._deform_conv2d_backward: _deformed_back}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        call()
    return int(counter.get_total_flops())


def waits(step: Callable[[], None], device: torch.device) -> int | str | None:
    """0 if a step waits for the GPU nowhere, else what waited first; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return 0


def parity(case: Case, model: nn.Module, device: torch.device) -> dict[str, float]:
    """Largest differences of outputs, relative to the largest: GPU to CPU in true fp32, and bf16 to fp32."""
    shape = (min(case.score[0], 2), *case.score[1:])
    small = Case(case.build, case.images, shape)
    on_cpu = scoring(small, model, model, torch.device("cpu"))("fp32")
    to_device(model, device)
    fp32, bf16 = (scoring(small, model, model, device)(name).cpu() for name in ("fp32", "bf16"))
    differences = {"parity": fp32 - on_cpu, "drift": bf16 - fp32}
    return {name: (x.abs().max() / on_cpu.abs().max()).item() for name, x in differences.items()}


def reading(case: Case, folder: Path, workers: int, least: float) -> float:
    """Images a second that workers decode and cut."""
    generator, kind = np.random.default_rng(0), Pair if case.images == 2 else Triplet
    paths = [folder / f"{number}.png" for number in range(24)]
    for path in paths:
        if not path.exists():
            coarse = generator.integers(256, size=(64, 96, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            path.write_bytes(encode_png(coarse // 2 + generator.integers(64, size=coarse.shape, dtype=np.uint8)))
    rows = [kind(*np.roll(paths, place)[: case.images], 0.5, str(place), 0.5) for place in range(24)]
    data = IQADataset("benchmark", "all", rows * 100, Label("share", 0, 1, True))
    shape, keys = case.train or case.score, [(0, index) for index in range(len(data))]
    draws = shape[1] if len(shape) == 5 else 0
    view = Crops(data, "random" if shape[-1] == shape[-2] else "whole", shape[-1], draws=draws)
    batches = iter(DataLoader(view, shape[0], sampler=keys, num_workers=workers, pin_memory=torch.cuda.is_available()))
    next(batches)
    started, images = time.perf_counter(), 0
    for reference, *_ in batches:
        images += case.images * (len(reference) * max(1, draws))
        if time.perf_counter() - started > least:
            break
    return images / (time.perf_counter() - started)


def of_network(case: Case, device: torch.device, least: float, rate: float) -> dict:
    """All but what is compiled."""
    torch.manual_seed(0)
    model = case.build()
    found = parity(case, model, device) | {"memory": {}, "waits": None}
    for name in ("train", "score") if case.train else ("score",):
        step = (training_step if name == "train" else scoring)(case, model, model, device)
        shape, count = getattr(case, name), case.images
        found[name], found["memory"][name] = {}, {}
        for precision in PRECISIONS:
            seconds, memory = measured(partial(step, precision), device, least)
            found[name][precision] = count * int(np.prod(shape[:-3])) / seconds
            found["memory"][name][precision] = memory
        if name == "train":
            found["waits"] = waits(partial(step, "bf16"), device)
        if "mfu" not in found:
            found["mfu"] = operations(partial(step, "fp32")) / seconds / rate
    return found


def compiled(case: Case, device: torch.device, least: float) -> tuple[str, float]:
    """What `torch.compile` makes of a training step, or of scoring what does not train: images a second in bf16."""
    torch.manual_seed(0)
    model = to_device(case.build(), device)
    name = "train" if case.train else "score"
    step = (training_step if case.train else scoring)(case, model, torch.compile(model), device)
    seconds, _ = measured(partial(step, "bf16"), device, least)
    return name, case.images * int(np.prod(getattr(case, name)[:-3])) / seconds


def table(found: dict) -> str:
    """Markdown."""
    rows = {}
    for name, row in found["networks"].items():
        if "error" in row:
            rows[name] = {"waits": row["error"]}
            continue
        rates = {f"{kind} {p}": f"{row[kind][p]:.0f}" for kind in ("train", "score") for p in row.get(kind, {})}
        peaks = {f"{kind} GiB": f"{row['memory'][kind]['bf16']:.1f}" for kind in row["memory"]}
        other = {"MFU": f"{row['mfu']:.0%}", "reading": f"{row['reading']:.0f}", "waits": row["waits"]}
        rows[name] = rates | peaks | other | {"CPU to GPU": f"{row['parity']:.0e}", "bf16": f"{row['drift']:.0e}"}
    cells = pd.DataFrame(rows).T.fillna("-").rename_axis("images/s").to_markdown()
    rate = f"{found['matmul_tflops']:.0f} TFLOP/s in one bf16 product"
    return f"{found['device']}, torch {found['torch']}, {rate}, {found['workers']} workers\n\n{cells}\n"


def measure(cases: dict[str, Case], *, least: float, side: int, workers: int) -> dict:
    """Everything, network by network; one that this GPU's memory does not hold has an `error` instead."""
    device = best_device()
    found = {"device": device_name(device), "torch": torch.__version__, "workers": workers, "networks": {}}
    rate = matmul_rate(device, side, least)
    found["matmul_tflops"] = rate / 1e12
    with tempfile.TemporaryDirectory() as folder:
        for name, case in cases.items():
            try:
                row = of_network(case, device, least, rate)
                row["reading"] = reading(case, Path(folder), workers, least)
            except torch.OutOfMemoryError as error:
                row = {"error": str(error).split(". ")[0]}
            found["networks"][name] = row
            print(name, json.dumps(row), flush=True)
    return found


def add_compiled(found: dict, cases: dict[str, Case], *, least: float, until: float) -> None:
    """The compiled steps, as long as one like the longest so far ends in time; what fails is told."""
    longest = 60.0
    for name, case in cases.items():
        started = time.monotonic()
        if started + longest > until:
            print(f"{name}: not compiled, no time left")
            continue
        try:
            kind, images = compiled(case, best_device(), least)
            found["networks"][name].setdefault(kind, {})["bf16 compiled"] = images
        except Exception as error:  # a compiler fails in many ways; what is measured stays
            print(f"{name}: not compiled, {str(error).splitlines()[0]}")
        longest = max(longest, time.monotonic() - started)


def save(found: dict) -> None:
    for file, text in {"benchmarks/gpu.json": json.dumps(found, indent=1), "docs/gpu.md": table(found)}.items():
        with atomic(repo_root() / file) as temporary:
            temporary.write_text(text)


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small networks and images; writes nothing")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes that read")
    given, until = parser.parse_args(arguments), time.monotonic() + 60 * MINUTES
    if given.tiny:
        found = measure(TINY, least=0.01, side=64, workers=0)
    else:
        if best_device().type != "cuda":
            parser.error("there is no GPU here: give --tiny to try it on the CPU")
        found = measure(PAPER, least=1.5, side=8192, workers=given.workers)
        save(found)
        add_compiled(found, PAPER, least=1.5, until=until)
        save(found)
    print(table(found))
    return found


if __name__ == "__main__":
    main()

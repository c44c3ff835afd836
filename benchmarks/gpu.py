"""What a GPU makes of each network at its paper's sizes: right outputs, images a second, memory, share of its rate.

python benchmarks/gpu.py                eight minutes on one GPU; writes benchmarks/gpu.json and docs/gpu.md
python benchmarks/gpu.py --minutes 20   with all compiled steps
python benchmarks/gpu.py --tiny         small networks and images, on what is there: only prints

Each network, with random weights, the most useful first: its outputs and maps on the CPU and on the GPU in true fp32,
what bf16 changes of the score, what the workers read, a training step in bf16 and TF32, scoring in bf16 and fp32; then
the compiled step; then training in true fp32; then the compiled step as a CUDA graph. Before all of these, the metrics
that IQA-TMFM fuses, with random weights. Each measurement is printed with its seconds and saved; what is not measured
when the time is over is left out. An image is one crop of one image: a pair has 2, a triplet 3. MFU is the share of the
rate that one large bf16 product reaches on this card; multiply-adds count as two operations, the attention's and the
deformable convolution's among them. Reading is what workers decode and cut from PNG files of 768 x 512.

benchmarks/gpu.json, which `make plan` reads: `device`, `driver`, `cores`, `torch`, `commit`, `date`, `seconds`,
`workers`, `matmul_tflops` (bf16), and `networks`, by name: `train` and `score`: images a second by precision (`fp32`,
`tf32`, `bf16`, `bf16 compiled`, `bf16 graphs`; what was not measured is left out); `memory`, peak GiB likewise, by
`train` and `score`; `mfu` of the training step, or of scoring what does not train, in bf16; `waits` of a training step
(0, or the first operation that waited); `parity`, the largest difference GPU to CPU of the score and all maps, relative
to the largest value of each; `drift`, that of the score, bf16 to fp32; `reading`: images a second that the data
pipeline gives for it with `workers`; and `error`, if something failed. `metrics`, by name: `pairs` a second, and
`parity`, the difference GPU to CPU relative to the score.
"""

import argparse
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from iqa_lib import baselines
from iqa_lib.backbones import PACKAGED
from iqa_lib.baselines import BASELINES, Baseline
from iqa_lib.data.base import IQADataset, Label, Pair, Triplet
from iqa_lib.devices import autocast, best_device, device_name, exact_kernels, fast_kernels, to_device
from iqa_lib.files import atomic, repo_root
from iqa_lib.images import encode_png
from iqa_lib.lab.notebook import on_device
from iqa_lib.losses import mse, preference_bce
from iqa_lib.models import AHIQ, FRNR, IQATMFM, CFANet, LPIPSPlus, PRFNet
from iqa_lib.models.iqa_tmfm import METRICS
from iqa_lib.training import peak_memory
from iqa_lib.views import Crops

AROUND = 45
"""Seconds that imports and the end take."""
SPEEDS = {"fp32": "fp32", "tf32": "TF32", "bf16": "bf16", "bf16 compiled": "compiled", "bf16 graphs": "CUDA graph"}
"""What is measured, and the tables' name for it."""


RUNS = {"train": "tf32", "score": "fp32"}
"""What a run with `precision: fp32` computes in."""


@dataclass(frozen=True)
class Case:
    """A network and its sizes: images a record, `(batch, *shape)` of one input in a step and in scoring."""

    build: Callable[[], nn.Module]
    images: int
    score: tuple[int, ...]
    train: tuple[int, ...] | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("train", "score") if self.train else ("score",)

    @torch.no_grad()
    def built(self) -> nn.Module:
        """Without the zeros that timm starts the ends of residual branches with: then no fault in these would show."""
        torch.manual_seed(0)
        model = self.build()
        for name, weight in model.named_parameters():
            if not name.endswith("bias") and weight.abs().max() < 1e-3:
                nn.init.normal_(weight, 0.5, 0.1) if weight.ndim == 1 else nn.init.kaiming_normal_(weight)
        return model


PAPER = {  # sizes of params/*/paper.yaml; IQA-TMFM draws 4 crops of each image. First what waits for kernel launches
    "IQATMFM": Case(partial(IQATMFM, weights="random"), 3, (96, 3, 224, 224), (4, 4, 3, 224, 224)),
    "FRNR": Case(partial(FRNR, weights="random"), 2, (8, 3, 384, 512), (8, 3, 384, 512)),
    "CFANet": Case(partial(CFANet, weights="random"), 2, (1, 3, 384, 512), (16, 3, 384, 384)),
    "PRFNet": Case(partial(PRFNet, weights="random"), 3, (8, 3, 512, 768), (16, 3, 448, 448)),
    "AHIQ": Case(partial(AHIQ, cnn_weights="random", vit_weights="random"), 2, (20, 3, 224, 224), (8, 3, 224, 224)),
    "LPIPSPlus": Case(partial(LPIPSPlus, weights="random"), 2, (1, 3, 384, 512)),
}
NARROW = dict(backbone=PACKAGED, crop=32, dim=16, heads=2, head_dim=8, hidden=16)
FROZEN = dict(backbone=PACKAGED, branches=("frp",))
TINY = {
    "IQATMFM": Case(partial(IQATMFM, weights="random", **NARROW), 3, (2, 3, 32, 32), (2, 2, 3, 32, 32)),
    "FRNR": Case(partial(FRNR, weights="random", **FROZEN), 2, (2, 3, 32, 48), (2, 3, 32, 48)),
    "LPIPSPlus": Case(partial(LPIPSPlus, net="squeeze", weights="random"), 2, (1, 3, 32, 48)),
}


def noisy(shape: tuple[int, ...], images: int, device: torch.device) -> list[Tensor]:
    """A reference, and images of it with noise of various strengths."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(shape, generator=generator)
    strengths = torch.linspace(0.05, 0.5, shape[0]).view(-1, *[1] * (len(shape) - 1))
    noises = (torch.rand(shape, generator=generator) for _ in range(images - 1))
    return to_device([reference, *(torch.lerp(reference, noise, strengths) for noise in noises)], device)


@contextmanager
def kernels(precision: str, device: torch.device, *, training: bool) -> Iterator[None]:
    """The context of `precision`, in training with cuDNN's timed kernels."""
    chosen = fast_kernels(tf32=precision != "fp32") if training else exact_kernels()
    with chosen, autocast(device, "bf16" if precision.startswith("bf16") else "fp32"):
        yield


def training_step(case: Case, model: nn.Module, call: nn.Module, device: torch.device) -> Callable[[str], None]:
    """A step of `iqa_lib.training.fit` on one batch that stays on the device."""
    given, target = noisy(case.train, case.images, device), torch.full((case.train[0],), 0.5, device=device)
    weights = [weight for weight in model.train().parameters() if weight.requires_grad]
    updater = torch.optim.AdamW(weights, lr=1e-6, fused=True)
    loss = mse if case.images == 2 else preference_bce

    def step(precision: str) -> None:
        with kernels(precision, device, training=True):
            output = call(*given)
            loss(output.float(), target).backward()
            updater.step()
            updater.zero_grad(set_to_none=True)

    return step


def scoring(case: Case, model: nn.Module, call: nn.Module, device: torch.device) -> Callable[[str], Tensor]:
    given = noisy(case.score, case.images, device)

    def score(precision: str) -> Tensor:
        with torch.inference_mode(), kernels(precision, device, training=False):
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


def outputs(case: Case, model: nn.Module, device: torch.device, precision: str) -> dict[str, Tensor]:
    """The score of at most two records, and all maps, whose values tell more than a score of random weights."""
    given = noisy((min(case.score[0], 2), *case.score[1:]), case.images, device)
    with torch.inference_mode(), kernels(precision, device, training=False):
        score, (_, maps) = model.eval()(*given), model(*given, return_maps=True)
    return {name: x.float().cpu() for name, x in (maps | {"score": score}).items()}


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    """The largest of all outputs, each relative to its own largest value, and which it is."""
    every = [(found[name] - x).abs().max() / x.abs().max().clamp(min=1e-12) for name, x in expected.items()]
    worst = torch.stack(every).argmax()  # a NaN is the largest
    return every[worst].item(), [*expected][worst]


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


@dataclass(frozen=True)
class Bench:
    """Measures: each method fills a network's row, and yields what it has found, in words, as soon as it is found."""

    device: torch.device
    folder: Path
    workers: int
    least: float
    rate: float
    pixels: int

    def most(self, case: Case, row: dict) -> Iterator[str]:
        model, cpu = case.built(), torch.device("cpu")
        expected = outputs(case, model, cpu, "fp32")
        to_device(model, self.device)
        fp32, bf16 = (outputs(case, model, self.device, precision) for precision in ("fp32", "bf16"))
        row["parity"], worst = difference(fp32, expected)
        row["drift"], _ = difference(bf16, {"score": fp32["score"]})
        yield f"GPU to CPU {row['parity']:.0e} ({worst}, of {len(fp32)} outputs), bf16 to fp32 {row['drift']:.0e}"
        row["reading"] = reading(case, self.folder, self.workers, self.least)
        yield f"reading {row['reading']:.0f} images/s"
        for kind in case.kinds:
            for precision in ("bf16", RUNS[kind]):
                yield self.speed(case, row, model, model, kind, precision)
        yield self.share(case, row, model, case.kinds[0])

    def fp32(self, case: Case, row: dict) -> Iterator[str]:
        if case.train:
            model = to_device(case.built(), self.device)
            yield self.speed(case, row, model, model, "train", "fp32")

    def compiled(self, case: Case, row: dict) -> Iterator[str]:
        yield self.by_compiler(case, row, "bf16 compiled")

    def graphs(self, case: Case, row: dict) -> Iterator[str]:
        yield self.by_compiler(case, row, "bf16 graphs", mode="reduce-overhead")

    def by_compiler(self, case: Case, row: dict, precision: str, **options) -> str:
        """A training step, or scoring what does not train."""
        model = to_device(case.built(), self.device)
        try:
            return self.speed(case, row, model, torch.compile(model, **options), case.kinds[0], precision)
        finally:
            torch.compiler.reset()

    def metric(self, name: str, row: dict) -> Iterator[str]:
        weights, cpu = "random" if BASELINES[name].needs_weights else None, torch.device("cpu")

        def loaded(device: torch.device) -> Baseline:
            torch.manual_seed(0)
            return baselines.load(name, weights=weights, device=device)

        metric = on_device(loaded(self.device), self.device)
        pair = noisy((1, 3, 192, 192), 2, cpu)
        expected = loaded(cpu).score(*pair)
        row["parity"] = ((metric.score(*pair) - expected) / expected).abs().item()
        reference, distorted = noisy((1, 3, self.pixels, self.pixels), 2, cpu)
        row["pairs"] = 1 / measured(partial(metric.scorer(reference), distorted), self.device, self.least)[0]
        yield f"GPU to CPU {row['parity']:.0e}, {row['pairs']:.1f} pairs/s"

    def share(self, case: Case, row: dict, model: nn.Module, kind: str) -> str:
        step = partial(self.call(case, model, model, kind), "bf16")
        row["waits"] = waits(step, self.device) if kind == "train" else None
        row["mfu"] = operations(step) * row[kind]["bf16"] / images(case, kind) / self.rate
        return f"{kind} MFU {row['mfu']:.1%}, waits: {row['waits']}"

    def call(self, case: Case, model: nn.Module, call: nn.Module, kind: str) -> Callable[[str], object]:
        return (training_step if kind == "train" else scoring)(case, model, call, self.device)

    def speed(self, case: Case, row: dict, model: nn.Module, call: nn.Module, kind: str, precision: str) -> str:
        step = partial(self.call(case, model, call, kind), precision)
        seconds, memory = measured(step, self.device, self.least)
        row.setdefault(kind, {})[precision] = images(case, kind) / seconds
        row.setdefault("memory", {}).setdefault(kind, {})[precision] = memory
        return f"{kind} {precision} {images(case, kind) / seconds:.0f} images/s, {memory:.1f} GiB"


def images(case: Case, kind: str) -> int:
    """Of a call."""
    return case.images * int(np.prod(getattr(case, kind)[:-3]))


class TimeIsOver(BaseException):
    """No Exception, which libraries catch."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """End the block after so many seconds, wherever it is; 0: never. Asked again, lest a library hides the first."""

    def end(*_) -> None:
        raise TimeIsOver

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5)
    try:
        yield
    except TimeIsOver:
        signal.setitimer(signal.ITIMER_REAL, 0)
        print("the time is over: what comes after this is not measured", flush=True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measure(
    cases: dict[str, Case],
    stages: tuple[Callable[[Bench, Case, dict], Iterator[str]], ...],
    metrics: tuple[str, ...],
    *,
    least: float,
    side: int,
    pixels: int,
    workers: int,
    seconds: float = 0,
    keep: Callable[[dict], None] = lambda found: None,
) -> dict:
    """The metrics, then each stage of all networks, then the next; what fails has an `error`, and the others go on."""
    begun, device = time.monotonic(), best_device()
    rows, fused = {name: {} for name in cases}, {name: {} for name in metrics}
    found = machine(device) | {"workers": workers, "pixels": pixels, "networks": rows, "metrics": fused}
    jobs = [(Bench.metric, name, name, fused[name]) for name in metrics]
    jobs += [(stage, name, case, rows[name]) for stage in stages for name, case in cases.items()]
    with limited(seconds), tempfile.TemporaryDirectory() as folder:
        rate = matmul_rate(device, side, least)
        found["matmul_tflops"] = rate / 1e12
        bench = Bench(device, Path(folder), workers, least, rate, pixels)
        for job, name, what, row in jobs:
            started = time.monotonic()
            try:
                for told in job(bench, what, row):
                    print(f"{name}: {told} ({time.monotonic() - started:.1f} s)", flush=True)
                    started, found["seconds"] = time.monotonic(), round(time.monotonic() - begun)
                    keep(found)
            except Exception as error:  # of one of them; a compiler fails in many ways
                first, *_ = str(error).strip().splitlines() or [""]
                why = f"{job.__name__}: {type(error).__name__}: {first[:160]}"
                row["error"] = f"{row['error']}; {why}" if "error" in row else why
                print(f"{name}: {why} ({time.monotonic() - started:.1f} s)", flush=True)
    keep(found)
    return found


def machine(device: torch.device) -> dict[str, object]:
    """Where and when."""
    driver = printed("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    commit = printed("git", "-C", str(repo_root()), "describe", "--always", "--dirty", "--exclude=*")
    versions = {"driver": driver, "torch": torch.__version__, "commit": commit, "date": date.today().isoformat()}
    return {"device": device_name(device), "cores": os.cpu_count()} | versions


def printed(*command: str) -> str:
    """The first line that a command prints, `"unknown"` where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.partition("\n")[0].strip() or "unknown"


def table(found: dict) -> str:
    """A page of Markdown; its columns are a template and where the value is in a network's row."""
    limits = {"reading": ("{:.0f}", "reading"), "MFU": ("{:.0%}", "mfu")}
    right = {"GPU to CPU": ("{:.0e}", "parity"), "bf16 to fp32": ("{:.0e}", "drift"), "waits": ("{}", "waits")}
    right |= {"failed": ("{}", "error")}
    trained, scored = ({label: ("{:.0f}", kind, p) for p, label in SPEEDS.items()} for kind in ("train", "score"))
    del scored["TF32"]
    peaks = {
        f"{name}, {SPEEDS[p]}": ("{:.1f}", "memory", kind, p)
        for name, kind in (("training", "train"), ("scoring", "score"))
        for p in (RUNS[kind], "bf16")
    }
    metrics = {"pairs/s": ("{:.0f}", "pairs"), "GPU to CPU": right["GPU to CPU"], "failed": right["failed"]}
    parts = [
        "# Networks on a GPU",
        f"`make gpu` wrote this page. {found['device']}, driver {found['driver']}, torch {found['torch']}, "
        f"{found['cores']} CPU cores; commit {found['commit']}, {found['date']}, {found.get('seconds', 0)} s in all. "
        f"One large bf16 product: {found.get('matmul_tflops', 0):.0f} TFLOP/s. An image is one crop of one image: a "
        "pair has 2, a triplet 3. `-`: not measured, for want of time or because it failed.",
        "## Right",
        "With random weights: the largest difference, GPU to CPU in true fp32, of the score and all maps, relative to "
        "the largest value of each; that of the score, bf16 to fp32; what a training step waits for (0: nothing).",
        _lines(found["networks"], right),
        "## Training",
        "Images a second that a training step takes, those that the workers "
        f"({found['workers']}) read for it, and the share of the large product's rate that it reaches in bf16 (MFU; "
        "of scoring, if nothing trains). Compiled, and as a CUDA graph: in bf16.",
        _lines(found["networks"], trained | limits),
        "## Scoring",
        "Images a second, in true fp32 and in bf16. Compiled, and as a CUDA graph: in bf16, only what does not train.",
        _lines(found["networks"], scored),
        "## Memory",
        "The GPU's memory at its peak, in GiB.",
        _lines(found["networks"], peaks),
        "## Metrics",
        f"What IQA-TMFM fuses, with random weights, in true fp32: pairs of {found['pixels']} x {found['pixels']} a "
        "second, one after another as `evaluation` gives them, without reading them; and the difference GPU to CPU, "
        "relative to the score.",
        _lines(found["metrics"], metrics, "metric"),
    ]
    return "\n\n".join(parts) + "\n"


def _lines(found: dict[str, dict], columns: dict[str, tuple[str, ...]], first: str = "network") -> str:
    rows = [[name, *(_cell(row, *column) for column in columns.values())] for name, row in found.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in [[first, *columns], ["---"] * (1 + len(columns)), *rows])


def _cell(value: object, template: str, *place: str) -> str:
    for key in place:
        value = None if value is None else value.get(key)
    return "-" if value is None else template.format(value).replace("|", "\\|")


def save(found: dict) -> None:
    for file, text in {"benchmarks/gpu.json": json.dumps(found, indent=1) + "\n", "docs/gpu.md": table(found)}.items():
        with atomic(repo_root() / file) as temporary:
            temporary.write_text(text)


def main(arguments: list[str] | None = None) -> bool:
    """Whether something failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small networks and images, no limit; writes nothing")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes that read")
    parser.add_argument("--minutes", type=float, default=8, help="then it ends with what it has (default: 8)")
    given = parser.parse_args(arguments)
    if not 1 <= given.minutes <= 600:
        parser.error(f"--minutes: got {given.minutes}, expected 1 to 600: {AROUND} seconds go to imports and the end")
    if given.workers < 0:
        parser.error(f"--workers: got {given.workers}, expected 0 or more")
    if given.tiny:
        found = measure(TINY, (Bench.most, Bench.fp32), METRICS[4:6], least=0.01, side=64, pixels=192, workers=0)
    else:
        if best_device().type != "cuda":
            parser.error("there is no GPU here: give --tiny to try it on the CPU")
        stages, options = (Bench.most, Bench.compiled, Bench.fp32, Bench.graphs), dict(least=1.0, side=8192, pixels=768)
        found = measure(
            PAPER, stages, METRICS, workers=given.workers, seconds=60 * given.minutes - AROUND, keep=save, **options
        )
    print(table(found))
    return any("error" in row for kind in ("networks", "metrics") for row in found[kind].values())


if __name__ == "__main__":
    raise SystemExit(main())

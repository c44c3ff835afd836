"""Cost of scoring and training with AHIQ, relative to the released code's way. Prints ratios of one run.

python benchmarks/ahiq.py                       scoring 2 crops of a 288x288 pair on the CPU
python benchmarks/ahiq.py --crops 20            the test protocol's 20
python benchmarks/ahiq.py --train               also one training step of one pair, and what it keeps for backward

The released code's way: the whole ViT-B/8 and the whole ResNet50, crop by crop, first the reference, then the distorted
image, offsets for each of the two, torchvision's deformable convolution; in training, both backbones are in the graph.
Its timm, 0.5.4, writes attention out, where today's fuses it: both are measured. Weights are random unless
--checkpoint gives the authors' file: time and memory do not depend on them, the drift of bf16 does. Peak memory is
what a run adds to the process, read from /proc (Linux only). The variants take turns, and the fastest turn of each
counts: on a shared machine, ratios are good to about a tenth.
"""

import argparse
import ctypes
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d

from iqa_lib.models.ahiq import AHIQ, VIT_BLOCKS
from iqa_lib.views import crop_places

CROP, SIDE, MIB = 224, 288, 2**20


class Released:
    """Scores a pair in the released code's way, with the weights of `model`."""

    def __init__(self, model: AHIQ, *, fused: bool):
        self.model, self.fusion = model, model.deform_net
        self.cnn, self.vit = (_whole(backbone) for backbone in model.backbone.values())
        for block in self.vit.blocks:
            block.attn.fused_attn = fused

    def __call__(self, reference: Tensor, distorted: Tensor) -> Tensor:
        return torch.cat([self._crop(r[None], d[None]) for r, d in zip(reference, distorted, strict=True)])

    def _crop(self, reference: Tensor, distorted: Tensor) -> Tensor:
        (cnn_r, vit_r), (cnn_d, vit_d) = self._maps(reference), self._maps(distorted)
        fused = []
        for cnn, vit in ((cnn_r, vit_r), (cnn_d, vit_d)):
            offsets = self.fusion.conv_offset(F.interpolate(vit_r, size=cnn.shape[-2:], mode="nearest"))
            sampled = DeformConv2d.forward(self.fusion.deform, cnn, offsets)
            fused.append(torch.cat([vit, self.fusion.conv1(sampled)], dim=1))
        return self.model.regressor(torch.cat(fused))[0]

    def _maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = (image - 0.5) / 0.5
        cnn = torch.cat(_outputs(self.cnn, list(self.cnn.layer1), x), dim=1)
        tokens = torch.cat(_outputs(self.vit, list(self.vit.blocks[:VIT_BLOCKS]), x), dim=2)[:, 1:]  # (1, h * w, 3840)
        return cnn, tokens.mT.unflatten(2, self.vit.patch_embed.grid_size)


def _whole(backbone: nn.Module) -> nn.Module:
    """The uncut network of a backbone, with the backbone's weights where it has them."""
    net = timm.create_model(backbone.weights.network).eval()
    net.load_state_dict(backbone.net.model.state_dict(), strict=False)
    return net


def _outputs(net: nn.Module, modules: list[nn.Module], x: Tensor) -> list[Tensor]:
    """Outputs of `modules` while the whole `net` runs."""
    outputs: list[Tensor] = []
    hooks = [module.register_forward_hook(lambda _, __, output: outputs.append(output)) for module in modules]
    net(x)
    for hook in hooks:
        hook.remove()
    return outputs


def in_batches(model: AHIQ, max_batch: int, precision: str) -> Callable[[Tensor, Tensor], Tensor]:
    """A function that scores crops in our way."""

    def score(reference: Tensor, distorted: Tensor) -> Tensor:
        parts = zip(reference.split(max_batch), distorted.split(max_batch), strict=True)
        with torch.autocast(reference.device.type, torch.bfloat16, enabled=precision == "bf16"):
            return torch.cat([model(*part) for part in parts])

    return score


def multiply_adds(model: AHIQ, reference: Tensor, distorted: Tensor) -> int:
    """Multiply-adds of scoring one pair: matrix products and convolutions of all layers, and attention."""
    counts = []

    def count(module: nn.Module, _, output: Tensor) -> None:
        counts.append(output.numel() * module.weight[0].numel())

    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d | DeformConv2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    model(reference, distorted)
    for hook in hooks:
        hook.remove()
    fusion, vit = model.deform_net, model.backbone["vit"].net.model
    tokens = (CROP // model.patch) ** 2 + 1
    attention = 2 * len(reference) * len(vit.blocks) * 2 * tokens**2 * vit.embed_dim
    offsets = len(reference) * fusion.conv_offset.weight.numel() * (CROP // model.patch) ** 2  # no call of the layer
    return sum(counts) + attention + offsets


def matmul_rate(dtype: torch.dtype, side: int = 2048) -> float:
    """Multiply-adds a second in square matrix products of this machine."""
    x = torch.rand(side, side, dtype=dtype)
    return side**3 / min(seconds(lambda: x @ x) for _ in range(8))


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def added_memory(call: Callable[[], object]) -> float:
    """MiB that a call adds to the peak of the process's resident set; NaN without /proc."""
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status(status, "VmRSS")
    call()
    return (_status(status, "VmHWM") - before) / 1024


def _status(file: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(name))


def kept_for_backward(call: Callable[[], object]) -> float:
    """MiB of tensors, without parameters, that a forward pass keeps for the backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = call()
    del output
    return sum(kept.values()) / MIB


def liven(model: AHIQ) -> None:
    """Initialise the heads so that layers keep the spread of their inputs, and biases do not hide the drift."""
    for layer in (*model.deform_net.modules(), *model.regressor.modules()):
        if isinstance(layer, nn.Conv2d | DeformConv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            nn.init.zeros_(layer.bias)


def pair(crops: int) -> tuple[Tensor, Tensor]:
    """Random crops of a smooth random image, and of it with noise."""
    torch.manual_seed(0)
    reference = F.interpolate(torch.rand(1, 3, 36, 36), size=SIDE, mode="bicubic").clamp(0, 1)[0]
    distorted = (reference + 0.1 * torch.randn_like(reference)).clamp(0, 1)
    places = crop_places("random", SIDE, SIDE, CROP, crops)
    return tuple(torch.stack([x[:, i : i + CROP, j : j + CROP] for i, j in places]) for x in (reference, distorted))


@torch.inference_mode()
def scoring(model: AHIQ, crops: int, batches: list[int], repeats: int) -> None:
    reference, distorted = pair(crops)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    work = multiply_adds(model, reference[:1], distorted[:1])
    ways = {
        ("as released", "fp32"): Released(model, fused=False),
        ("same, attention fused", "fp32"): Released(model, fused=True),
    }
    ways |= {
        (f"ours, max_batch {size}", precision): in_batches(model, size, precision)
        for precision in dtypes
        for size in batches
    }
    scores = {way: call(reference, distorted) for way, call in ways.items()}
    times, rates = {way: [] for way in ways}, {precision: [] for precision in dtypes}
    for _ in range(repeats):
        for precision, dtype in dtypes.items():
            rates[precision].append(matmul_rate(dtype))
        for way, call in ways.items():
            times[way].append(seconds(lambda call=call: call(reference, distorted)) / crops)
    memory = {way: added_memory(lambda call=call: call(reference, distorted)) for way, call in ways.items()}

    rates = {precision: max(measured) for precision, measured in rates.items()}
    print(f"{crops} crops of a {SIDE}x{SIDE} pair, ViT-B/8 and ResNet50, {torch.get_num_threads()} CPU threads")
    print(f"ours takes {work / 1e9:.0f} G multiply-adds a crop; matrix products run at G a second: ", end="")
    print(", ".join(f"{precision} {rate / 1e9:.0f}" for precision, rate in rates.items()))
    print(f"{'':26} {'s a crop':>8} {'ratio':>6} {'to fused':>9} {'to its products':>16} {'peak MiB added':>15}")
    took = {way: min(measured) for way, measured in times.items()}
    released, fused = (took[name, "fp32"] for name in ("as released", "same, attention fused"))
    for (name, precision), time_ in took.items():
        floor = f"{time_ * rates[precision] / work:.2f}" if name.startswith("ours") else ""
        ratios = f"{time_ / released:6.2f} {time_ / fused:9.2f} {floor:>16}"
        print(f"{name:21} {precision} {time_:8.2f} {ratios} {memory[name, precision]:15.0f}")

    ours, exact = scores[f"ours, max_batch {batches[-1]}", "fp32"], scores["as released", "fp32"]
    drift = scores[f"ours, max_batch {batches[-1]}", "bf16"] - ours
    print(
        f"largest difference of a crop's score: ours in fp32 from the released way {(ours - exact).abs().max():.1e}, ",
        end="",
    )
    print(f"bf16 from fp32 {drift.abs().max():.1e}, of their mean over crops {drift.mean().abs():.1e}")
    print(f"(the scores are between {ours.min():.4f} and {ours.max():.4f})")


def training_step(model: AHIQ) -> None:
    reference, distorted = pair(1)
    released = Released(model, fused=False)
    print("one training step of one pair, fp32: seconds, MiB of tensors kept for backward")
    rows = {"as released": released, "ours": model.train()}
    figures = {}
    for name, call in rows.items():
        kept = kept_for_backward(lambda call=call: call(reference, distorted))
        took = seconds(lambda call=call: call(reference, distorted).sum().backward())
        figures[name] = took, kept
    for name, (took, kept) in figures.items():
        whole = figures["as released"]
        print(f"  {name:12} {took:6.2f} s {took / whole[0]:5.2f}   {kept:7.0f} MiB {kept / whole[1]:5.2f}")
    model.eval()
    with torch.no_grad():
        features = model.extract(reference), model.extract(distorted)
    kept = kept_for_backward(lambda: model(*features))
    print(f"  ours from kept features, no backbone run at all: {kept:.0f} MiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crops", type=int, default=2, help="crops to score")
    parser.add_argument("--max-batch", type=int, nargs="+", default=[1, 2], help="crops in one forward pass")
    parser.add_argument("--train", action="store_true", help="also time a training step on the CPU")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each way; the fastest counts")
    parser.add_argument("--checkpoint", type=Path, help="the authors' checkpoint, with the backbones' real weights")
    arguments = parser.parse_args()
    if arguments.checkpoint:
        ahiq = AHIQ.from_author_checkpoint(arguments.checkpoint).eval()
    else:
        torch.manual_seed(0)
        ahiq = AHIQ(cnn_weights="random", vit_weights="random").eval()
        liven(ahiq)
    scoring(ahiq, arguments.crops, arguments.max_batch, arguments.repeats)
    if arguments.train:
        training_step(ahiq)

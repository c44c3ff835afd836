"""What IQA-TMFM costs, against the way of the code that its authors released. Prints ratios of one run.

python benchmarks/iqa_tmfm.py                                   32 crops of 224x224; a step of 4 triplets x 4 crops
python benchmarks/iqa_tmfm.py --crops 8 --batch 1 --repeats 3   on a slow machine

The released way: the whole ConvNeXt-Tiny called for each of the three images; attention written out over all tokens
of encoder and decoder, a mask a head; every crop of the triplet at once; in training, gradients of the frozen backbone
that no optimizer takes. Ours computes the same function with the same weights (random: no cost depends on them).

Seconds are the least of several rounds in which the variants take turns: of processor time on a CPU, which a busy
machine distorts less than the clock on the wall, and of the clock on a GPU.
"""

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iqa_lib.devices import best_device
from iqa_lib.losses import preference_bce
from iqa_lib.models import IQATMFM
from iqa_lib.models.iqa_tmfm import Attention, FeedForward, ScaleTransformer
from iqa_lib.training import peak_memory

PRECISIONS = ("fp32", "bf16")


class Released(nn.Module):
    """The function of `IQATMFM(preset="official_code")`, computed as the released code does."""

    def __init__(self, model: IQATMFM):
        super().__init__()
        self.backbone = timm.create_model("convnext_tiny.fb_in1k", pretrained=False)
        self.backbone.load_state_dict(model.backbone.net.model.state_dict(), strict=False)
        head = nn.ModuleDict({"residual": model.residual, "transformers": model.transformers})
        self.head = copy.deepcopy(head)

    def train(self, mode: bool = True) -> "Released":
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, reference: Tensor, a: Tensor, b: Tensor) -> Tensor:
        triplets = len(reference)
        features = [self.whole_backbone(image.flatten(0, 1)) for image in (reference, a, b)]
        logits = []
        for i, (f_r, f_a, f_b) in enumerate(zip(*features, strict=True)):
            residuals = [self.head["residual"][i](x, f_r) for x in (f_a, f_b)]
            logits.append(written_out(self.head["transformers"][i], torch.cat(residuals, dim=1), f_r))
        return torch.stack(logits).mean(0).view(triplets, -1).mean(1)

    def whole_backbone(self, crops: Tensor) -> list[Tensor]:
        maps = [self.backbone.stem((crops - 0.5) / 0.5)]
        for stage in self.backbone.stages:
            maps.append(stage(maps[-1]))
        self.backbone.forward_head(maps[-1])
        return maps[2:4]


def written_out(transformer: ScaleTransformer, residuals: Tensor, reference: Tensor) -> Tensor:
    memory, x = transformer.residual_tokens(residuals), transformer.reference_tokens(reference)
    mask = torch.zeros(
        x.shape[0], x.shape[1], x.shape[1], dtype=torch.bool, device=x.device
    )  # of padding: there is none
    for layer in transformer.encoder:
        memory = layer.norm1(memory + attend(layer.attention, memory, memory, mask))
        memory = layer.norm2(memory + feed_forward(layer.ffn, memory))
    for layer in transformer.decoder:
        x = layer.norm1(x + attend(layer.attention, x, x, mask | torch.ones_like(mask).triu(1)))
        x = layer.norm2(x + attend(layer.cross, x, memory, mask))
        x = layer.norm3(x + feed_forward(layer.ffn, x))
    return transformer.head(x[:, 0]).squeeze(1)


def attend(layer: Attention, queries: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    q, k, v = (
        part(x).unflatten(2, (layer.heads, -1)).transpose(1, 2)
        for part, x in ((layer.query, queries), (layer.key, tokens), (layer.value, tokens))
    )
    scores = (q @ k.mT).mul_(q.shape[-1] ** -0.5)  # (B, heads, N + 1, N + 1)
    scores.masked_fill_(mask.unsqueeze(1).repeat(1, layer.heads, 1, 1), -1e9)
    mixed = layer.dropout(scores.softmax(dim=-1)) @ v
    return layer.dropout(layer.out(mixed.transpose(1, 2).flatten(2)))


def feed_forward(ffn: FeedForward, x: Tensor) -> Tensor:
    widen, _, narrow, dropout = ffn
    x = F.gelu(F.conv1d(x.mT, widen.weight[..., None], widen.bias))
    return dropout(F.conv1d(x, narrow.weight[..., None], narrow.bias).mT)


def seconds(variants: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """The least time of each variant; they take turns."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times = {name: [] for name in variants}
    for _ in range(repeats):
        for name, call in variants.items():
            started = clock()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(clock() - started)
    return {name: min(values) for name, values in times.items()}


def report(title: str, times: dict[str, float], peaks: dict[str, int], target: float) -> None:
    print(title)
    for name, value in times.items():
        way, precision = name.split()
        ratio = value / times[f"released {precision}"]
        goal = f"  expected {target:.2f} or less" if name == "ours fp32" else ""
        print(f"  {way:8s} {precision}  {value:8.3f} s  {ratio:.2f} of released{goal}")
    print(f"  ours bf16 is {times['ours bf16'] / times['released fp32']:.2f} of released fp32")
    print("  peak memory " + ", ".join(f"{way} {peak / 2**30:.2f} GiB" for way, peak in peaks.items()))


def peaks_of(variants: dict[str, Callable[[], object]], device: torch.device) -> dict[str, int]:
    """Peak memory after the first call of each, ours first: on a CPU it is the process's, and never falls."""
    peaks = {}
    for way in ("ours", "released"):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        variants[f"{way} fp32"]()
        peaks[way] = peak_memory(device)
    return peaks


def networks(device: torch.device) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    ours = IQATMFM(preset="official_code", weights="random")
    memory_format = torch.channels_last if device.type == "cuda" else torch.preserve_format
    return {"released": Released(ours).to(device), "ours": ours.to(device, memory_format=memory_format)}


def score(crops: int, max_batch: int, repeats: int, device: torch.device) -> None:
    """One triplet in `crops` crops: all at once, or at most `max_batch` at a time."""
    nets = {name: net.eval() for name, net in networks(device).items()}
    images = torch.rand(3, 1, crops, 3, 224, 224, device=device)

    def logit(way: str, precision: str) -> Tensor:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            if way == "released":
                return nets[way](*images)
            parts = [nets[way](*part) for part in images[:, 0].split(max_batch, dim=1)]
            return torch.cat(parts).mean(0, keepdim=True)

    variants = {f"{way} {precision}": partial(logit, way, precision) for precision in PRECISIONS for way in nets}
    peaks = peaks_of(variants, device)
    apart = (variants["ours fp32"]() - variants["released fp32"]()).abs().item()
    assert apart < 1e-4, f"the two ways are {apart:.2g} apart"
    title = f"scoring a triplet in {crops} crops, ours at most {max_batch} at a time, on {device}; {apart:.1g} apart"
    report(title, seconds(variants, repeats, device), peaks, 1 / 2)


def train(batch: int, crops: int, repeats: int, device: torch.device) -> None:
    """Forward, backward and update of `batch` triplets with `crops` crops each."""
    nets = {name: net.train() for name, net in networks(device).items()}
    optimizers = {
        name: torch.optim.Adam([p for p in (net.head if name == "released" else net).parameters() if p.requires_grad])
        for name, net in nets.items()
    }
    images = torch.rand(3, batch, crops, 3, 224, 224, device=device)
    labels = torch.randint(2, (batch,), device=device).float()

    def step(way: str, precision: str) -> None:
        optimizers[way].zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = nets[way](*images)
        preference_bce(logits.float(), labels).backward()
        optimizers[way].step()

    variants = {f"{way} {precision}": partial(step, way, precision) for precision in PRECISIONS for way in nets}
    peaks = peaks_of(variants, device)
    title = f"a training step of {batch} triplets x {crops} crops on {device}"
    report(title, seconds(variants, repeats, device), peaks, 1 / 3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=("score", "train"), help="measure this alone")
    parser.add_argument("--crops", type=int, default=32, help="crops of the triplet that is scored")
    parser.add_argument("--max-batch", type=int, help="crops that ours scores at a time; 1 on a CPU, 16 on a GPU")
    parser.add_argument("--batch", type=int, default=4, help="triplets in a training step")
    parser.add_argument("--train-crops", type=int, default=4, help="crops of each of them")
    parser.add_argument("--repeats", type=int, default=5, help="rounds to take the least of")
    arguments = parser.parse_args()
    device = best_device()
    torch.backends.cudnn.allow_tf32 = False
    if arguments.part != "train":
        max_batch = arguments.max_batch or (1 if device.type == "cpu" else 16)
        score(arguments.crops, max_batch, arguments.repeats, device)
    if arguments.part != "score":
        train(arguments.batch, arguments.train_crops, arguments.repeats, device)

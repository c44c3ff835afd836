"""ST-LPIPS: LPIPS on networks that tolerate small shifts, with trained weights from an installed package.

Paper: Ghildyal and Liu, "Shift-tolerant Perceptual Similarity Metric", ECCV 2022, https://arxiv.org/abs/2207.13686.
Implements the released metric on AlexNet and VGG16. Every strided max-pool is one of stride 1, followed by a 3x3
binomial blur of stride 2 with reflection padding of 2; AlexNet's first convolution has stride 1, and such a blur before
its ReLU. The taps, unit length over channels, learnt channel weights and means over space are those of LPIPS.

Backbones and channel weights, trained on BAPPS, are two files of the distribution `stlpips-pytorch` (BSD-2), read as
data: none of its code is imported. Deviations: none. The paper's other variants and backbones are left out.
"""

from collections import OrderedDict
from functools import partial
from itertools import count, pairwise
from pathlib import Path

import torch
from lpips import NetLinLayer, ScalingLayer
from torch import Tensor, nn
from torch.nn import functional as F

from iqa_lib.checks import check_choice
from iqa_lib.images import check_images
from iqa_lib.models.rebuild import keeps_options
from iqa_lib.weights import load_pretrained

LIMITS = {"alex": (21, 7_000_000), "vgg": (18, 4_000_000)}
"""The shortest side that each network takes, and the most pixels within 8 GiB."""
CHANNELS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}


class Blur(nn.Module):
    """Halves a map by a 3x3 binomial filter; the reflected border of 2 makes it one larger than half, rounded up."""

    def __init__(self, channels: int):
        super().__init__()
        line = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("filt", torch.outer(line, line).repeat(channels, 1, 1, 1))  # (C, 1, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), self.filt, stride=2, groups=x.shape[1])


class STNetwork(nn.Module):
    """Backbone, input scaling and channel weights of ST-LPIPS, under the names of the released files.

    `network(features, distorted)` is the distance `(B,)` of images in [0, 1] from references, of which it takes what
    `extract` returns. New ones have a random backbone, and weigh all channels by 1.
    """

    def __init__(self, net: str):
        super().__init__()
        self.scaling_layer, number = ScalingLayer(), count()
        stages = [nn.Sequential(OrderedDict((str(next(number)), layer) for layer in stage)) for stage in _stages(net)]
        self.net = nn.Sequential(OrderedDict((f"slice{i}", stage) for i, stage in enumerate(stages, 1)))
        for i, channels in enumerate(CHANNELS[net]):
            self.add_module(f"lin{i}", NetLinLayer(channels, use_dropout=True))
            nn.init.ones_(self.get_submodule(f"lin{i}.model.1").weight)

    def extract(self, images: Tensor) -> list[Tensor]:
        maps = [self.scaling_layer(2 * images - 1)]
        for stage in self.net:
            maps.append(stage(maps[-1]))
        return maps[1:]

    @property
    def lins(self) -> list[nn.Module]:
        """The channel weights, a 1x1 convolution a layer."""
        return [self.get_submodule(f"lin{i}") for i in range(len(self.net))]

    def distances(self, reference: list[Tensor], distorted: list[Tensor]) -> list[Tensor]:
        """Distance at every place `(B, 1, h, w)`, one map a layer, from what `extract` returns."""
        layers = zip(self.lins, reference, distorted, strict=True)
        return [lin((_unit(r) - _unit(d)) ** 2) for lin, r, d in layers]

    def forward(self, reference: list[Tensor], distorted: Tensor) -> Tensor:
        return _pooled(self.distances(reference, self.extract(distorted)))


@keeps_options
class STLPIPS(nn.Module):
    """Shift-tolerant LPIPS; `net` is `"alex"` or `"vgg"`.

    `weights` are `"packaged"`, the path of a file in their layout, or `"random"`: untrained, all channels weighed by 1.

    `model(reference, distorted)` takes images `(B, 3, H, W)` in [0, 1], or what `extract` returns for each, and
    returns distances `(B,)`: lower is better, 0 for equal images, symmetric. With `return_maps=True` also a dict:
    `distance_0..4` `(B, 1, h, w)`, whose means add up to the distance. It is frozen; the attribute `weights` is what
    was loaded, an `iqa_lib.weights.Weights`.
    """

    higher_is_better = False

    def __init__(self, *, net: str = "alex", weights: Path | str = "packaged"):
        super().__init__()
        check_choice(LIMITS, net=net)
        self.network, self.weights = load_pretrained(f"st-lpips-{net}", partial(STNetwork, net), weights)
        self.min_size, self.max_pixels = LIMITS[net]

    def train(self, mode: bool = True) -> "STLPIPS":
        """Stays in eval mode: no dropout."""
        return super().train(False)

    def extract(self, images: Tensor) -> list[Tensor]:
        """The backbone's feature maps of images `(B, 3, H, W)` in [0, 1], one a layer, shallow to deep."""
        return self.network.extract(images)

    def forward(self, reference, distorted, *, return_maps: bool = False):
        if isinstance(reference, Tensor):
            check_images(reference, distorted, min_size=self.min_size, max_pixels=self.max_pixels)
            reference, distorted = self.extract(reference), self.extract(distorted)
        maps = self.network.distances(reference, distorted)
        distance = _pooled(maps)  # (B,)
        return (distance, {f"distance_{m}": x for m, x in enumerate(maps)}) if return_maps else distance


def _stages(net: str) -> list[list[nn.Module]]:
    """The layers up to each tap."""
    if net == "alex":
        return [
            [nn.Conv2d(3, 64, 11, padding=2), Blur(64), nn.ReLU(inplace=True)],
            [nn.MaxPool2d(3, 1), Blur(64), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True)],
            [nn.MaxPool2d(3, 1), Blur(192), *_convolutions(192, 384)],
            _convolutions(384, 256),
            _convolutions(256, 256),
        ]
    deeper = (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512)
    return [
        _convolutions(3, 64, 64),
        *([nn.MaxPool2d(2, 1), Blur(widths[0]), *_convolutions(*widths)] for widths in deeper),
    ]


def _convolutions(*widths: int) -> list[nn.Module]:
    layers = ((nn.Conv2d(a, b, 3, padding=1), nn.ReLU(inplace=True)) for a, b in pairwise(widths))
    return [layer for pair in layers for layer in pair]


def _unit(x: Tensor) -> Tensor:
    """Features divided by their length over channels."""
    return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10)


def _pooled(maps: list[Tensor]) -> Tensor:
    return sum(x.mean(dim=(1, 2, 3)) for x in maps)  # (B,)

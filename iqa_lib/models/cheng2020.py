"""Cheng2020-anchor: the encoder of a learned image codec as a frozen feature extractor (a row of IQA-TMFM's Table 2).

Paper: "Learned Image Compression with Discretized Gaussian Mixture Likelihoods and Attention Modules", CVPR 2020,
arXiv 2001.01568, https://arxiv.org/abs/2001.01568; its analysis transform g_a without the attention modules. GDN is of
"Density Modeling of Images Using a Generalized Normalization Transformation", arXiv 1511.06281.

Written without the library CompressAI, in its key layout: the weights it released (optimised for mean squared error,
one file a quality) load as they are, also with `downsample`, its former name for `skip`.
1,857,664 parameters with 128 channels (qualities 1 to 3), 4,175,040 with 192 (4 to 6).
"""

from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iqa_lib.backbones import graph_for
from iqa_lib.checks import check_choice
from iqa_lib.weights import find_weights, load_complete, read_checkpoint, renamed

WIDTHS = {1: 128, 2: 128, 3: 128, 4: 192, 5: 192, 6: 192}
"""Channels for each quality: the higher, the more bits the codec spends."""
_PEDESTAL = 2.0**-36


class NonNegative(nn.Module):
    """From what GDN stores to what it computes with: `max(stored, bound)^2 - pedestal`, at least `minimum`."""

    def __init__(self, minimum: float):
        super().__init__()
        self.register_buffer("pedestal", torch.tensor([_PEDESTAL]))
        self.lower_bound = nn.Module()  # CompressAI's key is `lower_bound.bound`
        self.lower_bound.register_buffer("bound", torch.tensor([(minimum + _PEDESTAL) ** 0.5]))

    def forward(self, stored: Tensor) -> Tensor:
        return torch.maximum(stored, self.lower_bound.bound).square() - self.pedestal


class GDN(nn.Module):
    """Generalised divisive normalisation: `y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2)` at each position."""

    def __init__(self, channels: int):
        super().__init__()
        self.beta = nn.Parameter((torch.ones(channels) + _PEDESTAL).sqrt())
        self.gamma = nn.Parameter((0.1 * torch.eye(channels) + _PEDESTAL).sqrt())
        self.beta_reparam = NonNegative(1e-6)
        self.gamma_reparam = NonNegative(0.0)

    def forward(self, x: Tensor) -> Tensor:
        beta, gamma = self.beta_reparam(self.beta), self.gamma_reparam(self.gamma)  # (C,), (C, C)
        return x * F.conv2d(x.square(), gamma[:, :, None, None], beta).rsqrt()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, a leaky ReLU after each, and the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x), 0.01)), 0.01)


class StridedResidualBlock(nn.Module):
    """Half the size: a 3x3 with stride 2, leaky ReLU, a 3x3, GDN; beside it a 1x1 with stride 2."""

    def __init__(self, inputs: int, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.gdn = GDN(channels)
        self.skip = nn.Conv2d(inputs, channels, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.gdn(self.conv2(F.leaky_relu(self.conv1(x), 0.01)))


class Cheng2020Anchor(nn.Module):
    """Feature maps of g_a at strides 8 and 16; takes the place of a frozen `iqa_lib.backbones.Backbone`.

    `quality`, 1 to 6, is that of the released codec; for `weights` see `iqa_lib.weights.find_weights`. A file has
    CompressAI's layout: of the whole codec or of g_a, bare or under `state_dict`; it must be of this quality.
    Attributes and errors as `Backbone`; `frozen` is always true.
    """

    strides = (8, 16)
    frozen = True

    def __init__(self, *, quality: int = 6, weights: str | Path = "auto"):
        super().__init__()
        check_choice(WIDTHS, quality=quality)
        file, self.weights = find_weights(f"cheng2020-anchor-{quality}", weights)
        width = WIDTHS[quality]
        self.channels = (width, width)
        pairs = [(StridedResidualBlock(inputs, width), ResidualBlock(width)) for inputs in (3, width, width)]
        self.g_a = nn.Sequential(*chain(*pairs), nn.Conv2d(width, width, 3, stride=2, padding=1))
        if file:
            state = renamed(read_checkpoint(file, "state_dict"), [(r"\.downsample\.", ".skip.")])
            load_complete(self, {key: tensor for key, tensor in state.items() if key.startswith("g_a.")}, file)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Cheng2020Anchor":
        return super().train(False)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, strides={self.strides}"

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images `(B, 3, H, W)` in [0, 1] to the two maps, sides rounded up to whole strides."""
        with graph_for(images, self.frozen):
            eighth = self.g_a[:-1](images)  # (B, N, H / 8, W / 8)
            return [eighth, self.g_a[-1](eighth)]  # the last (B, N, H / 16, W / 16)

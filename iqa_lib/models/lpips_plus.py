"""LPIPS+: LPIPS weighted in space by what the reference shows.

Paper: Chen et al., "TOPIQ: A Top-Down Approach From Semantics to Distortions for Image Quality Assessment", TIP 2024,
https://arxiv.org/abs/2308.03060, equation 1. Networks and linear layers are the `lpips` package's; nothing is trained.
The semantic weight is the reference's feature map before it is normalised, resized bilinearly to each layer; equation 1
sums over its channels in numerator and denominator, so their mean is resized here, once a layer.
"""

import warnings
from functools import partial
from pathlib import Path

import lpips
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iqa_lib.checks import check_choice
from iqa_lib.images import check_images
from iqa_lib.models import st_lpips
from iqa_lib.models.rebuild import keeps_options
from iqa_lib.weights import load_pretrained

LIMITS = {"alex": (31, 24_000_000), "vgg": (16, 2_500_000), "squeeze": (17, 8_000_000)}
LIMITS |= {f"st-{net}": limits for net, limits in st_lpips.LIMITS.items()}
"""The shortest side that each network takes, and the most pixels within 8 GiB."""
NETS = tuple(LIMITS)


def build_lpips(net: str) -> lpips.LPIPS:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torchvision")  # lpips uses an old form of torchvision's arguments
        return lpips.LPIPS(net=net, pnet_rand=True, verbose=False)


@keeps_options
class LPIPSPlus(nn.Module):
    """LPIPS with a semantically weighted mean over space: `sum_m sum(Resize(F_i) * S_m) / sum(Resize(F_i))` (eq. 1).

    S_m are the distances in layer m, F_i the features of the reference in layer i: `semantic_layer`, counted from 0, or
    None for plain LPIPS, the unweighted mean. `net` is `"alex"`, `"vgg"` (5 layers) or `"squeeze"` (7); or `"st-alex"`
    or `"st-vgg"`, the networks of ST-LPIPS, whose weights come in a package (not in the paper). For `weights` see
    `iqa_lib.weights.load_pretrained`.

    `model(reference, distorted)` takes images `(B, 3, H, W)` in [0, 1], or what `extract` returns for each, and
    returns distances `(B,)`: lower is better, 0 for equal images. Plain LPIPS is symmetric, LPIPS+ is not. With
    `return_maps=True` also a dict: `distance_0..` `(B, 1, h_m, w_m)`, the S_m, and `activation_0..` of the same sizes,
    the reference's features averaged over channels; the semantic weight is `activation_i`. The attribute `weights` is
    what was loaded, an `iqa_lib.weights.Weights`.
    """

    higher_is_better = False

    def __init__(self, *, net: str = "alex", semantic_layer: int | None = 2, weights: Path | str = "auto"):
        super().__init__()
        check_choice(NETS, net=net)
        prefix, kind = ("st-", net[3:]) if net.startswith("st-") else ("", net)
        build = partial(st_lpips.STNetwork if prefix else build_lpips, kind)
        self.network, self.weights = load_pretrained(f"{prefix}lpips-{kind}", build, weights)
        self.layers = len(self.network.lins)
        check_choice((None, *range(self.layers)), semantic_layer=semantic_layer)
        self.semantic_layer = semantic_layer
        self.min_size, self.max_pixels = LIMITS[net]

    def train(self, mode: bool = True) -> "LPIPSPlus":
        """Stays in eval mode: no dropout."""
        return super().train(False)

    def extract(self, images: Tensor) -> list[Tensor]:
        """The backbone's feature maps of images `(B, 3, H, W)` in [0, 1], one a layer, shallow to deep."""
        if isinstance(self.network, st_lpips.STNetwork):
            return self.network.extract(images)
        return list(self.network.net(self.network.scaling_layer(2 * images - 1)))

    @torch.inference_mode()
    def similarities(self, reference: Tensor, distorted: Tensor) -> list[Tensor]:
        """`1 - S_m` of two images `(3, H, W)`, `(1, 1, h_m, w_m)` a layer, shallow to deep: 1 where they are alike."""
        _, maps = self(reference[None], distorted[None], return_maps=True)
        return [1 - maps[f"distance_{m}"] for m in range(self.layers)]

    def forward(self, reference, distorted, *, return_maps: bool = False):
        if isinstance(reference, Tensor):
            check_images(reference, distorted, min_size=self.min_size, max_pixels=self.max_pixels)
            reference, distorted = self.extract(reference), self.extract(distorted)
        maps = {}
        for m, (lin, r, d) in enumerate(zip(self.network.lins, reference, distorted, strict=True)):
            maps[f"distance_{m}"] = lin((lpips.normalize_tensor(r) - lpips.normalize_tensor(d)) ** 2)  # (B, 1, h, w)
            maps[f"activation_{m}"] = r.mean(dim=1, keepdim=True)  # (B, 1, h, w)
        distance = self._pooled(maps, self.semantic_layer)  # (B,)
        return (distance, maps) if return_maps else distance

    def by_semantic_layer(self, reference, distorted) -> Tensor:
        """Distances under every semantic layer, from one pass: `(B, 1 + layers)`, the first plain LPIPS."""
        _, maps = self(reference, distorted, return_maps=True)
        return torch.stack([self._pooled(maps, layer) for layer in (None, *range(self.layers))], dim=1)

    def preference_by_semantic_layer(self, reference, a, b) -> Tensor:
        """Logits of B being the closer one, d(r, a) - d(r, b), under every semantic layer: `(B, 1 + layers)`."""
        return self.by_semantic_layer(reference, a) - self.by_semantic_layer(reference, b)

    def _pooled(self, maps: dict[str, Tensor], layer: int | None) -> Tensor:
        """The sum over layers m of the mean of S_m, weighted by the reference's features in `layer`."""
        total = 0
        for m in range(self.layers):
            distances = maps[f"distance_{m}"]
            if layer is None:
                total = total + distances.mean(dim=(1, 2, 3))
            else:
                size = distances.shape[2:]
                weight = F.interpolate(maps[f"activation_{layer}"], size=size, mode="bilinear", align_corners=False)
                total = total + (weight * distances).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3))
        return total  # (B,)

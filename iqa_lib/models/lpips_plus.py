"""LPIPS+: LPIPS whose places count by what the reference shows there.

Paper: Chen et al., "TOPIQ: A Top-Down Approach From Semantics to Distortions for Image Quality Assessment", TIP 2024,
https://arxiv.org/abs/2308.03060, equation 1. Networks, linear layers and their weights are the `lpips` package's.

Nothing is trained. The semantic weight is the reference's feature map before it is normalised, resized bilinearly to
each layer; equation 1 sums over its channels above and below the line, so their sum is resized here, once a layer.
"""

from pathlib import Path

import lpips
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iqa_lib.baselines import BASELINES, load_network
from iqa_lib.images import check_images
from iqa_lib.models.rebuild import keeps_options

NETS = ("alex", "vgg", "squeeze")


@keeps_options
class LPIPSPlus(nn.Module):
    """LPIPS with a semantically weighted mean over space (eq. 1).

    `sum_m sum(Resize(F_i) * S_m) / sum(Resize(F_i))`, with S_m the distances in layer m and F_i the features of
    the reference in layer i.

    Args:
        net: `"alex"`, `"vgg"` (5 layers) or `"squeeze"` (7).
        semantic_layer: The layer i, counted from 0; None is plain LPIPS, the unweighted mean.
        weights: `"auto"` (torch.hub's cache, or fetched into it), `"random"`, or the path of a file with the complete
            network or with torchvision's backbone.

    `model(reference, distorted)` takes images `(B, 3, H, W)` in [0, 1], or for both what `extract` made of them, and
    returns distances `(B,)`: lower is better, 0 for equal images. The reference comes first, as in the lpips package;
    plain LPIPS is symmetric, LPIPS+ is not. With `return_maps=True` also a dict: `distance_0..` `(B, 1, h_m, w_m)`, the
    S_m, and `activation_0..` of the same sizes, the reference's features averaged over channels; the semantic weight is
    `activation_i`.

    Attributes:
        weights: What was loaded, an `iqa_lib.backbones.Weights`.

    Raises:
        ValueError: An unknown option; or images of wrong rank, dtype, range or size.
        WeightsError: The weights are not to be had.
    """

    higher_is_better = False

    def __init__(self, *, net: str = "alex", semantic_layer: int | None = 2, weights: Path | str = "auto"):
        super().__init__()
        if net not in NETS:
            raise ValueError(f"net: got {net!r}, expected one of {NETS}")
        self.network, self.weights = load_network(f"lpips-{net}", weights=None if weights == "auto" else weights)
        if semantic_layer not in (None, *range(self.network.L)):
            raise ValueError(
                f"semantic_layer: got {semantic_layer!r}, expected None or 0 to {self.network.L - 1} for net {net!r}"
            )
        self.semantic_layer = semantic_layer
        limits = BASELINES[f"lpips-{net}"]
        self.min_size, self.max_pixels = limits.min_size, limits.max_pixels

    def train(self, mode: bool = True) -> "LPIPSPlus":
        """Stays in eval mode, in which the linear layers drop nothing."""
        return super().train(False)

    def extract(self, images: Tensor) -> list[Tensor]:
        """The backbone's feature maps of images `(B, 3, H, W)` in [0, 1], one a layer, shallow to deep."""
        return list(self.network.net(self.network.scaling_layer(2 * images - 1)))

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
        return torch.stack([self._pooled(maps, layer) for layer in (None, *range(self.network.L))], dim=1)

    def _pooled(self, maps: dict[str, Tensor], layer: int | None) -> Tensor:
        """The sum over layers m of the mean of S_m, weighted by the reference's features in `layer`."""
        total = 0
        for m in range(self.network.L):
            distances = maps[f"distance_{m}"]
            if layer is None:
                total = total + distances.mean(dim=(1, 2, 3))
            else:
                size = distances.shape[2:]
                weight = F.interpolate(maps[f"activation_{layer}"], size=size, mode="bilinear", align_corners=False)
                total = total + (weight * distances).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3))
        return total  # (B,)

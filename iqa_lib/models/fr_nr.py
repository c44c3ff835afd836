"""FR+NR: full-reference feature differences, pretrained and learnt, plus no-reference features of the distorted image.

Paper: "Can No-reference features help in Full-reference image quality estimation?", arXiv 2203.00845,
https://arxiv.org/abs/2203.00845. No code was released. With `phi_s` an encoder's map on scale s (strides 2, 4, 8, 16):

    d_s = GAP(|phi_s(distorted) - phi_s(reference)|)    FRP: a frozen ImageNet encoder; FRNP: a learnt one
    f_s = GAP(phi_s(distorted))                         NR: another learnt one
    score = FC([d_FRP, d_FRNP, f_NR])                   three layers

The final model has Inception-v3 in all three branches, Table 2 (branches) VGG16. What the paper leaves open was decided
here and cannot be checked against the authors:

- Taps: the last maps of each stride. VGG16 (without BatchNorm): the ReLU before each of pools 2 to 5, 128 to 512
  channels; `vgg_taps="post_pool"` is the other reading, the outputs of pools 1 to 4, 64 to 512 channels. ResNet50: the
  stem's ReLU, then stages 1 to 3. Inception-v3: Conv2d_2b, Conv2d_4a, Mixed_5d, Mixed_6e, whose unpadded convolutions
  make maps a little smaller than H / stride; its auxiliary head is not built.
- Weights: torchvision's first ImageNet weights (timm's `tv_in1k`), whose statistics normalise the images in all
  branches (Inception-v3: 0.5 and 0.5).
- Frozen includes the BatchNorm statistics; `freeze_backbone=False` fine-tunes.
- The learnt encoders have timm's random initialisation, and the frozen one's architecture unless `learnt_backbone`
  names another, which the paper does not: without a GPU, only a small one learns in minutes. FRNP sees references and
  distorted images as one batch, so that BatchNorm treats both alike.
- Features are pooled as they are: no normalisation (but see `standardise_by`), no weights for channels or scales.
- Head: 512, 128 and 1 wide, ReLU between, no dropout; linear output on the labels' own scale.
- Images keep their size: no crop, and no resizing to Inception's 299.
- Schedule, epochs and split are the notebook's parameters.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iqa_lib.backbones import Backbone, taps_at
from iqa_lib.checks import check_choice
from iqa_lib.images import check_images
from iqa_lib.models.rebuild import keeps_options

BRANCHES = ("frp", "frnp", "nr")
VGG_TAPS = ("pre_pool", "post_pool")
STRIDES = (2, 4, 8, 16)


def differences(reference: Iterable[Tensor], distorted: Iterable[Tensor]) -> list[Tensor]:
    """`|phi_s(distorted) - phi_s(reference)|`, of maps `(B, C_s, h_s, w_s)` on each scale."""
    return [(d - r).abs() for r, d in zip(reference, distorted, strict=True)]


def global_average(scales: Iterable[Tensor]) -> Tensor:
    """GAP: the mean over positions of maps `(B, C_s, h_s, w_s)`, the scales concatenated, `(B, C)`."""
    return torch.cat([scale.mean(dim=(2, 3)) for scale in scales], dim=1)


class PostPool(Backbone):
    """A VGG whose taps, the ReLUs before its max-pools, are passed through those pools."""

    def __init__(self, name: str, **options):
        super().__init__(name, **options)
        self.strides = tuple(2 * stride for stride in self.strides)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [F.max_pool2d(scale, 2) for scale in super().forward(images)]


class Head(nn.Module):
    """The FC layers from pooled vector to score, each but the last followed by ReLU and dropout."""

    def __init__(self, width: int, hidden: Sequence[int], dropout: float = 0.0):
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(*widths) for widths in pairwise((width, *hidden)))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear((width, *hidden)[-1], 1)

    def forward(self, vector: Tensor) -> Tensor:
        for layer in self.hidden:
            vector = self.dropout(layer(vector).relu())
        return self.out(vector).squeeze(1)  # (B,)

    @torch.no_grad()
    def contributions(self, vector: Tensor) -> Tensor:
        """What each element of the vector adds to the score of the zero vector, `(B, D)`.

        They sum to `head(vector) - head(0)` in eval mode, up to rounding. This is DeepLIFT's rescale rule (arXiv
        1704.02685) with the zero vector as baseline: a ReLU passes its mean slope between the two inputs. With one
        hidden layer these are integrated gradients.
        """
        zero, here, slopes = torch.zeros_like(vector), vector, []
        for layer in self.hidden:
            zero, here = layer(zero), layer(here)
            slope = (here.relu() - zero.relu()) / (here - zero)
            slopes.append(torch.where(here == zero, (here > 0).to(slope), slope))
            zero, here = zero.relu(), here.relu()
        weight = self.out.weight
        for layer, slope in zip(reversed(self.hidden), reversed(slopes), strict=True):
            weight = (weight * slope) @ layer.weight  # (B, width of the layer's input)
        return weight * vector


@keeps_options
class FRNR(nn.Module):
    """The pair network: up to three encoders, differences and activations pooled on four scales, head.

    Args:
        backbone: Full timm tag of a CNN.
        weights: Of the pretrained branch, see `iqa_lib.backbones.Backbone`; the learnt branches start random.
        learnt_backbone: Full timm tag of the learnt branches' CNN; None: as `backbone`.
        branches: Any of `"frp"`, `"frnp"`, `"nr"`, in the order of the vector. A repeated branch has one encoder and
            its features twice: `("frp", "frp")` controls for the head's size.
        taps: Indices of the encoders' stages; by default those with strides 2, 4, 8, 16.
        vgg_taps: `"pre_pool"` or `"post_pool"`, see the module's docstring.
        freeze_backbone: Train nothing of the pretrained branch.
        hidden, dropout: Widths of the head's hidden layers; dropout after each of them.

    Attributes: `backbone`, the pretrained branch's encoder, or None; `channels` of each scale, in the first branch;
    `width`, the length D of the head's vector, all branches' channels; `min_size`, the shortest side of images: 32, or
    43 for Inception-v3.

    `model(reference, distorted)` takes images `(B, 3, H, W)` in [0, 1] and returns scores `(B,)` on the scale of the
    training labels: higher is better. With `return_maps=True` also a dict: for each branch and scale the mean over
    channels of what is pooled, `frp_1..frp_4`, `frnp_1..4`, `nr_1..4` `(B, 1, h_i, w_i)`, and `frp_vector`,
    `frnp_vector`, `nr_vector` `(B, C)`.

    `model(vector)` continues from the vector of `pooled`: with a frozen branch alone, training can start from vectors
    computed once. With that branch alone, either image can also be what `extract` returns for it. With learnt branches
    `model(reference, distorted, vector)` takes the frozen branch's vector, computed once, as a third input.
    Unknown options, and images of wrong rank, dtype, range or size, raise ValueError.
    """

    higher_is_better = True

    def __init__(
        self,
        *,
        backbone: str = "inception_v3.tv_in1k",
        weights: str | Path = "auto",
        learnt_backbone: str | None = None,
        branches: Sequence[str] = BRANCHES,
        taps: Iterable[int] | None = None,
        vgg_taps: str = "pre_pool",
        freeze_backbone: bool = True,
        hidden: Sequence[int] = (512, 128),
        dropout: float = 0.0,
    ):
        super().__init__()
        if not branches or not set(branches) <= set(BRANCHES):
            raise ValueError(f"branches: got {branches!r}, expected one or more of {', '.join(map(repr, BRANCHES))}")
        check_choice(VGG_TAPS, vgg_taps=vgg_taps)
        post_pool = vgg_taps == "post_pool"
        if post_pool and not backbone.startswith("vgg"):
            raise ValueError(f"vgg_taps: got {vgg_taps!r} with backbone {backbone!r}, expected a VGG: use 'pre_pool'")
        self.branches, self.encoders = tuple(branches), nn.ModuleDict()
        self.min_size = 43 if backbone.startswith("inception_v3") else 32
        for branch in dict.fromkeys(branches):
            name = backbone if branch == "frp" else learnt_backbone or backbone
            pooled = post_pool and name == backbone
            at = taps or taps_at(name, [stride // 2 if pooled else stride for stride in STRIDES])
            options = dict(weights=weights, frozen=freeze_backbone) if branch == "frp" else dict(weights="random")
            self.encoders[branch] = (PostPool if pooled else Backbone)(name, taps=at, **options)
        self.channels = self.encoders[branches[0]].channels
        self.width = sum(sum(self.encoders[branch].channels) for branch in branches)
        pretrained = sum(self.backbone.channels) if self.backbone else 0
        self.register_buffer("mean", torch.zeros(pretrained))
        self.register_buffer("std", torch.ones(pretrained))
        self.head = Head(self.width, hidden, dropout)

    @property
    def backbone(self) -> Backbone | None:
        return getattr(self.encoders, "frp", None)

    def extra_repr(self) -> str:
        return f"branches={self.branches}"

    def standardise_by(self, vectors: Tensor) -> None:
        """Standardise the pretrained branch's vector by its mean and deviation over `vectors` `(N, C)`; not the paper.

        A new model leaves it as it is.
        """
        self.mean.copy_(vectors.mean(0))
        self.std.copy_(vectors.std(0).clamp(min=1e-6))

    def extract(self, images: Tensor) -> list[Tensor]:
        """The pretrained branch's four maps of images `(B, 3, H, W)`."""
        if self.backbone is None:
            raise ValueError(f"branches: got {self.branches}, expected 'frp' among them, whose features these are")
        return self.backbone(images)

    def pretrained(self, reference, distorted) -> Tensor:
        """The pretrained branch's vector before it is standardised, `(B, C)`, of images or what `extract` returns."""
        return global_average(self._scales("frp", reference, distorted))

    def pooled(self, reference, distorted, vector: Tensor | None = None, *, return_maps: bool = False):
        """All branches' vectors, concatenated, `(B, D)`; with `return_maps=True` also the maps of `model(...)`."""
        images = [x for x in (reference, distorted) if not isinstance(x, list | tuple)]
        if len(images) < 2 and set(self.branches) != {"frp"}:
            raise ValueError(f"images: got features with branches {self.branches}, expected images, or 'frp' alone")
        check_images(*images, min_size=self.min_size, values=not self.training)
        vectors, maps = {} if vector is None else {"frp": (vector - self.mean) / self.std}, {}
        for branch in [name for name in self.encoders if name not in vectors]:
            scales = self._scales(branch, reference, distorted)  # 4 x (B, C_i, h_i, w_i)
            vectors[branch] = global_average(scales)  # (B, C)
            if branch == "frp":
                vectors[branch] = (vectors[branch] - self.mean) / self.std
            if return_maps:
                maps |= {f"{branch}_{i}": scale.mean(dim=1, keepdim=True) for i, scale in enumerate(scales, start=1)}
                maps[f"{branch}_vector"] = vectors[branch]
        vector = torch.cat([vectors[branch] for branch in self.branches], dim=1)  # (B, D)
        return (vector, maps) if return_maps else vector

    def forward(self, reference, distorted=None, vector: Tensor | None = None, *, return_maps: bool = False):
        if distorted is None:
            shape = tuple(getattr(reference, "shape", ()))
            if return_maps or len(shape) != 2 or shape[1] != self.width:
                expected = f"(B, {self.width}) as `pooled` returns, without maps; or reference and distorted"
                raise ValueError(f"model(vector): got shape {shape}, return_maps={return_maps}, expected {expected}")
            return self.head(reference)
        if not return_maps:
            return self.head(self.pooled(reference, distorted, vector))
        pooled, maps = self.pooled(reference, distorted, vector, return_maps=True)
        return self.head(pooled), maps

    def contributions(self, reference, distorted=None, vector: Tensor | None = None) -> Tensor:
        """What each branch adds to the score on each scale, `(B, branches, scales)`, in the order of `branches`.

        They sum to the score minus that of the zero vector, `head(0)`: see `Head.contributions`.
        """
        pooled = reference if distorted is None else self.pooled(reference, distorted, vector)
        parts = self.split(self.head.contributions(pooled))
        return torch.stack([torch.stack([scale.sum(dim=1) for scale in branch], dim=1) for branch in parts], dim=1)

    def split(self, vector: Tensor) -> list[tuple[Tensor, ...]]:
        """A vector `(B, D)`, or its contributions, split: for each branch its scales `(B, C_i)`."""
        channels = [list(self.encoders[branch].channels) for branch in self.branches]
        branches = vector.split([sum(sizes) for sizes in channels], dim=1)
        return [branch.split(sizes, dim=1) for branch, sizes in zip(branches, channels, strict=True)]

    def _scales(self, branch: str, reference, distorted) -> list[Tensor]:
        """What a branch pools on each scale: absolute differences, or the distorted images' activations."""
        if branch == "nr":
            return self.encoders[branch](distorted)
        if isinstance(reference, Tensor) and isinstance(distorted, Tensor):
            maps = self.encoders[branch](torch.cat([reference, distorted]))  # 4 x (2B, C_i, h_i, w_i)
            reference, distorted = zip(*(scale.chunk(2) for scale in maps), strict=True)
        else:
            reference, distorted = (self.extract(x) if isinstance(x, Tensor) else x for x in (reference, distorted))
        return differences(reference, distorted)

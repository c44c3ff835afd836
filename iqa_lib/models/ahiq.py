"""AHIQ: how good a distorted image is beside its reference, seen by a CNN where a vision transformer looks.

Paper: "Attentions Help CNNs See Better: Attention-based Hybrid Image Quality Assessment Network", CVPR workshops 2022,
arXiv 2204.10485, https://arxiv.org/abs/2204.10485. Released code: https://github.com/IIGROUP/AHIQ (MIT).

With V and C the ViT's and the CNN's maps of the reference r or the distorted d, all of it one function of the pair:

    o = Conv(up(V_r))                       offsets, from the reference alone, for both images    `DeformFusion`
    F_x = [V_x, Conv(ReLU(Conv(DeformConv(C_x, o))))]                                               `DeformFusion`
    g = Conv([P_d - P_r, P_d, P_r]),  P_x = Conv1x1(F_x)                                            `Regressor`
    score = sum(f * w) / sum(w),  f = Conv1x1(g),  w = sigmoid(Conv1x1(g))                          `Regressor`

Both backbones are frozen and cut after the last map that is used: of the ViT blocks 0 to 4 are left, of ResNet50 layer1.

`preset="official_code"` sets what the released code does otherwise than the paper, each a switch of its own:

- `resnet152_blocks="layer2"`: its helper for ResNet152 takes six bottlenecks of layer2, not the three of layer1.

Three more of its flaws change no number, only the cost, and are left out (`benchmarks/ahiq.py` measures it): whole
backbones are computed and most of them thrown away, in training with a graph for gradients nobody uses; the offsets are
computed for each image anew; the regressor validates in training mode, which nothing in it tells from the other.
What it does otherwise to data, schedule and evaluation are parameters of the notebook, set together in
`params/04_ahiq/official_code.yaml`: vertical flips, crops that never lie at the far edges, several crops averaged
pixel by pixel, scores scaled file by file, a cosine stepped every iteration, the epoch kept when either correlation
rises, the last batch dropped.

Both backbones see images normalised to mean and deviation 0.5, as the released heads were trained, though ResNet50's own
weights had ImageNet's statistics: `norm` holds the other readings.

What slides and code leave open was decided here and cannot be checked against the authors: HRNet is HRNet-W32's first
stage, projected to 768 channels by a trained 1x1 convolution; maps of another stride than 4 are brought to it
bilinearly; without a ViT there are no offsets, and so no deformable convolution; spatial pooling is a global average
and one linear layer; "patch + spatial" is the mean of both scores. The networks of Table 7 have the weights that timm
0.5.4, which the authors pin, gives under their bare names.
"""

import _codecs
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d

from iqa_lib.backbones import PACKAGED, Backbone
from iqa_lib.checks import check_choice
from iqa_lib.files import sha256
from iqa_lib.images import check_images
from iqa_lib.models.rebuild import keeps_options
from iqa_lib.weights import Weights, load_complete, read_content, tensors_under

FUSIONS = ("deform+concat", "concat", "cnn", "vit")
POOLINGS = ("patch", "spatial", "both")
PRESETS = {"paper": {"resnet152_blocks": "layer1"}, "official_code": {"resnet152_blocks": "layer2"}}

VITS = {
    "b8": ("vit_base_patch8_224.augreg_in21k_ft_in1k", 8),
    "b16": ("vit_base_patch16_224.augreg_in21k_ft_in1k", 16),
}
"""Full timm tag and side of a patch."""

NUMPY_NUMBERS = [
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),
    (_codecs.encode, "_codecs.encode"),
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
]
"""What a checkpoint may hold beside tensors and plain numbers: losses, as NumPy's mean gives them."""

BACKBONE_PREFIXES = {"cnn": "resnet50.", "vit": "vit."}
_HEAD = "_model_state_dict"

VIT_BLOCKS = 5
VIT_CHANNELS = 768 * VIT_BLOCKS
CNN_STRIDE = 4

MOST_SAMPLES = 2**24
"""Numbers that the deformable convolution samples at a time on a CPU: 64 MB, or one image's."""


@dataclass(frozen=True)
class Cut:
    """Where a CNN is cut: timm's number of the last stage needed, the layers that are run, and those that are taken."""

    network: str
    stage: int
    channels: int
    layers: tuple[str, ...]
    taps: tuple[str, ...]


_RESNET_STEM = ("conv1", "bn1", "act1", "maxpool")
_LAYER1 = tuple(f"layer1.{i}" for i in range(3))
_LAYER2 = tuple(f"layer2.{i}" for i in range(8))
_BLOCK35 = tuple(f"repeat.{i}" for i in range(10))
_INCEPTION_STEM = ("conv2d_1a", "conv2d_2a", "conv2d_2b", "maxpool_3a", "conv2d_3b", "conv2d_4a", "maxpool_5a")
_HRNET_STEM = ("conv1", "bn1", "act1", "conv2", "bn2", "act2")
_LITE0 = tuple(f"blocks.{i}" for i in range(5))

CNNS = {
    "resnet50": Cut("resnet50.a1_in1k", 1, 768, (*_RESNET_STEM, *_LAYER1), _LAYER1),
    "resnet101": Cut("resnet101.a1h_in1k", 1, 768, (*_RESNET_STEM, *_LAYER1), _LAYER1),
    "resnet152": Cut("resnet152.a1h_in1k", 1, 768, (*_RESNET_STEM, *_LAYER1), _LAYER1),
    "hrnet": Cut("hrnet_w32.ms_in1k", 1, 256, (*_HRNET_STEM, "layer1"), ("layer1",)),
    "inception_resnet_v2": Cut(
        "inception_resnet_v2.tf_in1k",
        2,
        1920,
        (*_INCEPTION_STEM, "mixed_5b", *_BLOCK35),
        ("mixed_5b", *_BLOCK35[1::2]),
    ),
    "packaged": Cut(PACKAGED, 3, 176, ("conv_stem", "bn1", *_LITE0), (_LITE0[1], _LITE0[2], _LITE0[4])),
}
"""`"packaged"` is not the paper's: the network whose weights need no download, by its maps of strides 4, 8 and 16."""

RESNET152_LAYER2 = Cut(
    "resnet152.a1h_in1k",
    2,
    3072,
    (*_RESNET_STEM, *_LAYER1, *_LAYER2),
    tuple(_LAYER2[i] for i in (0, 1, 3, 4, 5, 7)),
)


class CNNBackbone(Backbone):
    """A frozen CNN, cut; the outputs of its taps on the grid of stride 4, concatenated."""

    def __init__(self, cut: Cut, **options):
        super().__init__(cut.network, taps=(cut.stage,), frozen=True, **options)
        self.layers, self.taps = cut.layers, cut.taps
        self.channels, self.strides = (cut.channels,), (CNN_STRIDE,)
        used = {path.partition(".")[0] for path in cut.layers}
        for name in [name for name, _ in self.net.model.named_children() if name not in used]:
            delattr(self.net.model, name)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, taps={self.taps}"

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images `(B, 3, H, W)` in [0, 1] to `(B, C, H / 4, W / 4)`."""
        grid = [side // CNN_STRIDE for side in images.shape[-2:]]
        x, maps = (images - self.mean) / self.std, []
        for path in self.layers:
            x = self.net.model.get_submodule(path)(x)
            if path in self.taps:
                maps.append(x if [*x.shape[-2:]] == grid else F.interpolate(x, size=grid, mode="bilinear"))
        return torch.cat(maps, dim=1)


class ViTBackbone(Backbone):
    """A frozen ViT, cut after block 4; the outputs of blocks 0 to 4 without the CLS token, concatenated."""

    def __init__(self, network: str, **options):
        super().__init__(network, taps=range(VIT_BLOCKS), frozen=True, dynamic_img_size=True, **options)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B, 3, H, W)` in [0, 1] to `(B, 3840, H / patch, W / patch)`."""
        return torch.cat(super().forward(images), dim=1)

    @torch.no_grad()
    def attention(self, images: Tensor) -> Tensor:
        """What share of its attention the CLS token gives to each patch: `(B, blocks, heads, h, w)`."""
        net = self.net.model
        x = net.patch_embed((images - self.mean) / self.std)  # (B, h, w, D)
        grid = x.shape[1:3]
        x = net.norm_pre(net._pos_embed(x))  # (B, N, D)
        shares = []
        for block in net.blocks:
            qkv = block.attn.qkv(block.norm1(x)).unflatten(2, (3, block.attn.num_heads, -1))  # (B, N, 3, heads, d)
            q, k, _ = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, N, d)
            share = (block.attn.scale * q[:, :, :1] @ k.mT).softmax(dim=-1)  # (B, heads, 1, N)
            shares.append(share[:, :, 0, 1:].unflatten(2, grid))
            x = block(x)
        return torch.stack(shares, dim=1)


class Backbones(nn.ModuleDict):
    """The frozen backbones by name; images to one map of each."""

    frozen = True

    @property
    def weights(self) -> dict[str, Weights]:
        return {name: backbone.weights for name, backbone in self.items()}

    def forward(self, images: Tensor) -> list[Tensor]:
        return [backbone(images) for backbone in self.values()]


class DeformConv(DeformConv2d):
    """torchvision's deformable convolution, 3x3 with padding 1 and without a mask.

    Its kernel for CPUs runs on one thread and in fp32 alone. There, each sample is the weighted sum of four pixels that
    an embedding bag takes, and the convolution a matrix product: the same but for the last float digits, in half the
    time, and in a fifth where gradients are wanted.
    """

    def __init__(self, channels: int, width: int):
        super().__init__(channels, width, 3, padding=1)

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        """Maps `(B, C, H, W)`, offsets `(B, 18, H, W)` in pixels, (down, right) for each of the 9 taps."""
        if not x.is_cpu:
            return super().forward(x, offsets)
        at_once = max(1, MOST_SAMPLES // (9 * x[0].numel()))
        parts = zip(x.split(at_once), offsets.float().split(at_once), strict=True)
        return torch.cat([self._convolved(*part) for part in parts])  # (B, width, H, W)

    def _convolved(self, x: Tensor, offsets: Tensor) -> Tensor:
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)  # (width, 9 * C)
        rows = x.flatten(2).mT.flatten(0, 1)  # (B * H * W, C)
        pixels, shares = _bilinear(offsets.unflatten(1, (9, 2)))  # (B * H * W * 9, 4) both
        samples = F.embedding_bag(pixels, rows, per_sample_weights=shares.to(rows.dtype), mode="sum")
        out = F.linear(samples.view(len(rows), -1), weight, self.bias)  # (B * H * W, width)
        return out.unflatten(0, (len(x), -1)).mT.unflatten(2, x.shape[-2:])


def _bilinear(offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The four pixels around each sampling place of a 3x3 kernel and their shares: none for those outside the map.

    Args:
        offsets: `(B, 9, 2, H, W)`.

    Returns:
        Row numbers in maps of `B * H * W` rows, and shares, `(B * H * W * 9, 4)` both.
    """
    batch, _, _, height, width = offsets.shape
    tap = torch.arange(9).view(9, 1, 1)
    down = offsets[:, :, 0] + tap // 3 - 1 + torch.arange(height).view(1, -1, 1)  # (B, 9, H, W)
    right = offsets[:, :, 1] + tap % 3 - 1 + torch.arange(width)
    first = torch.arange(batch).view(-1, 1, 1, 1) * height * width
    pixels, shares = [], []
    for y, share_y in _neighbours(down, height):
        for x, share_x in _neighbours(right, width):
            pixels.append(first + y * width + x)
            shares.append(share_y * share_x)
    return tuple(torch.stack(four, dim=-1).permute(0, 2, 3, 1, 4).flatten(0, 3) for four in (pixels, shares))


def _neighbours(place: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """The pixels before and after each place on a line of `size`, kept on the line, and their shares."""
    before = place.detach().floor()
    share = place - before
    inside = [(pixel >= 0) & (pixel < size) for pixel in (before, before + 1)]
    pixels = [pixel.long().clamp(0, size - 1) for pixel in (before, before + 1)]
    return list(zip(pixels, ((1 - share) * inside[0], share * inside[1]), strict=True))


class DeformFusion(nn.Module):
    """The CNN's map, sampled where the ViT's map of the reference says, on the ViT's grid.

    Args:
        channels: Of the CNN's map.
        patch: Side of the ViT's patches.
        deform: False leaves the offsets and the deformable convolution out (Table 6).
        project: Bring the map to 768 channels first, by a 1x1 convolution (HRNet).
        width: Of the layers, in parts of the paper's.

    Names of modules are those of the authors' checkpoint.
    """

    def __init__(self, channels: int, patch: int, *, deform: bool, project: bool, width: float = 1.0):
        super().__init__()
        self.channels, middle = round(768 * width), round(512 * width)
        self.project = nn.Conv2d(channels, 768, 1) if project else nn.Identity()
        channels = 768 if project else channels
        if deform:
            self.conv_offset = nn.Conv2d(VIT_CHANNELS, 2 * 9, 3, padding=1)
            self.deform = DeformConv(channels, self.channels)
            channels = self.channels
        self.conv1 = nn.Sequential(
            nn.Conv2d(channels, middle, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, self.channels, 3, stride=patch // (2 * CNN_STRIDE), padding=1),
        )

    def offsets(self, vit: Tensor, size: torch.Size) -> Tensor:
        """The ViT's map of the reference, enlarged to `size` (nearest) and convolved: `(B, 18, *size)`.

        The nine taps are applied one by one before the enlargement, and shifted and summed after it: the same sums in a
        fraction of the time.
        """
        weight, bias = self.conv_offset.weight, self.conv_offset.bias.view(-1, 1, 1)
        taps = weight.flip(2, 3).permute(0, 2, 3, 1).flatten(0, 2)[..., None, None]  # (18 * 9, 3840, 1, 1)
        parts = F.interpolate(F.conv2d(vit, taps).float(), size=size, mode="nearest")  # (B, 18 * 9, *size)
        return F.fold(parts.flatten(2), size, 3, padding=1) + bias

    def forward(self, cnn: Tensor, offsets: Tensor | None) -> Tensor:
        x = self.project(cnn)
        if offsets is not None:
            x = self.deform(x, offsets)  # (B, 768, H / 4, W / 4)
        return self.conv1(x)  # (B, 768, h, w)


class Regressor(nn.Module):
    """Patch-wise prediction: a score f and a weight w for each position, and the weighted mean; or spatial pooling.

    Names of modules are those of the authors' checkpoint.
    """

    def __init__(self, channels: int, pooling: str, *, width: float = 1.0):
        super().__init__()
        narrow, middle, wide = (round(channels * width) for channels in (256, 512, 1024))
        self.down_channel = nn.Conv2d(channels, narrow, 1)
        self.feat_smoothing = nn.Sequential(
            nn.Conv2d(3 * narrow, wide, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(wide, middle, 3, padding=1)
        )
        self.conv1 = nn.Sequential(nn.Conv2d(middle, narrow, 3, padding=1), nn.ReLU(inplace=True))
        if pooling != "spatial":
            self.conv = nn.Sequential(nn.Conv2d(narrow, 1, 1))
            self.conv_attent = nn.Sequential(nn.Conv2d(narrow, 1, 1))
        if pooling != "patch":
            self.spatial = nn.Linear(narrow, 1)
        self.pooling = pooling

    def forward(self, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Features of the references, then of the distorted, `(2B, C, h, w)`, to scores `(B,)` and maps."""
        reference, distorted = self.down_channel(features).chunk(2)  # (B, 256, h, w) both
        x = torch.cat([distorted - reference, distorted, reference], dim=1)
        x = self.conv1(self.feat_smoothing(x))  # (B, 256, h, w)
        scores, maps = [], {}
        if self.pooling != "spatial":
            f, w = self.conv(x).float(), self.conv_attent(x).float().sigmoid()  # (B, 1, h, w) both
            scores.append((f * w).sum(dim=(1, 2, 3)) / w.sum(dim=(1, 2, 3)))
            maps = {"score": f, "weight": w}
        if self.pooling != "patch":
            scores.append(self.spatial(x.mean(dim=(2, 3))).float().squeeze(1))
        return torch.stack(scores).mean(dim=0), maps


@keeps_options
class AHIQ(nn.Module):
    """The pair network: two frozen backbones, deformable fusion, patch-wise regressor.

    Args:
        preset: `"paper"`, or `"official_code"`, see the module's docstring.
        cnn: A name in `CNNS` (Table 7).
        vit: `"b8"` or `"b16"`. Its patch is the grid of the score map, also with `fusion="cnn"`.
        cnn_weights: See `iqa_lib.backbones.Backbone`.
        vit_weights: The same.
        fusion: `"deform+concat"` (the paper), `"concat"`, `"cnn"` or `"vit"` (Table 6). A backbone that is not used is not
            built.
        pooling: `"patch"` (the paper), `"spatial"` or `"both"` (Table 8).
        norm: `"half"` (the authors' for both backbones), `"imagenet"`, `"none"`, or `"weights"`: each backbone its own.
        resnet152_blocks: `"layer1"` or `"layer2"`, for `cnn="resnet152"`; None leaves it to the preset.
        width: Of the trained layers, in parts of the paper's, at least 1/64: narrower ones for runs without a GPU.

    `model(reference, distorted)` takes images `(B, 3, H, W)` in [0, 1], with sides that are multiples of the ViT's
    patch, or for each of the two what `extract` made of it, and returns the score `(B,)`, higher for better images.
    With `return_maps=True` also a dict of those that the options leave:

    - `score` and `weight` `(B, 1, h, w)`: f and w on the ViT's grid. The weights are in (0, 1).
    - `offsets` `(B, 18, H / 4, W / 4)`: in pixels of the CNN's grid, (down, right) for each of the 9 taps in turn.
    - `attention_reference` and `attention_distorted` `(B, blocks, heads, h, w)`: the share of the CLS token's attention
      that goes to each patch; only where images came.

    `model.checkpoint` is the file that `from_author_checkpoint` read, if it was one.

    Raises:
        ValueError: An unknown option; or images of wrong rank, dtype, range or size.
    """

    higher_is_better = True
    min_size = 32

    def __init__(
        self,
        *,
        preset: str = "paper",
        cnn: str = "resnet50",
        vit: str = "b8",
        cnn_weights: str | Path = "auto",
        vit_weights: str | Path = "auto",
        fusion: str = "deform+concat",
        pooling: str = "patch",
        norm: str = "half",
        resnet152_blocks: str | None = None,
        width: float = 1.0,
    ):
        super().__init__()
        if not width >= 1 / 64:
            raise ValueError(f"width: got {width}, expected at least 1/64 of the paper's")
        check_choice(tuple(PRESETS), preset=preset)
        check_choice(tuple(CNNS), cnn=cnn)
        check_choice(tuple(VITS), vit=vit)
        check_choice(FUSIONS, fusion=fusion)
        check_choice(POOLINGS, pooling=pooling)
        resnet152_blocks = resnet152_blocks or PRESETS[preset]["resnet152_blocks"]
        check_choice(("layer1", "layer2"), resnet152_blocks=resnet152_blocks)
        cut = RESNET152_LAYER2 if (cnn, resnet152_blocks) == ("resnet152", "layer2") else CNNS[cnn]
        network, self.patch = VITS[vit]
        self.backbone = Backbones()
        if fusion != "vit":
            self.backbone["cnn"] = CNNBackbone(cut, weights=cnn_weights, norm=norm)
        if fusion != "cnn":
            self.backbone["vit"] = ViTBackbone(network, weights=vit_weights, norm=norm)
        channels = VIT_CHANNELS if fusion != "cnn" else 0
        if fusion != "vit":
            self.deform_net = DeformFusion(
                *self.backbone["cnn"].channels,
                self.patch,
                deform=fusion == "deform+concat",
                project=cnn == "hrnet",
                width=width,
            )
            channels += self.deform_net.channels
        self.regressor = Regressor(channels, pooling, width=width)
        self.fusion = fusion
        self.checkpoint: Weights | None = None

    @classmethod
    def from_author_checkpoint(cls, path: Path | str, **options) -> "AHIQ":
        """A model with the heads of a checkpoint that the authors' training wrote.

        The backbones are not in it: they come as `options` say (`vit="b16"`, `vit_weights=...`). Also taken is a file of a
        whole model, with its tensors under `params` and the prefixes `deform_net.`, `regressor.` and perhaps
        `resnet50.` and `vit.`, which then are the backbones' weights. Those that IQA-PyTorch trains want
        `norm="imagenet"`.

        Raises:
            WeightsError: The file cannot be read safely, or lacks or misfits a tensor; the message names it.
        """
        with torch.serialization.safe_globals(NUMPY_NUMBERS):
            state = _flat(read_content(path, "params"), path)
        there = {name: any(key.startswith(theirs) for key in state) for name, theirs in BACKBONE_PREFIXES.items()}
        model = cls(**{f"{name}_weights": "random" for name in there if there[name]} | options)
        own = model.state_dict()
        for name, theirs in BACKBONE_PREFIXES.items():
            ours = f"backbone.{name}.net.model."
            backbone = {
                ours + key.removeprefix(theirs): state.pop(key) for key in list(state) if key.startswith(theirs)
            }
            state |= {key: tensor for key, tensor in backbone.items() if key in own}  # the rest was cut off
        load_complete(model, state, path, absent=[f"backbone.{name}." for name in there if not there[name]])
        model.checkpoint = Weights("AHIQ", "file", Path(path).name, sha256(path))
        for name, backbone in model.backbone.items():
            if there[name]:
                backbone.weights = replace(model.checkpoint, network=backbone.weights.network)
        return model

    def extract(self, images: Tensor) -> list[Tensor]:
        """The backbones' maps of images `(B, 3, H, W)`: the CNN's `(B, C, H / 4, W / 4)`, the ViT's `(B, 3840, h, w)`."""
        height, width = images.shape[-2:]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"images came {height}x{width}, expected sides that are multiples of {self.patch}, the ViT's patch: "
                "crop or enlarge them first"
            )
        return self.backbone(images)

    def forward(self, reference, distorted, *, return_maps: bool = False):
        images = None
        if isinstance(reference, Tensor):
            check_images(reference, distorted, min_size=self.min_size)
            images = torch.cat([reference, distorted])
            features = self.extract(images)
        else:
            features = [torch.cat(pair) for pair in zip(reference, distorted, strict=True)]
        fused, offsets = self._fuse(features)  # (2B, C, h, w)
        score, maps = self.regressor(fused)
        if not return_maps:
            return score
        if offsets is not None:
            maps["offsets"] = offsets
        if images is not None and self.fusion != "cnn":
            attention = self.backbone["vit"].attention(images)  # (2B, blocks, heads, h, w)
            maps["attention_reference"], maps["attention_distorted"] = attention.chunk(2)
        return score, maps

    def _fuse(self, features: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """The backbones' maps of references and distorted images to one, and the offsets where there are some."""
        if self.fusion == "vit":
            return features[0], None
        if self.fusion == "cnn":
            return self.deform_net(features[0], None), None
        cnn, vit = features
        offsets = None
        if self.fusion == "deform+concat":
            offsets = self.deform_net.offsets(vit.chunk(2)[0], cnn.shape[-2:])  # (B, 18, H / 4, W / 4)
        both = None if offsets is None else torch.cat([offsets, offsets])
        return torch.cat([vit, self.deform_net(cnn, both)], dim=1), offsets


def _flat(content: dict, path: Path | str) -> dict[str, Tensor]:
    """The tensors of the authors' layout, or of a whole model's, by one layer of names: `regressor.conv.0.weight`."""
    heads = [name for name in content if name.endswith(_HEAD)]
    if not heads:
        return tensors_under(content, "params", path)
    return {
        f"{name.removesuffix(_HEAD)}.{key}": tensor
        for name in heads
        for key, tensor in tensors_under(content, name, path).items()
    }

"""AHIQ: full-reference quality from a frozen CNN whose features are sampled where a frozen vision transformer points.

Paper: "Attentions Help CNNs See Better: Attention-based Hybrid Image Quality Assessment Network", CVPR workshops 2022,
arXiv 2204.10485, https://arxiv.org/abs/2204.10485. Released code: https://github.com/IIGROUP/AHIQ (MIT).

With V and C the ViT's and the CNN's maps, and x the reference r or the distorted image d:

    o = Conv(up(V_r))                       offsets from the reference, used for both images    `DeformFusion.offsets`
    F_x = [V_x, Conv(ReLU(Conv(DeformConv(C_x, o))))]                              `AHIQ._fuse`, `DeformFusion.forward`
    P_x = Conv1x1(F_x),  g = Conv([P_d - P_r, P_d, P_r])                                         `Regressor.difference`
    score = sum(f * w) / sum(w),  f = Conv1x1(g),  w = sigmoid(Conv1x1(g))                        `Regressor.patchwise`

Both backbones are frozen and cut after the last map in use: ViT blocks 0 to 4 and ResNet50's layer1 remain.

`preset="official_code"` sets what the released code does differently from the paper, one switch each:

- `resnet152_blocks="layer2"`: its helper for ResNet152 takes six bottlenecks of layer2, not the three of layer1.

What it does differently to data, schedule and choice of epoch is in `iqa_lib.lab.ahiq_released`. Three more flaws are
left out, for they change only the cost, measured by `benchmarks/ahiq.py`: it computes whole backbones, in training with
a graph that nothing uses; it computes the offsets again for each image; it validates the regressor in training mode.

Both backbones see images normalised with mean and deviation 0.5, as the released heads were trained, although
ResNet50's weights had ImageNet's statistics: `norm` has the alternatives.

What slides and code leave open was decided here and cannot be checked against the authors: HRNet is HRNet-W32's first
stage, projected to 768 channels by a trained 1x1 convolution; maps of a stride other than 4 are resized to it
bilinearly; the CNN alone has no offsets, and so no deformable convolution; spatial pooling is a global average and one
linear layer; "patch + spatial" is the mean of both scores. The networks of Table 7 have the weights that timm 0.5.4,
which the authors pin, gives under their bare names. Heads name their modules as the authors' checkpoint does.

Where no ViT has weights, `vit="packaged"` puts deep maps of an installed CNN in its place: the same equations with
another V, and heads that start from other weights (`AHIQ._start_small`). None of the paper's networks is so.
"""

import _codecs
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from timm.models import create_feature_extractor
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from iqa_lib.backbones import PACKAGED, Backbone, graph_for, taps_at
from iqa_lib.checks import check_at_least, check_choice
from iqa_lib.files import sha256
from iqa_lib.images import check_images
from iqa_lib.models.deform_conv import DeformConv
from iqa_lib.models.rebuild import keeps_options
from iqa_lib.weights import Weights, load_complete, read_content, renamed, tensors_under

FUSIONS = ("deform+concat", "concat", "cnn", "vit")
POOLINGS = ("patch", "spatial", "both")
PRESETS = {"paper": {"resnet152_blocks": "layer1"}, "official_code": {"resnet152_blocks": "layer2"}}
VITS = {f"b{patch}": (f"vit_base_patch{patch}_224.augreg_in21k_ft_in1k", patch) for patch in (8, 16)}
VITS["packaged"] = PACKAGED, 8
"""Full timm tag and patch size. `"packaged"`, not in the paper, is no ViT: see `DeepCNN`."""
PACKAGED_SCALE, PACKAGED_REACH = 1 / 8, 1 / 4
"""With `vit="packaged"`: factors of the maps, to deviate by about 1, and of the offsets, to learn like the rest."""
VIT_BLOCKS = 5
CNN_STRIDE = 4
_LAYER1 = ("layer1.0", "layer1.1", "layer1.2")
_BLOCK35 = ("mixed_5b", "repeat.1", "repeat.3", "repeat.5", "repeat.7", "repeat.9")
_SIX_OF_LAYER2 = ("layer2.0", "layer2.1", "layer2.3", "layer2.4", "layer2.5", "layer2.7")

CNNS = {
    "resnet50": ("resnet50.a1_in1k", 1, _LAYER1, 768),
    "resnet101": ("resnet101.a1h_in1k", 1, _LAYER1, 768),
    "resnet152": ("resnet152.a1h_in1k", 1, _LAYER1, 768),
    "hrnet": ("hrnet_w32.ms_in1k", 1, ("layer1.3",), 256),
    "inception_resnet_v2": ("inception_resnet_v2.tf_in1k", 2, _BLOCK35, 1920),
    "packaged": (PACKAGED, 1, ("blocks.1",), 24),
}
"""Full timm tag, timm's index of the last stage needed, the modules whose outputs are used, their channels in all.

`"packaged"`, not in the paper, needs no download: as of the ResNets, its map of stride 4 is used.
"""
RESNET152_LAYER2 = ("resnet152.a1h_in1k", 2, _SIX_OF_LAYER2, 3072)


def on_grid(maps: Iterable[Tensor], grid: Sequence[int]) -> Tensor:
    """Maps `(B, C, h, w)`, resized to a grid bilinearly if they are on another one, side by side."""
    resized = (x if [*x.shape[-2:]] == [*grid] else F.interpolate(x, size=grid, mode="bilinear") for x in maps)
    return torch.cat([*resized], dim=1)


class CNNBackbone(Backbone):
    """A frozen CNN, cut after its last tap; the taps' outputs on the grid of stride 4, concatenated."""

    def __init__(self, network: str, stage: int, taps: tuple[str, ...], channels: int, **options):
        super().__init__(network, taps=(stage,), frozen=True, **options)
        self.taps, self.channels, self.strides = taps, (channels,), (CNN_STRIDE,)
        graph = create_feature_extractor(self.net.model, list(taps)).eval()
        self.net.model = GraphModule(graph, graph.graph).eval()  # `graph` itself, when copied, goes back to train mode

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B, 3, H, W)` in [0, 1] to `(B, C, H / 4, W / 4)`."""
        grid = [side // CNN_STRIDE for side in images.shape[-2:]]
        with graph_for(images, self.frozen):
            return on_grid(self.net.model((images - self.mean) / self.std).values(), grid)


class ViTBackbone(Backbone):
    """A frozen ViT, cut after block 4; the outputs of blocks 0 to 4 without the CLS token, concatenated."""

    def __init__(self, network: str, **options):
        super().__init__(network, taps=range(VIT_BLOCKS), frozen=True, dynamic_img_size=True, **options)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B, 3, H, W)` in [0, 1] to `(B, 3840, H / patch, W / patch)`."""
        return torch.cat(super().forward(images), dim=1)

    @torch.no_grad()
    def attention(self, images: Tensor) -> Tensor:
        """The CLS token's attention to each patch, `(B, blocks, heads, h, w)`; with its own share it sums to 1."""
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


class DeepCNN(Backbone):
    """In the ViT's place where none has weights: a frozen CNN's maps of strides 8 and 16, as they are."""

    def __init__(self, network: str, **options):
        super().__init__(network, taps=taps_at(network, (8, 16)), frozen=True, **options)

    extract = Backbone.forward


class Backbones(nn.ModuleDict):
    """The frozen backbones by name; images to their maps, one of each, two of `DeepCNN`."""

    frozen = True

    @property
    def weights(self) -> dict[str, Weights]:
        return {name: backbone.weights for name, backbone in self.items()}

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = (backbone(images) for backbone in self.values())
        return [x for each in maps for x in ([each] if isinstance(each, Tensor) else each)]


class DeformFusion(nn.Module):
    """The CNN's map, sampled where the ViT's map of the reference points, on the grid of the ViT's patches.

    Both have their `channels`. `deform=False` leaves out the offsets and the deformable convolution (Table 6);
    `project` puts a 1x1 convolution to 768 channels first (HRNet); `reach` is a factor of the offsets, on which hangs
    how fast they learn; `width` is that of the layers, as a fraction of the paper's.
    """

    def __init__(
        self,
        channels: int,
        vit_channels: int,
        patch: int,
        *,
        deform: bool,
        project: bool,
        reach: float = 1.0,
        width: float = 1.0,
    ):
        super().__init__()
        self.channels, middle, self.reach = round(768 * width), round(512 * width), reach
        self.project = nn.Conv2d(channels, 768, 1) if project else nn.Identity()
        channels = 768 if project else channels
        if deform:
            self.conv_offset = nn.Conv2d(vit_channels, 2 * 9, 3, padding=1)
            self.deform = DeformConv(channels, self.channels)
            channels = self.channels
        self.conv1 = nn.Sequential(
            nn.Conv2d(channels, middle, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, self.channels, 3, stride=patch // (2 * CNN_STRIDE), padding=1),
        )

    def offsets(self, vit: Tensor, size: torch.Size) -> Tensor:
        """`Conv(up(V_r))`: the ViT's map of the reference, enlarged to `size` (nearest), convolved, `(B, 18, *size)`.

        Each tap is applied before the enlargement, and shifted and summed after it: the same sums in much less time.
        """
        weight, bias = self.conv_offset.weight, self.conv_offset.bias.view(-1, 1, 1)
        taps = weight.flip(2, 3).permute(0, 2, 3, 1).flatten(0, 2)[..., None, None]  # (18 * 9, D, 1, 1)
        parts = F.interpolate(F.conv2d(vit, taps).float(), size=size, mode="nearest")  # (B, 18 * 9, *size)
        return self.reach * (F.fold(parts.flatten(2), size, 3, padding=1) + bias)

    def forward(self, cnn: Tensor, offsets: Tensor | None) -> Tensor:
        x = self.project(cnn)
        if offsets is not None:
            x = self.deform(x, offsets)  # (B, 768, H / 4, W / 4)
        return self.conv1(x)  # (B, 768, h, w)


class Regressor(nn.Module):
    """A score f and a weight w for each position, and their weighted mean; or spatial pooling."""

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

    def difference(self, reference: Tensor, distorted: Tensor) -> Tensor:
        """`g = Conv([P_d - P_r, P_d, P_r])`."""
        x = torch.cat([distorted - reference, distorted, reference], dim=1)  # (B, 768, h, w)
        return self.conv1(self.feat_smoothing(x))  # (B, 256, h, w)

    def patchwise(self, g: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """`sum(f * w) / sum(w)`, `(B,)`, and its maps."""
        f, w = self.conv(g).float(), self.conv_attent(g).float().sigmoid()  # (B, 1, h, w) both
        return (f * w).sum(dim=(1, 2, 3)) / w.sum(dim=(1, 2, 3)), {"score": f, "weight": w}

    def forward(self, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Features of the references, then of the distorted, `(2B, C, h, w)`, to scores `(B,)` and maps."""
        g, scores, maps = self.difference(*self.down_channel(features).chunk(2)), [], {}
        if self.pooling != "spatial":
            score, maps = self.patchwise(g)
            scores.append(score)
        if self.pooling != "patch":
            scores.append(self.spatial(g.mean(dim=(2, 3))).float().squeeze(1))
        return torch.stack(scores).mean(dim=0), maps


@keeps_options
class AHIQ(nn.Module):
    """The pair network: two frozen backbones, deformable fusion, patch-wise regressor.

    Args:
        preset: `"paper"` or `"official_code"`, see the module's docstring.
        cnn, cnn_weights: A name in `CNNS` (Table 7), and its weights, see `iqa_lib.backbones.Backbone`.
        vit, vit_weights: `"b8"` or `"b16"`, likewise. Its patch is the grid of the score map, also with `fusion="cnn"`.
            `"packaged"`, not in the paper: the packaged CNN's maps of strides 8 and 16 in its place, on patches of 8.
        fusion: `"deform+concat"` (the paper), `"concat"`, `"cnn"` or `"vit"` (Table 6). Unused backbones are not built.
        pooling: `"patch"` (the paper), `"spatial"` or `"both"` (Table 8).
        norm: `"half"` (the authors' for both backbones), `"imagenet"`, `"none"`, or `"weights"`: each backbone its own.
        resnet152_blocks: `"layer1"` or `"layer2"`, for `cnn="resnet152"`; None: as the preset says.
        width: Of the trained layers, as a fraction of the paper's, at least 1/64: smaller for runs without a GPU.

    `model(reference, distorted)` takes images `(B, 3, H, W)` in [0, 1], with sides that are multiples of the ViT's
    patch, or what `extract` returns for both, and returns scores `(B,)`: higher is better. With `return_maps=True` also
    a dict, as far as the options provide them: `score` and `weight` `(B, 1, h, w)`, f and w on the ViT's grid, w in
    (0, 1); `offsets` `(B, 18, H / 4, W / 4)` in pixels of the CNN's grid, (down, right) for each of the 9 taps in turn;
    `attention_reference` and `attention_distorted` `(B, blocks, heads, h, w)`, the share of the CLS token's attention
    that each patch gets (from images and by a ViT only: the packaged CNN has no such token). `model.checkpoint`
    describes the file read by `from_author_checkpoint`.
    Unknown options, and images of wrong rank, dtype, range or size, raise ValueError.
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
        check_choice(PRESETS, preset=preset)
        resnet152_blocks = resnet152_blocks or PRESETS[preset]["resnet152_blocks"]
        check_choice(CNNS, cnn=cnn)
        check_choice(VITS, vit=vit)
        check_choice(FUSIONS, fusion=fusion)
        check_choice(POOLINGS, pooling=pooling)
        check_choice(("layer1", "layer2"), resnet152_blocks=resnet152_blocks)
        check_at_least(1 / 64, width=width)
        cut = RESNET152_LAYER2 if (cnn, resnet152_blocks) == ("resnet152", "layer2") else CNNS[cnn]
        network, self.patch = VITS[vit]
        packaged = vit == "packaged"
        self.scale = PACKAGED_SCALE if packaged else None
        self.backbone, channels = Backbones(), 0
        if fusion != "vit":
            self.backbone["cnn"] = CNNBackbone(*cut, weights=cnn_weights, norm=norm)
        if fusion != "cnn":
            branch = DeepCNN if packaged else ViTBackbone
            self.backbone["vit"] = branch(network, weights=vit_weights, norm=norm)
            channels = sum(self.backbone["vit"].channels)
        if fusion != "vit":
            options = dict(deform=fusion == "deform+concat", project=cnn == "hrnet", width=width)
            options |= {"reach": PACKAGED_REACH} if packaged else {}
            self.deform_net = DeformFusion(*self.backbone["cnn"].channels, channels, self.patch, **options)
            channels += self.deform_net.channels
        self.regressor = Regressor(channels, pooling, width=width)
        self.fusion, self.checkpoint = fusion, None
        if packaged:
            self._start_small()

    @classmethod
    def from_author_checkpoint(cls, path: Path | str, **options) -> "AHIQ":
        """A model with the heads of a checkpoint that the authors' training wrote.

        It does not hold the backbones: `options` choose them (`vit="b16"`, `vit_weights=...`). A file of a whole model
        works too, with tensors under `params` and the prefixes `deform_net.`, `regressor.`, and for the backbones'
        weights, if it has them, `resnet50.` and `vit.`. Files trained by IQA-PyTorch need `norm="imagenet"`.
        WeightsError if the file cannot be read safely, or a tensor is missing or does not fit; the message names it.
        """
        with torch.serialization.safe_globals(NUMPY_NUMBERS):
            state = renamed(_flat(read_content(path, "params"), path), AUTHOR_KEYS)
        in_file = [name for name in ("cnn", "vit") if any(key.startswith(f"backbone.{name}.") for key in state)]
        model = cls(**{f"{name}_weights": "random" for name in in_file} | options)
        used = model.state_dict()
        state = {key: x for key, x in state.items() if key in used or not key.startswith("backbone.")}
        load_complete(model, state, path, absent=[f"backbone.{n}." for n in ("cnn", "vit") if n not in in_file])
        model.checkpoint = Weights("AHIQ", "file", Path(path).name, sha256(path))
        for name in set(in_file) & set(model.backbone):
            backbone = model.backbone[name]
            backbone.weights = replace(model.checkpoint, network=backbone.weights.network)
        return model

    @torch.no_grad()
    def _start_small(self) -> None:
        """Weights that learn in hundreds of steps: no offsets, the difference alone, scores near 1/2, even weights."""
        small = "deform_net.conv1.2", "regressor.conv.0", "regressor.conv_attent.0", "regressor.spatial"
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear | DeformConv) and not name.startswith("backbone."):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear").mul_(0.1 if name in small else 1.0)
                nn.init.constant_(layer.bias, 0.5 if name in ("regressor.conv.0", "regressor.spatial") else 0.0)
        self.regressor.feat_smoothing[0].weight[:, self.regressor.down_channel.out_channels :] = 0
        if self.fusion == "deform+concat":
            self.deform_net.conv_offset.weight.zero_()

    def extract(self, images: Tensor) -> list[Tensor]:
        """Maps of images `(B, 3, H, W)`: the CNN's `(B, C, H / 4, W / 4)`, then the ViT's `(B, 3840, h, w)`.

        With `vit="packaged"` two in the place of the latter: `(B, 40, H / 8, W / 8)` and `(B, 112, H / 16, W / 16)`.
        """
        height, width = images.shape[-2:]
        if height % self.patch or width % self.patch:
            expected = f"sides that are multiples of {self.patch}, the ViT's patch: crop or resize them"
            raise ValueError(f"images: got {height}x{width}, expected {expected}")
        return self.backbone(images)

    def forward(self, reference, distorted, *, return_maps: bool = False):
        images = None
        if isinstance(reference, Tensor):
            check_images(reference, distorted, min_size=self.min_size, values=not self.training)
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
        if images is not None and self.fusion != "cnn" and hasattr(self.backbone["vit"], "attention"):
            attention = self.backbone["vit"].attention(images)  # (2B, blocks, heads, h, w)
            maps["attention_reference"], maps["attention_distorted"] = attention.chunk(2)
        return score, maps

    def _fuse(self, features: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """`F = [V, DeformFusion(C)]` of references and distorted images, `(2B, C, h, w)`, and the offsets if any."""
        if self.scale:
            features = [self.scale * x for x in features]
        cnn, *vit = [None, *features] if self.fusion == "vit" else features
        if self.fusion == "cnn":
            return self.deform_net(cnn, None), None
        vit = on_grid(vit, vit[0].shape[-2:])  # (2B, C, h, w)
        if self.fusion == "vit":
            return vit, None
        if self.fusion == "concat":
            return torch.cat([vit, self.deform_net(cnn, None)], dim=1), None
        offsets = self.deform_net.offsets(vit.chunk(2)[0], cnn.shape[-2:])  # (B, 18, H / 4, W / 4)
        return torch.cat([vit, self.deform_net(cnn, torch.cat([offsets, offsets]))], dim=1), offsets


AUTHOR_KEYS = ((r"^resnet50\.", "backbone.cnn.net.model."), (r"^vit\.", "backbone.vit.net.model."))
"""From the names in files of whole models to ours."""

_SCALARS = [(np._core.multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
_TYPES = [(_codecs.encode, "_codecs.encode"), np.dtype, np.dtypes.Float32DType, np.dtypes.Float64DType]
NUMPY_NUMBERS = _SCALARS + _TYPES
"""What a checkpoint may hold besides tensors and plain numbers: losses, as NumPy's mean returns them."""

_HEAD = "_model_state_dict"


def _flat(content: dict, path: Path | str) -> dict[str, Tensor]:
    """The tensors of the authors' layout, or of a whole model's, under flat names: `regressor.conv.0.weight`."""
    heads = [name for name in content if name.endswith(_HEAD)]
    if not heads:
        return tensors_under(content, "params", path)
    parts = {name.removesuffix(_HEAD): tensors_under(content, name, path) for name in heads}
    return {f"{part}.{key}": tensor for part, state in parts.items() for key, tensor in state.items()}

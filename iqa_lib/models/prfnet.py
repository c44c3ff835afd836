"""PRFNet: which of two distorted images is closer to the reference.

Paper: "Progressive Feature Fusion Network for Enhancing Image Quality Assessment", arXiv 2401.06992,
https://arxiv.org/abs/2401.06992. No code was released. Equations 1 to 4 are here, 5 and 6 in `iqa_lib.losses`.

What the paper leaves open was decided here and cannot be checked against the authors: Res2Net width and scale
(26w x 4s), ImageNet normalisation, the difference convolution (3x3 to 256 channels, BatchNorm, ReLU, shared by A and
B), the gate convolution (3x3), bilinear upsampling, the head (global average, 512-128-1), reflection padding to whole
strides, and every size of the FPN and BiFPN of Table 2. "Minimum downsampled ratio 2" is read as the ratio between
neighbouring stages (strides 4, 8, 16, 32); `stem_pool=False` is the other reading (2, 4, 8, 16).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iqa_lib.backbones import Backbone
from iqa_lib.checks import check_choice
from iqa_lib.images import check_images
from iqa_lib.models.rebuild import keeps_options

FUSIONS = ("prf", "fpn", "bifpn")
GATE_CONVS = ("full", "single", "bnrelu")


class CrossSubtraction(nn.Module):
    """Feature differences on one scale (eq. 1 and 2): `d_x = Conv(F_O - F_x)`, `S = cat(d_A, d_B)`."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.conv = nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))

    def forward(self, reference: Tensor, a: Tensor, b: Tensor) -> Tensor:
        difference = torch.cat([reference - a, reference - b])  # (2B, C, h, w)
        return torch.cat(self.conv(difference).chunk(2), dim=1)  # (B, 2 * width, h, w)


class Gate(nn.Module):
    """One weight per position (h in eq. 4): convolution, mean over channels, sigmoid, upsampling to the finer map."""

    def __init__(self, channels: int, conv: str):
        super().__init__()
        outputs = 1 if conv == "single" else channels
        layers = [nn.Conv2d(channels, outputs, 3, padding=1)]
        if conv == "bnrelu":
            layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        gate = self.conv(x).mean(dim=1, keepdim=True).sigmoid()  # (B, 1, h, w)
        return F.interpolate(gate, size=size, mode="bilinear", align_corners=False)  # (B, 1, *size)


class PRFBlock(nn.Module):
    """Progressive feature fusion (eq. 3 and 4): from deep to shallow, each fused map gates the next finer one.

    `G_4 = S_4`, then `w_{i+1} = h(G_{i+1})` and `G_i = w_{i+1} * S_i` for i = 3, 2, 1; the output is `G_1`.
    Deep features reach the output only through one-channel gates.

    A convolution followed by a channel mean is one convolution to a single channel: `gate_conv="full"` is the paper
    taken literally, `"single"` the same functions with 1/C of the parameters (`folded()` converts).
    """

    def __init__(self, channels: int, *, gate_conv: str = "full"):
        super().__init__()
        self.channels = channels
        self.gates = nn.ModuleDict({f"w{i}": Gate(channels, gate_conv) for i in (2, 3, 4)})

    def forward(self, differences: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        fused, gates = differences[3], {}  # G_4 = S_4
        for i in (3, 2, 1):
            weight = self.gates[f"w{i + 1}"](fused, differences[i - 1].shape[-2:])  # (B, 1, h_i, w_i)
            fused = weight * differences[i - 1]  # G_i, (B, C, h_i, w_i)
            gates[f"gate_w{i + 1}"] = weight
        return fused, gates

    def folded(self) -> "PRFBlock":
        """This block with `gate_conv="single"`, from one with `"full"`."""
        if len(self.gates["w2"].conv) > 1:
            raise ValueError("gate_conv: got 'bnrelu', expected 'full': a ReLU before the mean cannot be folded")
        block = PRFBlock(self.channels, gate_conv="single")
        block.load_state_dict({key: x.mean(dim=0, keepdim=True) for key, x in self.state_dict().items()})
        return block


class FPN(nn.Module):
    """Feature pyramid (Table 2's first alternative): lateral 1x1, nearest top-down sums, 3x3 on the finest level."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.channels = width
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for _ in range(4))
        self.smooth = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, differences: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        levels = [lateral(x) for lateral, x in zip(self.lateral, differences, strict=True)]
        top = levels[3]
        for level in reversed(levels[:3]):
            top = level + F.interpolate(top, size=level.shape[-2:], mode="nearest")  # (B, width, h_i, w_i)
        return self.smooth(top), {}


class WeightedSum(nn.Module):
    """BiFPN's node: inputs of one size, averaged with learnt non-negative weights, then a depthwise-separable 3x3."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(inputs))
        depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.conv = nn.Sequential(nn.SiLU(), depthwise, pointwise, nn.BatchNorm2d(width))

    def forward(self, *inputs: Tensor) -> Tensor:
        weight = self.weight.relu()
        weight = weight / (weight.sum() + 1e-4)
        return self.conv(sum(w * x for w, x in zip(weight, inputs, strict=True)))


class BiFPNLayer(nn.Module):
    """One round over four levels: top-down, then bottom-up, unless only the finest level is used (`up=False`)."""

    def __init__(self, width: int, *, up: bool = True):
        super().__init__()
        self.down = nn.ModuleList(WeightedSum(2, width) for _ in range(3))
        self.up = nn.ModuleList(WeightedSum(inputs, width) for inputs in ((3, 3, 2) if up else ()))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        down = [levels[3]]
        for node, level in zip(self.down, reversed(levels[:3]), strict=True):
            down.insert(0, node(level, F.interpolate(down[0], size=level.shape[-2:], mode="nearest")))
        out = [down[0]]
        for i, node in enumerate(self.up, start=1):
            below = F.adaptive_max_pool2d(out[-1], levels[i].shape[-2:])
            out.append(node(levels[i], down[i], below) if i < 3 else node(levels[i], below))
        return out


class BiFPN(nn.Module):
    """Bidirectional pyramid (Table 2's second alternative): lateral 1x1, `repeats` rounds, the finest level."""

    def __init__(self, channels: int, width: int, repeats: int):
        super().__init__()
        self.channels = width
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for _ in range(4))
        self.rounds = nn.Sequential(*(BiFPNLayer(width, up=i < repeats - 1) for i in range(repeats)))

    def forward(self, differences: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        levels = [lateral(x) for lateral, x in zip(self.lateral, differences, strict=True)]
        return self.rounds(levels)[0], {}


@keeps_options
class PRFNet(nn.Module):
    """The triplet network: shared backbone, four cross subtraction blocks, fusion, head.

    Args:
        backbone, weights: Full timm tag of a CNN with strides 4, 8, 16, 32; weights as in `iqa_lib.backbones.Backbone`.
        se: Squeeze-and-excitation in the backbone, which makes the default backbone the paper's SE-Res2Net50.
        stem_pool: See the module's docstring.
        freeze_backbone: Train nothing of the backbone (the paper's second step); BatchNorm statistics stay, too.
        width: Channels of each difference map; a scale has twice as many.
        fusion: `"prf"` (the paper), `"fpn"` or `"bifpn"` (Table 2), of which `bifpn_repeats` is the number of rounds.
        gate_conv: `"full"`, `"single"` or `"bnrelu"`, for `fusion="prf"`.
        hidden, dropout: Width of the head's hidden layer; dropout before the last layer.

    `model(reference, a, b)` takes images `(B, 3, H, W)` in [0, 1], or what `extract` returns for each of the three, and
    returns the logit `(B,)` that **B** is closer; its sigmoid is the paper's q. With `return_maps=True` also a dict:
    `gate_w2..gate_w4` `(B, 1, h, w)` in (0, 1) (`fusion="prf"`), and `difference_a_1..4`, `difference_b_1..4`
    `(B, width, h_i, w_i)`, at least 0. Unknown options, and images of wrong rank, dtype, range or size: ValueError.
    """

    min_size = 32

    def __init__(
        self,
        *,
        backbone: str = "res2net50_26w_4s.in1k",
        se: bool = True,
        stem_pool: bool = True,
        weights: str = "auto",
        freeze_backbone: bool = False,
        width: int = 256,
        fusion: str = "prf",
        gate_conv: str = "full",
        bifpn_repeats: int = 3,
        hidden: int = 128,
        dropout: float = 0.0,
    ):
        super().__init__()
        check_choice(FUSIONS, fusion=fusion)
        check_choice(GATE_CONVS, gate_conv=gate_conv)
        options = dict(weights=weights, frozen=freeze_backbone, se=se, stem_pool=stem_pool)
        self.backbone = Backbone(backbone, taps=(1, 2, 3, 4), **options)
        self.subtraction = nn.ModuleList(CrossSubtraction(channels, width) for channels in self.backbone.channels)
        if fusion == "prf":
            self.fusion = PRFBlock(2 * width, gate_conv=gate_conv)
        elif fusion == "fpn":
            self.fusion = FPN(2 * width, width)
        else:
            self.fusion = BiFPN(2 * width, width, bifpn_repeats)
        first, last = nn.Linear(self.fusion.channels, hidden), nn.Linear(hidden, 1)
        self.head = nn.Sequential(first, nn.ReLU(inplace=True), nn.Dropout(dropout), last)

    def extract(self, images: Tensor) -> list[Tensor]:
        """The backbone's four maps of images `(B, 3, H, W)`, padded by reflection to whole strides."""
        height, width = (-side % self.backbone.strides[-1] for side in images.shape[-2:])
        return self.backbone(F.pad(images, (0, width, 0, height), mode="reflect"))

    def forward(self, reference, a, b, *, return_maps: bool = False):
        if isinstance(reference, Tensor):
            check_images(reference, a, b, min_size=self.min_size, values=not self.training)
            features = self.extract(torch.cat([reference, a, b]))  # 4 x (3B, C_i, h_i, w_i)
            reference, a, b = zip(*(scale.chunk(3) for scale in features), strict=True)
        scales = zip(self.subtraction, reference, a, b, strict=True)
        differences = [block(*maps) for block, *maps in scales]  # 4 x (B, 2 * width, h_i, w_i)
        fused, maps = self.fusion(differences)  # (B, C, H / 4, W / 4)
        logit = self.head(fused.mean(dim=(2, 3))).squeeze(1)  # (B,)
        if not return_maps:
            return logit
        for i, difference in enumerate(differences, start=1):
            maps[f"difference_a_{i}"], maps[f"difference_b_{i}"] = difference.chunk(2, dim=1)
        return logit, maps

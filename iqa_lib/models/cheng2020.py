"""Cheng2020-anchor: the encoder of a learned image codec as a frozen feature extractor (a row of IQA-TMFM's Table 2).

Paper: "Learned Image Compression with Discretized Gaussian Mixture Likelihoods and Attention Modules", CVPR 2020,
arXiv 2001.01568, https://arxiv.org/abs/2001.01568; its analysis transform g_a without the attention modules. GDN is of
"Density Modeling of Images Using a Generalized Normalization Transformation", arXiv 1511.06281.

Written anew, so that the library CompressAI is not needed. Its key layout is kept: the weights it released (optimised
for mean squared error, one file a quality) load as they are, also with `downsample`, its former name of `skip`.

1,857,664 parameters with 128 channels (qualities 1 to 3), 4,175,040 with 192 (4 to 6).
"""

import sys
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iqa_lib.files import sha256
from iqa_lib.weights import Weights, WeightsError, load_complete, read_checkpoint

WIDTHS = {1: 128, 2: 128, 3: 128, 4: 192, 5: 192, 6: 192}
"""Channels for each quality: the higher, the more bits the codec spends."""

_URL = "https://compressai.s3.amazonaws.com/models/v1"
_SHA256 = {1: "dad2ebff", 2: "a29008eb", 3: "e49be189", 4: "98b0b468", 5: "23852949", 6: "4c052b1a"}  # the first digits
_ONLINE_SECONDS = 5
_PEDESTAL = 2.0**-36


class LowerBound(nn.Module):
    """The larger of a tensor and a bound that is kept with the weights."""

    def __init__(self, bound: float):
        super().__init__()
        self.register_buffer("bound", torch.tensor([bound]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x, self.bound)


class NonNegative(nn.Module):
    """What GDN stores to what it computes with: `max(stored, bound)^2 - pedestal`, at least `minimum`."""

    def __init__(self, minimum: float):
        super().__init__()
        self.register_buffer("pedestal", torch.tensor([_PEDESTAL]))
        self.lower_bound = LowerBound((minimum + _PEDESTAL) ** 0.5)

    def forward(self, stored: Tensor) -> Tensor:
        return self.lower_bound(stored).square() - self.pedestal


class GDN(nn.Module):
    """Generalised divisive normalisation: `y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2)` at each position."""

    def __init__(self, channels: int):
        super().__init__()
        self.beta = nn.Parameter((torch.ones(channels) + _PEDESTAL).sqrt())
        self.gamma = nn.Parameter((0.1 * torch.eye(channels) + _PEDESTAL).sqrt())
        self.beta_reparam = NonNegative(1e-6)
        self.gamma_reparam = NonNegative(0.0)

    def forward(self, x: Tensor) -> Tensor:
        beta = self.beta_reparam(self.beta)  # (C,)
        gamma = self.gamma_reparam(self.gamma)[:, :, None, None]  # (C, C, 1, 1)
        return x * F.conv2d(x.square(), gamma, beta).rsqrt()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, a leaky ReLU after each, and the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.conv1(x), 0.01)
        return x + F.leaky_relu(self.conv2(y), 0.01)


class StridedResidualBlock(nn.Module):
    """Half the size: a 3x3 with stride 2, leaky ReLU, a 3x3, GDN; beside it a 1x1 with stride 2."""

    def __init__(self, inputs: int, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.gdn = GDN(channels)
        self.skip = nn.Conv2d(inputs, channels, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.conv1(x), 0.01)
        return self.skip(x) + self.gdn(self.conv2(y))


class Cheng2020Anchor(nn.Module):
    """Feature maps of g_a at strides 8 and 16; stands where a frozen `iqa_lib.backbones.Backbone` stands.

    Args:
        quality: 1 to 6, which of the released codecs.
        weights: `"auto"` or `"hub"` (torch.hub's cache, or CompressAI's download, the hash checked either way),
            `"random"`, or the path of a torch file in CompressAI's layout: of the whole codec or of g_a, bare or under
            `state_dict`. A file is taken to be of the quality that is asked for.

    Attributes:
        channels: Channels of each map.
        strides: Stride of each map in pixels.
        weights: What was loaded, a `Weights`.
        frozen: Always true: no gradients, no graph, and `eval()` also after `train()`.

    Raises:
        ValueError: Unknown quality.
        WeightsError: The weights are not to be had, or do not fit; never falls back to random ones.
    """

    strides = (8, 16)
    frozen = True

    def __init__(self, *, quality: int = 6, weights: str | Path = "auto"):
        super().__init__()
        if quality not in WIDTHS:
            raise ValueError(f"quality: got {quality!r}, expected one of {', '.join(map(str, WIDTHS))}")
        file, self.weights = find_weights(quality, weights)
        width = WIDTHS[quality]
        self.channels = (width, width)
        self.g_a = nn.Sequential(
            StridedResidualBlock(3, width),
            ResidualBlock(width),
            StridedResidualBlock(width, width),
            ResidualBlock(width),
            StridedResidualBlock(width, width),
            ResidualBlock(width),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
        )
        if file:
            state = read_checkpoint(file, "state_dict")
            state = {key.replace(".downsample.", ".skip."): x for key, x in state.items() if key.startswith("g_a.")}
            load_complete(self, state, file)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Cheng2020Anchor":
        return super().train(False)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, strides={self.strides}"

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Images `(B, 3, H, W)` in [0, 1] to the two maps; a side that is no multiple of the stride is rounded up."""
        eighth = self.g_a[:-1](images)  # (B, N, H / 8, W / 8)
        return [eighth, self.g_a[-1](eighth)]  # the last (B, N, H / 16, W / 16)


def find_weights(quality: int, weights: str | Path = "auto") -> tuple[Path | None, Weights]:
    """Find the weights of a quality by the policy that `Cheng2020Anchor` documents.

    Returns:
        The file (None for random weights) and its description with the SHA-256.

    Raises:
        WeightsError: They are not to be had; never falls back to random weights.
    """
    network = f"cheng2020-anchor-{quality}"
    if weights == "random":
        return None, Weights(network, "random")
    on_hub = weights in ("auto", "hub")
    file = _hub_file(quality) if on_hub else Path(weights)
    if not file.is_file():
        raise WeightsError(f"weights: got {str(weights)!r}, which is no file, expected auto, hub, random or a path")
    return file, Weights(network, "hub" if on_hub else "file", file.name, sha256(file))


def _hub_file(quality: int) -> Path:
    """The file in torch.hub's cache, fetched if need be, with the hash that its name tells."""
    name = f"cheng2020-anchor-{quality}-{_SHA256[quality]}.pth.tar"
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    url = f"{_URL}/{name}"
    ways_out = (
        f".\nThree ways out: (1) go online once, and it is fetched from {url}, or put that file into {path.parent}; "
        "(2) give the path of a checkpoint in CompressAI's layout as `weights`; "
        "(3) say weights='random' if untrained features are what you want."
    )
    if not path.is_file():
        try:
            urlopen(url, timeout=_ONLINE_SECONDS).close()  # torch.hub alone knows no time-out
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), _SHA256[quality], progress=sys.stderr.isatty())
        except (OSError, RuntimeError, HTTPException) as error:
            raise WeightsError(
                f"weights of 'cheng2020-anchor-{quality}' are not in the local cache, and their download failed "
                f"({error}){ways_out}"
            ) from error
    if not sha256(path).startswith(_SHA256[quality]):
        raise WeightsError(
            f"{path} is cut short or altered (its SHA-256 does not begin with {_SHA256[quality]}): delete it{ways_out}"
        )
    return path

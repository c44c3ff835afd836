"""The classical and pretrained full-reference metrics that the papers' tables compare with.

Every one is computed by piq, torchmetrics or lpips; here stand only the conventions under which it is called (luma or
RGB, data range, downsampling), because the same name under another convention is another number. `table()` prints
them, `REPORTED` lists the tables' methods that none of the three libraries has.

    baseline = load("ms-ssim")                        # or load("lpips-alex", weights="path/to/file.pth")
    baseline.score(reference, distorted)              # (B,)
    prefer(baseline, reference, a, b)                 # (B,) in {0, 0.5, 1}: is B the closer one?

Luma is 0.299 R + 0.587 G + 0.114 B, not rounded to 8 bits as MATLAB's rgb2gray does. Classical metrics compute where
the images are.
"""

import math
import pickle
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch
from urllib.request import urlopen

import lpips
import pandas as pd
import piq
import torch
import torch.nn.functional as F
from piq.pieapp import PieAPPModel
from torch import Tensor, nn
from torchmetrics.functional.image import dists, peak_signal_noise_ratio, universal_image_quality_index
from torchmetrics.functional.regression import mean_squared_error
from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights, VGG16_Weights, vgg16
from torchvision.transforms.functional import resize

from iqa_lib.files import sha256
from iqa_lib.images import check_images
from iqa_lib.weights import Weights, WeightsError

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, fine to coarse (Wang, Simoncelli and Bovik 2003)."""

_BACKBONE = re.compile(r"(?:net\.slice|stage)\d\.(.+\.(?:weight|bias))$")
_PIEAPP_URL = "https://github.com/photosynthesis-team/piq/releases/download/v0.5.4/PieAPPv0.1.pth"
_ONLINE_SECONDS = 5


@dataclass(frozen=True)
class Baseline:
    """One metric under one convention.

    Attributes:
        name: Its key in `BASELINES`.
        label: How tables and figures print it.
        library: The distribution that computes it.
        source: Where it was published.
        convention: Luma or RGB, data range, downsampling, and where the library departs from the publication.
        compute: One reference `(1, 3, H, W)` and its distorted image, in [0, 1], to one number.
        higher_is_better: The direction.
        low: No pair scores below this.
        high: No pair scores above this. Of `low` and `high`, an image compared with itself gets the better one, but
            for VIFp, which is 1 there, and PieAPP, about 0.
        needs_weights: Whether `load` has to find weights first.
        min_size: Shortest side it is defined for.
        max_pixels: Above this many pixels its process would pass 8 GiB, measured on 3:2 images by
            `benchmarks/baselines_memory.py`, and it refuses; `dataclasses.replace(baseline, max_pixels=...)` moves it.
        weights: What `load` gave it.
    """

    name: str
    label: str
    library: str
    source: str
    convention: str
    compute: Callable[[Tensor, Tensor], Tensor]
    higher_is_better: bool
    low: float
    high: float
    needs_weights: bool = False
    min_size: int = 1
    max_pixels: int = 60_000_000
    weights: Weights | None = None

    @torch.no_grad()
    def score(self, reference: Tensor, distorted: Tensor) -> Tensor:
        """Score a batch, image by image: memory is that of one pair, and a score does not depend on its neighbours.

        Args:
            reference: RGB float `(B, 3, H, W)` in [0, 1].
            distorted: The same shape.

        Returns:
            float32 `(B,)`, where the images are.

        Raises:
            ValueError: The images are not as above, too small or too large, or the metric is undefined for a pair (some
                are for flat images).
            WeightsError: It needs weights and did not come from `load`.
        """
        self._check(reference, distorted)
        pairs = zip(reference.split(1), distorted.split(1), strict=True)
        return torch.stack([self._score_one(*pair) for pair in pairs]).to(reference.device)  # (B,)

    def _check(self, reference: Tensor, distorted: Tensor) -> None:
        try:
            check_images(reference, distorted, min_size=self.min_size, max_pixels=self.max_pixels)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    def _score_one(self, reference: Tensor, distorted: Tensor) -> Tensor:
        try:
            score = self.compute(reference.float().contiguous(), distorted.float().contiguous()).reshape(())
        except torch.linalg.LinAlgError as error:
            raise ValueError(f"{self.name} is undefined for this pair (a flat image?): {error}") from error
        if not self.low - 1e-3 <= score <= self.high + 1e-3:
            raise ValueError(f"{self.name} is undefined for this pair (flat images?): it came out as {score:.4g}")
        return score


@dataclass(frozen=True)
class _Network:
    """A pretrained metric: where its weights lie, how it is built without them, how it scores one pair."""

    url: str
    build: Callable[[], nn.Module]
    compute: Callable[[nn.Module, Tensor, Tensor], Tensor]


def load(name: str, *, weights: Path | str | None = None, device: torch.device | str = "cpu") -> Baseline:
    """A baseline ready to score: as it stands in `BASELINES`, or with its network on `device`.

    Args:
        name: A key of `BASELINES`.
        weights: For metrics that need weights, a file to take them from instead of torch.hub's cache: the complete
            state dict of the library's network, or torchvision's file of its backbone (the rest comes with the package).
        device: Where the network computes; its scores come back to where the images are.

    Raises:
        ValueError: Unknown name, or weights for a metric that has none.
        WeightsError: The weights are not to be had, or do not fit. Without network this takes seconds.
    """
    baseline = _find(name)
    if not baseline.needs_weights:
        if weights is not None:
            raise ValueError(f"{name}: got weights={str(weights)!r}, but has no network: leave them out")
        return baseline
    network, found = load_network(name, weights=weights, device=device)
    return replace(baseline, compute=partial(_NETWORKS[name].compute, network), weights=found)


def load_lpips(net: str, *, weights: Path | str | None = None, device: torch.device | str = "cpu") -> lpips.LPIPS:
    """The lpips package's own network, `net` being alex, vgg or squeeze; for `lpips_maps`. Otherwise like `load`."""
    return load_network(f"lpips-{net}", weights=weights, device=device)[0]


def available(name: str, weights: Path | str | None = None) -> bool:
    """Whether `load` would find what it needs on this machine, without going online and without reading it."""
    if not _find(name).needs_weights:
        return True
    return Path(weights or _cached(name)).is_file()


def prefer(baseline: Baseline, reference: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Which of two images the metric holds closer to the reference.

    Returns:
        `(B,)`: 1 where B is closer, 0 where A is, 0.5 where they tie. What a tie counts is chosen by
        `iqa_lib.metrics.two_afc_accuracy(ties=...)`: the CLIC rule takes it for A, BAPPS gives it half.
    """
    return preference(baseline, baseline.score(reference, a), baseline.score(reference, b))


def preference(baseline: Baseline, score_a, score_b):
    """What `prefer` returns, from the scores of A and of B: tensors or arrays `(B,)`."""
    b_is_closer = score_b > score_a if baseline.higher_is_better else score_b < score_a
    return 1.0 * b_is_closer + 0.5 * (score_a == score_b)


def table() -> pd.DataFrame:
    """All baselines, one a row: library and version, convention, direction, range, limits, whether weights are here."""
    return pd.DataFrame([_row(baseline) for baseline in BASELINES.values()]).set_index("name")


def _row(baseline: Baseline) -> dict[str, object]:
    return {
        "name": baseline.name,
        "metric": baseline.label,
        "library": f"{baseline.library} {version(baseline.library)}",
        "convention": baseline.convention,
        "better": "higher" if baseline.higher_is_better else "lower",
        "range": f"{baseline.low:g} to {baseline.high:g}",
        "smallest side": baseline.min_size,
        "largest Mpx": baseline.max_pixels / 1e6,
        "needs weights": baseline.needs_weights,
        "weights here": available(baseline.name) if baseline.needs_weights else None,
        "source": baseline.source,
    }


def _find(name: str) -> Baseline:
    if name not in BASELINES:
        raise ValueError(f"baseline {name!r} is unknown, expected one of {', '.join(BASELINES)}")
    return BASELINES[name]


# Spatial maps


@torch.no_grad()
def ms_ssim_maps(reference: Tensor, distorted: Tensor) -> list[Tensor]:
    """What MS-SSIM sees, scale by scale, fine to coarse: contrast and structure; on the last scale also luminance.

    The product over scales of `mean(map) ** MS_SSIM_WEIGHTS[scale]`, negative means taken as 0, is the score of
    "ms-ssim". 1 is best.

    Returns:
        Five maps `(B, 1, h, w)`, 10 px smaller than their scale (11x11 crops that lie inside).
    """
    BASELINES["ms-ssim"]._check(reference, distorted)
    x, y = _luma(reference.float()), _luma(distorted.float())
    maps = []
    for scale in range(len(MS_SSIM_WEIGHTS)):
        if scale:
            x, y = _halve(x), _halve(y)
        luminance, contrast = _ssim_terms(x, y)  # (B, 1, h, w)
        maps.append(contrast)
    return [*maps[:-1], luminance * contrast]


def _halve(image: Tensor) -> Tensor:
    """Average 2x2 pixels; where a side is odd, after doubling the first row and column, as piq does."""
    odd = max(side % 2 for side in image.shape[2:])
    return F.avg_pool2d(F.pad(image, (odd, 0, odd, 0), mode="replicate"), 2)


def _ssim_terms(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    crop = piq.functional.gaussian_filter(11, 1.5, device=x.device, dtype=x.dtype)[None]  # (1, 1, 11, 11)
    mean_x, mean_y, xx, yy, xy = (F.conv2d(image, crop) for image in (x, y, x * x, y * y, x * y))
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    variance = xx - mean_x**2 + yy - mean_y**2
    return luminance, (2 * (xy - mean_x * mean_y) + 0.03**2) / (variance + 0.03**2)


@torch.no_grad()
def lpips_maps(net: lpips.LPIPS, reference: Tensor, distorted: Tensor) -> list[Tensor]:
    """1 - LPIPS at every place of every layer, before pooling; 1 is best.

    The sum over layers of `mean(1 - map)` is the LPIPS distance.

    Args:
        net: As from `load_lpips`.
        reference: RGB float `(B, 3, H, W)` in [0, 1].
        distorted: The same shape.

    Returns:
        One map `(B, 1, h, w)` a layer, shallow to deep (alex and vgg 5, squeeze 7), on the network's device.
    """
    BASELINES[f"lpips-{net.pnet_type}"]._check(reference, distorted)
    device = net.scaling_layer.scale.device
    features = [net.net(net.scaling_layer(2 * image.float().to(device) - 1)) for image in (reference, distorted)]
    normed = [[lpips.normalize_tensor(layer) for layer in layers] for layers in features]
    return [1 - lin((r - d) ** 2) for lin, r, d in zip(net.lins, *normed, strict=True)]


# How each metric is called: compute(reference, distorted), one pair


def _luma(image: Tensor) -> Tensor:
    """`(B, 3, H, W)` to `(B, 1, H, W)`, in [0, 1]."""
    return piq.functional.rgb2yiq(image)[:, :1].clamp(0, 1)


def _on_luma(compute: Callable[[Tensor, Tensor], Tensor], *, peak: float = 1.0) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda reference, distorted: compute(_luma(reference) * peak, _luma(distorted) * peak)


def _piq(metric: Callable[..., Tensor], **options: object) -> Callable[[Tensor, Tensor], Tensor]:
    options |= {"data_range": 1.0, "reduction": "none"}  # piq asserts the range to the last bit
    return lambda reference, distorted: metric(distorted.clamp(0, 1), reference.clamp(0, 1), **options)


def _psnr(reference: Tensor, distorted: Tensor) -> Tensor:
    return peak_signal_noise_ratio(distorted, reference, data_range=1.0)


def _uqi(reference: Tensor, distorted: Tensor) -> Tensor:
    """torchmetrics' UQI in bands of rows that overlap by 10: each 11x11 crop lies in one band, so this is exact."""
    crops = reference.shape[2] - 10
    total = 0
    for top in range(0, crops, 512):
        rows = slice(top, min(top + 512, crops) + 10)
        total += universal_image_quality_index(distorted[:, :, rows], reference[:, :, rows]) * (rows.stop - top - 10)
    return total / crops


def _lpips(network: nn.Module, reference: Tensor, distorted: Tensor) -> Tensor:
    device = network.scaling_layer.scale.device
    return network(reference.to(device), distorted.to(device), normalize=True)


def _dists(network: nn.Module, reference: Tensor, distorted: Tensor, *, side: int | None) -> Tensor:
    pair = distorted.to(network.mean.device), reference.to(network.mean.device)
    if side and min(reference.shape[2:]) > side:
        pair = (resize(image, [side], antialias=True) for image in pair)
    return network(*pair)


def _pieapp(network: PieAPPModel, reference: Tensor, distorted: Tensor) -> Tensor:
    """piq's PieAPP at its default stride of 27, one row of 64 px patches at a time: all at once take 1.5 MB a patch."""
    device = network.fc1_score.weight.device
    weighted = total = 0
    for top in range(0, reference.shape[2] - 63, 27):
        rows = [255 * image[:, :, top : top + 64].to(device) for image in (reference, distorted)]
        (features_r, weights_r), (features_d, weights_d) = (
            network(piq.functional.crop_patches(row, size=64, stride=27)) for row in rows
        )
        distance, weight = network.compute_difference(features_r - features_d, weights_r - weights_d)
        weighted, total = weighted + (distance * weight).sum(), total + weight.sum()
    return weighted / total


def _not_loaded(name: str, reference: Tensor, distorted: Tensor) -> Tensor:
    raise WeightsError(f"{name} has no weights yet: use baselines.load({name!r}).score(...)")


# Networks and their weights


def _build_lpips(net: str) -> lpips.LPIPS:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torchvision")  # lpips speaks torchvision's older dialect
        return lpips.LPIPS(net=net, pnet_rand=True, verbose=False)


def _build_dists() -> nn.Module:
    """torchmetrics' network with its alpha and beta, but without the download that its constructor makes."""
    with patch.object(dists, "vgg16", lambda weights: vgg16()):
        return dists.DISTSNetwork()


_NETWORKS = {
    "lpips-alex": _Network(AlexNet_Weights.IMAGENET1K_V1.url, partial(_build_lpips, "alex"), _lpips),
    "lpips-vgg": _Network(VGG16_Weights.IMAGENET1K_V1.url, partial(_build_lpips, "vgg"), _lpips),
    "lpips-squeeze": _Network(SqueezeNet1_1_Weights.IMAGENET1K_V1.url, partial(_build_lpips, "squeeze"), _lpips),
    "dists": _Network(VGG16_Weights.IMAGENET1K_V1.url, _build_dists, partial(_dists, side=256)),
    "dists-full": _Network(VGG16_Weights.IMAGENET1K_V1.url, _build_dists, partial(_dists, side=None)),
    "pieapp": _Network(_PIEAPP_URL, PieAPPModel, _pieapp),
}


def load_network(
    name: str, *, weights: Path | str | None = None, device: torch.device | str = "cpu"
) -> tuple[nn.Module, Weights]:
    """A pretrained metric's own network, in eval mode and without gradients, and what its weights are.

    Args and errors like `load`; `weights="random"` leaves it untrained.
    """
    if not _find(name).needs_weights:
        raise ValueError(f"{name} has no network, expected one of {', '.join(_NETWORKS)}")
    if weights == "random":
        return _NETWORKS[name].build().eval().requires_grad_(False).to(device), Weights(name, "random")
    path = Path(weights) if weights else _from_hub(name)
    state = _read_state(name, path)
    with torch.random.fork_rng(devices=[]):
        network = _NETWORKS[name].build()
    try:
        network.load_state_dict(_complete(network, state))
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"{path} does not hold the weights of {name}: {error}.{_ways_out(name)}") from error
    found = Weights(name, "file" if weights else "hub", path.name, sha256(path))
    return network.eval().requires_grad_(False).to(device), found


def _complete(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with every key of the network, whichever of the known layouts `state` is in."""
    own = network.state_dict()
    if "features.0.weight" in state and any(map(_BACKBONE.match, own)):  # torchvision's backbone
        return own | {key: state[f"features.{match[1]}"] for key in own if (match := _BACKBONE.match(key))}
    if "ref_score_subtract.weight" in state:  # piq's PieAPP file holds this 1x1 matrix as a vector
        return state | {"ref_score_subtract.weight": state["ref_score_subtract.weight"].reshape(1, 1)}
    return state


def _read_state(name: str, path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{path} cannot be read as weights of {name}: {error}.{_ways_out(name)}") from error
    if not isinstance(state, dict):
        raise WeightsError(f"{path} holds a {type(state).__name__}, expected a state dict.{_ways_out(name)}")
    return state


def _cached(name: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(_NETWORKS[name].url).name


def _from_hub(name: str) -> Path:
    """The file in torch.hub's cache, fetched if need be, and checked where its name tells its hash."""
    path, url = _cached(name), _NETWORKS[name].url
    prefix = match[1] if (match := re.search(r"-([0-9a-f]{8})\.pth$", path.name)) else None
    if not path.is_file():
        try:
            urlopen(url, timeout=_ONLINE_SECONDS).close()  # torch.hub alone knows no time-out
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix)
        except (OSError, RuntimeError) as error:
            raise WeightsError(f"{name} needs weights that are not here ({error}).{_ways_out(name)}") from error
    elif prefix and not sha256(path).startswith(prefix):
        raise WeightsError(
            f"{path} is cut short or altered: its SHA-256 does not begin with {prefix}.{_ways_out(name)}"
        )
    return path


def _ways_out(name: str) -> str:
    path = _cached(name)
    return (
        f"\nThree ways out: (1) put {path.name} into {path.parent}; (2) give weights=<path> of that file, or of a "
        f"complete state dict of the network; (3) go online once, and it is fetched from {_NETWORKS[name].url}"
    )


# The baselines

_AVERAGED = "averaged down by round(shortest side / 256)"
_LPIPS = "RGB, data range [-1, 1], full size, version 0.1 with its linear layers"

_higher = partial(Baseline, higher_is_better=True, low=0, high=1)
_lower = partial(Baseline, higher_is_better=False, low=0, high=math.inf)


def _pretrained(name: str, *fields: str, **options: float) -> Baseline:
    return _lower(name, *fields, partial(_not_loaded, name), needs_weights=True, **options)


# fmt: off
_ROWS = (
    _higher("psnr", "PSNR", "torchmetrics", "textbook",
            "RGB, data range 1, full size; equal images give infinity",
            _psnr, high=math.inf),
    _higher("psnr-y", "PSNR (luma)", "torchmetrics", "textbook",
            "luma, data range 1, full size; equal images give infinity",
            _on_luma(_psnr), high=math.inf),
    _lower("mse", "MSE", "torchmetrics", "textbook",
           "RGB, data range 1, full size",
           mean_squared_error, high=1),
    _higher("ssim", "SSIM", "piq", "Wang et al., TIP 2004",
            f"luma, data range 1, {_AVERAGED} as in the authors' ssim.m (block means; theirs filters first), "
            "11x11 Gaussian crops of sigma 1.5 inside the image",
            _on_luma(_piq(piq.ssim)), low=-1, min_size=11),
    _higher("ssim-full", "SSIM (full size)", "piq", "Wang et al., TIP 2004",
            "luma, data range 1, full size as in the authors' ssim_index.m, skimage and pyiqa; crops as ssim",
            _on_luma(_piq(piq.ssim, downsample=False)), low=-1, min_size=11, max_pixels=48_000_000),
    _higher("ms-ssim", "MS-SSIM", "piq", "Wang et al., Asilomar 2003",
            "luma, data range 1, five scales halved by 2x2 means, crops as ssim, negative terms taken as 0",
            _on_luma(_piq(piq.multi_scale_ssim)), min_size=161, max_pixels=48_000_000),
    _higher("iw-ssim", "IW-SSIM", "piq", "Wang and Li, TIP 2011",
            "luma, data range 255, five scales of a Laplacian pyramid; undefined for a flat reference",
            _piq(piq.information_weighted_ssim), min_size=161, max_pixels=28_000_000),
    _higher("uqi", "UQI", "torchmetrics", "Wang and Bovik, SPL 2002",
            "luma, data range 255, full size, crops as ssim (published: 8x8 uniform); flat crops score 0 "
            "or noise (published: 1)",
            _on_luma(_uqi, peak=255), low=-1, min_size=11),
    _higher("vifp", "VIFp", "piq", "Sheikh and Bovik, TIP 2006",
            "luma, data range 255, four scales in the pixel domain: VIFp, not the wavelet VIF; above 1 where contrast "
            "grew",
            _piq(piq.vif_p), high=math.inf, min_size=41, max_pixels=42_000_000),
    _lower("gmsd", "GMSD", "piq", "Xue et al., TIP 2014",
           "luma, data range 1, halved by 2x2 means",
           _piq(piq.gmsd), high=0.5, min_size=2),
    _lower("ms-gmsd", "MS-GMSD", "piq", "Zhang et al., ICASSP 2017",
           "luma, data range 255, four scales from full size halved by 2x2 means",
           _piq(piq.multi_scale_gmsd), high=0.5, min_size=17),
    _higher("fsim", "FSIM", "piq", "Zhang et al., TIP 2011",
            f"luma, data range 255, {_AVERAGED}",
            _piq(piq.fsim, chromatic=False), min_size=2),
    _higher("fsimc", "FSIMc", "piq", "Zhang et al., TIP 2011",
            f"RGB as YIQ, data range 255, {_AVERAGED}",
            _piq(piq.fsim, chromatic=True), min_size=2),
    _higher("vsi", "VSI", "piq", "Zhang et al., TIP 2014",
            f"RGB as LMN, data range 255, {_AVERAGED}; saliency at 256x256",
            _piq(piq.vsi), min_size=2),
    _higher("sr-sim", "SR-SIM", "piq", "Zhang and Li, ICIP 2012",
            f"luma, data range 255, {_AVERAGED}",
            _piq(piq.srsim), min_size=40),
    _higher("haarpsi", "HaarPSI", "piq", "Reisenhofer et al., SPIC 2018",
            "RGB as YIQ, data range 255, halved by 2x2 means; undefined for two black images",
            _piq(piq.haarpsi), min_size=16),
    _lower("mdsi", "MDSI", "piq", "Nafchi et al., IEEE Access 2016",
           f"RGB as LHM, data range 255, {_AVERAGED}",
           _piq(piq.mdsi), high=1, min_size=2),
    _higher("dss", "DSS", "piq", "Balanov et al., ICIP 2015",
            "luma, data range 255, full size, 8x8 DCT blocks",
            _piq(piq.dss), low=-1, min_size=32),
    _pretrained("lpips-alex", "LPIPS (alex)", "lpips", "Zhang et al., CVPR 2018", _LPIPS,
                min_size=31, max_pixels=24_000_000),
    _pretrained("lpips-vgg", "LPIPS (vgg)", "lpips", "Zhang et al., CVPR 2018", _LPIPS,
                min_size=16, max_pixels=2_500_000),
    _pretrained("lpips-squeeze", "LPIPS (squeeze)", "lpips", "Zhang et al., CVPR 2018", _LPIPS,
                min_size=17, max_pixels=8_000_000),
    _pretrained("dists", "DISTS", "torchmetrics", "Ding et al., TPAMI 2022",
                "RGB, data range 1; a shortest side above 256 is brought to 256 (bilinear, antialiased) as in the "
                "authors' script",
                high=2, min_size=16),
    _pretrained("dists-full", "DISTS (full size)", "torchmetrics", "Ding et al., TPAMI 2022",
                "RGB, data range 1, full size as in torchmetrics and pyiqa",
                high=2, min_size=16, max_pixels=5_000_000),
    _pretrained("pieapp", "PieAPP", "piq", "Prashnani et al., CVPR 2018",
                "RGB, data range 255, full size, 64 px patches every 27 px; about 0 for equal images",
                low=-math.inf, min_size=64),
)
# fmt: on

BASELINES: dict[str, Baseline] = {baseline.name: baseline for baseline in _ROWS}
"""Every baseline by name, in the order of the tables; those that need weights score only after `load`."""

REPORTED: dict[str, str] = {
    "VIF": "the wavelet original is in none of the three libraries; the pixel-domain one is `vifp`",
    "NQM": "in none of the three libraries; Python ports are GPL-2 or part of a medical package",
    "RFSIM": "no Python implementation found",
    "GSM": "no Python implementation found",
    "SCQI": "no Python implementation found",
    "MAD": "only an unmaintained port (IQA_pytorch) and noncommercial pyiqa",
    "NLPD": "only an unmaintained port (IQA_pytorch) and noncommercial pyiqa",
    "DOG-SSIMc": "no Python implementation found",
    "DeepQA": "trained network without a packaged implementation",
    "DualCNN": "trained network without a packaged implementation",
    "WaDIQaM-FR": "trained network; packaged only in noncommercial pyiqa, retrained",
    "JND-SalCAR": "trained network without a packaged implementation",
    "IQT": "trained network whose public ports have no weights",
    "RADN": "trained network without a packaged implementation",
    "FFDN": "trained challenge entry without public code",
    "SwinIQA": "trained challenge entry; public test code, not packaged",
    "alexkkir": "trained challenge entry without public code",
    "NIQE": "no-reference; in none of the three libraries",
    "BRISQUE": "no-reference; piq's departs from the authors' (its issue 312)",
    "MA": "no-reference; in none of the three libraries",
    "PI": "no-reference; in none of the three libraries",
}
"""Methods of the papers' tables that are quoted from the papers and not computed here, each with the reason."""

"""The classical and pretrained full-reference metrics that the papers' tables compare with.

piq, torchmetrics or lpips compute them, `iqa_lib.models.st_lpips` ST-LPIPS, and this file MSE and PSNR, for which no
library starts in a second. It holds the conventions under which they are called (luma or RGB, data range,
downsampling), because the same name under another convention is another number. `table()` prints them.

    baseline = load("ms-ssim")                        # or load("lpips-alex", weights="path/to/file.pth")
    baseline.score(reference, distorted)              # (B,)

Luma is 0.299 R + 0.587 G + 0.114 B, not rounded to 8 bits as MATLAB's rgb2gray does. Classical metrics compute where
the images are. A library is imported when one of its metrics first scores.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from iqa_lib.checks import check_choice
from iqa_lib.weights import PACKAGES, Weights, WeightsError, cached_file, load_pretrained, packaged_file

if TYPE_CHECKING:
    import lpips
    import pandas as pd
    import torch
    from torch import Tensor, nn

    from iqa_lib.data.base import IQADataset

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, fine to coarse (Wang, Simoncelli and Bovik 2003)."""


@dataclass(frozen=True)
class Baseline:
    """One metric under one convention.

    Attributes:
        name, label: Its key in `BASELINES`, and its name in tables and figures.
        library, source: The distribution that computes it, and where it was published.
        convention: Luma or RGB, data range, downsampling, and where the library departs from the publication.
        compute: One reference `(1, 3, H, W)` and its distorted image, in [0, 1], to one number.
        prepare: Makes of a reference what `compute` can take in its place for all its distorted images.
        low: No pair scores below this, none above `high`.
        equal: The score of an image compared with itself, where it is not the better one of the two.
        build: For a metric that needs weights, makes its network, which `load` binds as the first argument of `compute`
            and `prepare`.
        min_size: Shortest side it is defined for.
        max_pixels: With more pixels its process would pass 8 GiB, measured on 3:2 images by
            `benchmarks/baselines_memory.py`, and it refuses; `dataclasses.replace(baseline, max_pixels=...)` moves it.
        weights: What `load` found for it.
        device: Where it computes, wherever the images are; None: where they are.
    """

    name: str
    label: str
    library: str
    source: str
    convention: str
    compute: Callable[..., Tensor]
    higher_is_better: bool
    low: float
    high: float
    build: Callable[[], nn.Module] | None = None
    prepare: Callable[..., object] | None = None
    equal: float | None = None
    min_size: int = 1
    max_pixels: int = 60_000_000
    weights: Weights | None = None
    device: torch.device | None = None

    @property
    def needs_weights(self) -> bool:
        return self.build is not None

    @property
    def best(self) -> float:
        """The score of an image compared with itself."""
        return self.equal if self.equal is not None else self.high if self.higher_is_better else self.low

    def score(self, reference: Tensor, distorted: Tensor) -> Tensor:
        """Score RGB float images `(B, 3, H, W)` in [0, 1]: float32 `(B,)`, where the images are.

        One by one: memory is that of one pair, and a score does not depend on its neighbours. Other images, too small
        or too large, raise ValueError, as does a pair for which the metric is undefined (some flat ones); a metric that
        needs weights and is not from `load` raises WeightsError. A warning says so where a metric is blind: it gives
        two images that differ the score of equal ones. Distorted images that require a gradient get one; their values
        are not checked. (FSIM's, FSIMc's and VSI's is not the slope of the score; MDSI's, PSNR's, GMSD's and their
        variants' is not finite where the images are equal.)
        """
        import torch

        from iqa_lib.devices import to_device

        self.check(reference, distorted)
        pairs = zip(reference.split(1), distorted.split(1), strict=True)
        return to_device(torch.stack([self.scorer(r)(d) for r, d in pairs]), reference.device)  # (B,)

    def scorer(self, reference: Tensor) -> Callable[[Tensor], Tensor]:
        """`score` for one reference `(1, 3, H, W)`: a function of distorted images of its size, for one after another.

        What depends on the reference alone is computed once. Returns numbers `()`; errors are those of `score`.
        """
        import torch

        from iqa_lib.devices import exact_kernels

        if self.needs_weights and self.weights is None:
            raise WeightsError(f"{self.name} has no weights yet: use baselines.load({self.name!r}).score(...)")
        self.check(reference, reference)
        seen = reference.float().contiguous()
        with torch.no_grad(), exact_kernels():
            prepared = self.prepare(seen) if self.prepare else seen

        def score(distorted: Tensor) -> Tensor:
            self.check(reference, distorted)
            with torch.set_grad_enabled(torch.is_grad_enabled() and distorted.requires_grad), exact_kernels():
                found = self._score_one(prepared, distorted)
            if found == self.best and not torch.equal(reference, distorted):
                warnings.warn(
                    f"{self.name} is blind here: it scores two images that differ as equal ones", stacklevel=3
                )
            return found

        return score

    def check(self, reference: Tensor, distorted: Tensor) -> None:
        """Raise ValueError unless `score` takes these images."""
        from iqa_lib.images import check_images

        try:
            check_images(reference, distorted, min_size=self.min_size, max_pixels=self.max_pixels)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    def _score_one(self, prepared: Tensor | object, distorted: Tensor) -> Tensor:
        from torch.linalg import LinAlgError

        distorted = distorted.float().contiguous()
        try:
            score = self.compute(prepared, distorted).reshape(())
            if not self.low <= score <= self.high and not self.needs_weights:  # flat images cancel out in float32
                score = self.compute(prepared.double(), distorted.double()).reshape(()).float()
        except LinAlgError as error:
            raise ValueError(f"{self.name} is undefined for this pair (a flat image?): {error}") from error
        if not self.low - 1e-3 <= score <= self.high + 1e-3:
            raise ValueError(f"{self.name} is undefined for this pair (flat images?): got {score:.4g}")
        return score.clamp(self.low, self.high)


def load(name: str, *, weights: Path | str | None = None, device: torch.device | str = "cpu") -> Baseline:
    """A baseline ready to score: as in `BASELINES`, or with its network on `device`.

    `weights`, for metrics that need them: see `iqa_lib.weights.load_pretrained`; None is `"auto"`.

    An unknown name, or weights for a metric that has none, raise ValueError; weights that are not found, which offline
    takes seconds, or do not fit, raise WeightsError.
    """
    check_choice(BASELINES, baseline=name)
    baseline = BASELINES[name]
    if not baseline.needs_weights:
        if weights is not None:
            raise ValueError(f"weights: got {str(weights)!r}, but {name} has no network: leave them out")
        return baseline
    from iqa_lib.devices import device_of, to_device

    network, found = load_pretrained(name, baseline.build, weights or "auto")
    network = to_device(network, device)
    prepare = baseline.prepare and partial(baseline.prepare, network)
    compute = partial(baseline.compute, network)
    return replace(baseline, compute=compute, prepare=prepare, weights=found, device=device_of(network))


def load_lpips(net: str, *, weights: Path | str | None = None, device: torch.device | str = "cpu") -> lpips.LPIPS:
    """The lpips package's own network, `net` being alex, vgg or squeeze; for `lpips_maps`. Otherwise like `load`."""
    check_choice(("alex", "vgg", "squeeze"), net=net)
    return load(f"lpips-{net}", weights=weights, device=device).compute.args[0]


def available(name: str, weights: Path | str | None = None) -> bool:
    """Whether `load` would find what it needs on this machine, without going online and without reading it."""
    check_choice(BASELINES, baseline=name)
    if not BASELINES[name].needs_weights:
        return True
    file = weights or (packaged_file(name) if name in PACKAGES else cached_file(name))
    return file is not None and Path(file).is_file()


def fits(name: str, dataset: IQADataset) -> bool:
    """Whether the images of a data set's first record are large enough for a metric."""
    return min(dataset.read(0)[0].shape[1:]) >= BASELINES[name].min_size


def b_is_closer(metric, score_a, score_b):
    """1 where a metric holds B closer to the reference, 0 where A, 0.5 where they tie; from its scores of A and of B.

    The scores are numbers, tensors or arrays; the metric is anything with `higher_is_better`. What a tie counts is
    chosen by `iqa_lib.metrics.two_afc_accuracy(ties=...)`: the CLIC rule takes it for A, BAPPS gives it half.
    """
    closer = score_b > score_a if metric.higher_is_better else score_b < score_a
    return 1.0 * closer + 0.5 * (score_a == score_b)


def table() -> pd.DataFrame:
    """All baselines, one a row: library and version, convention, direction, range, limits, whether weights are here."""
    import pandas as pd

    rows = {
        name: {
            "metric": row.label,
            "library": f"{row.library} {version(row.library)}",
            "convention": row.convention,
            "better": "higher" if row.higher_is_better else "lower",
            "range": f"{row.low:g} to {row.high:g}",
            "smallest side": row.min_size,
            "largest Mpx": row.max_pixels / 1e6,
            "needs weights": row.needs_weights,
            "weights here": available(name) if row.needs_weights else None,
            "source": row.source,
        }
        for name, row in BASELINES.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")


def ms_ssim_maps(reference: Tensor, distorted: Tensor) -> list[Tensor]:
    """The maps behind MS-SSIM, fine to coarse: contrast and structure; on the last scale also luminance. 1 is best.

    All five are `(B, 1, h, w)`, 10 px smaller than their scale (an 11x11 kernel inside the image). The product over
    scales of `mean(map) ** MS_SSIM_WEIGHTS[scale]`, negative means taken as 0, is the score of "ms-ssim".
    """
    import torch
    from piq.functional import gaussian_filter
    from torch.nn.functional import avg_pool2d, conv2d, pad

    BASELINES["ms-ssim"].check(reference, distorted)
    kernel = gaussian_filter(11, 1.5, device=reference.device, dtype=torch.float32)[None]  # (1, 1, 11, 11)
    maps = []
    with torch.no_grad():
        x, y = luma(reference.float()), luma(distorted.float())
        for scale in range(len(MS_SSIM_WEIGHTS)):
            if scale:  # 2x2 means; if a side is odd, the first row and column are doubled before, as in piq
                odd = max(side % 2 for side in x.shape[2:])
                x, y = (avg_pool2d(pad(image, (odd, 0, odd, 0), mode="replicate"), 2) for image in (x, y))
            mean_x, mean_y, xx, yy, xy = (conv2d(image, kernel) for image in (x, y, x * x, y * y, x * y))
            luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
            variance = xx - mean_x**2 + yy - mean_y**2
            maps.append((2 * (xy - mean_x * mean_y) + 0.03**2) / (variance + 0.03**2))
    return [*maps[:-1], luminance * maps[-1]]


def lpips_maps(net: lpips.LPIPS, reference: Tensor, distorted: Tensor) -> list[Tensor]:
    """1 - LPIPS at every place of every layer, before pooling; 1 is best. `net` is as from `load_lpips`.

    One map `(B, 1, h, w)` a layer, shallow to deep (alex and vgg 5, squeeze 7), on the network's device. The sum over
    layers of `mean(1 - map)` is the LPIPS distance.
    """
    import torch
    from lpips import normalize_tensor

    BASELINES[f"lpips-{net.pnet_type}"].check(reference, distorted)
    with torch.no_grad():
        pair = _beside(net, reference.float(), distorted.float())
        layers = zip(net.lins, *(net.net(net.scaling_layer(2 * image - 1)) for image in pair), strict=True)
        return [1 - lin((normalize_tensor(r) - normalize_tensor(d)) ** 2) for lin, r, d in layers]


def luma(image: Tensor) -> Tensor:
    """`(B, 3, H, W)` to `(B, 1, H, W)`, in [0, 1]."""
    from piq.functional import rgb2yiq

    return rgb2yiq(image)[:, :1].clamp(0, 1)


def _on_luma(compute: Callable[..., Tensor], *, peak: float = 1.0) -> Callable[..., Tensor]:
    return lambda reference, distorted: compute(luma(reference) * peak, luma(distorted) * peak)


def _library(function: str, **options: object) -> Callable[..., Tensor]:
    """A library's function, imported when it is first called: the distorted image comes first in all of them."""
    return lambda reference, distorted: resolve_name(function)(distorted, reference, **options)


def _piq(metric: str, **options: object) -> Callable[..., Tensor]:
    compute = _library(f"piq:{metric}", data_range=1.0, reduction="none", **options)
    return lambda *pair: compute(*(image.clamp(0, 1) for image in pair))  # piq asserts the range to the last bit


def _mse(reference: Tensor, distorted: Tensor) -> Tensor:
    return (reference - distorted).square().mean()


def _psnr(reference: Tensor, distorted: Tensor) -> Tensor:
    return -_mse(reference, distorted).log() * (10 / math.log(10))


def _uqi(reference: Tensor, distorted: Tensor) -> Tensor:
    """UQI in float64: in float32, the variances of smooth places cancel out, and the quotients reach -1e9.

    As in the authors' code, a place where both images are flat is judged by its luminance alone, two black ones are
    equal. In bands of rows that overlap by 10: each 11x11 kernel is inside one band, so this is exact.
    """
    import torch
    from piq.functional import gaussian_filter
    from torch.nn.functional import conv2d

    kernel = gaussian_filter(11, 1.5, device=reference.device, dtype=torch.float64)[None]  # (1, 1, 11, 11)
    across, down = kernel.sum(2, keepdim=True), kernel.sum(3, keepdim=True)  # whose product it is
    total, (height, width) = 0, (side - 10 for side in reference.shape[2:])
    for top in range(0, height, 512):
        x, y = (image[:, :, top : top + 522].double() for image in (reference, distorted))
        mean_x, mean_y, xx, yy, xy = (conv2d(conv2d(i, across), down) for i in (x, y, x * x, y * y, x * y))
        power, variance = mean_x**2 + mean_y**2, xx - mean_x**2 + yy - mean_y**2
        luminance = torch.where(power > 0, 2 * mean_x * mean_y / power, 1)
        structure = torch.where(variance > 1e-9, 2 * (xy - mean_x * mean_y) / variance, 1)  # 1e-8: 1 bit of blue
        total += (luminance * structure).sum((1, 2, 3))
    return (total / (height * width)).float()  # (B,)


def _beside(network: nn.Module, *images: Tensor) -> list[Tensor]:
    """The images on the network's device."""
    from iqa_lib.devices import device_of, to_device

    return to_device(list(images), device_of(network))


def _dists(network: nn.Module, reference: Tensor, distorted: Tensor, *, side: int | None = None) -> Tensor:
    from torchvision.transforms.functional import resize

    pair = _beside(network, distorted, reference)
    if side and min(reference.shape[2:]) > side:
        pair = [resize(image, [side], antialias=True) for image in pair]
    return network(*pair)


def _pieapp(network: nn.Module, reference: Tensor, distorted: Tensor) -> Tensor:
    """piq's PieAPP at its default stride of 27, one row of 64 px patches at a time: all at once take 1.5 MB a patch."""
    from piq.functional import crop_patches

    weighted = total = 0
    for top in range(0, reference.shape[2] - 63, 27):
        rows = _beside(network, reference[:, :, top : top + 64], distorted[:, :, top : top + 64])
        features, weights = zip(*(network(crop_patches(255 * row, size=64, stride=27)) for row in rows), strict=True)
        distance, weight = network.compute_difference(features[0] - features[1], weights[0] - weights[1])
        weighted, total = weighted + (distance * weight).sum(), total + weight.sum()
    return weighted / total


def _build_dists() -> nn.Module:
    """torchmetrics' network with its alpha and beta, put together without its constructor, which downloads VGG16."""
    import torch
    from torchmetrics.functional.image import dists
    from torchvision.models import vgg16

    network = dists.DISTSNetwork.__new__(dists.DISTSNetwork)
    torch.nn.Module.__init__(network)
    network.chns = [3, 64, 128, 256, 512, 512]
    layers, pools = vgg16().features, (4, 9, 16, 23)
    for pool, channels in zip(pools, network.chns[1:], strict=False):
        layers[pool] = dists.L2pooling(channels=channels)
    for stage, (start, end) in enumerate(pairwise((0, *pools, 30)), 1):
        network.add_module(f"stage{stage}", layers[start:end])
    for name, values in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
        network.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1))
    for name, values in torch.load(Path(dists.__file__).parent / "dists_models/weights.pt").items():  # alpha, beta
        network.register_parameter(name, torch.nn.Parameter(values))
    return network


_AVERAGED = "averaged down by round(shortest side / 256)"

_higher = partial(Baseline, higher_is_better=True, low=0, high=1)
_lower = partial(Baseline, higher_is_better=False, low=0, high=math.inf)


def _lpips(net: str, **limits: int) -> Baseline:
    return _lower(
        *(f"lpips-{net}", f"LPIPS ({net})", "lpips", "Zhang et al., CVPR 2018"),
        "RGB, data range [-1, 1], full size, version 0.1 with its linear layers",
        lambda network, *pair: network(*_beside(network, *pair), normalize=True),
        build=lambda: resolve_name("iqa_lib.models.lpips_plus:build_lpips")(net),
        **limits,
    )


def _st_lpips(net: str, **limits: int) -> Baseline:
    return _lower(
        *(f"st-lpips-{net}", f"ST-LPIPS ({net})", "iqa_lib", "Ghildyal and Liu, ECCV 2022"),
        "RGB, data range [-1, 1], full size, weights of the package stlpips-pytorch",
        lambda network, features, distorted: network(features, *_beside(network, distorted)),
        prepare=lambda network, reference: network.extract(*_beside(network, reference)),
        build=lambda: resolve_name("iqa_lib.models.st_lpips:STNetwork")(net),
        **limits,
    )


# fmt: off
_ROWS = (
    _higher("psnr", "PSNR", "iqa_lib", "textbook", "RGB, data range 1, full size; equal images give infinity",
            _psnr, high=math.inf),
    _higher("psnr-y", "PSNR (luma)", "iqa_lib", "textbook",
            "luma, data range 1, full size; equal images give infinity", _on_luma(_psnr), high=math.inf),
    _lower("mse", "MSE", "iqa_lib", "textbook", "RGB, data range 1, full size", _mse, high=1),
    _higher("ssim", "SSIM", "piq", "Wang et al., TIP 2004",
            f"luma, data range 1, {_AVERAGED} as in the authors' ssim.m (block means; theirs filters first), "
            "11x11 Gaussian kernel of sigma 1.5 inside the image",
            _on_luma(_piq("ssim")), low=-1, min_size=11),
    _higher("ssim-full", "SSIM (full size)", "piq", "Wang et al., TIP 2004",
            "luma, data range 1, full size as in the authors' ssim_index.m, skimage and pyiqa; kernel as ssim",
            _on_luma(_piq("ssim", downsample=False)), low=-1, min_size=11, max_pixels=48_000_000),
    _higher("ms-ssim", "MS-SSIM", "piq", "Wang et al., Asilomar 2003",
            "luma, data range 1, five scales halved by 2x2 means, kernel as ssim, negative terms taken as 0",
            _on_luma(_piq("multi_scale_ssim")), min_size=161, max_pixels=48_000_000),
    _higher("iw-ssim", "IW-SSIM", "piq", "Wang and Li, TIP 2011",
            "luma, data range 255, five scales of a Laplacian pyramid; undefined for a flat reference",
            _piq("information_weighted_ssim"), min_size=161, max_pixels=28_000_000),
    _higher("uqi", "UQI", "iqa_lib", "Wang and Bovik, SPL 2002",
            "luma, data range 255, full size, kernel as ssim (published: 8x8 uniform), float64; places flat in both "
            "images are judged by luminance alone", _on_luma(_uqi, peak=255), low=-1, min_size=11),
    _higher("vifp", "VIFp", "piq", "Sheikh and Bovik, TIP 2006",
            "luma, data range 255, four scales in the pixel domain: VIFp, not the wavelet VIF; above 1 where contrast "
            "is raised", _piq("vif_p"), high=math.inf, equal=1, min_size=41, max_pixels=42_000_000),
    _lower("gmsd", "GMSD", "piq", "Xue et al., TIP 2014", "luma, data range 1, halved by 2x2 means",
           _piq("gmsd"), high=0.5, min_size=6),
    _lower("ms-gmsd", "MS-GMSD", "piq", "Zhang et al., ICASSP 2017",
           "luma, data range 255, four scales from full size halved by 2x2 means",
           _piq("multi_scale_gmsd"), high=0.5, min_size=17),
    _higher("fsim", "FSIM", "piq", "Zhang et al., TIP 2011", f"luma, data range 255, {_AVERAGED}",
            _piq("fsim", chromatic=False), min_size=2),
    _higher("fsimc", "FSIMc", "piq", "Zhang et al., TIP 2011", f"RGB as YIQ, data range 255, {_AVERAGED}",
            _piq("fsim", chromatic=True), min_size=2),
    _higher("vsi", "VSI", "piq", "Zhang et al., TIP 2014",
            f"RGB as LMN, data range 255, {_AVERAGED}; saliency at 256x256", _piq("vsi"), min_size=2),
    _higher("sr-sim", "SR-SIM", "piq", "Zhang and Li, ICIP 2012", f"luma, data range 255, {_AVERAGED}",
            _piq("srsim"), min_size=40),
    _higher("haarpsi", "HaarPSI", "piq", "Reisenhofer et al., SPIC 2018",
            "RGB as YIQ, data range 255, halved by 2x2 means; undefined for two black images",
            _piq("haarpsi"), min_size=16),
    _lower("mdsi", "MDSI", "piq", "Nafchi et al., IEEE Access 2016", f"RGB as LHM, data range 255, {_AVERAGED}",
           _piq("mdsi"), high=1, min_size=2),
    _higher("dss", "DSS", "piq", "Balanov et al., ICIP 2015", "luma, data range 255, full size, 8x8 DCT blocks",
            _piq("dss"), low=-1, min_size=32),
    _lpips("alex", min_size=31, max_pixels=24_000_000),
    _lpips("vgg", min_size=16, max_pixels=2_500_000),
    _lpips("squeeze", min_size=17, max_pixels=8_000_000),
    _st_lpips("alex", min_size=21, max_pixels=7_000_000),
    _st_lpips("vgg", min_size=18, max_pixels=4_000_000),
    _lower("dists", "DISTS", "torchmetrics", "Ding et al., TPAMI 2022",
           "RGB, data range 1; a shortest side above 256 is resized to 256 (bilinear, antialiased) as in the authors' "
           "script", partial(_dists, side=256), build=_build_dists, high=2, min_size=16),
    _lower("dists-full", "DISTS (full size)", "torchmetrics", "Ding et al., TPAMI 2022",
           "RGB, data range 1, full size as in torchmetrics and pyiqa",
           _dists, build=_build_dists, high=2, min_size=16, max_pixels=5_000_000),
    _lower("pieapp", "PieAPP", "piq", "Prashnani et al., CVPR 2018",
           "RGB, data range 255, full size, 64 px patches every 27 px; about 0 for equal images",
           _pieapp, build=lambda: resolve_name("piq.pieapp:PieAPPModel")(), low=-math.inf, equal=0, min_size=64),
)
# fmt: on

BASELINES: dict[str, Baseline] = {baseline.name: baseline for baseline in _ROWS}
"""Every baseline by name, in the order of the tables; those that need weights score only after `load`."""

REPORTED: dict[str, str] = {
    "VIF": "the wavelet original is in none of the three libraries; the pixel-domain one is `vifp`",
    "NQM": "in none of the three libraries; Python ports are GPL-2 or part of a medical package",
    **dict.fromkeys(("RFSIM", "GSM", "SCQI", "DOG-SSIMc"), "no Python implementation found"),
    **dict.fromkeys(("MAD", "NLPD"), "only an unmaintained port (IQA_pytorch) and noncommercial pyiqa"),
    **dict.fromkeys(("DeepQA", "DualCNN", "JND-SalCAR", "RADN"), "trained network without a packaged implementation"),
    "WaDIQaM-FR": "trained network; packaged only in noncommercial pyiqa, retrained",
    "IQT": "trained network whose public ports have no weights",
    **dict.fromkeys(("FFDN", "alexkkir"), "trained challenge entry without public code"),
    "SwinIQA": "trained challenge entry; public test code, not packaged",
    **dict.fromkeys(("NIQE", "MA", "PI"), "no-reference; in none of the three libraries"),
    "BRISQUE": "no-reference; piq's departs from the authors' (its issue 312)",
}
"""Methods of the papers' tables that are quoted from the papers and not computed here, each with the reason."""

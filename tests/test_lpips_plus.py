"""LPIPS+: plain LPIPS is the lpips package's, the weighted mean is equation 1, the reference comes first."""

import hashlib

import pytest
import skimage.data
import torch
from torch.nn import functional as F

from iqa_lib.baselines import BASELINES
from iqa_lib.models import STLPIPS
from iqa_lib.models.lpips_plus import LPIPSPlus
from iqa_lib.weights import WeightsError

CHANNELS = {
    "alex": (64, 192, 384, 256, 256),
    "vgg": (64, 128, 256, 512, 512),
    "squeeze": (64, 128, 256, 384, 384, 512, 512),
}
NETS = ("alex", "vgg", "squeeze")
nets = pytest.mark.parametrize("net", NETS)


@pytest.fixture(scope="module")
def models():
    """One network of each kind, on random weights; each test chooses the semantic layer."""
    torch.manual_seed(0)
    return {net: LPIPSPlus(net=net, weights="random") for net in NETS}


@pytest.fixture
def model(models, net):
    models[net].semantic_layer = 2
    return models[net]


@pytest.fixture(scope="module")
def photos():
    """Details of photographs, 40 x 53, and what noise makes of them."""
    images = [getattr(skimage.data, name)()[60:100, 90:143] for name in ("chelsea", "coffee", "astronaut")]
    reference = torch.stack([torch.from_numpy(image).permute(2, 0, 1) / 255 for image in images])
    noise = torch.randn(reference.shape, generator=torch.Generator().manual_seed(0))
    return reference, (reference + 0.1 * noise).clamp(0, 1)


def features_by_hand(network, images):
    return list(network.net(network.scaling_layer(2 * images - 1)))


def distance_by_hand(network, reference, distorted, layer):
    """Equation 1 with the semantic features at their full number of channels, layer by layer and pair by pair."""
    total = 0
    for m, pair in enumerate(zip(reference, distorted, strict=True)):
        r, d = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in pair)
        lin = getattr(network, f"lin{m}").model[-1].weight
        s = ((r - d) ** 2 * lin).sum(1, keepdim=True)  # (B, 1, h, w)
        w = torch.ones_like(s)
        if layer is not None:
            w = F.interpolate(reference[layer], s.shape[2:], mode="bilinear", align_corners=False)  # (B, C_i, h, w)
        total += torch.stack([(w_b * s_b).sum() / w_b.sum() for w_b, s_b in zip(w, s, strict=True)])
    return total


# --- Equation 1


@nets
@torch.no_grad()
def test_without_semantic_layer_it_is_the_lpips_packages(model, photos):
    model.semantic_layer = None
    expected = model.network(*photos, normalize=True)[:, 0, 0, 0]
    assert expected.std() > 1e-4
    torch.testing.assert_close(model(*photos), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("net", ["alex", "vgg"])
@torch.no_grad()
def test_on_the_networks_of_st_lpips(net, photos):
    """Without a semantic layer it is ST-LPIPS; with one, its maps weighted by the reference's mean features."""
    plain, plus = (LPIPSPlus(net=f"st-{net}", semantic_layer=layer) for layer in (None, 2))
    torch.testing.assert_close(plain(*photos), STLPIPS(net=net)(*photos), rtol=1e-5, atol=1e-7)
    distance, maps = plus(*photos, return_maps=True)
    expected = 0
    for m in range(5):
        size = maps[f"distance_{m}"].shape[2:]
        weight = torch.nn.functional.interpolate(plus.extract(photos[0])[2], size, mode="bilinear").sum(1, keepdim=True)
        weighted = (weight * maps[f"distance_{m}"]).sum((1, 2, 3)) / weight.sum((1, 2, 3))
        expected = expected + weighted
    torch.testing.assert_close(distance, expected, rtol=1e-4, atol=1e-6)
    alike = plus.similarities(photos[0][0], photos[0][0])
    assert all(torch.allclose(x, torch.ones_like(x)) for x in alike)


@nets
@torch.no_grad()
def test_every_layer_as_semantic_weight(model, photos):
    features = [features_by_hand(model.network, images) for images in photos]
    scores = []
    for layer in (None, *range(len(features[0]))):
        model.semantic_layer = layer
        expected = distance_by_hand(model.network, *features, layer)
        torch.testing.assert_close(model(*features), expected, rtol=1e-5, atol=1e-7)
        scores.append(expected[0].item())
    assert len(set(scores)) == len(scores)
    torch.testing.assert_close(model.by_semantic_layer(*features)[0], torch.tensor(scores), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(model(*photos), expected, rtol=1e-5, atol=1e-7)


@torch.no_grad()
def test_weights_are_not_normalised_features(models):
    """Two places, one distance: the reference's activations 3 and 1 make their mean 3/4 d_1 + 1/4 d_2."""
    model = models["alex"]
    model.semantic_layer = 2
    reference, distorted = ([torch.zeros(1, c, 1, 2) for c in CHANNELS["alex"]] for _ in range(2))
    for r, d in zip(reference, distorted, strict=True):
        r[:, 0] = d[:, 0] = torch.tensor([3.0, 1.0])
    distorted[4][:, :2, 0, 0] = torch.tensor([0.0, 1.0])  # another direction at the first place
    change = model.network.lin4.model[-1].weight[0, :2].sum()
    torch.testing.assert_close(model(reference, distorted), 0.75 * change.view(1), rtol=1e-5, atol=0)
    model.semantic_layer = None
    torch.testing.assert_close(model(reference, distorted), 0.5 * change.view(1), rtol=1e-5, atol=0)


@nets
@torch.no_grad()
def test_the_reference_comes_first(model, photos):
    reference, distorted = photos
    assert ((model(reference, distorted) - model(distorted, reference)).abs() > 1e-6).all()
    model.semantic_layer = None
    torch.testing.assert_close(model(reference, distorted), model(distorted, reference), rtol=0, atol=1e-7)


@nets
@torch.no_grad()
def test_a_distance(model, photos):
    reference, distorted = photos
    assert not model.higher_is_better
    assert torch.equal(model(reference, reference), torch.zeros(3))
    nearer, farther = torch.lerp(reference, distorted, 0.5), distorted
    assert (model(reference, nearer) < model(reference, farther)).all()


# --- Maps, batches, features


@nets
@torch.no_grad()
def test_maps(model, photos):
    distance, maps = model(*photos, return_maps=True)
    features, layers = model.extract(photos[0]), range(len(CHANNELS[model.network.pnet_type]))
    assert [x.shape[1] for x in features] == list(CHANNELS[model.network.pnet_type])
    assert sorted(maps) == sorted(f"{name}_{m}" for m in layers for name in ("distance", "activation"))
    for m in layers:
        assert maps[f"distance_{m}"].shape == (3, 1, *features[m].shape[2:])
        assert maps[f"distance_{m}"].min() >= 0
        torch.testing.assert_close(maps[f"activation_{m}"][:, 0], features[m].mean(1))
    assert torch.equal(model(*photos), distance)
    model.semantic_layer = None
    torch.testing.assert_close(model(*photos), sum(maps[f"distance_{m}"].mean((1, 2, 3)) for m in layers))


@nets
@torch.no_grad()
def test_a_batch_equals_its_pairs_one_by_one(model, photos):
    singles = torch.cat([model(*(image[k : k + 1] for image in photos)) for k in range(3)])
    torch.testing.assert_close(model(*photos), singles, rtol=1e-5, atol=1e-7)


@torch.no_grad()
@pytest.mark.parametrize("net", ["squeeze"])
def test_features_in_place_of_images(model, photos):
    assert torch.equal(model(*map(model.extract, photos)), model(*photos))


# --- Nothing is trained


@pytest.mark.parametrize("net", ["squeeze"])
def test_it_stays_in_eval_mode_and_learns_nothing(model, photos):
    before = model(*photos)
    assert torch.equal(model.train()(*photos), before)
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    image = photos[1].clone().requires_grad_()
    model(photos[0], image).sum().backward()
    assert image.grad.any()


# --- Options, weights, limits


def test_weights_from_a_file(tmp_path, models, photos):
    torch.save(models["squeeze"].network.state_dict(), tmp_path / "squeeze.pt")
    again = LPIPSPlus(net="squeeze", weights=tmp_path / "squeeze.pt", semantic_layer=1)
    models["squeeze"].semantic_layer = 1
    assert torch.equal(again(*photos), models["squeeze"](*photos))
    assert again.weights.source == "file"
    assert again.weights.sha256 == hashlib.sha256((tmp_path / "squeeze.pt").read_bytes()).hexdigest()
    assert models["squeeze"].weights.as_dict() == {
        "network": "lpips-squeeze",
        "source": "random",
        "file": "",
        "sha256": "",
    }


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"net": "vgg16"}, ValueError, "net: got 'vgg16', expected one of 'alex', 'vgg', 'squeeze'"),
        ({"semantic_layer": 7}, ValueError, "semantic_layer: got 7, expected one of None, 0, 1, 2, 3, 4, 5, 6"),
        ({"semantic_layer": -1}, ValueError, "semantic_layer: got -1, expected one of None, 0"),
        ({"weights": "missing.pth"}, WeightsError, r"missing\.pth', which is not a file"),
    ],
)
def test_unknown_options_are_errors(options, error, message):
    with pytest.raises(error, match=message):
        LPIPSPlus(**{"net": "squeeze", "weights": "random"} | options)


@nets
@torch.no_grad()
def test_sizes_are_limited_as_those_of_the_baseline(model, net, monkeypatch):
    side = model.min_size
    assert (side, model.max_pixels) == (BASELINES[f"lpips-{net}"].min_size, BASELINES[f"lpips-{net}"].max_pixels)
    smallest = torch.rand(1, 3, side, side)
    assert model(smallest, 1 - smallest).isfinite().all()
    with pytest.raises(ValueError, match=rf"expected sides of at least {side}"):
        model(smallest[:, :, 1:], smallest[:, :, 1:])
    monkeypatch.setattr(model, "max_pixels", side * side - 1)
    with pytest.raises(ValueError, match="expected at most"):
        model(smallest, smallest)

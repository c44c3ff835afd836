"""Backbones: the packaged weights see, taps cut exactly, frozen means frozen, and weights are never a surprise."""

import hashlib
import math
import pickle
import re
import shutil
from types import SimpleNamespace

import pytest
import skimage.data
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from iqa_lib.backbones import NORMS, PACKAGED_NAMES, Backbone, taps_at
from iqa_lib.weights import PACKAGED, Weights, WeightsError, packaged_file, renamed

RESNET = "resnet18.a1_in1k"
RES2NET = "res2net50_26w_4s.in1k"
CONVNEXT = "convnext_tiny.fb_in1k"
VIT = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
CATS, ESPRESSO = range(281, 286), {967}


def parameters(net):
    return sum(parameter.numel() for parameter in net.parameters())


def randomised(name, seed=0):
    """An uncut timm network with random weights and BatchNorm statistics, none of which switches a branch off."""
    torch.manual_seed(seed)
    net = timm.create_model(name).eval()
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.ndim == 1 and tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return net


def same_weights(net, expected):
    """All tensors of `net` are in `expected`, with equal values."""
    state = net.state_dict()
    return bool(state) and all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


def statistics(net):
    """BatchNorm's running means and variances."""
    return {name: buffer.clone() for name, buffer in net.state_dict().items() if "running" in name}


def packaged_state():
    """The packaged weights under timm's names."""
    return renamed(torch.load(packaged_file(), weights_only=True), PACKAGED_NAMES)


def images(batch=2, side=64):
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Random-init networks with their files, each made once."""
    folder, nets = tmp_path_factory.mktemp("weights"), {}

    def get(name):
        if name not in nets:
            nets[name] = SimpleNamespace(net=randomised(name), file=folder / f"{name}.safetensors")
            save_file(nets[name].net.state_dict(), nets[name].file)
        return nets[name]

    return get


# --- Packaged weights


@pytest.fixture(scope="module")
def classifier():
    state = packaged_state()
    net = timm.create_model(PACKAGED).eval()
    assert len(state) == 296
    net.load_state_dict(state, strict=True)
    return net


@pytest.mark.parametrize(("photo", "classes"), [("chelsea", CATS), ("coffee", ESPRESSO)])
@torch.no_grad()
def test_packaged_weights_recognise(classifier, photo, classes):
    config = timm.data.resolve_data_config(classifier.pretrained_cfg)
    assert config["mean"] == config["std"] == (0.5, 0.5, 0.5)
    pixels = timm.data.create_transform(**config)(Image.fromarray(getattr(skimage.data, photo)()))
    assert classifier(pixels[None]).argmax().item() in classes


def test_packaged_backbone_holds_the_packaged_weights():
    backbone = Backbone(PACKAGED, taps=(1, 2, 3, 4), weights="packaged")
    file = packaged_file()
    assert same_weights(backbone.net.model, packaged_state())
    assert backbone.weights == Weights(PACKAGED, "packaged", file.name, hashlib.sha256(file.read_bytes()).hexdigest())
    assert Backbone(PACKAGED, taps=(1,), weights=file).weights.source == "file"


# --- Taps


@pytest.mark.parametrize(
    ("name", "taps", "channels", "strides", "count"),
    [
        ("convnext_tiny.fb_in1k", (1, 2), (192, 384), (8, 16), 12_348_000),
        (PACKAGED, (1, 2), (24, 40), (4, 8), 55_504),
        (PACKAGED, (1, 2, 3, 4), (24, 40, 112, 320), (4, 8, 16, 32), 2_958_848),
        ("resnet50.a1_in1k", (1,), (256,), (4,), 225_344),
        (RESNET, (2, 4), (128, 512), (8, 32), 11_176_512),
    ],
)
@torch.no_grad()
def test_taps_are_those_of_the_uncut_network(name, taps, channels, strides, count):
    uncut = randomised(name)
    backbone = Backbone(name, taps=taps, weights="random").eval()
    assert parameters(backbone) == count  # so nothing beyond the last tap was built
    assert not backbone.net.model.load_state_dict(uncut.state_dict(), strict=False).missing_keys
    assert (backbone.channels, backbone.strides) == (channels, strides)
    config = uncut.pretrained_cfg
    normalised = (images() - torch.tensor(config["mean"]).view(3, 1, 1)) / torch.tensor(config["std"]).view(3, 1, 1)
    expected = uncut.forward_intermediates(normalised, indices=list(taps), intermediates_only=True)
    maps = backbone(images())
    assert [tuple(x.shape) for x in maps] == [(2, c, 64 // s, 64 // s) for c, s in zip(channels, strides, strict=True)]
    assert all(torch.equal(x, y) for x, y in zip(maps, expected, strict=True))
    assert all(x.std() > 0 for x in maps)


@torch.no_grad()
def test_stem_without_pool_halves_the_strides():
    taps = dict(taps=(1, 2, 3, 4), weights="random")
    pooled, finer = Backbone(RESNET, **taps), Backbone(RESNET, **taps, stem_pool=False)
    assert finer.strides == (2, 4, 8, 16)
    assert finer.channels == pooled.channels
    assert parameters(finer) == parameters(pooled)
    assert [x.shape[-1] for x in finer(images(1))] == [32, 16, 8, 4]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {}, "got 'resnet18', expected a full timm tag such as 'resnet50.a1_in1k'"),
        ("resnet18.a1_in2k", {}, "expected a full timm tag"),
        (
            "convnext_tiny.fb_in1k",
            {"stem_pool": False},
            "stem_pool: got False, but .* has no max-pool in its stem: give",
        ),
        (PACKAGED, {"se": True}, "se: got True, which needs a Res2Net or ResNet backbone, not .*: give se=False"),
    ],
)
def test_options_a_network_has_not_are_errors(name, options, message):
    with pytest.raises(ValueError, match=message):
        Backbone(name, taps=(1,), weights="random", **options)


@torch.no_grad()
def test_taps_of_a_vit_are_its_blocks():
    """Each block's tokens, before the last norm and without the class token, laid out as the patches lie."""
    backbone = Backbone(VIT, taps=(0, 2), weights="random").eval()
    uncut = randomised(VIT)
    assert not backbone.net.model.load_state_dict(uncut.state_dict(), strict=False).missing_keys
    assert (backbone.channels, backbone.strides) == ((192, 192), (16, 16))
    outside = 768 * 192 + 192 + 192 + 197 * 192  # patches, class token, positions
    block = 4 * 192 + 4 * 192 * 192 + 4 * 192 + 8 * 192 * 192 + 5 * 192  # two norms, attention, MLP
    assert parameters(backbone) == outside + 3 * block  # nothing beyond the last tap, no head

    x = (images(2, 224) - 0.5) / 0.5
    patches = uncut.patch_embed.proj(x).flatten(2).transpose(1, 2)  # (B, 196, 192)
    tokens = torch.cat([uncut.cls_token.expand(2, -1, -1), patches], dim=1) + uncut.pos_embed
    expected = []
    for layer in uncut.blocks[:3]:
        tokens = layer(tokens)
        expected.append(tokens[:, 1:].transpose(1, 2).unflatten(2, (14, 14)))
    for tap, y in zip(backbone(images(2, 224)), (expected[0], expected[2]), strict=True):
        torch.testing.assert_close(tap, y, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_timms_options_reach_the_network():
    backbone = Backbone(VIT, taps=(1,), weights="random", dynamic_img_size=True).eval()
    (tap,) = backbone(torch.rand(1, 3, 64, 96))
    assert tap.shape == (1, 192, 4, 6)
    small = Backbone(VIT, taps=(1,), weights="random", img_size=32)
    assert small(images(1, 32))[0].shape == (1, 192, 2, 2)
    dilated = Backbone(RESNET, taps=(3, 4), weights="random", output_stride=16)
    assert dilated.strides == (16, 16)


@pytest.mark.parametrize(
    ("name", "strides", "taps"),
    [
        (RESNET, (4, 8, 16, 32), (1, 2, 3, 4)),
        (RESNET, (2, 16), (0, 3)),
        (RESNET, (32, 4), (4, 1)),
        (CONVNEXT, (8, 16), (1, 2)),
        (PACKAGED, [8, 16], (2, 3)),
        ("vgg16.tv_in1k", (1, 32), (0, 5)),
        (RESNET, (), ()),
    ],
)
def test_taps_at_strides(name, strides, taps):
    assert taps_at(name, strides) == taps
    assert not taps or Backbone(name, taps=sorted(taps), weights="random").strides == tuple(sorted(strides))


def test_strides_may_come_one_by_one():
    assert taps_at(RESNET, (stride for stride in (4, 8))) == (1, 2)


def test_of_blocks_with_one_stride_the_last_is_tapped():
    assert taps_at(VIT, (16,)) == (11,)


@pytest.mark.parametrize(
    ("name", "strides", "message"),
    [
        (RESNET, (4, 64), rf"strides: got \[64\], expected some of \[2, 4, 8, 16, 32\], the strides of '{RESNET}'"),
        (
            CONVNEXT,
            (2, 4, 3),
            rf"strides: got \[2, 3\], expected some of \[4, 8, 16, 32\], the strides of '{CONVNEXT}'",
        ),
        ("resnet18", (4,), "got 'resnet18', expected a full timm tag such as 'resnet50.a1_in1k'"),
        ("resnet18.a1_in2k", (4,), "expected a full timm tag"),
    ],
)
def test_strides_that_a_network_has_not_are_an_error(name, strides, message):
    with pytest.raises(ValueError, match=message):
        taps_at(name, strides)


@pytest.mark.parametrize(
    ("name", "cuts"),
    [
        (PACKAGED, [dict(taps=(2,)), dict(taps=(1, 2)), dict(taps=(0, 2)), dict(taps=(2,), output_stride=4)]),
        (RESNET, [dict(taps=(0, 1)), dict(taps=(1,)), dict(taps=(0, 1), stem_pool=False)]),
        (VIT, [dict(taps=(2,)), dict(taps=(0, 2)), dict(taps=(1, 2))]),
    ],
)
def test_a_printed_backbone_tells_how_it_is_cut(name, cuts):
    """Kept features and shared training steps go by what is printed, and the weights are the same."""
    made = [Backbone(name, weights="random", **cut) for cut in cuts]
    assert len({tuple(backbone.state_dict()) for backbone in made}) == 1
    assert len({repr(backbone) for backbone in made}) == len(cuts)
    for backbone in made:
        assert f"channels={backbone.channels}, strides={backbone.strides}" in repr(backbone)
        assert f"channels={backbone.channels}, strides={backbone.strides}" in repr(torch.nn.Sequential(backbone))


# --- Normalisation


@pytest.mark.parametrize(
    ("norm", "mean", "std"),
    [
        ("weights", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("half", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("none", (0, 0, 0), (1, 1, 1)),
    ],
)
@torch.no_grad()
def test_images_are_normalised_as_asked(saved, norm, mean, std):
    x = (images() - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    expected = saved(PACKAGED).net.forward_intermediates(x, indices=[1], intermediates_only=True)[0]
    backbone = Backbone(PACKAGED, taps=(1,), weights=saved(PACKAGED).file, norm=norm).eval()
    torch.testing.assert_close(backbone(images())[0], expected, rtol=1e-4, atol=1e-4)
    assert set(backbone.state_dict()) == {f"net.model.{name}" for name in backbone.net.model.state_dict()}


@torch.no_grad()
def test_the_norm_of_the_weights_is_the_networks_own():
    resnet = {norm: Backbone(RESNET, taps=(0,), weights="random", norm=norm) for norm in ("weights", "imagenet")}
    assert torch.equal(resnet["weights"].mean, resnet["imagenet"].mean)
    assert torch.equal(resnet["weights"].std, resnet["imagenet"].std)
    assert set(NORMS) == {"half", "imagenet", "none"}


@pytest.mark.parametrize("norm", ["clip", "", None])
def test_an_unknown_norm_is_an_error(norm):
    with pytest.raises(ValueError, match=f"norm: got {norm!r}, expected one of 'weights', 'half', 'imagenet', 'none'"):
        Backbone(PACKAGED, taps=(1,), weights="random", norm=norm)


# --- Frozen


def test_frozen_has_no_gradients_no_graph_and_fixed_statistics():
    backbone = Backbone(PACKAGED, taps=(1, 2), weights="random", frozen=True).train()
    before = statistics(backbone)
    assert not any(x.requires_grad for x in backbone(images()))
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.net.modules())
    assert all(torch.equal(now, before[name]) for name, now in statistics(backbone).items())


def test_frozen_passes_a_gradient_to_images_that_require_one():
    backbone = Backbone(PACKAGED, taps=(1, 2), weights="random", frozen=True).train()
    before, given = statistics(backbone), images().requires_grad_()
    sum(x.square().mean() for x in backbone(given)).backward()
    assert given.grad.abs().amax(dim=(1, 2, 3)).min() > 0
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert all(torch.equal(now, before[name]) for name, now in statistics(backbone).items())
    with torch.no_grad():
        assert not any(x.requires_grad for x in backbone(given))


def test_frozen_within_a_model_in_training():
    backbone = Backbone(PACKAGED, taps=(1,), weights="random", frozen=True)
    model = torch.nn.Sequential(backbone).train()
    assert model.training
    assert not any(module.training for module in backbone.net.modules())


def test_thawed_learns_again_and_freezes_again():
    backbone = Backbone(PACKAGED, taps=(1, 2), weights="random", frozen=True).freeze(False).train()
    before = statistics(backbone)
    sum(x.mean() for x in backbone(images())).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    assert not any(torch.equal(now, before[name]) for name, now in statistics(backbone).items())
    before = statistics(backbone.freeze())
    assert not any(x.requires_grad for x in backbone(images()))
    assert all(torch.equal(now, before[name]) for name, now in statistics(backbone).items())


def test_a_frozen_backbone_leaves_gradients_on_for_the_rest():
    backbone = Backbone(PACKAGED, taps=(1,), weights="random", frozen=True)
    backbone(images())
    assert torch.is_grad_enabled()


def batchnorms(backbone):
    """BatchNorm's weights and biases by name."""
    layers = [name for name in backbone.state_dict() if name.endswith("running_mean")]
    scales = [name.replace("running_mean", kind) for name in layers for kind in ("weight", "bias")]
    return {name: dict(backbone.named_parameters())[name] for name in scales}


@pytest.mark.parametrize(("name", "count"), [(PACKAGED, 1 + 2 + 2 * 3 + 2 * 3), (RESNET, 1 + 2 * 2 + 2 * 2 + 1)])
def test_a_frozen_batchnorm_keeps_all_it_has_while_the_rest_learns(saved, name, count):
    options = dict(taps=(1, 2), weights=saved(name).file, freeze_batchnorm=True)
    backbone = torch.nn.Sequential(Backbone(name, **options)).train()[0]
    fixed, before = batchnorms(backbone), {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    assert len(fixed) == 2 * count
    assert backbone.training
    updater = torch.optim.SGD(backbone.parameters(), lr=1e-3, weight_decay=0.1)
    sum(x.square().mean() for x in backbone(images())).backward()
    updater.step()
    learned = {key for key, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[key])}
    assert learned == {key for key, _ in backbone.named_parameters()} - set(fixed)
    assert {key for key, parameter in backbone.named_parameters() if parameter.requires_grad} == learned
    with torch.no_grad():
        in_training, in_eval = backbone.train()(images()), backbone.eval()(images())
    assert all(torch.equal(x, y) for x, y in zip(in_training, in_eval, strict=True))


def test_freezing_and_thawing_leave_a_frozen_batchnorm_frozen():
    backbone = Backbone(PACKAGED, taps=(1,), weights="random", freeze_batchnorm=True, frozen=True)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.train().net.modules())
    for _ in range(2):
        backbone.freeze(False)
        fixed, before = batchnorms(backbone), statistics(backbone)
        backbone(images())
        assert all(torch.equal(now, before[name]) for name, now in statistics(backbone).items())
        for name, parameter in backbone.named_parameters():
            assert parameter.requires_grad == (name not in fixed)
        assert backbone.net.training
        backbone.freeze()
        assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_batchnorm_learns_unless_asked_otherwise():
    backbone = Backbone(PACKAGED, taps=(1,), weights="random").train()
    before = statistics(backbone)
    sum(x.mean() for x in backbone(images())).backward()
    assert all(parameter.grad is not None for parameter in batchnorms(backbone).values())
    assert not any(torch.equal(now, before[name]) for name, now in statistics(backbone).items())


# --- Where weights come from


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["text", "path"])
def test_a_file_is_loaded_exactly(saved, kind):
    net, file = saved(RESNET).net, saved(RESNET).file
    backbone = Backbone(RESNET, taps=(1, 4), weights=kind(file))
    assert same_weights(backbone.net.model, net.state_dict())
    assert backbone.weights == Weights(RESNET, "file", file.name, hashlib.sha256(file.read_bytes()).hexdigest())


def test_the_wrong_file_is_named(saved):
    file = saved(RESNET).file
    with pytest.raises(WeightsError, match=rf"{re.escape(str(file))} does not fit \w+: it lacks conv_stem"):
        Backbone(PACKAGED, taps=(1,), weights=file)


# --- Squeeze-and-excitation


def test_se_takes_plain_weights_and_opens_its_gates(saved):
    plain = saved(RES2NET).net
    backbone = Backbone(RES2NET, taps=(1, 2, 3, 4), weights=saved(RES2NET).file, se=True).eval()
    assert parameters(backbone) == 26_181_112
    assert backbone.channels == (256, 512, 1024, 2048)
    state, expected = backbone.net.model.state_dict(), plain.state_dict()
    added = set(state) - set(expected)
    assert len(added) == 64
    assert all(".se." in name for name in added)
    assert all(torch.equal(state[name], expected[name]) for name in set(state) - added)

    gate = 1 / (1 + math.exp(-4))
    gates = [module for name, module in backbone.named_modules() if name.endswith(".se")]
    assert len(gates) == 16
    with torch.no_grad():
        for se in gates:
            x = torch.randn(2, se.fc1.in_channels, 3, 3)
            torch.testing.assert_close(se(x), gate * x)
        # A gate that scales each residual branch is the plain network with its last BatchNorms scaled.
        scaled = timm.create_model(RES2NET).eval()
        scaled.load_state_dict(expected)
        for block in (block for layer in range(1, 5) for block in scaled.get_submodule(f"layer{layer}")):
            block.bn3.weight *= gate
            block.bn3.bias *= gate
        x = (images() - backbone.mean) / backbone.std
        maps = scaled.forward_intermediates(x, indices=[1, 2, 3, 4], intermediates_only=True)
        for tap, y in zip(backbone(images()), maps, strict=True):
            torch.testing.assert_close(tap, y, rtol=1e-4, atol=1e-4 * y.abs().max().item())


def test_se_refuses_a_file_that_lacks_the_backbone(saved, tmp_path):
    state = {name: tensor for name, tensor in saved(RESNET).net.state_dict().items() if "layer1.0" not in name}
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(WeightsError, match=r"part\.safetensors does not fit ResNet: it lacks layer1\.0\..* and 9 more"):
        Backbone(RESNET, taps=(1, 2), weights=tmp_path / "part.safetensors", se=True)


def test_a_file_without_the_tensors_is_an_error_and_not_random_weights(tmp_path):
    save_file({"something": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"other\.safetensors .*lacks"):
        Backbone(PACKAGED, taps=(1,), weights=tmp_path / "other.safetensors")


def test_a_copy_of_the_packaged_file_is_read_too(tmp_path):
    shutil.copy(packaged_file(), tmp_path / "copy.pth")
    backbone = Backbone(PACKAGED, taps=(1,), weights=tmp_path / "copy.pth")
    assert same_weights(backbone.net.model, packaged_state())
    assert backbone.weights.source == "file"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"hello", b"<html>404</html>"])
def test_a_damaged_file_is_named(tmp_path, suffix, content):
    file = tmp_path / f"damaged{suffix}"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"damaged\{suffix}"):
        Backbone(PACKAGED, taps=(1,), weights=file)


def test_weights_are_not_held_twice():
    assert len(pickle.dumps(Backbone(PACKAGED, taps=(1, 2), weights="packaged"))) < 1_000_000


@pytest.mark.parametrize(("name", "scale"), [("res2net50_48w_2s.in1k", 2), ("res2net50_26w_8s.in1k", 8)])
def test_se_keeps_the_scale(name, scale):
    block = Backbone(name, taps=(1,), weights="random", se=True).net.model.layer1[0]
    assert block.scale == scale


@pytest.mark.parametrize("name", ["resnetv2_50.a1h_in1k", "resnet33ts.ra2_in1k", "resnetrs50.tf_in1k"])
def test_se_where_it_does_not_fit(name):
    with pytest.raises(ValueError, match="needs a Res2Net or ResNet backbone"):
        Backbone(name, taps=(1,), weights="random", se=True)


def test_first_tap_lies_before_the_pool():
    backbone = Backbone(RESNET, taps=(0, 1), weights="random", stem_pool=False)
    assert backbone.strides == (2, 2)
    assert [64 // x.shape[-1] for x in backbone(images(1))] == [2, 2]


def test_thawing_in_training_lets_batch_norm_follow_at_once():
    model = torch.nn.Sequential(Backbone(PACKAGED, taps=(1,), weights="random", frozen=True)).train()
    assert all(module.training for module in model[0].freeze(False).net.modules())


def test_random_weights_of_a_frozen_backbone_follow_the_seed_alone():
    def weights(seed, drawn, frozen=True):
        torch.manual_seed(seed)
        torch.rand(drawn)
        net = Backbone("resnet18.a1_in1k", taps=(1,), weights="random", frozen=frozen).net
        return next(net.parameters()).detach(), torch.rand(1)

    first, after = weights(3, 0)
    again, after_more = weights(3, 5)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    torch.manual_seed(3)
    assert after == torch.rand(1)
    assert after != after_more
    assert not torch.equal(first, weights(4, 0)[0])
    assert not torch.equal(weights(3, 5, frozen=False)[0], first)

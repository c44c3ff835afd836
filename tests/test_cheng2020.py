"""Cheng2020-anchor: its arithmetic against a second derivation, CompressAI's layout, always frozen, weights known."""

import hashlib
import math
from urllib.error import URLError

import pytest
import torch
from torch import nn

from iqa_lib import weights
from iqa_lib.backbones import Backbone
from iqa_lib.models.cheng2020 import GDN, Cheng2020Anchor, ResidualBlock, StridedResidualBlock
from iqa_lib.weights import PACKAGED, Weights, WeightsError

PEDESTAL = 2**-36
CONSTANTS = {
    "beta_reparam.pedestal": PEDESTAL,
    "beta_reparam.lower_bound.bound": math.sqrt(1e-6 + PEDESTAL),
    "gamma_reparam.pedestal": PEDESTAL,
    "gamma_reparam.lower_bound.bound": 2**-18,
}
RELEASED = [
    "cheng2020-anchor-1-dad2ebff.pth.tar",
    "cheng2020-anchor-2-a29008eb.pth.tar",
    "cheng2020-anchor-3-e49be189.pth.tar",
    "cheng2020-anchor-4-98b0b468.pth.tar",
    "cheng2020-anchor-5-23852949.pth.tar",
    "cheng2020-anchor-6-4c052b1a.pth.tar",
]


def layout(width):
    """Names and shapes of g_a in CompressAI's checkpoints, written out by hand."""
    shapes = {"g_a.6.weight": (width, width, 3, 3), "g_a.6.bias": (width,)}
    for block in range(6):
        inputs = width if block else 3
        shapes |= {f"g_a.{block}.conv{i}.bias": (width,) for i in (1, 2)}
        shapes |= {
            f"g_a.{block}.conv1.weight": (width, inputs, 3, 3),
            f"g_a.{block}.conv2.weight": (width, width, 3, 3),
        }
        if block % 2 == 0:
            shapes |= {f"g_a.{block}.skip.weight": (width, inputs, 1, 1), f"g_a.{block}.skip.bias": (width,)}
            shapes |= {f"g_a.{block}.gdn.beta": (width,), f"g_a.{block}.gdn.gamma": (width, width)}
            shapes |= {f"g_a.{block}.gdn.{name}": (1,) for name in CONSTANTS}
    return shapes


def codec(width, seed=0):
    """A whole codec's random checkpoint: g_a, with stored values on both sides of GDN's bounds, and what follows it."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in layout(width).items():
        if "reparam" in name:
            state[name] = torch.full(shape, CONSTANTS[name.split(".gdn.")[1]])
        elif name.endswith("beta"):
            state[name] = torch.empty(shape).uniform_(-0.2, 1.5, generator=generator)
        elif name.endswith("gamma"):
            state[name] = torch.empty(shape).uniform_(-0.1, 0.3, generator=generator)
        elif name.endswith("bias"):
            state[name] = 0.2 * torch.randn(shape, generator=generator)
        else:
            state[name] = torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))
    return state | {"h_a.0.weight": torch.ones(2), "g_s.0.conv1.weight": torch.ones(3), "g_a_other": torch.ones(1)}


def images(batch=2, height=40, width=56):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def parameters(net):
    return sum(parameter.numel() for parameter in net.parameters())


def same_weights(model, state):
    own = model.state_dict()
    return bool(own) and all(torch.equal(tensor, state[name]) for name, tensor in own.items())


@pytest.fixture(scope="module")
def state():
    return codec(128)


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "codec.pth.tar"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def model(file):
    return Cheng2020Anchor(quality=1, weights=file)


# --- Sizes


@pytest.mark.parametrize("quality", range(1, 7))
def test_sizes_by_quality(quality):
    model = Cheng2020Anchor(quality=quality, weights="random")
    width, count = (128, 1_857_664) if quality <= 3 else (192, 4_175_040)
    assert parameters(model) == count
    assert (model.channels, model.strides) == ((width, width), (8, 16))
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == layout(width)
    assert [tuple(x.shape) for x in model(images(1, 32, 48))] == [(1, width, 4, 6), (1, width, 2, 3)]


def test_parameters_by_hand():
    for quality, n in ((1, 128), (6, 192)):
        conv3, conv1, gdn = 9 * n * n + n, n * n + n, n * n + n
        first = (9 * 3 * n + n) + conv3 + gdn + (3 * n + n)
        expected = first + 2 * (2 * conv3 + gdn + conv1) + 3 * 2 * conv3 + conv3
        assert parameters(Cheng2020Anchor(quality=quality, weights="random")) == expected


def test_quality_6_is_the_default():
    assert Cheng2020Anchor(weights="random").weights == Weights("cheng2020-anchor-6", "random")


@pytest.mark.parametrize(("height", "width"), [(16, 16), (224, 16), (33, 50), (17, 1)])
def test_sides_are_rounded_up(model, height, width):
    expected = [(1, 128, math.ceil(height / stride), math.ceil(width / stride)) for stride in (8, 16)]
    maps = model(images(1, height, width))
    assert [tuple(x.shape) for x in maps] == expected
    assert all(x.std() > 0 for x in maps)


# --- Arithmetic


def gdn_by_hand(x, beta, gamma):
    """From the stored tensors, one output channel after the other."""
    beta = beta.clamp(min=math.sqrt(1e-6 + PEDESTAL)) ** 2 - PEDESTAL
    gamma = gamma.clamp(min=2**-18) ** 2 - PEDESTAL
    channels = []
    for i in range(x.shape[1]):
        energy = beta[i] + (gamma[i].view(-1, 1, 1) * x**2).sum(1)
        channels.append(x[:, i] / energy.sqrt())
    return torch.stack(channels, 1)


def conv_by_hand(x, weight, bias, stride):
    """A convolution with zeros around, as a sum over the kernel's taps."""
    side = weight.shape[-1]
    border = side // 2
    height, width = ((n - 1) // stride + 1 for n in x.shape[2:])
    padded = x.new_zeros(*x.shape[:2], x.shape[2] + 2 * border, x.shape[3] + 2 * border)
    padded[:, :, border : border + x.shape[2], border : border + x.shape[3]] = x
    out = bias.view(1, -1, 1, 1)
    for i in range(side):
        for j in range(side):
            seen = padded[:, :, i : i + stride * height : stride, j : j + stride * width : stride]
            seen = seen[:, :, :height, :width]
            out = out + torch.einsum("oc,bchw->bohw", weight[:, :, i, j], seen)
    return out


def g_a_by_hand(state, x):
    """Both maps in float64, from the checkpoint's tensors alone."""
    state = {name: tensor.double() for name, tensor in state.items()}

    def conv(x, name, stride=1):
        return conv_by_hand(x, state[f"g_a.{name}.weight"], state[f"g_a.{name}.bias"], stride)

    def leaky(x):
        return torch.where(x > 0, x, x / 100)

    x = x.double()
    for down in (0, 2, 4):
        y = conv(leaky(conv(x, f"{down}.conv1", 2)), f"{down}.conv2")
        y = gdn_by_hand(y, state[f"g_a.{down}.gdn.beta"], state[f"g_a.{down}.gdn.gamma"])
        x = y + conv(x, f"{down}.skip", 2)
        x = x + leaky(conv(leaky(conv(x, f"{down + 1}.conv1")), f"{down + 1}.conv2"))
    return x, conv(x, "6", 2)


@pytest.mark.parametrize("size", [(32, 48), (35, 25)])
def test_maps_are_those_of_the_second_derivation(model, state, size):
    x = images(2, *size)
    for ours, expected in zip(model(x), g_a_by_hand(state, x), strict=True):
        assert expected.std() > 0.1
        torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@torch.no_grad()
def test_gdn_by_hand():
    gdn = GDN(2)
    gdn.beta.copy_(torch.tensor([4.0, 9.0]).sqrt())
    gdn.gamma.copy_(torch.tensor([[0.0, 3.0], [1.0, 0.0]]).sqrt())  # the first output is divided by the second input
    x = torch.tensor([3.0, 2.0]).view(1, 2, 1, 1)
    expected = torch.tensor([3 / math.sqrt(4 + 3 * 4), 2 / math.sqrt(9 + 1 * 9)])
    torch.testing.assert_close(gdn(x).flatten(), expected)


@torch.no_grad()
def test_gdn_keeps_what_it_stores_within_bounds():
    gdn = GDN(1)
    gdn.beta.fill_(-3.0)
    gdn.gamma.fill_(-3.0)
    assert gdn.beta_reparam(gdn.beta).item() == pytest.approx(1e-6, rel=1e-5)
    assert gdn.gamma_reparam(gdn.gamma).item() == 0
    assert gdn(torch.full((1, 1, 1, 1), 0.5)).item() == pytest.approx(500, rel=1e-5)
    gdn.beta.fill_(2**-9)
    assert gdn.beta_reparam(gdn.beta).item() == pytest.approx(2**-18 - 2**-36, rel=1e-7)


@torch.no_grad()
def test_fresh_gdn_divides_each_channel_by_itself():
    x = torch.linspace(-20, 20, 24).view(2, 3, 2, 2)
    torch.testing.assert_close(GDN(3)(x), x / (1 + x**2 / 10).sqrt())


def centred(conv, weight, bias):
    """Let a convolution of one channel look at its middle pixel only."""
    conv.weight.data.zero_()[..., conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = weight
    conv.bias.data.fill_(bias)


@torch.no_grad()
def test_residual_block_by_hand():
    block = ResidualBlock(1)
    centred(block.conv1, 2.0, -6.0)
    centred(block.conv2, -1.0, 1.0)
    x = torch.tensor([[[[5.0, 1.0]]]])
    # 5 -> 4 -> -3 -> -0.03, plus 5; 1 -> -4 -> -0.04 -> 1.04, plus 1
    torch.testing.assert_close(block(x), torch.tensor([[[[4.97, 2.04]]]]))


@torch.no_grad()
def test_strided_block_by_hand():
    block = StridedResidualBlock(1, 1)
    centred(block.conv1, 1.0, 0.0)
    centred(block.conv2, 1.0, -1.0)
    centred(block.skip, 10.0, 0.5)
    block.gdn.beta.fill_(2.0)
    block.gdn.gamma.zero_()
    x = torch.tensor([[3.0, 9.0, -100.0], [9.0, 9.0, 9.0]]).view(1, 1, 2, 3)
    # every second pixel; 3 -> 3 -> 2 -> / 2, plus 30.5; -100 -> -1 -> -2 -> / 2, not rectified, plus -999.5
    torch.testing.assert_close(block(x), torch.tensor([31.5, -1000.5]).view(1, 1, 1, 2))


def test_batch_equals_singles(model):
    x = images(3)
    for maps, *singles in zip(model(x), *(model(x[i : i + 1]) for i in range(3)), strict=True):
        torch.testing.assert_close(maps, torch.cat(singles), rtol=0, atol=1e-5)


def test_input_is_left_as_it_is(model):
    x = images()
    before = x.clone()
    assert torch.equal(model(x)[1], model(x)[1])
    assert torch.equal(x, before)


# --- Frozen


def test_frozen_has_no_gradients_and_no_graph(model):
    assert not any(x.requires_grad for x in model(images()))
    assert all(x.requires_grad for x in model(images().requires_grad_()))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.is_grad_enabled()


def test_frozen_within_a_model_in_training(model):
    whole = nn.Sequential(model).train()
    assert whole.training
    assert not any(module.training for module in model.modules())


def test_a_head_on_top_learns():
    model, head = Cheng2020Anchor(quality=1, weights="random"), nn.Conv2d(128, 1, 1)
    assert not any(module.training for module in model.modules())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    head(model.train()(images())[1]).mean().backward()
    assert head.weight.grad.any()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert same_weights(model, before)


def test_stands_where_a_backbone_stands(model):
    backbone = Backbone(PACKAGED, taps=(1, 2), weights="random", frozen=True)
    for name in ("channels", "strides", "weights", "frozen"):
        assert type(getattr(model, name)) is type(getattr(backbone, name))
    assert type(model(images())) is type(backbone(images())) is list
    assert model.frozen is True
    assert "channels=(128, 128), strides=(8, 16)" in repr(model)


# --- CompressAI's layout


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {name.replace(".skip.", ".downsample."): tensor for name, tensor in state.items()},
        lambda state: {name: tensor for name, tensor in state.items() if name.startswith("g_a.")},
    ],
    ids=["bare", "nested", "module", "nested-module", "downsample", "g_a-alone"],
)
def test_layouts_are_loaded_exactly(state, tmp_path, wrap):
    path = tmp_path / "codec.pth.tar"
    torch.save(wrap(state), path)
    model = Cheng2020Anchor(quality=3, weights=str(path))
    assert same_weights(model, state)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.weights == Weights("cheng2020-anchor-3", "file", path.name, digest)


def test_own_state_dict_is_the_layout_too(tmp_path):
    torch.manual_seed(3)
    first = Cheng2020Anchor(quality=4, weights="random")
    torch.save(first.state_dict(), tmp_path / "own.pth")
    again = Cheng2020Anchor(quality=4, weights=tmp_path / "own.pth")
    assert same_weights(again, first.state_dict())
    assert all(torch.equal(x, y) for x, y in zip(again(images(1)), first(images(1)), strict=True))


def test_constants_of_a_fresh_network_are_the_layouts():
    own = Cheng2020Anchor(quality=1, weights="random").state_dict()
    for block in (0, 2, 4):
        for name, value in CONSTANTS.items():
            assert own[f"g_a.{block}.gdn.{name}"].item() == pytest.approx(value, rel=1e-7)


# --- Errors


@pytest.mark.parametrize(
    "name",
    ["g_a.0.conv1.weight", "g_a.3.conv2.bias", "g_a.4.gdn.gamma", "g_a.2.gdn.beta_reparam.pedestal", "g_a.6.bias"],
)
def test_a_file_that_lacks_a_tensor_is_an_error(state, tmp_path, name):
    path = tmp_path / "part.pth"
    torch.save({key: tensor for key, tensor in state.items() if key != name}, path)
    with pytest.raises(WeightsError, match=rf"part\.pth does not fit Cheng2020Anchor: it lacks {name}:"):
        Cheng2020Anchor(quality=1, weights=path)


@pytest.mark.parametrize("quality", [4, 5, 6])
def test_a_file_of_another_width_is_an_error(file, quality):
    with pytest.raises(WeightsError, match=r"has g_a\.0\.conv1\.weight \(128, 3, 3, 3\), expected \(192, 3, 3, 3\)"):
        Cheng2020Anchor(quality=quality, weights=file)


def test_a_file_with_more_blocks_is_an_error(state, tmp_path):
    torch.save(state | {"g_a.7.conv_a.weight": torch.ones(2)}, tmp_path / "attention.pth")
    with pytest.raises(
        WeightsError, match=r"attention\.pth .*has g_a\.7\.conv_a\.weight, which this network does not have"
    ):
        Cheng2020Anchor(quality=1, weights=tmp_path / "attention.pth")


def test_weights_of_something_else_are_an_error(tmp_path):
    torch.save({"layer.weight": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth does not fit .*lacks .* and 47 more"):
        Cheng2020Anchor(quality=1, weights=tmp_path / "other.pth")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>"])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "damaged.pth.tar"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"damaged\.pth\.tar"):
        Cheng2020Anchor(quality=1, weights=path)


def test_a_pickle_that_would_run_code_is_not_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    torch.save({"state_dict": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(WeightsError, match=r"trap\.pth .*holds objects beside tensors"):
        Cheng2020Anchor(quality=1, weights=tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("quality", [0, 7, "6", None])
def test_unknown_qualities_are_errors(quality):
    with pytest.raises(ValueError, match=f"quality: got {quality!r}, expected one of 1, 2, 3, 4, 5, 6"):
        Cheng2020Anchor(quality=quality, weights="random")


# --- Where weights come from: see test_weights.py


@pytest.mark.parametrize("quality", range(1, 7))
def test_the_default_is_the_released_file_of_this_quality(monkeypatch, tmp_path, quality):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(weights, "urlopen", lambda *_, **__: (_ for _ in ()).throw(URLError("no network")))
    with pytest.raises(
        WeightsError, match=f"'cheng2020-anchor-{quality}' not found.*/v1/{RELEASED[quality - 1]} failed"
    ):
        Cheng2020Anchor(quality=quality)


def test_the_released_file_in_torch_hubs_cache_is_loaded(monkeypatch, tmp_path, file, state):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    name = f"cheng2020-anchor-2-{digest[:8]}.pth.tar"
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setitem(weights.URLS, "cheng2020-anchor-2", f"https://example.org/{name}")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / name).write_bytes(file.read_bytes())
    model = Cheng2020Anchor(quality=2)
    assert same_weights(model, state)
    assert model.weights == Weights("cheng2020-anchor-2", "hub", name, digest)

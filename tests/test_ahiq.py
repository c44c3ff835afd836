"""AHIQ: sizes of the paper, cut backbones against whole ones, the head against a second derivation, freezing, files."""

import io
import math
import zipfile
from contextlib import contextmanager
from functools import cache

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from image_sets import image_set
from torch import nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d, deform_conv2d

from iqa_lib.backbones import PACKAGED, Backbone
from iqa_lib.evaluation import predict
from iqa_lib.files import sha256
from iqa_lib.models import ahiq as module
from iqa_lib.models.ahiq import (
    AHIQ,
    CNNS,
    FUSIONS,
    NUMPY_NUMBERS,
    POOLINGS,
    RESNET152_LAYER2,
    CNNBackbone,
    DeepCNN,
    DeformConv,
    DeformFusion,
    Regressor,
    ViTBackbone,
)
from iqa_lib.views import Crops, FixedFeatures
from iqa_lib.weights import Weights, WeightsError

VIT_TAGS = {"b8": "vit_base_patch8_224.augreg_in21k_ft_in1k", "b16": "vit_base_patch16_224.augreg_in21k_ft_in1k"}
SMALL_VIT = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"  # where nothing is computed
LAYER1 = ("layer1.0", "layer1.1", "layer1.2")
BACKBONES = {
    "resnet50": ("resnet50.a1_in1k", LAYER1, 768),
    "resnet101": ("resnet101.a1h_in1k", LAYER1, 768),
    "resnet152": ("resnet152.a1h_in1k", LAYER1, 768),
    "resnet152, layer2": ("resnet152.a1h_in1k", tuple(f"layer2.{i}" for i in (0, 1, 3, 4, 5, 7)), 3072),
    "hrnet": ("hrnet_w32.ms_in1k", ("layer1.3",), 256),
    "inception_resnet_v2": (
        "inception_resnet_v2.tf_in1k",
        ("mixed_5b", "repeat.1", "repeat.3", "repeat.5", "repeat.7", "repeat.9"),
        1920,
    ),
    "packaged": (PACKAGED, ("blocks.1",), 24),
}
PARAMETERS = {"deform_net": 13_010_450, "regressor": 14_158_338}


@cache
def backbone_once(kind, *args, **options):
    backbone = kind(*args, **options)
    return liven(backbone) if options["weights"] == "random" else backbone


@contextmanager
def shared_backbones():
    """Backbones cost most of the time to build, and are frozen: those of the same options are one."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (CNNBackbone, ViTBackbone, DeepCNN):
            patch.setattr(
                module, kind.__name__, lambda *args, kind=kind, **options: backbone_once(kind, *args, **options)
            )
        yield


def ahiq(**options):
    """A model of random weights, none of which switches a branch off."""
    torch.manual_seed(0)
    with shared_backbones():
        model = AHIQ(**dict(vit="b16", cnn_weights="random", vit_weights="random") | options).eval()
    liven_heads(model)
    return model


@torch.no_grad()
def liven(backbone):
    """Normalisation layers that do something."""
    torch.manual_seed(2)
    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                tensor.uniform_(0.5, 1.5)
        elif isinstance(layer, nn.LayerNorm):
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.uniform_(-0.2, 0.2)
    return backbone


@torch.no_grad()
def liven_heads(model):
    """Heads that keep the spread of what they are given."""
    for name in PARAMETERS:
        for parameter in getattr(model, name, nn.Module()).parameters():
            bound = 0.2 if parameter.ndim == 1 else (3 / parameter[0].numel()) ** 0.5
            parameter.uniform_(-bound, bound)


def pair(batch=2, height=32, width=48):
    return torch.rand(2, batch, 3, height, width, generator=torch.Generator().manual_seed(1)).unbind()


def parameters(net):
    return sum(parameter.numel() for parameter in net.parameters())


def whole(backbone):
    """The uncut network with a cut one's weights; where that has none they do not matter."""
    with torch.device("meta"):
        net = timm.create_model(backbone.weights.network).eval()
    net.to_empty(device="cpu")
    assert not net.load_state_dict(backbone.net.model.state_dict(), strict=False).unexpected_keys
    return net


class Enough(Exception):
    """Nothing more of a network needs to be run."""


@torch.no_grad()
def outputs(net, names, x):
    """What the named modules of a whole network put out; what comes after the last of them is not awaited."""
    found = []

    def take(_, __, y):
        found.append(y.clone())
        if len(found) == len(names):
            raise Enough

    hooks = [net.get_submodule(name).register_forward_hook(take) for name in names]
    with pytest.raises(Enough):
        net(x)
    for hook in hooks:
        hook.remove()
    return found


def maps_of_tokens(tokens, height, width):
    """Blocks' tokens `(B, 1 + h * w, 768)` as one map, channels block by block, without the CLS token."""
    return torch.cat([x[:, 1:].transpose(1, 2).reshape(len(x), 768, height, width) for x in tokens], dim=1)


@pytest.fixture(scope="module", autouse=True)
def forgotten_backbones():
    yield
    backbone_once.cache_clear()


@pytest.fixture(scope="module")
def paper():
    """The paper's network: ResNet50 and ViT-B/8."""
    return ahiq(vit="b8")


@pytest.fixture(scope="module")
def model():
    """The same with ViT-B/16."""
    return ahiq()


@pytest.fixture(scope="module")
def packaged():
    """The CNN with real weights, without a ViT."""
    return ahiq(cnn="packaged", cnn_weights="packaged", fusion="cnn")


# --- Sizes


def test_the_papers_network(paper):
    assert {name: parameters(getattr(paper, name)) for name in PARAMETERS} == PARAMETERS
    assert sum(p.numel() for p in paper.parameters() if p.requires_grad) == 27_168_788
    block = 4 * 768 * 768 + 4 * 768 + 2 * 4 * 768 * 768 + 5 * 768 + 4 * 768
    assert parameters(paper.backbone["vit"]) == 5 * block + 768 * (785 + 1) + 768 * (3 * 64 + 1)
    stem, expand = 64 * 3 * 49 + 2 * 64, 256 * 64 + 2 * 256
    bottlenecks = [inputs * 64 + 9 * 64 * 64 + 4 * 64 + expand for inputs in (64, 256, 256)]
    assert parameters(paper.backbone["cnn"]) == stem + sum(bottlenecks) + expand
    assert len(paper.backbone["vit"].net.model.blocks) == 5
    assert [name for name, _ in paper.backbone["cnn"].net.model.named_children()] == [
        *("conv1", "bn1", "act1", "maxpool", "layer1")
    ]
    assert parameters(paper) == 27_168_788 + parameters(paper.backbone)


def test_the_other_patch_has_as_many_parameters(model):
    assert {name: parameters(getattr(model, name)) for name in PARAMETERS} == PARAMETERS


@pytest.mark.parametrize(("vit", "height", "width"), [("b8", 32, 40), ("b16", 64, 96), ("b16", 80, 48)])
@torch.no_grad()
def test_shapes_of_maps(request, vit, height, width):
    net, patch = request.getfixturevalue({"b8": "paper", "b16": "model"}[vit]), int(vit[1:])
    score, maps = net(*pair(2, height, width), return_maps=True)
    grid = height // patch, width // patch
    assert score.shape == (2,)
    assert {name: tuple(tensor.shape) for name, tensor in maps.items()} == {
        "score": (2, 1, *grid),
        "weight": (2, 1, *grid),
        "offsets": (2, 18, height // 4, width // 4),
        "attention_reference": (2, 5, 12, *grid),
        "attention_distorted": (2, 5, 12, *grid),
    }
    assert 0 < maps["weight"].min() < maps["weight"].max() < 1
    assert all(tensor.std() > 1e-3 for tensor in maps.values())


# --- Cut backbones are whole ones


@pytest.mark.parametrize("name", BACKBONES)
def test_cut_cnn_equals_the_whole_one(name):
    network, taps, channels = BACKBONES[name]
    cut = RESNET152_LAYER2 if name.endswith("layer2") else CNNS[name]
    backbone, images, grid = (
        backbone_once(CNNBackbone, *cut, weights="random", norm="half"),
        pair(1, 96, 96)[0],
        (24, 24),
    )
    assert backbone.weights == Weights(network, "random")
    uncut = outputs(whole(backbone), taps, 2 * images - 1)
    resized = [y if y.shape[-2:] == grid else F.interpolate(y, size=grid, mode="bilinear") for y in uncut]
    ours = backbone(images)
    assert ours.shape == (1, channels, *grid)
    assert ours.std() > 0.1
    assert torch.equal(ours, torch.cat(resized, dim=1))


@pytest.mark.parametrize("vit", VIT_TAGS)
def test_cut_vit_equals_the_whole_one(request, vit):
    backbone = request.getfixturevalue({"b8": "paper", "b16": "model"}[vit]).backbone["vit"]
    images, side = pair(1, 224, 224)[0], 224 // int(vit[1:])
    tokens = outputs(whole(backbone), [f"blocks.{i}" for i in range(5)], 2 * images - 1)
    assert backbone.weights.network == VIT_TAGS[vit]
    assert torch.equal(backbone(images), maps_of_tokens(tokens, side, side))  # (1, 3840, 28, 28) or (1, 3840, 14, 14)


@torch.no_grad()
def test_positions_of_other_crops_are_the_table_resized(model):
    backbone, images = model.backbone["vit"], pair(1, 64, 96)[0]
    state = backbone.net.model.state_dict()
    table = state["pos_embed"][:, 1:].view(1, 14, 14, 768).permute(0, 3, 1, 2)
    table = F.interpolate(table, size=(4, 6), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    net = whole(model.backbone["vit"])
    net.pos_embed = nn.Parameter(torch.cat([state["pos_embed"][:, :1], table], dim=1))
    net.patch_embed.strict_img_size = False
    tokens = outputs(net, [f"blocks.{i}" for i in range(5)], 2 * images - 1)
    torch.testing.assert_close(backbone(images), maps_of_tokens(tokens, 4, 6), rtol=0, atol=1e-5)


def test_nothing_that_is_not_used_is_built():
    for fusion, names in {"cnn": ["cnn"], "vit": ["vit"], "concat": ["cnn", "vit"]}.items():
        net = ahiq(cnn="packaged", fusion=fusion)
        assert list(net.backbone) == names
        assert list(net.backbone.weights) == names
        assert hasattr(net, "deform_net") == ("cnn" in names)


def test_norms_of_the_backbones(model, monkeypatch):
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def norms(net):
        values = [(backbone.mean.flatten(), backbone.std.flatten()) for backbone in net.backbone.values()]
        return [tuple(tuple(round(x, 4) for x in part.tolist()) for part in both) for both in values]

    half = ((0.5,) * 3,) * 2
    assert norms(model) == [half, half]
    monkeypatch.setitem(module.VITS, "b16", (SMALL_VIT, 16))
    assert norms(ahiq(norm="imagenet")) == [imagenet, imagenet]
    assert norms(ahiq(norm="weights", fusion="cnn")) == [imagenet]


def test_official_code_takes_layer2_of_resnet152():
    def taps(**options):
        return ahiq(cnn="resnet152", fusion="cnn", **options).backbone["cnn"].taps

    layer2 = BACKBONES["resnet152, layer2"][1]
    assert taps() == taps(preset="official_code", resnet152_blocks="layer1") == LAYER1
    assert taps(preset="official_code") == taps(resnet152_blocks="layer2") == layer2


@torch.no_grad()
def test_presets_of_the_default_network_agree(packaged):
    official = AHIQ(preset="official_code", cnn="packaged", cnn_weights="packaged", fusion="cnn", vit="b16")
    official.load_state_dict(packaged.state_dict())
    assert torch.equal(official(*pair()), packaged(*pair()))


# --- The head, derived a second time from the authors' layout


def author_state():
    """Tensors of the authors' two modules, random, with offsets of a few pixels."""
    shapes = {
        "deform_net": {
            "conv_offset": (18, 3840, 3, 3),
            "deform": (768, 768, 3, 3),
            "conv1.0": (512, 768, 3, 3),
            "conv1.2": (768, 512, 3, 3),
        },
        "regressor": {
            "down_channel": (256, 4608, 1, 1),
            "feat_smoothing.0": (1024, 768, 3, 3),
            "feat_smoothing.2": (512, 1024, 3, 3),
            "conv1.0": (256, 512, 3, 3),
            "conv_attent.0": (1, 256, 1, 1),
            "conv.0": (1, 256, 1, 1),
        },
    }
    generator, state = torch.Generator().manual_seed(5), {}
    for part, layers in shapes.items():
        state[part] = {}
        for name, shape in layers.items():
            gain = 2 if name == "conv_offset" else 1
            weight = torch.randn(shape, generator=generator) * gain / math.sqrt(math.prod(shape[1:]))
            state[part] |= {f"{name}.weight": weight, f"{name}.bias": torch.randn(shape[0], generator=generator) / 10}
    return state


def head_by_hand(state, cnn, vit, patch):
    """Score, f, w and offsets from (reference, distorted) maps of both backbones."""

    def conv(x, part, name, **options):
        return F.conv2d(x, state[part][f"{name}.weight"], state[part][f"{name}.bias"], **options)

    scale = patch // 4
    enlarged = vit[0].repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    offsets = conv(enlarged, "deform_net", "conv_offset", padding=1)
    projected = []
    for c, v in zip(cnn, vit, strict=True):
        deform = state["deform_net"]["deform.weight"], state["deform_net"]["deform.bias"]
        c = conv(deform_conv2d(c, offsets, *deform, padding=1), "deform_net", "conv1.0", stride=2, padding=1)
        c = conv(c.clamp(min=0), "deform_net", "conv1.2", stride=1 if patch == 8 else 2, padding=1)
        projected.append(conv(torch.cat([v, c], dim=1), "regressor", "down_channel"))
    r, d = projected
    x = conv(torch.cat([d - r, d, r], dim=1), "regressor", "feat_smoothing.0", padding=1).clamp(min=0)
    x = conv(x, "regressor", "feat_smoothing.2", padding=1)
    x = conv(x, "regressor", "conv1.0", padding=1).clamp(min=0)
    f, w = conv(x, "regressor", "conv.0"), 1 / (1 + torch.exp(-conv(x, "regressor", "conv_attent.0")))
    score = torch.stack([(f[i] * w[i]).sum() / w[i].sum() for i in range(len(f))])
    return score, f, w, offsets


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file as the authors' training writes it, with what it holds besides the weights."""
    net = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(net.parameters(), 1e-4, weight_decay=1e-5)
    net(torch.ones(1, 2)).backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=0)
    content = {f"{part}_model_state_dict": state for part, state in author_state().items()}
    content |= {"optimizer_state_dict": optimizer.state_dict(), "scheduler_state_dict": scheduler.state_dict()}
    file = tmp_path_factory.mktemp("authors") / "epoch_33.pth"
    torch.save(content | {"epoch": 33, "loss": np.mean([0.5, 0.25])}, file)
    return file


@pytest.mark.parametrize("vit", VIT_TAGS)
@torch.no_grad()
def test_the_authors_checkpoint_follows_the_equations(checkpoint, vit):
    with shared_backbones():
        net = AHIQ.from_author_checkpoint(checkpoint, vit=vit, cnn_weights="random", vit_weights="random").eval()
    assert net.checkpoint == Weights("AHIQ", "file", "epoch_33.pth", sha256(checkpoint))
    assert [weights.source for weights in net.backbone.weights.values()] == ["random", "random"]
    net.deform_net.double()
    net.regressor.double()  # what remains of rounding is that of offsets, f and w, which stay in fp32
    features = [[maps.double() for maps in net.extract(image)] for image in pair(2, 32, 48)]
    state = {part: {key: x.double() for key, x in tensors.items()} for part, tensors in author_state().items()}
    score, f, w, offsets = head_by_hand(state, *zip(*features, strict=True), int(vit[1:]))
    ours, maps = net(*features, return_maps=True)
    assert offsets.abs().max() > 3  # some points are outside the map
    assert score.std() > 1e-3
    for mine, expected in ((ours, score), (maps["score"], f), (maps["weight"], w), (maps["offsets"], offsets)):
        torch.testing.assert_close(mine.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("patch", [8, 16])
def test_offsets_are_a_convolution_of_the_enlarged_map(patch):
    """In double precision: fp32 sums of 34,560 terms differ by 1e-5 from one order to another."""
    torch.manual_seed(0)
    fusion = DeformFusion(8, 3840, patch, deform=True, project=False).double()
    vit, size = torch.randn(2, 3840, 3, 5, dtype=torch.float64), (3 * patch // 4, 5 * patch // 4)
    enlarged = vit.repeat_interleave(patch // 4, 2).repeat_interleave(patch // 4, 3)
    ours, expected = fusion.offsets(vit, size), fusion.conv_offset(enlarged)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)  # the nine parts are rounded to fp32
    goal, learnt = torch.randn_like(expected), list(fusion.conv_offset.parameters())
    for a, b in zip(*(torch.autograd.grad((y * goal).sum(), learnt) for y in (ours, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


OFFSETS = {
    "small": lambda shape: torch.randn(shape),
    "far": lambda shape: 20 * torch.randn(shape),
    "whole pixels": lambda shape: torch.randint(-3, 4, shape).float(),
    "none": torch.zeros,
    "endless": lambda shape: torch.randn(shape).where(torch.rand(shape) < 0.9, 1e30),
}


@pytest.mark.parametrize("kind", OFFSETS)
def test_deformable_convolution_is_torchvisions(kind):
    torch.manual_seed(0)
    layer, x, offsets = DeformConv(5, 4), torch.randn(2, 5, 6, 9), OFFSETS[kind]((2, 18, 6, 9))
    inputs = x.requires_grad_(), offsets.requires_grad_()
    ours, expected = layer(*inputs), DeformConv2d.forward(layer, *inputs)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    goal, learnt = torch.randn_like(expected), (*inputs, *layer.parameters())
    for a, b in zip(*(torch.autograd.grad((y * goal).sum(), learnt) for y in (ours, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


def test_deformable_convolution_off_the_cpu_is_torchvisions_own(monkeypatch):
    called = []
    monkeypatch.setattr(DeformConv2d, "forward", lambda *inputs: called.append(inputs))
    layer, x, offsets = DeformConv(5, 4), torch.zeros(1, 5, 6, 9), torch.zeros(1, 18, 6, 9)
    layer(x, offsets)
    assert not called
    layer(x.to("meta"), offsets.to("meta"))
    assert len(called) == 1


def test_offsets_that_are_no_numbers_give_no_number():
    layer, offsets = DeformConv(5, 4), torch.zeros(1, 18, 6, 8)
    offsets[:, :, 2, 2] = math.nan
    y = layer(torch.randn(1, 5, 6, 8), offsets)
    assert y[..., 2, 2].isnan().all()
    assert not y[..., 3, 3].isnan().any()


@torch.no_grad()
def test_weighted_mean_by_hand():
    regressor = Regressor(4, "patch")
    x = torch.randn(2, 4, 1, 2)
    regressor.conv = nn.Sequential(Fixed([[-3.0, -3.0]]))
    assert regressor(x)[0].item() == pytest.approx(-3)  # whatever the weights
    regressor.conv = nn.Sequential(Fixed([[2.0, 5.0]]))
    regressor.conv_attent = nn.Sequential(Fixed([[0.0, math.log(3)]]))  # weights 1/2 and 3/4
    assert regressor(x)[0].item() == pytest.approx((2 * 0.5 + 5 * 0.75) / 1.25)


class Fixed(nn.Module):
    """Puts out the same map whatever comes."""

    def __init__(self, values):
        super().__init__()
        self.values = torch.tensor(values)[None, None]

    def forward(self, _):
        return self.values


# --- Every variant

VARIANTS = [
    *(("packaged", fusion, "patch") for fusion in FUSIONS),
    *(("packaged", "cnn", pooling) for pooling in POOLINGS[1:]),
    *((cnn, "deform+concat", "patch") for cnn in ("hrnet", "inception_resnet_v2")),
    ("resnet101", "concat", "both"),
]


@pytest.mark.parametrize(("cnn", "fusion", "pooling"), VARIANTS)
def test_variant_learns(cnn, fusion, pooling):
    net = ahiq(cnn=cnn, fusion=fusion, pooling=pooling, width=1 / 16).train()
    score, maps = net(*pair(1, 32, 48), return_maps=True)
    assert score.shape == (1,)
    assert ("score" in maps, "weight" in maps) == (pooling != "spatial",) * 2
    assert ("offsets" in maps) == (fusion == "deform+concat")
    assert ("attention_reference" in maps) == ("attention_distorted" in maps) == (fusion != "cnn")
    score.square().sum().backward()
    heads = {name: p for name, p in net.named_parameters() if not name.startswith("backbone.")}
    assert [name for name, p in heads.items() if p.grad is None or not p.grad.isfinite().all()] == []
    assert [name for name, p in heads.items() if p.ndim > 1 and not p.grad.any()] == []
    assert all(p.grad is None and not p.requires_grad for p in net.backbone.parameters())


def test_parameters_of_the_variants():
    def heads(**options):
        net = ahiq(**options)
        return parameters(net) - parameters(net.backbone)

    conv_offset, deform, inputs = 622_098, 5_309_184, 256 * 768
    regressor = PARAMETERS["regressor"]
    assert heads(fusion="concat", cnn="packaged") == 27_168_788 - conv_offset - deform - 512 * (768 - 24) * 9
    assert heads(fusion="cnn", cnn="resnet50") == 27_168_788 - conv_offset - deform - 5 * inputs
    assert heads(fusion="vit") == regressor - inputs
    assert heads(cnn="hrnet") == 27_168_788 + 256 * 768 + 768
    assert heads(fusion="vit", pooling="spatial") == regressor - inputs - 257
    assert heads(fusion="vit", pooling="both") == regressor - inputs + 257


@torch.no_grad()
def test_pooling_by_hand(packaged):
    nets = {name: ahiq(cnn="packaged", cnn_weights="packaged", fusion="cnn", pooling=name) for name in POOLINGS}
    for name in ("patch", "spatial"):
        nets[name].load_state_dict(nets["both"].state_dict(), strict=False)
    scores = {name: net(*pair()) for name, net in nets.items()}
    torch.testing.assert_close(scores["both"], (scores["patch"] + scores["spatial"]) / 2)
    regressor, features = nets["both"].regressor, torch.randn(4, 768, 3, 5)
    r, d = regressor.down_channel(features).chunk(2)
    x = regressor.conv1(regressor.feat_smoothing(torch.cat([d - r, d, r], dim=1)))
    mean = torch.stack([x[i].flatten(1).sum(1) / 15 for i in range(2)])  # (2, 256)
    expected = (mean * regressor.spatial.weight).sum(1) + regressor.spatial.bias
    torch.testing.assert_close(nets["spatial"].regressor(features)[0], expected)


@pytest.mark.parametrize("fusion", FUSIONS[:2])
@torch.no_grad()
def test_both_backbones_reach_the_score(model, fusion):
    net = model if fusion == "deform+concat" else ahiq(fusion=fusion)
    reference, distorted = map(net.extract, pair())
    score = net(reference, distorted)
    for i in range(2):
        for j, which in enumerate((reference, distorted)):
            changed = list(which)
            changed[i] = changed[i].flip(-1)
            given = [reference, distorted]
            given[j] = changed
            assert ((net(*given) - score).abs() > 1e-5).all()


@torch.no_grad()
def test_concat_is_the_map_convolved_beside_the_vits():
    net = ahiq(fusion="concat")
    cnn, vit = net.extract(pair()[0])
    first, _, second = net.deform_net.conv1
    c = F.conv2d(cnn, first.weight, first.bias, stride=2, padding=1).clamp(min=0)
    c = F.conv2d(c, second.weight, second.bias, stride=2, padding=1)
    fused, offsets = net._fuse([cnn, vit])
    assert offsets is None
    torch.testing.assert_close(fused, torch.cat([vit, c], dim=1))


# --- The packaged network's deep maps in the ViT's place


def without_vit(**options):
    weights = dict(cnn="packaged", vit="packaged", cnn_weights="packaged", vit_weights="packaged")
    return ahiq(**dict(width=1 / 16) | weights | options)


@pytest.mark.parametrize(("fusion", "pooling"), [*((fusion, "patch") for fusion in FUSIONS), ("deform+concat", "both")])
def test_without_a_vit_every_variant_learns(fusion, pooling):
    net = without_vit(fusion=fusion, pooling=pooling).train()
    score, maps = net(*pair(2, 40, 64), return_maps=True)
    names = {"score", "weight"} | ({"offsets"} if fusion == "deform+concat" else set())
    assert {name: tuple(tensor.shape[1:]) for name, tensor in maps.items()} == {
        name: (18, 10, 16) if name == "offsets" else (1, 5, 8) for name in names
    }
    score.square().sum().backward()
    heads = {name: p for name, p in net.named_parameters() if not name.startswith("backbone.")}
    assert [name for name, p in heads.items() if p.grad is None or not p.grad.any()] == []
    assert all(p.grad is None and not p.requires_grad for p in net.backbone.parameters())


def test_parameters_without_a_vit():
    net = without_vit(width=1.0)
    assert {name: parameters(getattr(net, name)) for name in PARAMETERS} == {
        "deform_net": PARAMETERS["deform_net"] - 18 * 9 * (3840 - 152) - 768 * 9 * (768 - 24),
        "regressor": PARAMETERS["regressor"] - 256 * (3840 - 152),
    }


@torch.no_grad()
def test_without_a_vit_the_maps_are_the_packaged_networks():
    net, images = without_vit(), pair(2, 40, 64)[0]
    plain = Backbone(PACKAGED, taps=(1, 2, 3), weights="packaged", frozen=True)
    kept, expected = net.extract(images), plain(images)
    assert [tuple(x.shape) for x in kept] == [(2, 24, 10, 16), (2, 40, 5, 8), (2, 112, 3, 4)]
    assert all(torch.equal(x, y) for x, y in zip(kept, expected, strict=True))
    resized = F.interpolate(expected[2], size=(5, 8), mode="bilinear")
    assert torch.equal(net._fuse(kept)[0][:, :152], torch.cat([expected[1], resized], dim=1) / 8)
    assert {name: weights.source for name, weights in net.backbone.weights.items()} == dict(
        cnn="packaged", vit="packaged"
    )


@pytest.mark.parametrize("fusion", FUSIONS)
def test_without_a_vit_heads_start_near_the_middle(fusion):
    with shared_backbones():
        torch.manual_seed(0)
        net = AHIQ(cnn="packaged", vit="packaged", fusion=fusion, width=1 / 16).train()
    score, maps = net(*pair(2, 64, 64), return_maps=True)
    assert (score - 0.5).abs().max() < 0.2
    assert (maps["weight"] - 0.5).abs().max() < 0.2
    assert not maps.get("offsets", torch.zeros(1)).any()
    same, _ = net(pair()[0], pair()[0], return_maps=True)
    torch.testing.assert_close(same, torch.full((2,), 0.5))
    score.square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.requires_grad and not p.grad.any()] == []


@pytest.mark.parametrize("fusion", FUSIONS)
@torch.no_grad()
def test_without_a_vit_features_are_as_good_as_images(fusion):
    net, images = without_vit(fusion=fusion), pair(1, 384, 512)
    score, maps = net(*images, return_maps=True)
    again, others = net(*map(net.extract, images), return_maps=True)
    torch.testing.assert_close(again, score)
    assert list(others) == list(maps)
    assert maps["score"].shape == (1, 1, 48, 64)


@torch.no_grad()
def test_the_packaged_network_needs_no_download(packaged):
    assert packaged.backbone.weights["cnn"].source == "packaged"
    assert packaged.backbone.frozen
    score, maps = packaged(*pair(2, 96, 96), return_maps=True)
    assert sorted(maps) == ["score", "weight"]
    assert maps["score"].shape == (2, 1, 6, 6)
    assert score.isfinite().all()


# --- Reference and distorted


@torch.no_grad()
def test_swapping_the_images_changes_the_score(model):
    reference, distorted = pair()
    score, maps = model(reference, distorted, return_maps=True)
    swapped, swapped_maps = model(distorted, reference, return_maps=True)
    assert ((swapped - score).abs() > 1e-4).all()
    torch.testing.assert_close(swapped_maps["attention_reference"], maps["attention_distorted"])
    torch.testing.assert_close(swapped_maps["attention_distorted"], maps["attention_reference"])
    assert not torch.allclose(maps["attention_reference"], maps["attention_distorted"])


@torch.no_grad()
def test_offsets_come_from_the_reference_alone(model):
    reference, distorted = pair()
    _, maps = model(reference, distorted, return_maps=True)
    _, other = model(reference, distorted.flip(-1), return_maps=True)
    torch.testing.assert_close(other["offsets"], maps["offsets"])
    _, other = model(distorted, distorted, return_maps=True)
    assert not torch.allclose(other["offsets"], maps["offsets"], atol=0.1)


@torch.no_grad()
def test_identical_images_show_no_difference():
    net = ahiq(cnn="packaged", cnn_weights="packaged", fusion="cnn")
    same, different = (pair()[0], pair()[0]), pair()
    before = net(*same), net(*different)
    net.regressor.feat_smoothing[0].weight[:, :256] *= -3  # what is made of the difference
    assert before[0].isfinite().all()
    assert torch.equal(net(*same), before[0])
    assert ((net(*different) - before[1]).abs() > 1e-4).all()


# --- Batches, features, maps


@torch.no_grad()
def test_features_have_no_attention(model):
    _, maps = model(*map(model.extract, pair()), return_maps=True)
    assert sorted(maps) == ["offsets", "score", "weight"]


def test_kept_features_give_the_same_predictions(tmp_path, monkeypatch):
    monkeypatch.setenv("IQA_LIB_CACHE", str(tmp_path / "cache"))
    net = ahiq(cnn="packaged", cnn_weights="packaged", width=1 / 16)
    crops = Crops(image_set(tmp_path, [(64, 64), (48, 64)], pairs=True), "corners", 32)
    expected = predict(net, crops)
    features = FixedFeatures(crops, net)
    assert features.all(0)[0][0].shape[1:] == (24, 8, 8)
    assert features.all(0)[0][1].shape[1:] == (3840, 2, 2)
    monkeypatch.setattr(net, "extract", None)
    pd.testing.assert_frame_equal(predict(net, features, max_batch=3), expected, rtol=0, atol=1e-5)


def folders_of_maps(tmp_path):
    return sum(path.is_dir() for path in (tmp_path / "cache" / "features").glob("*/*"))


def test_without_a_vit_the_kept_maps_are_those_of_the_plain_backbone(tmp_path, monkeypatch):
    monkeypatch.setenv("IQA_LIB_CACHE", str(tmp_path / "cache"))
    crops, plain = Crops(image_set(tmp_path, [(64, 64)], pairs=True), "corners", 32), nn.Module()
    plain.backbone = plain.extract = Backbone(PACKAGED, taps=(1, 2, 3), weights="packaged", frozen=True)
    kept = [FixedFeatures(crops, model).all(0) for model in (without_vit(), plain)]
    assert folders_of_maps(tmp_path) == 3
    torch.testing.assert_close(kept[0], kept[1], rtol=0, atol=0)


def test_models_share_the_kept_features_of_a_backbone(tmp_path, monkeypatch):
    monkeypatch.setenv("IQA_LIB_CACHE", str(tmp_path / "cache"))
    crops = Crops(image_set(tmp_path, [(64, 64)], pairs=True), "corners", 32)
    kept = [
        FixedFeatures(crops, ahiq(width=1 / 16, **options)) for options in ({}, {"cnn": "packaged"}, {"fusion": "vit"})
    ]
    assert folders_of_maps(tmp_path) == 3  # a ViT and two CNNs
    for features in kept[1:]:
        torch.testing.assert_close(features.all(0)[1][-1], kept[0].all(0)[1][-1], rtol=0, atol=0)


@torch.no_grad()
def test_attention_is_the_class_tokens(model):
    backbone, images = model.backbone["vit"], pair()
    net = backbone.net.model
    inputs = []
    hooks = [block.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for block in net.blocks]
    backbone(images[1])
    for hook in hooks:
        hook.remove()
    expected = []
    for block, x in zip(net.blocks, inputs, strict=True):
        x = F.layer_norm(x, (768,), block.norm1.weight, block.norm1.bias, block.norm1.eps)
        q, k, _ = F.linear(x, block.attn.qkv.weight, block.attn.qkv.bias).split(768, dim=2)  # (B, N, 768) each
        for head in range(12):
            part = slice(64 * head, 64 * head + 64)
            logits = torch.einsum("bqd,bkd->bqk", q[..., part], k[..., part]) / 8
            shares = logits.exp() / logits.exp().sum(dim=2, keepdim=True)
            expected.append(shares[:, 0, 1:].view(2, 2, 3))
    expected = torch.stack(expected, dim=1).view(2, 5, 12, 2, 3)
    ours = model(*images, return_maps=True)[1]["attention_distorted"]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    assert (ours.sum(dim=(3, 4)) < 1).all()


@torch.no_grad()
def test_bf16_stays_near_fp32(model):
    images = pair()
    score, maps = model(*images, return_maps=True)
    with torch.autocast("cpu", torch.bfloat16):
        coarse, coarse_maps = model(*images, return_maps=True)
    assert coarse.dtype == coarse_maps["score"].dtype == torch.float32
    assert 0 < (coarse - score).abs().max() < 0.01
    assert (coarse_maps["offsets"] - maps["offsets"]).abs().max() < 0.05


@pytest.mark.parametrize("project", [False, True])
def test_bf16_learns(project):
    fusion = DeformFusion(64, 3840, 16, deform=True, project=project, width=1 / 16)
    cnn, vit = torch.randn(1, 64, 8, 8), torch.randn(1, 3840, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        fused = fusion(cnn, fusion.offsets(vit, cnn.shape[-2:]))
    fused.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in fusion.parameters())


# --- Freezing


def test_backbones_stay_as_they_are_and_the_heads_learn():
    net = ahiq(cnn="packaged", width=1 / 16)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.train()
    assert not any(module.training for backbone in net.backbone.values() for module in backbone.net.modules())
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 1e-3)
    F.mse_loss(net(*pair(2, 32, 48)), torch.tensor([0.0, 1.0])).backward()
    optimizer.step()
    after = net.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if not name.startswith("backbone.")}
    assert all(p.grad is None for p in net.backbone.parameters())
    assert len(optimizer.state) == len(changed)


def kept_for_backward(call):
    """Bytes of each tensor that a forward pass keeps for the backward one, by its address."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = call()
    return kept, output


@pytest.mark.parametrize("fusion", FUSIONS)
def test_training_keeps_nothing_of_the_backbones(fusion):
    net = ahiq(cnn="packaged", fusion=fusion, width=1 / 16).train()
    images = pair(1, 32, 48)
    features = [net.extract(image) for image in images]
    assert not any(x.requires_grad or x.grad_fn for maps in features for x in maps)
    kept, output = kept_for_backward(lambda: net(*images))
    from_features, _ = kept_for_backward(lambda: net(*features))
    assert output.requires_grad
    assert sum(kept.values()) == sum(from_features.values())
    backbones = {p.untyped_storage().data_ptr() for p in (*net.backbone.parameters(), *net.backbone.buffers())}
    assert not backbones & set(kept)
    assert net.extract(images[0])[0].grad_fn is None


# --- Errors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"width": 0.01}, ValueError, r"width: got 0\.01, expected at least 0\.015625"),
        ({"width": math.nan}, ValueError, r"width: got nan, expected at least"),
        (
            {"fusion": "vit", "vit_weights": "packaged"},
            WeightsError,
            r"weights of 'vit_base_patch16",
        ),
    ],
)
def test_impossible_options_are_errors(options, error, message):
    with pytest.raises(error, match=message):
        ahiq(**options)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pair(1, 40, 64), r"got 40x64, expected sides that are multiples of 16, the ViT's patch: crop or resize"),
        (pair(1, 64, 40), "got 64x40, expected sides that are multiples of 16"),
    ],
)
def test_sides_that_are_no_multiples_of_the_patch_are_errors(packaged, images, message):
    with pytest.raises(ValueError, match=message):
        packaged(*images)


def test_the_smallest_and_an_uneven_image_run(paper):
    with torch.no_grad():
        assert paper(*pair(1, 32, 32)).isfinite().all()
        assert paper(*pair(1, 32, 56)).isfinite().all()


# --- Files


def test_a_checkpoint_that_does_not_fit_is_named(checkpoint, tmp_path):
    def load(file, **options):
        with shared_backbones():
            AHIQ.from_author_checkpoint(file, **dict(vit="b16", cnn_weights="random", vit_weights="random") | options)

    with pytest.raises(WeightsError, match=r"epoch_33\.pth does not fit AHIQ: it has deform_net\.conv_offset\.we"):
        load(checkpoint, fusion="concat")
    with pytest.raises(WeightsError, match=r"epoch_33\.pth .*deform\.weight \(768, 768, 3, 3\), expected \(768, 24, "):
        load(checkpoint, cnn="packaged")
    with pytest.raises(WeightsError, match=r"none\.pth: there is no such file"):
        load(tmp_path / "none.pth")
    torch.save({f"{part}_model_state_dict": {} for part in PARAMETERS}, tmp_path / "part.pth")
    with pytest.raises(WeightsError, match=r"part\.pth does not fit AHIQ: it lacks deform_net\.conv1\.0\.weight; it"):
        load(tmp_path / "part.pth", fusion="cnn")
    torch.save({"model": nn.Linear(1, 1)}, tmp_path / "objects.pth")
    with pytest.raises(WeightsError, match=r"objects\.pth .*could run code when read"):
        load(tmp_path / "objects.pth")


@pytest.mark.parametrize("named", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
@pytest.mark.parametrize("number", [np.float64(0.375), np.float32(0.375)])
def test_numbers_of_old_and_new_numpy_are_read(named, number):
    """NumPy 2 renamed the module that pickles name; the authors' files were written by NumPy 1."""
    written, renamed = io.BytesIO(), io.BytesIO()
    torch.save({"loss": number}, written)
    with zipfile.ZipFile(written) as old, zipfile.ZipFile(renamed, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"numpy._core.multiarray", named))
    with torch.serialization.safe_globals(NUMPY_NUMBERS):
        renamed.seek(0)
        assert torch.load(renamed, weights_only=True) == {"loss": 0.375}


@pytest.mark.parametrize(("fusion", "prefix"), [("cnn", "resnet50"), ("vit", "vit")])
def test_a_file_of_a_whole_model(monkeypatch, tmp_path, fusion, prefix):
    """IQA-PyTorch's layout: everything under `params`, backbones too, also what we cut off."""
    monkeypatch.setitem(module.VITS, "b16", (SMALL_VIT, 16))
    net = ahiq(fusion=fusion)
    state = {f"{part}.{key}": x for part in PARAMETERS if hasattr(net, part) for key, x in heads(net, part).items()}
    state |= {f"{prefix}.{key}": x for key, x in net.backbone[fusion].net.model.state_dict().items()}
    state |= {f"{prefix}.fc.weight": torch.zeros(2), f"{prefix}.blocks.11.norm1.weight": torch.zeros(2)}
    torch.save({"params": state}, tmp_path / "net.pth")
    again = AHIQ.from_author_checkpoint(tmp_path / "net.pth", vit="b16", fusion=fusion)
    assert list(again.state_dict()) == list(net.state_dict())
    assert all(torch.equal(x, net.state_dict()[key]) for key, x in again.state_dict().items())
    network = {"cnn": "resnet50.a1_in1k", "vit": SMALL_VIT}[fusion]
    assert again.backbone.weights == {fusion: Weights(network, "file", "net.pth", sha256(tmp_path / "net.pth"))}
    del state[next(key for key in state if key.startswith(f"{prefix}.") and key.endswith("weight"))]
    torch.save({"params": state}, tmp_path / "part.pth")
    with pytest.raises(WeightsError, match=rf"part\.pth .*it lacks backbone\.{fusion}\.net\.model\."):
        AHIQ.from_author_checkpoint(tmp_path / "part.pth", vit="b16", fusion=fusion)


def heads(net, part):
    return getattr(net, part).state_dict()


def test_backbones_are_backbones(model):
    assert all(isinstance(backbone, Backbone) and backbone.frozen for backbone in model.backbone.values())
    assert [(backbone.channels, backbone.strides) for backbone in model.backbone.values()] == [
        ((768,), (4,)),
        ((768,) * 5, (16,) * 5),
    ]

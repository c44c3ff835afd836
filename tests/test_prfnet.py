"""PRFNet: sizes against the paper, equations against a second derivation, symmetries, freezing, and its two losses."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from iqa_lib.backbones import PACKAGED
from iqa_lib.losses import preference_bce, preference_mse
from iqa_lib.models.prfnet import (
    FPN,
    FUSIONS,
    GATE_CONVS,
    BiFPN,
    BiFPNLayer,
    CrossSubtraction,
    PRFBlock,
    PRFNet,
    WeightedSum,
)

SCALES = (1, 2, 3, 4)
VARIANTS = [("prf", conv) for conv in GATE_CONVS] + [(fusion, "full") for fusion in FUSIONS if fusion != "prf"]
variants = pytest.mark.parametrize(("fusion", "gate_conv"), VARIANTS)


def prfnet(**options):
    """A small PRFNet on real features, with BatchNorm statistics that are not those of a fresh layer."""
    torch.manual_seed(0)
    small = dict(backbone=PACKAGED, se=False, weights="packaged", width=8, hidden=8, bifpn_repeats=2)
    model = PRFNet(**small | options)
    for module in nn.ModuleList([model.subtraction, model.fusion]).modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5)
    return model.eval()


def triplet(batch=2, height=64, width=96):
    return torch.rand(3, batch, 3, height, width, generator=torch.Generator().manual_seed(1)).unbind()


def pyramid(channels, sizes=((12, 16), (6, 8), (3, 4), (2, 2)), batch=2):
    """Maps of four scales, shallow to deep."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(batch, channels, *size, generator=generator, requires_grad=True) for size in sizes]


def parameters(net):
    return sum(parameter.numel() for parameter in net.parameters())


def differences(maps):
    return [torch.cat([maps[f"difference_a_{i}"], maps[f"difference_b_{i}"]], dim=1) for i in SCALES]


@pytest.fixture(scope="module")
def model():
    return prfnet()


# --- Sizes


def test_the_papers_network():
    model = PRFNet(weights="random").eval()
    assert parameters(model.backbone) == 26_181_112
    assert sum(block.conv[0].weight.numel() for block in model.subtraction) == 8_847_360
    norms, gates, head = 4 * 2 * 256, 3 * (9 * 512 * 512 + 512), 512 * 128 + 128 + 128 + 1
    assert parameters(model.fusion) == gates
    assert parameters(model) == 26_181_112 + 8_847_360 + norms + gates + head == 42_175_737
    with torch.no_grad():
        logit, maps = model(*triplet(1, 64, 64), return_maps=True)
    assert logit.shape == (1,)
    assert [tuple(s.shape) for s in differences(maps)] == [(1, 512, side, side) for side in (16, 8, 4, 2)]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (33, 63), (70, 97)])
@torch.no_grad()
def test_shapes_of_maps(model, height, width):
    logit, maps = model(*triplet(2, height, width), return_maps=True)
    sizes = {i: (math.ceil(height / 32) * 2 ** (4 - i), math.ceil(width / 32) * 2 ** (4 - i)) for i in SCALES}
    expected = {f"difference_{x}_{i}": (2, 8, *sizes[i]) for x in "ab" for i in SCALES}
    expected |= {f"gate_w{i}": (2, 1, *sizes[i - 1]) for i in (2, 3, 4)}
    assert logit.shape == (2,)
    assert {name: tuple(tensor.shape) for name, tensor in maps.items()} == expected
    assert all(tensor.min() > 0 and tensor.max() < 1 for name, tensor in maps.items() if "gate" in name)
    assert all(tensor.min() >= 0 and tensor.std() > 0 for name, tensor in maps.items() if "difference" in name)


@torch.no_grad()
def test_stem_without_pool_doubles_every_map():
    model = prfnet(backbone="resnet18.a1_in1k", weights="random", stem_pool=False)
    _, maps = model(*triplet(1, 40, 33), return_maps=True)
    assert [tuple(maps[f"difference_a_{i}"].shape[2:]) for i in SCALES] == [(24, 24), (12, 12), (6, 6), (3, 3)]
    assert tuple(maps["gate_w2"].shape[2:]) == (24, 24)


@torch.no_grad()
def test_sides_are_padded_by_reflection(model):
    image = triplet(1, 50, 70)[0]
    padded = np.pad(image.numpy(), ((0, 0), (0, 0), (0, 14), (0, 26)), mode="reflect")
    for ours, expected in zip(model.extract(image), model.backbone(torch.from_numpy(padded)), strict=True):
        assert torch.equal(ours, expected)


# --- Every variant


@variants
def test_variant_runs_forward_and_backward(fusion, gate_conv):
    model = prfnet(fusion=fusion, gate_conv=gate_conv).train()
    logit, maps = model(*triplet(), return_maps=True)
    assert logit.shape == (2,)
    assert sorted(name for name in maps if "gate" in name) == ["gate_w2", "gate_w3", "gate_w4"] * (fusion == "prf")
    preference_bce(logit, torch.tensor([0.0, 1.0])).backward()
    used = dict(model.named_parameters())
    assert [name for name, p in used.items() if p.grad is None or not p.grad.isfinite().all()] == []
    assert [name for name, p in used.items() if p.ndim > 1 and not p.grad.any()] == []


@variants
def test_every_scale_reaches_the_output(fusion, gate_conv):
    model = prfnet(fusion=fusion, gate_conv=gate_conv)
    maps = pyramid(16, sizes=((13, 9), (7, 5), (4, 3), (2, 2)))
    fused, _ = model.fusion(maps)
    assert fused.shape == (2, model.fusion.channels, 13, 9)
    fused.square().sum().backward()
    assert all(x.grad.any() for x in maps)


def test_single_gates_have_a_share_of_the_parameters():
    assert parameters(PRFBlock(512, gate_conv="single")) == 3 * 4609
    assert parameters(PRFBlock(512)) == 3 * 512 * 4609
    assert parameters(PRFBlock(512, gate_conv="bnrelu")) == 3 * (512 * 4609 + 2 * 512)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"se": True}, "which needs a Res2Net or ResNet"), ({"stem_pool": False}, "no max-pool in its stem")],
)
def test_impossible_options_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        prfnet(**options)


# --- Equations


def cross_subtraction_by_hand(block, reference, x):
    conv, norm, _ = block.conv
    y = F.conv2d(reference - x, conv.weight, padding=1)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (scale.view(-1, 1, 1) * (y - norm.running_mean.view(-1, 1, 1)) + norm.bias.view(-1, 1, 1)).clamp(min=0)


def fusion_by_hand(block, s1, s2, s3, s4):
    """Equations 3 and 4 unrolled; the channel mean is taken one output channel after the other."""

    def h(x, name, size):
        conv = block.gates[name].conv[0]
        channels = [F.conv2d(x, w[None], b[None], padding=1) for w, b in zip(conv.weight, conv.bias, strict=True)]
        gate = 1 / (1 + torch.exp(-sum(channels) / len(channels)))
        return F.interpolate(gate, size=size, mode="bilinear", align_corners=False)

    g3 = h(s4, "w4", s3.shape[-2:]) * s3
    g2 = h(g3, "w3", s2.shape[-2:]) * s2
    return h(g2, "w2", s1.shape[-2:]) * s1


@torch.no_grad()
def test_cross_subtraction_is_equations_1_and_2(model):
    generator = torch.Generator().manual_seed(3)
    for block, channels in zip(model.subtraction, model.backbone.channels, strict=True):
        o, a, b = torch.randn(3, 2, channels, 5, 4, generator=generator)
        expected = torch.cat([cross_subtraction_by_hand(block, o, x) for x in (a, b)], dim=1)
        torch.testing.assert_close(block(o, a, b), expected)


@torch.no_grad()
def test_cross_subtraction_keeps_the_sign_of_the_difference():
    block = CrossSubtraction(1, 1).eval()
    block.conv[0].weight.zero_()[..., 1, 1] = 1
    o, a, b = (torch.full((1, 1, 2, 2), value) for value in (0.5, 0.2, 0.9))
    difference = block(o, a, b)
    torch.testing.assert_close(difference[0, :, 0, 0], torch.tensor([0.3, 0.0]) / math.sqrt(1 + 1e-5))


@torch.no_grad()
def test_fusion_is_equations_3_and_4():
    torch.manual_seed(0)
    maps = pyramid(6)
    block = PRFBlock(6)
    torch.testing.assert_close(block(maps)[0], fusion_by_hand(block, *maps))


@torch.no_grad()
def test_fusion_with_constant_gates_by_hand():
    block, maps = PRFBlock(4), pyramid(4)
    for name, bias in {"w2": math.log(3), "w3": 1.0, "w4": 2.0}.items():
        block.gates[name].conv[0].weight.zero_()
        block.gates[name].conv[0].bias.fill_(bias)
    fused, gates = block(maps)
    torch.testing.assert_close(fused, 0.75 * maps[0])  # sigmoid(log 3) = 3/4
    assert {name: round(gate.mean().item(), 4) for name, gate in gates.items()} == {
        "gate_w2": 0.75,
        "gate_w3": 0.7311,
        "gate_w4": 0.8808,
    }


@torch.no_grad()
def test_whole_model_follows_the_equations(model):
    o, a, b = triplet(2, 50, 70)
    features = [model.extract(image) for image in (o, a, b)]
    s = [
        torch.cat([cross_subtraction_by_hand(block, fo, fa), cross_subtraction_by_hand(block, fo, fb)], dim=1)
        for block, fo, fa, fb in zip(model.subtraction, *features, strict=True)
    ]
    first, _, _, last = model.head
    hidden = F.linear(fusion_by_hand(model.fusion, *s).flatten(2).mean(2), first.weight, first.bias).clamp(min=0)
    expected = F.linear(hidden, last.weight, last.bias)[:, 0]
    torch.testing.assert_close(model(o, a, b), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_deep_features_pass_through_one_channel_gates_alone():
    block, maps = PRFBlock(6), pyramid(6)
    fused, gates = block(maps)
    assert torch.equal(fused, gates["gate_w2"] * maps[0])
    assert gates["gate_w2"].shape[1] == 1
    assert not torch.equal(block([*maps[:3], -maps[3]])[0], fused)
    block.gates["w4"].conv[0].weight.zero_()  # a gate that no longer looks at its input
    assert torch.equal(block([*maps[:3], -maps[3]])[0], block(maps)[0])


@torch.no_grad()
def test_folded_computes_the_same_with_a_share_of_the_parameters():
    torch.manual_seed(0)
    block, maps = PRFBlock(16), pyramid(16)
    folded = block.folded()
    assert parameters(folded) * 16 == parameters(block)
    fused, gates = block(maps)
    again, gates_again = folded(maps)
    torch.testing.assert_close(again, fused, rtol=0, atol=1e-5)
    assert all((gates_again[name] - gate).abs().max() < 1e-5 for name, gate in gates.items())


@torch.no_grad()
def test_fpn_with_identity_convolutions_sums_the_scales():
    fpn = FPN(2, 2)
    for conv in (*fpn.lateral, fpn.smooth):
        nn.init.dirac_(conv.weight)
        nn.init.zeros_(conv.bias)
    s1, s2, s3, s4 = pyramid(2, sizes=((8, 8), (4, 4), (2, 2), (1, 1)))
    expected = s1 + sum(x.repeat_interleave(k, 2).repeat_interleave(k, 3) for x, k in ((s2, 2), (s3, 4), (s4, 8)))
    torch.testing.assert_close(fpn([s1, s2, s3, s4])[0], expected)


@torch.no_grad()
def test_bifpn_round_by_hand():
    layer = BiFPNLayer(1)
    for node in (*layer.down, *layer.up):
        node.conv = nn.Identity()
    c1, c2, c3, c4 = values = 1.0, 20.0, 300.0, 4000.0
    d3 = (c3 + c4) / 2
    d2 = (c2 + d3) / 2
    d1 = (c1 + d2) / 2
    u2 = (c2 + d2 + d1) / 3
    u3 = (c3 + d3 + u2) / 3
    levels = layer([torch.full((1, 1, side, side), value) for side, value in zip((9, 5, 3, 2), values, strict=True)])
    assert [level.shape[-1] for level in levels] == [9, 5, 3, 2]
    assert [level.mean().item() for level in levels] == pytest.approx([d1, u2, u3, (c4 + u3) / 2], rel=1e-3)


@torch.no_grad()
def test_bifpn_node_cuts_negative_weights():
    node = WeightedSum(3, 1)
    node.conv = nn.Identity()
    node.weight.copy_(torch.tensor([1.0, 3.0, -5.0]))
    x = [torch.full((1, 1, 2, 2), value) for value in (4.0, 8.0, 100.0)]
    torch.testing.assert_close(node(*x), torch.full((1, 1, 2, 2), 7.0), rtol=1e-4, atol=0)


# --- A and B


@variants
@torch.no_grad()
def test_swapping_a_and_b_changes_the_logit_and_swaps_their_maps(fusion, gate_conv):
    model = prfnet(fusion=fusion, gate_conv=gate_conv)
    o, a, b = triplet()
    logit, maps = model(o, a, b, return_maps=True)
    swapped, swapped_maps = model(o, b, a, return_maps=True)
    assert ((swapped - logit).abs() > 1e-6).all()
    for i in SCALES:
        torch.testing.assert_close(swapped_maps[f"difference_a_{i}"], maps[f"difference_b_{i}"])


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_equal_a_and_b_have_exactly_equal_maps(training):
    o, a, _ = triplet()
    _, maps = prfnet().train(training)(o, a, a, return_maps=True)
    assert all(torch.equal(maps[f"difference_a_{i}"], maps[f"difference_b_{i}"]) for i in SCALES)


@torch.no_grad()
def test_the_reference_itself_has_the_map_of_no_difference(model):
    o, _, b = triplet()
    _, maps = model(o, o, b, return_maps=True)
    for i, block in enumerate(model.subtraction, start=1):
        ours = maps[f"difference_a_{i}"]
        nothing = block.conv(torch.zeros(1, block.conv[0].in_channels, *ours.shape[2:]))
        assert torch.equal(ours, nothing.expand_as(ours))
        assert not torch.equal(ours, maps[f"difference_b_{i}"])


# --- Freezing


def test_frozen_backbone_stays_as_it_is_and_the_rest_learns():
    model = prfnet(freeze_backbone=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    preference_mse(model(*triplet()), torch.tensor([0.0, 0.25])).backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("backbone."))
    for name in ("subtraction.0.conv.0.weight", "subtraction.3.conv.1.running_mean", "fusion.gates.w4.conv.0.weight"):
        assert not torch.equal(after[name], before[name])


def test_unfrozen_backbone_learns():
    model = prfnet().train()
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items() if "running" in name}
    model(*triplet()).sum().backward()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())
    after = model.backbone.state_dict()
    assert not any(torch.equal(after[name], tensor) for name, tensor in before.items())


# --- Losses

LOGIT = torch.tensor([0.0, math.log(3), -math.log(3)])  # probabilities 1/2, 3/4, 1/4
SHARE = torch.tensor([1.0, 0.25, 0.0])


def test_cross_entropy_by_hand():
    expected = -(math.log(0.5) + 0.25 * math.log(0.75) + 0.75 * math.log(0.25) + math.log(0.75)) / 3
    assert preference_bce(LOGIT, SHARE).item() == pytest.approx(expected, rel=1e-6)


def test_squared_error_by_hand():
    assert preference_mse(LOGIT, SHARE).item() == pytest.approx((0.5**2 + 0.5**2 + 0.25**2) / 3, rel=1e-6)


@pytest.mark.parametrize("loss", [preference_bce, preference_mse])
def test_losses_pull_the_logit_towards_b_where_b_is_closer(loss):
    logit = torch.zeros(2, requires_grad=True)
    loss(logit, torch.tensor([1.0, 0.0])).backward()
    assert logit.grad[0] < 0 < logit.grad[1]


def test_cross_entropy_of_a_confident_mistake_is_finite():
    assert preference_bce(torch.tensor([200.0]), torch.tensor([0.0])).item() == pytest.approx(200)


def test_bifpn_uses_all_its_parameters():
    net = BiFPN(8, 4, 2)
    net([torch.rand(2, 8, n, n) for n in (16, 8, 4, 2)])[0].sum().backward()
    assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []


def test_bnrelu_gates_cannot_be_folded():
    with pytest.raises(ValueError, match="cannot be folded"):
        PRFBlock(4, gate_conv="bnrelu").folded()

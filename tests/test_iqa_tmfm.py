"""IQA-TMFM: sizes against the paper, the authors' layout against its own arithmetic, the dead decoder, the fusion."""

import math

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from iqa_lib.backbones import PACKAGED
from iqa_lib.losses import preference_bce
from iqa_lib.models.iqa_tmfm import (
    IQATMFM,
    Attention,
    FeedForward,
    FusedIQATMFM,
    MetricFusion,
    NonlinearResidual,
    ScaleTransformer,
    Tokens,
    tree_fusion,
)
from iqa_lib.weights import WeightsError

SMALL = dict(backbone=PACKAGED, weights="packaged", crop=96, dim=16, heads=2, head_dim=8, hidden=32)
PAPER_SIZES = dict(channels=(192, 384), sides=(28, 14), dim=128, heads=4, head_dim=128, hidden=1024, layers=1)
SMALL_SIZES = dict(channels=(40, 112), sides=(12, 6), dim=16, heads=2, head_dim=8, hidden=32, layers=1)


def iqa_tmfm(**options):
    """A small network on real features."""
    torch.manual_seed(0)
    return IQATMFM(**SMALL | options).eval()


def triplet(*shape, size=96):
    return torch.rand(3, *shape, 3, size, size, generator=torch.Generator().manual_seed(1)).unbind()


def random_maps(batch, sizes=PAPER_SIZES):
    """Features of a triplet: for each of R, A and B the maps of both scales."""
    generator = torch.Generator().manual_seed(2)
    shapes = [(batch, c, side, side) for c, side in zip(sizes["channels"], sizes["sides"], strict=True)]
    return [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(3)]


def parameters(net):
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.fixture(scope="module")
def paper():
    torch.manual_seed(0)
    return IQATMFM(weights="random").eval()


@pytest.fixture(scope="module")
def model():
    return iqa_tmfm()


# --- Sizes


def test_the_papers_network(paper):
    assert parameters(paper.backbone) == 12_348_000
    assert [parameters(residual) for residual in paper.residual] == [73_920, 295_296]
    assert [parameters(transformer) for transformer in paper.transformers] == [1_611_008, 1_534_208]
    fine = paper.transformers[0]
    around = fine.residual_tokens.projection, fine.reference_tokens.projection, fine.head
    assert [parameters(part) for part in around] == [49_280, 24_704, 16_512]
    learns = sum(parameter.numel() for parameter in paper.parameters() if parameter.requires_grad)
    assert learns == 73_920 + 295_296 + 1_611_008 + 1_534_208 == 3_514_432


@torch.no_grad()
def test_backbone_is_the_whole_networks_up_to_its_third_stage(paper):
    whole = timm.create_model("convnext_tiny.fb_in1k", pretrained=False).eval()
    assert parameters(whole) == 28_589_128
    left_out = whole.load_state_dict(paper.backbone.net.model.state_dict(), strict=False)
    assert {key.split(".")[0] for key in left_out.missing_keys} == {"stages", "head"}
    assert all(key.startswith(("stages.3.", "head.")) for key in left_out.missing_keys)
    assert not left_out.unexpected_keys
    image = triplet(1, size=64)[0]
    first = whole.stages[0](whole.stem((image - 0.5) / 0.5))
    second = whole.stages[1](first)
    ours = paper.extract(image)
    assert [tuple(x.shape) for x in ours] == [(1, 192, 8, 8), (1, 384, 4, 4)]
    for x, expected in zip(ours, (second, whole.stages[2](second)), strict=True):
        torch.testing.assert_close(x, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("norm", "mean", "std"), [("half", 0.5, 0.5), ("imagenet", 0.485, 0.229)])
@torch.no_grad()
def test_images_are_normalised_inside(norm, mean, std):
    model = iqa_tmfm(norm=norm)
    red = triplet(1)[0] * torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    normalised = (red - model.backbone.mean) / model.backbone.std
    torch.testing.assert_close(normalised[:, 0], (red[:, 0] - mean) / std)
    assert all(torch.equal(*maps) for maps in zip(model.extract(red), model.backbone.net(normalised), strict=True))


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [(dict(), (40, 112)), (dict(backbone="cheng2020_anchor.q1", weights="random"), (128, 128))],
)
@torch.no_grad()
def test_other_backbones(backbone, channels):
    model = iqa_tmfm(crop=32, **backbone)
    assert (model.backbone.channels, model.backbone.strides, model.backbone.frozen) == (channels, (8, 16), True)
    logit, maps = model(*triplet(2, size=32), return_maps=True)
    assert model.min_size == 32
    assert logit.shape == (2,)
    assert [tuple(maps[f"residual_a_{scale}"].shape) for scale in ("2x", "3x")] == [
        (2, channels[0], 4, 4),
        (2, channels[1], 2, 2),
    ]


@pytest.mark.parametrize(
    ("options", "causal"),
    [
        (dict(), False),
        (dict(preset="official_code"), True),
        (dict(decoder_mask="causal"), True),
        (dict(preset="official_code", decoder_mask="none"), False),
    ],
)
def test_preset_chooses_the_mask_unless_it_is_given(options, causal):
    model = iqa_tmfm(**options)
    assert [layer.causal for transformer in model.transformers for layer in transformer.decoder] == [causal] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 100}, "crop: got 100, expected a multiple of 16"),
        ({"crop": 0}, "crop: got 0, expected a multiple of 16"),
        ({"backbone": "cheng2020_anchor.q7"}, "'cheng2020_anchor.q7'.* full timm tag"),
    ],
)
def test_impossible_options_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        iqa_tmfm(**options)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (triplet(1, size=112), "crops: got 112x112, expected 96x96"),
        (triplet(1, 2, size=64), "crops: got 64x64, expected 96x96"),
        ((*triplet(1, 2)[:2], triplet(1, 3)[0]), "unequal shapes"),
        ((*triplet(1, 2)[:2], triplet(2)[0]), "unequal shapes"),
    ],
)
def test_wrong_crops_are_errors(model, images, message):
    with pytest.raises(ValueError, match=message):
        model(*images)


# --- The authors' state dict, and its arithmetic written out


def authors_state(channels, sides, dim, heads, head_dim, hidden, layers):
    """Random tensors under the names and in the shapes of the authors' head."""
    generator = torch.Generator().manual_seed(3)
    state = {}

    def noise(*shape, scale=1.0, mean=0.0):
        return mean + scale * torch.randn(shape, generator=generator)

    def affine(name, outputs, inputs, *kernel):
        state[f"{name}.weight"] = noise(outputs, inputs, *kernel, scale=inputs**-0.5)
        state[f"{name}.bias"] = noise(outputs, scale=0.3)

    def attention(name):
        for letter in "QKV":
            affine(f"{name}.W_{letter}", heads * head_dim, dim)
        affine(f"{name}.linear", dim, heads * head_dim)

    for scale, c, side in zip(("2x", "3x"), channels, sides, strict=True):
        one = f"discrinimator{scale}"
        affine(f"res_conv{scale}", c, 2 * c, 1, 1)
        affine(f"{one}.conv_enc", dim, 2 * c, 1, 1)
        affine(f"{one}.conv_dec", dim, c, 1, 1)
        for part, attentions in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "dec_enc_attn"])):
            state[f"{one}.transformer.{part}.pos_embedding"] = noise(1, side**2 + 1, dim)
            state[f"{one}.transformer.{part}.cls_token"] = noise(1, 1, dim)
            for i in range(layers):
                layer = f"{one}.transformer.{part}.layers.{i}"
                for name in attentions:
                    attention(f"{layer}.{name}")
                affine(f"{layer}.pos_ffn.conv1", hidden, dim, 1)
                affine(f"{layer}.pos_ffn.conv2", dim, hidden, 1)
                for k in range(1, len(attentions) + 2):
                    state[f"{layer}.layer_norm{k}.weight"] = noise(dim, scale=0.3, mean=1.0)
                    state[f"{layer}.layer_norm{k}.bias"] = noise(dim, scale=0.3)
        state[f"{one}.projection.0.weight"] = noise(dim, dim, scale=dim**-0.5)
        state[f"{one}.projection.2.weight"] = noise(1, dim, scale=dim**-0.5)
    return state


def authors_logits(state, reference, a, b, *, heads, layers, causal):
    """Per scale the logits, and the last layer's attention of the decoder's class token: everything computed."""

    def conv(name, x):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def tokens(name, x):
        x = torch.cat([state[f"{name}.cls_token"].repeat(len(x), 1, 1), x.reshape(*x.shape[:2], -1).mT], dim=1)
        return x + state[f"{name}.pos_embedding"]

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-2)

    def ffn(name, x):
        x = F.gelu(F.conv1d(x.mT, state[f"{name}.conv1.weight"], state[f"{name}.conv1.bias"]))
        return F.conv1d(x, state[f"{name}.conv2.weight"], state[f"{name}.conv2.bias"]).mT

    def attention(name, x, y, mask=0.0):
        q, k, v = (
            F.linear(z, state[f"{name}.W_{letter}.weight"], state[f"{name}.W_{letter}.bias"]).view(
                *z.shape[:2], heads, -1
            )
            for letter, z in (("Q", x), ("K", y), ("V", y))
        )
        weights = torch.softmax(torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1]) + mask, dim=-1)
        mixed = torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)
        return F.linear(mixed, state[f"{name}.linear.weight"], state[f"{name}.linear.bias"]), weights

    logits, looks = [], []
    for i, scale in enumerate(("2x", "3x")):
        one = f"discrinimator{scale}"
        r_a, r_b = (F.gelu(conv(f"res_conv{scale}", torch.cat([x[i], reference[i]], dim=1))) for x in (a, b))
        memory = tokens(f"{one}.transformer.encoder", conv(f"{one}.conv_enc", torch.cat([r_a, r_b], dim=1)))
        for k in range(layers):
            layer = f"{one}.transformer.encoder.layers.{k}"
            memory = norm(f"{layer}.layer_norm1", memory + attention(f"{layer}.self_attn", memory, memory)[0])
            memory = norm(f"{layer}.layer_norm2", memory + ffn(f"{layer}.pos_ffn", memory))
        x = tokens(f"{one}.transformer.decoder", conv(f"{one}.conv_dec", reference[i]))
        mask = torch.full((x.shape[1], x.shape[1]), -math.inf).triu(1) if causal else 0.0
        for k in range(layers):
            layer = f"{one}.transformer.decoder.layers.{k}"
            x = norm(f"{layer}.layer_norm1", x + attention(f"{layer}.self_attn", x, x, mask)[0])
            looked, weights = attention(f"{layer}.dec_enc_attn", x, memory)
            x = norm(f"{layer}.layer_norm2", x + looked)
            x = norm(f"{layer}.layer_norm3", x + ffn(f"{layer}.pos_ffn", x))
        hidden = F.linear(x[:, 0], state[f"{one}.projection.0.weight"]).clamp(min=0)
        logits.append(F.linear(hidden, state[f"{one}.projection.2.weight"])[:, 0])
        looks.append(weights[:, :, 0])  # (B, heads, N + 1)
    return logits, looks


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A file as the authors' training saves it, and its state dict."""
    state = authors_state(**PAPER_SIZES)
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([weight], lr=1e-4, weight_decay=1e-5)
    weight.sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[4, 8])
    path = tmp_path_factory.mktemp("released") / "checkpoint_best_loss.pth.tar"
    content = {"epoch": 2, "state_dict": state, "loss": torch.tensor(0.5)}
    torch.save(content | {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, path)
    return path, state


@pytest.mark.parametrize("options", [dict(preset="official_code"), dict(decoder_mask="none")])
@torch.no_grad()
def test_released_layout_gives_the_logits_of_its_own_arithmetic(released, options):
    path, state = released
    model = IQATMFM.from_author_checkpoint(path, weights="random", **options).eval()
    features = random_maps(2)
    logit, maps = model(*features, return_maps=True)
    logits, looks = authors_logits(state, *features, heads=4, layers=1, causal="preset" in options)
    assert torch.stack(logits).std() > 0.05
    torch.testing.assert_close(logit, (logits[0] + logits[1]) / 2, rtol=0, atol=1e-5)
    for scale, side, expected, look in zip(("2x", "3x"), (28, 14), logits, looks, strict=True):
        torch.testing.assert_close(maps[f"logit_{scale}"], expected, rtol=0, atol=1e-5)
        attention = maps[f"attention_{scale}"]
        torch.testing.assert_close(attention, look[..., 1:].unflatten(2, (side, side)), rtol=0, atol=1e-6)
        shares, class_token = attention.sum((2, 3)), look[..., 0]
        assert attention.min() > 0
        assert shares.max() < 1
        torch.testing.assert_close(shares + class_token, torch.ones_like(shares), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mask", ["none", "causal"])
@torch.no_grad()
def test_deeper_transformers_too(tmp_path, mask):
    sizes = SMALL_SIZES | dict(layers=2)
    state = authors_state(**sizes)
    torch.save({f"module.{key}": tensor for key, tensor in state.items()}, tmp_path / "bare.pth")
    model = IQATMFM.from_author_checkpoint(tmp_path / "bare.pth", **SMALL, layers=2, decoder_mask=mask).eval()
    features = random_maps(2, sizes)
    logits, _ = authors_logits(state, *features, heads=2, layers=2, causal=mask == "causal")
    torch.testing.assert_close(model(*features), (logits[0] + logits[1]) / 2, rtol=0, atol=1e-5)


def without(state, key):
    return {name: tensor for name, tensor in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "res_conv3x.bias"), r"it lacks residual\.1\.conv\.bias: give"),
        (lambda s: {k: x for k, x in s.items() if "2x" in k}, r"it lacks .*; it lacks .*; it lacks .* and \d+ more"),
        (lambda s: s | {"fc.weight": torch.zeros(1)}, r"it has fc\.weight, which this network does not have"),
        (lambda s: s | {"discrinimator1x.conv_dec.bias": torch.zeros(16)}, "1x.*which this network does not have"),
        (
            lambda s: s | {"discrinimator2x.conv_dec.bias": torch.zeros(17)},
            r"has transformers\.0\.reference_tokens\.projection\.bias \(17,\), expected \(16,\)",
        ),
        (lambda s: s | {"res_conv2x.bias": 0.5}, "holds"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_an_error(tmp_path, change, message):
    path = tmp_path / "checkpoint_000.pth.tar"
    torch.save({"epoch": 0, "state_dict": change(authors_state(**SMALL_SIZES))}, path)
    with pytest.raises(WeightsError, match=rf"checkpoint_000\.pth\.tar .*{message}"):
        IQATMFM.from_author_checkpoint(path, **SMALL)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1000])


class Foreign:
    """Something that a file of weights should not hold."""


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "there is no such file"),
        (cut_short, "cannot be read"),
        (lambda path: path.write_bytes(b"<html>404</html>"), "cannot be read|is damaged"),
        (lambda path: torch.save({"state_dict": {"a": Foreign()}}, path), "holds objects"),
        (lambda path: torch.save({"epoch": 3, "model": {}}, path), "holds"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_an_error(tmp_path, damage, message):
    path = tmp_path / "weights.pth.tar"
    torch.save({"state_dict": authors_state(**SMALL_SIZES)}, path)
    damage(path)
    with pytest.raises(WeightsError, match=message) as caught:
        IQATMFM.from_author_checkpoint(path, **SMALL)
    assert str(path) in str(caught.value)


# --- The reference in the decoder


def scale_transformer(causal, layers=1):
    torch.manual_seed(0)
    sizes = dict(dim=16, heads=2, head_dim=8, hidden=32, dropout=0.1)
    return ScaleTransformer(6, 20, layers=layers, causal=causal, **sizes).eval()


@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_reference_given_to_the_decoder_has_no_influence_under_the_causal_mask_alone(layers):
    residuals, reference, other = torch.randn(3, 12, 4, 5)[0][None], torch.randn(1, 6, 4, 5), torch.randn(1, 6, 4, 5)
    masked, paper = scale_transformer(True, layers), scale_transformer(False, layers)
    assert torch.equal(masked(residuals, reference), masked(residuals, 100 * other))
    assert (paper(residuals, reference) - paper(residuals, other)).abs() > 1e-5
    for transformer in (masked, paper):
        assert (transformer(residuals, reference) - transformer(residuals + 1, reference)).abs() > 1e-5


@pytest.mark.parametrize(("mask", "dead"), [("causal", 338_176), ("none", 0)])
def test_parameters_that_never_learn_under_the_causal_mask(mask, dead):
    torch.manual_seed(0)
    model = IQATMFM(weights="random", decoder_mask=mask).eval()
    model(*random_maps(1)).sum().backward()
    head = {name: p for name, p in model.named_parameters() if not name.startswith("backbone.")}
    still = {name: p for name, p in head.items() if p.grad is None or not p.grad.any()}
    assert sum(p.numel() for p in still.values()) == dead
    layers = ("reference_tokens.projection", "decoder.0.attention.query", "decoder.0.attention.key")
    expected = {f"transformers.{i}.{layer}.{x}" for i in (0, 1) for layer in layers for x in ("weight", "bias")}
    assert set(still) == (expected if dead else set())
    for transformer in model.transformers:
        positions = transformer.reference_tokens.positions.grad[0]
        assert positions[0].any()
        assert bool(positions[1:].any()) == (mask == "none")


# --- Residuals


@torch.no_grad()
def test_nonlinear_residual_by_hand():
    torch.manual_seed(0)
    block = NonlinearResidual(4)
    distorted, reference = torch.randn(2, 3, 4, 5, 6)
    stacked = torch.cat([distorted, reference], dim=1)  # the distorted image's features come first
    y = torch.einsum("oi,bihw->bohw", block.conv.weight[:, :, 0, 0], stacked) + block.conv.bias.view(-1, 1, 1)
    torch.testing.assert_close(block(distorted, reference), y * 0.5 * (1 + torch.erf(y / math.sqrt(2))))


@torch.no_grad()
def test_residuals_of_equal_images():
    model, (reference, a, _) = iqa_tmfm(residual="subtract"), triplet(2)
    _, maps = model(reference, reference, a, return_maps=True)
    for scale, f_r, f_a in zip(("2x", "3x"), model.extract(reference), model.extract(a), strict=True):
        assert maps[f"residual_a_{scale}"].abs().max() == 0
        torch.testing.assert_close(maps[f"residual_b_{scale}"], f_a - f_r, rtol=0, atol=1e-5)
    assert parameters(model.residual) == 0


@pytest.mark.parametrize("residual", ["nonlinear", "subtract"])
@torch.no_grad()
def test_equal_a_and_b_have_equal_residuals(residual):
    reference, a, _ = triplet(2)
    _, maps = iqa_tmfm(residual=residual)(reference, a, a, return_maps=True)
    for scale in ("2x", "3x"):
        assert torch.equal(maps[f"residual_a_{scale}"], maps[f"residual_b_{scale}"])
        assert maps[f"residual_a_{scale}"].std() > 0


@torch.no_grad()
def test_swapping_a_and_b_swaps_their_residuals_and_does_not_negate_the_logit(model):
    reference, a, b = triplet(2)
    logit, maps = model(reference, a, b, return_maps=True)
    swapped, swapped_maps = model(reference, b, a, return_maps=True)
    assert ((swapped - logit).abs() > 1e-6).all()
    assert ((swapped + logit).abs() > 1e-6).all()
    for scale in ("2x", "3x"):
        torch.testing.assert_close(swapped_maps[f"residual_a_{scale}"], maps[f"residual_b_{scale}"])


# --- Crops, batches, features, maps


@torch.no_grad()
def test_crops_of_a_triplet_are_averaged(model):
    images = triplet(2, 3)
    singles = torch.stack([model(*(image[:, k] for image in images)) for k in range(3)])  # (3, 2)
    assert singles.std(0).min() > 1e-4
    torch.testing.assert_close(model(*images), singles.mean(0), rtol=0, atol=1e-5)


@torch.no_grad()
def test_features_in_place_of_images(model):
    images = triplet(2, 3)
    features = [[x.unflatten(0, (2, 3)) for x in model.extract(image.flatten(0, 1))] for image in images]
    torch.testing.assert_close(model(*features), model(*images), rtol=0, atol=1e-5)
    first = [[x[:, 0] for x in image] for image in features]
    torch.testing.assert_close(model(*first), model(*(image[:, 0] for image in images)), rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_three_images_go_through_the_backbone_as_one_batch(model, monkeypatch):
    batches, extract = [], model.extract
    monkeypatch.setattr(model, "extract", lambda images: batches.append(len(images)) or extract(images))
    model(*triplet(2, 3))
    assert batches == [3 * 2 * 3]


@torch.no_grad()
def test_half_precision_is_near(model):
    images = triplet(2)
    with torch.autocast("cpu", torch.bfloat16):
        logit = model(*images)
    torch.testing.assert_close(logit.float(), model(*images), rtol=0, atol=0.03)


@torch.no_grad()
def test_maps(model):
    images = triplet(2, 3)
    logit, maps = model(*images, return_maps=True)
    assert torch.equal(model(*images), logit)
    expected = {}
    for scale, channels, side in (("2x", 40, 12), ("3x", 112, 6)):
        expected |= {f"residual_{x}_{scale}": (6, channels, side, side) for x in "ab"}
        expected |= {f"attention_{scale}": (6, 2, side, side), f"logit_{scale}": (6,)}
    assert {name: tuple(tensor.shape) for name, tensor in maps.items()} == expected
    mean = (maps["logit_2x"] + maps["logit_3x"]) / 2
    torch.testing.assert_close(logit, mean.view(2, 3).mean(1), rtol=0, atol=1e-6)


# --- Training


@pytest.mark.parametrize("residual", ["nonlinear", "subtract"])
def test_the_head_learns_and_the_backbone_stays_as_it_is(residual):
    model = iqa_tmfm(residual=residual).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    preference_bce(model(*triplet(2, 2)), torch.tensor([0.0, 1.0])).backward()
    optimizer.step()
    head = {name: p for name, p in model.named_parameters() if not name.startswith("backbone.")}
    assert [name for name, p in head.items() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()] == []
    assert all(p.grad is None and not p.requires_grad for p in model.backbone.parameters())
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("backbone."))
    assert not any(torch.equal(after[name], before[name]) for name in head)


@pytest.mark.parametrize("backbone", [dict(), dict(backbone="cheng2020_anchor.q1", weights="random")])
def test_the_backbones_output_carries_no_graph_but_to_images_that_require_a_gradient(backbone):
    model = iqa_tmfm(crop=32, **backbone).train()
    image = triplet(1, size=32)[0]
    assert not any(module.training for module in model.backbone.children())
    assert [x.requires_grad for x in model.extract(image)] == [False, False]
    assert [x.requires_grad for x in model.extract(image.requires_grad_())] == [True, True]


def test_dropout_acts_in_training_alone(model):
    images = triplet(2)
    with torch.no_grad():
        assert torch.equal(model(*images), model(*images))
        training = iqa_tmfm().train()
        assert not torch.equal(training(*images), training(*images))
        torch.testing.assert_close(iqa_tmfm(dropout=0.0).train()(*images), model(*images))


@torch.no_grad()
def test_where_dropout_acts():
    torch.manual_seed(0)
    attention, tokens, ffn = Attention(8, 1, 8, 0.2), Tokens(8, 100, 8, 0.2), FeedForward(8, 16, 0.2)
    nn.init.zeros_(attention.value.weight)
    nn.init.ones_(attention.value.bias)  # so that the mean over the tokens is one, whatever their weights
    nn.init.eye_(attention.out.weight)
    nn.init.zeros_(attention.out.bias)
    x = torch.randn(4, 100, 8)
    torch.testing.assert_close(attention.eval()(x, x), torch.ones_like(x))
    y = attention.train()(x, x)
    kept = y[y != 0]
    assert kept.std() > 0.01  # of the weights
    assert kept.mean() == pytest.approx(1 / 0.8, abs=0.02)
    for outputs in (y, tokens.train()(x.mT.unflatten(2, (10, 10))), ffn.train()(x)):
        assert (outputs == 0).float().mean() == pytest.approx(0.2, abs=0.04)
    alone = x.flatten(0, 1)[:, None]  # (400, 1, 8): sequences of one token, whose only weight is dropped or not
    assert (attention(alone, alone) == 0).all(2).float().mean() == pytest.approx(0.2, abs=0.06)


# --- Fusion


def fusion_by_hand(fusion, inputs):
    x = (inputs.double().numpy() - fusion.mean.double().numpy()) / fusion.std.double().numpy()
    *hidden, last = [layer for layer in fusion.mlp if isinstance(layer, nn.Linear)]
    for layer in hidden:
        x = np.maximum(x @ layer.weight.double().numpy().T + layer.bias.double().numpy(), 0)
    return (x @ last.weight.double().numpy().T + last.bias.double().numpy())[:, 0]


@pytest.mark.parametrize("inputs", [3, 5, 8, 9, 17])
def test_parameters_of_the_fusion(inputs):
    assert parameters(MetricFusion(inputs)) == 20_065 + 192 * (inputs - 3)
    assert parameters(MetricFusion(inputs, activation="gelu")) == 20_065 + 192 * (inputs - 3)


@torch.no_grad()
def test_fusion_is_seven_hidden_layers_on_standardised_inputs():
    torch.manual_seed(0)
    fusion, inputs = MetricFusion(5), 10 + 3 * torch.randn(50, 5)
    widths = [layer.out_features for layer in fusion.mlp if isinstance(layer, nn.Linear)]
    assert widths == [192, 64, 64, 32, 16, 8, 4, 1]
    for layer in fusion.mlp:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=(2 / layer.in_features) ** 0.5)
    fusion.standardise_by(inputs)
    output = fusion(inputs)
    assert output.shape == (50,)
    assert output.std() > 1e-3
    np.testing.assert_allclose(output.numpy(), fusion_by_hand(fusion, inputs), atol=1e-5)
    smooth = MetricFusion(5, activation="gelu")
    smooth.load_state_dict(fusion.state_dict())
    assert not torch.allclose(smooth(inputs), output, atol=1e-4)


@torch.no_grad()
def test_standardise_by():
    fusion = MetricFusion(3)
    inputs = torch.tensor([[1.0, 10.0, 7.0], [3.0, 30.0, 7.0], [5.0, 50.0, 7.0]])
    fusion.standardise_by(inputs)
    assert fusion.mean.tolist() == [3.0, 30.0, 7.0]
    assert fusion.std[:2].tolist() == [2.0, 20.0]
    assert fusion(inputs).isfinite().all()
    assert fusion.std[2] > 0
    assert {"mean", "std"} <= set(fusion.state_dict())


def test_inputs_of_the_fusion_in_order(model):
    logit, metrics = torch.tensor([0.5, -0.5]), torch.arange(12.0).view(2, 3, 2) ** 2
    pair, difference = FusedIQATMFM(model, 3), FusedIQATMFM(model, 3, metric_input="difference")
    assert pair.inputs(logit, metrics).tolist() == [[0.5, 0, 1, 4, 9, 16, 25], [-0.5, 36, 49, 64, 81, 100, 121]]
    assert difference.inputs(logit, metrics).tolist() == [[0.5, 1, 5, 9], [-0.5, 13, 17, 21]]
    assert [fused.fusion.mean.numel() for fused in (pair, difference)] == [7, 4]


@pytest.mark.parametrize(("metric_input", "expected"), [("pair", 22_753), ("difference", 21_217)])
def test_parameters_with_the_papers_eight_metrics(model, metric_input, expected):
    assert parameters(FusedIQATMFM(model, 8, metric_input=metric_input).fusion) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric_input": "sum"}, "metric_input: got 'sum', expected one of 'pair', 'difference'"),
        ({"activation": "tanh"}, "activation: got 'tanh', expected one of 'relu', 'gelu'"),
    ],
)
def test_unknown_options_of_the_fusion_are_errors(model, options, message):
    with pytest.raises(ValueError, match=message):
        FusedIQATMFM(model, 2, **options)


@pytest.mark.parametrize("freeze", [False, True])
def test_the_whole_network_is_the_fusion_of_its_logit_with_the_metrics(freeze):
    network, images, metrics = iqa_tmfm(), triplet(2), torch.rand(2, 3, 2)
    fused = FusedIQATMFM(network, 3, activation="gelu", freeze_network=freeze).eval()
    output = fused(*images, metrics)
    expected = fused.fusion(torch.cat([network(*images)[:, None], metrics.flatten(1)], dim=1))
    torch.testing.assert_close(output, expected)
    output.sum().backward()
    assert all(p.grad is not None for p in fused.fusion.parameters())
    head = [p for name, p in network.named_parameters() if not name.startswith("backbone.")]
    assert {p.requires_grad for p in head} == {not freeze}
    assert {p.grad is None for p in head} == {freeze}
    assert all(p.grad is None for p in network.backbone.parameters())


def test_tree_learns_a_simple_rule():
    torch.manual_seed(0)
    inputs = torch.randn(600, 5)
    b_closer = inputs[:, 1] > inputs[:, 2]
    tree = tree_fusion(inputs[:400], torch.where(b_closer[:400], 0.5, 0.4), seed=1)
    share = tree.predict_proba(inputs[400:].numpy())[:, 1]
    assert ((share > 0.5) == b_closer[400:].numpy()).mean() > 0.9
    again = tree_fusion(inputs[:400], b_closer[:400].float(), seed=1)
    np.testing.assert_array_equal(again.predict_proba(inputs[400:].numpy())[:, 1], share)

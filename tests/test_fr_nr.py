"""FRNR: sizes against the paper, encoders against torchvision, the pooled differences by hand, freezing, shares."""

import math
from itertools import pairwise

import pytest
import torch
import torchvision
from image_sets import one_thread_of_the_cpu  # noqa: F401
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from iqa_lib.backbones import PACKAGED
from iqa_lib.models.fr_nr import BRANCHES, FRNR, Head
from iqa_lib.training import Task, fit, load_weights, save_weights

VGG, RESNET, INCEPTION = "vgg16.tv_in1k", "resnet50.tv_in1k", "inception_v3.tv_in1k"
SCALES = (1, 2, 3, 4)
CHANNELS = (16, 24, 40, 112)  # of the packaged network


def frnr(**options):
    """A small FRNR on real features; its learnt encoders have BatchNorm statistics that are not a fresh layer's."""
    torch.manual_seed(0)
    model = FRNR(**dict(backbone=PACKAGED, weights="packaged", hidden=(16, 8)) | options)
    randomise_statistics(nn.ModuleList(e for branch, e in model.encoders.items() if branch != "frp"))
    return model.eval()


def randomise_statistics(net):
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5)


def pair(batch=2, height=64, width=96):
    return torch.rand(2, batch, 3, height, width, generator=torch.Generator().manual_seed(1)).unbind()


def parameters(net, trained=False):
    return sum(p.numel() for p in net.parameters() if p.requires_grad or not trained)


def state(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def head(*hidden, width=6, dropout=0.0):
    torch.manual_seed(0)
    return Head(width, hidden, dropout).eval()


@pytest.fixture(scope="module")
def model():
    return frnr()


@pytest.fixture(scope="module")
def frp():
    """The frozen branch alone."""
    return frnr(branches=("frp",))


# --- Sizes


@pytest.mark.parametrize(
    ("backbone", "channels", "encoder", "head", "whole"),
    [
        (VGG, (128, 256, 512, 512), 14_714_688, 2_228_993, 46_373_057),
        (RESNET, (64, 256, 512, 1024), 8_543_296, 2_917_121, 28_547_009),
        (INCEPTION, (64, 192, 288, 768), 8_965_856, 2_081_537, 28_979_105),
    ],
)
def test_the_papers_networks(backbone, channels, encoder, head, whole):
    with torch.device("meta"):
        model = FRNR(backbone=backbone, weights="random")
    assert model.branches == tuple(model.encoders) == ("frp", "frnp", "nr")
    assert {e.channels for e in model.encoders.values()} == {model.channels} == {channels}
    assert {e.strides for e in model.encoders.values()} == {(2, 4, 8, 16)}
    assert {parameters(e) for e in model.encoders.values()} == {encoder}
    assert parameters(model.head) == head
    assert parameters(model) == whole == 3 * encoder + head
    assert parameters(model, trained=True) == whole - encoder
    assert model.width == 3 * sum(channels)
    assert model.higher_is_better


def test_inception_is_the_default_and_has_the_papers_map_sizes():
    with torch.device("meta"):
        model = FRNR(weights="random", branches=("frp",))
        maps = model.extract(torch.zeros(1, 3, 384, 512))
        smallest = model.extract(torch.zeros(1, 3, model.min_size, model.min_size))
        with pytest.raises(RuntimeError, match=r"greater than actual input size|size is too small"):
            model.extract(torch.zeros(1, 3, model.min_size - 1, model.min_size))
    assert model.backbone.weights.network == INCEPTION
    assert [tuple(scale.shape[2:]) for scale in maps] == [(189, 253), (92, 124), (45, 61), (22, 30)]
    assert smallest[-1].shape[2:] == (1, 1)


@pytest.mark.parametrize(
    ("branches", "width", "encoders"),
    [
        (("frp",), 1408, 1),
        (("frp", "frnp"), 2816, 2),
        (("frp", "frnp", "nr"), 4224, 3),
        (["frp", "nr"], 2816, 2),
        (("frnp",), 1408, 1),
        (("nr",), 1408, 1),
        (("frp", "frp"), 2816, 1),
    ],
)
def test_rows_of_the_branches_table(branches, width, encoders):
    with torch.device("meta"):
        model = FRNR(backbone=VGG, weights="random", branches=branches)
    assert model.width == model.head.hidden[0].in_features == width
    assert parameters(model) - parameters(model.head) == encoders * 14_714_688
    trained = len(set(branches) - {"frp"}) * 14_714_688
    assert parameters(model, trained=True) == parameters(model.head) + trained


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (33, 63)])
@torch.no_grad()
def test_shapes_of_maps(model, height, width):
    score, maps = model(*pair(2, height, width), return_maps=True)
    sizes = {i: (math.ceil(height / 2**i), math.ceil(width / 2**i)) for i in SCALES}
    expected = {f"{branch}_{i}": (2, 1, *sizes[i]) for branch in BRANCHES for i in SCALES}
    expected |= {f"{branch}_vector": (2, 192) for branch in BRANCHES}
    assert score.shape == (2,)
    assert {name: tuple(tensor.shape) for name, tensor in maps.items()} == expected
    assert all(tensor.std() > 0 for tensor in maps.values())
    assert all(tensor.min() >= 0 for name, tensor in maps.items() if name.startswith("f"))


@torch.no_grad()
def test_other_taps():
    model = frnr(branches=("frp", "nr"), taps=(1, 3))
    score, maps = model(*pair(), return_maps=True)
    assert score.shape == (2,)
    assert model.width == 2 * (24 + 112)
    assert [tuple(maps[name].shape[2:]) for name in ("frp_1", "nr_2")] == [(16, 24), (4, 6)]
    assert model.contributions(*pair()).shape == (2, 2, 2)


@torch.no_grad()
def test_a_learnt_backbone_of_its_own():
    """The pretrained branch stays what it is; the head, the shares and the maps follow each branch's channels."""
    model, plain = frnr(learnt_backbone="resnet10t.c3_in1k"), frnr(branches=("frp",))
    own = sum(model.encoders["nr"].channels)
    assert model.encoders["frnp"].weights.network == model.encoders["nr"].weights.network == "resnet10t.c3_in1k"
    assert model.width == model.head.hidden[0].in_features == 192 + 2 * own
    assert torch.equal(model.pooled(*pair())[:, :192], plain.pooled(*pair()))
    shares = model.contributions(*pair(3))
    torch.testing.assert_close(
        shares.sum((1, 2)), model(*pair(3)) - model(torch.zeros(1, model.width)), rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_the_pretrained_vector_can_be_computed_before_and_standardised():
    model, images = frnr(), pair(5)
    vector = model.pretrained(*images)
    torch.testing.assert_close(model(*images, vector), model(*images))
    model.standardise_by(vector)
    pooled = model.pooled(*images)
    torch.testing.assert_close(pooled[:, :192].mean(0), torch.zeros(192), atol=1e-4, rtol=0)
    torch.testing.assert_close(pooled[:, :192].std(0), torch.ones(192), atol=1e-3, rtol=0)
    torch.testing.assert_close(model.pooled(*images, vector), pooled)
    torch.testing.assert_close(model.contributions(*images, vector), model.contributions(*images))
    assert frnr().load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"branches": ()}, r"branches: got \(\), expected one or more of 'frp', 'frnp', 'nr'"),
        ({"branches": ("frp", "fr")}, r"branches: got \('frp', 'fr'\), expected one or more of"),
        ({"branches": "nr"}, r"branches: got 'nr', expected one or more of"),
        ({"vgg_taps": "post_pool"}, r"'post_pool' with backbone 'tf_eff.*', expected a VGG"),
        ({"backbone": "convnext_tiny.fb_in1k"}, r"strides: got \[2\], expected some of \[4, 8, 16, 32\]"),
    ],
)
def test_impossible_options_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        frnr(**options)


# --- Encoders


def torchvision_stages(backbone, encoder_state, vgg_taps):
    """torchvision's network with the same weights, cut by hand into the steps from one tap to the next."""
    if backbone == VGG:
        layers = nn.Sequential()
        widths = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]
        layers.features = torchvision.models.vgg.make_layers(widths)
        layers.load_state_dict(encoder_state, strict=vgg_taps == "pre_pool")
        ends = (9, 16, 23, 30) if vgg_taps == "pre_pool" else (5, 10, 17, 24)  # behind ReLU, behind pool
        return [layers.features[start:end] for start, end in pairwise((0, *ends))]
    if backbone == RESNET:
        net = torchvision.models.resnet50(weights=None)
        stages = [[net.conv1, net.bn1, net.relu], [net.maxpool, net.layer1], [net.layer2], [net.layer3]]
    else:
        net = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False)
        stages = [
            [net.Conv2d_1a_3x3, net.Conv2d_2a_3x3, net.Conv2d_2b_3x3],
            [net.maxpool1, net.Conv2d_3b_1x1, net.Conv2d_4a_3x3],
            [net.maxpool2, net.Mixed_5b, net.Mixed_5c, net.Mixed_5d],
            [net.Mixed_6a, net.Mixed_6b, net.Mixed_6c, net.Mixed_6d, net.Mixed_6e],
        ]
    missing, unknown = net.load_state_dict(encoder_state, strict=False)
    assert not unknown
    assert {name.split(".")[0] for name in missing} <= {"layer4", "fc", "Mixed_7a", "Mixed_7b", "Mixed_7c"}
    return [nn.Sequential(*stage) for stage in stages]


@pytest.mark.parametrize(
    ("backbone", "vgg_taps", "width", "mean", "std"),
    [
        (VGG, "pre_pool", 1408, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (VGG, "post_pool", 960, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (RESNET, "pre_pool", 1856, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (INCEPTION, "pre_pool", 1312, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
@torch.no_grad()
def test_encoders_are_torchvisions_networks_up_to_the_last_tap(backbone, vgg_taps, width, mean, std):
    torch.manual_seed(0)
    model = FRNR(backbone=backbone, vgg_taps=vgg_taps, weights="random", branches=("frp",), hidden=())
    randomise_statistics(model)
    reference, distorted = pair(1, 48, 59)
    stages = nn.Sequential(*torchvision_stages(backbone, model.backbone.net.model.state_dict(), vgg_taps)).eval()
    x = (reference - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    maps = model.train().extract(reference)
    for stage, ours in zip(stages, maps, strict=True):
        x = stage(x)
        torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4 * x.std().item())
    assert tuple(scale.shape[1] for scale in maps) == model.channels
    assert model.width == sum(model.channels) == width
    assert model.backbone.strides == (2, 4, 8, 16)
    assert not model.pooled(reference, reference).any()
    assert model.pooled(reference, distorted).count_nonzero() > 0.7 * width  # the others' ReLUs are shut


def test_only_the_frozen_branch_has_pretrained_weights(model):
    assert {branch: e.weights.source for branch, e in model.encoders.items()} == {
        "frp": "packaged",
        "frnp": "random",
        "nr": "random",
    }
    assert model.backbone is model.encoders["frp"]
    stems = [encoder.net.model.conv_stem.weight for encoder in model.encoders.values()]
    assert not any(torch.equal(stems[i], stems[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_learnt_branches_look_for_no_weights():
    model = frnr(branches=("frnp", "nr"), weights="missing.pth")
    assert model.backbone is None
    with pytest.raises(ValueError, match=r"branches: got \('frnp', 'nr'\), expected 'frp' among them"):
        model.extract(pair()[0])


# --- Equations


def pooled_by_hand(model, reference, distorted):
    """Each branch's vector of one pair `(3, H, W)`, a channel after the other."""
    vectors = {}
    for branch, encoder in model.encoders.items():
        r, d = (encoder.net((image[None] - 0.5) / 0.5) for image in (reference, distorted))
        scales = [d_s[0] if branch == "nr" else (d_s - r_s)[0].abs() for r_s, d_s in zip(r, d, strict=True)]
        vectors[branch] = torch.stack([channel.sum() / channel.numel() for scale in scales for channel in scale])
    return vectors


def score_by_hand(head, vector):
    first, second, last = (*head.hidden, head.out)
    hidden = F.linear(vector, first.weight, first.bias).clamp(min=0)
    return last.weight[0] @ F.linear(hidden, second.weight, second.bias).clamp(min=0) + last.bias[0]


@pytest.mark.parametrize("branches", [BRANCHES, ("nr", "frp"), ("frnp",), ("frp", "frp", "nr")])
@torch.no_grad()
def test_model_follows_the_equations(branches):
    model = frnr(branches=branches)
    images = pair(2, 50, 70)
    scores, maps = model(*images, return_maps=True)
    for k, (reference, distorted) in enumerate(zip(*images, strict=True)):
        vectors = pooled_by_hand(model, reference, distorted)
        for branch, vector in vectors.items():
            torch.testing.assert_close(maps[f"{branch}_vector"][k], vector, rtol=1e-4, atol=1e-5)
        joined = torch.cat([vectors[branch] for branch in branches])
        torch.testing.assert_close(model.pooled(*images)[k], joined, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(scores[k], score_by_hand(model.head, joined), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_maps_are_what_is_pooled(model):
    reference, distorted = pair()
    _, maps = model(reference, distorted, return_maps=True)
    for i, (r, d) in enumerate(zip(model.extract(reference), model.extract(distorted), strict=True), start=1):
        torch.testing.assert_close(maps[f"frp_{i}"][:, 0], (d - r).abs().mean(1), rtol=1e-4, atol=1e-5)
    for i, scale in enumerate(model.encoders["nr"](distorted), start=1):
        torch.testing.assert_close(maps[f"nr_{i}"][:, 0], scale.mean(1), rtol=1e-4, atol=1e-5)
    for branch in BRANCHES:
        for i, part in enumerate(maps[f"{branch}_vector"].split(CHANNELS, dim=1), start=1):
            torch.testing.assert_close(maps[f"{branch}_{i}"].mean((1, 2, 3)), part.mean(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_identical_images_have_no_difference_at_all(training):
    model, (image, other) = frnr().train(training), pair()
    score, maps = model(image, image, return_maps=True)
    assert not any(tensor.any() for name, tensor in maps.items() if name.startswith("f"))
    nothing = torch.cat([torch.zeros(2, 384), maps["nr_vector"]], dim=1)
    assert maps["nr_vector"].count_nonzero() == 2 * 192
    assert torch.equal(score, model(nothing))
    _, maps = model(image, other, return_maps=True)
    assert all(maps[f"{branch}_{i}"].min() > 0 for branch in ("frp", "frnp") for i in SCALES)


@torch.no_grad()
def test_no_reference_branch_sees_no_reference(model):
    (reference, distorted), nr = pair(), frnr(branches=("nr",))
    assert torch.equal(nr(reference, distorted), nr(1 - reference, distorted))
    assert not torch.equal(nr(reference, distorted), nr(reference, 1 - distorted))
    before, after = (model(r, distorted, return_maps=True)[1] for r in (reference, 1 - reference))
    assert [name for name in before if torch.equal(before[name], after[name])] == [
        "nr_1",
        "nr_2",
        "nr_3",
        "nr_4",
        "nr_vector",
    ]


@torch.no_grad()
def test_a_branch_named_twice_has_one_encoder_and_its_vector_twice():
    model, once = frnr(branches=("frp", "frp")), frnr(branches=("frp",))
    first, second = model.pooled(*pair()).chunk(2, dim=1)
    assert torch.equal(first, second)
    assert torch.equal(first, once.pooled(*pair()))
    assert parameters(model) - parameters(once) == 192 * 16


@torch.no_grad()
def test_head_without_hidden_layers_is_linear():
    net, vector = head(), torch.rand(2, 6)
    assert parameters(net) == 7
    torch.testing.assert_close(net(vector), vector @ net.out.weight[0] + net.out.bias)


def test_dropout_follows_each_hidden_layer_in_training_alone():
    net, vector = head(64, 64, dropout=0.5), torch.rand(1, 6)
    assert torch.equal(net(vector), net(vector))
    torch.manual_seed(0)
    ours = net.train()(vector)
    torch.manual_seed(0)
    for layer in net.hidden:
        vector = F.dropout(layer(vector).relu(), 0.5)
    assert torch.equal(ours, net.out(vector)[:, 0])


# --- Batches, features, vectors, maps


@torch.no_grad()
def test_features_in_place_of_images(model, frp):
    reference, distorted = pair(2, 50, 70)
    score = frp(reference, distorted)
    features = [frp.extract(image) for image in (reference, distorted)]
    for inputs in (features, (features[0], distorted), (reference, features[1])):
        torch.testing.assert_close(frp(*inputs), score, rtol=0, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"got features with branches \('frp', 'frnp', 'nr'\), expected images, or 'frp' alone"
    ):
        model(reference, features[1])


@torch.no_grad()
def test_vector_in_place_of_images(model):
    assert torch.equal(model(model.pooled(*pair())), model(*pair()))


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (torch.rand(2, 3, 64, 64), {}, r"model\(vector\): got shape \(2, 3, 64, 64\).*expected \(B, 576\)"),
        (torch.rand(2, 575), {}, r"got shape \(2, 575\)"),
        (torch.rand(2, 576), {"return_maps": True}, "return_maps=True"),
        ([torch.rand(2, 16, 8, 8)], {}, r"model\(vector\): got shape \(\)"),
    ],
)
def test_wrong_vectors_are_errors(model, inputs, options, message):
    with pytest.raises(ValueError, match=message):
        model(inputs, **options)


def test_weights_saved_and_loaded(model, tmp_path):
    save_weights(model, tmp_path / "model.safetensors")
    other = FRNR(backbone=PACKAGED, weights="random", hidden=(16, 8)).eval()
    assert {".".join(name.split(".")[:2]) for name in other.state_dict()} == {
        "encoders.frp",
        "encoders.frnp",
        "encoders.nr",
        "head.hidden",
        "head.out",
        "mean",
        "std",
    }
    with torch.no_grad():
        assert not torch.equal(other(*pair()), model(*pair()))
        load_weights(other, tmp_path / "model.safetensors")
        assert torch.equal(other(*pair()), model(*pair()))


# --- Training


def test_frozen_branch_stays_as_it_is_and_the_rest_learns():
    model, (reference, distorted) = frnr().train(), pair()
    before, vector = state(model), model.eval().pooled(reference, distorted)[:, :192]
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        F.mse_loss(model(reference, distorted), torch.tensor([1.0, 5.0])).backward()
        optimizer.step()
    learnt = {name: p for name, p in model.named_parameters() if not name.startswith("encoders.frp.")}
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.backbone.parameters())
    assert [name for name, p in learnt.items() if p.grad is None or not p.grad.isfinite().all()] == []
    assert [name for name, p in learnt.items() if p.ndim > 1 and not p.grad.any()] == []
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not any(name.startswith("encoders.frp.") for name in changed)
    assert {name for name in before if "running" in name and not name.startswith("encoders.frp.")} <= changed
    assert {name for name, p in learnt.items() if p.ndim > 1} <= changed
    assert torch.equal(model.pooled(reference, distorted)[:, :192], vector)


def test_frozen_branch_can_be_fine_tuned():
    model = frnr(branches=("frp",), freeze_backbone=False).train()
    before = {name: tensor for name, tensor in state(model.backbone).items() if "running" in name}
    model(*pair()).sum().backward()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())
    after = model.backbone.state_dict()
    assert not any(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_learnt_differences_see_references_and_distorted_as_one_batch():
    model, images = frnr(branches=("frnp", "nr")).train(), pair()
    images[1].mul_(0.5)
    stems = [model.encoders[branch].net.model for branch in ("frnp", "nr")]
    before = [state(stem.bn1) for stem in stems]
    model(*images)
    for stem, old, batch in zip(stems, before, (torch.cat(images), images[1]), strict=True):
        x = F.conv2d(F.pad((batch - 0.5) / 0.5, (0, 1, 0, 1)), stem.conv_stem.weight, stride=2)
        momentum = stem.bn1.momentum
        mean = (1 - momentum) * old["running_mean"] + momentum * x.mean((0, 2, 3))
        var = (1 - momentum) * old["running_var"] + momentum * x.var((0, 2, 3))
        torch.testing.assert_close(stem.bn1.running_mean, mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(stem.bn1.running_var, var, rtol=1e-4, atol=1e-5)
        assert stem.bn1.num_batches_tracked == old["num_batches_tracked"] + 1


class Rows(Dataset):
    """Tensors as `fit` indexes them."""

    def __init__(self, *tensors):
        self.tensors = tensors

    def __len__(self):
        return len(self.tensors[0])

    def __getitem__(self, key):
        return tuple(tensor[key[1]] for tensor in self.tensors)


def test_training_on_kept_vectors_is_training_on_images(tmp_path):
    (reference, distorted), scores = pair(8, 32, 32), torch.linspace(1, 5, 8)
    options = dict(epochs=10, batch_size=4, lr=1e-2, optimizer="adam", weight_decay=0.0, schedule="cosine")
    fresh, on_images, on_vectors = (frnr(branches=("frp",), hidden=(64, 32), dropout=0.3) for _ in range(3))
    with torch.no_grad():
        vectors = on_vectors.pooled(reference, distorted)
    images = fit(
        on_images, [Task(Rows(reference, distorted, scores), F.mse_loss)], folder=tmp_path / "images", **options
    )
    kept = fit(on_vectors, [Task(Rows(vectors, scores), F.mse_loss)], folder=tmp_path / "vectors", **options)
    torch.testing.assert_close(torch.tensor(kept.history.loss), torch.tensor(images.history.loss), rtol=1e-4, atol=0)
    assert images.history.loss.iloc[-1] < 0.5 * images.history.loss.iloc[0]
    for name, tensor in on_vectors.state_dict().items():
        torch.testing.assert_close(tensor, on_images.state_dict()[name], rtol=1e-3, atol=1e-5)
        assert torch.equal(tensor, fresh.state_dict()[name]) == (not name.startswith("head"))


# --- Contributions


@torch.no_grad()
def test_contributions_sum_to_the_score_less_that_of_zero(model):
    shares = model.contributions(*pair(3))
    assert shares.shape == (3, 3, 4)
    total = model(*pair(3)) - model(torch.zeros(1, 576))
    assert total.abs().min() > 1e-3
    torch.testing.assert_close(shares.sum((1, 2)), total, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("hidden", [(), (7,), (7, 5), (9, 8, 7)])
@torch.no_grad()
def test_contributions_are_complete_at_any_depth(hidden):
    net, vector = head(*hidden), 20 * torch.randn(50, 6, generator=torch.Generator().manual_seed(3))
    shares = net.contributions(vector)
    assert shares.shape == (50, 6)
    torch.testing.assert_close(shares.sum(1), net(vector) - net(torch.zeros(1, 6)), rtol=1e-4, atol=1e-5)


def test_contributions_with_one_hidden_layer_are_integrated_gradients():
    net, vector = head(32).double(), 3 * torch.randn(1, 6, dtype=torch.float64)
    steps = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    path = (steps[:, None] * vector).requires_grad_()
    (gradient,) = torch.autograd.grad(net(path).sum(), path)
    torch.testing.assert_close(net.contributions(vector), vector * gradient.mean(0), rtol=0, atol=1e-4)
    assert (net.contributions(vector) - vector * gradient[-1]).abs().max() > 1e-3


@pytest.mark.parametrize(("bias", "slope"), [(1.5, 1), (-0.5, 0)])
@torch.no_grad()
def test_contributions_through_two_layers_by_hand(bias, slope):
    """From (0, 0) to (x, y) = (4, 7).

    a = 2x - y + 1 goes from 1 to 2 and passes with slope 1, b = y - x - 2 from -2 to 1 with slope 1/3; c = a + b from
    1 to 3 with slope 1; d = b - a + bias stays what it is, above or below zero. The score is c + 10 d + 7.
    """
    net = head(2, 2, width=2)
    for layer, weights, biases in (
        (net.hidden[0], [[2.0, -1.0], [-1.0, 1.0]], [1.0, -2.0]),
        (net.hidden[1], [[1.0, 1.0], [-1.0, 1.0]], [0.0, bias]),
        (net.out, [[1.0, 10.0]], [7.0]),
    ):
        layer.weight.copy_(torch.tensor(weights))
        layer.bias.copy_(torch.tensor(biases))
    of_a, of_b = 1 - 10 * slope, (1 + 10 * slope) / 3
    expected = torch.tensor([[4 * (2 * of_a - of_b), 7 * (of_b - of_a)]])
    torch.testing.assert_close(net.contributions(torch.tensor([[4.0, 7.0]])), expected)
    assert expected.sum().item() == pytest.approx(2, abs=1e-4)


@torch.no_grad()
def test_contributions_of_nothing_are_nothing(model):
    image, other = pair()
    assert not model.contributions(image, image)[:, :2].any()
    assert model.contributions(image, image)[:, 2].all()
    deaf = frnr()
    deaf.head.hidden[0].weight[:, 192:384] = 0
    shares = deaf.contributions(image, other)
    assert not shares[:, 1].any()
    assert shares[:, [0, 2]].all()


@torch.no_grad()
def test_contributions_are_told_apart_by_branch_and_scale(model):
    vector = model.pooled(*pair())
    bounds = torch.tensor((0, *3 * CHANNELS)).cumsum(0).tolist()
    channels = model.head.contributions(vector)
    expected = [channels[:, start:end].sum(1) for start, end in pairwise(bounds)]
    torch.testing.assert_close(model.contributions(*pair()).flatten(1), torch.stack(expected, dim=1))
    parts = model.split(vector)
    assert [tuple(scale.shape[1] for scale in branch) for branch in parts] == [CHANNELS] * 3
    assert torch.equal(parts[1][2], vector[:, 192 + 40 : 192 + 80])

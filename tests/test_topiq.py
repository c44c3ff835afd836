"""CFANet: the authors' network and checkpoint layout, every variant against a second derivation, freezing, memory."""

import copy
import hashlib
import math
import weakref

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from iqa_lib.backbones import PACKAGED
from iqa_lib.models.lpips_plus import LPIPSPlus
from iqa_lib.models.topiq import CROSS_SCALES, AttentionBlock, CFANet, Preference
from iqa_lib.weights import WeightsError

RESNET = "resnet50.a1_in1k"
DIM = 16
CHANNELS = (16, 24, 40, 112, 320)
VARIANTS = [
    {},
    {"heads": 1},
    {"glp": "average"},
    {"self_attention": False},
    {"ffn": False},
    *({"cross_scale": name} for name in CROSS_SCALES[1:]),
    {"glp": "average", "self_attention": False, "cross_scale": "none", "ffn": False},
]
variants = pytest.mark.parametrize("options", VARIANTS, ids=lambda options: "-".join(map(str, options.values())))


def pair(batch=2, height=64, width=96):
    return torch.rand(2, batch, 3, height, width, generator=torch.Generator().manual_seed(1)).unbind()


def cfanet(**options):
    """A small CFANet on real features."""
    torch.manual_seed(0)
    return CFANet(**dict(backbone=PACKAGED, weights="packaged", dim=DIM, heads=2) | options).eval()


def pyramids(sizes=((35, 49), (18, 25), (9, 13), (5, 7), (3, 4)), dtype=torch.float64):
    """Feature maps of a reference and a distorted image as the small backbone makes them from 70 x 97 px."""
    generator = torch.Generator().manual_seed(2)
    shapes = [(2, channels, *size) for channels, size in zip(CHANNELS, sizes, strict=True)]
    return [[torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes] for _ in range(2)]


def parameters(net):
    return sum(parameter.numel() for parameter in net.parameters())


# --- The authors' network a second time: plain functions on tensors in the layout of their file


def block_shapes(name, dim, attentions):
    """Names and shapes of one encoder layer (one attention) or decoder layer (two)."""
    linear = {"linear1": (4 * dim, dim), "linear2": (dim, 4 * dim)}
    for attention in attentions:
        yield from {f"{attention}.in_proj_weight": (3 * dim, dim), f"{attention}.in_proj_bias": (3 * dim,)}.items()
        linear[f"{attention}.out_proj"] = (dim, dim)
    linear |= {f"norm{i}": (dim,) for i in range(1, len(attentions) + 2)}
    for layer, shape in linear.items():
        yield from {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}.items()


def author_shapes(channels, dim):
    """Names and shapes of all but the backbone."""
    layers = {f"score_linear.{i}": shape for i, shape in {0: (dim,), 1: (dim, dim), 3: (dim,), 4: (dim, dim)}.items()}
    layers["score_linear.6"] = (1, dim)
    for i, c in enumerate(channels):
        layers |= {f"weight_pool.{i}.0": (64, c, 1, 1), f"weight_pool.{i}.2": (64, 64, 3, 3)}
        layers |= {f"weight_pool.{i}.4": (1, 64, 3, 3), f"dim_reduce.{i}.0": (dim, 3 * c, 1, 1)}
    shapes = {"h_emb": (1, dim // 2, 32, 1), "w_emb": (1, dim // 2, 1, 32)}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    blocks = {f"sa_attn_blks.{i}.layers.0": ["self_attn"] for i in range(5)} | {"attn_pool": ["self_attn"]}
    blocks |= {f"attn_blks.{i}.layers.0": ["self_attn", "multihead_attn"] for i in range(4)}
    for name, attentions in blocks.items():
        shapes |= {f"{name}.{key}": shape for key, shape in block_shapes(name, dim, attentions)}
    return shapes


def author_state(backbone, dim):
    """Random tensors in the layout; those that never learn are NaN, so that nobody can use them unseen."""
    torch.manual_seed(0)
    backbone = timm.create_model(backbone, features_only=True)
    state = {f"semantic_model.{name}": tensor for name, tensor in backbone.state_dict().items()}
    for name, tensor in state.items():
        if tensor.ndim == 1:  # of BatchNorm
            tensor.uniform_(0.5, 1) if name.endswith(("weight", "running_var")) else tensor.uniform_(-0.3, 0.3)
    for name, shape in author_shapes(backbone.feature_info.channels(), dim).items():
        state[name] = torch.randn(shape) / math.sqrt(max(1, math.prod(shape[1:])))
        if len(shape) == 1:
            state[name] = 0.3 * state[name] + name.endswith("weight")
        if name.startswith("attn_blks") and ".self_attn." in name:
            state[name].fill_(math.nan)
    return state


class Derivation:
    """The score from feature maps, equation by equation. Knows which tensors it has `used`, and its `attention`."""

    def __init__(self, state, *, heads=4, glp="gated", self_attention=True, cross_scale="top_down", ffn=True):
        self.state, self.heads, self.glp, self.ffn = state, heads, glp, ffn
        self.self_attention, self.cross_scale = self_attention, cross_scale
        self.used, self.attention, self.masks = set(), {}, {}

    def get(self, name):
        self.used.add(name)
        return self.state[name]

    def linear(self, x, name):
        return x @ self.get(f"{name}.weight").T + self.get(f"{name}.bias")

    def conv(self, x, name):
        weight = self.get(f"{name}.weight")
        return F.conv2d(x, weight, self.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def norm(self, x, name):
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return x * self.get(f"{name}.weight") + self.get(f"{name}.bias")

    @staticmethod
    def gelu(x):
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2

    @staticmethod
    def pooled(x, th, tw):
        """Means over crops from floor(i h / th) to ceil((i + 1) h / th)."""
        h, w = x.shape[2:]
        x = torch.stack([x[:, :, i * h // th : -(-(i + 1) * h // th)].mean(2) for i in range(th)], 2)
        return torch.stack([x[..., j * w // tw : -(-(j + 1) * w // tw)].mean(3) for j in range(tw)], 3)

    def tokens(self, i, reference, distorted, th, tw):
        difference = ((distorted - reference) ** 2 + 1e-12) ** 0.5
        x = torch.cat([distorted, reference, difference], dim=1)
        if self.glp == "gated":
            hidden = self.gelu(self.conv(difference, f"weight_pool.{i}.0"))
            hidden = self.gelu(self.conv(hidden, f"weight_pool.{i}.2"))
            self.masks[i] = 1 / (1 + torch.exp(-self.conv(hidden, f"weight_pool.{i}.4")))
            x = x * self.masks[i]
        if x.shape[2] > th and x.shape[3] > tw:
            x = self.pooled(x, th, tw)
        x = self.gelu(self.conv(x, f"dim_reduce.{i}.0"))
        table = torch.cat([self.get("h_emb").repeat(1, 1, 1, 32), self.get("w_emb").repeat(1, 1, 32, 1)], dim=1)
        x = x + F.interpolate(table, (th, tw), mode="bicubic", align_corners=False)
        x = x.flatten(2).mT  # (B, L, D)
        return self.block(x, f"sa_attn_blks.{i}.layers.0") if self.self_attention else x

    def block(self, x, name, tokens=None):
        queries = self.norm(x, f"{name}.norm1") if self.ffn else x
        kind = "self_attn" if tokens is None else "multihead_attn"
        if tokens is None:
            tokens = queries
        elif self.ffn:
            tokens = self.norm(tokens, f"{name}.norm2")
        x = x + self.attend(queries, tokens, f"{name}.{kind}")
        if not self.ffn:
            return x
        hidden = self.norm(x, f"{name}.norm2" if kind == "self_attn" else f"{name}.norm3")
        return x + self.linear(self.gelu(self.linear(hidden, f"{name}.linear1")), f"{name}.linear2")

    def attend(self, queries, tokens, name):
        weights, biases = (self.get(f"{name}.in_proj_{kind}").chunk(3) for kind in ("weight", "bias"))
        q, k, v = (x @ w.T + b for x, w, b in zip((queries, tokens, tokens), weights, biases, strict=True))
        maps, outputs = [], []
        for q_h, k_h, v_h in zip(*(x.chunk(self.heads, -1) for x in (q, k, v)), strict=True):
            a = torch.exp(q_h @ k_h.mT / math.sqrt(q_h.shape[-1]))
            maps.append(a / a.sum(-1, keepdim=True))
            outputs.append(maps[-1] @ v_h)
        self.attention[name] = torch.stack(maps, 1)  # (B, heads, L, L)
        return self.linear(torch.cat(outputs, -1), f"{name}.out_proj")

    def score(self, reference, distorted):
        th, tw = reference[4].shape[2:]
        order = {"top_down": [4, 3, 2, 1, 0], "none": [4]}.get(self.cross_scale, [0, 1, 2, 3, 4])
        tokens = {i: self.tokens(i, reference[i], distorted[i], th, tw) for i in order}
        x = tokens[order[0]]
        if self.cross_scale == "concat":
            x = self.linear(torch.cat([tokens[i] for i in order], -1), "concat")
        else:
            for step, i in enumerate(order[1:]):
                x = self.block(x, f"attn_blks.{step}.layers.0", tokens[i])
        x = self.block(x, "attn_pool").mean(1)
        x = self.gelu(self.linear(self.norm(x, "score_linear.0"), "score_linear.1"))
        x = self.gelu(self.linear(self.norm(x, "score_linear.3"), "score_linear.4"))
        return self.linear(x, "score_linear.6")[:, 0]


def resnet_maps(state, images):
    """The five maps of timm's whole ResNet50, after ImageNet's normalisation."""
    net = timm.create_model(RESNET, num_classes=0).eval().to(images.dtype)
    net.load_state_dict({key.removeprefix("semantic_model."): t for key, t in state.items() if "semantic" in key})
    mean, std = images.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    maps = [net.act1(net.bn1(net.conv1((images - mean) / std)))]
    x = net.maxpool(maps[0])
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = layer(x)
        maps.append(x)
    return maps


@pytest.fixture(scope="module")
def authors(tmp_path_factory):
    """A file of the authors' network, and the tensors in it."""
    state = author_state(RESNET, 256)
    file = tmp_path_factory.mktemp("authors") / "cfanet.pth"
    torch.save({"params": state}, file)
    return file, state


@pytest.fixture(scope="module")
def released(authors):
    return CFANet.from_author_checkpoint(authors[0])


@pytest.fixture(scope="module")
def small_state():
    concat = {"concat.weight": torch.randn(DIM, 5 * DIM) / 9, "concat.bias": torch.randn(DIM)}
    return author_state(PACKAGED, DIM) | concat


@pytest.fixture(scope="module")
def model():
    return cfanet()


# --- Sizes and layout


def test_the_authors_layout(authors):
    state = authors[1]
    learnt = {key: t.numel() for key, t in state.items() if not key.endswith(("mean", "var", "tracked"))}
    never = [key for key in learnt if key.startswith("attn_blks") and ".self_attn." in key]
    assert len(state) == 514
    assert sum("semantic_model" in key for key in state) == 318
    assert sum(learnt.values()) == 36_038_662
    assert sum(learnt[key] for key in never) == 1_052_672


def test_the_released_network(released):
    assert parameters(released) == 36_038_662 - 1_052_672
    assert sum(p.numel() for p in released.parameters() if p.requires_grad) == 35_985_542 - 1_052_672
    assert parameters(released.backbone) == 23_508_032
    assert sum(parameters(block.mask) for block in released.pooling.values()) == 437_701
    assert sum(parameters(block.project) for block in released.pooling.values()) == 2_999_552
    assert parameters(released.self_attention) == 3_948_800
    assert parameters(released.cross_attention) == 4_213_760 - 1_052_672
    assert parameters(released.attention_pool) == 789_760
    assert parameters(released.head) == 132_865
    assert released.h_emb.numel() == released.w_emb.numel() == 4096
    assert not released.training


def test_a_fresh_network_has_the_released_sizes(released):
    fresh = CFANet(weights="random")
    assert {key: t.shape for key, t in fresh.state_dict().items()} == {
        key: t.shape for key, t in released.state_dict().items()
    }
    assert fresh.h_emb.std().item() == pytest.approx(0.02, rel=0.1)
    linear = fresh.cross_attention[2].ffn[1]
    assert linear.weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.02)
    assert not linear.bias.any()


@pytest.mark.parametrize(("height", "width"), [(64, 96), (70, 97)])
@torch.no_grad()
def test_released_network_on_images(authors, released, height, width):
    images = pair(2, height, width)
    reference, distorted = (resnet_maps(authors[1], image) for image in images)
    expected = Derivation(authors[1]).score(reference, distorted)
    assert expected.std() > 1e-3
    torch.testing.assert_close(released(*images), expected, rtol=0, atol=1e-5)


@variants
@torch.no_grad()
def test_variant_follows_the_equations(tmp_path, small_state, options):
    """In double precision; and the file holds no tensor beyond the ones that the equations use."""
    features = pyramids()
    options = {"heads": 2} | options
    derivation = Derivation({key: tensor.double() for key, tensor in small_state.items()}, **options)
    expected = derivation.score(*features)
    used = {key: t for key, t in small_state.items() if key in derivation.used or "semantic" in key}
    torch.save({"params": used}, tmp_path / "variant.pth")
    model = CFANet.from_author_checkpoint(tmp_path / "variant.pth", backbone=PACKAGED, dim=DIM, **options).double()
    assert expected.std() > 1e-4
    torch.testing.assert_close(model(*features), expected, rtol=0, atol=1e-10)
    score, maps = model(*features, return_maps=True)
    torch.testing.assert_close(score, expected, rtol=0, atol=1e-10)
    order = {"bottom_up": [0, 1, 2, 3, 4]}.get(options.get("cross_scale"), [4, 3, 2, 1, 0])
    names = {f"mask_{i}": mask for i, mask in derivation.masks.items()}
    for name, attention in derivation.attention.items():
        kind, i = name.split(".")[0], int(name.split(".")[1]) if "blks" in name else None
        if kind != "attn_pool":
            own = f"self_attention_{i}" if kind == "sa_attn_blks" else f"cross_attention_{order[i + 1]}"
            names[own] = attention.reshape(2, options["heads"], 3, 4, 3, 4)
    assert sorted(maps) == sorted(names)
    for name, expected_map in names.items():
        torch.testing.assert_close(maps[name], expected_map, rtol=0, atol=1e-10)


# --- Checkpoints


def test_prefix_of_a_parallel_run_and_absent_unused_tensors(tmp_path, small_state):
    state = {key: t for key, t in small_state.items() if "concat" not in key}
    lean = {f"module.{key}": t for key, t in state.items() if not t.isnan().any()}
    assert len(lean) == len(state) - 16
    models = []
    for name, tensors in {"full.pth": state, "lean.pth": lean}.items():
        torch.save({"params": tensors}, tmp_path / name)
        models.append(CFANet.from_author_checkpoint(tmp_path / name, backbone=PACKAGED, dim=DIM, heads=2))
    for key, tensor in models[0].state_dict().items():
        assert torch.equal(tensor, models[1].state_dict()[key])
    digest = hashlib.sha256((tmp_path / "lean.pth").read_bytes()).hexdigest()
    assert models[1].backbone.weights.as_dict() == {
        "network": "CFANet",
        "source": "file",
        "file": "lean.pth",
        "sha256": digest,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("attn_blks.3.layers.0.norm3.bias"), r"cross_attention\.3\.ffn\.0\.bias"),
        (lambda state: state.pop("semantic_model.bn1.running_var"), r"backbone\.net\.model\.bn1\.running_var"),
        (lambda state: state.update(h_emb=torch.zeros(1, 8, 16, 1)), "h_emb"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra"),
    ],
)
def test_files_that_do_not_fit_are_errors(tmp_path, small_state, change, message):
    state = {key: tensor for key, tensor in small_state.items() if "concat" not in key}
    change(state)
    torch.save({"params": state}, tmp_path / "changed.pth")
    with pytest.raises(WeightsError, match=rf"changed\.pth does not fit CFANet: it (lacks|has) {message}"):
        CFANet.from_author_checkpoint(tmp_path / "changed.pth", backbone=PACKAGED, dim=DIM, heads=2)


class Unsafe:
    """What a safe reader must not build."""


UNSAFE = {"params": {"h_emb": torch.zeros(1)}, "more": Unsafe()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"noise", "cannot be read"),
        ([1], "holds a list"),
        ({"weights": {}}, "something other than tensors"),
        ({"params": {"h_emb": 1}}, "something other than tensors"),
        (UNSAFE, "that could run code"),
    ],
)
def test_files_that_cannot_be_read_are_errors(tmp_path, content, message):
    file = tmp_path / "broken.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(WeightsError, match=rf"broken\.pth.*{message}"):
        CFANet.from_author_checkpoint(file)


# --- Images


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 63), (64, 96), (47, 160)])
@torch.no_grad()
def test_any_size_and_its_maps(model, height, width):
    score, maps = model(*pair(2, height, width), return_maps=True)
    sizes = [(-(-height // stride), -(-width // stride)) for stride in (2, 4, 8, 16, 32)]
    around = (2, 2, *sizes[4], *sizes[4])
    expected = {f"mask_{i}": (2, 1, *size) for i, size in enumerate(sizes)}
    expected |= {f"self_attention_{i}": around for i in range(5)} | {f"cross_attention_{i}": around for i in range(4)}
    assert score.shape == (2,)
    assert {name: tuple(tensor.shape) for name, tensor in maps.items()} == expected
    for name, tensor in maps.items():
        assert tensor.min() > 0
        assert tensor.max() < 1 or (height, width) == (32, 32)
        if "attention" in name:
            torch.testing.assert_close(tensor.sum((-2, -1)), torch.ones(around[:4]))


def test_large_images_are_refused_and_maps_of_large_images_sooner(model, monkeypatch):
    assert (model.max_pixels, model.max_map_pixels) == (14_000_000, 2_000_000)
    monkeypatch.setattr(model, "max_pixels", 33 * 64)
    monkeypatch.setattr(model, "max_map_pixels", 32 * 64)
    model(*pair(1, 33, 64))
    model(*pair(1, 32, 64), return_maps=True)
    with pytest.raises(ValueError, match=r"34x64.*expected at most"):
        model(*pair(1, 34, 64))
    with pytest.raises(ValueError, match=r"33x64.*expected at most"):
        model(*pair(1, 33, 64), return_maps=True)


@torch.no_grad()
def test_reference_and_distorted_have_their_places(model):
    reference, distorted = pair()
    assert ((model(reference, distorted) - model(distorted, reference)).abs() > 1e-4).all()
    assert (model(reference, reference) != model(reference, distorted)).all()


@torch.no_grad()
def test_one_backbone_batch_for_both_but_two_for_large_images(monkeypatch):
    model, images, batches = cfanet(), pair(2), []
    model.backbone.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    score = model(*images)
    assert batches == [4]
    model.max_batch_pixels = 64 * 96 - 1
    torch.testing.assert_close(model(*images), score, rtol=0, atol=1e-5)
    assert batches == [4, 2, 2]


@torch.no_grad()
def test_feature_maps_go_as_soon_as_they_are_used(monkeypatch):
    model, alive, extract = cfanet(), [], CFANet.extract

    def watched(self, images):
        maps = extract(self, images)
        alive.extend(weakref.ref(tensor) for tensor in maps)
        return maps

    monkeypatch.setattr(CFANet, "extract", watched)
    model.max_batch_pixels = 0  # a batch each, so that no map is a view of another
    counts = {}
    for i, block in model.pooling.items():
        block.register_forward_pre_hook(lambda *_, i=i: counts.update({i: sum(x() is not None for x in alive)}))
    model(*pair(1))
    assert counts == {"4": 10, "3": 8, "2": 6, "1": 4, "0": 2}


@torch.no_grad()
def test_attention_forms_no_map_unless_asked():
    block, x = AttentionBlock(8, 2, 0.0, cross=False, ffn=True).eval(), torch.randn(1, 400, 8)
    largest = []
    for return_map in (False, True):
        with torch.profiler.profile(profile_memory=True) as profile:
            block(x, return_map=return_map)
        largest.append(max(event.cpu_memory_usage for event in profile.events()))
    assert largest[0] < 400 * 400 * 4 < largest[1]


@pytest.mark.parametrize("backbone", ["resnet", "packaged"])
@torch.no_grad()
def test_folded_copy_scores_the_same(released, model, backbone):
    original, images = {"resnet": released, "packaged": model}[backbone], pair(2, 70, 97)
    before = copy.deepcopy(original.state_dict())
    folded = original.folded()
    norms = [layer for layer in original.backbone.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    assert parameters(original) - parameters(folded) == sum(norm.num_features for norm in norms)
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    torch.testing.assert_close(folded(*images), original(*images), rtol=0, atol=1e-5)
    assert all(torch.equal(tensor, before[key]) for key, tensor in original.state_dict().items())


# --- Options


def test_a_backbone_of_four_stages():
    model = CFANet(backbone="convnext_atto.d2_in1k", taps=(0, 1, 2, 3), weights="random", dim=DIM, heads=2).eval()
    with torch.no_grad():
        score, maps = model(*pair(1, 65, 96), return_maps=True)
    assert score.isfinite().all()
    assert sorted(maps)[:3] == ["cross_attention_0", "cross_attention_1", "cross_attention_2"]
    assert maps["mask_0"].shape == (1, 1, 16, 24)


@pytest.mark.parametrize(("dim", "heads"), [(18, 4), (15, 3)])
def test_widths_that_cannot_be_split_are_errors(dim, heads):
    with pytest.raises(ValueError, match=f"dim: got {dim} with heads={heads}, expected an even multiple of heads"):
        cfanet(dim=dim, heads=heads)


# --- Learning


@variants
def test_variant_learns_all_but_batchnorm(options):
    model = cfanet(**options).train()
    before = copy.deepcopy(model.backbone.state_dict())
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    fixed = {id(parameter) for layer in norms for parameter in layer.parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    (model(*pair()) - 1).square().sum().backward()
    learns = {name: p for name, p in model.named_parameters() if id(p) not in fixed}
    assert [name for name, p in learns.items() if p.grad is None or not p.grad.isfinite().all()] == []
    assert [name for name, p in learns.items() if p.ndim > 1 and not p.grad.any()] == []
    assert all(p.grad is None and not p.requires_grad for p in model.parameters() if id(p) in fixed)
    assert norms
    optimizer.step()
    changed = [key for key, tensor in model.backbone.state_dict().items() if not torch.equal(tensor, before[key])]
    assert changed
    assert all("conv" in key for key in changed)


def test_frozen_backbone_stays_as_it_is_and_the_rest_learns():
    model = cfanet(freeze_backbone=True).train()
    model(*pair()).sum().backward()
    assert not any(p.requires_grad or p.grad is not None for p in model.backbone.parameters())
    assert not any(tensor.requires_grad for tensor in model.extract(pair()[0]))
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_gradients_of_equal_images_are_finite():
    model, (reference, _) = cfanet().train(), pair()
    model(reference, reference).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def test_dropout_is_part_of_the_released_blocks_alone():
    features = pyramids(dtype=torch.float32)
    for ffn in (True, False):
        model = cfanet(ffn=ffn, dropout=0.5)
        score = model(*features)
        assert torch.allclose(model.train()(*features), score) is not ffn


@torch.no_grad()
def test_bf16_leaves_attention_and_head_alone(released):
    images = pair()
    with torch.autocast("cpu", torch.bfloat16):
        score, maps = released(*images, return_maps=True)
    assert score.dtype == maps["cross_attention_0"].dtype == torch.float32
    assert maps["mask_0"].dtype == torch.bfloat16
    assert 0 < (score - released(*images)).abs().max() < 0.05


# --- Preferences


@torch.no_grad()
def test_a_triplets_logit_is_the_difference_of_two_distances(model):
    reference, a = pair(3)
    b = torch.lerp(reference, a, 0.1)
    distances = [torch.log1p(torch.exp(-model(reference, x))) for x in (a, b)]
    torch.testing.assert_close(Preference(model)(reference, a, b), distances[0] - distances[1], rtol=0, atol=1e-5)
    features = [model.extract(x) for x in (reference, a, b)]
    torch.testing.assert_close(Preference(model)(*features), distances[0] - distances[1], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_distance_judges_as_it_is():
    torch.manual_seed(0)
    lpips_plus = LPIPSPlus(net="squeeze", weights="random")
    reference, a = pair(3)
    b = torch.lerp(reference, a, 0.1)
    logits = Preference(lpips_plus)(reference, a, b)
    assert (logits > 0).all(), "b is the closer one"
    torch.testing.assert_close(logits, lpips_plus(reference, a) - lpips_plus(reference, b))
    assert torch.equal(Preference(lpips_plus)(reference, a, a), torch.zeros(3))


def test_preferences_reach_every_trained_parameter():
    model = cfanet(dropout=0.0).train()
    reference, a = pair(2)
    Preference(model)(reference, a, a.roll(1, 0)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_triplets_of_unequal_sizes_are_errors(model, wrong):
    images = [image[:, :, : 40 if i == wrong else 64] for i, image in enumerate((*pair(1), pair(1)[0]))]
    with pytest.raises(ValueError, match="unequal shapes"):
        Preference(model)(*images)

"""What every model promises: batches equal single inputs, features equal images, maps leave nothing behind, errors."""

import copy
import gc
import inspect
import weakref
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from iqa_lib.backbones import PACKAGED
from iqa_lib.models import AHIQ, FRNR, IQATMFM, STLPIPS, CFANet, LPIPSPlus, Preference, PRFNet
from iqa_lib.weights import WeightsError


class Case(NamedTuple):
    """A small network; how many images it takes, at which size; its closed options."""

    model: type[nn.Module]
    options: dict
    images: int = 2
    size: tuple[int, int] = (64, 96)
    choices: tuple[str, ...] = ()
    features: bool = True


REAL = dict(backbone=PACKAGED, weights="packaged")
SMALL_AHIQ = dict(cnn="packaged", cnn_weights="packaged", vit="b16", width=1 / 16)
CASES = {
    "prfnet": Case(PRFNet, dict(REAL, se=False, width=8, hidden=8), 3, choices=("fusion", "gate_conv")),
    "iqa_tmfm": Case(
        IQATMFM,
        dict(REAL, crop=64, dim=16, heads=2, head_dim=8, hidden=32),
        3,
        (64, 64),
        choices=("preset", "residual", "decoder_mask", "norm"),
    ),
    "ahiq": Case(
        AHIQ,
        dict(SMALL_AHIQ, vit_weights="random"),
        size=(32, 48),
        choices=("preset", "cnn", "vit", "fusion", "pooling", "norm", "resnet152_blocks"),
    ),
    "ahiq, cnn": Case(AHIQ, dict(SMALL_AHIQ, fusion="cnn", pooling="both")),
    "frnr": Case(FRNR, dict(REAL, hidden=(16, 8)), choices=("branches", "vgg_taps"), features=False),
    "frnr, frozen branch": Case(FRNR, dict(REAL, branches=("frp",), hidden=(16, 8))),
    "cfanet": Case(CFANet, dict(REAL, dim=16, heads=2), choices=("glp", "cross_scale")),
    "lpips_plus": Case(LPIPSPlus, dict(net="squeeze", weights="random"), choices=("net", "semantic_layer")),
    "st_lpips": Case(STLPIPS, dict(weights="packaged"), choices=("net",)),
}
CHOICES = [(name, option) for name, case in CASES.items() for option in case.choices]
WEIGHTS = [(name, o) for name, case in CASES.items() for o in case.options if o.endswith("weights")]
every_model = pytest.mark.parametrize("name", CASES)
pairs = pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.images == 2])


def build(name: str, **options) -> nn.Module:
    """Random heads that keep the spread of their inputs, so that no branch is close to constant."""
    torch.manual_seed(0)
    model = CASES[name].model(**CASES[name].options | options).eval()
    for part, parameter in model.named_parameters():
        if parameter.ndim > 1 and not part.startswith(("backbone.", "encoders.", "network.")):
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


@pytest.fixture(scope="module")
def models():
    built: dict[str, nn.Module] = {}
    return lambda name: built.get(name) or built.setdefault(name, build(name))


def images(name: str, batch: int = 2, size: tuple[int, int] | None = None) -> tuple[Tensor, ...]:
    """A photograph-like reference and its noisy versions."""
    case, generator = CASES[name], torch.Generator().manual_seed(1)
    return torch.rand(case.images, batch, 3, *(size or case.size), generator=generator).unbind()


def everything(module: nn.Module) -> list[tuple[str, list[str]]]:
    """Names of all that each submodule holds."""
    return [(name, sorted(vars(part))) for name, part in module.named_modules()]


def hooks(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if part._forward_hooks or part._forward_pre_hooks]


# --- Outputs


@every_model
@torch.no_grad()
def test_a_batch_equals_its_items_one_by_one(models, name):
    model, batch = models(name), images(name, 3)
    singles = torch.cat([model(*(image[k : k + 1] for image in batch)) for k in range(3)])
    assert singles.shape == (3,)
    assert singles.std() > 1e-4
    torch.testing.assert_close(model(*batch), singles, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.features])
@torch.no_grad()
def test_features_in_place_of_images(models, name):
    model, batch = models(name), images(name)
    features = [model.extract(image) for image in batch]
    torch.testing.assert_close(model(*features), model(*batch), rtol=1e-5, atol=1e-6)


@every_model
@torch.no_grad()
def test_maps_change_nothing_and_leave_nothing_behind(models, name):
    model, batch = models(name), images(name)
    before = everything(model)
    score, maps = model(*batch, return_maps=True)
    torch.testing.assert_close(model(*batch), score, rtol=0, atol=1e-6 if name == "cfanet" else 0)
    assert all(isinstance(tensor, Tensor) for tensor in maps.values())
    references = [weakref.ref(tensor) for tensor in maps.values()]
    del maps
    gc.collect()
    assert references
    assert not any(reference() is not None for reference in references)
    assert hooks(model) == []
    assert everything(model) == before


@every_model
@torch.no_grad()
def test_a_copy_and_a_loaded_network_give_the_same(models, name):
    model, batch = models(name), images(name)
    score = model(*batch)
    assert torch.equal(copy.deepcopy(model)(*batch), score)
    assert torch.equal(copy.deepcopy(model).train().eval()(*batch), score)
    other = build(name, **{option: "random" for option in CASES[name].options if option.endswith("weights")})
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(*batch), score)


@every_model
def test_a_model_describes_itself(models, name):
    model = models(name)
    assert model.options == CASES[name].options
    assert set(model.options) < set(inspect.signature(type(model)).parameters)
    assert model.min_size <= min(CASES[name].size)
    assert hasattr(model, "higher_is_better") == (CASES[name].images == 2)


# --- Equal images


@pytest.mark.parametrize("name", ["lpips_plus", "st_lpips"])
@torch.no_grad()
def test_lpips_of_equal_images_is_zero(models, name):
    image, _ = images(name)
    assert not models(name)(image, image).any()


@torch.no_grad()
def test_frozen_differences_of_equal_images_are_zero(models):
    model, (image, _) = models("frnr, frozen branch"), images("frnr")
    assert torch.equal(model(image, image), model(torch.zeros(2, model.width)))


@pairs
@torch.no_grad()
def test_equal_images_have_a_score(models, name):
    model, (reference, distorted) = models(name), images(name)
    same = model(reference, reference)
    assert same.isfinite().all()
    assert (same != model(reference, distorted)).all()


@pytest.mark.parametrize("name", ["cfanet", "lpips_plus", "st_lpips"])
@torch.no_grad()
def test_equal_a_and_b_are_equally_close(models, name):
    reference, a = images(name)
    assert not Preference(models(name))(reference, a, a).any()


@pytest.mark.parametrize(("name", "maps_of"), [("prfnet", "difference"), ("iqa_tmfm", "residual")])
@torch.no_grad()
def test_equal_a_and_b_have_equal_maps(models, name, maps_of):
    reference, a, b = images(name)
    _, equal = models(name)(reference, a, a, return_maps=True)
    _, unequal = models(name)(reference, a, b, return_maps=True)
    of_a = [key for key in equal if key.startswith(f"{maps_of}_a")]
    for key in of_a:
        assert torch.equal(equal[key], equal[key.replace("_a_", "_b_")])
        assert not torch.equal(unequal[key], unequal[key.replace("_a_", "_b_")])
    assert of_a


# --- Errors


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda given: [255 * image for image in given], r"expected \[0, 1\]"),
        (lambda given: [(255 * image).byte() for image in given], "torch.uint8, expected a float"),
        (lambda given: [-image for image in given], r"expected \[0, 1\]"),
        (lambda given: [image * torch.nan for image in given], "NaN"),
        (lambda given: [image[0] for image in given], "got shape"),
        (lambda given: [image[:, :1] for image in given], "got shape"),
        (lambda given: [image[:0] for image in given], "empty batch"),
        (lambda given: [*given[:-1], given[-1][:1]], "unequal shapes"),
        (lambda given: [*given[:-1], given[-1][..., :48, :32]], "unequal shapes"),
    ],
)
@every_model
def test_wrong_images_are_errors(models, name, wrong, message):
    with pytest.raises(ValueError, match=message):
        models(name)(*wrong(images(name)))


@every_model
def test_small_images_are_errors(models, name):
    model = models(name)
    short = model.min_size - 1
    expected = "64x64" if name == "iqa_tmfm" else f"sides of at least {model.min_size}"
    with pytest.raises(ValueError, match=f"{short}x96, expected {expected}"):
        model(*images(name, 1, (short, 96)))


@pytest.mark.parametrize(("name", "option"), CHOICES)
def test_unknown_choices_are_errors(name, option):
    wrong = ("nonsense",) if option == "branches" else "nonsense"
    with pytest.raises(ValueError, match=rf"{option}: got .*'nonsense'.*, expected .*\b(one|None)\b"):
        build(name, **{option: wrong})


@every_model
def test_unknown_options_are_errors(name):
    with pytest.raises(TypeError, match="nonsense"):
        build(name, nonsense=1)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "backbone" in case.options])
def test_a_bare_backbone_name_is_an_error(name):
    with pytest.raises(ValueError, match=r"'resnet50'.* full timm tag"):
        build(name, backbone="resnet50")


@pytest.mark.parametrize(("name", "option"), WEIGHTS)
def test_missing_weights_are_errors(name, option):
    with pytest.raises((WeightsError, FileNotFoundError), match=r"missing\.pth"):
        build(name, **{option: "missing.pth"})

"""Crops: where they lie and what decides them; kept features of fixed crops change nothing; one protocol."""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain

import numpy as np
import pytest
import torch
from image_sets import image_set, one_thread_of_the_cpu  # noqa: F401
from PIL import Image
from torch.utils.data import DataLoader

from iqa_lib import views
from iqa_lib.backbones import PACKAGED, Backbone
from iqa_lib.data.base import IQADataset
from iqa_lib.devices import to_device
from iqa_lib.models import PRFNet
from iqa_lib.views import PROTOCOLS, Crops, FixedFeatures, Vectors, WithScores, crop_places, first_tensor

FIXED = [{"protocol": "grid", "count": 0}, {"protocol": "grid", "count": 2}, {"protocol": "corners"}]


def place(crop: torch.Tensor) -> tuple[int, int]:
    """Top left corner of a crop, and a mirrored one's."""
    return int(crop[0].min()), int(crop[1].min())


def mirrored(crop: torch.Tensor) -> bool:
    return bool(crop[1, 0, 0] > crop[1, 0, -1])


def mirrored_and_turned(image: torch.Tensor, axes: tuple[int, ...], quarters: int = 0) -> torch.Tensor:
    """Mirrored first, then turned anticlockwise by so many quarters: one crop or a stack of them."""
    return torch.from_numpy(np.rot90(np.flip(image.numpy(), axes), quarters, axes=(-2, -1)).copy())


MIRRORED = {
    "none": [()],
    "horizontal": [(), (-1,)],
    "vertical": [(), (-2,)],
    "both": [(), (-1,), (-2,), (-1, -2)],
}
"""What may become of a crop under each kind of flip."""


@pytest.fixture
def samples(tmp_path):
    return image_set(tmp_path, [(60, 50)] * 6)


def equal(items, others) -> bool:
    return all(torch.equal(item, other) for item, other in zip(items, others, strict=True))


# --- Places


def test_whole_is_the_image_itself():
    assert crop_places("whole", 30, 50, 0) == crop_places("whole", 30, 50, 224) == [(0, 0)]


def test_corners_by_hand():
    assert crop_places("corners", 100, 81, 32) == [(0, 0), (0, 49), (68, 0), (68, 49), (34, 24)]


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (10, 7, [(top, left) for top in (0, 3, 6) for left in (0, 3)]),
        (8, 4, [(0, 0), (4, 0)]),
        (4, 4, [(0, 0)]),
        (4, 11, [(0, 0), (0, 4), (0, 7)]),
    ],
)
def test_grid_by_hand(height, width, expected):
    assert crop_places("grid", height, width, 4) == expected


@pytest.mark.parametrize("size", [1, 7, 32, 37])
@pytest.mark.parametrize(("height", "width"), [(37, 37), (64, 96), (384, 512), (101, 38)])
def test_grid_covers_the_image_with_as_few_crops_as_can_be(height, width, size):
    covered, places = np.zeros((height, width), bool), crop_places("grid", height, width, size)
    for top, left in places:
        assert 0 <= top <= height - size
        assert 0 <= left <= width - size
        covered[top : top + size, left : left + size] = True
    assert covered.all()
    assert len(places) == len(set(places)) == math.ceil(height / size) * math.ceil(width / size)


@pytest.mark.parametrize("count", range(1, 14))
def test_a_count_takes_evenly_from_the_grid(count):
    whole, some = crop_places("grid", 40, 30, 10), crop_places("grid", 40, 30, 10, count)
    assert len(some) == len(set(some)) == min(count, 12)
    assert some == [place for place in whole if place in some]
    gaps = np.diff([whole.index(place) for place in some])
    assert np.ptp(gaps) <= 1 if count > 1 else some == [whole[6]]


def test_random_crops_follow_the_seed_and_reach_every_place():
    draw = partial(crop_places, "random", 12, 14, 10)
    assert draw(5, seed=(1, 2)) == draw(5, seed=(1, 2)) != draw(5, seed=(1, 3))
    assert draw(5, seed=(1, 2)) == draw(3, seed=(1, 2)) + draw(5, seed=(1, 2))[3:]
    drawn = draw(3000)
    assert len(drawn) == 3000
    share = [drawn.count((top, left)) / 3000 for top in range(3) for left in range(5)]
    assert share == pytest.approx([1 / 15] * 15, abs=5 * math.sqrt(1 / 15 / 3000))
    assert sum(share) == pytest.approx(1)


def test_place_errors():
    with pytest.raises(ValueError, match="protocol: got 'five', expected one of 'whole', 'grid'"):
        crop_places("five", 10, 10, 4)
    for protocol in set(PROTOCOLS) - {"whole"}:
        for height, width, size in ((10, 3, 4), (3, 10, 4), (10, 10, 0)):
            with pytest.raises(
                ValueError,
                match=f"size: got {size}, expected 1 to {min(height, width)} in an image of {width}x{height}:",
            ):
                crop_places(protocol, height, width, size, count=1)
    with pytest.raises(ValueError, match="count: got 0, expected at least 1"):
        crop_places("random", 10, 10, 4)


# --- Crops


@pytest.mark.parametrize("options", [*FIXED, {"protocol": "random", "count": 3}], ids=str)
def test_all_gives_the_protocols_crops_of_every_image(samples, options):
    crops = Crops(samples, size=32, seed=5, flip="both", **options)
    *images, target = crops.all(2)
    count = options.get("count", 0)
    expected = crop_places(options["protocol"], 50, 60, 32, count, seed=(5, 2))
    for image, whole in zip(images, samples.read(2), strict=False):
        assert image.dtype == torch.uint8
        assert [place(crop) for crop in image] == expected
        for crop, (top, left) in zip(image, expected, strict=True):
            assert torch.equal(crop, whole[:, top : top + 32, left : left + 32])
    assert (len(images), target.item()) == (3, pytest.approx(samples.records[2].p_b))


def test_whole_images_keep_their_sizes(tmp_path):
    dataset = image_set(tmp_path, [(40, 30), (33, 64)], pairs=True)
    crops = Crops(dataset, "whole")
    for index, (width, height) in enumerate([(40, 30), (33, 64)]):
        assert [image.shape for image in crops.all(index)] == [(1, 3, height, width)] * 2 + [()]
        assert equal(crops[0, index], dataset.read(index))
        assert equal([image[0] for image in crops.all(index)[:2]], dataset.read(index)[:2])


@pytest.mark.parametrize("options", [{"protocol": "random"}, *FIXED], ids=str)
def test_a_draw_depends_on_seed_epoch_and_index_alone(samples, options):
    keys = [(epoch, index) for epoch in range(8) for index in range(6)]
    make = partial(Crops, samples, size=32, flip="horizontal", **options)
    forwards, backwards = make(), make()
    drawn = {key: forwards[key] for key in keys}
    for key in reversed(keys):
        assert equal(drawn[key], backwards[key])
    looks = {key: (place(item[0]), mirrored(item[0])) for key, item in drawn.items()}
    for i in range(2):  # other epochs and other records draw anew
        assert all(len({look for key, look in looks.items() if key[i] == value}) > 1 for value in range(6))
    others = make(seed=1)
    assert [(place(others[key][0]), mirrored(others[key][0])) for key in keys] != list(looks.values())


@pytest.mark.parametrize("options", FIXED, ids=str)
def test_training_takes_every_crop_of_a_fixed_protocol_and_no_other(samples, options):
    crops = Crops(samples, size=32, **options)
    drawn = {place(crops[epoch, 0][0]) for epoch in range(60)}
    assert drawn == set(crop_places(options["protocol"], 50, 60, 32, options.get("count", 0)))


@pytest.mark.parametrize("flip", list(MIRRORED))
def test_images_of_a_record_share_crop_and_mirror(samples, flip):
    plain, flipping = Crops(samples, size=32), Crops(samples, size=32, flip=flip)
    seen = dict.fromkeys(MIRRORED[flip], 0)
    for key in [(epoch, index) for epoch in range(60) for index in range(2)]:
        straight, images = plain[key][:3], flipping[key][:3]
        assert len({place(image) for image in (*straight, *images)}) == 1
        assert {mirrored(image) for image in straight} == {False}
        (axes,) = (axes for axes in seen if equal(images, [mirrored_and_turned(image, axes) for image in straight]))
        seen[axes] += 1
    expected = 120 / len(seen)
    assert all(abs(times - expected) < 3.5 * math.sqrt(expected) for times in seen.values())


def test_small_images_are_enlarged_to_the_crop_or_refused(tmp_path):
    dataset = image_set(tmp_path, [(40, 20), (16, 64), (50, 60)])
    with pytest.raises(ValueError, match=r"size: got 32, expected 1 to 20 in an image of 40x20: .*, or enlarge=True"):
        Crops(dataset, size=32)[0, 0]
    crops, whole = (Crops(dataset, protocol, 32, enlarge=True) for protocol in ("random", "whole"))
    assert [tuple(whole[0, index][0].shape) for index in range(3)] == [(3, 32, 64), (3, 128, 32), (3, 60, 50)]
    assert equal(whole[0, 2], dataset.read(2))
    for index in range(3):
        *images, _ = crops[0, index]
        assert {(image.shape, image.dtype) for image in images} == {((3, 32, 32), torch.uint8)}
        assert len({place(image) for image in images}) == 1
    # Bilinear: the columns 0 to 39 become 64 ones whose centres lie at (x + 0.5) * 40 / 64 - 0.5.
    expected = np.clip((np.arange(64) + 0.5) * 40 / 64 - 0.5, 0, 39)
    assert np.abs(whole[0, 0][0][1, 0].numpy() - expected).max() <= 0.5


@pytest.mark.parametrize("workers", [0, 2])
def test_who_asks_and_when_does_not_matter(samples, workers):
    crops = Crops(samples, size=32, flip="both")
    keys = [(epoch, index) for epoch in (3, 0) for index in (5, 1, 4, 0)]
    loaded = list(DataLoader(crops, sampler=keys, batch_size=None, num_workers=workers))
    assert len(loaded) == len(keys)
    assert all(equal(item, crops[key]) for item, key in zip(loaded, keys, strict=True))


def test_crops_know_their_protocols(samples):
    with pytest.raises(ValueError, match="protocol: got 'centre'"):
        Crops(samples, "centre", 32)


@pytest.mark.parametrize("flip", [True, False, "diagonal", ""])
def test_crops_know_their_flips(samples, flip):
    with pytest.raises(
        ValueError, match=f"flip: got {flip!r}, expected one of 'none', 'horizontal', 'vertical', 'both'"
    ):
        Crops(samples, size=32, flip=flip)


# --- Several crops a step


@pytest.mark.parametrize("count", [1, 3])
def test_one_crop_a_step_is_drawn_as_ever(samples, count):
    """The stream of one record in one epoch: the places, which of them, whether to mirror, how far to turn."""
    make = partial(Crops, samples, size=32, count=count, seed=4)
    straight, both, turned = make(flip="horizontal"), make(flip="both"), make(flip="horizontal", turn=True)
    for key in [(epoch, index) for epoch in range(4) for index in range(6)]:
        rng = np.random.default_rng((4, *key))
        places = [(int(rng.integers(19)), int(rng.integers(29))) for _ in range(count)]
        top, left = places[rng.integers(count)]
        *images, target = samples.read(key[1])
        seen = [image[:, top : top + 32, left : left + 32] for image in images]
        axes = (-1,) if rng.random() < 0.5 else ()
        assert equal(straight[key], [*(mirrored_and_turned(image, axes) for image in seen), target])
        state = rng.bit_generator.state
        quarters = int(rng.integers(4))
        assert equal(turned[key][:3], [mirrored_and_turned(image, axes, quarters) for image in seen])
        rng.bit_generator.state = state
        axes += (-2,) if rng.random() < 0.5 else ()
        assert equal(both[key][:3], [mirrored_and_turned(image, axes) for image in seen])


@pytest.mark.parametrize("options", FIXED, ids=str)
def test_one_crop_of_a_fixed_protocol_is_drawn_as_ever(samples, options):
    crops, places = Crops(samples, size=32, seed=4, **options), crop_places(size=32, height=50, width=60, **options)
    drawn = [place(crops[epoch, 1][0]) for epoch in range(30)]
    assert drawn == [places[np.random.default_rng((4, epoch, 1)).integers(len(places))] for epoch in range(30)]


@pytest.mark.parametrize("options", [*FIXED, *({"protocol": "random", "count": count} for count in (1, 7))], ids=str)
def test_draws_are_different_crops_the_same_of_every_image(samples, options):
    crops, again = (Crops(samples, size=32, draws=2, seed=1, **options) for _ in range(2))
    drawn, picked = {}, set()
    for key in [(epoch, index) for epoch in range(6) for index in range(6)]:
        *images, target = crops[key]
        places = drawn[key] = [place(crop) for crop in images[0]]
        settings = options | {"count": max(2, options.get("count", 0))} if options["protocol"] == "random" else options
        there_are = crop_places(height=50, width=60, size=32, seed=np.random.default_rng((1, *key)), **settings)
        picked |= {there_are.index(crop) for crop in places}
        assert len(set(places)) == 2 or there_are.count(places[0]) > 1  # of random places two may be the same
        for image, whole in zip(images, samples.read(key[1])[:3], strict=True):
            assert (image.shape, image.dtype) == ((2, 3, 32, 32), torch.uint8)
            assert equal(image, [whole[:, top : top + 32, left : left + 32] for top, left in places])
        assert target == samples.read(key[1])[3]
        assert equal(again[key], crops[key])
    assert picked == set(range(len(there_are)))
    for i in range(2):  # other epochs and other records draw anew
        assert all(len({str(places) for key, places in drawn.items() if key[i] == value}) > 1 for value in range(6))
    other = Crops(samples, size=32, draws=2, seed=2, **options)
    assert [[place(crop) for crop in other[key][0]] for key in drawn] != list(drawn.values())


def test_every_crop_has_its_turn_in_every_place_of_the_stack(samples):
    crops, places = Crops(samples, "corners", 32, draws=3), crop_places("corners", 50, 60, 32)
    stacks = [[place(crop) for crop in crops[epoch, 0][0]] for epoch in range(60)]
    assert all(len(set(stack)) == 3 for stack in stacks)
    for i in range(3):
        assert {stack[i] for stack in stacks} == set(places)
    whole = Crops(samples, "corners", 32, draws=5)
    assert sorted(place(crop) for crop in whole[0, 0][0]) == sorted(places)


def test_one_draw_is_a_stack_of_one(samples):
    *images, target = Crops(samples, "whole", draws=1)[3, 2]
    assert [image.shape for image in images] == [(1, 3, 50, 60)] * 3
    assert equal([*(image[0] for image in images), target], samples.read(2))


@pytest.mark.parametrize(("options", "count"), [({"protocol": "grid", "count": 2}, 2), ({"protocol": "whole"}, 1)])
def test_more_draws_than_crops_are_an_error(samples, options, count):
    crops = Crops(samples, size=32, draws=6, **options)
    with pytest.raises(ValueError, match=f"draws: got 6, expected at most {count}, the crops that '.*' has"):
        crops[0, 0]
    assert len(crops.all(0)[0]) == count


@pytest.mark.parametrize("options", [{}, {"draws": 1}, {"draws": 3}], ids=str)
@pytest.mark.parametrize("flip", ["none", "horizontal", "vertical"])
def test_turns_are_quarters_the_same_for_a_records_images_and_crops(samples, options, flip):
    make = partial(Crops, samples, size=32, seed=3, **options)
    straight, turning = make(), make(turn=True, flip=flip)
    seen = {(axes, quarters): 0 for axes in MIRRORED[flip] for quarters in range(4)}
    for key in [(epoch, index) for epoch in range(20) for index in range(6)]:
        *images, _ = straight[key]
        *turned, _ = turning[key]
        (look,) = (look for look in seen if equal(turned, [mirrored_and_turned(image, *look) for image in images]))
        seen[look] += 1
    expected = 120 / len(seen)
    assert all(abs(times - expected) < 3.5 * math.sqrt(expected) for times in seen.values())


def test_evaluation_sees_the_crops_as_they_are(samples):
    plain, varied = Crops(samples, "grid", 32), Crops(samples, "grid", 32, draws=2, flip="both", turn=True)
    assert equal(plain.all(1), varied.all(1))


def test_whole_images_cannot_be_turned(samples):
    with pytest.raises(ValueError, match="turn: got True for whole images"):
        Crops(samples, "whole", turn=True)


# --- Views of other things than images


@pytest.mark.parametrize("kind", ["images", "features", "vectors"])
def test_all_views_follow_one_protocol(samples, kind, request):
    """What a training step sees, given a dimension of one crop, is among the crops that evaluation sees."""
    scores = torch.arange(24.0).reshape(6, 2, 2)
    if kind == "features":
        request.getfixturevalue("cache")
    plain = Crops(samples, "corners", 32)
    view = Vectors(samples, scores) if kind == "vectors" else plain
    view = FixedFeatures(plain, request.getfixturevalue("backbone")) if kind == "features" else view
    for seen in (view,) if kind == "vectors" else (view, WithScores(view, scores)):
        assert len(seen) == len(seen.dataset) == 6
        *inputs, target = seen[1, 2]
        *every, same_target = seen.all(2)
        assert target == same_target == torch.tensor(samples.records[2].target)
        assert {len(first_tensor(item)) for item in every} == {1 if kind == "vectors" else 5}
        crop = (first_tensor(every) == first_tensor(inputs)).flatten(1).all(1).nonzero()[0, 0]
        for item, some in zip(inputs, every, strict=True):
            parts = [(item, some)] if isinstance(item, torch.Tensor) else zip(item, some, strict=True)
            assert all(torch.equal(part, crops[crop]) for part, crops in parts)
        assert seen.fingerprint() == seen.fingerprint()
    assert len({str(v.fingerprint()) for v in (view, seen, Vectors(samples, scores + 1), plain)}) >= 3
    with pytest.raises(ValueError, match="values: got 6 rows, expected 2, one per record"):
        Vectors(IQADataset("images", "all", samples.records[:2], samples.label), scores)


# --- Features of fixed crops


@pytest.fixture(scope="module")
def backbone():
    """A PRFNet whose frozen backbone has true weights; nothing here trains it."""
    torch.manual_seed(0)
    options = dict(se=False, weights="packaged", freeze_backbone=True, width=8, hidden=8)
    return PRFNet(backbone="tf_efficientnet_lite0.in1k", **options).eval()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IQA_LIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def counted(monkeypatch, backbone):
    """How many images went through the backbone, call by call, except the one that names its maps."""
    calls, extract = [], backbone.extract

    def counting(images):
        if images.flatten()[[0, -1]].tolist() != [0, 1]:
            calls.append(len(images))
        return extract(images)

    monkeypatch.setattr(backbone, "extract", counting)
    return calls


@pytest.mark.parametrize("options", FIXED[1:], ids=str)
def test_features_are_those_of_the_crops(tmp_path, cache, backbone, counted, options):
    crops = Crops(image_set(tmp_path, [(70, 64), (64, 81)]), size=32, seed=3, **options)
    features = FixedFeatures(crops, backbone, max_batch=10)
    count = len(crops.all(0)[0])
    assert (len(features), sum(counted)) == (2, 6 * count)
    assert max(counted) <= 10
    for index in range(2):
        *images, target = crops.all(index)
        *maps, kept_target = features.all(index)
        assert torch.equal(target, kept_target)
        for image, scales in zip(images, maps, strict=True):
            with torch.inference_mode():
                expected = backbone.extract(to_device(image, "cpu"))
            assert equal(scales, expected), "bits that hang on which other images there are"
        places = [place(crop) for crop in images[0]]
        for epoch in range(4):
            *drawn_images, _ = crops[epoch, index]
            *drawn_maps, _ = features[epoch, index]
            crop = places.index(place(drawn_images[0]))
            for drawn, scales in zip(drawn_maps, maps, strict=True):
                assert equal(drawn, [scale[crop] for scale in scales])


def test_on_a_gpu_images_share_batches_and_have_the_same_maps(tmp_path, cache, backbone, counted, monkeypatch):
    crops = Crops(image_set(tmp_path, [(70, 64), (70, 64)]), "grid", 32, count=0)
    alone = FixedFeatures(crops, backbone)
    monkeypatch.setenv("IQA_LIB_CACHE", str(tmp_path / "other"))
    with monkeypatch.context() as patch:
        patch.setattr(views, "device_of", lambda _: torch.device("cuda"))
        paths = [*crops.dataset.paths()]
        together = {limit: alone._together(backbone, paths, limit) for limit in (1, 11, 12, 100)}
    assert together == {1: 1, 11: 1, 12: 2, 100: 16}  # 6 crops an image
    monkeypatch.setattr(FixedFeatures, "_together", lambda *_: 2)
    counted.clear()
    shared = FixedFeatures(crops, backbone, max_batch=12)
    assert counted == [12, 6, 12, 6], "of a reference's three images two share a batch"
    for path, maps in shared.maps.items():
        for scale, expected in zip(maps, alone.maps[path], strict=True):
            assert torch.allclose(scale, expected, atol=1e-5)


@pytest.mark.parametrize("options", FIXED, ids=str)
def test_draws_of_features_are_those_of_the_crops(tmp_path, cache, backbone, options):
    crops = Crops(image_set(tmp_path, [(70, 64), (64, 81)]), size=32, seed=3, draws=2, **options)
    features, picked = FixedFeatures(crops, backbone), []
    for key in [(epoch, index) for epoch in range(6) for index in range(2)]:
        *images, target = crops[key]
        *maps, kept_target = features[key]
        *whole, _ = features.all(key[1])
        places = [place(crop) for crop in crops.all(key[1])[0]]
        picked.append([places.index(place(crop)) for crop in images[0]])
        assert torch.equal(target, kept_target)
        assert len(maps) == 3
        for scales, every in zip(maps, whole, strict=True):
            assert [len(scale) for scale in scales] == [2] * len(scales)
            assert equal(scales, [scale[picked[-1]] for scale in every])
    assert len(set(map(tuple, picked))) > 1
    with pytest.raises(ValueError, match="draws: got 99, expected at most"):
        FixedFeatures(Crops(crops.dataset, size=32, seed=3, draws=99, **options), backbone)[0, 0]


class Cut(torch.nn.Module):
    """A network that is nothing but its frozen backbone."""

    def __init__(self, name: str, taps: tuple[int, ...], **options):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = Backbone(name, taps=taps, weights="random", frozen=True, **options)
        self.extract = self.backbone.forward


@pytest.mark.parametrize(
    ("name", "cuts", "options"),
    [
        (PACKAGED, [(2,), (1, 2), (0, 2)], {}),
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", [(2,), (0, 2), (1, 2)], {"img_size": 32}),
    ],
    ids=["CNN", "ViT"],
)
def test_cuts_of_one_network_share_their_features(tmp_path, cache, name, cuts, options):
    crops = Crops(image_set(tmp_path, [(32, 32)], pairs=True), "whole")
    models = [Cut(name, taps, **options) for taps in cuts]
    state = models[0].state_dict()
    for model in models:  # the last tap is the same, and so are the weights
        assert equal(model.state_dict().values(), state.values())
        maps = FixedFeatures(crops, model).all(0)[0]
        with torch.inference_mode():
            expected = model.extract(crops.all(0)[0].float() / 255)
        torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-4)
    assert len(list(cache.rglob("*.safetensors"))) == len(set(chain(*cuts))), "a file for each tap of one reference"


def test_an_image_of_several_records_goes_through_the_backbone_once(tmp_path, cache, backbone, counted):
    records = image_set(tmp_path, [(64, 64)]).records * 3
    features = FixedFeatures(Crops(IQADataset("thrice", "all", records, None), "grid", 64), backbone)
    assert sum(counted) == 3
    assert all(equal(scales, first) for scales, first in zip(features.all(2)[:3], features.all(0)[:3], strict=True))


def test_features_are_computed_once_and_again_where_anything_changes(tmp_path, cache, backbone, counted):
    dataset = image_set(tmp_path, [(70, 64), (70, 64)])

    def computed(records=dataset.records, size=32, count=1, **options) -> int:
        before = sum(counted)
        FixedFeatures(Crops(IQADataset("images", "all", records, None), "grid", size, count=count, **options), backbone)
        return sum(counted) - before

    assert computed(dataset.records[:1]) == 3
    assert computed() == 3
    assert computed() == 0
    assert computed(seed=1) == computed(draws=1) == 0  # which crops training draws, not which there are
    assert computed(size=48) == 6
    assert computed(count=2) == 12
    assert computed(dataset.records[1:]) == 0
    image = dataset.records[1].b
    with Image.open(image) as opened:
        opened.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(image)
    assert computed() == 1
    with torch.no_grad():
        weight = next(backbone.backbone.parameters())
        weight[0, 0, 0, 0] += 1e-3
        assert computed() == 6
        weight[0, 0, 0, 0] -= 1e-3
    files, maps, references = list(cache.rglob("*.safetensors")), len(backbone.backbone.taps), 2
    assert len(files) == maps * references * 4, "of crops, larger ones, more of them, and another backbone"


def test_an_interrupted_computation_leaves_whole_files_alone(tmp_path, cache, backbone, counted, monkeypatch):
    crops = Crops(image_set(tmp_path, [(64, 64)]), "grid", 64)
    expected = chain(*FixedFeatures(crops, backbone).maps.values())
    for file in (kept := sorted(cache.rglob("*.safetensors")))[1:]:
        file.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", lambda maps, path, marks: path.write_bytes(b"half") and 1 / 0)
        with pytest.raises(ZeroDivisionError):
            FixedFeatures(crops, backbone)
    assert list(cache.rglob("*.safetensors")) == kept[:1]
    counted.clear()
    for scale, before in zip(chain(*FixedFeatures(crops, backbone).maps.values()), expected, strict=True):
        torch.testing.assert_close(scale, before, rtol=1e-4, atol=1e-4)
    assert sum(counted) == 3
    assert len(list(cache.rglob("*.safetensors"))) == len(backbone.backbone.taps)


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_file_of_maps_is_made_again(tmp_path, cache, backbone, counted, capsys, damage):
    crops = Crops(image_set(tmp_path, [(64, 64)]), "grid", 64)
    expected = [[scale.clone() for scale in scales] for scales in FixedFeatures(crops, backbone).maps.values()]
    damaged = sorted(cache.rglob("*.safetensors"))[0]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:100] if damage == "cut" else whole[:-50] + bytes([whole[-50] ^ 1]) + whole[-49:])
    counted.clear()
    again = FixedFeatures(crops, backbone).maps.values()
    assert sum(counted) == 3
    assert all(equal(*scales) for scales in zip(again, expected, strict=True))
    assert f"{damaged} is damaged" in capsys.readouterr().out
    assert damaged.read_bytes() == whole


def test_maps_made_with_other_threads_are_not_taken(tmp_path, cache, backbone, counted, monkeypatch):
    """One thread against two changes them by 1e-5, not always those of the one crop that names a backbone's maps."""
    crops = Crops(image_set(tmp_path, [(64, 64)]), "grid", 64)
    for threads, computed in ((1, 3), (2, 3), (1, 0), (2, 0)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        counted.clear()
        FixedFeatures(crops, backbone)
        assert sum(counted) == computed


def test_two_at_once_share_the_work(tmp_path, cache, backbone, counted, monkeypatch):
    extract, crops = backbone.extract, Crops(image_set(tmp_path, [(64, 64)]), "grid", 64)
    monkeypatch.setattr(backbone, "extract", lambda images: time.sleep(0.2) or extract(images))
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(FixedFeatures, [crops] * 2, [backbone] * 2))
    assert sum(counted) == 3
    assert all(equal(*maps) for maps in zip(*(features.maps.values() for features in both), strict=True))


def test_only_fixed_crops_and_frozen_backbones_have_fixed_features(tmp_path, cache, backbone, monkeypatch):
    dataset = image_set(tmp_path, [(64, 64)])
    with pytest.raises(ValueError, match="crops: got protocol 'random', flip 'none', turn False, expected fixed ones"):
        FixedFeatures(Crops(dataset, "random", 32), backbone)
    with pytest.raises(ValueError, match="crops: got protocol 'grid', flip 'vertical', turn False"):
        FixedFeatures(Crops(dataset, "grid", 32, flip="vertical"), backbone)
    with pytest.raises(ValueError, match="crops: got protocol 'grid', flip 'none', turn True"):
        FixedFeatures(Crops(dataset, "grid", 32, turn=True), backbone)
    monkeypatch.setattr(backbone.backbone, "frozen", False)
    with pytest.raises(ValueError, match="expected a frozen one: freeze it, or train from the images"):
        FixedFeatures(Crops(dataset, "grid", 32), backbone)


def test_enlarging_a_float_image_keeps_its_numbers():
    """Within the rounding of the 8-bit image, which is rounded again."""
    image = torch.randint(256, (3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    crops = Crops(None, "corners", 40, enlarge=True)
    eight, floats = crops.cut(image), crops.cut(image.float() / 255)
    assert eight.dtype == torch.uint8
    assert floats.shape == eight.shape == (5, 3, 40, 40)
    assert (floats - eight.float() / 255).abs().max() <= 0.5001 / 255

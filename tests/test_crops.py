"""Windows: where they lie and what decides them; features of fixed windows: kept, they change nothing."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from iqa_lib.data.base import IQADataset, Label, Pair, Triplet
from iqa_lib.data.crops import PROTOCOLS, Crops, windows
from iqa_lib.features import FixedFeatures
from iqa_lib.models import PRFNet

FIXED = [{"protocol": "grid", "count": 0}, {"protocol": "grid", "count": 2}, {"protocol": "corners"}]


def picture_set(folder: Path, sizes: list[tuple[int, int]], pairs: bool = False) -> IQADataset:
    """One record a size `(width, height)`: the pixel at (y, x) is (y, x, noise), so a window tells where it lies."""
    rng, records = np.random.default_rng(0), []
    for number, (width, height) in enumerate(sizes):
        paths = [folder / f"{number}_{name}.png" for name in ("reference", "a", "b")][: 2 if pairs else 3]
        for path in paths:
            y, x = np.mgrid[:height, :width]
            pixels = np.stack([y, x, rng.integers(256, size=y.shape)], axis=-1).astype(np.uint8)
            Image.fromarray(pixels).save(path)
        label = round(rng.random(), 3)
        records.append((Pair if pairs else Triplet)(*paths, label, f"reference {number}", label))
    return IQADataset("pictures", "all", records, Label("share", 0, 1, True))


def place(window: torch.Tensor) -> tuple[int, int]:
    """Top left corner of a window, and a mirrored one's."""
    return int(window[0].min()), int(window[1].min())


def mirrored(window: torch.Tensor) -> bool:
    return bool(window[1, 0, 0] > window[1, 0, -1])


@pytest.fixture(autouse=True, scope="module")
def one_thread_of_the_cpu():
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "1")
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def pictures(tmp_path):
    return picture_set(tmp_path, [(60, 50)] * 6)


def equal(items, others) -> bool:
    return all(torch.equal(item, other) for item, other in zip(items, others, strict=True))


# --- Places


def test_whole_is_the_image_itself():
    assert windows("whole", 30, 50, 0) == windows("whole", 30, 50, 224) == [(0, 0)]


def test_corners_by_hand():
    assert windows("corners", 100, 81, 32) == [(0, 0), (0, 49), (68, 0), (68, 49), (34, 24)]


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
    assert windows("grid", height, width, 4) == expected


@pytest.mark.parametrize("size", [1, 7, 32, 37])
@pytest.mark.parametrize(("height", "width"), [(37, 37), (64, 96), (384, 512), (101, 38)])
def test_grid_covers_the_image_with_as_few_windows_as_can_be(height, width, size):
    covered, places = np.zeros((height, width), bool), windows("grid", height, width, size)
    for top, left in places:
        assert 0 <= top <= height - size
        assert 0 <= left <= width - size
        covered[top : top + size, left : left + size] = True
    assert covered.all()
    assert len(places) == len(set(places)) == math.ceil(height / size) * math.ceil(width / size)


@pytest.mark.parametrize("count", range(1, 14))
def test_a_count_takes_evenly_from_the_grid(count):
    whole, some = windows("grid", 40, 30, 10), windows("grid", 40, 30, 10, count)
    assert len(some) == len(set(some)) == min(count, 12)
    assert some == [place for place in whole if place in some]
    gaps = np.diff([whole.index(place) for place in some])
    assert np.ptp(gaps) <= 1 if count > 1 else some == [whole[6]]


def test_random_windows_follow_the_seed_and_reach_every_place():
    draw = partial(windows, "random", 12, 14, 10)
    assert draw(5, seed=(1, 2)) == draw(5, seed=(1, 2)) != draw(5, seed=(1, 3))
    assert draw(5, seed=(1, 2)) == draw(3, seed=(1, 2)) + draw(5, seed=(1, 2))[3:]
    drawn = draw(3000)
    assert len(drawn) == 3000
    share = [drawn.count((top, left)) / 3000 for top in range(3) for left in range(5)]
    assert share == pytest.approx([1 / 15] * 15, abs=5 * math.sqrt(1 / 15 / 3000))
    assert sum(share) == pytest.approx(1)


def test_place_errors():
    with pytest.raises(ValueError, match=r"protocol came as 'five'; wanted one of \('whole', 'grid'"):
        windows("five", 10, 10, 4)
    for protocol in set(PROTOCOLS) - {"whole"}:
        for height, width, size in ((10, 3, 4), (3, 10, 4), (10, 10, 0)):
            with pytest.raises(ValueError, match=f"crop {size} does not fit into an image of {width}x{height}"):
                windows(protocol, height, width, size, count=1)
    with pytest.raises(ValueError, match="'random' came with count 0"):
        windows("random", 10, 10, 4)


# --- Crops


@pytest.mark.parametrize("options", [*FIXED, {"protocol": "random", "count": 3}], ids=str)
def test_all_gives_the_protocols_windows_of_every_image(pictures, options):
    crops = Crops(pictures, size=32, seed=5, flip=True, **options)
    *images, target = crops.all(2)
    count = options.get("count", 0)
    expected = windows(options["protocol"], 50, 60, 32, count, seed=(5, 2))
    for image, whole in zip(images, pictures.read(2), strict=False):
        assert image.dtype == torch.uint8
        assert [place(window) for window in image] == expected
        for window, (top, left) in zip(image, expected, strict=True):
            assert torch.equal(window, whole[:, top : top + 32, left : left + 32])
    assert (len(images), target.item()) == (3, pytest.approx(pictures.records[2].p_b))


def test_whole_images_keep_their_sizes(tmp_path):
    dataset = picture_set(tmp_path, [(40, 30), (33, 64)], pairs=True)
    crops = Crops(dataset, "whole")
    for index, (width, height) in enumerate([(40, 30), (33, 64)]):
        assert [image.shape for image in crops.all(index)] == [(1, 3, height, width)] * 2 + [()]
        assert equal(crops[0, index], dataset.read(index))
        assert equal([image[0] for image in crops.all(index)[:2]], dataset.read(index)[:2])


@pytest.mark.parametrize("options", [{"protocol": "random"}, *FIXED], ids=str)
def test_a_draw_depends_on_seed_epoch_and_index_alone(pictures, options):
    keys = [(epoch, index) for epoch in range(8) for index in range(6)]
    make = partial(Crops, pictures, size=32, flip=True, **options)
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
def test_training_takes_every_window_of_a_fixed_protocol_and_no_other(pictures, options):
    crops = Crops(pictures, size=32, **options)
    drawn = {place(crops[epoch, 0][0]) for epoch in range(60)}
    assert drawn == set(windows(options["protocol"], 50, 60, 32, options.get("count", 0)))


def test_images_of_a_record_share_window_and_mirror(pictures):
    plain, flipping = Crops(pictures, size=32), Crops(pictures, size=32, flip=True)
    flips = []
    for key in [(epoch, index) for epoch in range(60) for index in range(2)]:
        straight, images = plain[key][:3], flipping[key][:3]
        assert len({place(image) for image in (*straight, *images)}) == 1
        assert {mirrored(image) for image in straight} == {False}
        flips.append({mirrored(image) for image in images})
        assert equal(images, [image.flip(-1) for image in straight] if flips[-1] == {True} else straight)
    assert flips.count({True}) + flips.count({False}) == 120
    assert 40 < flips.count({True}) < 80


def test_small_images_are_enlarged_to_the_window_or_refused(tmp_path):
    dataset = picture_set(tmp_path, [(40, 20), (16, 64), (50, 60)])
    with pytest.raises(ValueError, match=r"crop 32 does not fit into an image of 40x20: .* enlarge=True"):
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
def test_who_asks_and_when_does_not_matter(pictures, workers):
    crops = Crops(pictures, size=32, flip=True)
    keys = [(epoch, index) for epoch in (3, 0) for index in (5, 1, 4, 0)]
    loaded = list(DataLoader(crops, sampler=keys, batch_size=None, num_workers=workers))
    assert len(loaded) == len(keys)
    assert all(equal(item, crops[key]) for item, key in zip(loaded, keys, strict=True))


def test_crops_know_their_protocols(pictures):
    with pytest.raises(ValueError, match="protocol came as 'centre'"):
        Crops(pictures, "centre", 32)


# --- Features of fixed windows


@pytest.fixture(scope="module")
def trunk():
    """A PRFNet whose frozen trunk has true weights; nothing here trains it."""
    torch.manual_seed(0)
    options = dict(se=False, weights="packaged", freeze_backbone=True, width=8, hidden=8)
    return PRFNet(backbone="tf_efficientnet_lite0.in1k", **options).eval()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IQA_LIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def counted(monkeypatch, trunk):
    """How many images went through the trunk, call by call."""
    calls, extract = [], trunk.extract
    monkeypatch.setattr(trunk, "extract", lambda images: calls.append(len(images)) or extract(images))
    return calls


@pytest.mark.parametrize("options", FIXED[1:], ids=str)
def test_features_are_those_of_the_windows(tmp_path, cache, trunk, counted, options):
    crops = Crops(picture_set(tmp_path, [(70, 64), (64, 81)]), size=32, seed=3, **options)
    features = FixedFeatures(crops, trunk, max_batch=10)
    count = len(crops.all(0)[0])
    assert (len(features), max(counted), sum(counted)) == (2, 10, 6 * count)
    for index in range(2):
        *images, target = crops.all(index)
        *maps, kept_target = features.all(index)
        assert torch.equal(target, kept_target)
        for image, scales in zip(images, maps, strict=True):
            with torch.inference_mode():
                expected = trunk.extract(image.float() / 255)
            torch.testing.assert_close(scales, expected, rtol=1e-4, atol=1e-4)
        places = [place(window) for window in images[0]]
        for epoch in range(4):
            *drawn_images, _ = crops[epoch, index]
            *drawn_maps, _ = features[epoch, index]
            window = places.index(place(drawn_images[0]))
            for drawn, scales in zip(drawn_maps, maps, strict=True):
                assert equal(drawn, [scale[window] for scale in scales])


def test_an_image_of_several_records_goes_through_the_trunk_once(tmp_path, cache, trunk, counted):
    records = picture_set(tmp_path, [(64, 64)]).records * 3
    features = FixedFeatures(Crops(IQADataset("thrice", "all", records, None), "grid", 64), trunk)
    assert sum(counted) == 3
    assert all(equal(scales, first) for scales, first in zip(features.all(2)[:3], features.all(0)[:3], strict=True))


def test_features_are_computed_once_and_again_where_anything_changes(tmp_path, cache, trunk, counted):
    dataset = picture_set(tmp_path, [(70, 64), (70, 64)])

    def computed(records=dataset.records, size=32, count=1, **options) -> int:
        before = sum(counted)
        FixedFeatures(Crops(IQADataset("pictures", "all", records, None), "grid", size, count=count, **options), trunk)
        return sum(counted) - before

    assert computed(dataset.records[:1]) == 3
    assert computed() == 3
    assert computed() == 0
    assert computed(seed=1) == 0  # which windows training draws, not which there are
    assert computed(size=48) == 6
    assert computed(count=2) == 12
    assert computed(dataset.records[1:]) == 0
    image = dataset.records[1].b
    with Image.open(image) as picture:
        picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(image)
    assert computed() == 1
    with torch.no_grad():
        weight = next(trunk.backbone.parameters())
        weight[0, 0, 0, 0] += 1e-3
        assert computed() == 6
        weight[0, 0, 0, 0] -= 1e-3
    assert len([path for path in cache.rglob("*") if path.is_file()]) == 6 + 6 + 6 + 1 + 6


def test_an_interrupted_computation_leaves_whole_files_alone(tmp_path, cache, trunk, counted, monkeypatch):
    crops = Crops(picture_set(tmp_path, [(64, 64)]), "grid", 64)
    expected = FixedFeatures(crops, trunk).maps
    for file in (kept := sorted(cache.rglob("*.safetensors")))[1:]:
        file.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("iqa_lib.features.save_file", lambda maps, path: path.write_bytes(b"half") and 1 / 0)
        with pytest.raises(ZeroDivisionError):
            FixedFeatures(crops, trunk)
    assert [path for path in cache.rglob("*") if path.is_file()] == kept[:1]
    counted.clear()
    for scale, before in zip(FixedFeatures(crops, trunk).maps, expected, strict=True):
        torch.testing.assert_close(scale, before, rtol=1e-4, atol=1e-4)
    assert sum(counted) == 2


def test_only_fixed_windows_and_frozen_trunks_have_fixed_features(tmp_path, cache, trunk, monkeypatch):
    dataset = picture_set(tmp_path, [(64, 64)])
    with pytest.raises(ValueError, match=r"fixed windows; came protocol 'random', flip False"):
        FixedFeatures(Crops(dataset, "random", 32), trunk)
    with pytest.raises(ValueError, match=r"fixed windows; came protocol 'grid', flip True"):
        FixedFeatures(Crops(dataset, "grid", 32, flip=True), trunk)
    monkeypatch.setattr(trunk.backbone, "frozen", False)
    with pytest.raises(ValueError, match="frozen trunk: freeze it, or train from the images"):
        FixedFeatures(Crops(dataset, "grid", 32), trunk)

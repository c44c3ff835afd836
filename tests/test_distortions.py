"""KADID-10k's distortions: each type against a derivation of its own, and all of them on packaged photographs."""

import io
import math
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.interpolate import CubicSpline
from skimage import color, data, restoration, transform

from iqa_lib.data import distortions
from iqa_lib.data.distortions import DISTORTIONS, distort

HEIGHT, WIDTH = 384, 512
LEVELS = (1, 2, 3, 4, 5)
GREY = np.full((HEIGHT, WIDTH, 3), 0.5)

# Mean PSNR to the stretched photograph, levels 1 to 5, over 25 photographs other than the ones used here.
USUAL_PSNR = {
    9: (38.31, 34.77, 33.28, 29.37, 25.45),
    10: (33.63, 33.11, 31.72, 26.74, 24.09),
    11: (30.20, 27.26, 25.56, 23.43, 20.59),
    12: (34.30, 27.45, 24.55, 21.70, 20.05),
    13: (34.73, 27.71, 24.70, 21.69, 19.93),
    14: (37.46, 30.61, 27.68, 24.76, 20.96),
    15: (28.63, 26.01, 24.60, 22.56, 20.73),
    16: (29.51, 23.45, 17.38, 12.55, 9.44),
    17: (35.42, 29.33, 23.34, 17.31, 11.87),
    22: (31.72, 29.82, 28.05, 25.96, 23.13),
    25: (20.08, 23.04, 27.88, 27.86, 21.86),
}
# CRC-32 of the pixels that (type, level) makes of `random_pixels()` with the type's number as seed.
PINNED = {
    (1, 4): 2002509371,
    (4, 1): 4234085988,
    (5, 5): 3321793361,
    (6, 4): 883477202,
    (7, 3): 715391852,
    (8, 4): 1659102723,
    (11, 3): 1354589713,
    (13, 5): 2561811534,
    (15, 2): 4163905816,
    (16, 3): 624435886,
    (17, 2): 2225296153,
    (19, 1): 3647598187,
    (19, 5): 796948625,
    (20, 3): 945570638,
    (21, 4): 19142637,
    (22, 5): 3903856825,
    (23, 2): 3607487018,
    (24, 4): 3082730775,
    (25, 1): 2494860659,
}
FALLING = (1, 2, 4, 8, 9, 10, 11, 12, 13, 14, 16, 17, 22, 24)


def fit(photo):
    """Fill the frame of KADID-10k: scale to cover it, then crop the middle."""
    scale = max(HEIGHT / photo.shape[0], WIDTH / photo.shape[1])
    shape = [max(side, round(scale * old)) for side, old in zip((HEIGHT, WIDTH), photo.shape, strict=False)]
    resized = transform.resize(photo, (*shape, 3), anti_aliasing=True)
    top, left = (shape[0] - HEIGHT) // 2, (shape[1] - WIDTH) // 2
    return (255 * resized[top : top + HEIGHT, left : left + WIDTH]).round().astype(np.uint8)


@pytest.fixture(scope="module")
def photos():
    return {name: fit(getattr(data, name)()) for name in ("astronaut", "chelsea", "coffee")}


@pytest.fixture(scope="module")
def photo(photos):
    return photos["coffee"]


@pytest.fixture(scope="module")
def crops(photos):
    """A quarter of each photograph, from its middle."""
    return {name: photo[96:288, 128:384] for name, photo in photos.items()}


@pytest.fixture(scope="module")
def distorted(crops):
    """All 125 images of each crop; the five levels of a type share their draws."""
    return {
        (name, kind.number, level): distort(crop, kind.number, level, rng(kind.number))
        for name, crop in crops.items()
        for kind in DISTORTIONS
        for level in LEVELS
    }


def rng(seed=0):
    return np.random.default_rng(seed)


def apply(number, x, value, seed=0):
    kind = DISTORTIONS[number - 1]
    return kind.apply(x, value, rng(seed)) if kind.random else kind.apply(x, value)


def stretched(image):
    """The reference as KADID-10k writes it: full range, halves rounded up."""
    x = image.astype(float)
    return np.floor(255 * (x - x.min()) / (x.max() - x.min()) + 0.5).astype(np.uint8)


def psnr(a, b):
    error = np.mean((a.astype(float) - b) ** 2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def random_pixels(shape=(64, 80, 3), seed=0):
    return rng(seed).integers(0, 256, shape, dtype=np.uint8)


# --- all types


def test_the_table_lists_25_types_in_order_with_five_levels():
    assert [kind.number for kind in DISTORTIONS] == list(range(1, 26))
    assert len({kind.name for kind in DISTORTIONS}) == 25
    assert all(len(kind.levels) == len(set(kind.levels)) == 5 for kind in DISTORTIONS)


def test_all_125_keep_shape_and_dtype(crops, distorted):
    assert len(distorted) == 3 * 125
    assert all(image.shape == crops["coffee"].shape and image.dtype == np.uint8 for image in distorted.values())


@pytest.mark.parametrize("kind", DISTORTIONS, ids=lambda kind: f"{kind.number:02d}")
def test_the_photo_is_left_alone(kind):
    image = random_pixels()
    distort(image, kind.number, 5, rng())
    np.testing.assert_array_equal(image, random_pixels())


@pytest.mark.parametrize("kind", DISTORTIONS, ids=lambda kind: f"{kind.number:02d}")
def test_only_the_generator_decides(kind):
    image = random_pixels()
    first, again, other = (distort(image, kind.number, 3, rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, other) != kind.random
    if not kind.random:
        np.testing.assert_array_equal(first, distort(image, kind.number, 3))


def test_random_types_are_the_ten_that_draw():
    assert {kind.number for kind in DISTORTIONS if kind.random} == {3, 5, 11, 12, 13, 14, 15, 19, 20, 23}


@pytest.mark.parametrize(("number", "level", "tolerance"), [(1, 1, 0), (3, 1, 0), (8, 1, 1), (18, 3, 0)])
def test_four_cells_are_the_stretched_reference(crops, distorted, number, level, tolerance):
    for name, crop in crops.items():
        difference = distorted[name, number, level].astype(int) - stretched(crop)
        assert np.abs(difference).max() <= tolerance


def test_no_other_cell_is_the_reference(crops, distorted):
    same = {key[1:] for key, image in distorted.items() if psnr(image, stretched(crops[key[0]])) > 50}
    assert same == {(1, 1), (3, 1), (8, 1), (18, 3)}


def test_outputs_span_the_full_range_only_with_the_final_stretch(photo, distorted):
    assert all(image.min() == 0 and image.max() == 255 for image in distorted.values())
    blurred = distort(photo, 1, 5, final_stretch=False)
    assert blurred.min() > 0
    assert blurred.max() < 255
    np.testing.assert_allclose(distort(photo, 1, 5), stretched(blurred), atol=2)


def test_a_narrow_range_is_stretched_before_the_operation(photo):
    narrow = (60 + photo // 3).astype(np.uint8)
    np.testing.assert_array_equal(distort(narrow, 17, 3), distort(stretched(narrow), 17, 3))


@pytest.mark.parametrize("kind", DISTORTIONS, ids=lambda kind: f"{kind.number:02d}")
@pytest.mark.parametrize(
    "image", [np.full((64, 70, 3), 77, np.uint8), random_pixels((64, 64, 3))], ids=["flat", "small"]
)
@pytest.mark.filterwarnings("error")
def test_flat_and_smallest_images_pass(kind, image):
    for level in (1, 5):
        assert distort(image, kind.number, level, rng()).shape == image.shape


@pytest.mark.parametrize("cell", PINNED, ids=lambda cell: f"{cell[0]:02d}_{cell[1]}")
def test_pixels_stay_as_they_were(cell):
    """Caches outlive the code: who changes a pixel raises `demo.VERSION`. Codecs and the types by FFT are left out."""
    assert zlib.crc32(distort(random_pixels(), *cell, rng(cell[0])).tobytes()) == PINNED[cell]


def test_an_image_changed_in_place_is_seen():
    image = random_pixels()
    first = {number: distort(image, number, 5, rng()) for number in (5, 6, 7, 8, 17)}
    image[:32] //= 2
    for number, before in first.items():
        result = distort(image, number, 5, rng())
        assert (result != before).any()
        np.testing.assert_array_equal(result, distort(image.copy(), number, 5, rng()))


def test_halves_are_written_upwards():
    np.testing.assert_array_equal(distortions._to_uint8(np.array([-1, 0.5, 1.5, 2.49, 255.2]) / 255), [0, 1, 2, 2, 255])


@pytest.mark.parametrize("number", FALLING)
def test_psnr_falls_with_the_level(crops, distorted, number):
    for name, crop in crops.items():
        quality = [psnr(distorted[name, number, level], stretched(crop)) for level in LEVELS]
        assert quality == sorted(quality, reverse=True)


@pytest.mark.parametrize("number", USUAL_PSNR)
def test_mean_psnr_is_near_that_of_other_photographs(photos, crops, distorted, number):
    quality = [[psnr(distorted[name, number, level], stretched(crops[name])) for level in LEVELS] for name in crops]
    if number == 9:  # a crop's share of the bytes depends on the whole photograph
        quality = [[psnr(distort(photo, 9, level), stretched(photo)) for level in LEVELS] for photo in photos.values()]
    np.testing.assert_allclose(np.mean(quality, axis=0), USUAL_PSNR[number], atol=4)


# --- bad input


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((99, 99, 3)), r"float64 \(99, 99, 3\), expected uint8 \(H, W, 3\): convert"),
        (np.zeros((99, 99), np.uint8), r"uint8 \(99, 99\), expected"),
        (np.zeros((99, 99, 4), np.uint8), r"uint8 \(99, 99, 4\), expected"),
        (Image.new("RGB", (99, 99)), "image: got Image, expected uint8"),
        (np.zeros((63, 99, 3), np.uint8), "63 x 99 pixels, expected at least 64 x 64: .* crop afterwards"),
    ],
)
def test_an_unusable_image_is_named(image, said):
    with pytest.raises(ValueError, match=said):
        distort(image, 1, 1)


@pytest.mark.parametrize("value", [0, 26, -1, 2.0, "1"])
def test_an_unknown_type_is_named(photo, value):
    with pytest.raises(ValueError, match=f"number: got {value!r}, expected an integer from 1 to 25"):
        distort(photo, value, 1)


@pytest.mark.parametrize("value", [0, 6, 1.5])
def test_an_unknown_level_is_named(photo, value):
    with pytest.raises(ValueError, match=f"level: got {value!r}, expected an integer from 1 to 5"):
        distort(photo, 1, value)


@pytest.mark.parametrize("generator", [None, 7])
def test_a_random_type_asks_for_a_generator(photo, generator):
    with pytest.raises(ValueError, match=rf"rng: got {generator}, expected a generator for type 11 \(white noise\)"):
        distort(photo, 11, 1, generator)


# --- 01 to 03: blurs


@pytest.mark.parametrize(("sigma", "side"), [(0.5, 3), (1, 5), (2, 9), (5, 21)])
def test_gaussian_kernel_is_cut_at_two_sigma(sigma, side):
    impulse = np.zeros((65, 65, 3))
    impulse[32, 32] = 1
    places = np.arange(side) - side // 2
    kernel = np.exp(-(places**2 + places[:, None] ** 2) / (2 * sigma**2))
    response = apply(1, impulse, sigma)[..., 0]
    half = side // 2
    np.testing.assert_allclose(
        response[32 - half : 33 + half, 32 - half : 33 + half], kernel / kernel.sum(), atol=1e-12
    )
    assert response.sum() == pytest.approx(1)
    assert np.count_nonzero(response) == side**2


def test_disk_of_radius_one_has_its_closed_form():
    corner = 1 / 12 + (1 - math.sqrt(3)) / (4 * math.pi)
    side = (1 - 1 / math.pi) / 4 - corner
    expected = [[corner, side, corner], [side, 1 / math.pi, side], [corner, side, corner]]
    np.testing.assert_allclose(expected[0][:2] + expected[1][1:2], [0.0251, 0.1453, 0.3183], atol=1e-4)
    np.testing.assert_allclose(distortions._disk(1), expected, atol=1e-12)


@pytest.mark.parametrize("radius", [2, 4, 6, 8])
def test_disk_is_the_share_of_each_pixel_inside_the_circle(radius):
    fine, side = 60, 2 * radius + 1
    place = (np.arange(side * fine) + 0.5) / fine - side / 2
    inside = (place**2 + place[:, None] ** 2 <= radius**2).astype(float)
    expected = inside.reshape(side, fine, side, fine).mean(axis=(1, 3)) / (math.pi * radius**2)
    np.testing.assert_allclose(distortions._disk(radius), expected, atol=1e-3 / radius**2)
    assert distortions._disk(radius).sum() == pytest.approx(1)


def test_lens_blur_repeats_the_border(photo):
    x = photo / 255
    kernel = distortions._disk(4)
    expected = np.stack([ndimage.correlate(x[..., c], kernel, mode="nearest") for c in range(3)], axis=-1)
    np.testing.assert_allclose(apply(2, x, 4), expected, atol=1e-12)


def test_motion_kernels_have_their_closed_forms():
    np.testing.assert_array_equal(distortions._line(1, 37), [[1]])
    level = np.trim_zeros(distortions._line(2, 0)[distortions._line(2, 0).shape[0] // 2])
    np.testing.assert_allclose(level, [0.25, 0.5, 0.25])
    np.testing.assert_allclose(distortions._line(6, 90), distortions._line(6, 0).T, atol=1e-12)
    np.testing.assert_allclose(distortions._line(10, 0).sum(axis=0), np.r_[0.5, np.ones(9), 0.5] / 10, atol=1e-12)


@pytest.mark.parametrize("length", [2, 4, 6, 10])
def test_motion_kernels_are_normal_symmetric_and_lie_along_the_angle(length):
    for degrees in range(0, 181, 15):
        kernel = distortions._line(length, degrees)
        assert np.isfinite(kernel).all()
        assert kernel.sum() == pytest.approx(1)
        np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-12)
        y, x = np.indices(kernel.shape) - np.array(kernel.shape)[:, None, None] // 2
        counter_clockwise = np.sum(kernel * -x * y) * math.sin(math.radians(2 * degrees))
        assert counter_clockwise >= -1e-12


def test_motion_blur_draws_whole_degrees_from_0_to_180(monkeypatch):
    drawn = []
    monkeypatch.setattr(distortions, "_line", lambda length, degrees: drawn.append(degrees) or np.ones((1, 1)))
    generator = rng()
    for _ in range(4000):
        DISTORTIONS[2].apply(np.zeros((2, 2, 3)), 4, generator)
    assert set(drawn) == set(range(181))


# --- 04 to 08: colour


def test_lab_inverse_undoes_the_conversion():
    x = rng().random((64, 64, 3))
    x[0, :, :] = np.linspace(0, 1, 64)[:, None]
    np.testing.assert_allclose(distortions._lab_to_rgb(color.rgb2lab(x)), x, atol=1e-6)


def test_lab_inverse_does_not_clip_negative_xyz_on_the_way():
    lab = np.array([[[30.0, 20.0, 300.0]]])
    f = np.array([46 / 116 + 20 / 500, 46 / 116, 46 / 116 - 300 / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.95047, 1, 1.08883]
    assert xyz[2] < 0
    linear = np.linalg.solve(
        [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]], xyz
    )
    expected = [1.055 * max(v, 0) ** (1 / 2.4) - 0.055 if v > 0.0031308 else max(12.92 * v, 0) for v in linear]
    np.testing.assert_allclose(distortions._lab_to_rgb(lab)[0, 0], np.clip(expected, 0, 1), atol=1e-9)


def test_color_diffusion_keeps_lightness_and_amplifies_blurred_colour(photo):
    x = 0.4 + 0.2 * photo / 255
    before, after = color.rgb2lab(x), color.rgb2lab(apply(4, x, 1))
    np.testing.assert_allclose(after[..., 0], before[..., 0], atol=1e-4)
    for plane in (1, 2):
        blurred = ndimage.gaussian_filter(before[..., plane], 3.5, mode="nearest", truncate=2)
        np.testing.assert_allclose(after[..., plane], blurred, atol=1e-3)


def test_color_shift_moves_green_into_the_lower_right_of_edges():
    x = np.full((96, 96, 3), 0.2)
    x[40:, 40:] = 0.8
    depth = np.minimum(*np.indices((96, 96))) - 40
    for seed in range(8):
        result = apply(5, x, 6, seed)
        np.testing.assert_array_equal(result[..., ::2], x[..., ::2])
        lost = x[..., 1] - result[..., 1]
        assert lost.min() > -1e-12
        assert lost.max() == pytest.approx(0.6, abs=0.01)
        assert set(depth[lost > 1e-9]) <= {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize("length", [1, 3, 12])
def test_color_shift_draws_directions_of_the_first_quadrant(monkeypatch, length):
    monkeypatch.setattr(distortions, "_edge_mask", lambda x: np.ones(x.shape[:2]))
    rows, columns = np.indices((32, 32))
    x = np.repeat((rows + 100.0 * columns)[..., None], 3, axis=2)
    steps = {divmod(round((x - apply(5, x, length, seed))[20, 20, 1]), 100)[::-1] for seed in range(200)}
    assert all(abs(math.hypot(*step) - length) < 0.71 and min(step) >= 0 for step in steps)
    assert {(0, length), (length, 0)} <= steps
    assert length > 1 or steps == {(0, 1), (1, 0), (1, 1)}


def test_color_shift_blends_by_the_mask_of_the_release(photo):
    def unit(values):
        return (values - values.min()) / np.ptp(values)

    x = photo / 255
    grey = 0.2989 * x[..., 0] + 0.5870 * x[..., 1] + 0.1140 * x[..., 2]
    down, across = np.gradient(grey)
    mask = unit(ndimage.gaussian_filter(np.sqrt(down**2 + across**2), 4, mode="nearest", truncate=2))
    mask = unit(np.clip(mask, 0.1, 1))
    rank = round(0.99 * mask.size) - 1
    mask = unit(np.clip(mask, 1 - np.sort(1 - mask, axis=None)[rank], np.sort(mask, axis=None)[rank]))
    u, v = rng(4).random(2)
    steps = [int(8 * part / math.hypot(u, v) + 0.5) for part in (u, v)]
    moved = np.roll(np.pad(x[..., 1], 8, mode="edge"), steps, axis=(0, 1))[8:-8, 8:-8]
    np.testing.assert_allclose(apply(5, x, 8, 4)[..., 1], mask * moved + (1 - mask) * x[..., 1], atol=1e-9)


def test_edge_mask_is_strongest_on_edges_and_spans_the_range(photo):
    mask = distortions._edge_mask(photo / 255)
    assert (mask.min(), mask.max()) == (0, 1)
    assert 0.005 < np.mean(mask == 1) < 0.02
    step = np.zeros((64, 64, 3))
    step[:, 32:] = 1
    assert distortions._edge_mask(step)[32].argmax() in (30, 31, 32, 33)


def cumulative_wu_palette(pixels, count):
    """The palette as Wu's text gives it: box sums from cumulative moments, each cut at the plane of largest gain."""
    rgb = pixels.reshape(-1, 3).astype(int)
    moments = np.zeros((33, 33, 33, 5))
    values = np.column_stack([np.ones(len(rgb)), rgb, (rgb**2).sum(axis=1)])
    np.add.at(moments, tuple((rgb // 8 + 1).T), values)
    moments = moments.cumsum(0).cumsum(1).cumsum(2)

    def volume(box):
        total = 0
        for corner in np.ndindex(2, 2, 2):
            at = tuple(box[axis][side] for axis, side in enumerate(corner))
            total = total + (-1) ** (3 - sum(corner)) * moments[at]
        return total

    def variance(box):
        n, r, g, b, squares = volume(box)
        return squares - (r * r + g * g + b * b) / n

    def cut(box):
        best, parts = 0, None
        for axis in range(3):
            for plane in range(box[axis][0] + 1, box[axis][1]):
                pair = [
                    [*box[:axis], limits, *box[axis + 1 :]] for limits in ((box[axis][0], plane), (plane, box[axis][1]))
                ]
                sums = [volume(part) for part in pair]
                if all(s[0] > 0 for s in sums):
                    gain = sum((s[1:4] ** 2).sum() / s[0] for s in sums)
                    if gain > best:
                        best, parts = gain, pair
        return parts

    boxes = [[(0, 32)] * 3]
    while len(boxes) < count:
        boxes.sort(key=variance)
        boxes += cut(boxes.pop())
    return {tuple(volume(box)[1:4] // volume(box)[0]) for box in boxes}


def test_palette_matches_the_textbook_algorithm(photos):
    for photo in photos.values():
        palette = distortions._minimum_variance_palette(photo[::3, ::3], 12)
        assert {tuple(entry) for entry in palette.tolist()} == cumulative_wu_palette(photo[::3, ::3], 12)


def test_palette_of_few_colours_is_those_colours():
    image = np.zeros((64, 64, 3), np.uint8)
    image[:20], image[20:40, :30] = (200, 30, 90), (17, 250, 3)
    palette = distortions._minimum_variance_palette(image, 8)
    assert {tuple(entry) for entry in palette.tolist()} == {(0, 0, 0), (200, 30, 90), (17, 250, 3)}


def test_color_quantization_uses_at_most_its_colours_and_keeps_the_tone(photo, distorted):
    for colours, level in zip(DISTORTIONS[5].levels, LEVELS, strict=True):
        assert 2 < len(np.unique(distorted["coffee", 6, level].reshape(-1, 3), axis=0)) <= colours
    photo = photo[:192, :256]
    dithered = apply(6, photo / 255, 16)
    assert (
        psnr(255 * dithered, photo)
        < 33
        < psnr(255 * distortions._blur(dithered, 3), 255 * distortions._blur(photo / 255, 3))
    )


def test_dither_runs_down_the_columns(monkeypatch):
    """A change on the right then cannot reach the left; along the rows it would, by the weight down left."""
    monkeypatch.setattr(distortions, "_minimum_variance_palette", lambda *_: np.array([[0] * 3, [255] * 3], np.uint8))
    x = 0.3 + 0.4 * rng().random((64, 96, 3))
    other = x.copy()
    other[:, 48:] = 0.9
    before, after = apply(6, x, 2), apply(6, other, 2)
    np.testing.assert_array_equal(before[:, :48], after[:, :48])
    assert not np.array_equal(before, after)


def test_hsv_saturation_at_zero_is_the_brightest_channel(photo):
    x = photo / 255
    np.testing.assert_allclose(apply(7, x, 0), np.repeat(x.max(axis=2, keepdims=True), 3, axis=2), atol=1e-12)


@pytest.mark.parametrize("factor", [0.4, 0.1, -0.4])
def test_hsv_saturation_scales_the_distance_to_the_brightest_channel(photo, factor):
    x = photo / 255
    brightest = x.max(axis=2, keepdims=True)
    np.testing.assert_allclose(apply(7, x, factor), brightest - factor * (brightest - x), atol=1e-12)


def test_lab_saturation_scales_chroma_and_keeps_lightness():
    x = 0.45 + 0.1 * rng().random((64, 64, 3))
    np.testing.assert_allclose(color.rgb2lab(apply(8, x, 2)), color.rgb2lab(x) * [1, 2, 2], atol=1e-3)


# --- 09 and 10: codecs


@pytest.fixture
def files(monkeypatch):
    """The bytes of each file read back."""
    read, seen = Image.open, []
    monkeypatch.setattr(distortions.Image, "open", lambda stream: seen.append(stream.getvalue()) or read(stream))
    return seen


@pytest.mark.parametrize("ratio", [16, 32, 45, 120, 400])
def test_jpeg2000_meets_its_ratio_with_the_irreversible_wavelet(photo, files, ratio):
    apply(9, photo / 255, ratio)
    assert photo.size / len(files[0]) == pytest.approx(ratio, rel=0.03)
    coding_style = files[0][files[0].index(b"\xff\x52") :]
    progression, layers, wavelet = coding_style[5], coding_style[6:8], coding_style[13]
    assert (progression, layers, wavelet) == (0, b"\0\1", 0)


@pytest.mark.parametrize("quality", [43, 4])
def test_jpeg_halves_the_colour_planes_and_scales_the_standard_table(photo, files, quality):
    apply(10, photo / 255, quality)
    file = Image.open(io.BytesIO(files[0]))
    assert [layer[1:3] for layer in file.layer] == [(2, 2), (1, 1), (1, 1)]
    assert file.quantization[0][:3] == [min(max((e * (5000 // quality) + 50) // 100, 1), 255) for e in (16, 11, 10)]


def blockiness(image):
    """Mean step across the borders of 8 x 8 blocks, relative to the steps inside."""
    steps = np.abs(np.diff(image.astype(float), axis=1)).mean(axis=(0, 2))
    border = np.arange(len(steps)) % 8 == 7
    return steps[border].mean() / steps[~border].mean()


def test_jpeg_blocks_show_more_at_each_level(crops, distorted):
    seen = [blockiness(crops["coffee"]), *(blockiness(distorted["coffee", 10, level]) for level in LEVELS)]
    assert seen == sorted(seen)
    assert seen[-1] > 2


# --- 11 to 15: noise


@pytest.mark.parametrize("level", LEVELS)
def test_white_noise_has_its_variance_and_no_correlation(level):
    variance = DISTORTIONS[10].levels[level - 1]
    noise = (distort((255 * GREY).astype(np.uint8), 11, level, rng(), final_stretch=False) / 255 - 127 / 255).reshape(
        -1, 3
    )
    assert noise.mean() == pytest.approx(0, abs=1e-3)
    np.testing.assert_allclose(noise.var(axis=0), variance + 1 / 12 / 255**2, rtol=0.02)
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.01


def test_ycbcr_noise_reaches_rgb_with_the_gains_of_the_conversion():
    noise = (apply(12, GREY, 0.001) - GREY).reshape(-1, 3)
    to_rgb = np.array([[1.164, 0, 1.596], [1.164, -0.392, -0.813], [1.164, 2.017, 0]])
    np.testing.assert_allclose(np.cov(noise.T), 0.001 * to_rgb @ to_rgb.T, rtol=0.03, atol=1e-5)
    np.testing.assert_allclose(noise.var(axis=0) / 0.001, [3.90, 2.17, 5.43], rtol=0.02)


@pytest.mark.parametrize("density", [0.001, 0.01, 0.03])
def test_impulses_hit_single_samples_with_black_and_white_alike(density):
    result = apply(13, GREY, density)
    counts = Counter(result.ravel().tolist())
    assert set(counts) == {0, 0.5, 1}
    tolerance = 5 * math.sqrt(density / result.size)
    assert (counts[0] + counts[1]) / result.size == pytest.approx(density, abs=tolerance)
    assert (counts[0] - counts[1]) / result.size == pytest.approx(0, abs=tolerance)
    hit_channels = (result != 0.5).sum(axis=2)
    assert np.mean(hit_channels[hit_channels > 0] == 1) > 0.9


def test_multiplicative_noise_is_uniform_and_scales_with_the_sample():
    for brightness in (0.2, 0.5):
        factor = apply(14, 2 * brightness * GREY, 0.02) / brightness - 1
        edge = math.sqrt(12 * 0.02) / 2
        assert factor.var() == pytest.approx(0.02, rel=0.01)
        assert edge * 0.999 < np.abs(factor).max() <= edge + 1e-12
        np.testing.assert_allclose(np.histogram(factor, 10, (-edge, edge))[0] / factor.size, 0.1, atol=0.003)


def test_denoise_removes_most_of_its_noise(photo):
    x = photo[:192, :256] / 255
    noisy = apply(11, x, 0.01, seed=3)
    result = apply(15, x, 0.01, seed=3)
    assert np.mean((result - x) ** 2) < 0.3 * np.mean((noisy - x) ** 2)
    residue = apply(15, GREY, 0.01) - 0.5
    assert residue.var() < 0.01 / 10


def test_denoise_treats_the_channels_apart(photo):
    x = photo[:128, :128] / 255
    swapped = apply(15, x[..., ::-1], 1e-12)
    np.testing.assert_allclose(apply(15, x, 1e-12), swapped[..., ::-1], atol=1e-5)


def test_denoise_has_the_bits_of_scikit_image(photo):
    noisy = apply(11, photo[:96, :128] / 255, 0.05, seed=3)
    expected = restoration.denoise_tv_chambolle(noisy, 0.25, channel_axis=-1)
    np.testing.assert_array_equal(apply(15, photo[:96, :128] / 255, 0.05, seed=3), expected)


# --- 16 to 18 and 25: tone


def spline(knots, values):
    return CubicSpline(knots, values, bc_type="not-a-knot")


@pytest.mark.parametrize("amount", [0.1, 0.4, 1.1])
def test_brighten_mixes_two_parts_of_rgb_with_one_of_lightness(photo, amount):
    x = photo[::4, ::4] / 255
    curve = spline([0, 0.5, 1], [0, 0.5 + amount / 2, 1])
    lab = color.rgb2lab(x)
    lab[..., 0] = 100 * np.clip(curve(lab[..., 0] / 100), 0, 1)
    expected = (2 * np.clip(curve(x), 0, 1) + distortions._lab_to_rgb(lab)) / 3
    np.testing.assert_allclose(apply(16, x, amount), expected, atol=1e-9)


@pytest.mark.parametrize("amount", [0.05, 0.4, 0.8])
def test_darken_follows_the_spline_through_its_knots(photo, amount):
    x = photo[::4, ::4] / 255
    expected = np.clip(spline([0, 0.5, 1], [0, 0.5 - amount / 2, 1])(x), 0, 1)
    np.testing.assert_allclose(apply(17, x, amount), expected, atol=1e-12)


@pytest.mark.parametrize("level", LEVELS)
def test_mean_shift_ends_as_a_gain(photo, level):
    x, offset = stretched(photo) / 255, DISTORTIONS[17].levels[level - 1]
    net = np.minimum(x / (1 - offset), 1) if offset >= 0 else np.maximum((x + offset) / (1 + offset), 0)
    np.testing.assert_allclose(distort(photo, 18, level), 255 * net, atol=0.5 + 1e-9)


@pytest.mark.parametrize("offset", [0.15, -0.15])
def test_mean_shift_is_an_offset_without_the_final_stretch(photo, offset):
    level = DISTORTIONS[17].levels.index(offset) + 1
    expected = np.clip(stretched(photo) + 255 * offset, 0, 255)
    np.testing.assert_allclose(distort(photo, 18, level, final_stretch=False), expected, atol=0.5 + 1e-9)


@pytest.mark.parametrize("amount", [0.3, 0.15, 0, -0.4, -0.6, -0.2])
def test_contrast_follows_the_spline_through_its_knots(photo, amount):
    x = photo[::4, ::4] / 255
    curve = spline([0, 0.3, 0.5, 0.7, 1], [0, 0.25 - amount / 4, 0.5, 0.75 + amount / 4, 1])
    np.testing.assert_allclose(apply(25, x, amount), np.clip(curve(x), 0, 1), atol=1e-12)


# --- 19 to 23: places


def test_cubic_weights_sum_to_one_and_reproduce_parabolas():
    fraction = np.linspace(0, 1, 100, endpoint=False)
    weights = distortions._cubic_weights(fraction)
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-12)
    np.testing.assert_allclose(weights[:, 50], [-0.0625, 0.5625, 0.5625, -0.0625])
    np.testing.assert_allclose(np.arange(-1, 3) ** 2.0 @ weights, fraction**2, atol=1e-12)


def test_displace_reads_at_the_place_minus_the_offset():
    rows, columns = np.indices((64, 64), dtype=float)
    surface = np.stack([rows, columns, rows * columns / 64], axis=-1)
    offsets = rng().normal(0, 1, (2, 64, 64))
    result = distortions._displace(surface, offsets)[8:-8, 8:-8]
    y, x = rows - offsets[0], columns - offsets[1]
    np.testing.assert_allclose(result, np.stack([y, x, y * x / 64], axis=-1)[8:-8, 8:-8], atol=1e-9)


def test_displace_by_whole_pixels_copies_and_repeats_the_edge():
    x = rng().random((20, 30, 3))
    offsets = np.ones((2, 20, 30)) * np.array([3, -2])[:, None, None]
    expected = np.pad(x, ((3, 0), (0, 2), (0, 0)), mode="edge")[:20, 2:]
    np.testing.assert_allclose(distortions._displace(x, offsets), expected, atol=1e-12)


def test_jitter_without_movement_is_the_identity(photo):
    x = photo[:96, :128] / 255
    np.testing.assert_allclose(apply(19, x, 1e-6), x, atol=1e-4)


def test_jitter_adds_the_variance_of_five_passes():
    """Cubic convolution is exact for parabolas, so each pass adds the variance of its offsets to u^2 on average."""
    u = np.arange(-32, 33)
    parabola = np.broadcast_to((u**2)[:, None], (1500, 65, 3)).astype(float)
    gained = (apply(19, parabola, 1) - parabola)[:, 26:39]
    assert gained.mean() == pytest.approx(5, abs=0.4)
    np.testing.assert_array_equal(gained[..., 0], gained[..., 2])


def test_patches_are_copies_from_at_most_eight_pixels_away():
    rows, columns = np.indices((HEIGHT, WIDTH))
    x = np.stack([rows / HEIGHT, columns / WIDTH, GREY[..., 0]], axis=-1)
    for seed in range(20):
        result = apply(20, x, 1, seed)
        changed = (result != x).any(axis=2)
        if not changed.any():
            continue
        hit_rows, hit_columns = np.nonzero(changed)
        assert np.ptp(hit_rows) < 16
        assert np.ptp(hit_columns) < 16
        moves = np.round((result - x)[changed][:, :2] * [HEIGHT, WIDTH]).astype(int)
        assert (moves == moves[0]).all()
        assert np.abs(moves).max() <= 8


@pytest.mark.parametrize("shape", [(64, 64), (64, 300), (HEIGHT, WIDTH)])
def test_patches_stay_in_the_frame_at_the_extreme_draws(shape):
    class Extreme:
        def __init__(self, values):
            self.values = values

        def random(self, size):
            return np.broadcast_to(self.values, size)

    x = rng().random((*shape, 3))
    for values in ((0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 0, 1), (1, 0, 0, 1)):
        result = DISTORTIONS[19].apply(x, 3, Extreme(np.array(values, float)))
        assert (result != x).any(axis=2).sum() >= 128


@pytest.mark.parametrize(
    ("strength", "height", "width"),
    [(0.01, 341, 455), (0.05, 302, 402), (0.1, 269, 358), (0.2, 219, 292), (0.5, 112, 149)],
)
def test_pixelate_leaves_the_rows_and_columns_of_the_small_image(strength, height, width):
    rows, columns = np.indices((HEIGHT, WIDTH))
    result = apply(21, np.stack([rows, columns, rows], axis=-1), strength)
    for places, side, small in ((result[:, 0, 0], HEIGHT, height), (result[0, :, 1], WIDTH, width)):
        assert len(np.unique(places)) in (small - 1, small)
        np.testing.assert_array_equal(places, np.sort(places))
        assert np.abs(places - np.arange(side)).max() <= math.ceil(side / small)


@pytest.mark.parametrize("strength", DISTORTIONS[20].levels)
def test_pixelate_maps_each_pixel_by_the_rule_of_imresize(strength):
    def source(pixel, scale, last):
        return min(max(math.floor(pixel / scale + 0.5 * (1 - 1 / scale) + 0.5), 1), last)

    scale = 0.95 - strength**0.6
    small = math.ceil(scale * WIDTH)
    grow = [source(pixel, WIDTH / small, small) for pixel in range(1, WIDTH + 1)]
    expected = [source(pixel, scale, WIDTH) - 1 for pixel in grow]
    columns = np.broadcast_to(np.arange(WIDTH)[:, None], (HEIGHT, WIDTH, 3))
    np.testing.assert_array_equal(apply(21, columns, strength)[0, :, 0], expected)


@pytest.mark.parametrize("level", LEVELS)
def test_quantization_leaves_one_value_more_than_thresholds(distorted, level):
    values = np.unique(distorted["astronaut", 22, level])
    assert DISTORTIONS[21].levels[level - 1] - 1 <= len(values) <= DISTORTIONS[21].levels[level - 1] + 1
    assert (values[0], values[-1]) == (0, 255)


def test_otsu_thresholds_beat_equal_spacing_and_find_separate_modes():
    modes = np.repeat([20, 110, 190, 240], 500) + rng().integers(-8, 9, 2000)
    thresholds = distortions._otsu_thresholds(modes.astype(np.uint8), 3)
    assert [np.searchsorted(thresholds, mode) for mode in (20, 110, 190, 240)] == [0, 1, 2, 3]


def between_class_variance(samples, thresholds):
    classes = np.searchsorted(thresholds, samples)
    return sum(np.mean(classes == k) * (samples[classes == k].mean() - samples.mean()) ** 2 for k in np.unique(classes))


@pytest.mark.parametrize("count", [7, 13, 20])
def test_otsu_thresholds_raise_the_variance_between_classes(photos, count):
    for photo in photos.values():
        samples = photo[::2, ::2].ravel()
        found = distortions._otsu_thresholds(samples, count)
        start = np.floor(np.linspace(0, 255, count + 2)[1:-1] + 0.5)
        assert (np.diff(found) > 0).all()
        assert between_class_variance(samples, found) >= between_class_variance(samples, start)


def test_quantization_gives_each_class_its_upper_threshold():
    x = (np.arange(64 * 64 * 3) % 256 / 255).reshape(64, 64, 3)
    thresholds = distortions._otsu_thresholds(distortions._to_uint8(x), 7)
    expected = [
        0 if v <= thresholds[0] else 255 if v > thresholds[-1] else min(t for t in thresholds if v <= t)
        for v in range(256)
    ]
    np.testing.assert_allclose(255 * apply(22, x, 7).ravel(), np.resize(expected, x.size), atol=1e-9)


@pytest.mark.parametrize("blocks", [1, 2, 10])
def test_color_blocks_are_squares_of_one_colour(blocks):
    x = np.full((HEIGHT, WIDTH, 3), 2.0)
    areas = []
    for seed in range(10):
        result = apply(23, x, blocks, seed)
        changed = (result != 2).any(axis=2)
        areas.append(changed.sum() / 32**2)
        assert len(np.unique(result[changed] @ [1, 10, 100])) <= blocks
    assert max(areas) <= blocks
    assert np.mean(areas) > 0.9 * blocks


# --- 24: sharpening


def test_high_sharpen_adds_the_detail_of_lightness():
    x = ndimage.gaussian_filter(rng().random((80, 80)), 2)[..., None].repeat(3, axis=2)
    x = 0.4 + 0.2 * (x - x.min()) / np.ptp(x)
    before, after = color.rgb2lab(x), color.rgb2lab(apply(24, x, 2))
    places = np.arange(-6, 7)
    kernel = np.exp(-(places**2) / 18)
    smooth = before[..., 0]
    for axis in (0, 1):
        smooth = ndimage.convolve1d(smooth, kernel / kernel.sum(), axis, mode="nearest")
    np.testing.assert_allclose(after[..., 0], 3 * before[..., 0] - 2 * smooth, atol=1e-2)

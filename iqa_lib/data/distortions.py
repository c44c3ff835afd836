"""The 25 distortions of KADID-10k at their five original strengths.

KADID-10k: H. Lin, V. Hosu, D. Saupe, "KADID-10k: A Large-scale Artificially Distorted IQA Database", QoMEX 2019.
Operations and level values follow the MATLAB release of its sister set KADIS-700k; the implementation is independent.

All types share one frame (`distort`): the photograph is stretched to [0, 1] by one minimum and one maximum over all
pixels and channels, the operation runs on doubles, the result is stretched again and written as 8 bit, halves rounded
up. The second stretch is part of KADID-10k: a blur, for example, also raises the global contrast, and a mean shift
becomes a gain with lost ends. Lengths are in pixels of KADID-10k's frame, 512 x 384.

The level is KADID-10k's number and not everywhere a rank of severity: type 18 is the identity at level 3, and type 25
is mildest at levels 3 and 4. Types 01, 03 and 08 are the identity at level 1.

How close the types are to the originals:

- MATLAB's random stream cannot be reproduced: random types agree with KADID-10k in distribution, not pixel by pixel.
- 06 dithers through Pillow: palette and tone are as in the original, single dots differ.
- 09 and 10 use OpenJPEG and libjpeg, 10 with 4:2:0 chroma as an assumption; MATLAB's own codecs may differ slightly.
- 15 is a stand-in: total-variation denoising (Chambolle) instead of MATLAB's pretrained DnCNN, which is not available
  here. Its weight was matched to a KADID-10k image at level 5 only; levels 1 to 4 are not verified.
- 21 (ties of the nearest neighbour), 22 (limits of the search) and 23 (rounding of corners) rest on unverified details.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from operator import itemgetter

import numpy as np
from PIL import Image
from scipy import ndimage, optimize, signal
from skimage import color, restoration
from skimage.color import colorconv


@dataclass(frozen=True)
class Distortion:
    """One type of distortion: its number, 1 to 25, and name in KADID-10k, and what is done to a photograph.

    `apply(x, value)` is the bare operation on doubles (H, W, 3) in [0, 1]; a random type also takes a generator. The
    value is what `parameter` names; `levels` are the values at KADID-10k's levels 1 to 5.
    """

    number: int
    name: str
    parameter: str
    levels: tuple[float, ...]
    apply: Callable[..., np.ndarray]
    random: bool = False


def distort(
    image: np.ndarray, number: int, level: int, rng: np.random.Generator | None = None, *, final_stretch: bool = True
) -> np.ndarray:
    """Distort an RGB photograph, uint8 (H, W, 3), as KADID-10k does, by its type `number`, 1 to 25, at `level`, 1 to 5.

    The photograph must be at least 64 x 64; the levels are made for about 512 x 384. Only random types need `rng`; the
    same state draws the same places and directions at every level. The result, uint8 (H, W, 3), is stretched to the
    full range, as KADID-10k does, or only clipped if `final_stretch` is False. ValueError if the photograph, the type
    or the level is unusable, or a random type has no generator.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"image: got {got}, expected uint8 (H, W, 3): convert with np.asarray(image.convert('RGB'))")
    if min(image.shape[:2]) < 64:
        got, todo = image.shape[:2], "distort the whole photograph (about 384 x 512) and crop afterwards"
        raise ValueError(f"image: got {got[0]} x {got[1]} pixels, expected at least 64 x 64: {todo}")
    for name, value, last in (("number", number, len(DISTORTIONS)), ("level", level, 5)):
        if not isinstance(value, int | np.integer) or not 1 <= value <= last:
            raise ValueError(f"{name}: got {value!r}, expected an integer from 1 to {last}")
    distortion = DISTORTIONS[number - 1]
    if distortion.random and not isinstance(rng, np.random.Generator):
        todo = "pass, for example, np.random.default_rng((seed, number, level))"
        raise ValueError(f"rng: got {rng!r}, expected a generator for type {number} ({distortion.name}): {todo}")
    draws = (rng,) if distortion.random else ()
    result = distortion.apply(_stretched(image), distortion.levels[level - 1], *draws)
    return _to_uint8(_stretch(result) if final_stretch else result)


def _kept(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """`function` with its last argument and result kept, for what the types and levels share of one photograph."""
    last: tuple = (np.empty(0), np.empty(0))

    @wraps(function)
    def kept(x: np.ndarray) -> np.ndarray:
        nonlocal last
        before, result = last
        if not np.array_equal(x, before):
            result = function(x)
            result.flags.writeable = False
            last = (x.copy(), result)
        return result

    return kept


@_kept
def _stretched(image: np.ndarray) -> np.ndarray:
    """The photograph as doubles over the full range [0, 1]."""
    return _stretch(image / 255)


def _stretch(x: np.ndarray) -> np.ndarray:
    """Map the range of all values to [0, 1]; leave a constant array as it is."""
    low, high = x.min(), x.max()
    return (x - low) / (high - low) if high > low else x


def _round(x: np.ndarray) -> np.ndarray:
    """Round to integers, halves up (numpy rounds them to even)."""
    return np.floor(x + 0.5).astype(int)


def _to_uint8(x: np.ndarray) -> np.ndarray:
    """Write values in [0, 1], clipped, as 8 bit, halves up."""
    return (255 * np.clip(x, 0, 1) + 0.5).astype(np.uint8)


def _blur(x: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur along the first two axes: 2 ceil(2 sigma) + 1 taps a side, edges repeated."""
    return ndimage.gaussian_filter(x, sigma, mode="nearest", radius=math.ceil(2 * sigma), axes=(0, 1))


def _filter(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolve each channel of (H, W, 3) with an odd-sided kernel, edges repeated."""
    rows, columns = (side // 2 for side in kernel.shape)
    padded = np.pad(x, ((rows, rows), (columns, columns), (0, 0)), mode="edge")
    return signal.fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1))


_lab = _kept(color.rgb2lab)
_hsv = _kept(color.rgb2hsv)


def _lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """Inverse of `skimage.color.rgb2lab` that clips only the result (skimage's own also clips on the way)."""
    fy = (lab[..., 0] + 16) / 116
    f = np.stack([fy + lab[..., 1] / 500, fy, fy - lab[..., 2] / 200], axis=-1)
    white = color.xyz_tristimulus_values(illuminant="D65", observer="2")
    xyz = white * np.where(f > 6 / 29, f * f * f, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    linear = xyz @ colorconv.rgb_from_xyz.T
    companded = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return np.clip(np.where(linear > 0.0031308, companded, 12.92 * linear), 0, 1)


def _lift(x: np.ndarray, amount: float) -> np.ndarray:
    """Tone curve: the parabola through (0, 0), (1/2, 1/2 + amount/2) and (1, 1), clipped."""
    return np.clip(x + 2 * amount * x * (1 - x), 0, 1)


def _through_codec(x: np.ndarray, **options) -> np.ndarray:
    """Write 8 bit with Pillow's codec and read back."""
    stream = io.BytesIO()
    Image.fromarray(_to_uint8(x)).save(stream, **options)
    return np.asarray(Image.open(stream)) / 255


def _disk(radius: float) -> np.ndarray:
    """Mean over a disk, as an open aperture blurs: each pixel's share, by the area between the axes and its corners."""
    reach = math.ceil(radius)
    x = np.clip(np.arange(-reach - 0.5, reach + 1), -radius, radius)
    y = x[:, None]
    flat = np.minimum(np.abs(x), np.sqrt(radius**2 - y**2))

    def under_arc(u: np.ndarray) -> np.ndarray:
        return (u * np.sqrt(radius**2 - u**2) + radius**2 * np.arcsin(u / radius)) / 2

    area = np.sign(x * y) * (np.abs(y) * flat + under_arc(np.abs(x)) - under_arc(flat))
    return np.diff(np.diff(area, axis=0), axis=1) / (math.pi * radius**2)


def motion_blur(x: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    """Type 03: blur along a line; length in pixels, angle drawn from the whole degrees 0 to 180."""
    return _filter(x, _line(length, rng.integers(0, 181)))


def _line(length: float, degrees: float) -> np.ndarray:
    """Anti-aliased line of unit width through the centre, counter-clockwise from the horizontal."""
    half, angle = (length - 1) / 2, math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    reach_x, reach_y = (int(half * abs(part) + 1 - 1e-12) for part in (cos, sin))
    y, x = np.mgrid[reach_y : -reach_y - 1 : -1, -reach_x : reach_x + 1]
    across, along = np.abs(y * cos - x * sin), np.abs(x * cos + y * sin)
    beyond_end = (np.hypot(x, y) >= half) & (across <= 1)
    distance = np.where(beyond_end, np.hypot(across, half - along), across)
    weight = np.maximum(1 - distance, 0)
    return weight / weight.sum()


def color_diffusion(x: np.ndarray, amount: float) -> np.ndarray:
    """Type 04: the Lab colour planes blurred with sigma 1.5 amount + 2 and then amplified amount-fold."""
    lab = _lab(x).copy()
    lab[..., 1:] = amount * _blur(lab[..., 1:], 1.5 * amount + 2)
    return _lab_to_rgb(lab)


def color_shift(x: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    """Type 05: green moved down and right, in a direction drawn, near edges: blended by a mask of gradient strength."""
    step = rng.random(2)
    down, right = _round(length * step / np.hypot(*step))
    green = x[..., 1]
    moved = np.pad(green, ((down, 0), (right, 0)), mode="edge")[: green.shape[0], : green.shape[1]]
    mask = _edge_mask(x)
    result = x.copy()
    result[..., 1] = mask * moved + (1 - mask) * green
    return result


@_kept
def _edge_mask(x: np.ndarray) -> np.ndarray:
    """Smoothed gradient strength of the luma in [0, 1], without its weakest tenth and its extreme hundredths."""
    strength = _stretch(_blur(np.hypot(*np.gradient(x @ [0.2989, 0.5870, 0.1140])), 4))
    strength = _stretch(np.clip(strength, 0.1, 1))
    rank = int(_round(0.99 * strength.size))
    low, high = np.partition(strength.ravel(), (strength.size - rank, rank - 1))[[strength.size - rank, rank - 1]]
    return _stretch(np.clip(strength, low, high))


def color_quantization(x: np.ndarray, colors: float) -> np.ndarray:
    """Type 06: a palette of so many colours, with Floyd-Steinberg dithering down the columns."""
    pixels = _to_uint8(x).swapaxes(0, 1)
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.resize(_minimum_variance_palette(pixels, int(colors)), (256, 3)).tobytes())
    image = Image.fromarray(np.ascontiguousarray(pixels))
    dithered = image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).convert("RGB")
    return np.asarray(dithered).swapaxes(0, 1) / 255


def _minimum_variance_palette(pixels: np.ndarray, colors: int) -> np.ndarray:
    """Palette by recursive splitting of the box with the largest squared error (X. Wu, Graphics Gems II, 1991)."""
    boxes = [(np.inf, _color_histogram(pixels))]
    while len(boxes) < colors and boxes[-1][0] > 0:
        boxes += _split(boxes.pop()[1])
        boxes.sort(key=itemgetter(0))
    sums = np.array([box.sum(axis=(0, 1, 2)) for _, box in boxes])
    return (sums[:, 1:4] // sums[:, :1]).astype(np.uint8)


@_kept
def _color_histogram(pixels: np.ndarray) -> np.ndarray:
    """Cells (32, 32, 32, 5) of 8 x 8 x 8 colours: their pixels' count, sums of R, G and B, and sum of squares."""
    rgb = pixels.reshape(-1, 3).astype(int)
    cell = np.ravel_multi_index((rgb >> 3).T, (32, 32, 32))
    moments = [np.bincount(cell, weights, 32**3) for weights in (np.ones(len(rgb)), *rgb.T, (rgb**2).sum(axis=1))]
    return np.stack(moments, axis=-1).reshape(32, 32, 32, 5)


def _split(box: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """The two halves of the best cut, each with its squared error; an indivisible box comes back with error 0."""
    best = (np.inf, [(0.0, box)])
    for axis in range(3):
        below = box.sum(axis=tuple({0, 1, 2} - {axis})).cumsum(axis=0)
        errors = _squared_error(below[:-1]) + _squared_error(below[-1] - below[:-1])
        errors[(below[:-1, 0] == 0) | (below[:-1, 0] == below[-1, 0])] = np.inf
        if errors.min(initial=np.inf) < best[0]:
            cut = int(errors.argmin()) + 1
            halves = np.split(box, [cut], axis=axis)
            best = (errors.min(), [(float(_squared_error(half.sum(axis=(0, 1, 2)))), half) for half in halves])
    return best[1]


def _squared_error(moments: np.ndarray) -> np.ndarray:
    """Sum of squared distances to the mean colour, from moments (..., 5)."""
    count, sums, squares = moments[..., 0], moments[..., 1:4], moments[..., 4]
    return squares - (sums**2).sum(axis=-1) / np.maximum(count, 1)


def color_saturation_hsv(x: np.ndarray, factor: float) -> np.ndarray:
    """Type 07: HSV saturation times factor; a negative factor gives faint complementary colours."""
    return color.hsv2rgb(_hsv(x) * [1, factor, 1])


def color_saturation_lab(x: np.ndarray, factor: float) -> np.ndarray:
    """Type 08: Lab colour planes times factor (1 leaves the photograph as it is)."""
    return _lab_to_rgb(_lab(x) * [1, factor, factor])


def jpeg2000(x: np.ndarray, ratio: float) -> np.ndarray:
    """Type 09: JPEG 2000 with the 9/7 wavelet; ratio of raw bytes to file bytes."""
    options = {"quality_mode": "rates", "quality_layers": [ratio], "irreversible": True, "num_resolutions": 6}
    return _through_codec(x, format="JPEG2000", progression="LRCP", **options)


def jpeg(x: np.ndarray, quality: float) -> np.ndarray:
    """Type 10: baseline JPEG with halved colour planes; quality on the scale of libjpeg."""
    return _through_codec(x, format="JPEG", quality=int(quality), subsampling="4:2:0")


def white_noise(x: np.ndarray, variance: float, rng: np.random.Generator) -> np.ndarray:
    """Type 11: Gaussian noise of this variance, independent in every sample."""
    return np.clip(x + rng.normal(0, math.sqrt(variance), x.shape), 0, 1)


def ycbcr_noise(x: np.ndarray, variance: float, rng: np.random.Generator) -> np.ndarray:
    """Type 12: Gaussian noise of this variance on Y, Cb and Cr (studio range, scaled by 1/255)."""
    planes = color.rgb2ycbcr(x) / 255
    return np.clip(color.ycbcr2rgb(255 * white_noise(planes, variance, rng)), 0, 1)


def impulse_noise(x: np.ndarray, density: float, rng: np.random.Generator) -> np.ndarray:
    """Type 13: salt and pepper; density is the share of samples hit, each channel by itself."""
    chance = rng.random(x.shape)
    return np.select([chance < density / 2, chance < density], [0.0, 1.0], x)


def speckle_noise(x: np.ndarray, variance: float, rng: np.random.Generator) -> np.ndarray:
    """Type 14: each sample times 1 + n, n uniform with mean 0 and this variance."""
    return np.clip(x + x * math.sqrt(12 * variance) * (rng.random(x.shape) - 0.5), 0, 1)


def denoise(x: np.ndarray, variance: float, rng: np.random.Generator) -> np.ndarray:
    """Type 15, a stand-in: Gaussian noise of this variance, then total-variation denoising."""
    weight = np.interp(variance, [0.01, 0.03, 0.05, 0.1, 0.15], [0.10, 0.20, 0.25, 0.20, 0.20])
    return restoration.denoise_tv_chambolle(white_noise(x, variance, rng), weight, channel_axis=-1)


def brighten(x: np.ndarray, amount: float) -> np.ndarray:
    """Type 16: mid grey lifted by amount/2, two parts on RGB and one part on Lab lightness."""
    lab = _lab(x).copy()
    lab[..., 0] = 100 * _lift(lab[..., 0] / 100, amount)
    return (2 * _lift(x, amount) + _lab_to_rgb(lab)) / 3


def jitter(x: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Type 19: five passes that move every pixel by normal offsets of this standard deviation in pixels."""
    pixels = x.astype(np.float32)
    for _ in range(5):
        pixels = _displace(pixels, deviation * rng.standard_normal((2, *x.shape[:2]), dtype=np.float32))
    return pixels.astype(float)


def _displace(x: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Read each pixel at its place minus its (dy, dx), by 4 x 4 taps, edges repeated."""
    height, width = x.shape[:2]
    whole = np.floor(-offsets)
    weights_y, weights_x = _cubic_weights(-offsets - whole).swapaxes(0, 1)
    reach = int(np.abs(whole).max()) + 2
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    row, column = whole.astype(int) + np.indices((height, width)) + reach - 1
    first = row * padded.shape[1] + column  # the tap at the upper left
    planes = padded.reshape(-1, 3).T.copy()
    result = np.zeros((3, height, width), x.dtype)
    for down, weight_y in enumerate(weights_y):
        for right, weight_x in enumerate(weights_x):
            result += weight_y * weight_x * planes[:, down * padded.shape[1] + right :].take(first, axis=1)
    return np.moveaxis(result, 0, -1)


def _cubic_weights(fraction: np.ndarray) -> np.ndarray:
    """Weights of the taps at -1, 0, 1, 2 for a place in [0, 1) (R. Keys 1981, a = -1/2): (...) -> (4, ...)."""
    near = [(1.5 * distance - 2.5) * distance**2 + 1 for distance in (fraction, 1 - fraction)]
    far = [((2.5 - 0.5 * distance) * distance - 4) * distance + 2 for distance in (1 + fraction, 2 - fraction)]
    return np.stack([far[0], *near, far[1]])


def non_eccentricity_patch(x: np.ndarray, patches: float, rng: np.random.Generator) -> np.ndarray:
    """Type 20: so many 16 x 16 patches, one after the other, copied to a place at most 8 pixels off."""
    result, room = x.copy(), np.array(x.shape[:2]) - 48
    draws = rng.random((int(patches), 4))
    sources = _round(draws[:, :2] * room) + 15
    targets = _round(sources + 16 * (draws[:, 2:] - 0.5))
    for (row, column), (to_row, to_column) in zip(sources, targets, strict=True):
        patch = result[row : row + 16, column : column + 16].copy()
        result[to_row : to_row + 16, to_column : to_column + 16] = patch
    return result


def pixelate(x: np.ndarray, strength: float) -> np.ndarray:
    """Type 21: sides scaled to ceil((0.95 - strength^0.6) side) and back, nearest neighbour both ways."""
    scale = 0.95 - strength**0.6
    for axis, side in enumerate(x.shape[:2]):
        small = math.ceil(scale * side)
        down = ((np.arange(small) + 0.5) / scale).astype(int).clip(0, side - 1)
        up = ((np.arange(side) + 0.5) / (side / small)).astype(int).clip(0, small - 1)
        x = x.take(down[up], axis)
    return x


def quantization(x: np.ndarray, thresholds: float) -> np.ndarray:
    """Type 22: so many Otsu thresholds, one set for all channels, one value for each class between them."""
    edges = _otsu_thresholds(_to_uint8(x), int(thresholds)) / 255
    values = np.concatenate(([0], edges[1:], [1]))
    return values[np.searchsorted(edges, x)]


def _otsu_thresholds(samples: np.ndarray, count: int) -> np.ndarray:
    """Thresholds of large variance between classes: like MATLAB's, a local optimum near equal spacing (Nelder-Mead)."""
    share = np.bincount(samples.ravel(), minlength=256) / samples.size
    weight, mass = (np.concatenate(([0], np.cumsum(part))) for part in (share, share * np.arange(256)))

    def loss(thresholds: np.ndarray) -> float:
        bounds = np.concatenate(([0], _round(thresholds) + 1, [256]))
        if (np.diff(bounds) <= 0).any():
            return np.inf
        weights, masses = np.diff(weight[bounds]), np.diff(mass[bounds])
        return -(masses**2 / np.maximum(weights, 1e-12)).sum()

    start = np.linspace(0, 255, count + 2)[1:-1]
    options = {"xatol": 1, "fatol": 1e-4, "maxiter": 200 * count, "maxfev": 200 * count}
    return _round(optimize.minimize(loss, start, method="Nelder-Mead", options=options).x)


def color_block(x: np.ndarray, blocks: float, rng: np.random.Generator) -> np.ndarray:
    """Type 23: so many opaque 32 x 32 squares of random colour, later ones on top."""
    result, room = x.copy(), np.array(x.shape[:2]) - 32
    for draw in rng.random((int(blocks), 5)):
        row, column = (draw[:2] * room).astype(int)
        result[row : row + 32, column : column + 32] = draw[2:]
    return result


def high_sharpen(x: np.ndarray, amount: float) -> np.ndarray:
    """Type 24: unsharp masking of Lab lightness with sigma 3; amount is the gain of the detail."""
    lab = _lab(x).copy()
    lab[..., 0] += amount * (lab[..., 0] - _blur(lab[..., 0], 3))
    return _lab_to_rgb(lab)


def contrast_change(x: np.ndarray, amount: float) -> np.ndarray:
    """Type 25: contrast grows above amount -0.2 (the identity) and falls below it."""
    u = x - 0.5  # the cubic through (0, 0), (0.3, 0.25 - amount/4), (0.5, 0.5), (0.7, 0.75 + amount/4) and (1, 1)
    return np.clip(x + (amount + 0.2) * 125 / 84 * u * (1 - 4 * u**2), 0, 1)


DISTORTIONS: tuple[Distortion, ...] = (
    Distortion(1, "Gaussian blur", "sigma", (0.1, 0.5, 1, 2, 5), _blur),
    Distortion(2, "lens blur", "radius", (1, 2, 4, 6, 8), lambda x, radius: _filter(x, _disk(radius))),
    Distortion(3, "motion blur", "length", (1, 2, 4, 6, 10), motion_blur, True),
    Distortion(4, "color diffusion", "amount", (1, 3, 6, 8, 12), color_diffusion),
    Distortion(5, "color shift", "shift", (1, 3, 6, 8, 12), color_shift, True),
    Distortion(6, "color quantization", "colors", (64, 48, 32, 16, 8), color_quantization),
    Distortion(7, "color saturation 1", "HSV saturation factor", (0.4, 0.2, 0.1, 0, -0.4), color_saturation_hsv),
    Distortion(8, "color saturation 2", "Lab chroma factor", (1, 2, 3, 6, 9), color_saturation_lab),
    Distortion(9, "JPEG2000", "compression ratio", (16, 32, 45, 120, 400), jpeg2000),
    Distortion(10, "JPEG", "quality", (43, 36, 24, 7, 4), jpeg),
    Distortion(11, "white noise", "variance", (0.001, 0.002, 0.003, 0.005, 0.01), white_noise, True),
    Distortion(12, "white noise in color component", "variance", (1e-4, 5e-4, 0.001, 0.002, 0.003), ycbcr_noise, True),
    Distortion(13, "impulse noise", "density", (0.001, 0.005, 0.01, 0.02, 0.03), impulse_noise, True),
    Distortion(14, "multiplicative noise", "variance", (0.001, 0.005, 0.01, 0.02, 0.05), speckle_noise, True),
    Distortion(15, "denoise", "variance", (0.01, 0.03, 0.05, 0.1, 0.15), denoise, True),
    Distortion(16, "brighten", "amount", (0.1, 0.2, 0.4, 0.7, 1.1), brighten),
    Distortion(17, "darken", "amount", (0.05, 0.1, 0.2, 0.4, 0.8), lambda x, amount: _lift(x, -amount)),
    Distortion(18, "mean shift", "offset", (0.15, 0.08, 0, -0.08, -0.15), lambda x, offset: np.clip(x + offset, 0, 1)),
    Distortion(19, "jitter", "standard deviation", (0.05, 0.1, 0.2, 0.5, 1), jitter, True),
    Distortion(20, "non-eccentricity patch", "patches", (20, 40, 60, 80, 100), non_eccentricity_patch, True),
    Distortion(21, "pixelate", "strength", (0.01, 0.05, 0.1, 0.2, 0.5), pixelate),
    Distortion(22, "quantization", "thresholds", (20, 16, 13, 10, 7), quantization),
    Distortion(23, "color block", "blocks", (2, 4, 6, 8, 10), color_block, True),
    Distortion(24, "high sharpen", "amount", (1, 2, 3, 6, 12), high_sharpen),
    Distortion(25, "contrast change", "amount", (0.3, 0.15, 0, -0.4, -0.6), contrast_change),
)

"""Damaged files: none crashes or hangs; what is read is what another decoder shows, or carries a warning.

`python tests/test_mutations.py 1000` takes more of them, and compares with OpenCV and imagecodecs, if installed.
"""

import contextlib
import io
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from iqa_lib.images import read_image

ROWS, COLUMNS = np.mgrid[:48, :64]
TEXTURE = np.random.default_rng(0).integers(40, size=(48, 64, 3))
PIXELS = (np.stack([COLUMNS * 3, ROWS * 4, COLUMNS + 2 * ROWS], 2) + TEXTURE).astype(np.uint8)
SAVED = {
    "PNG": {},
    "JPEG": {"quality": 90},
    "TIFF": {"compression": "tiff_lzw"},
    "WEBP": {"quality": 90},
    "AVIF": {"speed": 10},
    "GIF": {},
    "BMP": {},
}


def files():
    """Each format's bytes, of two images of unequal size."""
    for kind, options in SAVED.items():
        for pixels in (PIXELS, PIXELS[8:, :40]):
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, kind, **options)
            yield kind, stream.getvalue()


def mutated(rng, whole, other):
    """With bits flipped, cut off, or under the header of another file."""
    match rng.randrange(3):
        case 0:
            data = bytearray(whole)
            for _ in range(rng.choice([1, 1, 2, 8])):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return bytes(data)
        case 1:
            return whole[: rng.randrange(len(whole))]
    header = rng.choice([8, 16, 32, 64, 128])
    return other[:header] + whole[header:]


def mutations(count, seed=0):
    rng, found = random.Random(seed), list(files())
    for number in range(count):
        kind, whole = found[number % len(found)]
        yield kind, mutated(rng, whole, rng.choice(found)[1])


def read(path):
    """The pixels or the refusal, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = read_image(path).permute(1, 2, 0).numpy()
        except ValueError as error:
            found = str(error)
    return found, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("kind", SAVED)
def test_reading_a_damaged_file_gives_pixels_or_a_refusal_that_names_it(tmp_path, kind):
    for number, (_, data) in enumerate(item for item in mutations(140) if item[0] == kind):
        path = tmp_path / f"{number}.{kind.lower()}"
        path.write_bytes(data)
        found, warned = read(path)
        if isinstance(found, str):
            assert path.name in found
        elif kind == "JPEG" and not warned:
            assert np.array_equal(found, simplejpeg.decode_jpeg(data))
        assert all(path.name in text for text in warned)


def test_no_flipped_bit_of_a_png_goes_unseen(tmp_path):
    _, whole = next(files())
    rng = random.Random(0)
    for _ in range(200):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (tmp_path / "a.png").write_bytes(data)
        assert isinstance(read(tmp_path / "a.png")[0], str)


def by_others(kind, data):
    """The pixels by OpenCV, or where it refuses, by imagecodecs; None if both refuse."""
    import cv2
    import imagecodecs

    with contextlib.suppress(cv2.error):
        if (pixels := cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)) is not None:
            return pixels[..., ::-1]
    with contextlib.suppress(Exception):
        pixels = getattr(imagecodecs, f"{kind.lower()}_decode")(data)
        return np.asarray(pixels).reshape(*pixels.shape[-3:])[..., :3]
    return None


def compare(count):
    """Prints how many mutated files are refused, read with a warning, and read as OpenCV reads them."""
    totals, slowest = Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        for number, (kind, data) in enumerate(mutations(count, seed=1)):
            path = Path(folder) / f"{number}.{kind.lower()}"
            path.write_bytes(data)
            start = time.monotonic()
            found, warned = read(path)
            slowest = max(slowest, time.monotonic() - start)
            outcome = "refused" if isinstance(found, str) else "read with a warning" if warned else "read"
            if outcome == "read":
                other = by_others(kind, data)
                same = other is not None and other.shape == found.shape and np.abs(other - found.astype(int)).max() <= 2
                outcome += " alike" if same else ", refused by others" if other is None else ", OTHER PIXELS"
            totals[kind, outcome] += 1
    for (kind, outcome), number in sorted(totals.items()):
        print(f"{kind:5} {number:4} {outcome}")
    print(f"slowest: {slowest:.2f} s")


if __name__ == "__main__":
    compare(int(sys.argv[1]))

"""Images in: what is decoded, refused and checked, by message; files out: whole or not at all."""

import io
import os
import re
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

import iqa_lib
from iqa_lib.files import atomic
from iqa_lib.images import as_image, check_images, encode_png, exif_orientation, read_image, read_kept

PIXELS = np.random.default_rng(0).integers(256, size=(6, 9, 3), dtype=np.uint8)
GREY = PIXELS[..., 0]
ORIENTATION = 0x0112


def with_alpha(alpha):
    return Image.fromarray(np.dstack([PIXELS, np.full(GREY.shape, alpha, np.uint8)]))


def channels_first(pixels):
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def image(*shape, value=0.5, dtype=torch.float32):
    return torch.full(shape or (2, 3, 16, 16), value, dtype=dtype)


# --- encode_png


@pytest.mark.parametrize("pixels", [PIXELS, PIXELS.swapaxes(0, 1), PIXELS[:1, :1], 0 * PIXELS])
def test_a_png_gives_its_pixels_back(tmp_path, pixels):
    path = tmp_path / "image.png"
    path.write_bytes(encode_png(pixels))
    assert Image.open(path).format == "PNG"
    assert torch.equal(read_image(path), channels_first(pixels))


# --- read_image


@pytest.mark.parametrize("alpha", [None, 255], ids=["RGB", "opaque RGBA"])
def test_read_colour_exactly(tmp_path, alpha):
    path = tmp_path / "image.png"
    (Image.fromarray(PIXELS) if alpha is None else with_alpha(alpha)).save(path)
    read = read_image(path)
    assert read.dtype == torch.uint8
    assert read.is_contiguous()
    assert torch.equal(read, channels_first(PIXELS))
    assert torch.equal(read_image(str(path)), read)


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_read_grey_as_three_equal_channels(tmp_path, mode):
    Image.fromarray(GREY).convert(mode).save(tmp_path / "grey.png")
    assert torch.equal(read_image(tmp_path / "grey.png"), channels_first(np.dstack([GREY] * 3)))


def test_read_palette_as_its_colours(tmp_path):
    palette = Image.fromarray(GREY % 4)
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7])
    palette.save(tmp_path / "palette.png")
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]], np.uint8)
    assert torch.equal(read_image(tmp_path / "palette.png"), channels_first(colours[GREY % 4]))


def test_read_one_bit_as_black_and_white(tmp_path):
    Image.fromarray(GREY > 127).save(tmp_path / "bits.png")
    white = np.where(GREY > 127, 255, 0).astype(np.uint8)
    assert torch.equal(read_image(tmp_path / "bits.png"), channels_first(np.dstack([white] * 3)))


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, PIXELS), (2, PIXELS[:, ::-1]), (3, PIXELS[::-1, ::-1]), (6, np.rot90(PIXELS, -1)), (8, np.rot90(PIXELS))],
)
def test_read_turns_upright_by_exif(tmp_path, orientation, upright):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(read_image(tmp_path / "turned.png"), channels_first(upright))


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (with_alpha(254), "partly transparent, expected opaque RGB"),
        (Image.fromarray(GREY.astype(np.uint16) * 257), "got mode I;16, expected 8-bit RGB or grey"),
    ],
    ids=["transparent", "16-bit"],
)
def test_read_refuses_what_would_lose_something(tmp_path, refused, message):
    path = tmp_path / "image.png"
    refused.save(path)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        read_image(path)


def test_read_refuses_a_transparent_palette_colour(tmp_path):
    palette = Image.fromarray(PIXELS).quantize(4)
    palette.save(tmp_path / "palette.png", transparency=0)
    with pytest.raises(ValueError, match="partly transparent"):
        read_image(tmp_path / "palette.png")


@pytest.mark.parametrize("damage", ["empty", "half", "text"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_read_names_a_file_that_cannot_be_decoded(tmp_path, suffix, damage):
    path = tmp_path / f"image{suffix}"
    Image.fromarray(PIXELS.repeat(20, axis=0).repeat(20, axis=1)).save(path)
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "text": b"<html>404</html>"}[damage])
    with pytest.raises(ValueError, match=re.escape(f"{path}: cannot be decoded")):
        read_image(path)


def test_read_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        read_image(tmp_path / "missing.png")


# --- check_images


@pytest.mark.parametrize(
    "images",
    [
        [image()],
        [image(1, 3, 16, 40), image(1, 3, 16, 40)],
        [image(value=0.0), image(value=1.0)],
        [image(value=1 + 5e-5), image(value=-5e-5)],
        [image(dtype=torch.float64), image(dtype=torch.bfloat16)],
        [image().requires_grad_()],
    ],
)
def test_good_images_pass(images):
    assert check_images(*images, min_size=16) is None


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((2, 3, 16, 16)), r"got ndarray, expected a float tensor in \[0, 1\]"),
        (image(3, 16, 16), r"shape \(3, 16, 16\), expected \(B, 3, H, W\): add the batch axis"),
        (image(2, 1, 16, 16), r"shape \(2, 1, 16, 16\), expected .*convert to RGB"),
        (image(2, 16, 16, 3), r"shape \(2, 16, 16, 3\), expected \(B, 3, H, W\)"),
        (image(value=1, dtype=torch.uint8), r"got torch\.uint8, expected a float tensor .*: divide .* by 255"),
        (image(2, 3, 16, 15), r"got 16x15, expected sides of at least 16: enlarge it first"),
        (image(2, 3, 16, 17), r"unequal shapes \[\(2, 3, 16, 16\), \(2, 3, 16, 17\)\], expected one shape"),
        (image(1, 3, 16, 16), r"unequal shapes \[\(2, 3, 16, 16\), \(1, 3, 16, 16\)\]"),
        (image(value=255.0), r"values 255 to 255, expected \[0, 1\], no NaN"),
        (image(value=-0.01), r"values -0\.01 to -0\.01"),
        (image().index_fill(3, torch.tensor(5), torch.nan), r"values nan to nan, expected \[0, 1\], no NaN"),
        (image(value=torch.inf), r"values inf to inf"),
    ],
)
def test_a_bad_second_image_is_named_with_what_is_expected(bad, message):
    with pytest.raises(ValueError, match=message):
        check_images(image(), bad, min_size=16)


# --- atomic


def test_atomic_writes_the_whole_file_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "folder" / "table.csv"
    for text in ("first", "second"):
        with atomic(path) as temporary:
            assert temporary.parent == path.parent  # the same file system, so that the renaming is one step
            assert temporary.suffix == ".csv"
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def write_half(path, error):
    with atomic(path) as temporary:
        temporary.write_text("half of the n")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_atomic_changes_nothing_when_the_block_raises(tmp_path, error):
    path = tmp_path / "table.csv"
    with pytest.raises(error):
        write_half(path, error)
    assert list(tmp_path.iterdir()) == []
    path.write_text("old")
    with pytest.raises(error):
        write_half(path, error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_gives_the_rights_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with atomic(tmp_path / "atomic"):
        pass
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def png16(pixels):
    """A PNG of 16 bits a channel, which Pillow cannot write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, {2: 4, 3: 2, 4: 6}[pixels.shape[2]], 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bit_colour_is_refused(tmp_path, channels):
    (tmp_path / "deep.png").write_bytes(png16(np.full((4, 5, channels), 65535, np.uint16)))
    with pytest.raises(ValueError, match=r"deep\.png.*expected 8-bit"):
        read_image(tmp_path / "deep.png")


def test_empty_batch_is_a_value_error():
    with pytest.raises(ValueError, match="empty batch"):
        check_images(torch.rand(0, 3, 64, 64))


def test_kept_pixels_are_the_images_and_are_decoded_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IQA_LIB_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "a.png"
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(file)
    expected = read_image(file)
    assert torch.equal(read_kept(file), expected)
    with monkeypatch.context() as patch:
        patch.setattr("iqa_lib.images.read_image", lambda path: pytest.fail("decoded again"))
        assert torch.equal(read_kept(file), expected)
    (kept,) = (tmp_path / "cache" / "pixels").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1] + b"\xff")
    assert torch.equal(read_kept(file), expected)
    assert capsys.readouterr().out.count("is damaged") == 1
    Image.fromarray(np.zeros((5, 4, 3), np.uint8)).save(file)
    assert torch.equal(read_kept(file), torch.zeros(3, 5, 4, dtype=torch.uint8))


# --- what is refused before any decoding, and images that are decoded already


def fail_to_decode(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))


@pytest.mark.parametrize("form", ["file", "PIL image"])
def test_too_many_pixels_are_refused_by_the_header(tmp_path, monkeypatch, form):
    Image.new("RGB", (300, 200)).save(tmp_path / "large.png")
    given = tmp_path / "large.png" if form == "file" else Image.open(tmp_path / "large.png")
    fail_to_decode(monkeypatch)
    with pytest.raises(ValueError, match=r"large\.png|it: got 300x200, 0\.1 Mpx, expected at most 0\.1 Mpx.*downscale"):
        as_image(given, "it", max_pixels=59_999)


def test_a_metric_refuses_a_file_above_its_limit_before_decoding(tmp_path, monkeypatch):
    Image.new("1", (8000, 8000)).save(tmp_path / "huge.png")
    fail_to_decode(monkeypatch)
    with pytest.raises(ValueError, match=r"huge\.png: got 8000x8000, 64\.0 Mpx, expected at most 60\.0 Mpx"):
        iqa_lib.score(tmp_path / "huge.png", tmp_path / "huge.png", "psnr")


def test_too_many_pixels_in_an_array_or_tensor_are_refused():
    for given in (np.zeros((200, 300), np.uint8), torch.zeros(3, 200, 300)):
        with pytest.raises(ValueError, match="it: got 300x200"):
            as_image(given, "it", max_pixels=59_999)
        assert as_image(given, "it", max_pixels=60_000).shape == (3, 200, 300)


@pytest.mark.parametrize("decoded", [False, True])
@pytest.mark.parametrize("place", ["file", "memory"])
def test_a_pil_image_that_pillow_has_cut_to_8_bits_is_refused(tmp_path, place, decoded):
    (tmp_path / "deep.png").write_bytes(png16(np.full((4, 5, 3), 65535, np.uint16)))
    image = Image.open(tmp_path / "deep.png" if place == "file" else io.BytesIO((tmp_path / "deep.png").read_bytes()))
    if decoded:
        image.load()
    with pytest.raises(
        ValueError, match=r"it: got 16 bits a channel|it: .*can no longer be told: give the file, or image"
    ):
        as_image(image, "it")
    assert as_image(image.copy(), "it").shape == (3, 4, 5)  # taken as it is, as any image made in memory


def test_a_decoded_pil_image_of_8_bits_is_taken(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    image = Image.open(tmp_path / "a.png")
    image.load()
    assert torch.equal(as_image(image), channels_first(PIXELS))
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "BMP")
    image = Image.open(stream)
    image.load()
    assert torch.equal(as_image(image), channels_first(PIXELS))


# --- what is no file, and what decoders raise and warn of


def test_folders_pipes_and_dangling_links_are_named(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("nowhere.png")
    for name in ("folder.png", "pipe.png"):
        with pytest.raises(ValueError, match=f"{name}: got a folder or a device, expected an image file"):
            read_image(tmp_path / name)
    with pytest.raises(
        FileNotFoundError, match=r"link\.png: there is no such file \(a link to a file that is not there"
    ):
        read_image(tmp_path / "link.png")


@pytest.mark.parametrize("error", [TypeError, RuntimeError, NotImplementedError, MemoryError, KeyError, RecursionError])
@pytest.mark.parametrize("stage", ["Image.open", "ImageOps.exif_transpose"])
def test_whatever_a_decoder_raises_names_the_image(tmp_path, monkeypatch, error, stage):
    def broken(*_, **__):
        raise error("of the decoder")

    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    monkeypatch.setattr(f"PIL.{stage}", broken)
    with pytest.raises(ValueError, match=r"a\.png: (cannot be decoded .*of the decoder|there is too little memory)"):
        read_image(tmp_path / "a.png")


def test_pillows_warnings_name_the_image(tmp_path, monkeypatch):
    opened = Image.open

    def warning_open(*arguments, **options):
        warnings.warn("of the decoder", stacklevel=1)
        return opened(*arguments, **options)

    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    monkeypatch.setattr("PIL.Image.open", warning_open)
    with pytest.warns(UserWarning, match=r"a\.png: of the decoder"):
        read_image(tmp_path / "a.png")


def test_warnings_name_the_image_in_many_threads(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(PIXELS.repeat(20, axis=0).repeat(20, axis=1)).save(whole, "JPEG")
    paths = [tmp_path / f"{number}.jpg" for number in range(40)]
    for path in paths:
        path.write_bytes(whole.getvalue()[:-500] + whole.getvalue()[-300:])
    shown = warnings.showwarning
    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(8) as pool:
        warnings.simplefilter("always")
        assert len({image.shape for image in pool.map(read_image, paths)}) == 1
    assert warnings.showwarning is shown
    named = {str(warning.message).partition(": damaged")[0] for warning in caught}
    assert named == set(map(str, paths))


# --- EXIF


def bmp_of(gamma, red=0.64, header=108):
    """A BMP that states its colours in numbers."""
    places = (red, 0.97 - red, 0.03, 0.3, 0.6, 0.1, 0.15, 0.06, 0.79)
    numbers = [round(place * 2**30) for place in places] + [round(gamma * 2**16)] * 3
    info = struct.pack("<IiiHHIIiiII", header, 9, 6, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(16) + bytes(4)
    info = (info + struct.pack("<12I", *numbers)).ljust(header, b"\0")
    rows = b"".join(line.tobytes().ljust(28, b"\0") for line in PIXELS[::-1, :, ::-1])
    return b"BM" + struct.pack("<IHHI", 14 + header + len(rows), 0, 0, 14 + header) + info + rows


@pytest.mark.parametrize("header", [108, 124])
def test_colours_that_a_bmp_states_in_numbers_are_looked_at(tmp_path, header):
    path = tmp_path / "a.bmp"
    for gamma in (2.2, 1 / 2.2, 0):
        path.write_bytes(bmp_of(gamma, header=header))
        assert np.array_equal(read_image(path).permute(1, 2, 0), PIXELS)
    path.write_bytes(bmp_of(1.0, header=header))
    with pytest.raises(ValueError, match=r"a\.bmp: .*a gamma of 1, expected 2\.2"):
        as_image(path)
    path.write_bytes(bmp_of(2.2, red=0.73, header=header))
    with pytest.raises(ValueError, match=r"primaries of 0\.73, .*expected \(0\.64"):
        as_image(path)


def test_a_rotation_that_one_file_has_lost_is_named(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(PIXELS).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(PIXELS).save(tmp_path / "lost.jpg")
    assert exif_orientation(tmp_path / "turned.jpg") == 6
    assert exif_orientation(tmp_path / "lost.jpg") == exif_orientation(PIXELS) == exif_orientation("nowhere.png") == 1
    with pytest.raises(ValueError, match=r"reference 6x9, distorted 9x6, of which EXIF turns reference only"):
        iqa_lib.score(tmp_path / "turned.jpg", tmp_path / "lost.jpg", "psnr")
    with pytest.raises(ValueError, match=r"expected one size: crop or resize"):
        iqa_lib.score(tmp_path / "lost.jpg", PIXELS[:5], "psnr")
    assert iqa_lib.score(tmp_path / "turned.jpg", tmp_path / "turned.jpg", "mse") == 0


# --- what scores make of flat images


def test_a_changed_flat_image_is_not_closer_than_an_unchanged_one():
    flat100, flat101 = (np.full((64, 64), value, np.uint8) for value in (100, 101))
    for metric in ("ssim", "ssim-full", "uqi", "psnr", "gmsd"):
        assert iqa_lib.prefer(flat100, flat100, flat101, metric) == 0, metric

"""Every format, depth and profile that people keep images in: read right, or refused, never silently wrong.

`python tests/test_formats.py` prints the table of docs/images.md.
"""

import base64
import io
import re
import struct
import tempfile
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from iqa_lib.images import as_image

ROWS, COLUMNS = np.mgrid[:48, :64]
PIXELS = np.stack([COLUMNS * 4, ROWS * 5, COLUMNS + 3 * ROWS], 2).astype(np.uint8)
RGB = Image.fromarray(PIXELS)
GREY = PIXELS[..., 2]
GREYS = np.dstack([GREY] * 3)
DEEP = PIXELS.astype(np.uint16) * 257
PAGE = Path(__file__).parents[1] / "docs" / "images.md"

# Made with imagecodecs, since Pillow writes none of them
AVIF_10 = (
    b"AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUEAAADrbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAAAAAAAAAO"
    b"cGl0bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAETAAAAXwAAAChpaW5mAAAAAAABAAAAGmluZmUCAAAAAAEAAGF2MDFDb2xvcgAA"
    b"AABqaXBycAAAAEtpcGNvAAAAFGlzcGUAAAAAAAAAIAAAABgAAAAQcGl4aQAAAAADCgoKAAAADGF2MUOBIEAAAAAAE2NvbHJuY2x4AAIAAgAG"
    b"gAAAABdpcG1hAAAAAAAAAAEAAQQBAoMEAAAAZ21kYXQSAAoIOBE/dvAgIGkyURICQ0qAAPIAAACLNm5zWWyHhCywU5ug9Jka46lsEy6lBCIZ"
    b"T1y8aZFRhY0y+iehu8qRf/r9SgGP8IrePMOR7MqFs54f66YrgJ1uEicG2GGY6A=="
)
JPEG2000_4 = (
    b"AAAADGpQICANCocKAAAAFGZ0eXBqcDIgAAAAAGpwMiAAAAAtanAyaAAAABZpaGRyAAAAGAAAACAAAwMHAAAAAAAPY29scgEAAAAAABAAAAGh"
    b"anAyY/9P/1EALwAAAAAAIAAAABgAAAAAAAAAAAAAACAAAAAYAAAAAAAAAAAAAwMBAQMBAQMBAf9SAAwAAAABAQEEBAAB/1wAB0AgKCgw/2QA"
    b"JQABQ3JlYXRlZCBieSBPcGVuSlBFRyB2ZXJzaW9uIDIuNS40/5AACgAAAAABJgAB/5PfI3AQ4j2mLRCc6rgP4BNTCxUsPs62WM7wDa30MrQe"
    b"Cb96QUoz80CEVprmMnKkoW1yOESaU1YhRLI/3yOQWr+nvBK47oxIvFuRybCUdL37SK5Ft3yPdNWQmuDGFWL1njonZZdAL6b0XrQMt/xvMVlm"
    b"xLa+/gPv/npgX/YoQ5FjaZ1Ir3KMSzuhMvOfVlkhWNSNSmA9H2n2y6yZUclUNvOWR1seikHG2VH9JQMtn8L9wMtlrxni/1nUr1N7a7m1nz1f"
    b"Sjx0wsEcEcCqLIOLBCxhA9JuVietsmvcecFbDqkCsBQi2f8rCannM/cdIX8UMFIbqiSdxU27XCaTt+XarWqlbxP/SFYCIEICwUHAX6CoABQA"
    b"XK5zu3uj/9k="
)
JPEG_XL = b"/woYEBAJCAQBAOAASxiLFQqdO70/qcvGBeIBGPiET9wL+cS9kE/4icXJMkPba76TFQWhBDZQ2y5qfs93AvQPFiCAqFA="


def profile(**tags):
    """Pillow's sRGB profile, with the contents of some tags replaced by others that are no longer."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    places = {
        data[i : i + 4].decode(): struct.unpack_from(">I", data, i + 4)[0] for i in range(132, 132 + 12 * data[131], 12)
    }
    for tag, content in tags.items():
        data[places[tag] : places[tag] + len(content)] = content
    return bytes(data)


def parametric(*numbers):
    return b"para" + bytes(4) + struct.pack(f">HH{len(numbers)}i", 3, 0, *(round(65536 * n) for n in numbers))


SRGB = profile()
LINEAR = profile(rTRC=b"curv" + bytes(8))  # the three curves share one place, and the name stays sRGB
NEARLY = profile(rTRC=parametric(2.4, 1 / 1.0551, 0.0551 / 1.0551, 1 / 12.92, 0.0405))


def srgb_of_linear(pixels):
    share = pixels / 255
    return np.round(255 * np.where(share <= 0.0031308, 12.92 * share, 1.055 * share ** (1 / 2.4) - 0.055)).astype(int)


def grey_profile():
    """A profile of grey images with a linear curve, by hand."""
    white, curve = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061), b"curv" + bytes(8)
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"sRGB\0" + bytes(78)
    tags, body = b"", b""
    for tag, content in {b"desc": name, b"wtpt": white, b"kTRC": curve}.items():
        tags += tag + struct.pack(">2I", 168 + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s12x4s", 168 + len(body), b"", 0x02400000, b"mntr", b"GRAY", b"XYZ ", b"acsp")
    return (
        head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061) + bytes(48) + struct.pack(">I", 3) + tags + body
    )


def saved(pixels, **options):
    return lambda path: (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)


def written(data):
    return lambda path: path.write_bytes(data)


def tiff(pixels, **options):
    return lambda path: tifffile.imwrite(path, pixels, **options)


def planar(pixels):
    return tiff(np.moveaxis(pixels, 2, 0), photometric="rgb")


def png(pixels, colour, *chunks, depth=None):
    """A PNG by hand, with chunks before its pixels: `colour` is 0 (grey), 2 (RGB) or 6 (RGBA)."""
    width = len(pixels[0]) * 8 // (depth or 8)
    depth = depth or 8 * pixels.itemsize
    rows = b"".join(b"\0" + row.astype(f">u{pixels.itemsize}").tobytes() for row in pixels)
    header = struct.pack(">2I5B", width, len(pixels), depth, colour, 0, 0, 0)
    return png_of((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def png_of(*chunks):
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def encoded(kind, image=RGB, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def swapped(data, old, new, count=1):
    assert old in data
    return data.replace(old, new, count)


def flipped(data, place):
    """With one bit the other way."""
    return data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]


def bmp_with_profile(content):
    """A BMP of the fifth version, which can hold a profile behind its pixels."""
    body = PIXELS[::-1, :, ::-1].tobytes()
    head = struct.pack("<IiiHHIIiiII", 124, 64, 48, 1, 24, 0, len(body), 0, 0, 0, 0) + bytes(16) + b"DEBM" + bytes(48)
    head += struct.pack("<4I", 4, 124 + len(body), len(content), 0)
    return b"BM" + struct.pack("<IHHI", 138 + len(body) + len(content), 0, 0, 138) + head + body + content


def with_directory(data):
    """A TIFF with a second directory that says nothing of an image."""
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    link = start + 2 + 12 * entries
    return data[:link] + struct.pack("<I", len(data)) + data[link + 4 :] + struct.pack("<HHHIII", 1, 254, 4, 1, 0, 0)


def jp2_with_profile(content):
    data = encoded("JPEG2000", irreversible=False)
    old = b"\0\0\0\x0fcolr\1\0\0\0\0\0\x10"
    new = struct.pack(">I", 11 + len(content)) + b"colr\2\0\0" + content
    start = data.index(b"jp2h") - 4
    (size,) = struct.unpack_from(">I", data, start)
    data = data[:start] + struct.pack(">I", size + len(new) - len(old)) + data[start + 4 :]
    return swapped(data, old, new)


def exif(orientation):
    found = Image.Exif()
    found[0x0112] = orientation
    return found


JPEG = encoded("JPEG", quality=95)
PNG = encoded("PNG")
AVIF = encoded("AVIF", quality=100, subsampling="4:4:4", speed=10)
DEFLATED = encoded("TIFF", compression="tiff_deflate")
FROM_LINEAR = srgb_of_linear(PIXELS)
TURNED = Image.fromarray(np.rot90(PIXELS))
OPAQUE, GLASS = (np.dstack([PIXELS, np.full(GREY.shape, alpha, np.uint8)]) for alpha in (255, 128))
BITS = np.where(GREY > 127, 255, 0).astype(np.uint8)
FOUR = np.dstack([GREY // 16 * 17] * 3)
PALETTE = RGB.quantize(16)
NOT_8 = "expected 8-bit"

CASES = {
    # name: (what it is, how it is written, the right pixels and the deviation allowed, or what the refusal says)
    "rgb.png": ("PNG, 8 bits", saved(RGB), PIXELS),
    "grey.png": ("PNG, 8 bits, grey", saved(GREY), GREYS),
    "bit.png": ("PNG, 1 bit", saved(GREY > 127), np.dstack([BITS] * 3)),
    "four.png": ("PNG, 4 bits, grey", written(png(GREY[:, ::2] // 16 * 16 + GREY[:, 1::2] // 16, 0, depth=4)), FOUR),
    "palette.png": ("PNG, palette", saved(PALETTE), np.asarray(PALETTE.convert("RGB"))),
    "opaque.png": ("PNG, 8 bits, opaque alpha", saved(OPAQUE), PIXELS),
    "glass.png": ("PNG, 8 bits, half transparent", saved(GLASS), "partly transparent"),
    "deep.png": ("PNG, 16 bits", written(png(DEEP, 2)), NOT_8),
    "deep_grey.png": ("PNG, 16 bits, grey", written(png(DEEP[..., 2], 0)), NOT_8),
    "deep_alpha.png": ("PNG, 16 bits, opaque alpha", written(png(OPAQUE.astype(np.uint16) * 257, 6)), NOT_8),
    "srgb.png": ("PNG, sRGB profile", saved(RGB, icc_profile=SRGB), PIXELS),
    "nearly.png": ("PNG, sRGB profile, curve rounded otherwise", saved(RGB, icc_profile=NEARLY), PIXELS),
    "linear.png": ("PNG, linear profile with sRGB in its name", saved(RGB, icc_profile=LINEAR), (FROM_LINEAR, 1)),
    "grey_linear.png": (
        "PNG, grey, linear grey profile",
        saved(GREY, icc_profile=grey_profile()),
        (srgb_of_linear(GREYS), 1),
    ),
    "grey_rgb.png": ("PNG, grey, linear RGB profile", saved(GREY, icc_profile=LINEAR), (srgb_of_linear(GREYS), 1)),
    "rgb_grey.png": ("PNG, RGB, grey profile", saved(RGB, icc_profile=grey_profile()), "ICC profile cannot be used"),
    "nonsense.png": ("PNG, profile is none", saved(RGB, icc_profile=b"nonsense"), "ICC profile cannot be used"),
    "gamma.png": (
        "PNG, gAMA of a linear image",
        written(png(PIXELS, 2, (b"gAMA", struct.pack(">I", 100000)))),
        "convert it to sRGB",
    ),
    "gamma22.png": ("PNG, gAMA of sRGB", written(png(PIXELS, 2, (b"gAMA", struct.pack(">I", 45455)))), PIXELS),
    "p3.png": (
        "PNG, cHRM of Display P3",
        written(png(PIXELS, 2, (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)))),
        "convert it to sRGB",
    ),
    "pq.png": ("PNG, cICP of HDR", written(png(PIXELS, 2, (b"cICP", bytes([9, 16, 0, 1])))), "convert it to sRGB"),
    "animated.png": (
        "PNG, animated",
        saved(RGB, save_all=True, append_images=[TURNED.rotate(90, expand=True).rotate(180)]),
        "holds 2 images",
    ),
    "turned.png": ("PNG, turned by EXIF", saved(TURNED, exif=exif(6)), PIXELS),
    "flipped.png": ("PNG, one bit flipped", written(flipped(PNG, len(PNG) // 2)), "checksum"),
    "late.png": ("PNG, its last checksum wrong", written(flipped(PNG, len(PNG) - 14)), "checksum"),
    "cut.png": ("PNG, cut off", written(PNG[: len(PNG) // 2]), "cannot be decoded"),
    "rgb.jpg": ("JPEG", written(JPEG), (PIXELS, 12)),
    "progressive.jpg": ("JPEG, progressive", saved(RGB, quality=95, progressive=True), (PIXELS, 12)),
    "grey.jpg": ("JPEG, grey", saved(GREY, quality=95), (GREYS, 6)),
    "grey_rgb.jpg": ("JPEG, grey, sRGB profile", saved(GREY, quality=95, icc_profile=SRGB), (GREYS, 6)),
    "linear.jpg": (
        "JPEG, linear profile with sRGB in its name",
        saved(RGB, quality=100, icc_profile=LINEAR),
        (FROM_LINEAR, 60),
    ),
    "turned.jpg": ("JPEG, turned by EXIF", saved(TURNED, quality=95, exif=exif(6)), (PIXELS, 12)),
    "phone.jpg": (
        "JPEG, a second image behind (MPO)",
        saved(RGB, format="MPO", save_all=True, append_images=[RGB], quality=95),
        (PIXELS, 12),
    ),
    "print.jpg": ("JPEG, CMYK", saved(RGB.convert("CMYK")), NOT_8),
    "twelve.jpg": (
        "JPEG, 12 bits",
        written(JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c")),
        "cannot be decoded",
    ),
    "cut.jpg": ("JPEG, cut off", written(JPEG[: len(JPEG) // 2]), "cannot be decoded"),
    "damaged.jpg": ("JPEG, damaged, libjpeg reads on", written(JPEG[:-200] + JPEG[-150:]), "warning: damaged"),
    "rgb.tif": ("TIFF, 8 bits", saved(RGB), PIXELS),
    "planar.tif": ("TIFF, 8 bits, planar", planar(PIXELS), PIXELS),
    "four.tif": (
        "TIFF, 8 bits, a fourth channel of no meaning",
        tiff(OPAQUE, photometric="rgb", extrasamples=["unspecified"]),
        PIXELS,
    ),
    "glass.tif": ("TIFF, 8 bits, half transparent", saved(GLASS), "partly transparent"),
    "lzw.tif": ("TIFF, LZW", saved(RGB, compression="tiff_lzw"), PIXELS),
    "deflate.tif": ("TIFF, deflate", written(DEFLATED), PIXELS),
    "flipped.tif": (
        "TIFF, deflate, its last checksum wrong",
        written(flipped(DEFLATED, DEFLATED.index(b"x", 8) + 9)),
        "cannot be decoded",
    ),
    "big.tif": ("BigTIFF, 8 bits", tiff(PIXELS, photometric="rgb", bigtiff=True), PIXELS),
    "white.tif": ("TIFF, grey, white is zero", tiff(255 - GREY, photometric="miniswhite"), GREYS),
    "deep.tif": ("TIFF, 16 bits", tiff(DEEP, photometric="rgb"), NOT_8),
    "deep_planar.tif": ("TIFF, 16 bits, planar", planar(DEEP), NOT_8),
    "deep_grey.tif": ("TIFF, 16 bits, grey", tiff(DEEP[..., 2]), NOT_8),
    "signed.tif": ("TIFF, 8 bits, signed", tiff(GREY.astype(np.int8)), NOT_8),
    "float.tif": (
        "TIFF, 32-bit float, grey",
        tiff(GREY.astype(np.float32) / 255),
        "32-bit float samples.*expected 8-bit",
    ),
    "float_rgb.tif": (
        "TIFF, 32-bit float",
        tiff(PIXELS.astype(np.float32) / 255, photometric="rgb"),
        "32-bit float samples.*8-bit",
    ),
    "half.tif": (
        "TIFF, 16-bit float",
        tiff(PIXELS.astype(np.float16) / 255, photometric="rgb"),
        "16-bit float samples.*8-bit",
    ),
    "lab.tif": ("TIFF, CIELAB", saved(Image.new("LAB", (64, 48))), NOT_8),
    "linear.tif": ("TIFF, linear profile with sRGB in its name", saved(RGB, icc_profile=LINEAR), (FROM_LINEAR, 1)),
    "pages.tif": ("TIFF, two pages", saved(RGB, save_all=True, append_images=[RGB]), "holds 2 images"),
    "preview.tif": (
        "TIFF, a camera's raw file, preview first",
        tiff(PIXELS, photometric="rgb", subfiletype=1),
        "preview",
    ),
    "turned.tif": (
        "TIFF, turned by its tag",
        tiff(np.rot90(PIXELS), photometric="rgb", extratags=[(274, "H", 1, 6, True)]),
        PIXELS,
    ),
    "directory.tif": (
        "TIFF, a second directory without dimensions",
        written(with_directory(encoded("TIFF"))),
        "cannot be decoded",
    ),
    "rgb.ppm": ("PPM, 8 bits", written(b"P6 64 48 255\n" + PIXELS.tobytes()), PIXELS),
    "dim.ppm": (
        "PPM, maxval 100",
        written(b"P6\n# note\n64 48\n100\n" + (PIXELS // 3).tobytes()),
        (np.round(PIXELS // 3 * 2.55), 1),
    ),
    "deep.ppm": ("PPM, 16 bits", written(b"P6 64 48 65535\n" + DEEP.astype(">u2").tobytes()), NOT_8),
    "ten.ppm": ("PPM, maxval 1023", written(b"P6 64 48 1023\n" + (4 * PIXELS.astype(">u2")).tobytes()), NOT_8),
    "deep.pgm": ("PGM, 16 bits", written(b"P5 64 48 65535\n" + DEEP[..., 2].astype(">u2").tobytes()), NOT_8),
    "plain.ppm": (
        "PPM, as text, 16 bits",
        written(b"P3 64 48 65535\n" + b" ".join(b"%d" % v for v in DEEP.flat)),
        NOT_8,
    ),
    "float.pfm": ("PFM, float", written(b"Pf 64 48 -1\n" + GREY.astype("<f4").tobytes()), "expected 8-bit"),
    "rgb.sgi": ("SGI, 8 bits", saved(RGB), PIXELS),
    "deep.sgi": ("SGI, 16 bits", saved(RGB, bpc=2), NOT_8),
    "rgb.bmp": ("BMP, 24 bits", saved(RGB), PIXELS),
    "linear.bmp": ("BMP, linear profile", written(bmp_with_profile(LINEAR)), (FROM_LINEAR, 1)),
    "still.gif": ("GIF, one image", saved(PALETTE), np.asarray(PALETTE.convert("RGB"))),
    "animated.gif": ("GIF, animated", saved(RGB, save_all=True, append_images=[RGB.rotate(180)]), "holds 2 images"),
    "rgb.webp": ("WebP, lossless", saved(RGB, lossless=True), PIXELS),
    "lossy.webp": ("WebP, lossy", saved(RGB, quality=95), (PIXELS, 20)),
    "linear.webp": ("WebP, linear profile", saved(RGB, lossless=True, icc_profile=LINEAR), (FROM_LINEAR, 1)),
    "animated.webp": ("WebP, animated", saved(RGB, save_all=True, append_images=[RGB.rotate(180)]), "holds 2 images"),
    "rgb.avif": ("AVIF, 8 bits", written(AVIF), (PIXELS, 4)),
    "ten.avif": ("AVIF, 10 bits", written(base64.b64decode(AVIF_10)), NOT_8),
    "pq.avif": (
        "AVIF, colours of HDR",
        written(re.sub(b"nclx.{4}", b"nclx\0\x09\0\x10", AVIF, flags=re.S)),
        "convert it to sRGB",
    ),
    "linear.avif": (
        "AVIF, linear profile",
        saved(RGB, quality=100, subsampling="4:4:4", speed=10, icc_profile=LINEAR),
        (FROM_LINEAR, 60),
    ),
    "turned.avif": (
        "AVIF, turned",
        saved(TURNED, quality=100, subsampling="4:4:4", speed=10, exif=exif(6)),
        (PIXELS, 4),
    ),
    "cut.avif": ("AVIF, cut off", written(AVIF[: len(AVIF) // 2]), "cannot be decoded"),
    "rgb.jp2": ("JPEG 2000, 8 bits", saved(RGB, irreversible=False), PIXELS),
    "rgb.j2k": ("JPEG 2000, without a container", saved(RGB, irreversible=False), PIXELS),
    "deep.jp2": ("JPEG 2000, 16 bits, grey", saved(Image.fromarray(DEEP[..., 2])), NOT_8),
    "four.jp2": ("JPEG 2000, 4 bits", written(base64.b64decode(JPEG2000_4)), NOT_8),
    "linear.jp2": ("JPEG 2000, linear profile", written(jp2_with_profile(LINEAR)), (FROM_LINEAR, 1)),
    "rgb.qoi": ("QOI", saved(RGB), PIXELS),
    "rgb.tga": ("TGA, 24 bits", saved(RGB), PIXELS),
    "rgb.dds": ("DDS", saved(RGB), "format that is not read"),
    "photo.blp": ("BLP, of a kind without decoder", written(b"BLP1" + bytes(200)), "format that is not read"),
    "icon.ico": ("ICO", saved(RGB), "format that is not read"),
    "photo.heic": ("HEIC", written(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)), "HEIC photograph.*save it as"),
    "photo.jxl": ("JPEG XL", written(base64.b64decode(JPEG_XL)), "JPEG XL image.*save it as"),
    "film.mp4": ("video", written(b"\0\0\0\x18ftypisom" + bytes(100)), "a video.*save its frames"),
    "pairs.csv": ("CSV", written(b"reference,distorted\na.png,b.png\n"), "a text, such as a CSV.*given alone"),
    "page.png": ("web page", written(b"<!DOCTYPE html><html>404</html>"), "web page.*download the image itself"),
    "pointer.png": ("Git LFS pointer", written(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "array.npy": ("NumPy array", lambda path: np.save(path, PIXELS), "NumPy array.*give the array"),
    "empty.png": ("empty file", written(b""), "empty file"),
    "noise.png": ("random bytes", written(np.random.default_rng(0).bytes(500)), "cannot be decoded"),
    "folder.png": ("folder", lambda path: path.mkdir(), "folder"),
}


def here(path):
    """What this package makes of a file: its pixels, or its refusal, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            pixels = as_image(path).permute(1, 2, 0).numpy().astype(int)
        except ValueError as error:
            pixels = str(error)
    return pixels, [str(warning.message) for warning in caught]


def in_pillow(path, expected):
    """What Pillow gives to whom asks for RGB, in words."""
    try:
        with Image.open(path) as image:
            mode, pixels = image.mode, np.asarray(image.convert("RGB")).astype(int)
    except Exception as error:
        return type(error).__name__
    rights = [PIXELS, GREYS, Image.new("LAB", (64, 48)).convert("RGB")] if isinstance(expected, str) else [expected]
    allowed = 12
    if isinstance(expected, tuple):
        rights, allowed = expected[:1], expected[1]
    same = any(pixels.shape == np.shape(r) and np.abs(pixels - r).max() <= allowed for r in map(np.asarray, rights))
    return f"{mode}, {'alike' if same else '**other pixels**'}"


def table(folder):
    """The cases as a table in Markdown."""
    yield "| image | Pillow, asked for RGB | `iqa_lib` |"
    yield "|---|---|---|"
    for name, (what, write, expected) in CASES.items():
        write(folder / name)
        says = "read"
        if isinstance(expected, str):
            says = (
                expected.replace(".*", " ... ")
                if expected.startswith("warning")
                else "refused: " + expected.replace(".*", " ... ")
            )
        yield f"| {what} | {in_pillow(folder / name, expected)} | {says} |"


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_read_right_or_refused(tmp_path, name):
    _, write, expected = CASES[name]
    write(tmp_path / name)
    pixels, warned = here(tmp_path / name)
    if isinstance(expected, str) and not expected.startswith("warning: "):
        assert isinstance(pixels, str), "read"
        assert re.search(expected, pixels, re.S)
        assert name in pixels
        return
    right, allowed = expected if isinstance(expected, tuple) else (expected, 0)
    assert not isinstance(pixels, str), pixels
    if isinstance(expected, str):
        assert len(warned) == 1
        assert re.search(f"{name}: {expected.removeprefix('warning: ')}", warned[0])
        return
    assert not warned
    assert pixels.shape == np.shape(right)
    assert np.abs(pixels - right).max() <= allowed


def test_the_page_shows_these_cases(tmp_path):
    assert len(CASES) >= 40
    assert list(table(tmp_path)) == [line for line in PAGE.read_text().splitlines() if line.startswith("|")]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(*table(Path(folder)), sep="\n")

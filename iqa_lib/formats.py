"""What an image file says of itself: its kind, bits a channel, checksums and colours, read from its own bytes.

Pillow decodes; but it cuts deeper channels to 8 bits, passes over checksums and some colour statements, and drops
libjpeg's warnings. Whatever is asked here of a damaged file may raise any exception, which the caller names.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

import simplejpeg
from PIL import Image, TiffImagePlugin

KINDS = ["PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000", "QOI", "SGI", "TGA"]
"""Pillow's names of the formats that are read: those whose depth is known."""

NEVER_DEEPER = {"JPEG", "MPO", "GIF", "BMP", "WEBP", "QOI", "TGA"}
"""Formats with at most 8 bits a channel, or of which Pillow refuses deeper files. MPO: a phone's JPEG with extras."""

_EXPORT = "save it as an 8-bit PNG, with the program that made it, for example"
_SIGNATURES = {
    rb"$": ("an empty file", "download or copy the file again"),
    rb".{4}ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)": ("a HEIC photograph", _EXPORT),
    rb"\xff\x0a|\0\0\0\x0cJXL ": ("a JPEG XL image", _EXPORT),
    rb".{4}ftypcrx|FUJIFILMCCD-RAW": ("a camera's raw file", _EXPORT),
    rb".{4}ftyp|RIFF.{4}AVI |\x1aE\xdf\xa3|\0\0\x01[\xb3\xba]": ("a video", "save its frames as PNG files"),
    rb"v/1\x01|#\?RADIANCE|P[fF]\s": ("an HDR image of floats", "tone-map it, and save it as an 8-bit PNG"),
    rb"8BPS|\0\0[\x01\x02]\0|icns|DDS |BLP|%!PS|SIMPLE  =": ("an image of a format that is not read here", _EXPORT),
    rb"%PDF": ("a PDF document", "export its image as PNG"),
    rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!": ("an archive or a document", "unpack it, and give an image file"),
    rb"\x93NUMPY": ("a NumPy array", "load it with numpy.load, and give the array"),
    rb"\x89HDF": ("an HDF5 file", "load its array, and give the array"),
    rb"version https://git-lfs": ("a Git LFS pointer, not the image", "fetch the image by `git lfs pull`"),
    rb"\s*(<\?xml.*)?<svg": ("an SVG drawing", "export it as PNG"),
    rb"\s*<": ("a web page or XML text", "download the image itself"),
    rb"[\t\n\r -~\x80-\xff]*$": ("a text, such as a CSV", "a CSV of pairs is given alone, in place of the images"),
}


class Unsuited(ValueError):
    """Says what a file is that is not damaged, but would be misread, and what to do."""


def open_image(data: bytes) -> Image.Image:
    """Pillow's image, not yet decoded, of one of `KINDS`; Unsuited says what else it is."""
    kinds = KINDS if data.endswith(b"TRUEVISION-XFILE.\0") else KINDS[:-1]  # without it, TGA fits too many files
    try:
        return Image.open(BytesIO(data), formats=kinds)
    except Image.UnidentifiedImageError:
        raise Unsuited(f"cannot be decoded, got {_what_else(data)}") from None


def _what_else(data: bytes) -> str:
    if data.startswith(tuple(TiffImagePlugin.PREFIXES)):
        found = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        stream = BytesIO(data)
        stream.seek(found.next)
        found.load(stream)
        return f"a TIFF that is not read here ({samples(found)}), expected 8-bit RGB or grey: {_EXPORT}"
    for pattern, (what, todo) in _SIGNATURES.items():
        if re.match(pattern, data[:1024], re.S):
            return f"{what}, expected an image ({', '.join(KINDS)}): {todo}"
    return (
        f"no image of a format that is read here ({', '.join(KINDS)}), or a damaged one: copy it again, or convert it"
    )


def samples(tags: TiffImagePlugin.ImageFileDirectory_v2) -> str:
    """What the samples of a TIFF are, such as "32-bit float, RGB"."""
    kinds = {1: "unsigned", 2: "signed", 3: "float"}
    found = {kinds.get(kind, "of no stated type") for kind in _values(tags, 339, 1)}
    return f"{max(_values(tags, 258, 1))}-bit {' and '.join(sorted(found))} samples"


def _values(tags: TiffImagePlugin.ImageFileDirectory_v2, number: int, default: int) -> tuple:
    found = tags.get(number, default)
    return found if isinstance(found, tuple) else (found,)


def bits(image: Image.Image, data: bytes) -> int | None:
    """Bits a channel that the file states; None if it states none."""
    match image.format:
        case "PNG":
            return data[24]
        case "TIFF":
            return max(_values(image.tag_v2, 258, 1))
        case "PPM":
            gap = rb"(?:\s|#[^\r\n]*[\r\n])+"
            found = re.match(rb"P[14]\s|P[2356]" + 3 * (gap + rb"(\d+)"), data)
            return found and int(found[3] or 1).bit_length()
        case "SGI":
            return 8 * data[3]
        case "JPEG2000":
            size = data.index(b"\xff\x4f\xff\x51") + 40  # of the codestream: 3 bytes a component from there
            return max(1 + (data[size + 2 + 3 * i] & 127) for i in range(*struct.unpack_from(">H", data, size)))
        case "AVIF":
            return max((8 + (c[2] >> 6 & 1) * (2 + (c[2] >> 4 & 2)) for c in _properties(data, b"av1C")), default=None)
    return 8 if image.format in NEVER_DEEPER else None


def check_content(image: Image.Image, data: bytes) -> None:
    """ValueError if a checksum that the file carries is wrong; Unsuited if Pillow would show what it does not mean."""
    if image.format == "PNG":
        _chunks(data)
    if image.format == "AVIF" and any(_properties(data, b"clap")):
        raise Unsuited("got an AVIF to be cropped by its clean aperture, which is not followed: crop it first")
    if image.format == "TIFF":
        tags = image.tag_v2
        if set(_values(tags, 339, 1)) != {1}:
            raise Unsuited(f"got {samples(tags)}, expected 8-bit unsigned ones: {_EXPORT}")
        if tags.get(254, 0) & 1 or 50706 in tags:
            raise Unsuited("got a preview, with which a camera's raw file begins, expected the image: develop it first")
        if tags.get(259) in (8, 32946):
            _check_deflated(image, data)


def _check_deflated(image: Image.Image, data: bytes) -> None:
    """Inflate all strips or tiles of a TIFF, so that zlib compares its checksums."""
    tiled = 324 in image.tag_v2
    starts, sizes = (_values(image.tag_v2, number + 51 * tiled, 0) for number in (273, 279 - 5 * tiled))
    for start, size in zip(starts, sizes, strict=True):
        inflate = zlib.decompressobj()
        inflate.decompress(data[start : start + size], 64_000_000 + 8 * image.width * image.height)
        if not inflate.eof:
            raise ValueError("its compressed data end early")


def warning(image: Image.Image, data: bytes) -> str:
    """What the decoder complains of in a file that it reads to the end all the same: libjpeg's words, or nothing."""
    if image.format not in ("JPEG", "MPO"):
        return ""
    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError as error:
        return str(error)
    return ""


def profile(image: Image.Image, data: bytes) -> bytes | None:
    """The file's ICC profile, if it has one.

    ValueError if it states other colours than sRGB in another way: PNG's cICP, gAMA and cHRM, AVIF's nclx, numbers of
    JPEG 2000 and BMP. What cameras write into EXIF only (Adobe RGB), TIFF's own colour tags, and QOI's byte, which
    Pillow sets to linear for any image, are not looked at.
    """
    match image.format:
        case "PNG":
            chunks = _chunks(data)
            if b"cICP" in chunks:
                _check_code_points(*chunks[b"cICP"][:2])
            elif not {b"iCCP", b"sRGB"} & chunks.keys():
                _check_curve_and_primaries(image.info)
        case "AVIF":
            colours = [colr for colr in _properties(data, b"colr") if colr.startswith(b"nclx")]
            for colr in colours if "icc_profile" not in image.info else ():
                _check_code_points(*struct.unpack_from(">2H", colr, 4))
        case "JPEG2000":
            for colr in _inside(data, b"jp2h", b"colr"):
                if colr[0] != 1:
                    return colr[3:]
                if (number := int.from_bytes(colr[3:7], "big")) not in (16, 17, 18):
                    raise ValueError(f"colours of number {number}, expected 16 to 18 (sRGB, grey, sYCC)")
        case "BMP" if struct.unpack_from("<I", data, 14)[0] in (108, 124) and data[70:74] == bytes(4):
            _check_calibrated(*struct.unpack_from("<12I", data, 74))
        case "BMP" if data[14:18] == struct.pack("<I", 124) and data[70:74] in (b"DEBM", b"KNIL"):
            start, size = struct.unpack_from("<2I", data, 126)
            return data[14 + start : 14 + start + size]
    return image.info.get("icc_profile")


def _check_code_points(primaries: int, transfer: int) -> None:
    """Of ITU-T H.273: those of sRGB, of ordinary video, which is shown alike, and 2, not stated."""
    if primaries not in (1, 2) or transfer not in (1, 2, 6, 13, 14, 15):
        raise ValueError(f"colours of primaries {primaries} and transfer {transfer}, as HDR and wide gamut have them")


def _check_curve_and_primaries(info: dict) -> None:
    srgb = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
    if abs(info.get("gamma", 0.45455) - 0.45455) > 0.01:
        raise ValueError(f"a gamma of {info['gamma']:g} (gAMA), expected 0.45455")
    if any(abs(a - b) > 0.01 for a, b in zip(info.get("chromaticity", srgb), srgb, strict=True)):
        raise ValueError(f"primaries of {info['chromaticity']} (cHRM), expected {srgb}")


def _check_calibrated(*numbers: int) -> None:
    """Of a BMP: where red, green and blue lie, and three gammas, which some write upside down; 0 is not stated."""
    places, gammas = [number / 2**30 for number in numbers[:9]], [number / 2**16 for number in numbers[9:]]
    srgb = (0.64, 0.33, 0.03, 0.3, 0.6, 0.1, 0.15, 0.06, 0.79)
    if any(places) and any(abs(a - b) > 0.01 for a, b in zip(places, srgb, strict=True)):
        raise ValueError(f"primaries of {', '.join(f'{place:.3g}' for place in places)}, expected {srgb}")
    if other := [gamma for gamma in gammas if gamma and min(abs(gamma - 2.2), abs(gamma - 1 / 2.2)) > 0.05]:
        raise ValueError(f"a gamma of {other[0]:g}, expected 2.2")


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """The chunks of a PNG, the first of each kind; ValueError at a wrong checksum."""
    position, kind, chunks = 8, b"", {}
    while kind != b"IEND":
        size, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + size
        if zlib.crc32(memoryview(data)[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise ValueError(f"the checksum of its chunk {kind.decode('latin-1')} is wrong")
        chunks.setdefault(kind, data[position + 8 : end])
        position = end + 4
    return chunks


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each box of an ISO base media file."""
    position = 0
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        head = 8
        if size == 1:
            head, size = 16, *struct.unpack_from(">Q", data, position + 8)
        size = size or len(data) - position
        if size < head:
            raise ValueError(f"its box {kind.decode('latin-1')} is of {size} bytes")
        yield kind, data[position + head : position + size]
        position += size


def _inside(data: bytes, *path: bytes) -> Iterator[bytes]:
    """The contents of all boxes at a path."""
    for kind, content in _boxes(data):
        if kind == path[0]:
            yield from _inside(content[4 * (kind == b"meta") :], *path[1:]) if path[1:] else [content]


def _properties(data: bytes, kind: bytes) -> Iterator[bytes]:
    return _inside(data, b"meta", b"iprp", b"ipco", kind)

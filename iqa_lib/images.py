"""Images in and out of files, and the one check that every model makes of its input."""

import contextlib
import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from iqa_lib import formats
from iqa_lib.files import atomic, cache_dir, file_key

TRANSPARENT = "partly transparent, expected opaque RGB: lay it over a background first"


def read_image(path: Path | str, *, srgb: bool = False, max_pixels: int | None = None) -> Tensor:
    """Decode an image file, upright according to its EXIF orientation, to uint8 RGB `(3, H, W)`.

    `srgb` converts colours with another ICC profile to sRGB; otherwise the numbers stay as stored. More than
    `max_pixels` are refused before they are decoded. docs/images.md lists formats, depths and profiles.

    FileNotFoundError if there is no such file; ValueError if it is damaged, too large, no image, several, not known to
    be 8-bit or partly transparent. A warning that names the file tells what its decoder complains of, and reads anyway.
    """
    name = str(path)
    if not Path(path).exists():
        where = " (a link to a file that is not there)" if Path(path).is_symlink() else ""
        raise FileNotFoundError(f"{name}: there is no such file{where}: check the path")
    if not Path(path).is_file():
        raise ValueError(f"{name}: got a folder or a device, expected an image file: check the path")
    with decoding(name):
        data = Path(path).read_bytes()
    with open_image(data, name) as image:
        return _decoded(image, data, name, srgb, max_pixels)


def open_image(data: bytes, name: str) -> Image.Image:
    """The PIL image of a file's bytes, not yet decoded; ValueError says what else it is if it is none."""
    with decoding(name), _warnings_named(name):
        return formats.open_image(data)


def from_pil(image: Image.Image, name: str, *, srgb: bool = False, max_pixels: int | None = None) -> Tensor:
    """As `read_image`, from a PIL image that errors call `name`.

    If it is of a file and already decoded, so that Pillow has cut it to 8 bits, its file is looked at again.
    """
    if not image.format:
        return _decoded(image, None, name, srgb, max_pixels)
    with decoding(name):
        if image.tile and image.fp:
            image.fp.seek(0)
            data = image.fp.read()
        else:
            data = Path(image.filename).read_bytes() if getattr(image, "filename", "") else None
    if not data and image.format not in formats.NEVER_DEEPER:
        raise ValueError(
            f"{name}: got an image decoded from a {image.format}, whose bits a channel can no longer be told: give the "
            "file, or image.copy() if they are 8"
        )
    return _decoded(image, data, name, srgb, max_pixels)


def _decoded(image: Image.Image, data: bytes | None, name: str, srgb: bool, max_pixels: int | None) -> Tensor:
    """The pixels of a PIL image; `data` is the whole file that it comes from, if it does."""
    if not all(image.size):
        raise ValueError(f"{name}: got {image.width}x{image.height} pixels, expected at least 1x1: give another image")
    _check_size(*image.size, max_pixels, name)
    if image.format not in (None, "MPO", *formats.KINDS):
        kinds = ", ".join(formats.KINDS)
        raise ValueError(f"{name}: got the format {image.format}, expected one of {kinds}: save it as PNG first")
    with decoding(name), _warnings_named(name):
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # a phone's JPEG with extras behind it
        bits = formats.bits(image, data) if data else 8
    if frames > 1:
        raise ValueError(f"{name}: holds {frames} images, expected one: save the intended one to a file of its own")
    _check_depth(image, bits, name)
    with decoding(name):
        if data:
            formats.check_content(image, data)
        complaint = formats.warning(image, data) if data else ""
        upright = ImageOps.exif_transpose(image)
        upright.load()
    if upright.has_transparency_data and upright.convert("RGBA").getextrema()[3][0] < 255:
        raise ValueError(f"{name}: {TRANSPARENT}")
    if complaint:
        warnings.warn(f"{name}: damaged, some of its pixels may be wrong ({complaint}): copy it again", stacklevel=3)
    pixels = np.array(_to_srgb(upright, _profile(image, data, name), name) if srgb else upright.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()  # (3, H, W)


def _check_depth(image: Image.Image, bits: int | None, name: str) -> None:
    """ValueError unless Pillow gives the file's values: it cuts deeper ones, and does not scale shallow JPEG 2000."""
    got = ""
    if image.mode not in ("RGB", "L", "P", "RGBA", "LA", "1"):
        got = f"mode {image.mode}"
    elif not bits or bits > 8 or (image.format == "JPEG2000" and bits < 8):
        got = f"{bits or 'an unknown number of'} bits a channel"
    if got and image.format == "TIFF":
        got = f"{formats.samples(image.tag_v2)} in {got}" if "mode" in got else formats.samples(image.tag_v2)
    if got:
        raise ValueError(f"{name}: got {got}, expected 8-bit RGB or grey: convert the file first")


def exif_orientation(image: object) -> int:
    """The EXIF orientation of a file or a PIL image, 1 (upright) to 8; 1 for whatever else."""
    with contextlib.suppress(Exception):
        opened = image if isinstance(image, Image.Image) else Image.open(image)
        return opened.getexif().get(0x0112, 1)
    return 1


def as_image(
    image: str | os.PathLike | Image.Image | np.ndarray | Tensor,
    name: str = "the image",
    max_pixels: int | None = None,
) -> Tensor:
    """One image in any form, as RGB `(3, H, W)`: uint8 if given in 8 bits, else float32 in [0, 1].

    It may be a file (ICC profiles are followed), a PIL image, an array `(H, W, 3)` or grey `(H, W)`, or a tensor
    `(3, H, W)`, `(1, 3, H, W)` or grey `(1, H, W)`; arrays and tensors uint8, or float in [0, 1]. More than
    `max_pixels` are refused, a file's before it is decoded. `name` is for errors: FileNotFoundError if there is no such
    file, ValueError for an image that cannot be used, with what to do.
    """
    if isinstance(image, str | os.PathLike):
        return _read_named(image, name, max_pixels)
    if isinstance(image, Image.Image):
        return from_pil(image, name, srgb=True, max_pixels=max_pixels)
    if isinstance(image, np.ndarray | Tensor):
        tensor = (_from_array if isinstance(image, np.ndarray) else _from_tensor)(image, name)
        _check_size(*tensor.shape[:0:-1], max_pixels, name)
        return tensor
    expected = "a file's path, a PIL image, an array (H, W, 3) or a tensor (3, H, W)"
    raise ValueError(f"{name}: got {type(image).__name__}, expected {expected}: convert it first")


def _check_size(width: int, height: int, max_pixels: int | None, name: str) -> None:
    if max_pixels and width * height > max_pixels:
        got, most = (f"{pixels / 1e6:.1f} Mpx" for pixels in (width * height, max_pixels))
        todo = "which bounds memory: crop or downscale all images alike"
        raise ValueError(f"{name}: got {width}x{height}, {got}, expected at most {most}, {todo}")


def _read_named(path: str | os.PathLike, name: str, max_pixels: int | None) -> Tensor:
    if re.match(r"[a-z]+://", str(path)):
        raise ValueError(f"{name}: got the address {path}, expected a file: download it first")
    if Path(path).is_dir():
        raise ValueError(f"{name}: got the folder {path}, expected a file: folders are for `python -m iqa_lib.score`")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{name}: there is no file {path} (looked from {Path.cwd()}): check the path")
    return read_image(path, srgb=True, max_pixels=max_pixels)


def _from_array(array: np.ndarray, name: str) -> Tensor:
    if np.ma.is_masked(array):
        raise ValueError(f"{name}: got an array with masked pixels, expected all of them: fill them first")
    shape = array.shape
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        channels_first = array.ndim == 3 and shape[0] in (1, 3, 4)
        todo = "put the channels last, array.transpose(1, 2, 0)" if channels_first else "give one image at a time"
        raise ValueError(f"{name}: got an array of shape {shape}, expected (H, W, 3), or (H, W) for grey: {todo}")
    if array.dtype.kind not in "f" and array.dtype != np.uint8:
        raise ValueError(_wrong_type(name, f"an array of {array.dtype}", "array.astype('uint8')"))
    tensor = torch.from_numpy(np.array(array, np.uint8 if array.dtype == np.uint8 else np.float32, order="C", ndmin=3))
    return _from_tensor(tensor if array.ndim == 2 else tensor.permute(2, 0, 1), name)


def _wrong_type(name: str, got: str, conversion: str) -> str:
    todo = f"{conversion} if its values are 0 to 255, else divide by the value of white"
    return f"{name}: got {got}, expected uint8, or float in [0, 1]: {todo}"


def _from_tensor(tensor: Tensor, name: str) -> Tensor:
    shape = tuple(tensor.shape)
    image = tensor.detach()[0] if tensor.ndim == 4 and shape[0] == 1 else tensor.detach()
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        channels_last = image.ndim == 3 and shape[-1] in (1, 3, 4)
        todo = "put the channels first, tensor.permute(2, 0, 1)" if channels_last else "give one image at a time"
        raise ValueError(f"{name}: got a tensor of shape {shape}, expected (3, H, W), or (1, H, W) for grey: {todo}")
    if 0 in image.shape:
        raise ValueError(f"{name}: got shape {shape}, which holds no pixel, expected at least 1x1: give another image")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise ValueError(_wrong_type(name, f"a tensor of {image.dtype}", "tensor.to(torch.uint8)"))
    image = image if image.dtype == torch.uint8 else _in_range(image.float(), name)
    if image.shape[0] == 4 and image[3].min() < (255 if image.dtype == torch.uint8 else 1 - 1e-4):
        raise ValueError(f"{name}: {TRANSPARENT}")
    return image[:3].expand(3, -1, -1).contiguous()  # (3, H, W)


def _in_range(image: Tensor, name: str) -> Tensor:
    if count := int((~image.isfinite()).sum()):
        raise ValueError(f"{name}: got {count} values that are NaN or infinite, expected [0, 1]: fix them first")
    low, high = image.min().item(), image.max().item()
    if low < -1e-4 or high > 1 + 1e-4:
        todo = "divide by 255" if high > 2 else "rescale it as it was made, (x + 1) / 2 for [-1, 1], or clip it"
        raise ValueError(f"{name}: got values {low:.4g} to {high:.4g}, expected [0, 1]: {todo}")
    return image


@contextmanager
def decoding(name: Path | str) -> Iterator[None]:
    """Turns whatever a decoder raises into a ValueError that names the image and says what to do."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: too large to be read ({error}): crop or downscale all images alike") from error
    except MemoryError as error:
        raise ValueError(f"{name}: there is too little memory to decode it: downscale all images alike") from error
    except formats.Unsuited as error:
        raise ValueError(f"{name}: {error}") from error
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{name}: cannot be decoded ({reason}): download or copy the file again") from error


_LOCK = Lock()  # Python keeps one list of caught warnings for all threads


@contextmanager
def _warnings_named(name: str) -> Iterator[None]:
    """Puts the image's name before each warning of Pillow."""
    with _LOCK, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        warnings.warn(f"{name}: {warning.message}", warning.category, stacklevel=4)


def _profile(image: Image.Image, data: bytes | None, name: str) -> bytes | None:
    try:
        return formats.profile(image, data) if data else image.info.get("icc_profile")
    except Exception as error:
        raise ValueError(f"{name}: its colours are not followed here ({error}): convert it to sRGB first") from error


def _to_srgb(image: Image.Image, profile: bytes | None, name: str) -> Image.Image:
    """RGB in sRGB, converted by an ICC profile if that gives other numbers."""
    if not profile:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        grey = source.profile.xcolor_space.strip() == "GRAY"
        if grey and image.mode not in ("L", "LA", "1"):
            raise ValueError("it is one of grey images")
        if _is_srgb(profile, "L" if grey else "RGB"):
            return image.convert("RGB")
        return _converted(image.convert("L" if grey else "RGB"), source)
    except Exception as error:
        raise ValueError(f"{name}: its ICC profile cannot be used ({error}): convert it to sRGB first") from error


def _converted(image: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    exact = ImageCms.Flags.NOOPTIMIZE if image.mode == "L" else ImageCms.Flags.NONE  # else dark greys are off by 10
    return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB", flags=exact)


@lru_cache(maxsize=16)
def _is_srgb(profile: bytes, mode: str) -> bool:
    """Whether a profile moves no colour by more than one of 255 steps, whatever it is called."""
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    greys = np.arange(256, dtype=np.uint8)[:, None]
    colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)  # (4096, 3)
    sample = Image.fromarray(greys if mode == "L" else np.concatenate([colours, greys.repeat(3, 1)])[:, None])
    converted = _converted(sample, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    return np.abs(np.asarray(converted, int) - np.asarray(sample.convert("RGB"), int)).max() <= 1


def encode_png(pixels: np.ndarray) -> bytes:
    """A PNG file of uint8 RGB `(H, W, 3)`, about as large as Pillow's fastest, in less than half its time.

    Each row is stored as its difference to the one above, where Pillow tries five ways for each row.
    """
    height, width, _ = pixels.shape
    rows = np.full((height, 1 + 3 * width), 2, np.uint8)  # each begins with the number of its filter, 2: difference up
    rows[:, 1:] = np.diff(pixels.reshape(height, -1), axis=0, prepend=np.uint8(0))
    deflate = zlib.compressobj(1, strategy=zlib.Z_RLE)
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    chunks = {b"IHDR": header, b"IDAT": deflate.compress(rows) + deflate.flush(), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )


def read_kept(path: Path) -> Tensor:
    """As `read_image`, but decoded only once: the pixels are kept in the cache folder and mapped from there."""
    file = cache_dir() / "pixels" / f"{file_key(path)}.npy"
    if not file.exists():
        with atomic(file) as temporary:
            np.save(temporary, read_image(path).numpy())
    return torch.from_numpy(np.load(file, mmap_mode="c"))  # (3, H, W)


def check_images(*images: Tensor, min_size: int = 1, max_pixels: int | None = None) -> None:
    """Check a model's input: float RGB tensors `(B, 3, H, W)` in [0, 1], all of one size.

    `min_size` is the shortest side allowed, `max_pixels` the largest height x width, which bounds memory.
    """
    for image in images:
        if not isinstance(image, Tensor) or not image.is_floating_point():
            got = image.dtype if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(f"an image: got {got}, expected a float tensor in [0, 1]: divide 8-bit values by 255")
        shape = tuple(image.shape)
        if image.ndim != 4 or shape[1] != 3:
            raise ValueError(f"an image: got shape {shape}, expected (B, 3, H, W): add the batch axis, convert to RGB")
        if not shape[0]:
            raise ValueError(f"an image: got shape {shape}, an empty batch, expected at least one image")
        height, width = shape[2:]
        if min(height, width) < min_size:
            raise ValueError(f"an image: got {height}x{width}, expected sides of at least {min_size}: enlarge it first")
        if max_pixels and height * width > max_pixels:
            most = f"{max_pixels / 1e6:.1f} Mpx, which bounds memory: crop or downscale all images alike"
            raise ValueError(f"an image: got {height}x{width}, {height * width / 1e6:.1f} Mpx, expected at most {most}")
        if shape != tuple(images[0].shape):
            raise ValueError(f"images: got unequal shapes {[tuple(i.shape) for i in images]}, expected one shape")
        low, high = torch.aminmax(image.detach())
        if not (low >= -1e-4 and high <= 1 + 1e-4):
            raise ValueError(f"an image: got values {low:.4g} to {high:.4g}, expected [0, 1], no NaN: fix or clip them")

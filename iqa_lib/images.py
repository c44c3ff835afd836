"""Images in and out of files, and the one check every model makes of what it is given."""

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from iqa_lib.files import atomic, cache_dir, file_key


def read_image(path: Path | str, *, srgb: bool = False) -> Tensor:
    """Decode an image file, upright as its EXIF orientation says.

    Args:
        path: See above.
        srgb: Bring colours with an ICC profile other than sRGB to sRGB; otherwise the numbers stay as stored.

    Returns:
        uint8 RGB, `(3, H, W)`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, cut short, too large or no image; is not 8-bit; is partly transparent; or has
            several images.
    """
    with decoding(path):
        image = Image.open(path)
    with image:
        return from_pil(image, str(path), srgb=srgb)


def from_pil(image: Image.Image, name: str, *, srgb: bool = False) -> Tensor:
    """What `read_image` does, for a PIL image; `name` is what errors call it."""
    with decoding(name):
        deep = any(re.search(";16[BLN]", str(tile.args)) for tile in getattr(image, "tile", ()))  # cut by Pillow
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # a phone's JPEG with extras behind it
        image = ImageOps.exif_transpose(image)
        image.load()
    if frames > 1:
        raise ValueError(
            f"{name}: holds {frames} images, expected one: save the one that is meant in a file of its own"
        )
    if not all(image.size):
        raise ValueError(f"{name}: is {image.width}x{image.height} pixels, expected at least 1x1: give another image")
    if image.mode not in ("RGB", "L", "P", "RGBA", "LA", "1"):
        raise ValueError(f"{name}: mode {image.mode}, expected 8-bit RGB or grey: convert the file first")
    if deep:
        raise ValueError(f"{name}: 16 bits a channel, expected 8-bit RGB or grey: convert the file first")
    if image.has_transparency_data and image.convert("RGBA").getextrema()[3][0] < 255:
        raise ValueError(f"{name}: partly transparent, expected opaque RGB: lay it over a background first")
    pixels = np.array(_to_srgb(image, name) if srgb else image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()  # (3, H, W)


def as_image(image: str | os.PathLike | Image.Image | np.ndarray | Tensor, name: str = "the image") -> Tensor:
    """One image in whatever form, as RGB `(3, H, W)`: uint8 where it came in 8 bits, else float32 in [0, 1].

    Args:
        image: A file (ICC profiles are followed), a PIL image, an array `(H, W, 3)` or grey `(H, W)`, or a tensor
            `(3, H, W)`, `(1, 3, H, W)` or grey `(1, H, W)`; arrays and tensors uint8, or float in [0, 1].
        name: What errors call it, where it is no file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Says what came, what is wanted and what to do.
    """
    if isinstance(image, str | os.PathLike):
        return _read_named(image, name)
    if isinstance(image, Image.Image):
        return from_pil(image, name, srgb=True)
    if isinstance(image, np.ndarray):
        return _from_array(image, name)
    if isinstance(image, Tensor):
        return _from_tensor(image, name)
    raise ValueError(
        f"{name}: got {type(image).__name__}, expected a file's path, a PIL image, an array (H, W, 3) or a tensor "
        "(3, H, W): convert it first"
    )


def _read_named(path: str | os.PathLike, name: str) -> Tensor:
    if re.match(r"[a-z]+://", str(path)):
        raise ValueError(f"{name}: got the address {path}, expected a file: download it first")
    if Path(path).is_dir():
        raise ValueError(
            f"{name}: got the folder {path}, expected an image's file: folders are for `python -m iqa_lib.score`"
        )
    if not Path(path).is_file():
        raise FileNotFoundError(f"{name}: there is no file {path} (looked from {Path.cwd()}): mend the path")
    return read_image(path, srgb=True)


def _from_array(array: np.ndarray, name: str) -> Tensor:
    if np.ma.is_masked(array):
        raise ValueError(f"{name}: got an array with masked pixels, expected all of them: fill them first")
    shape = array.shape
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        channels_first = array.ndim == 3 and shape[0] in (1, 3, 4)
        todo = "put the channels last, array.transpose(1, 2, 0)" if channels_first else "give one image at a time"
        raise ValueError(f"{name}: got an array of shape {shape}, expected (H, W, 3), or (H, W) for grey: {todo}")
    if array.dtype.kind not in "f" and array.dtype != np.uint8:
        todo = "array.astype('uint8') if its values are 0 to 255, else divide by the value of white"
        raise ValueError(f"{name}: got an array of {array.dtype}, expected uint8, or float in [0, 1]: {todo}")
    tensor = torch.from_numpy(np.array(array, np.uint8 if array.dtype == np.uint8 else np.float32, order="C", ndmin=3))
    return _from_tensor(tensor if array.ndim == 2 else tensor.permute(2, 0, 1), name)


def _from_tensor(tensor: Tensor, name: str) -> Tensor:
    shape = tuple(tensor.shape)
    image = tensor.detach()[0] if tensor.ndim == 4 and shape[0] == 1 else tensor.detach()
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        channels_last = image.ndim == 3 and shape[-1] in (1, 3, 4)
        todo = "put the channels first, tensor.permute(2, 0, 1)" if channels_last else "give one image at a time"
        raise ValueError(f"{name}: got a tensor of shape {shape}, expected (3, H, W), or (1, H, W) for grey: {todo}")
    if 0 in image.shape:
        raise ValueError(f"{name}: got shape {shape}, which holds no pixel, expected at least 1x1: give another one")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        todo = "tensor.to(torch.uint8) if its values are 0 to 255, else divide by the value of white"
        raise ValueError(f"{name}: got a tensor of {image.dtype}, expected uint8, or float in [0, 1]: {todo}")
    image = image if image.dtype == torch.uint8 else _in_range(image.float(), name)
    if image.shape[0] == 4:
        if image[3].min() < (255 if image.dtype == torch.uint8 else 1 - 1e-4):
            raise ValueError(f"{name}: partly transparent, expected opaque RGB: lay it over a background first")
        image = image[:3]
    return image.expand(3, -1, -1).contiguous()  # (3, H, W)


def _in_range(image: Tensor, name: str) -> Tensor:
    if not image.isfinite().all():
        count = int((~image.isfinite()).sum())
        raise ValueError(f"{name}: got {count} values that are NaN or infinite, expected [0, 1]: mend them first")
    low, high = image.min().item(), image.max().item()
    if low < -1e-4 or high > 1 + 1e-4:
        todo = "divide by 255" if high > 2 else "rescale it as it was made, (x + 1) / 2 for [-1, 1], or clip it"
        raise ValueError(f"{name}: got values {low:.4g} to {high:.4g}, expected [0, 1]: {todo}")
    return image


@contextmanager
def decoding(name: Path | str) -> Iterator[None]:
    """Pillow's errors of many kinds, as a ValueError that names the image and says what to do."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: too large to be read ({error}): crop or downscale all images alike") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name}: cannot be decoded ({error}): download or copy the file again") from error


def _to_srgb(image: Image.Image, name: str) -> Image.Image:
    """RGB in sRGB, by the image's own ICC profile if it has another one."""
    profile = image.info.get("icc_profile")
    image = image if image.mode in ("RGB", "L") else image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else None
        if source is None or "sRGB" in ImageCms.getProfileDescription(source):
            return image.convert("RGB")
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        raise ValueError(f"{name}: its ICC profile cannot be used ({error}): convert it to sRGB first") from error


def read_kept(path: Path) -> Tensor:
    """`read_image`, decoded once: the pixels are kept as an array in the cache folder and mapped from there."""
    file = cache_dir() / "pixels" / f"{file_key(path)}.npy"
    if not file.exists():
        with atomic(file) as temporary:
            np.save(temporary, read_image(path).numpy())
    return torch.from_numpy(np.load(file, mmap_mode="c"))  # (3, H, W)


def check_images(*images: Tensor, min_size: int = 1, max_pixels: int | None = None) -> None:
    """Check a model's input: float RGB tensors `(B, 3, H, W)` in [0, 1], all of one size, within the bounds given.

    Args:
        *images: See above.
        min_size: Shortest side allowed.
        max_pixels: Largest height x width allowed: the bound on memory.

    Raises:
        ValueError: Says what came, what is wanted and what to do.
    """
    for image in images:
        if not isinstance(image, Tensor):
            raise ValueError(f"an image: got {type(image).__name__}, expected a float tensor (B, 3, H, W) in [0, 1]")
        shape = tuple(image.shape)
        if image.ndim != 4 or shape[1] != 3:
            raise ValueError(f"an image: got shape {shape}, expected (B, 3, H, W): add the batch axis, convert to RGB")
        if not image.is_floating_point():
            raise ValueError(f"an image: got {image.dtype}, expected float in [0, 1]: divide 8-bit values by 255")
        if not shape[0]:
            raise ValueError(f"an image: got shape {shape}, an empty batch, expected at least one image")
        if min(shape[2:]) < min_size:
            raise ValueError(
                f"an image came {shape[2]}x{shape[3]}, expected sides of at least {min_size}: enlarge it first"
            )
        if max_pixels and shape[2] * shape[3] > max_pixels:
            raise ValueError(
                f"an image came {shape[2]}x{shape[3]}, {shape[2] * shape[3] / 1e6:.1f} Mpx, expected at most "
                f"{max_pixels / 1e6:.1f} Mpx, the bound on memory: crop or downscale all images alike"
            )
        if shape != tuple(images[0].shape):
            raise ValueError(f"images: got unequal shapes {[tuple(i.shape) for i in images]}, expected one shape")
        low, high = torch.aminmax(image.detach())
        if not (low >= -1e-4 and high <= 1 + 1e-4):
            raise ValueError(
                f"an image: got values {low:.4g} to {high:.4g}, expected [0, 1], no NaN: mend or clip them"
            )

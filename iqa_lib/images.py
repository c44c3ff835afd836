"""Images in and out of files, and the one check every model makes of what it is given."""

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from iqa_lib.files import atomic, cache_dir, file_key


def read_image(path: Path | str) -> Tensor:
    """Decode an image file, upright as its EXIF orientation says.

    Returns:
        uint8 RGB, `(3, H, W)`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, cut short or no image; is not 8-bit; or is partly transparent.
    """
    try:
        with Image.open(path) as image:
            deep = any(re.search(";16[BLN]", str(tile.args)) for tile in image.tile)  # cut to 8 bits by Pillow
            image = ImageOps.exif_transpose(image)
            image.load()
    except FileNotFoundError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: cannot be decoded ({error}): download or copy the file again") from error
    if image.mode not in ("RGB", "L", "P", "RGBA", "LA", "1"):
        raise ValueError(f"{path}: mode {image.mode}, wanted 8-bit RGB or grey: convert the file first")
    if deep:
        raise ValueError(f"{path}: 16 bits a channel, wanted 8-bit RGB or grey: convert the file first")
    if image.has_transparency_data and image.convert("RGBA").getextrema()[3][0] < 255:
        raise ValueError(f"{path}: partly transparent, wanted opaque RGB: lay it over a background first")
    pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()  # (3, H, W)


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
            raise ValueError(f"an image came as {type(image).__name__}; wanted a float tensor (B, 3, H, W) in [0, 1]")
        shape = tuple(image.shape)
        if image.ndim != 4 or shape[1] != 3:
            raise ValueError(
                f"an image came with shape {shape}; wanted (B, 3, H, W): add the batch axis, convert to RGB"
            )
        if not image.is_floating_point():
            raise ValueError(f"an image came as {image.dtype}; wanted float in [0, 1]: divide 8-bit values by 255")
        if not shape[0]:
            raise ValueError(f"an image came with shape {shape}, an empty batch; wanted at least one image")
        if min(shape[2:]) < min_size:
            raise ValueError(
                f"an image came {shape[2]}x{shape[3]}; wanted sides of at least {min_size}: enlarge it first"
            )
        if max_pixels and shape[2] * shape[3] > max_pixels:
            raise ValueError(
                f"an image came {shape[2]}x{shape[3]}, {shape[2] * shape[3] / 1e6:.1f} Mpx; wanted at most "
                f"{max_pixels / 1e6:.1f} Mpx, the bound on memory: crop or downscale all images alike"
            )
        if shape != tuple(images[0].shape):
            raise ValueError(f"images came with unequal shapes {[tuple(i.shape) for i in images]}; wanted one shape")
        low, high = torch.aminmax(image.detach())
        if not (low >= -1e-4 and high <= 1 + 1e-4):
            raise ValueError(f"an image came with values {low:.4g} to {high:.4g}; wanted [0, 1], no NaN")

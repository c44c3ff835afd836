"""Windows cut out of a record's images, the same from all of them: random for training, fixed for evaluation."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from iqa_lib.data.base import IQADataset

PROTOCOLS = ("whole", "grid", "corners", "random")
FLIPS = {"none": (), "horizontal": (-1,), "vertical": (-2,), "both": (-1, -2)}
"""The axes along which training windows are mirrored."""


def windows(
    protocol: str, height: int, width: int, size: int, count: int = 0, seed=0, *, last_place: bool = True
) -> list[tuple[int, int]]:
    """Top left corners `(top, left)` of the square windows by which one image is looked at.

    Args:
        protocol: `"whole"`: the image itself (`size` is ignored). `"grid"`: evenly spaced windows that cover the
            image, or `count` of them. `"corners"`: four corners and the centre. `"random"`: `count` places drawn from
            `seed`.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        size: Side of a window, in pixels.
        count: Number of windows.
        seed: For `"random"`, whatever `numpy.random.default_rng` takes.
        last_place: For `"random"`; False never draws the last row's and the last column's place, and wants an image
            larger than the window, as AHIQ's released code does by mistake.

    Raises:
        ValueError: Unknown protocol, a window larger than the image, or random windows without a count.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"crop protocol came as {protocol!r}; wanted one of {PROTOCOLS}")
    if protocol == "whole":
        return [(0, 0)]
    down, right = height - size, width - size
    if size < 1 or min(down, right) < 0:
        raise ValueError(
            f"crop {size} does not fit into an image of {width}x{height}: give a smaller one, or enlarge=True"
        )
    if protocol == "corners":
        return [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
    if protocol == "grid":
        rows, columns = math.ceil(height / size), math.ceil(width / size)
        tops = np.linspace(0, down, rows) if rows > 1 else [down / 2]
        lefts = np.linspace(0, right, columns) if columns > 1 else [right / 2]
        places = [(round(top), round(left)) for top in tops for left in lefts]
        if not count or count >= len(places):
            return places
        return [places[int((k + 0.5) * len(places) / count)] for k in range(count)]
    if count < 1:
        raise ValueError(f"crop protocol 'random' came with count {count}; wanted the number of windows, at least 1")
    if not last_place and min(down, right) < 1:
        raise ValueError(f"crop {size} leaves no place in an image of {width}x{height} under last_place=False")
    rng = np.random.default_rng(seed)
    return [(int(rng.integers(down + last_place)), int(rng.integers(right + last_place))) for _ in range(count)]


class Crops(Dataset):
    """A data set's records, seen through windows.

    `crops[epoch, index]` draws a window for training: from everywhere under protocol `"random"`, else out of the
    protocol's. The draw depends on seed, epoch and index alone, so it does not matter who asks when.
    `crops.all(index)` gives every window of the protocol, for evaluation.

    Args:
        dataset: Pairs or triplets.
        protocol: See `windows`.
        size: Side of a window in pixels.
        count: Number of windows.
        seed: For the draws.
        draws: 0: a training step sees one window, `(3, size, size)` an image; otherwise so many different ones,
            `(draws, 3, size, size)`.
        flip: Mirror with probability one half in training, all images of a record alike: `"horizontal"`, `"vertical"`
            (upside down, as AHIQ's released code does by mistake), `"both"` (each by itself) or `"none"`.
        turn: Turn by 0, 90, 180 or 270 degrees in training, all images of a record alike.
        enlarge: Bring images whose short side is below `size` up to it, bilinearly; otherwise they are an error.
        averaged: Above 1: a training step sees the pixel by pixel mean of so many windows, float in [0, 1], as AHIQ's
            released code makes of `num_crop` windows by mistake.
        last_place: See `windows`.
    """

    def __init__(
        self,
        dataset: IQADataset,
        protocol: str = "random",
        size: int = 0,
        *,
        count: int = 1,
        seed: int = 0,
        draws: int = 0,
        flip: str = "none",
        turn: bool = False,
        enlarge: bool = False,
        averaged: int = 1,
        last_place: bool = True,
    ):
        if protocol not in PROTOCOLS:
            raise ValueError(f"crop protocol came as {protocol!r}; wanted one of {PROTOCOLS}")
        if flip not in FLIPS:
            raise ValueError(f"flip came as {flip!r}; wanted one of {tuple(FLIPS)}")
        if draws < 0:
            raise ValueError(f"draws came as {draws}; wanted 0 (one window) or more")
        if averaged < 1 or (averaged > 1 and (draws or protocol != "random")):
            raise ValueError(f"averaged came as {averaged}; wanted 1, or more under protocol 'random' without draws")
        if turn and protocol == "whole":
            raise ValueError("turn=True came with whole images, which need not be square: give a protocol of windows")
        self.dataset, self.protocol, self.size, self.count = dataset, protocol, size, count
        self.seed, self.draws, self.flip, self.turn, self.enlarge = seed, draws, flip, turn, enlarge
        self.averaged, self.last_place = averaged, last_place

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        epoch, index = key
        *images, target = self.dataset.read(index)
        images, rng = [self._large_enough(image) for image in images], self.draw(epoch, index)
        count = max(self.count, self.draws, self.averaged) if self.protocol == "random" else self.count
        places = self._windows(images[0], count, rng)
        picked = range(self.averaged) if self.averaged > 1 else self.pick(rng, len(places))
        images = [torch.stack([self._cut(image, places[i]) for i in picked]) for image in images]  # (draws, 3, S, S)
        for axis in FLIPS[self.flip]:
            if rng.random() < 0.5:
                images = [image.flip(axis) for image in images]
        if self.turn:
            quarters = int(rng.integers(4))
            images = [image.rot90(quarters, (-2, -1)) for image in images]
        if self.averaged > 1:
            images = [(image.float() / 255).mean(0, keepdim=True) for image in images]
        return *(images if self.draws else [image[0] for image in images]), target

    def pick(self, rng: np.random.Generator, count: int) -> list[int]:
        """Which of `count` windows a training step sees."""
        if self.draws > count:
            raise ValueError(f"draws came as {self.draws}, but protocol {self.protocol!r} has {count} windows an image")
        return rng.permutation(count)[: self.draws].tolist() if self.draws else [int(rng.integers(count))]

    def fingerprint(self) -> tuple:
        """All that decides what these views show, but for the pixels."""
        settings = {name: value for name, value in vars(self).items() if name != "dataset"}
        return "crops", sorted(settings.items()), self.dataset.fingerprint()

    def draw(self, epoch: int, index: int) -> np.random.Generator:
        """The randomness of one record in one epoch."""
        return np.random.default_rng((self.seed, epoch, index))

    def all(self, index: int) -> tuple[Tensor, ...]:
        """Every window of record `index`: uint8 `(K, 3, size, size)` an image, and the target `()`."""
        *images, target = self.dataset.read(index)
        return *(self.cut(image, (self.seed, index)) for image in images), target

    def cut(self, image: Tensor, seed=0) -> Tensor:
        """Every window of one image `(3, H, W)`: `(K, 3, size, size)`."""
        image = self._large_enough(image)
        places = self._windows(image, self.count, seed)
        return torch.stack([self._cut(image, window) for window in places])

    def _windows(self, image: Tensor, count: int, seed) -> list[tuple[int, int]]:
        return windows(self.protocol, *image.shape[1:], self.size, count, seed, last_place=self.last_place)

    def _large_enough(self, image: Tensor) -> Tensor:
        return _short_side_to(image, self.size) if self.enlarge and min(image.shape[1:]) < self.size else image

    def _cut(self, image: Tensor, window: tuple[int, int]) -> Tensor:
        if self.protocol == "whole":
            return image
        top, left = window
        return image[:, top : top + self.size, left : left + self.size]


def _short_side_to(image: Tensor, size: int) -> Tensor:
    scale = size / min(image.shape[1:])
    shape = [max(size, round(side * scale)) for side in image.shape[1:]]
    larger = F.interpolate(image[None].float(), size=shape, mode="bilinear", align_corners=False)[0]
    return larger if image.is_floating_point() else larger.round().clamp(0, 255).to(torch.uint8)

"""Views of a data set, the two ways in which a model looks at it: random or fixed crops, and kept features of fixed crops.

A view has `dataset`; `view[epoch, index]` gives what a training step sees of a record, then its target; `view.all(index)`
gives all crops of a record, for evaluation; `view.fingerprint()` is all that decides what it shows, but for the pixels.
"""

import hashlib
import math
from itertools import accumulate
from pathlib import Path
from random import SystemRandom

import numpy as np
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from iqa_lib.data.base import IQADataset
from iqa_lib.devices import best_device, to_device
from iqa_lib.files import atomic, cache_dir, file_key, tensors_sha256
from iqa_lib.images import read_image
from iqa_lib.progress import progress

PROTOCOLS = ("whole", "grid", "corners", "random")
FLIPS = {"none": (), "horizontal": (-1,), "vertical": (-2,), "both": (-1, -2)}
"""The axes along which training crops are mirrored."""


def crop_places(
    protocol: str, height: int, width: int, size: int, count: int = 0, seed=0, *, last_place: bool = True
) -> list[tuple[int, int]]:
    """Top left corners `(top, left)` of the square crops by which one image is looked at.

    Args:
        protocol: `"whole"`: the image itself (`size` is ignored). `"grid"`: evenly spaced crops that cover the
            image, or `count` of them. `"corners"`: four corners and the centre. `"random"`: `count` places drawn from
            `seed`.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        size: Side of a crop, in pixels.
        count: Number of crops.
        seed: For `"random"`, whatever `numpy.random.default_rng` takes.
        last_place: For `"random"`; False never draws the last row's and the last column's place, and wants an image
            larger than the crop, as AHIQ's released code does by mistake.

    Raises:
        ValueError: Unknown protocol, a crop larger than the image, or random crops without a count.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"crop protocol: got {protocol!r}, expected one of {PROTOCOLS}")
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
        raise ValueError(f"crop protocol 'random': got count {count}, expected the number of crops, at least 1")
    if not last_place and min(down, right) < 1:
        raise ValueError(f"crop {size} leaves no place in an image of {width}x{height} under last_place=False")
    rng = np.random.default_rng(seed)
    return [(int(rng.integers(down + last_place)), int(rng.integers(right + last_place))) for _ in range(count)]


class Crops(Dataset):
    """A data set's records, seen through crops.

    `crops[epoch, index]` draws a crop for training: from everywhere under protocol `"random"`, else out of the
    protocol's. The draw depends on seed, epoch and index alone, so it does not matter who asks when.
    `crops.all(index)` gives every crop of the protocol, for evaluation.

    Args:
        dataset: Pairs or triplets.
        protocol: See `crop_places`.
        size: Side of a crop in pixels.
        count: Number of crops.
        seed: For the draws.
        draws: 0: a training step sees one crop, `(3, size, size)` an image; otherwise so many different ones,
            `(draws, 3, size, size)`.
        flip: Mirror with probability one half in training, all images of a record alike: `"horizontal"`, `"vertical"`
            (upside down, as AHIQ's released code does by mistake), `"both"` (each by itself) or `"none"`.
        turn: Turn by 0, 90, 180 or 270 degrees in training, all images of a record alike.
        enlarge: Bring images whose short side is below `size` up to it, bilinearly; otherwise they are an error.
        averaged: Above 1: a training step sees the pixel by pixel mean of so many crops, float in [0, 1], as AHIQ's
            released code makes of `num_crop` crops by mistake.
        last_place: See `crop_places`.
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
            raise ValueError(f"crop protocol: got {protocol!r}, expected one of {PROTOCOLS}")
        if flip not in FLIPS:
            raise ValueError(f"flip: got {flip!r}, expected one of {tuple(FLIPS)}")
        if draws < 0:
            raise ValueError(f"draws: got {draws}, expected 0 (one crop) or more")
        if averaged < 1 or (averaged > 1 and (draws or protocol != "random")):
            raise ValueError(f"averaged: got {averaged}, expected 1, or more under protocol 'random' without draws")
        if turn and protocol == "whole":
            raise ValueError("turn=True: got whole images, which need not be square: give a protocol of crops")
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
        places = self._places(images[0], count, rng)
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
        """Which of `count` crops a training step sees."""
        if self.draws > count:
            raise ValueError(f"draws: got {self.draws}, but protocol {self.protocol!r} has {count} crops an image")
        return rng.permutation(count)[: self.draws].tolist() if self.draws else [int(rng.integers(count))]

    def fingerprint(self) -> tuple:
        """All that decides what these views show, but for the pixels."""
        settings = {name: value for name, value in vars(self).items() if name != "dataset"}
        return "crops", sorted(settings.items()), self.dataset.fingerprint()

    def draw(self, epoch: int, index: int) -> np.random.Generator:
        """The randomness of one record in one epoch."""
        return np.random.default_rng((self.seed, epoch, index))

    def all(self, index: int) -> tuple[Tensor, ...]:
        """Every crop of record `index`: uint8 `(K, 3, size, size)` an image, and the target `()`."""
        *images, target = self.dataset.read(index)
        return *(self.cut(image, (self.seed, index)) for image in images), target

    def cut(self, image: Tensor, seed=0) -> Tensor:
        """Every crop of one image `(3, H, W)`: `(K, 3, size, size)`."""
        image = self._large_enough(image)
        places = self._places(image, self.count, seed)
        return torch.stack([self._cut(image, crop) for crop in places])

    def _places(self, image: Tensor, count: int, seed) -> list[tuple[int, int]]:
        return crop_places(self.protocol, *image.shape[1:], self.size, count, seed, last_place=self.last_place)

    def _large_enough(self, image: Tensor) -> Tensor:
        return _short_side_to(image, self.size) if self.enlarge and min(image.shape[1:]) < self.size else image

    def _cut(self, image: Tensor, crop: tuple[int, int]) -> Tensor:
        if self.protocol == "whole":
            return image
        top, left = crop
        return image[:, top : top + self.size, left : left + self.size]


def _short_side_to(image: Tensor, size: int) -> Tensor:
    scale = size / min(image.shape[1:])
    shape = [max(size, round(side * scale)) for side in image.shape[1:]]
    larger = F.interpolate(image[None].float(), size=shape, mode="bilinear", align_corners=False)[0]
    return larger if image.is_floating_point() else larger.round().clamp(0, 255).to(torch.uint8)


_SHARES = ("01", "23", "45", "67", "89", "ab", "cd", "ef")
"""First digits of a file's name: runs that want the same features at once make each share once between them."""


class WithScores(Dataset):
    """Views of a data set with one input more: other metrics' scores of each record.

    Args:
        views: `Crops` or `FixedFeatures`.
        scores: A row a record, `(N, ...)`.
    """

    def __init__(self, views: Dataset, scores: Tensor):
        if len(views) != len(scores):
            raise ValueError(f"scores came for {len(scores)} records, expected one row for each of {len(views)}")
        self.views, self.dataset, self.scores = views, views.dataset, scores

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        *images, target = self.views[key]
        return *images, self.scores[key[1]], target

    def fingerprint(self) -> tuple:
        return "scores", self.views.fingerprint(), tensors_sha256([("scores", self.scores)])


class Vectors(Dataset):
    """One vector a record, all that a small network on top of a frozen one needs to see.

    Args:
        dataset: The records, with their targets.
        values: A row a record, `(N, D)`.
    """

    def __init__(self, dataset: IQADataset, values: Tensor):
        if len(dataset) != len(values):
            raise ValueError(f"vectors came for {len(values)} records, expected one for each of {len(dataset)}")
        self.dataset, self.values = dataset, values

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return self.values[key[1]], torch.tensor(self.dataset.records[key[1]].target, dtype=torch.float32)

    def fingerprint(self) -> tuple:
        return "vectors", self.dataset.fingerprint(), tensors_sha256([("values", self.values)])


class FixedFeatures(Dataset):
    """A data set seen through fixed crops and a frozen backbone: for each image, what `model.extract` makes of it.

    Takes the place of its `Crops` in training and evaluation, with the same draws and so the same results. Kept in the
    cache folder, a file an image, under a key made of the backbone's weights and the crops.

    Args:
        crops: Crops by a fixed protocol, neither flipped nor turned.
        model: Has `extract(images) -> list of maps` and a frozen `backbone`. Where that is a `ModuleDict` of backbones,
            each makes one of the maps; they are kept apart, and models share those of a backbone that both have.
        max_batch: Crops of an image that go through the backbone at a time.

    Raises:
        ValueError: The backbone is not frozen, or the crops are not fixed.
    """

    def __init__(self, crops: Crops, model: nn.Module, *, max_batch: int = 32):
        if not model.backbone.frozen:
            raise ValueError("features can be kept only of a frozen backbone: freeze it, or train from the images")
        if crops.protocol == "random" or crops.flip != "none" or crops.turn:
            raise ValueError(
                f"features can be kept only of fixed crops; came protocol {crops.protocol!r}, flip {crops.flip}, "
                f"turn {crops.turn}"
            )
        self.crops, self.dataset = crops, crops.dataset
        parts = model.backbone.values() if isinstance(model.backbone, nn.ModuleDict) else [model]
        kept = [self._kept(part, max_batch) for part in parts]  # for each part: for each image its maps
        paths, counts = list(self.dataset.paths()), [len(maps[0]) for maps in kept[0]]
        self.maps = [
            torch.cat(scale) for images in kept for scale in zip(*images, strict=True)
        ]  # (crops, C, h, w) each
        bounds = [0, *accumulate(counts)]
        self.rows = {path: slice(*bounds[i : i + 2]) for i, path in enumerate(paths)}

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        epoch, index = key
        *images, target = self.all(index)
        picked = self.crops.pick(self.crops.draw(epoch, index), len(images[0][0]))
        crop = picked if self.crops.draws else picked[0]
        return *([scale[crop] for scale in image] for image in images), target

    def fingerprint(self) -> tuple:
        return "features", self.crops.fingerprint()

    def all(self, index: int) -> tuple:
        """Every crop of record `index`: a list of maps `(K, C, h, w)` for each image, and the target `()`."""
        record = self.dataset.records[index]
        images = ([scale[self.rows[path]] for scale in self.maps] for path in record.images)
        return *images, torch.tensor(record.target, dtype=torch.float32)

    def _kept(self, part: nn.Module, max_batch: int) -> list[list[Tensor]]:
        """For each image its maps `(K, C, h, w)`, of a model with one backbone or of a single backbone."""
        paths, folder = list(self.dataset.paths()), self._folder(part)
        files = [folder / f"{file_key(path)}.safetensors" for path in paths]
        folder.mkdir(parents=True, exist_ok=True)
        for digits in SystemRandom().sample(_SHARES, len(_SHARES)):
            with FileLock(folder / f".{digits}.lock"):
                mine = {path: file for path, file in zip(paths, files, strict=True) if file.name[0] in digits}
                missing = {path: file for path, file in mine.items() if not file.exists()}
                self._compute(missing, part, max_batch)
        kept = [load_file(file) for file in progress(files, "reading features")]
        return [[maps[f"map{i}"] for i in range(len(maps))] for maps in kept]

    def _folder(self, part: nn.Module) -> Path:
        """The cache folder of this backbone under these crops."""
        seen = self.crops.protocol, self.crops.size, self.crops.count, self.crops.enlarge
        backbone = getattr(part, "backbone", part)
        state = tensors_sha256((*backbone.state_dict().items(), *backbone.named_buffers()))
        seen_by = type(part).__qualname__, repr(backbone), state
        return cache_dir() / "features" / hashlib.sha256(repr((seen, seen_by)).encode()).hexdigest()[:16]

    @torch.inference_mode()
    def _compute(self, missing: dict[Path, Path], part: nn.Module, max_batch: int) -> None:
        """Put the crops of the images through the backbone and keep each image's maps in its file.

        Image by image: what shares a batch changes a convolution's last bits, and no other image may change these.
        """
        device = best_device()
        part.to(device).eval()
        extract = getattr(part, "extract", lambda images: [part(images)])
        for path, file in progress(missing.items(), "features of the frozen backbone"):
            batches = self.crops.cut(read_image(path)).split(max_batch)
            parts = [[scale.cpu() for scale in extract(to_device(batch, device))] for batch in batches]
            maps = [torch.cat(scale) for scale in zip(*parts, strict=True)]  # (K, C, h, w) each
            with atomic(file) as temporary:
                save_file({f"map{i}": scale for i, scale in enumerate(maps)}, temporary)

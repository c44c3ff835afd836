"""Views, the two ways in which a model looks at a data set: crops of its images, or kept features of fixed crops.

All follow one protocol, `View`: training indexes a view by `(epoch, index)`, evaluation asks it for `all(index)`.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from random import SystemRandom
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iqa_lib.checks import check_at_least, check_choice
from iqa_lib.data.base import IQADataset
from iqa_lib.devices import ahead, best_device, device_of, digits_of, exact_kernels, to_device
from iqa_lib.files import cache_dir, file_key, intact, load_tensors, locked, save_tensors, tensors_sha256
from iqa_lib.images import read_image
from iqa_lib.progress import progress

PROTOCOLS = ("whole", "grid", "corners", "random")
FLIPS = {"none": (), "horizontal": (-1,), "vertical": (-2,), "both": (-1, -2)}  # the axes that are mirrored


class View(Protocol):
    """How a data set is looked at: an input per image, a tensor or a list of maps, and the target, a float32 `()`."""

    dataset: IQADataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        """What a training step sees of record `index` in `epoch`: the inputs, then the target."""

    def all(self, index: int) -> tuple:
        """All crops of record `index`, for evaluation: the inputs `(K, ...)`, then the target."""

    def fingerprint(self) -> tuple:
        """All that decides what the view shows, except the pixels."""


def crop_places(protocol: str, height: int, width: int, size: int, count: int = 0, seed=0) -> list[tuple[int, int]]:
    """Top left corners `(top, left)` of the square crops, `size` pixels a side, of an image of `height` x `width`.

    The protocols are `"whole"`: the image itself (`size` is ignored); `"grid"`: evenly spaced crops that cover it, or
    `count` of them; `"corners"`: four corners and the centre; `"random"`: `count` places drawn from `seed`, whatever
    `numpy.random.default_rng` takes. A crop larger than the image, or random crops without a count, raise ValueError.
    """
    check_choice(PROTOCOLS, protocol=protocol)
    if protocol == "whole":
        return [(0, 0)]
    down, right = height - size, width - size
    if size < 1 or min(down, right) < 0:
        largest = f"{min(height, width)} in an image of {width}x{height}"
        raise ValueError(f"size: got {size}, expected 1 to {largest}: use smaller crops, or enlarge=True")
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
    check_at_least(1, count=count)
    rng = np.random.default_rng(seed)
    return [(int(rng.integers(down + 1)), int(rng.integers(right + 1))) for _ in range(count)]


class Crops(View):
    """A data set of pairs or triplets seen through crops of its images.

    Training draws from everywhere under protocol `"random"`, else one of the protocol's crops; the draw depends on
    seed, epoch and index alone. Evaluation sees every crop of the protocol, neither flipped nor turned.

    Args:
        protocol, size, count: See `crop_places`.
        draws: Different crops of an image in a training step, `(draws, 3, size, size)`; 0: one, `(3, size, size)`.
        flip: Mirror all images of a record, with probability one half: `"horizontal"`, `"vertical"`, `"both"` (each
            independently) or `"none"`.
        turn: Rotate all images of a record by 0, 90, 180 or 270 degrees.
        enlarge: Enlarge images whose short side is below `size`, bilinearly; otherwise they raise ValueError.
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
    ):
        check_choice(PROTOCOLS, protocol=protocol)
        check_choice(FLIPS, flip=flip)
        check_at_least(0, draws=draws)
        if turn and protocol == "whole":
            raise ValueError("turn: got True for whole images, expected crops, which are square: set a protocol")
        self.dataset, self.protocol, self.size, self.count = dataset, protocol, size, count
        self.seed, self.draws, self.flip, self.turn, self.enlarge = seed, draws, flip, turn, enlarge

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        *images, target = self.dataset.read(key[1])
        images, rng = [self._large_enough(image) for image in images], self.draw(*key)
        places = self.places(images[0], max(self.count, self.draws) if self.protocol == "random" else self.count, rng)
        picked = [places[i] for i in self.pick(rng, len(places))]
        images = [torch.stack([self._cut(image, place) for place in picked]) for image in images]  # (draws, 3, S, S)
        for axis in FLIPS[self.flip]:
            if rng.random() < 0.5:
                images = [image.flip(axis) for image in images]
        if self.turn:
            quarters = int(rng.integers(4))
            images = [image.rot90(quarters, (-2, -1)) for image in images]
        return *(images if self.draws else [image[0] for image in images]), target

    def all(self, index: int) -> tuple[Tensor, ...]:
        *images, target = self.dataset.read(index)
        return *(self.cut(image, (self.seed, index)) for image in images), target

    def fingerprint(self) -> tuple:
        settings = {name: value for name, value in vars(self).items() if name != "dataset"}
        return type(self).__name__, sorted(settings.items()), self.dataset.fingerprint()

    @property
    def fixed(self) -> bool:
        """Whether training sees the crops of evaluation as they are: no random places, neither flipped nor turned."""
        return self.protocol != "random" and self.flip == "none" and not self.turn

    def draw(self, epoch: int, index: int) -> np.random.Generator:
        """The randomness of one record in one epoch."""
        return np.random.default_rng((self.seed, epoch, index))

    def places(self, image: Tensor, count: int, seed) -> list[tuple[int, int]]:
        """Top left corners of the crops of an image `(3, H, W)`."""
        return crop_places(self.protocol, *image.shape[1:], self.size, count, seed)

    def pick(self, rng: np.random.Generator, count: int) -> list[int]:
        """Which of `count` crops a training step sees."""
        if self.draws > count:
            raise ValueError(f"draws: got {self.draws}, expected at most {count}, the crops that {self.protocol!r} has")
        return rng.permutation(count)[: self.draws].tolist() if self.draws else [int(rng.integers(count))]

    def cut(self, image: Tensor, seed=0) -> Tensor:
        """Every crop of one image `(3, H, W)`: `(K, 3, size, size)`."""
        image = self._large_enough(image)
        return torch.stack([self._cut(image, place) for place in self.places(image, self.count, seed)])

    def _large_enough(self, image: Tensor) -> Tensor:
        short = min(image.shape[1:])
        if not self.enlarge or short >= self.size:
            return image
        shape = [max(self.size, round(side * (self.size / short))) for side in image.shape[1:]]
        larger = F.interpolate(image[None].float(), size=shape, mode="bilinear", align_corners=False)[0]
        return larger if image.is_floating_point() else larger.round().clamp(0, 255).to(torch.uint8)

    def _cut(self, image: Tensor, place: tuple[int, int]) -> Tensor:
        top, left = place
        return image if self.protocol == "whole" else image[:, top : top + self.size, left : left + self.size]


class Vectors(View):
    """A vector of each record, of `values` `(N, D)`: all that a small network on top of a frozen one sees."""

    def __init__(self, dataset: IQADataset, values: Tensor):
        if len(values) != len(dataset):
            raise ValueError(f"values: got {len(values)} rows, expected {len(dataset)}, one per record")
        self.dataset, self.values = dataset, values

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        return self.values[key[1]], torch.tensor(self.dataset.records[key[1]].target, dtype=torch.float32)

    def all(self, index: int) -> tuple:
        values, target = self[0, index]
        return values[None], target

    def fingerprint(self) -> tuple:
        return "vectors", self.dataset.fingerprint(), tensors_sha256([("values", self.values)])


class WithScores(Vectors):
    """A view with one input more, after the images: other metrics' scores of each record, `(N, ...)`."""

    def __init__(self, view: View, scores: Tensor):
        super().__init__(view.dataset, scores)
        self.view = view

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        return *self.view[key][:-1], *super().__getitem__(key)

    def all(self, index: int) -> tuple:
        *images, target = self.view.all(index)
        scores = self.values[index]
        return *images, scores.expand(len(first_tensor(images)), *scores.shape), target

    def fingerprint(self) -> tuple:
        return "scores", self.view.fingerprint(), super().fingerprint()


class FixedFeatures(View):
    """A data set seen through fixed crops and a frozen backbone: for each image, the maps of `model.extract`.

    The draws and so the results are those of the crops, by a fixed protocol, neither flipped nor turned. Each map is
    kept in the cache folder by itself, one file per reference, and read from there as it is needed: networks share the
    maps of a backbone that both have, wherever each is cut.

    The model has `extract(images) -> list of maps` and a frozen `backbone`. If that is a `ModuleDict` of backbones,
    each makes some of the maps. The model is moved to the best device; `max_batch` crops go through the backbone at a
    time, on a CPU of one image, on a GPU of several.
    """

    def __init__(self, crops: Crops, model: nn.Module, *, max_batch: int = 32):
        if not model.backbone.frozen:
            raise ValueError("backbone: got a trained one, expected a frozen one: freeze it, or train from the images")
        if not crops.fixed:
            got = f"protocol {crops.protocol!r}, flip {crops.flip!r}, turn {crops.turn}"
            raise ValueError(f"crops: got {got}, expected fixed ones: use 'grid', and neither flip nor turn")
        self.crops, self.dataset = crops, crops.dataset
        to_device(model, best_device())
        parts = model.backbone.values() if isinstance(model.backbone, nn.ModuleDict) else [model]
        kept = [self._kept(part.eval(), max_batch) for part in parts]
        self.maps = {path: [scale for maps in kept for scale in maps[path]] for path in self.dataset.paths()}

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        *images, target = self.all(key[1])
        picked = self.crops.pick(self.crops.draw(*key), len(images[0][0]))
        crop = picked if self.crops.draws else picked[0]
        return *([scale[crop] for scale in image] for image in images), target

    def all(self, index: int) -> tuple:
        record = self.dataset.records[index]
        return *(self.maps[path] for path in record.images), torch.tensor(record.target, dtype=torch.float32)

    def fingerprint(self) -> tuple:
        return "features", self.crops.fingerprint()

    def _kept(self, part: nn.Module, max_batch: int) -> dict[Path, list[Tensor]]:
        """For each image the maps `(K, C, h, w)` of a model, or of one of its backbones."""
        crops = self.crops
        seen = crops.protocol, crops.size, crops.count, crops.enlarge, digits_of(device_of(part))
        folder = cache_dir() / "features" / hashlib.sha256(repr(seen).encode()).hexdigest()[:16]
        folders = [folder / key for key in self._keys(part)]
        images: dict[Path, set[Path]] = {}
        for record in self.dataset.records:
            images.setdefault(record.images[0], set()).update(record.images)
        shuffled, kept = SystemRandom().sample(list(images), len(images)), {}  # concurrent runs share the work
        for reference in progress(shuffled, "features of the frozen backbone"):
            name = f"{file_key(reference)}.safetensors"
            files, names = [tap / name for tap in folders], {path: file_key(path) for path in sorted(images[reference])}
            taps = [intact(file, load_tensors, {}) for file in files]
            if any(name not in tap for tap in taps for name in names.values()):
                with locked(folder / f".{name}.lock"):
                    taps = self._completed(part, names, files, max_batch)
            kept |= {path: [tap[name] for tap in taps] for path, name in names.items()}
        return kept

    def _completed(
        self, part: nn.Module, names: dict[Path, str], files: list[Path], max_batch: int
    ) -> list[dict[str, Tensor]]:
        """The maps of one reference's images from a file a map; those that are missing are computed and added."""
        taps = [intact(file, load_tensors, {}) for file in files]
        missing = [path for path, name in names.items() if not all(name in tap for tap in taps)]
        count = self._together(part, missing, max_batch)
        groups = [missing[start : start + count] for start in range(0, len(missing), count)]
        found = {names[path]: maps for group in groups for path, maps in self._maps(part, group, max_batch).items()}
        for i, (tap, file) in enumerate(zip(taps, files, strict=True)):
            if new := {name: maps[i] for name, maps in found.items() if name not in tap}:
                tap |= new
                save_tensors(file, tap)
        return taps

    def _together(self, part: nn.Module, paths: Sequence[Path], max_batch: int) -> int:
        """How many images share a batch: as fill it; on a CPU one, since sharing changes a convolution's last bits."""
        if device_of(part).type == "cpu" or not paths:
            return 1
        return max(1, max_batch // len(self.crops.cut(read_image(paths[0]))))

    def _maps(self, part: nn.Module, paths: Sequence[Path], max_batch: int) -> dict[Path, list[Tensor]]:
        """The maps of images, from batches of all their crops."""
        crops = [*ahead(lambda path: self.crops.cut(read_image(path)), paths, device_of(part))]
        if len({each.shape[1:] for each in crops}) > 1:
            raise ValueError(f"{paths[0].parent}: got images of unequal sizes for one reference, expected one size")
        batches = (_extracted(part, batch) for batch in torch.cat(crops).split(max_batch))
        scales = (torch.cat(maps).split([*map(len, crops)]) for maps in zip(*batches, strict=True))
        return {path: list(maps) for path, *maps in zip(paths, *scales, strict=True)}

    def _keys(self, part: nn.Module) -> list[str]:
        """A name for each map of a backbone: the hash of its numbers for one image, which hang on all that matters."""
        shape = self.crops.cut(read_image(self.dataset.records[0].images[0]))[:1].shape
        probe = torch.linspace(0, 1, shape.numel()).view(shape)
        return [tensors_sha256([("map", scale)])[:16] for scale in _extracted(part, probe)]


@exact_kernels()
@torch.no_grad()
def _extracted(part: nn.Module, images: Tensor) -> list[Tensor]:
    """The maps of a model or a single backbone on the CPU."""
    extract = getattr(part, "extract", lambda images: [part(images)])
    return [scale.float().cpu().contiguous() for scale in extract(to_device(images, device_of(part)))]


def first_tensor(item: Tensor | list) -> Tensor:
    """The first tensor of nested lists, whose length is the number of crops."""
    return item if isinstance(item, Tensor) else first_tensor(item[0])

"""What every data set looks like from outside: records of pairs or triplets, one label, images as tensors."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor
from torch.utils.data import Dataset

from iqa_lib.checks import check_choice
from iqa_lib.images import read_image, read_kept

NAMES = ("demo", "clic", "bapps", "pieapp", "pipal", "kadid10k", "tid2013", "live", "csiq")


class DataError(ValueError):
    """Something is wrong with a data set on disk; the message names the file, what is expected and what to do."""


def reader(name: str) -> ModuleType:
    """The module of one of the `NAMES`, or a `DataError`."""
    check_choice(NAMES, error=DataError, name=name)
    return import_module(f"iqa_lib.data.{name}")


@dataclass(frozen=True)
class Label:
    """A data set's label as downloaded. In the records, a higher score is always better, and `p_b` is P(B closer)."""

    name: str
    low: float
    high: float
    higher_is_better: bool


@dataclass(frozen=True)
class Pair:
    """A distorted image beside its reference, with its human score (higher = better)."""

    reference: Path
    distorted: Path
    score: float
    reference_id: str
    original: float
    kind: str = ""

    images = property(attrgetter("reference", "distorted"))
    target = property(attrgetter("score"))


@dataclass(frozen=True)
class Triplet:
    """Two distorted images of one reference, with the share of people to whom B looks closer to it than A."""

    reference: Path
    a: Path
    b: Path
    p_b: float
    reference_id: str
    original: float
    kind_a: str = ""
    kind_b: str = ""

    images = property(attrgetter("reference", "a", "b"))
    target = property(attrgetter("p_b"))


class IQADataset(Dataset):
    """Map-style data set: one side, `split`, of the data set `name`, with its `label` as downloaded.

    `dataset[i]` is `(reference, distorted, score)` or `(reference, a, b, p_b)`: images float RGB `(3, H, W)` in [0, 1],
    the target a float32 scalar. `records` are pairs or triplets, not both; none is a `DataError`.

    With `pixel_cache` every image is decoded once and its pixels (8 bits, uncompressed) are kept in the cache folder;
    otherwise only the references read last are kept, in memory.
    """

    def __init__(self, name: str, split: str, records: Sequence[Pair] | Sequence[Triplet], label: Label):
        if not records:
            raise DataError(f"{name}: no record in split {split!r}: check the split's name and the data set's folder")
        self.name, self.split, self.label = name, split, label
        self.records = tuple(records)
        self.pixel_cache = False

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        *images, target = self.read(index)
        return *(image.float() / 255 for image in images), target

    def read(self, index: int) -> tuple[Tensor, ...]:
        """Record `index` as uint8 images `(3, H, W)` and its float32 target."""
        record = self.records[index]
        reference, *others = record.images
        if self.pixel_cache:
            images = tuple(read_kept(path) for path in record.images)
        else:
            images = _read_reference(reference, reference.stat().st_mtime_ns), *(read_image(path) for path in others)
        if len({image.shape for image in images}) > 1:
            sizes = [f"{path.name} {i.shape[2]}x{i.shape[1]}" for path, i in zip(record.images, images, strict=True)]
            raise DataError(f"{reference.parent}: got unequal sizes {', '.join(sizes)}, expected one size in a record")
        return *images, torch.tensor(record.target, dtype=torch.float32)

    def image(self, path: Path) -> Tensor:
        """One image of the records, float RGB `(3, H, W)` in [0, 1]."""
        return (read_kept if self.pixel_cache else read_image)(path).float() / 255

    @property
    def reference_ids(self) -> list[str]:
        """One id per record, by which a split or a bootstrap over references groups."""
        return [record.reference_id for record in self.records]

    @property
    def targets(self) -> Tensor:
        """All targets, `(N,)`."""
        return torch.tensor([record.target for record in self.records], dtype=torch.float32)

    def paths(self) -> Iterator[Path]:
        """Every image file of the records once, in order of first use."""
        return iter(dict.fromkeys(path for record in self.records for path in record.images))

    def fingerprint(self) -> str:
        """SHA-256 over file names, reference ids and labels of the records, in order (not over pixels)."""
        digest = hashlib.sha256(f"{self.name}/{self.split}".encode())
        for record in self.records:
            names = "/".join(path.name for path in record.images)
            digest.update(f"\n{names},{record.reference_id},{record.target!r}".encode())
        return digest.hexdigest()


@lru_cache(maxsize=8)
def _read_reference(path: Path, time: int) -> Tensor:
    return read_image(path)

"""Data sets of reference and distorted images with human scores: `load(name, root)` and `check(name, root)`."""

from importlib import import_module
from pathlib import Path

from iqa_lib.data.base import DataError, IQADataset, Label, Pair, Triplet
from iqa_lib.data.check import check, where

__all__ = ["NAMES", "DataError", "IQADataset", "Label", "Pair", "Triplet", "check", "load", "where"]

NAMES = ("demo", "clic", "bapps", "pieapp", "pipal", "kadid10k", "tid2013", "live", "csiq")


def load(
    name: str,
    root: Path | str | None = None,
    *,
    split: str = "train",
    seed: int = 0,
    pixel_cache: bool = False,
    **options,
) -> IQADataset:
    """Load one side of a data set's split.

    Args:
        name: One of `NAMES`.
        root: The folder that the data set's archives were unpacked into; the demo set makes its own.
        split: `"train"`, `"test"` or what else the data set offers; `"all"` for every record.
        seed: Number of the split by reference, where the data set has no official one.
        pixel_cache: Decode every image once and for all, see `IQADataset`.
        **options: The data set's own, see its module `iqa_lib.data.<name>`.

    Raises:
        DataError: Unknown name, no folder, or something missing in it; the message names it and the official page.
    """
    if name not in NAMES:
        raise DataError(f"data set {name!r} is unknown, expected one of {', '.join(NAMES)}")
    module = import_module(f"iqa_lib.data.{name}")
    dataset = module.load(Path(root) if root else None, split=split, seed=seed, **options)
    dataset.pixel_cache = pixel_cache
    return dataset

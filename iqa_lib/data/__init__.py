"""Data sets of reference and distorted images with human scores: `load(name, root)` and `check(name, root)`."""

from pathlib import Path

from pandas import DataFrame

from iqa_lib.data.base import NAMES, DataError, IQADataset, Label, Pair, Triplet, reader
from iqa_lib.data.check import check, where
from iqa_lib.data.folder import load_side

__all__ = ["NAMES", "DataError", "IQADataset", "Label", "Pair", "Triplet", "check", "load", "sides_table", "where"]


def load(
    name: str, root: Path | str | None = None, *, split="train", seed=0, pixel_cache=False, **options
) -> IQADataset:
    """Load one side of a data set's split.

    Args:
        name: One of `NAMES`.
        root: The folder that the data set's archives were unpacked into; not needed for the demo set.
        split: `"train"`, `"test"` or what else the data set offers; `"all"` for every record.
        seed: Number of the split by reference, where there is no official one.
        pixel_cache: Decode every image only once, see `IQADataset`.
        **options: `by="row"` to split by record (see `iqa_lib.data.folder.deal`), and the options of the data set's own
            module: those of `demo.load`, or of `records` elsewhere.

    Raises DataError for an unknown name, no folder, or something missing in it: it is named with the official page.
    """
    module, root = reader(name), Path(root) if root else None
    options |= {"split": split, "seed": seed}
    dataset = module.load(root, **options) if name == "demo" else load_side(module, root, **options)
    dataset.pixel_cache = pixel_cache
    return dataset


def sides_table(sides: dict[str, IQADataset]) -> DataFrame:
    """One row per side: its name, data set, number of records and of references, and label."""
    rows = [(side, s.name, len(s), len(set(s.reference_ids)), s.label.name) for side, s in sides.items()]
    return DataFrame(rows, columns=["side", "data set", "records", "references", "label"])

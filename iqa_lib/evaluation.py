"""From a model and the windows of a data set to one prediction a record, and how well these agree with people."""

from collections.abc import Iterator

import pandas as pd
import torch
from torch import Tensor, nn

from iqa_lib.baselines import Baseline, prefer
from iqa_lib.data.base import IQADataset, Pair, Triplet
from iqa_lib.data.crops import Crops
from iqa_lib.features import FixedFeatures
from iqa_lib.metrics import (
    Calibration,
    Estimate,
    calibration,
    krocc,
    logistic_fit,
    plcc,
    rmse,
    srocc,
    two_afc_accuracy,
)
from iqa_lib.progress import progress
from iqa_lib.training import to_device

__all__ = [
    "Calibration",
    "Estimate",
    "calibration",
    "krocc",
    "logistic_fit",
    "look",
    "plcc",
    "predict",
    "predict_baseline",
    "rmse",
    "srocc",
    "two_afc_accuracy",
]


@torch.inference_mode()
def predict(
    model: nn.Module, views: Crops | FixedFeatures, *, max_batch: int = 16, precision: str = "fp32"
) -> pd.DataFrame:
    """Predict every record from all its windows.

    A pair's prediction is the mean score of its windows; a triplet's the mean probability that B is the closer one.
    Each record stands for itself: its neighbours have no influence beyond the last float digits.

    Args:
        model: A pair or triplet model; evaluated in eval mode, on the device it is on.
        views: The records' windows, or their features.
        max_batch: Windows that go through the model at a time: the bound on memory.
        precision: `"fp32"`, or `"bf16"` autocast.

    Returns:
        One row a record, in order: `reference_id`, file names (`reference`, `distorted` or `a`, `b`), kinds of
        distortion, `target`, `prediction`.
    """
    model.eval()
    device = next(model.parameters()).device
    records = views.dataset.records
    totals, counts = torch.zeros(len(records)), torch.zeros(len(records))
    triplets = isinstance(records[0], Triplet)
    for owners, inputs in _batches(views, max_batch):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            output = model(*to_device(inputs, device)).float().cpu()
        totals.index_add_(0, owners, output.sigmoid() if triplets else output)
        counts.index_add_(0, owners, torch.ones(len(owners)))
    rows = [_row(record) | {"target": record.target} for record in records]
    return pd.DataFrame(rows).assign(prediction=(totals / counts).numpy())


@torch.inference_mode()
def look(model: nn.Module, dataset: IQADataset, index: int) -> tuple[list[Tensor], float, dict[str, Tensor]]:
    """What a model makes of one record's whole images, with its maps.

    Returns:
        The images `(3, H, W)` in [0, 1]; the score, or for triplets the probability that B is the closer one; the maps.
    """
    model.eval()
    *images, _ = dataset[index]
    output, maps = model(*to_device([i[None] for i in images], next(model.parameters()).device), return_maps=True)
    value = output.sigmoid() if isinstance(dataset.records[0], Triplet) else output
    return images, value.item(), maps


@torch.inference_mode()
def predict_baseline(baseline: Baseline, dataset: IQADataset) -> pd.DataFrame:
    """The table of `predict` for a baseline on whole images: its score, or for triplets 0, 1 or 0.5 (a tie)."""
    values = []
    for index in progress(range(len(dataset)), baseline.name):
        *images, _ = (item[None] for item in dataset[index])
        values.append(float(prefer(baseline, *images) if len(images) == 3 else baseline.score(*images)))
    rows = [_row(record) | {"target": record.target} for record in dataset.records]
    return pd.DataFrame(rows).assign(prediction=values)


def _row(record: Pair | Triplet) -> dict:
    columns = ("reference", "a", "b") if isinstance(record, Triplet) else ("reference", "distorted")
    names = {column: path.name for column, path in zip(columns, record.images, strict=True)}
    kinds = {key: value for key, value in vars(record).items() if key.startswith("kind")}
    return {"reference_id": record.reference_id} | names | kinds


def _batches(views: Crops | FixedFeatures, max_batch: int) -> Iterator[tuple[Tensor, list]]:
    """Windows of consecutive records, of one shape and at most `max_batch`, with the number of each one's record."""
    waiting: list[tuple[Tensor, list]] = []
    for index in progress(range(len(views)), "predicting"):
        *images, _ = views.all(index)
        for start in range(0, len(_first(images)), max_batch):
            part = [_sliced(image, slice(start, start + max_batch)) for image in images]
            owners = torch.full((len(_first(part)),), index)
            full = sum(len(numbers) for numbers, _ in waiting) + len(owners) > max_batch
            if waiting and (full or _first(part).shape[1:] != _first(waiting[0][1]).shape[1:]):
                yield _joined(waiting)
                waiting = []
            waiting.append((owners, part))
    yield _joined(waiting)


def _first(item: Tensor | list) -> Tensor:
    return item if isinstance(item, Tensor) else _first(item[0])


def _sliced(item: Tensor | list, window: slice) -> Tensor | list:
    return item[window] if isinstance(item, Tensor) else [_sliced(part, window) for part in item]


def _joined(parts: list[tuple[Tensor, list]]) -> tuple[Tensor, list]:
    def join(items):
        return torch.cat(items) if isinstance(items[0], Tensor) else [join(group) for group in zip(*items, strict=True)]

    return torch.cat([owners for owners, _ in parts]), join([inputs for _, inputs in parts])

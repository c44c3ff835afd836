"""From a model and the crops of a data set to one prediction a record, and how well these agree with people."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from random import SystemRandom

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor, nn

from iqa_lib import baselines
from iqa_lib.baselines import Baseline, b_is_closer
from iqa_lib.data.base import IQADataset, Pair, Triplet
from iqa_lib.devices import to_device
from iqa_lib.files import atomic, cache_dir, file_key, sha256
from iqa_lib.metrics import (
    AGREEMENT,
    Calibration,
    Estimate,
    agreement,
    agreements,
    calibration,
    krocc,
    logistic_fit,
    plcc,
    rmse,
    srocc,
    two_afc_accuracy,
)
from iqa_lib.progress import progress
from iqa_lib.views import Crops, FixedFeatures

__all__ = [
    "AGREEMENT",
    "Calibration",
    "Estimate",
    "agreement",
    "agreements",
    "baseline_scores",
    "calibration",
    "crop_outputs",
    "krocc",
    "logistic_fit",
    "look",
    "mean_outputs",
    "metric_scores",
    "most_disputed",
    "plcc",
    "predict",
    "predict_baseline",
    "prediction_table",
    "rmse",
    "srocc",
    "two_afc_accuracy",
]

AVERAGES = ("probability", "logit")


@torch.inference_mode()
def predict(
    model: nn.Module,
    views: Crops | FixedFeatures,
    *,
    max_batch: int = 16,
    precision: str = "fp32",
    average: str = "probability",
) -> pd.DataFrame:
    """Predict every record from all its crops: `prediction_table` of `crop_outputs`, see there."""
    return prediction_table(
        views.dataset, crop_outputs(model, views, max_batch=max_batch, precision=precision), average=average
    )


@torch.inference_mode()
def crop_outputs(
    model: nn.Module,
    views: Crops | FixedFeatures,
    *,
    max_batch: int = 16,
    precision: str = "fp32",
    call: Callable[..., Tensor] | None = None,
) -> list[Tensor]:
    """What a model gives for each crop of each record.

    Each record stands for itself: its neighbours have no influence beyond the last float digits.

    Args:
        model: A pair or triplet model; evaluated in eval mode, on the device it is on.
        views: The records' crops, or their features.
        max_batch: Crops that go through the model at a time: the bound on memory.
        precision: `"fp32"`, or `"bf16"` autocast.
        call: What of the model is asked, instead of the model itself, such as `model.pooled`.

    Returns:
        One tensor `(crops,)` a record, in order: scores, or for triplets logits that B is the closer one.
    """
    model.eval()
    device = next(model.parameters()).device
    owners, outputs = [], []
    for numbers, inputs in _batches(views, max_batch):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            outputs.append((call or model)(*to_device(inputs, device)).float().cpu())
        owners.append(numbers)
    return list(torch.cat(outputs).split(torch.cat(owners).bincount(minlength=len(views)).tolist()))


def mean_outputs(outputs: Sequence[Tensor], crops: int | None = None) -> Tensor:
    """Each record's mean over its crops (or the first so many), `(records, ...)`, of what `crop_outputs` gave."""
    return torch.stack([output[:crops].mean(0) for output in outputs])


def prediction_table(
    dataset: IQADataset, outputs: Sequence[Tensor], *, average: str = "probability", crops: int | None = None
) -> pd.DataFrame:
    """One prediction a record from the outputs of its crops.

    Args:
        dataset: The records.
        outputs: From `crop_outputs`.
        average: What a triplet's prediction is: `"probability"`, the mean of its crops' probabilities that B is the
            closer one; or `"logit"`, the probability that belongs to their mean logit. A pair's is the mean score.
        crops: Take the first so many crops only.

    Returns:
        One row a record, in order: `reference_id`, file names (`reference`, `distorted` or `a`, `b`), kinds of
        distortion, `target`, `prediction`, and for triplets `logit`, the mean logit.
    """
    if average not in AVERAGES:
        raise ValueError(f"average: got {average!r}, expected one of {AVERAGES}")
    means = mean_outputs(outputs, crops)
    rows = pd.DataFrame([_row(record) | {"target": record.target} for record in dataset.records])
    if not isinstance(dataset.records[0], Triplet):
        return rows.assign(prediction=means.numpy())
    shares = torch.stack([output[:crops].sigmoid().mean() for output in outputs])
    return rows.assign(
        prediction=(shares if average == "probability" else means.sigmoid()).numpy(), logit=means.numpy()
    )


@torch.inference_mode()
def look(
    model: nn.Module, views: IQADataset | Crops, index: int, crop: int | None = None
) -> tuple[list[Tensor], float, dict[str, Tensor]]:
    """What a model makes of one record, with its maps: of the whole images of a data set, or of one crop of `Crops`.

    Without a number it is the crop where the reference varies most: the first may be a piece of sky.

    Returns:
        The images `(3, H, W)` in [0, 1]; the score, or for triplets the probability that B is the closer one; the maps.
    """
    model.eval()
    if isinstance(views, Crops):
        *cut, _ = views.all(index)
        chosen = cut[0].float().std(dim=(1, 2, 3)).argmax() if crop is None else crop
        images, records = [image[chosen].float() / 255 for image in cut], views.dataset.records
    else:
        (*images, _), records = views[index], views.records
    output, maps = model(*to_device([i[None] for i in images], next(model.parameters()).device), return_maps=True)
    value = output.sigmoid() if isinstance(records[0], Triplet) else output
    return images, value.item(), maps


def predict_baseline(baseline: Baseline, dataset: IQADataset) -> pd.DataFrame:
    """The table of `predict` for a baseline on whole images: its score, or for triplets 0, 1 or 0.5 (a tie).

    The infinite PSNR of an image that equals its reference counts as 100 dB.
    """
    scores = baseline_scores(baseline, dataset)
    values = b_is_closer(baseline, *scores.T) if scores.shape[1] == 2 else scores[:, 0].clip(max=100)
    rows = [_row(record) | {"target": record.target} for record in dataset.records]
    return pd.DataFrame(rows).assign(prediction=values)


def metric_scores(metrics: Sequence[Baseline], dataset: IQADataset) -> Tensor:
    """Several baselines' scores of triplets, `(records, metrics, 2)` of A and of B; infinities count as 100 (dB)."""
    scores = [baseline_scores(metric, dataset).clip(-100, 100) for metric in metrics]
    return torch.tensor(np.stack(scores, axis=1), dtype=torch.float32)


@torch.inference_mode()
def baseline_scores(baseline: Baseline, dataset: IQADataset) -> np.ndarray:
    """A baseline's scores of whole images, each pair of images computed once and kept in the cache folder.

    Kept a file a reference, under a key made of the metric, its library, its weights and our code that calls it; the
    images go by their files' place, size and time.

    Returns:
        float64 `(records, 1)`; for triplets `(records, 2)`, of A and of B.
    """
    code = sha256(Path(baselines.__file__)), version(baseline.library), version("torch")
    key = hashlib.sha256(repr((baseline.name, baseline.max_pixels, baseline.weights, code)).encode()).hexdigest()[:16]
    keys = {path: file_key(path) for path in dataset.paths()}
    of_reference: dict[Path, list[int]] = {}
    for index, record in enumerate(dataset.records):
        of_reference.setdefault(record.images[0], []).append(index)
    folder = cache_dir() / "scores" / f"{baseline.name}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    scores = np.empty((len(dataset), len(dataset.records[0].images) - 1))
    shuffled = SystemRandom().sample(list(of_reference.items()), len(of_reference))  # runs at once share the work
    for reference, indices in progress(shuffled, baseline.name):
        known = _kept_scores(baseline, dataset, indices, keys, folder / f"{keys[reference]}.json")
        for index in indices:
            scores[index] = [known[keys[path]] for path in _distorted(dataset, index)]
    return scores


def _kept_scores(
    baseline: Baseline, dataset: IQADataset, indices: Sequence[int], keys: dict[Path, str], file: Path
) -> dict[str, float]:
    """A baseline's scores of one reference's distorted images by their keys: those kept in `file`, and the rest."""
    with FileLock(file.with_suffix(".lock")):
        known = json.loads(file.read_text()) if file.exists() else {}
        wanted = {
            keys[path]: (index, place) for index in indices for place, path in enumerate(_distorted(dataset, index))
        }
        missing = {name: where for name, where in wanted.items() if name not in known}
        for name, (index, place) in missing.items():
            reference, *distorted, _ = dataset[index]
            known[name] = baseline.score(reference[None], distorted[place][None]).item()
        if missing:
            with atomic(file) as temporary:
                temporary.write_text(json.dumps(known))
    return known


def _distorted(dataset: IQADataset, index: int) -> Sequence[Path]:
    return dataset.records[index].images[1:]


def most_disputed(table: pd.DataFrame, sign: int = 1) -> tuple[int, int]:
    """Two images of one reference whose order people and a metric dispute the most, by ranks over the table.

    Args:
        table: Predictions of pairs.
        sign: -1 where a lower prediction is better.

    Returns:
        The record that people put higher than the metric does, and the one that the metric puts higher.
    """
    gap = (sign * table.prediction).rank() - table.target.rank()
    gaps = gap.groupby(table.reference_id)
    widest = gap[table.reference_id == (gaps.max() - gaps.min()).idxmax()]
    return int(widest.idxmin()), int(widest.idxmax())


def _row(record: Pair | Triplet) -> dict:
    columns = ("reference", "a", "b") if isinstance(record, Triplet) else ("reference", "distorted")
    names = {column: path.name for column, path in zip(columns, record.images, strict=True)}
    kinds = {key: value for key, value in vars(record).items() if key.startswith("kind")}
    return {"reference_id": record.reference_id} | names | kinds


def _batches(views: Crops | FixedFeatures, max_batch: int) -> Iterator[tuple[Tensor, list]]:
    """Crops of consecutive records, of one shape and at most `max_batch`, with the number of each one's record."""
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


def _sliced(item: Tensor | list, crop: slice) -> Tensor | list:
    return item[crop] if isinstance(item, Tensor) else [_sliced(part, crop) for part in item]


def _joined(parts: list[tuple[Tensor, list]]) -> tuple[Tensor, list]:
    def join(items):
        return torch.cat(items) if isinstance(items[0], Tensor) else [join(group) for group in zip(*items, strict=True)]

    return torch.cat([owners for owners, _ in parts]), join([inputs for _, inputs in parts])

"""From a model and a view of a data set to one prediction per record, and its agreement with human scores."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from random import SystemRandom

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from iqa_lib import baselines
from iqa_lib.baselines import Baseline, b_is_closer
from iqa_lib.checks import check_choice
from iqa_lib.data.base import IQADataset, Triplet
from iqa_lib.devices import CPU, ahead, device_of, digits_of, exact_kernels, to_device
from iqa_lib.files import cache_dir, file_key, intact, locked, read_json, sha256, write_json
from iqa_lib.metrics import (  # noqa: F401 (for callers of this module)
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
from iqa_lib.views import Crops, View, crop_places, first_tensor


def predict(model: nn.Module, view: View, *, average: str = "probability", **options) -> pd.DataFrame:
    """Predict every record from all its crops: the `prediction_table` of `crop_outputs`, which takes the options."""
    return prediction_table(view.dataset, crop_outputs(model, view, **options), average=average)


@exact_kernels()
@torch.inference_mode()
def crop_outputs(model: nn.Module, view: View, *, max_batch: int = 16, call: Callable | None = None) -> list[Tensor]:
    """The output of a pair or triplet model, in eval mode and on the device it is on, for each crop of each record.

    Returns one tensor `(crops,)` per record, in order: scores, or for triplets logits of B being the closer one.
    Records that share a batch influence each other by no more than the last float digits.

    Args:
        max_batch: Crops that go through the model at a time: the bound on memory.
        call: Called instead of the model itself, such as `model.pooled`.
    """
    model.eval()
    device = device_of(model)
    owners, outputs = [], []
    for numbers, inputs in _batches(view, max_batch, device):
        outputs.append((call or model)(*to_device(inputs, device)).float().cpu())
        owners.append(numbers)
    return list(torch.cat(outputs).split(torch.cat(owners).bincount(minlength=len(view)).tolist()))


def mean_outputs(outputs: Sequence[Tensor], crops: int | None = None) -> Tensor:
    """Each record's mean over its crops, or the first `crops` of them, of `crop_outputs`: `(records, ...)`."""
    return torch.stack([output[:crops].mean(0) for output in outputs])


def prediction_table(
    dataset: IQADataset, outputs: Sequence[Tensor], *, average: str = "probability", crops: int | None = None
) -> pd.DataFrame:
    """One prediction per record from the `crop_outputs` of its crops, or of the first `crops` of them.

    A pair's is the mean score; a triplet's `average` is `"probability"`, the mean of its crops' probabilities that B is
    the closer one, or `"logit"`, the probability of their mean logit.

    Returns one row per record, in order: `reference_id`, file names (`reference`, `distorted` or `a`, `b`), kinds of
    distortion, `target`, `prediction`, and for triplets `logit`, the mean logit.
    """
    check_choice(("probability", "logit"), average=average)
    means = mean_outputs(outputs, crops)
    if not isinstance(dataset.records[0], Triplet):
        return _rows(dataset).assign(prediction=means.numpy())
    shares = torch.stack([output[:crops].sigmoid().mean() for output in outputs])
    probability = shares if average == "probability" else means.sigmoid()
    return _rows(dataset).assign(prediction=probability.numpy(), logit=means.numpy())


@torch.inference_mode()
def look(
    model: nn.Module, view: IQADataset | Crops, index: int, crop: int | None = None
) -> tuple[list[Tensor], float, dict[str, Tensor]]:
    """A model's answer to one record, with its maps: to the whole images of a data set, or to one crop of `Crops`.

    Without a number this is the crop where the reference varies most: the first may be a piece of sky. Returns the
    images `(3, H, W)` in [0, 1]; the score, or for triplets the probability that B is the closer one; and the maps.
    """
    model.eval()
    if isinstance(view, Crops):
        *cut, _ = view.all(index)
        chosen = cut[0].float().std(dim=(1, 2, 3)).argmax() if crop is None else crop
        images, records = [image[chosen].float() / 255 for image in cut], view.dataset.records
    else:
        (*images, _), records = view[index], view.records
    output, maps = maps_of(model, *images)
    value = torch.tensor(output).sigmoid().item() if isinstance(records[0], Triplet) else output
    return images, value, maps


@exact_kernels()
@torch.inference_mode()
def maps_of(model: nn.Module, *images: Tensor) -> tuple[float, dict[str, Tensor]]:
    """A model's output for the images `(3, H, W)` of one record, in eval mode, and its maps."""
    output, maps = model.eval()(*to_device([image[None] for image in images], device_of(model)), return_maps=True)
    return output.item(), maps


@exact_kernels()
@torch.inference_mode()
def maps_of_crops(model: nn.Module, size: int, *images: Tensor) -> tuple[list[Tensor], Tensor, dict[str, Tensor]]:
    """The maps of whole images `(3, H, W)` by a model that takes crops: those of all its crops, side by side.

    Crops are `size` pixels a side and do not overlap. Returns the images, without what is left at the right and below;
    the output of each crop, `(1, 1, rows, columns)`; and the maps, `(1, C, rows * h, columns * w)`.
    """
    images = cut_to_multiples(size, *images)
    height, width = images[0].shape[1:]
    places = crop_places("grid", height, width, size)
    crops = [torch.stack([image[:, y : y + size, x : x + size] for y, x in places]) for image in images]
    outputs, maps = model.eval()(*to_device(crops, device_of(model)), return_maps=True)
    maps = {name: _side_by_side(values, width // size) for name, values in maps.items()}
    return images, _side_by_side(outputs, width // size), maps


def cut_to_multiples(size: int, *images: Tensor) -> list[Tensor]:
    """Images `(3, H, W)` without what their sides have more than a multiple of `size`, at the right and below."""
    return [image[:, : image.shape[1] // size * size, : image.shape[2] // size * size] for image in images]


def _side_by_side(values: Tensor, columns: int) -> Tensor:
    """Crops' numbers `(K,)` or maps `(K, C, h, w)`, in the order of reading, as one map `(1, C, rows * h, ...)`."""
    crops = values.reshape(-1, columns, *(values.shape[1:] or (1, 1, 1)))  # (rows, columns, C, h, w)
    return torch.cat([torch.cat([*row], dim=-1) for row in crops], dim=-2)[None]


def disputed_images(dataset: IQADataset, table: pd.DataFrame) -> list[Tensor]:
    """Reference, A and B on which human scores and a metric's `table` disagree most: of triplets, the worst mistake."""
    if isinstance(dataset.records[0], Triplet):
        return list(dataset[worst_mistakes(table, 1)[0]][:3])
    a, b = most_disputed(table)
    return [dataset[a][0], dataset[a][1], dataset[b][1]]


def predict_baseline(baseline: Baseline, dataset: IQADataset) -> pd.DataFrame:
    """`predict` for a baseline on whole images: its score, at most 100 (dB); for triplets 0, 1 or 0.5 (a tie)."""
    scores = baseline_scores(baseline, dataset)
    values = b_is_closer(baseline, *scores.T) if scores.shape[1] == 2 else scores[:, 0].clip(max=100)
    return _rows(dataset).assign(prediction=values)


def metric_scores(metrics: Sequence[Baseline], dataset: IQADataset) -> Tensor:
    """Several baselines' scores of triplets, of A and of B: `(records, metrics, 2)`; infinities count as 100 (dB)."""
    scores = [baseline_scores(metric, dataset).clip(-100, 100) for metric in metrics]
    return torch.tensor(np.stack(scores, axis=1), dtype=torch.float32)


@exact_kernels()
@torch.inference_mode()
def baseline_scores(baseline: Baseline, dataset: IQADataset) -> np.ndarray:
    """A baseline's scores of whole images, each pair of images computed once and kept in the cache folder.

    One file per reference, under a key of the metric, its library, its weights, our code that calls it and the number
    of threads, or that a GPU computes it; images are known by their files' path, size and time. Returns float64
    `(records, 1)`; for triplets `(records, 2)`, of A and B.
    """
    ours = Path(baselines.__file__), Path(baselines.__file__).with_name("models") / "st_lpips.py"
    code = *map(sha256, ours), version(baseline.library), version("torch"), digits_of(baseline.device or CPU)
    key = hashlib.sha256(repr((baseline.name, baseline.max_pixels, baseline.weights, code)).encode()).hexdigest()[:16]
    keys = {path: file_key(path) for path in dataset.paths()}
    of_reference: dict[Path, list[int]] = {}
    for index, record in enumerate(dataset.records):
        of_reference.setdefault(record.images[0], []).append(index)
    folder = cache_dir() / "scores" / f"{baseline.name}-{key}"
    scores = np.empty((len(dataset), len(dataset.records[0].images) - 1))
    shuffled = SystemRandom().sample(list(of_reference.items()), len(of_reference))  # concurrent runs share the work
    for reference, indices in progress(shuffled, baseline.name):
        known = _kept_scores(baseline, dataset, indices, keys, folder / f"{keys[reference]}.json")
        for index in indices:
            scores[index] = [known[keys[path]] for path in dataset.records[index].images[1:]]
    return scores


def _kept_scores(
    baseline: Baseline, dataset: IQADataset, indices: Sequence[int], keys: dict[Path, str], file: Path
) -> dict[str, float]:
    """A baseline's scores of one reference's distorted images by their keys: those kept in `file`, and the rest."""
    distorted = [path for index in indices for path in dataset.records[index].images[1:]]
    known = intact(file, read_json, {})
    if all(keys[path] in known for path in distorted):
        return known
    with locked(file.with_suffix(".lock")):
        known = intact(file, read_json, {})
        missing = {keys[path]: path for path in distorted if keys[path] not in known}
        if missing:
            score = baseline.scorer(dataset.image(dataset.records[indices[0]].images[0])[None])
            images = ahead(dataset.image, missing.values(), baseline.device or CPU)
            for (name, path), image in zip(missing.items(), images, strict=True):
                try:
                    known[name] = score(image[None]).item()
                except ValueError as error:
                    raise ValueError(f"{path}: {error}") from error
            write_json(file, known)
    return known


def worst_mistakes(table: pd.DataFrame, count: int, sign: int = 1) -> list[int]:
    """The `count` records whose prediction is farthest from their target, the farthest first.

    Triplets are compared by value, pairs by their ranks in the table, with `sign` -1 if lower predictions are better.
    """
    triplets = {"a", "b"} <= set(table)
    gap = table.prediction - table.target if triplets else (sign * table.prediction).rank() - table.target.rank()
    return gap.abs().sort_values(ascending=False).index[:count].tolist()


def most_disputed(table: pd.DataFrame, sign: int = 1) -> tuple[int, int]:
    """Two pairs of one reference on whose order human scores and a metric disagree most, by ranks in the table.

    Human scores rank the first one higher than the metric does, the metric the second; `sign` is -1 if lower is better.
    """
    gap = (sign * table.prediction).rank() - table.target.rank()
    gaps = gap.groupby(table.reference_id)
    widest = gap[table.reference_id == (gaps.max() - gaps.min()).idxmax()]
    return int(widest.idxmin()), int(widest.idxmax())


def _rows(dataset: IQADataset) -> pd.DataFrame:
    """Each record's reference id, file names, kinds of distortion and target."""
    columns = ("reference", "a", "b") if isinstance(dataset.records[0], Triplet) else ("reference", "distorted")
    return pd.DataFrame(
        {"reference_id": record.reference_id}
        | {column: path.name for column, path in zip(columns, record.images, strict=True)}
        | {key: value for key, value in vars(record).items() if key.startswith("kind")}
        | {"target": record.target}
        for record in dataset.records
    )


def _batches(view: View, max_batch: int, device: torch.device) -> Iterator[list]:
    """Indices of records, and their crops: of consecutive records, of one shape and at most `max_batch` at a time."""
    waiting: list[tuple[Tensor, list]] = []
    items = ahead(view.all, range(len(view)), device)
    for index, (*images, _) in enumerate(progress(items, "predicting", total=len(view))):
        for start in range(0, len(first_tensor(images)), max_batch):
            part = _sliced(images, slice(start, start + max_batch))
            owners = torch.full((len(first_tensor(part)),), index)
            full = sum(len(numbers) for numbers, _ in waiting) + len(owners) > max_batch
            if waiting and (full or first_tensor(part).shape[1:] != first_tensor(waiting[0][1]).shape[1:]):
                yield _joined(waiting)
                waiting = []
            waiting.append((owners, part))
    yield _joined(waiting)


def _sliced(item: Tensor | list, crop: slice) -> Tensor | list:
    return item[crop] if isinstance(item, Tensor) else [_sliced(part, crop) for part in item]


def _joined(items: Sequence) -> Tensor | list:
    return torch.cat(items) if isinstance(items[0], Tensor) else [_joined(group) for group in zip(*items, strict=True)]

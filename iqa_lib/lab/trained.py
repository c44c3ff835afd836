"""Metrics made of trained networks: those of this repository's runs, and the authors'."""

import math
from collections.abc import Sequence
from inspect import signature
from pathlib import Path

import torch
from torch import Tensor, nn

from iqa_lib import models
from iqa_lib.baselines import BASELINES
from iqa_lib.devices import to_device
from iqa_lib.evaluation import crop_outputs, mean_outputs
from iqa_lib.files import DamagedError, sha256
from iqa_lib.lab import records
from iqa_lib.lab.networks import NETWORKS, metric_names
from iqa_lib.lab.parameters import crops_of_test
from iqa_lib.lab.scoring import Metric, of_baseline
from iqa_lib.models import IQATMFM, CFANet, FusedIQATMFM, iqa_tmfm
from iqa_lib.models.rebuild import rebuilt
from iqa_lib.training import load_weights
from iqa_lib.views import Crops
from iqa_lib.weights import AUTHORS, WeightsError


class Loose(list):
    """Records' images in memory: what `Crops` needs of a data set."""

    def read(self, index: int) -> tuple[Tensor, ...]:
        return *self[index], torch.tensor(math.nan)


def of_authors(name: str, path: Path, device: torch.device | str, options: dict) -> Metric:
    """A network of the authors' file; options that its constructor does not take raise ValueError."""
    network = getattr(models, NETWORKS[name].model)
    if unknown := set(options) - set(signature(network).parameters):
        known = ", ".join(signature(network).parameters)
        raise ValueError(f"{name}: got the options {', '.join(sorted(unknown))}, expected some of {known}")
    try:
        model = to_device(network.from_author_checkpoint(path, **options), device).eval()
    except (TypeError, KeyError, AttributeError) as error:  # an option of a wrong type
        raise ValueError(f"{name}: got {options}, of which {network.__name__} can make no network: {error}") from error
    views = {"protocol": "whole"} if network is CFANet else {"protocol": "grid", "size": 224, "count": 0}
    if network is IQATMFM:
        views["size"] = model.crop
    digest, (file, licence) = sha256(path), AUTHORS.get(name, ("", ""))
    released = f", licence {licence}" if file and digest[:8] in file else ""
    origin = f"{network.__name__}, the authors' {path.name} (sha256 {digest[:12]}){released}"
    return _of_model(name, origin, model, views)


def of_run(folder: Path, device: torch.device | str, wanted: str | None = None) -> Metric:
    """The network of a finished run, which sees images as in the run's own test."""
    model, record = load_run(folder)
    kind = type(model.network if isinstance(model, FusedIQATMFM) else model).__name__
    name = next((name for name, network in NETWORKS.items() if network.model == kind), kind)
    if wanted and wanted != name:
        raise ValueError(f"metric: got {wanted!r}, but {folder} is a run of {name}: give metric={name!r}")
    given = record["parameters"]
    views = crops_of_test(given) | {"seed": given["seed"], "enlarge": True}
    digest = record["files"][records.WEIGHTS][:12]
    origin = f"run {folder} (sha256 {digest})" + (
        ", a demo number: trained on simulated labels" if records.is_demo(record) else ""
    )
    options = {"max_batch": given["max_batch"]} if "max_batch" in given else {}
    if isinstance(model, FusedIQATMFM):  # "auto": the metrics that need no weights, or that had theirs
        auto = [name for name in iqa_tmfm.METRICS if not BASELINES[name].needs_weights or name in record["weights"]]
        options["metrics"] = [of_baseline(name, None, device) for name in metric_names(given["metrics"], auto)]
    return _of_model(name, origin, to_device(model, device), views, raw=given.get("loss") == "mse", **options)


def load_run(folder: Path | str) -> tuple[nn.Module, dict]:
    """The network that a run trained, in eval mode, and the run's record.

    A folder without a finished run, or a network that cannot be rebuilt, raises ValueError; weights that are missing,
    damaged or do not fit, WeightsError.
    """
    record, weights = records.read(folder), records.located(folder) / records.WEIGHTS
    if not record.get("model"):
        raise ValueError(f"{folder}: the record names no trained network: its notebook trains none, or it is too old")
    if not weights.is_file():
        raise WeightsError(f"{folder} holds no {weights.name}: run the row again, or copy the file too")
    model = rebuilt(record["model"])
    try:
        load_weights(model, records.checked(record, records.WEIGHTS))
    except DamagedError as error:
        raise WeightsError(str(error)) from error
    except Exception as error:  # safetensors and torch raise several of their own
        raise WeightsError(f"{weights} does not fit the network of its record ({error}): run the row again") from error
    return model, record


def _of_model(
    name: str, origin: str, model: nn.Module, views: dict, metrics: Sequence[Metric] = (), raw: bool = False, **options
) -> Metric:
    """A metric made of a network in eval mode: the mean over the crops that `views` describes.

    `metrics`: what a `FusedIQATMFM` fuses, in its order; `raw`: its output is a probability (IQA-TMFM's MSE row).
    """
    model = model.folded() if isinstance(model, CFANet) else model  # as notebook 06 tests it, and faster
    network = model.network if isinstance(model, FusedIQATMFM) else model
    triplets = not hasattr(model, "higher_is_better")

    def compute(*images: Tensor) -> float:
        size, (height, width) = views.get("size", 0), images[0].shape[1:]
        if min(height, width) < size and not views.get("enlarge"):
            raise ValueError(
                f"{name} takes crops of {size} px: got images of {width}x{height}, expected sides of at least {size}: "
                "enlarge all of them first"
            )
        outputs = crop_outputs(network, Crops(Loose([images]), **views), **options)
        if not triplets:
            return mean_outputs(outputs).item()
        if not isinstance(network, IQATMFM):
            return outputs[0].sigmoid().mean().item()
        logit = mean_outputs(outputs)
        if network is not model:
            reference, *others = images
            scores = [[max(-100.0, min(100.0, metric.compute(reference, x))) for x in others] for metric in metrics]
            logit = model.fuse(logit, torch.tensor([scores]))
        return (logit.clamp(0, 1) if raw else logit.sigmoid()).item()

    return Metric(name, origin, compute, getattr(model, "higher_is_better", True), triplets=triplets)

"""Scores of your own images, by a baseline, by the authors' networks, or by a run of this repository.

    iqa_lib.score("reference.png", "distorted.jpg", "ssim")
    iqa_lib.score("reference.png", "distorted.jpg", "outputs/demo/04_ahiq/table8_both/seed0")
    iqa_lib.prefer("reference.png", "a.jpg", "b.jpg", "outputs/demo/03_prfnet/table2_prfblock/seed0")
    metric = scoring.load("topiq-fr", checkpoint="cfanet_fr_kadid_res50-2c4cc61d.pth")     # once, for many images
    metric.score(reference, distorted)

Nothing is downloaded, resized or guessed: an input that does not fit is refused with advice. `python -m iqa_lib.score`
does the same on the command line, for single images, folders and CSV files.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from iqa_lib import baselines, models
from iqa_lib.baselines import BASELINES
from iqa_lib.devices import check_device, to_device
from iqa_lib.evaluation import crop_outputs, mean_outputs
from iqa_lib.files import DamagedError, sha256
from iqa_lib.images import as_image, exif_orientation
from iqa_lib.lab import records
from iqa_lib.lab.networks import NETWORKS, metric_names
from iqa_lib.lab.parameters import crops_of_test
from iqa_lib.models import IQATMFM, CFANet, FusedIQATMFM, iqa_tmfm
from iqa_lib.models.rebuild import rebuilt
from iqa_lib.training import load_weights
from iqa_lib.views import Crops
from iqa_lib.weights import WeightsError

PathLike = str | os.PathLike
ImageLike = PathLike | Image.Image | np.ndarray | Tensor

NO_WEIGHTS = "a metric that needs no weights: ssim, ms-ssim, gmsd, ... (`python -m iqa_lib.score --list`)"


class Score(float):
    """A number that prints with its `meaning`: metric, direction, range; computes like any float."""

    def __new__(cls, value: float, meaning: str = ""):
        number = super().__new__(cls, value)
        number.meaning = meaning
        return number

    def __str__(self) -> str:
        return f"{float(self):.4g}  {self.meaning}"

    __repr__ = __str__


@dataclass(frozen=True)
class Metric:
    """A metric ready to score, from `load`.

    `compute` takes reference and distorted image, or reference, A and B: `(3, H, W)` each, all of one size, uint8 or
    float in [0, 1]. With `triplets` it only says which of two images is closer, by P(B closer).
    """

    name: str
    origin: str  # the code and weights that compute it
    compute: Callable[..., float]
    higher_is_better: bool = True
    low: float = -math.inf  # no pair scores below this, none above `high`
    high: float = math.inf
    triplets: bool = False
    max_pixels: int | None = None  # larger images are refused before they are decoded

    @property
    def meaning(self) -> str:
        """What its scores mean or, for a triplet network, its answers."""
        if self.triplets:
            return f"probability that B is the closer one, {self.name}: {self.origin}"
        direction = "higher is better" if self.higher_is_better else "lower is better"
        bounds = "no bounds" if math.isinf(self.low) and math.isinf(self.high) else f"{self.low:g} to {self.high:g}"
        return f"{self.name} ({direction}, {bounds}): {self.origin}"

    def score(self, reference: ImageLike, distorted: ImageLike) -> Score:
        """See `iqa_lib.lab.scoring.score`."""
        if self.triplets:
            raise ValueError(f"{self.name} only compares two images: use iqa_lib.prefer(reference, a, b, ...)")
        return Score(self._compute(reference=reference, distorted=distorted), self.meaning)

    def prefer(self, reference: ImageLike, a: ImageLike, b: ImageLike) -> Score:
        """See `iqa_lib.lab.scoring.prefer`."""
        if self.triplets:
            return Score(self._compute(reference=reference, a=a, b=b), self.meaning)
        scores = self._compute(reference=reference, a=a), self._compute(reference=reference, b=b)
        found = "; ".join(f"{name} {score:.4g}" for name, score in zip("AB", scores, strict=True))
        return Score(baselines.b_is_closer(self, *scores), f"1: B is closer, 0: A is, by {found}, {self.meaning}")

    def _compute(self, **given: ImageLike) -> float:
        images = [as_image(image, name, self.max_pixels) for name, image in given.items()]
        if len({image.shape for image in images}) > 1:
            sizes = ", ".join(f"{n} {i.shape[2]}x{i.shape[1]}" for n, i in zip(given, images, strict=True))
            turned = [name for name, image in given.items() if exif_orientation(image) > 4]
            if turned and len(turned) < len(given):
                raise ValueError(
                    f"images of unequal sizes: {sizes}, of which EXIF turns {', '.join(turned)} only, expected both "
                    "turned or none: the rotation was lost when the other was saved: save it upright"
                )
            raise ValueError(
                f"images of unequal sizes: {sizes}, expected one size: crop or resize them first, so that each pixel "
                "shows the same place (how is your choice: it changes the score)"
            )
        return float(self.compute(*images))


def score(reference: ImageLike, distorted: ImageLike, metric: PathLike = "topiq-fr", **loading: object) -> Score:
    """How good an image looks beside its reference: a number that prints with its direction and range.

    Args:
        reference: The undistorted image: a file, a PIL image, an array `(H, W, 3)` or a tensor `(3, H, W)`, uint8 or
            float in [0, 1]; see `iqa_lib.images.as_image`.
        distorted: The same, of the same size.
        metric: See `load`. The default needs the authors' weights; `"ssim"`, for example, needs nothing.
        **loading: `checkpoint`, `device` and options of the network, see `load`.

    A missing file raises FileNotFoundError, an image or an argument that cannot be used ValueError, missing weights
    WeightsError; each says what to do.
    """
    return load(metric, **loading).score(reference, distorted)


def prefer(reference: ImageLike, a: ImageLike, b: ImageLike, model: PathLike = "prfnet", **loading: object) -> Score:
    """Which of two images is closer to the reference: the probability that B is.

    A triplet network (PRFNet, IQA-TMFM) gives its probability; with any other metric the two scores decide: 1 if B is
    closer, 0 if A is, 0.5 for a tie. Arguments and errors as for `score`.
    """
    return load(model, **loading).prefer(reference, a, b)


def load(
    metric: PathLike = "topiq-fr", *, checkpoint: PathLike | None = None, device: torch.device | str = "cpu", **options
) -> Metric:
    """A metric ready to score.

    Args:
        metric: The name of a baseline (`iqa_lib.baselines.BASELINES`) or of one of `NETWORKS`, or the folder of a run,
            `outputs/<scale>/<notebook>/<row>/seed<k>`.
        checkpoint: The weights: for a network a run's folder or, if it reads those of its authors, their file; for a
            baseline that needs weights its file (default: torch.hub's cache, or its package).
        device: Where it computes.
        **options: Arguments of the network's constructor, for a checkpoint of the authors: `vit="b16"`, `preset=...`.

    A run sees an image through the crops that it was tested with, so a test image gets the score that the run's
    predictions hold (except for random crops, drawn anew). The authors' CFANet takes the whole image; AHIQ and
    IQA-TMFM take crops of 224 px that cover it evenly, and average.

    An unknown metric, device or option, or a folder without a run that can be rebuilt, raises ValueError; weights that
    are not here raise WeightsError, and never become random ones.
    """
    check_device(device)
    if os.sep in str(metric) or Path(metric).is_dir():
        return _of_run(Path(metric), device)
    name, known = str(metric).lower(), [*NETWORKS, *BASELINES]
    if name not in known:
        near = "".join(f", did you mean {match}?" for match in get_close_matches(name, known, 1)) or "."
        raise ValueError(f"metric {metric!r} is unknown{near} Expected: {', '.join(known)}, or a run's folder")
    located = None if checkpoint is None else records.located(checkpoint)
    if located and not located.exists():
        raise WeightsError(f"{name}: there is no checkpoint {checkpoint} (from {Path.cwd()}): check the path")
    authors = name in NETWORKS and NETWORKS[name].authors
    if options and (not authors or not located or located.is_dir()):
        takers = ", ".join(name for name, network in NETWORKS.items() if network.authors)
        raise ValueError(
            f"{name}: got the options {', '.join(options)}, which only a checkpoint of the authors takes ({takers}): "
            "leave them out"
        )
    if name in BASELINES:
        return _of_baseline(name, checkpoint, device)
    if located is None:
        raise WeightsError(_weights_options(name))
    if located.is_dir():
        return _of_run(Path(checkpoint), device, wanted=name)
    return _of_authors(name, Path(checkpoint), device, options)


class Loose(list):
    """Records' images in memory: what `Crops` needs of a data set."""

    def read(self, index: int) -> tuple[Tensor, ...]:
        return *self[index], torch.tensor(math.nan)


def _of_baseline(name: str, weights: PathLike | None, device: torch.device | str) -> Metric:
    try:
        baseline = baselines.load(name, weights=weights, device=device)
    except WeightsError as error:
        reason, _, _ = str(error).partition("\nThe options are")
        options = "go online once, and they are fetched", "their file: checkpoint=<file>", NO_WEIGHTS
        raise WeightsError(f"{reason}\nThe options are:{_numbered(options)}") from error

    def compute(reference: Tensor, distorted: Tensor) -> float:
        return baseline.score(*to_device([reference[None], distorted[None]], device)).item()

    origin = f"{baseline.label}, {baseline.library}" + (f", weights {baseline.weights}" if baseline.weights else "")
    bounds = {"low": baseline.low, "high": baseline.high, "max_pixels": baseline.max_pixels}
    return Metric(name, origin, compute, baseline.higher_is_better, **bounds)


def _of_authors(name: str, path: Path, device: torch.device | str, options: dict) -> Metric:
    model = to_device(getattr(models, NETWORKS[name].model).from_author_checkpoint(path, **options), device).eval()
    views = {"protocol": "whole"} if name == "topiq-fr" else {"protocol": "grid", "size": 224, "count": 0}
    if name == "iqa-tmfm":
        views["size"] = model.crop
    origin = f"{type(model).__name__}, the authors' {path.name} (sha256 {sha256(path)[:12]})"
    return _of_model(name, origin, model, views)


def _of_run(folder: Path, device: torch.device | str, wanted: str | None = None) -> Metric:
    """The network of a finished run, which sees images as in the run's own test."""
    model, record = load_run(folder)
    kind = type(model.network if isinstance(model, FusedIQATMFM) else model).__name__
    name = next((name for name, network in NETWORKS.items() if network.model == kind), kind)
    if wanted and wanted != name:
        raise ValueError(f"metric: got {wanted!r}, but {folder} is a run of {name}: give metric={name!r}")
    given = record["parameters"]
    views = crops_of_test(given) | {"seed": given["seed"], "enlarge": True}
    origin = f"run {folder}" + (", a demo number: trained on simulated labels" if records.is_demo(record) else "")
    options = {key: given[key] for key in ("max_batch", "precision") if key in given}
    if isinstance(model, FusedIQATMFM):  # "auto": the metrics that need no weights, or that had theirs
        auto = [name for name in iqa_tmfm.METRICS if not BASELINES[name].needs_weights or name in record["weights"]]
        options["metrics"] = [_of_baseline(name, None, device) for name in metric_names(given["metrics"], auto)]
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


def _weights_options(name: str) -> str:
    """The error of a network without weights."""
    network, options = NETWORKS[name], []
    if network.authors:
        example = f", such as {network.file}" if network.file else ""
        options.append(f"the authors' weights, downloaded under their own licence: checkpoint=<file>{example}")
    run, train = next(iter(records.finished(run=f"{network.notebook}/*")), None), ""
    if run is None:
        run = records.folder("smoke", f"{network.notebook}/default", 0)
        train = f"`papermill notebooks/{network.notebook}.ipynb out.ipynb`, which trains one on the demo set, then "
    options.append(f"a run of this repository: {train}checkpoint={str(run)!r}")
    options.append(NO_WEIGHTS)
    return (
        f"{name} needs trained weights: untrained ones give meaningless numbers. The options are:{_numbered(options)}"
    )


def _numbered(options: Sequence[str]) -> str:
    return "".join(f"\n  ({i}) {option}" for i, option in enumerate(options, 1))

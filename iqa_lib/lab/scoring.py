"""Scores of your own images, by a baseline, by the authors' networks, or by a run of this repository.

    iqa_lib.score("reference.png", "distorted.jpg", "ssim")
    iqa_lib.score("reference.png", "distorted.jpg", "outputs/demo/04_ahiq/table8_both/seed0")
    iqa_lib.prefer("reference.png", "a.jpg", "b.jpg", "outputs/demo/03_prfnet/table2_prfblock/seed0")
    metric = scoring.load("topiq-fr")     # once, for many images
    metric.score(reference, distorted)

Nothing is resized or guessed: an input that does not fit is refused with advice. Nothing is downloaded but weights that
are asked for by name. `python -m iqa_lib.score` does the same on the command line, for images, folders and CSV files.
"""

import math
import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from yaml.representer import Representer, SafeRepresenter

from iqa_lib import baselines
from iqa_lib.baselines import BASELINES
from iqa_lib.devices import check_device, to_device
from iqa_lib.images import as_image, exif_orientation
from iqa_lib.lab import records
from iqa_lib.lab.networks import DEFAULT, NETWORKS
from iqa_lib.weights import AUTHORS, WeightsError, fetched_authors_file

PathLike = str | os.PathLike
ImageLike = PathLike | Image.Image | np.ndarray | Tensor

NO_WEIGHTS = "a metric that needs no weights: st-lpips-alex, ssim, gmsd, ... (`python -m iqa_lib.score --list`)"


class Score(float):
    """A float with a `meaning`: metric, direction, range. Echoed, it tells it; printed and in files, it is a number."""

    def __new__(cls, value: float, meaning: str = ""):
        number = super().__new__(cls, value)
        number.meaning = meaning
        return number

    def __str__(self) -> str:
        return float.__repr__(self)

    def __repr__(self) -> str:
        return f"{float(self):.4g}  {self.meaning}"


for _representer in (SafeRepresenter, Representer):  # of yaml.safe_dump and of yaml.dump, which know exact types only
    _representer.add_representer(Score, lambda dumper, score: dumper.represent_float(float(score)))


@dataclass(frozen=True)
class Metric:
    """A metric ready to score, from `load`; pickled as what `load` was given, so that other processes load it once.

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
    loading: dict = field(default_factory=dict, repr=False, compare=False)  # the arguments of `load`

    def __reduce__(self):
        if not self.loading:
            raise pickle.PicklingError(f"{self.name} does not come from `load`, expected one that can be loaded again")
        return _loaded_once, (pickle.dumps(self.loading),)

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
        check_sizes(given, images)
        value = float(self.compute(*images))
        if math.isnan(value):
            raise ValueError(f"{self.name}: got NaN for these images, expected a number: check {self.origin}")
        return value


def check_sizes(given: dict[str, ImageLike], images: Sequence[Tensor]) -> None:
    """Raise ValueError unless the images `(3, H, W)`, read from what was `given`, have one size; it tells the cause."""
    if len({image.shape for image in images}) == 1:
        return
    sizes = ", ".join(f"{n} {i.shape[2]}x{i.shape[1]}" for n, i in zip(given, images, strict=True))
    turned = [name for name, image in given.items() if exif_orientation(image) > 4]
    if turned and len(turned) < len(given):
        raise ValueError(
            f"images of unequal sizes: {sizes}, of which EXIF turns {', '.join(turned)} only, expected both turned or "
            "none: the rotation was lost when the other was saved: save it upright"
        )
    raise ValueError(
        f"images of unequal sizes: {sizes}, expected one size: crop or resize them first, so that each pixel shows the "
        "same place (how is your choice: it changes the score)"
    )


def score(reference: ImageLike, distorted: ImageLike, metric: PathLike = DEFAULT, **loading: object) -> Score:
    """How good an image looks beside its reference: a float whose `meaning` tells the metric, direction and range.

    Args:
        reference: The undistorted image: a file, a PIL image, an array `(H, W, 3)` or a tensor `(3, H, W)`, uint8 or
            float in [0, 1]; see `iqa_lib.images.as_image`.
        distorted: The same, of the same size.
        metric: See `load`.
        **loading: `checkpoint`, `device` and options of the network, see `load`.

    A missing file raises FileNotFoundError, an image or an argument that cannot be used ValueError, missing weights
    WeightsError; each says what to do.
    """
    return load(metric, **loading).score(reference, distorted)


def prefer(reference: ImageLike, a: ImageLike, b: ImageLike, model: PathLike = DEFAULT, **loading: object) -> Score:
    """Which of two images is closer to the reference: the probability that B is.

    A triplet network (PRFNet, IQA-TMFM) gives its probability; with any other metric the two scores decide: 1 if B is
    closer, 0 if A is, 0.5 for a tie. Arguments and errors as for `score`.
    """
    return load(model, **loading).prefer(reference, a, b)


def load(
    metric: PathLike = DEFAULT, *, checkpoint: PathLike | None = None, device: torch.device | str = "cpu", **options
) -> Metric:
    """A metric ready to score.

    Args:
        metric: The name of a baseline (`iqa_lib.baselines.BASELINES`) or of one of `NETWORKS`, or the folder of a run,
            `outputs/<scale>/<notebook>/<row>/seed<k>`.
        checkpoint: The weights: for a network a run's folder or, if it reads those of its authors, their file (default:
            those of `iqa_lib.weights.AUTHORS`, fetched once from the hub); for a baseline that needs weights its file
            (default: torch.hub's cache, or its package).
        device: Where it computes.
        **options: Arguments of the network's constructor, for a checkpoint of the authors: `vit="b16"`, `preset=...`.

    A run sees an image through the crops that it was tested with, so a test image gets the score that the run's
    predictions hold (except for random crops, drawn anew). The authors' CFANet takes the whole image; AHIQ and
    IQA-TMFM take crops of 224 px that cover it evenly, and average.

    An unknown metric, device or option, or a folder without a run that can be rebuilt, raises ValueError; weights that
    are not here, and are not released or cannot be fetched, raise WeightsError, and never become random ones.
    """
    check_device(device)
    loading = {"metric": metric, "checkpoint": checkpoint, "device": device, **options}
    return replace(_found(metric, checkpoint, device, options), loading=loading)


def _trained() -> ModuleType:
    """The module of trained networks; what they compute with takes seconds to import."""
    return import_module("iqa_lib.lab.trained")


@lru_cache(maxsize=8)
def _loaded_once(loading: bytes) -> Metric:
    return load(**pickle.loads(loading))


def _found(metric: PathLike, checkpoint: PathLike | None, device: torch.device | str, options: dict) -> Metric:
    if os.sep in str(metric) or Path(metric).is_dir():
        return _trained().of_run(Path(metric), device)
    name, known = str(metric).lower(), [*NETWORKS, *BASELINES]
    if name not in known:
        near = "".join(f", did you mean {match}?" for match in get_close_matches(name, known, 1)) or "."
        raise ValueError(f"metric {metric!r} is unknown{near} Expected: {', '.join(known)}, or a run's folder")
    located = None if checkpoint is None else records.located(checkpoint)
    if located and not located.exists():
        raise WeightsError(f"{name}: there is no checkpoint {checkpoint} (from {Path.cwd()}): check the path")
    authors = located.is_file() if located else name in AUTHORS
    if options and not (name in NETWORKS and NETWORKS[name].authors and authors):
        takers = ", ".join(name for name, network in NETWORKS.items() if network.authors)
        raise ValueError(
            f"{name}: got the options {', '.join(options)}, which only a checkpoint of the authors takes ({takers}): "
            "leave them out"
        )
    if name in BASELINES:
        return of_baseline(name, checkpoint, device)
    if located and located.is_dir():
        return _trained().of_run(Path(checkpoint), device, wanted=name)
    file = located or _authors_file(name)
    return _trained().of_authors(name, file, device, options)


def of_baseline(name: str, weights: PathLike | None, device: torch.device | str) -> Metric:
    try:
        baseline = baselines.load(name, weights=weights, device=device)
    except WeightsError as error:
        raise _advised(error, "go online once, and they are fetched", "their file: checkpoint=<file>") from error

    def compute(reference: Tensor, distorted: Tensor) -> float:
        return baseline.score(*to_device([reference[None], distorted[None]], device)).item()

    origin = f"{baseline.label}, {baseline.library}" + (f", weights {baseline.weights}" if baseline.weights else "")
    bounds = {"low": baseline.low, "high": baseline.high, "max_pixels": baseline.max_pixels}
    return Metric(name, origin, compute, baseline.higher_is_better, **bounds)


def _authors_file(name: str) -> Path:
    """The weights that a network's authors released; WeightsError with the options if they cannot be had."""
    run = next(iter(records.finished(run=f"{NETWORKS[name].notebook}/*")), None)
    trained = f"checkpoint={str(run or records.folder('smoke', f'{NETWORKS[name].notebook}/default', 0))!r}"
    notebook = f"notebooks/{NETWORKS[name].notebook}.ipynb"
    train = "" if run else f"`papermill {notebook} out.ipynb`, which trains one on the demo set, then "
    of_run = f"a run of this repository: {train}{trained}"
    if name in AUTHORS:
        try:
            return fetched_authors_file(name)
        except WeightsError as error:
            file, licence = AUTHORS[name]
            by_hand = f"the authors' {file} ({licence}), from wherever you have it: checkpoint=<file>"
            raise _advised(error, "go online once, and they are fetched", by_hand, of_run) from error
    authors = ("the authors' weights, downloaded under their own licence: checkpoint=<file>",)
    error = WeightsError(f"{name} needs trained weights: untrained ones give meaningless numbers.")
    raise _advised(error, *authors * NETWORKS[name].authors, of_run)


def _advised(error: WeightsError, *options: str) -> WeightsError:
    """The error with these options, and a metric that needs no weights, in the place of those it gives."""
    reason, _, _ = str(error).partition("\nThe options are")
    numbered = "".join(f"\n  ({i}) {option}" for i, option in enumerate((*options, NO_WEIGHTS), 1))
    return WeightsError(f"{reason}\nThe options are:{numbered}")

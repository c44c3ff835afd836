"""Scores of images of your own, by any baseline, by the authors' networks, or by a run of this repository.

    iqa_lib.score("reference.png", "distorted.jpg", "ssim")
    iqa_lib.score("reference.png", "distorted.jpg", "outputs/demo/04_ahiq/table8_both/seed0")
    iqa_lib.prefer("reference.png", "a.jpg", "b.jpg", "outputs/demo/03_prfnet/table2_prfblock/seed0")
    metric = scoring.load("topiq-fr", checkpoint="cfanet_fr_kadid_res50-2c4cc61d.pth")     # once, for many images
    metric.score(reference, distorted)

Nothing is downloaded, resized or guessed on the way: what does not fit is refused with advice. `python -m
iqa_lib.score` does the same on the command line, for single images, folders and CSV files.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn

from iqa_lib import baselines
from iqa_lib.baselines import BASELINES
from iqa_lib.evaluation import crop_outputs, mean_outputs
from iqa_lib.files import atomic, repo_root, sha256
from iqa_lib.images import as_image
from iqa_lib.models import AHIQ, IQATMFM, CFANet, FusedIQATMFM, iqa_tmfm
from iqa_lib.models.rebuild import rebuilt
from iqa_lib.progress import progress
from iqa_lib.training import load_weights
from iqa_lib.views import Crops
from iqa_lib.weights import WeightsError

ImageLike = str | os.PathLike | Image.Image | np.ndarray | Tensor

AUTHORS = {"topiq-fr": CFANet, "ahiq": AHIQ, "iqa-tmfm": IQATMFM}
"""Networks whose authors' checkpoints can be read, by the name of the metric."""

OWN = {"topiq-fr": "CFANet", "ahiq": "AHIQ", "iqa-tmfm": "IQATMFM", "prfnet": "PRFNet", "fr-nr": "FRNR"}
"""Networks of this repository by the name of the metric: the class that a run's record tells."""

NOTEBOOKS = {
    "topiq-fr": "06_topiq",
    "ahiq": "04_ahiq",
    "iqa-tmfm": "02_iqa_tmfm",
    "prfnet": "03_prfnet",
    "fr-nr": "05_fr_nr",
}

COLUMNS = (["reference", "distorted"], ["reference", "a", "b"])
"""What a table of pairs or of triplets has to have."""


class Score(float):
    """A number that tells when printed what it is: metric, direction, range. Computes like any float.

    Attributes:
        meaning: That text.
    """

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

    Attributes:
        name: As it was asked for.
        origin: Who computes it, with which weights.
        compute: Reference and distorted image, or reference, A and B, to one number; `(3, H, W)` each, all of one
            size, uint8 or float in [0, 1].
        higher_is_better: The direction.
        low: No pair scores below this.
        high: No pair scores above this.
        triplets: Whether it tells which of two images is closer, and nothing else; `compute` is then P(B closer).
    """

    name: str
    origin: str
    compute: Callable[..., float]
    higher_is_better: bool = True
    low: float = -math.inf
    high: float = math.inf
    triplets: bool = False

    @property
    def meaning(self) -> str:
        """What its scores, or for a triplet network its answers, mean."""
        if self.triplets:
            return f"probability that B is the closer one, {self.name}: {self.origin}"
        direction = "higher is better" if self.higher_is_better else "lower is better"
        bounds = "no bounds" if math.isinf(self.low) and math.isinf(self.high) else f"{self.low:g} to {self.high:g}"
        return f"{self.name} ({direction}, {bounds}): {self.origin}"

    def score(self, reference: ImageLike, distorted: ImageLike) -> Score:
        """See `iqa_lib.lab.scoring.score`."""
        if self.triplets:
            raise ValueError(
                f"{self.name} tells which of two images is closer to a reference and has no score for one: use "
                "iqa_lib.prefer(reference, a, b, ...)"
            )
        return Score(self._compute(reference=reference, distorted=distorted), self.meaning)

    def prefer(self, reference: ImageLike, a: ImageLike, b: ImageLike) -> Score:
        """See `iqa_lib.lab.scoring.prefer`."""
        if self.triplets:
            return Score(self._compute(reference=reference, a=a, b=b), self.meaning)
        scores = self._compute(reference=reference, a=a), self._compute(reference=reference, b=b)
        found = "; ".join(f"{name} {score:.4g}" for name, score in zip("AB", scores, strict=True))
        return Score(baselines.b_is_closer(self, *scores), f"1: B is closer, 0: A is, by {found}, {self.meaning}")

    def _compute(self, **given: ImageLike) -> float:
        images = [as_image(image, name) for name, image in given.items()]
        if len({image.shape for image in images}) > 1:
            sizes = ", ".join(f"{n} {i.shape[2]}x{i.shape[1]}" for n, i in zip(given, images, strict=True))
            raise ValueError(
                f"images came in unequal sizes: {sizes}, expected one size, the same place under each pixel: crop or "
                "resize them first (how is yours to decide: it changes the score)"
            )
        return float(self.compute(*images))


def score(
    reference: ImageLike,
    distorted: ImageLike,
    metric: str | os.PathLike = "topiq-fr",
    *,
    checkpoint: str | os.PathLike | None = None,
    device: torch.device | str = "cpu",
    **options,
) -> Score:
    """How good an image looks beside its reference, as one number that tells its direction and range.

    Args:
        reference: The undistorted image: a file, a PIL image, an array `(H, W, 3)` or a tensor `(3, H, W)`, uint8 or
            float in [0, 1]; see `iqa_lib.images.as_image`.
        distorted: The same, of the same size.
        metric: See `load`. The default needs the authors' weights; `"ssim"`, for example, needs nothing.
        checkpoint: See `load`.
        device: See `load`.
        **options: See `load`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: An image, or the metric's name, cannot be used; says what came, what is wanted and what to do.
        WeightsError: The metric's weights are not here; names the ways out.
    """
    return load(metric, checkpoint=checkpoint, device=device, **options).score(reference, distorted)


def prefer(
    reference: ImageLike,
    a: ImageLike,
    b: ImageLike,
    model: str | os.PathLike = "prfnet",
    *,
    checkpoint: str | os.PathLike | None = None,
    device: torch.device | str = "cpu",
    **options,
) -> Score:
    """Which of two images is closer to the reference: the probability that B is.

    A triplet network (PRFNet, IQA-TMFM) gives its probability; of any other metric the two scores decide: 1 where B is
    closer, 0 where A is, 0.5 where they tie. Arguments and errors like `score`.
    """
    return load(model, checkpoint=checkpoint, device=device, **options).prefer(reference, a, b)


def load(
    metric: str | os.PathLike = "topiq-fr",
    *,
    checkpoint: str | os.PathLike | None = None,
    device: torch.device | str = "cpu",
    **options,
) -> Metric:
    """A metric ready to score.

    Args:
        metric: A baseline's name (`iqa_lib.baselines.BASELINES`), one of `OWN`, or the folder of a run,
            `outputs/<scale>/<notebook>/<row>/seed<k>`.
        checkpoint: The weights: for `AUTHORS` a file in the authors' layout, for all of `OWN` a run's folder, for a
            baseline that needs some its file (without, torch.hub's cache).
        device: Where it computes.
        **options: Of the network's constructor, for a checkpoint of the authors: `vit="b16"`, `preset=...`.

    A run sees an image through the crops that it was tested with, so a test image gets the score that stands in
    the run's `predictions.csv` (but for random crops, drawn anew). The authors' CFANet takes the whole image; AHIQ
    and IQA-TMFM take crops of 224 px that cover it evenly, and give their mean.

    Raises:
        ValueError: An unknown metric, device or option, or a folder that holds no run that can be rebuilt.
        WeightsError: The weights are not here; never falls back to random ones.
    """
    _check_device(device)
    if os.sep in str(metric) or Path(metric).is_dir():
        return _of_run(Path(metric), device)
    name = str(metric).lower()
    if name not in BASELINES and name not in OWN:
        near = "".join(f", did you mean {match}?" for match in get_close_matches(name, [*OWN, *BASELINES], 1))
        raise ValueError(
            f"metric {metric!r} is unknown{near}, expected one of {', '.join([*OWN, *BASELINES])}, or a run's folder"
        )
    if checkpoint is not None and not run_folder(checkpoint).exists():
        raise WeightsError(f"{name}: there is no checkpoint {checkpoint} (looked from {Path.cwd()}): mend the path")
    if options and (name not in AUTHORS or not checkpoint or run_folder(checkpoint).is_dir()):
        raise ValueError(
            f"{name}: got the options {', '.join(options)}, which only a checkpoint of the authors takes "
            f"({', '.join(AUTHORS)}): leave them out"
        )
    if name in BASELINES:
        return _of_baseline(name, checkpoint, device)
    if checkpoint is None:
        raise WeightsError(_ways_out(name))
    if run_folder(checkpoint).is_dir():
        return _of_run(Path(checkpoint), device, wanted=name)
    return _of_authors(name, Path(checkpoint), device, options)


def available() -> pd.DataFrame:
    """All metrics by name: direction, range, and what each needs that is not here."""
    rows = [
        {
            "metric": name,
            "better": "higher" if baseline.higher_is_better else "lower",
            "range": f"{baseline.low:g} to {baseline.high:g}",
            "needs": "nothing" if baselines.available(name) else "--checkpoint FILE, or to go online once",
        }
        for name, baseline in BASELINES.items()
    ]
    own = [
        {
            "metric": name,
            "better": "P(B closer)" if name in ("iqa-tmfm", "prfnet") else "higher",
            "range": "0 to 1" if name in ("iqa-tmfm", "prfnet") else "no bounds",
            "needs": "--checkpoint " + ("FILE of the authors, or RUN FOLDER" if name in AUTHORS else "RUN FOLDER"),
        }
        for name in OWN
    ]
    return pd.DataFrame(own + rows).set_index("metric")


# Metrics


@dataclass
class Loose:
    """Images of one record in memory: what `Crops` asks of a data set."""

    images: Sequence[Tensor]

    def __len__(self) -> int:
        return 1

    def read(self, _index: int) -> tuple[Tensor, ...]:
        return *self.images, torch.tensor(math.nan)


def _of_baseline(name: str, weights: str | os.PathLike | None, device: torch.device | str) -> Metric:
    baseline = baselines.load(name, weights=weights, device=device)

    def compute(reference: Tensor, distorted: Tensor) -> float:
        pair = (x.to(device).float() / 255 if x.dtype == torch.uint8 else x.to(device) for x in (reference, distorted))
        return baseline.score(*(image[None] for image in pair)).item()

    origin = f"{baseline.label}, {baseline.library}" + (f", weights {baseline.weights}" if baseline.weights else "")
    return Metric(name, origin, compute, baseline.higher_is_better, baseline.low, baseline.high)


def _of_authors(name: str, path: Path, device: torch.device | str, options: dict) -> Metric:
    model = AUTHORS[name].from_author_checkpoint(path, **options).to(device).eval()
    views = {"protocol": "whole"} if name == "topiq-fr" else {"protocol": "grid", "size": 224, "count": 0}
    if name == "iqa-tmfm":
        views["size"] = model.crop
    origin = f"{type(model).__name__}, the authors' {path.name} (sha256 {sha256(path)[:12]})"
    return _of_model(name, origin, model, views)


def _of_run(folder: Path, device: torch.device | str, wanted: str | None = None) -> Metric:
    """The network of a finished run, which sees images as the run's own test did."""
    model, record = load_run(folder)
    kind = "IQATMFM" if isinstance(model, FusedIQATMFM) else type(model).__name__
    name = next((name for name, own in OWN.items() if own == kind), kind)
    if wanted and wanted != name:
        raise ValueError(f"metric: got {wanted!r}, but {folder} is a run of {name}: give metric={name!r}")
    given = record["parameters"]
    views = {
        "protocol": given.get("test_crops", "whole"),
        "size": given.get("test_crop", given.get("crop", 0)),
        "count": given.get("test_crop_count", 1),
        "seed": given["seed"],
        "enlarge": "test_crops" in given,
    }
    origin = f"run {folder}" + (", a demo number: trained on simulated labels" if is_demo(record) else "")
    options = {key: given[key] for key in ("max_batch", "precision") if key in given}
    raw = given.get("loss") == "mse"
    return _of_model(name, origin, model.to(device), views, metrics=_fused_metrics(model, record), raw=raw, **options)


def run_folder(folder: Path | str) -> Path:
    """A run's folder as it was named: from here, or else from the repository's root, as notebooks print it."""
    folder, here = Path(folder), Path(folder).is_dir()
    return (
        folder if here or folder.is_absolute() else next((r / folder for r in _root() if (r / folder).is_dir()), folder)
    )


def load_run(folder: Path | str) -> tuple[nn.Module, dict]:
    """The network that a run trained, in eval mode, and the run's record.

    Raises:
        ValueError: The folder holds no finished run, or one whose network cannot be rebuilt.
        WeightsError: Its weights are missing, broken or do not fit.
    """
    folder = run_folder(folder)
    record = read_record(folder)
    if not record.get("model"):
        raise ValueError(
            f"{folder}/run.json does not tell what network was trained: it is of a notebook that trains none, or was "
            "written before records told it; run the row again"
        )
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise WeightsError(f"{folder} holds no model.safetensors: run the row again, or copy the file too")
    model = rebuilt(record["model"])
    try:
        load_weights(model, weights)
    except Exception as error:  # safetensors and torch have several of their own
        raise WeightsError(
            f"{weights} does not fit the network of its run.json ({error}): run the row again"
        ) from error
    return model, record


def read_record(folder: Path | str) -> dict:
    """A run's `run.json`.

    Raises:
        ValueError: There is none in the folder, or it is damaged.
    """
    file = run_folder(folder) / "run.json"
    if not file.is_file():
        raise ValueError(
            f"{folder} holds no run.json, expected the folder of a finished run, outputs/<scale>/<notebook>/<row>/seed<k>"
        )
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}): run the row again") from error


def is_demo(record: dict) -> bool:
    """Whether a run saw the demo set: whatever its network says is then a demo number."""
    return any(side["name"] == "demo" for side in record["data"].values())


def _of_model(
    name: str,
    origin: str,
    model: nn.Module,
    views: dict,
    *,
    metrics: Sequence[Metric] = (),
    raw: bool = False,
    **options,
) -> Metric:
    """A metric out of a network: the mean over the crops that `views` cuts.

    Args:
        name: Of the metric.
        origin: See `Metric`.
        model: In eval mode.
        views: Options of `Crops`.
        metrics: What a `FusedIQATMFM` fuses.
        raw: The network was trained to give 0 or 1 and no logit (IQA-TMFM's MSE row).
        **options: Of `crop_outputs`.
    """
    model = model.folded() if isinstance(model, CFANet) else model  # as notebook 06 tests it, and faster
    fused = isinstance(model, FusedIQATMFM)
    network = model.network if fused else model

    def compute(*images: Tensor) -> float:
        size, (height, width) = views.get("size", 0), images[0].shape[1:]
        if min(height, width) < size and not views.get("enlarge"):
            raise ValueError(
                f"{name} looks through crops of {size} px, the images came {width}x{height}, expected sides of "
                f"at least {size}: enlarge all of them first"
            )
        outputs = crop_outputs(network, Crops(Loose(images), **views), **options)
        if not triplets:
            return mean_outputs(outputs).item()
        if not isinstance(network, IQATMFM):
            return outputs[0].sigmoid().mean().item()
        logit = mean_outputs(outputs)
        if fused:
            reference, *others = images
            scores = [[max(-100.0, min(100.0, metric.compute(reference, x))) for x in others] for metric in metrics]
            logit = model.fuse(logit, torch.tensor([scores]))
        return (logit.clamp(0, 1) if raw else logit.sigmoid()).item()

    triplets = not hasattr(model, "higher_is_better")
    direction = {} if triplets else {"higher_is_better": model.higher_is_better}
    return Metric(name, origin, compute, triplets=triplets, **direction)


def _fused_metrics(model: nn.Module, record: dict) -> list[Metric]:
    """The metrics that a run fused, in its order; under `auto` those that needed no weights, or had them."""
    if not isinstance(model, FusedIQATMFM):
        return []
    names = [name.strip() for name in record["parameters"]["metrics"].split(",")]
    if names == ["auto"]:
        names = [n for n in iqa_tmfm.METRICS if not BASELINES[n].needs_weights or n in record["weights"]]
    return [_of_baseline(name, None, next(model.parameters()).device) for name in names]


def _check_device(device: torch.device | str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device: got {str(device)!r}, which is not here ({reason}): give device='cpu'") from error


def _ways_out(name: str) -> str:
    notebook = NOTEBOOKS[name]
    runs = [f"checkpoint={str(folder)!r}" for folder in _runs_of(notebook)] or [
        f"`papermill notebooks/{notebook}.ipynb out.ipynb`, which trains one on the demo set, then "
        f"checkpoint='outputs/smoke/{notebook}/default/seed0'"
    ]
    ways = [
        f"a run of this repository: {runs[0]}",
        "a metric that needs no weights: ssim, ms-ssim, vifp, gmsd, ... (`python -m iqa_lib.score --list`)",
    ]
    if name in AUTHORS:
        files = {"topiq-fr": "cfanet_fr_kadid_res50-2c4cc61d.pth", "ahiq": "AHIQ_vit_p8_epoch33-da3ea303.pth"}
        example = f", such as {files[name]}" if name in files else ""
        ways.insert(0, f"the authors' weights, got by yourself under their own licence: checkpoint=<file>{example}")
    listed = "\n".join(f"  ({i}) {way}" for i, way in enumerate(ways, 1))
    return (
        f"{name} needs trained weights, and none came; untrained ones would only make numbers up. Ways out:\n{listed}"
    )


def _runs_of(notebook: str) -> Iterator[Path]:
    for root in _root():
        yield from (file.parent for file in sorted(root.glob(f"outputs/*/{notebook}/*/seed*/run.json")))


def _root() -> list[Path]:
    """The repository's root; none where the package is installed without it."""
    try:
        return [repo_root()]
    except RuntimeError:
        return []


# Many images


def pairs_of_folders(reference: Path | str, distorted: Path | str) -> pd.DataFrame:
    """Each image of one folder beside that of the same name (its ending may differ) in the other.

    Args:
        reference: A folder; or one file, the reference of all.
        distorted: A folder.

    Returns:
        Columns `reference` and `distorted`, sorted by name.

    Raises:
        ValueError: An image has no partner, or two have one name; all of them are named.
    """
    reference = Path(reference)
    found = _images(Path(distorted))
    if reference.is_file():
        return pd.DataFrame([(str(reference), str(path)) for path in found.values()], columns=COLUMNS[0])
    partners = _images(reference)
    alone = [str(path) for name, path in found.items() if name not in partners]
    alone += [str(path) for name, path in partners.items() if name not in found]
    if alone:
        raise ValueError(
            f"{len(alone)} of {len(found) + len(partners)} images have no partner of the same name in the other "
            f"folder: {_some(alone)}; rename them, or list the pairs in a CSV with columns reference,distorted"
        )
    return pd.DataFrame([(str(partners[name]), str(path)) for name, path in found.items()], columns=COLUMNS[0])


def left_out(folder: Path | str) -> list[Path]:
    """Files of a folder that no reader takes for an image by their ending; hidden ones do not count."""
    return sorted(path for path in _files(Path(folder)) if path.suffix.lower() not in _endings())


def pairs_of_csv(file: Path | str) -> pd.DataFrame:
    """A CSV with columns `reference,distorted`, or `reference,a,b` for triplets; paths are relative to its folder.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Columns or cells are missing, or it is no CSV; the message names them.
    """
    file = Path(file)
    try:
        table = pd.read_csv(file, dtype=str, encoding="utf-8-sig", skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no CSV that can be read ({error}): save it as CSV, UTF-8, with commas") from error
    columns = next((columns for columns in COLUMNS if set(columns) <= set(table.columns)), None)
    if columns is None:
        raise ValueError(
            f"{file} has the columns {', '.join(table.columns)}, expected reference,distorted, or reference,a,b: rename "
            "them in the first line, and separate them by commas"
        )
    if table.empty:
        raise ValueError(f"{file} has no row under its header: list one pair a line")
    if (gaps := table[columns].isna()).any(axis=None):
        row, column = np.argwhere(gaps.to_numpy())[0]
        raise ValueError(f"{file}: row {row + 2} has nothing under {columns[column]}: fill it in, or delete the row")
    return table[columns].map(lambda path: str(file.parent / path.strip()))


def score_table(pairs: pd.DataFrame, metric: Metric) -> Iterator[dict]:
    """Scores of many pairs, or preferences of many triplets, row by row as they come.

    Args:
        pairs: Columns `reference` and `distorted`, or `reference`, `a` and `b`: anything that `score` takes.
        metric: From `load`.

    Yields:
        The row with `score`, or `p_b`; `metric`; `better`, its direction; `origin`, who computed it with which weights;
        and `error`: empty, or why this row has NaN instead of a number. One broken image does not cost the others.
    """
    columns = [column for column in ("reference", "distorted", "a", "b") if column in pairs]
    ask, result = (metric.prefer, "p_b") if "b" in columns else (metric.score, "score")
    better = "closer to 1: B" if "b" in columns else "higher" if metric.higher_is_better else "lower"
    for row in progress(pairs[columns].to_dict("records"), f"scoring by {metric.name}"):
        value, error = math.nan, ""
        try:
            value = float(ask(*row.values()))
        except (ValueError, OSError, RuntimeError) as problem:
            error = str(problem)
        yield row | {result: value, "metric": metric.name, "better": better, "origin": metric.origin, "error": error}


def write_table(rows: Sequence[dict], file: Path | str) -> None:
    """Write what `score_table` gave as a CSV, paths relative to its folder, so that it can be read again as pairs."""
    folder = Path(file).resolve().parent
    paths = [column for column in ("reference", "distorted", "a", "b") if column in rows[0]]
    table = pd.DataFrame(rows)
    table[paths] = table[paths].map(lambda path: os.path.relpath(Path(path).resolve(), folder))
    with atomic(file) as temporary:
        table.to_csv(temporary, index=False)


def _images(folder: Path) -> dict[str, Path]:
    """A folder's images by name without ending, sorted."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder (looked from {Path.cwd()}): mend the path")
    files = sorted(path for path in _files(folder) if path.suffix.lower() in _endings())
    if not files:
        raise ValueError(f"{folder} holds no image: give a folder with files such as name.png or name.jpg in it")
    found = {path.stem: path for path in files}
    if len(found) < len(files):
        twice = [str(path) for path in files if found[path.stem] != path]
        raise ValueError(f"{folder} holds two images of one name: {_some(twice)}; move one, or list pairs in a CSV")
    return found


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _endings() -> set[str]:
    return {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def _some(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")

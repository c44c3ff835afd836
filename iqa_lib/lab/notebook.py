"""What the notebooks share: code below its equation, views, tables of shapes, estimates, checks of a smoke run."""

import copy
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pandas as pd
import torch
from IPython.display import Markdown, display
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from iqa_lib import baselines, evaluation, plots, training
from iqa_lib.baselines import Baseline
from iqa_lib.data.base import IQADataset, Pair, Triplet
from iqa_lib.devices import CPU, best_device, to_device
from iqa_lib.lab.networks import metric_names as metric_names
from iqa_lib.lab.parameters import ParameterError, crops_of_test
from iqa_lib.lab.runs import Run
from iqa_lib.metrics import Estimate, agreements, two_afc_accuracy
from iqa_lib.models import FRNR
from iqa_lib.views import Crops, FixedFeatures, Vectors, View, WithScores

MEASURES = {"srocc": "SROCC", "accuracy": "2AFC accuracy"}
TESTED = ("test", "cross")
LOCAL = ("color block", "non-eccentricity patch")


def code(*functions: Callable) -> Markdown:
    """The present source of functions or methods, each under its file and name, to be shown below its equation."""
    parts = [
        f"# {function.__module__.replace('.', '/')}.py, {function.__qualname__}\n{dedent(inspect.getsource(function))}"
        for function in functions
    ]
    return Markdown("```python\n" + "\n".join(parts) + "```")


def sides_of(run: Run, protocol: Callable[..., dict], **options) -> dict[str, IQADataset]:
    """The sides of one of `iqa_lib.data.protocols` by the notebook's parameters; `demo_*` are for the demo set.

    A side that is trained on and smaller than a batch raises ParameterError, before anything is computed.
    """
    demo = {name.removeprefix("demo_"): value for name, value in run.parameters.items() if name.startswith("demo_")}
    if "records" in demo:
        demo["pairs"] = demo["triplets"] = demo.pop("records")
    given = run.arguments_of(protocol) | {"seed": run.split} | options
    sides, batch = protocol(root=run.data_root, demo=demo, **given), run.parameters.get("batch_size", 1)
    for side in {"train", "coarse", "fine"} & sides.keys():
        if (records := len(sides[side])) < batch:
            raise ParameterError(f"batch_size: got {batch}, expected at most {records}, the records of side {side!r}")
    return sides


def views_of(run: Run, sides: Mapping[str, IQADataset], **varied) -> dict[str, Crops]:
    """A view of each side: test crops of those that are tested, training crops of the others, by the parameters.

    `varied` (`flip`, `turn`) is for training; what chooses the epoch (`selection`) stays as it is.
    """
    given = run.parameters
    still = {"protocol": given["crops"], "size": given["crop"], "count": given["crop_count"]}
    still |= {"draws": given.get("draws", 0)}
    options = dict.fromkeys(TESTED, crops_of_test(given)) | {"selection": still}
    return {
        side: Crops(data, **options.get(side, still | varied), seed=given["seed"], enlarge=True)
        for side, data in sides.items()
    }


def with_features(views: Mapping[str, Crops], model: nn.Module, max_batch: int = 32) -> dict:
    """The views, but kept features of the frozen backbone instead of crops that never vary."""
    fixed = {side: view for side, view in views.items() if view.fixed and view.protocol != "whole"}
    return views | {side: FixedFeatures(view, model, max_batch=max_batch) for side, view in fixed.items()}


def with_vectors(views: Mapping[str, Crops], model: FRNR, max_batch: int = 32) -> dict[str, View]:
    """The views with the pretrained branch's vectors, means over all crops, in place of its work; it is standardised.

    Without a learnt branch vectors are all that is left of a view.
    """
    if "frp" not in model.branches:
        return dict(views)
    kept = with_features(views, model, max_batch)

    def means(call: Callable) -> dict[str, Tensor]:
        outputs = {side: evaluation.crop_outputs(model, kept[side], max_batch=max_batch, call=call) for side in views}
        return {side: evaluation.mean_outputs(each) for side, each in outputs.items()}

    vectors = means(model.pretrained)
    model.standardise_by(vectors["train"])
    if set(model.branches) > {"frp"}:
        return {side: WithScores(view, vectors[side]) for side, view in views.items()}
    return {side: Vectors(views[side].dataset, pooled) for side, pooled in means(model.pooled).items()}


def shapes(model: nn.Module, view: IQADataset | Crops, title: str = "shape for one test crop") -> pd.DataFrame:
    """The shape of each map that a model returns for a view's first record."""
    _, _, maps = evaluation.look(model, view, 0)
    return pd.Series({name: tuple(tensor.shape) for name, tensor in maps.items()}, name=title).to_frame()


def first_step(model: nn.Module, view: Crops, batch_size: int, seed: int) -> tuple[nn.Module, list]:
    """A copy of a model in training mode, and the batch that `fit` shows it first, both on one device."""
    student = copy.deepcopy(model).train()
    return student, training.first_batch(view, batch_size, seed, student)


def training_curve(run: Run) -> Figure:
    """The loss of each training step; of a smoke run that was not cut short it must have fallen in the first stage."""
    loss = next(iter(run.steps.values())).history.loss
    assert not _whole_smoke(run) or loss.tail(20).mean() < loss.head(20).mean(), "the loss did not fall"
    return run.save_figure(plots.training(run.steps), "training")


def check(run: Run, dataset: IQADataset, predictions: pd.DataFrame, estimate: Estimate, floor: float) -> None:
    """Every record has a finite prediction, a triplet a probability; a whole smoke run agrees by more than `floor`."""
    assert len(predictions) == len(dataset)
    assert predictions.prediction.map(math.isfinite).all()
    assert "a" not in predictions or predictions.prediction.between(0, 1).all()
    assert not _whole_smoke(run) or estimate.value > floor, f"got {estimate}, expected more than {floor} of a smoke run"


def _whole_smoke(run: Run) -> bool:
    return run.parameters["scale"] == "smoke" and not run.parameters.get("max_steps")


def at_share(dataset: IQADataset, share: float) -> int:
    """The record below which this share of the labels lies: near 0 a bad one, near 1 a good one."""
    return int(dataset.targets.argsort()[int(share * len(dataset))])


def local(dataset: IQADataset) -> int:
    """A record that shows best whether a map follows the distortion: of one of KADID-10k's `LOCAL` types.

    Many places are touched, and the others differ little, of triplets in either image. Of data sets without these types
    it is `at_share(dataset, 1/6)`.
    """
    kinds = [{value for key, value in vars(record).items() if key.startswith("kind")} for record in dataset.records]
    found = ([i for i, of_record in enumerate(kinds) if kind in of_record] for kind in LOCAL)
    chosen = next(filter(None, found), [at_share(dataset, 1 / 6)])
    return max(chosen, key=lambda index: _quietness(*dataset[index][:-1]))


def _quietness(reference: Tensor, *distorted: Tensor) -> float:
    """The share of places that were touched, less the images' root mean squared difference elsewhere."""
    mask = touched(reference, *distorted)
    elsewhere = torch.stack([image - reference for image in distorted])[..., ~mask]  # (images, 3, places)
    return (mask.float().mean() - elsewhere.square().mean((1, 2)).sqrt().mean()).item()


def touched(reference: Tensor, *distorted: Tensor) -> Tensor:
    """Where an image was distorted, `(H, W)` bool: by more than 2 % of the range, in the mean over channels.

    Images are `(3, H, W)` in [0, 1]. What only the stretch to the full range changed, with which KADID-10k begins, does
    not count. Of several distorted images it is `most_local`.
    """
    low, high = reference.aminmax()
    sources = torch.stack([reference, (reference - low) / (high - low)])
    image = distorted[0] if len(distorted) == 1 else most_local(reference, *distorted)
    return (image - sources).abs().mean(1).amin(0) > 0.02


def most_local(reference: Tensor, *distorted: Tensor) -> Tensor:
    """The image that was touched in the fewest places, but in some."""
    return min(distorted, key=lambda image: touched(reference, image).float().mean().item() or 1.0)


def outline(*images: Tensor) -> Tensor | None:
    """What was `touched`, to be outlined on a map; None where it is all over the image, a quarter or more."""
    mask = touched(*images)
    return mask if mask.float().mean() < 0.25 else None


def inside_outside(images: Sequence[Tensor], maps: Mapping[str, Tensor]) -> pd.DataFrame:
    """The mean of each map `(..., h, w)` at places that were distorted and at all others, and their ratio.

    `images` are a record's, and `touched` says which places these are: one of a map is if any of its pixels is.
    """
    mask, rows = touched(*images), {}
    for name, values in maps.items():
        mean, inside = _one_channel(values).cpu(), on_grid_of(values, mask)
        rows[name] = {"inside": mean[inside].mean().item(), "outside": mean[~inside].mean().item()}
    table = pd.DataFrame(rows).T.rename_axis("mean of the map")
    return table.assign(ratio=table.inside / table.outside).round(3)


def _one_channel(values: Tensor) -> Tensor:
    """The mean of a map `(..., h, w)` over all but its places, `(h, w)`."""
    return values.detach().float().reshape(-1, *values.shape[-2:]).mean(0)


def on_grid_of(values: Tensor, mask: Tensor) -> Tensor:
    """A mask `(H, W)` on the grid of a map `(..., h, w)`: true where any of its pixels is."""
    return F.adaptive_max_pool2d(mask[None].float(), values.shape[-2:])[0] > 0


def relative(values: Tensor, to: Tensor | None = None) -> tuple[Tensor, str, tuple[float, float]]:
    """A map's magnitude, mean over channels, in units of its mean or of that of `to`, for `plots.images_and_maps`.

    The colours are fixed, so that a flat map looks flat.
    """
    mean = _one_channel(values.abs())
    return mean / (mean if to is None else to.float().abs()).mean(), "of its mean (1 = flat)", plots.UNIFORM


def titles(record: Pair | Triplet) -> list[str]:
    """A title for each image of a record."""
    distorted = [f"A: {record.kind_a}", f"B: {record.kind_b}"] if isinstance(record, Triplet) else [record.kind]
    return [f"reference {record.reference_id}", *(name.strip(": ") or "distorted" for name in distorted)]


def show_maps(
    run: Run, name: str, images: Mapping[str, Tensor], maps: Mapping[str, tuple], columns: int = 3
) -> pd.DataFrame:
    """Show and save a record's images and maps by title, with their `outline`, and give the maps' `inside_outside`.

    Maps are as `plots.images_and_maps` takes them.
    """
    given = [*images.values()]
    display(run.save_figure(plots.images_and_maps(images, maps, columns, outline=outline(*given)), name))
    return inside_outside(given, {title: values for title, (values, *_) in maps.items()})


def examples(run: Run, dataset: IQADataset) -> Figure:
    """Records from the lowest to the highest labels."""
    shown = [at_share(dataset, share) for share in (0.02, 0.34, 0.66, 0.98)]
    return run.save_figure(plots.records(dataset, shown), "examples")


def loaded_metrics(names: Sequence[str], files: Mapping[str, Path] = {}) -> dict[str, Baseline]:
    """Metrics by name, computed on the GPU if there is one, with weights of `files` or as `baselines.load` finds them.

    So weights that are not on this machine are fetched; where that fails, `WeightsError` says what to do.
    """
    device = best_device()
    loaded = {name: baselines.load(name, weights=files.get(name), device=device) for name in names}
    return {name: on_device(each, device) for name, each in loaded.items()}


def on_device(metric: Baseline, device: torch.device) -> Baseline:
    """A metric that takes images wherever they are and computes on `device`, or where its network is if it has one."""
    if metric.needs_weights or device == CPU:
        return metric
    return replace(metric, compute=lambda *pair: metric.compute(*to_device(list(pair), device)), device=device)


def by_metrics(dataset: IQADataset, names: str) -> dict[str, pd.DataFrame]:
    """Predictions of metrics named as in `"psnr, ssim"`, by label; without those for which the images are too small."""
    metrics = loaded_metrics([name for name in metric_names(names) if baselines.fits(name, dataset)]).values()
    return {metric.label: evaluation.predict_baseline(metric, dataset) for metric in metrics}


def signs_of(tables: Mapping[str, pd.DataFrame]) -> dict[str, int]:
    """1 for each method of `tables`, by label; -1 for metrics of pairs whose lower scores are better."""
    lower = {baseline.label for baseline in baselines.BASELINES.values() if not baseline.higher_is_better}
    return {label: -1 if label in lower and "distorted" in table else 1 for label, table in tables.items()}


def units(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """The methods' names as labels of an axis, with the direction of their scores."""
    directions = {1: "higher is better", -1: "lower is better"}
    return [f"{label}{' in dB' * ('PSNR' in label)} ({directions[sign]})" for label, sign in signs_of(tables).items()]


def beside_metrics(predictions: pd.DataFrame, answers: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A network's predictions, and beside them all others among `answers`, which are by label.

    A metric's column has its name, that of another answer of the network's its label.
    """
    names = {baseline.label: name for name, baseline in baselines.BASELINES.items()}
    others = {label: table for label, table in answers.items() if table is not predictions}
    return predictions.assign(**{names.get(label, label): table.prediction for label, table in others.items()})


def of_one_reference(dataset: IQADataset, count: int = 6) -> list[int]:
    """So many evenly spaced records of one reference, that of the record in the middle."""
    reference = dataset.reference_ids[len(dataset) // 2]
    found = [index for index, name in enumerate(dataset.reference_ids) if name == reference]
    return found[:: max(1, len(found) // count)][:count]


def worst_mistakes(run: Run, dataset: IQADataset, predictions: pd.DataFrame, sign: int = 1) -> Figure:
    """Four pairs or two triplets farthest from their labels; see `iqa_lib.evaluation.worst_mistakes`."""
    worst = evaluation.worst_mistakes(predictions, 2 if "a" in predictions else 4, sign)
    return run.save_figure(plots.records(dataset, worst, predictions), "worst_mistakes")


def calibration(run: Run, dataset: IQADataset, predictions: pd.DataFrame) -> Figure:
    """How often B is closer to the reference, by the probability that was predicted."""
    curve = evaluation.calibration(predictions.prediction, predictions.target)
    return run.save_figure(plots.reliability(curve, f"calibration, {len(dataset)} test triplets"), "calibration")


def estimates_of(answers: Mapping[str, Mapping[str, pd.DataFrame]], signs: Mapping[str, int] = {}) -> dict:
    """All agreements of `answers[side][method]`, named as in the run's record; `signs` beyond those of `signs_of`."""
    return {
        f"{measure} {method}{'' if side == 'test' else f' {side}'}": estimate
        for side, tables in answers.items()
        for method, sign in (signs_of(tables) | signs).items()
        for measure, estimate in agreements(tables[method], sign=sign).items()
    }


def accuracies_of(answers: Mapping[str, pd.DataFrame], ties: str = "a", **options) -> dict[str, Estimate]:
    """2AFC accuracy of each method, named as in the run's record; `ties` and options as in `two_afc_accuracy`."""
    measure, options = "accuracy_devkit" if options else "accuracy", options | {"ties": ties}
    return {
        f"{measure} {method}": two_afc_accuracy(table.prediction, table.target, table.reference_id, **options)
        for method, table in answers.items()
    }


def devkit_accuracies_of(answers: Mapping[str, pd.DataFrame], dataset: IQADataset, ties: str = "a") -> dict:
    """`accuracies_of` by the rule of CLIC's devkit: a repeated triplet counts once, with its last answer."""
    keys = [(record.reference_id, record.a.name, record.b.name) for record in dataset.records]
    return accuracies_of(answers, ties, dedup="devkit", triplets=keys)


def estimate_table(estimates: Mapping[str, Estimate]) -> pd.DataFrame:
    """Estimates with their intervals, one row a method and one column an agreement."""
    cells = [(*name.split(" ", 1), f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]") for name, e in estimates.items()]
    table = pd.DataFrame(cells, columns=["agreement", "method", "value"])
    return table.pivot(index="method", columns="agreement", values="value")[table.agreement.unique()]


def report(run: Run, estimates: Mapping[str, Estimate], measure: str, dataset: IQADataset) -> Figure:
    """Print all estimates, and draw those of one measure on the test side with their intervals."""
    for name, estimate in estimates.items():
        print(f"{name:28s} {estimate}")
    named = [(*name.split(" ", 1), estimate) for name, estimate in estimates.items()]
    shown = {method: estimate for kind, method, estimate in named if kind == measure and not method.endswith(" cross")}
    title, chance = f"{MEASURES[measure]}, {dataset.name} set, {len(dataset)} records", {"accuracy": 0.5}.get(measure)
    return run.save_figure(plots.metrics(shown, title, f"{MEASURES[measure]} (higher is better)", chance), measure)


def panels(estimates: Mapping[str, Estimate], tables: Mapping[str, pd.DataFrame], side: str = "") -> dict:
    """Predictions by method, each under its name and SROCC: panels of `plots.scatter`."""
    suffix = f" {side}" if side == "cross" else ""
    sroccs = {method: estimates[f"srocc {method}{suffix}"].value for method in tables}
    return {f"{side} {method}: SROCC {sroccs[method]:.3f}".strip(): table for method, table in tables.items()}

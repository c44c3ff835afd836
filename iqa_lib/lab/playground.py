"""Images to play with in JupyterLab: choose one, distort it, and see what metrics and a network make of it.

Each view is a widget (`explore`, `compare`, `browse`) and, from the same functions, a still for fixed settings (`pair`,
`choice`, `run_tables`), so that a page that runs no widgets shows the same.
"""

import gc
import html
import io
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from torch import Tensor, nn

from iqa_lib import plots
from iqa_lib.baselines import b_is_closer, ms_ssim_maps
from iqa_lib.checks import check_choice
from iqa_lib.data.demo import SIZE, references
from iqa_lib.data.distortions import DISTORTIONS, distort
from iqa_lib.devices import device_of, exact_kernels, to_device
from iqa_lib.evaluation import worst_mistakes
from iqa_lib.images import from_pil, open_image
from iqa_lib.lab import records, scoring, trained
from iqa_lib.lab.notebook import inside_outside, outline, relative
from iqa_lib.models import AHIQ, CFANet

# Figures leave reference cycles; this spares their collection half a second spent on all that is imported.
gc.freeze()

KINDS = {kind.name: kind.number for kind in DISTORTIONS}
TITLES = {"score": "quality f of each place", "weight": "attention w: what counts"}
"""Of maps whose names do not say enough; see the network's docstring."""
UNITS = {"score": "0: worst label, 1: best", "mask": "0: nothing passes, 1: all", "gate": "0: closed, 1: open"}
"""Of maps with values in [0, 1], by the start of their names; others are in units of their mean."""

Setting = tuple[str, int]
"""A type of distortion by its name, and its level: 0 (none) to 5."""


class Playground:
    """References, baselines for the score board, and the pair network of the finished run in the folder `run`.

    `others` are folders of further runs, also of triplet networks, that are asked which of two images they prefer;
    `scenes` is the number of dead-leaves scenes among the references. `images` holds the references by name, uint8
    `(H, W, 3)`. A network that has no score for one image, or cannot be rebuilt, raises ValueError.
    """

    def __init__(
        self, run: Path | str, *, metrics: Sequence[str] = ("psnr", "ssim"), others: Sequence = (), scenes: int = 4
    ):
        self.network, record = trained.load_run(run)
        self._name = type(self.network).__name__ + (" (demo run)" if records.is_demo(record) else "") + ", whole image"
        if not hasattr(self.network, "higher_is_better"):
            raise ValueError(f"{run} trained a triplet network, which has no score for one image: name it in `others`")
        self.metrics = [scoring.load(name) for name in metrics]
        self.others = [scoring.load(folder) for folder in others]
        sources = references("", scenes)
        self.images = {source.name.rpartition("-")[0] or source.name: source.render() for source in sources}
        self.distorted = lru_cache(maxsize=32)(self._distort)
        self._features = lru_cache(maxsize=4)(self._extract)
        self._seen = lru_cache(maxsize=32)(self._look)

    def add(self, name: str, image: Image.Image) -> str:
        """Add an image to the references, cut to 512x384 (or 384x512), the size that the levels are made for.

        What cannot be decoded, or would be misread, raises ValueError: see `iqa_lib.images.read_image`.
        """
        pixels = from_pil(image, name, srgb=True).permute(1, 2, 0).numpy()
        size = SIZE if pixels.shape[1] >= pixels.shape[0] else SIZE[::-1]
        self.images[name] = np.array(ImageOps.fit(Image.fromarray(pixels), size, Image.Resampling.LANCZOS))
        for kept in (self.distorted, self._features, self._seen):
            kept.cache_clear()
        return name

    def _distort(self, reference: str, setting: Setting) -> np.ndarray:
        """A distorted reference; random distortions hit the same places at every level."""
        kind, level = setting
        check_choice(KINDS, kind=kind)
        image, number = self.images[reference], KINDS[kind]
        return distort(image, number, level, np.random.default_rng(number)) if level else image

    def _tensors(self, *images: np.ndarray) -> list[Tensor]:
        return to_device([torch.tensor(image).permute(2, 0, 1)[None] for image in images], device_of(self.network))

    @exact_kernels()
    @torch.inference_mode()
    def _extract(self, reference: str) -> list[Tensor]:
        return self.network.extract(*self._tensors(self.images[reference]))

    @exact_kernels()
    @torch.inference_mode()
    def _look(self, reference: str, setting: Setting) -> tuple[dict[str, float], dict, Tensor | None]:
        """Every score of a distorted image, the network's last; its maps as `plots.images_and_maps` takes them.

        Where the distortion is local, titles give each map's mean inside and outside of it, and its outline is last.
        """
        pixels = self.images[reference], self.distorted(reference, setting)
        given = images = self._tensors(*pixels)
        if _looks_at_features(self.network):
            given = self._features(reference), self.network.extract(images[1])
        score, maps = self.network(*given, return_maps=True)
        difference = 255 * (images[1] - images[0]).abs().mean(dim=1)[0]
        named = {
            "difference": (difference, "of 255 (0 = identical)", (0.0, 64.0)),
            "similarity, MS-SSIM's finest scale": (ms_ssim_maps(*images)[0][0, 0], "1 = identical", (0.0, 1.0)),
        }
        scores = {metric.name: float(metric.score(*pixels)) for metric in self.metrics}
        named, (original, image) = named | dict(spatial(maps)), (x[0].float().cpu() for x in images)
        if (edge := outline(original, image)) is not None and edge.any():
            means = inside_outside([original, image], {title: values for title, (values, *_) in named.items()})
            notes = [f"\n{line.inside:.2f} inside, {line.outside:.2f} outside" for line in means.itertuples()]
            named = dict(zip(map(str.__add__, named, notes), named.values(), strict=True))
        return scores | {self._name: score.item()}, named, edge

    def _judges(self) -> dict[str, object]:
        """Whatever gives a score and has a direction, by name."""
        return {metric.name: metric for metric in self.metrics} | {self._name: self.network}

    # One image

    def pair(self, reference: str, setting: Setting) -> tuple[Figure, pd.DataFrame]:
        """A distorted image with its quality and attention maps, and the score board of all metrics."""
        scores, maps, edge = self._seen(reference, setting)
        images = self.images[reference], self.distorted(reference, setting)
        titles = f"reference: {reference}", "distorted: " * bool(setting[1]) + _named(setting)
        figure = plots.images_and_maps(dict(zip(titles, images, strict=True)), maps, outline=edge)
        bounds = [f"{metric.low:g} to {metric.high:g}" for metric in self.metrics] + ["no bounds"]
        better = ["higher" if judge.higher_is_better else "lower" for judge in self._judges().values()]
        board = pd.DataFrame({"metric": list(scores), "score": scores.values(), "better": better, "range": bounds})
        return figure, board.set_index("metric")

    def explore(self) -> widgets.Widget:
        """Sliders for reference, distortion and level; they update image, maps and score board."""
        reference, kind, level, status = self._reference(), _kind("JPEG"), _level(4), widgets.HTML()
        upload = widgets.FileUpload(accept="image/*", description="your own", tooltip="an image of your own")

        def take() -> None:
            for file in upload.value:
                name = self.add(file["name"], open_image(bytes(file["content"]), file["name"]))
                reference.options, reference.value = list(self.images), name

        _follow(take, status, upload)
        panel = _panel(lambda: self.pair(reference.value, (kind.value, level.value)), status, reference, kind, level)
        return widgets.VBox([widgets.HBox([reference, upload]), kind, level, *panel])

    # Two images

    def choice(self, reference: str, a: Setting, b: Setting) -> tuple[Figure, pd.DataFrame]:
        """Two distorted images of one reference, and which of them each metric and network prefers."""
        original, *images = self.images[reference], self.distorted(reference, a), self.distorted(reference, b)
        titles = f"reference: {reference}", f"A: {_named(a)}", f"B: {_named(b)}"
        figure = plots.images_and_maps(dict(zip(titles, (original, *images), strict=True)))
        scores = (self._seen(reference, setting)[0].values() for setting in (a, b))
        judged = zip(self._judges().items(), *scores, strict=True)
        rows = [(name, *pair, float(b_is_closer(judge, *pair))) for (name, judge), *pair in judged]
        rows += [(other.name, np.nan, np.nan, float(other.prefer(original, *images))) for other in self.others]
        table = pd.DataFrame(rows, columns=["metric", "score of A", "score of B", "P(B closer)"]).set_index("metric")
        chosen = np.sign(table["P(B closer)"] - 0.5).map({-1: "A", 0: "neither", 1: "B"})
        return figure, table.assign(prefers=chosen)

    def compare(self) -> widgets.Widget:
        """Sliders for two distorted images of a reference; they update each metric's and network's preference."""
        reference = self._reference()
        pairs = (_kind("JPEG", "A"), _level(4)), (_kind("Gaussian blur", "B"), _level(3))

        def draw() -> tuple[Figure, pd.DataFrame]:
            return self.choice(reference.value, *((kind.value, level.value) for kind, level in pairs))

        panel = _panel(draw, widgets.HTML(), reference, *pairs[0], *pairs[1])
        return widgets.VBox([reference, *map(widgets.HBox, pairs), *panel])

    def _reference(self) -> widgets.Dropdown:
        return widgets.Dropdown(options=list(self.images), value="coffee", description="reference")


def spatial(maps: Mapping[str, Tensor], most: int = 3) -> list[tuple[str, tuple]]:
    """Those of a network's maps that have one value a place, the finest first, as `plots.images_and_maps` takes them.

    These are maps of one channel, and attention averaged over heads (and blocks and queries), in fixed colours: 0 to 1,
    or 0 to 2 times the mean. Others, such as offsets and vectors, are left out.
    """
    found = {name: x for name, x in maps.items() if "attention" in name or (x.ndim == 4 and x.shape[1] == 1)}
    finest = sorted(found, key=lambda name: -found[name].shape[-2] * found[name].shape[-1])[:most]
    units = {name: UNITS.get(name.partition("_")[0]) for name in finest}
    shown = {name: (found[name], units[name], (0.0, 1.0)) if units[name] else relative(found[name]) for name in finest}
    return [(TITLES.get(name, name.replace("_", " ")), triple) for name, triple in shown.items()]


def run_tables(folder: Path | str, mistakes: int = 5) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A run's metrics with their intervals, and its worst predictions: by rank for scores, by value for preferences."""
    metrics = pd.DataFrame(records.read(folder)["metrics"]).T.rename_axis("metric")
    predictions = records.predictions(folder)
    if not {"prediction", "target"} <= set(predictions):
        return metrics, predictions.head(0)
    return metrics, predictions.loc[worst_mistakes(predictions, mistakes)]


def browse(runs: Mapping[str, Path] | None = None) -> widgets.Widget:
    """Any finished run, or one of `runs` (folders by name), with its figures, metrics and worst mistakes."""
    runs = {"/".join(folder.parts[-4:]): folder for folder in records.finished()} if runs is None else runs
    if not runs:
        return widgets.HTML("No finished run in outputs/ yet: execute a notebook, or <code>make reproduce</code>.")
    run = widgets.Dropdown(options=runs, description="run", layout=widgets.Layout(width="480px"))
    drawn, image = widgets.Dropdown(description="figure"), widgets.Image(format="png")
    metrics, worst, status = widgets.HTML(), widgets.HTML(), widgets.HTML()

    def open_run() -> None:
        merit, mistakes = run_tables(run.value)
        metrics.value, worst.value = _table(merit), f"<b>worst mistakes</b>{_table(mistakes)}"
        files = records.figures(run.value)
        drawn.options = files
        drawn.value = files.get("worst_mistakes", next(iter(files.values()), None))

    def show() -> None:
        image.value = drawn.value.read_bytes() if drawn.value else b""

    _follow(show, status, drawn)
    _follow(open_run, status, run)
    return widgets.VBox([run, status, metrics, drawn, image, worst])


def _kind(value: str, name: str = "distortion") -> widgets.SelectionSlider:
    options = {"options": list(KINDS), "layout": widgets.Layout(width="480px"), "continuous_update": False}
    return widgets.SelectionSlider(value=value, description=name, **options)


def _level(value: int) -> widgets.IntSlider:
    return widgets.IntSlider(value, 0, 5, description="level", continuous_update=False)


def _panel(draw: Callable[[], tuple[Figure, pd.DataFrame]], status: widgets.HTML, *controls: widgets.Widget) -> list:
    """Status, image and board: what `draw` returns, now and after every change of a control."""
    image = widgets.Image(format="png", layout=widgets.Layout(object_fit="contain", align_self="flex-start"))
    board = widgets.HTML()

    def redraw() -> None:
        figure, table = draw()
        image.value, board.value = _png(figure), _table(table)

    _follow(redraw, status, *controls)
    return [status, image, board]


def _follow(work: Callable[[], None], status: widgets.HTML, *controls: widgets.Widget) -> None:
    """Work now and after every change of a control; `status` shows the time, or the error: it has no other place."""

    def call(_change: dict | None = None) -> None:
        started = time.perf_counter()
        try:
            work()
            status.value = f"{time.perf_counter() - started:.2f} s"
        except (ValueError, OSError, RuntimeError) as error:
            status.value = f"<b>not possible:</b> {html.escape(str(error))}"

    for control in controls:
        control.observe(call, "value")
    call()


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80, pil_kwargs={"compress_level": 1})
    return file.getvalue()


def _table(table: pd.DataFrame) -> str:
    """A table as HTML; a named index becomes the first column."""
    table = table.reset_index() if table.index.name else table
    text = table.to_html(float_format="{:.4g}".format, na_rep="", border=0, justify="left", index=False)
    text = text.replace("<th>", "<th style='text-align: left'>")  # JupyterLab aligns them right
    return f"<div style='white-space: nowrap; line-height: 1.3'>{text}</div>"


def _looks_at_features(network: nn.Module) -> bool:
    """Whether all maps of a network follow from what `extract` returns: but for a ViT's attention they do."""
    vit = network.backbone["vit"] if isinstance(network, AHIQ) and "vit" in network.backbone else None
    return isinstance(network, CFANet | AHIQ) and not hasattr(vit, "attention")


def _named(setting: Setting) -> str:
    return f"{setting[0]}, level {setting[1]}" if setting[1] else "undistorted"

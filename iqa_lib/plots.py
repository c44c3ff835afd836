"""Figures: each function returns one, with titles, units, colour bars and the direction of scores in it.

Images are RGB, `(3, H, W)` or `(H, W, 3)`, float in [0, 1] or uint8, in the order that networks take; maps are what
`model(..., return_maps=True)` returns for one record. Both may be arrays or tensors, on any device. Predictions are
tables from `iqa_lib.evaluation`; `signs` holds -1 for methods whose lower score is better.
Nothing here imports torch: tables draw their figures without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from iqa_lib.metrics import Calibration, Estimate, logistic_fit

if TYPE_CHECKING:
    from torch import Tensor

    from iqa_lib.data.base import IQADataset
    from iqa_lib.training import Fit

    Array = Tensor | np.ndarray

_STYLE = {"figure.dpi": 80, "legend.frameon": False, "legend.fontsize": 7, "legend.title_fontsize": 7}
_STYLE |= {"axes.spines.top": False, "axes.spines.right": False}
sns.set_theme(context="paper", style="ticks", palette="deep", rc=_STYLE)

UNIFORM = (0.0, 2.0)
"""Colour range of attention and weights in units of their mean: 1 = uniform, and a flat map looks flat."""
ANSWERS = ["A closer", "B closer"]


@dataclass(frozen=True)
class _Panel:
    """An image, a map, or, if both are given, the map over the image in grey.

    Attributes:
        limits: Values at the ends of the colours; None: the lowest or highest of the maps that share a colour bar.
        unit: Label of the colour bar.
        note: Text below.
    """

    title: str
    image: Array | None = None
    values: Array | None = None
    limits: tuple[float | None, float | None] = (None, None)
    unit: str = ""
    note: str = ""

    @property
    def shape(self) -> tuple[int, int]:
        return _rgb(self.image).shape[:2] if self.values is None else tuple(self.values.shape[-2:])

    def draw(self, axis: Axes, low: float = 0, high: float = 1) -> AxesImage:
        if self.values is None:
            return axis.imshow(_rgb(self.image))
        values = _array(self.values).reshape(self.shape)
        if self.image is None:
            return axis.imshow(values, cmap="viridis", vmin=low, vmax=high)
        grey = axis.imshow(_rgb(self.image).mean(axis=2), cmap="gray", vmin=0, vmax=1)
        return axis.imshow(values, cmap="magma", vmin=low, vmax=high, alpha=0.65, extent=grey.get_extent())


def _panels(
    rows: Sequence[Sequence[_Panel]], title: str = "", *, width: float = 1.9, bars: str = "each"
) -> tuple[Figure, list[list[Axes]]]:
    """Rows of panels, `width` inches each, and their axes; a colour bar for "each" map, "column" or the whole "figure".

    Sizes are set by hand: a layout engine takes longer than the drawing, and sliders wait for the figure.
    """
    panels = {(r, c): panel for r, row in enumerate(rows) for c, panel in enumerate(row)}
    columns, groups = max(map(len, rows)), {}
    for r, c in (key for key, panel in panels.items() if panel.values is not None):
        groups.setdefault({"each": (r, c), "column": (0, c), "figure": (0, columns - 1)}[bars], []).append((r, c))
    room = {c: 0.46 + 0.18 * any(panels[key].unit for key in keys) for (_, c), keys in groups.items()}
    left = np.cumsum([0.06] + [width + 0.1 + room.get(c, 0) for c in range(columns)])
    tall = width * min(1.5, max(panel.shape[0] / panel.shape[1] for panel in panels.values()))
    titles, notes = ({key: _fold(getattr(p, x), width) for key, p in panels.items()} for x in ("title", "note"))
    pitch = tall + 0.12 + 0.14 * (_lines(titles.values()) + _lines(notes.values()))
    title = _fold(title, left[-1])
    top = 0.17 * _lines([title]) + 0.06 + 0.14 * _lines(titles.values()) + pitch * np.arange(len(rows))
    size = np.array([left[-1], top[0] + pitch * len(rows) - 0.14 * _lines(titles.values()) - 0.06] * 2)

    figure = plt.figure(figsize=size[:2])
    figure.suptitle(title, fontsize=9, y=1 - 0.05 / size[1], va="top")
    axes = {(r, c): figure.add_axes([left[c], size[1] - top[r] - tall, width, tall] / size) for r, c in panels}
    for key, panel in panels.items():
        axes[key].set(xticks=[], yticks=[])
        axes[key].spines[:].set_visible(False)
        axes[key].set_title(titles[key], fontsize=8, pad=3)
        axes[key].set_xlabel(notes[key], fontsize=8, labelpad=3)
        if panel.values is None:
            panel.draw(axes[key])
    for (_, c), keys in groups.items():
        values, limits = [_array(panels[key].values) for key in keys], panels[keys[0]].limits
        ends = min(map(np.min, values)), max(map(np.max, values))
        low, high = (end if limit is None else limit for limit, end in zip(limits, ends, strict=True))
        drawn = [panels[key].draw(axes[key], low, high) for key in keys]
        over = top[keys[-1][0]] + tall - top[keys[0][0]]
        place = [left[c] + width + 0.07, size[1] - top[keys[0][0]] - 0.95 * over, 0.07, 0.9 * over] / size
        extend = ("neither", "min", "max", "both")[(ends[0] < low) + 2 * (ends[1] > high)]
        bar = figure.colorbar(
            drawn[-1], figure.add_axes(place), extend=extend, ticks=MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
        )
        bar.set_label(panels[keys[0]].unit, fontsize=7)
        bar.ax.tick_params(labelsize=6, pad=2)
    return _done(figure), [[axes[r, c] for c in range(len(row))] for r, row in enumerate(rows)]


def _fold(text: str, width: float) -> str:
    """Text in lines of `width` inches."""
    return "\n".join(fill(line, round(15 * width)) for line in text.splitlines())


def _lines(texts: Sequence[str]) -> int:
    return max(len(text.splitlines()) for text in texts)


def _done(figure: Figure) -> Figure:
    """Out of pyplot's registry, from which a notebook would show it a second time."""
    plt.close(figure)
    return figure


def _array(values: Array) -> np.ndarray:
    """An array or tensor, on any device and of any type, as a float32 array."""
    if hasattr(values, "numpy"):
        values = values.float().numpy(force=True)  # NumPy has no bfloat16
    return np.asarray(values, np.float32)


def _rgb(image: Array) -> np.ndarray:
    """An image as floats `(H, W, 3)` in [0, 1]."""
    pixels = _array(image) / (255 if "uint8" in str(image.dtype) else 1)
    return pixels if pixels.shape[-1] == 3 else np.moveaxis(pixels, 0, -1)


# Data


def records(dataset: IQADataset, indices: Sequence[int], predictions: pd.DataFrame | None = None) -> Figure:
    """`triplets` or `pairs`, whichever the data set holds."""
    return (triplets if _of_triplets(dataset) else pairs)(dataset, indices, predictions)


def triplets(dataset: IQADataset, indices: Sequence[int], predictions: pd.DataFrame | None = None) -> Figure:
    """Triplets, one a row: reference, A, B, with the human P(B closer) and, if given, the model's."""
    rows = []
    for index in indices:
        record, (reference, a, b, _) = dataset.records[index], dataset.read(index)
        model = "" if predictions is None else f", model: {predictions.prediction[index]:.2f}"
        note = f"human: {record.p_b:.2f}{model}"
        row = [_Panel(f"reference {record.reference_id}", reference, note=note)]
        rows.append([*row, _Panel(f"A: {record.kind_a}", a), _Panel(f"B: {record.kind_b}", b)])
    return _panels(rows, f"{dataset.name} set, human: {_target(dataset)}")[0]


def pairs(dataset: IQADataset, indices: Sequence[int], predictions: pd.DataFrame | None = None) -> Figure:
    """Pairs, one a column: reference above distorted image, with its type, human score and, if given, the model's."""
    columns = []
    for index in indices:
        record, (reference, distorted, _) = dataset.records[index], dataset.read(index)
        model = "" if predictions is None else f", model: {predictions.prediction[index]:.3g}"
        shown = _Panel(record.kind or record.distorted.stem, distorted, note=f"human: {record.score:.2f}{model}")
        columns.append((_Panel(f"reference {record.reference_id}", reference), shown))
    return _panels(list(zip(*columns, strict=True)), f"{dataset.name} set, human: {_target(dataset)}")[0]


def ranks(
    dataset: IQADataset, indices: Sequence[int], tables: Mapping[str, pd.DataFrame], signs: Mapping[str, int] = {}
) -> Figure:
    """Distorted images of one reference, the best by human score on the left, with score and rank by each method."""
    order = sorted(indices, key=lambda index: -dataset.records[index].score)
    scores = {name: signs.get(name, 1) * table.prediction[order] for name, table in tables.items()}
    row = []
    for human, index in enumerate(order, start=1):
        lines = [f"human: {dataset.records[index].score:.3g} ({human})"]
        for name, values in scores.items():
            rank = int((values > values[index]).sum()) + 1
            lines.append(f"{name}: {tables[name].prediction[index]:.3g} ({rank})" + (" ✓" if rank == human else ""))
        row.append(_Panel(dataset.records[index].kind, dataset.read(index)[1], note="\n".join(lines)))
    title = f"reference {dataset.records[order[0]].reference_id}: score (rank), ✓ = same rank as human"
    return _panels([row], title)[0]


def distortions(
    image: np.ndarray, centre: tuple[float, float] = (0.5, 0.5), size: tuple[int, int] = (80, 60)
) -> Figure:
    """A detail of an image under KADID-10k's 25 types of distortion at levels 1 to 5.

    Args:
        image: uint8, `(H, W, 3)`, about 512x384; distorted as a whole.
        centre: Of the detail, as shares of the image's width and height.
        size: Width and height of the detail, in pixels.
    """
    from iqa_lib.data.distortions import DISTORTIONS, distort

    left, top = (round(c * (side - s)) for c, s, side in zip(centre, size, image.shape[1::-1], strict=True))
    strips = {"undistorted": [image] * 5}
    for kind in DISTORTIONS:
        seeds = [(kind.number, level) for level in range(1, 6)]
        strips[kind.name] = [distort(image, *seed, np.random.default_rng(seed)) for seed in seeds]
    details = {name: [x[top : top + size[1], left : left + size[0]] for x in strip] for name, strip in strips.items()}
    shown = [_Panel(name, np.hstack(strip)) for name, strip in details.items()]
    title = "KADID-10k's 25 types of distortion, level 1 to 5 from left to right (a detail)"
    return _panels(list(zip(shown[:13], shown[13:], strict=True)), title, width=2.7)[0]


def labels(dataset: IQADataset) -> Figure:
    """Distribution of the human scores, over all records and, if types of distortion are known, by type."""
    columns = ("kind_a", "kind_b") if _of_triplets(dataset) else ("kind",)
    rows = [(getattr(record, column), record.target) for record in dataset.records for column in columns]
    table = pd.DataFrame(rows, columns=["kind", "target"])
    order = table.groupby("kind").target.median().sort_values(ascending=False).index
    typed = any(order)
    size = (7.6, max(2.8, 0.8 + 0.16 * len(order))) if typed else (3.6, 2.8)
    figure, (axes,) = plt.subplots(1, 1 + typed, figsize=size, squeeze=False, layout="constrained")
    sns.histplot(x=_array(dataset.targets), bins=20, ax=axes[0])
    axes[0].set(title=f"{dataset.name}: {len(dataset)} records", xlabel=_target(dataset), ylabel="records")
    if typed and len(columns) == 1:
        sns.boxplot(table, y="kind", x="target", order=order, fliersize=2, linewidth=0.7, color="C0", ax=axes[1])
        axes[1].set(title="by type of distortion", xlabel=_target(dataset), ylabel="")
    elif typed:
        sns.countplot(table, y="kind", order=table.kind.value_counts().index, color="C0", ax=axes[1])
        axes[1].set(title="by type of distortion", xlabel="times shown, as A or B", ylabel="")
    for axis in axes:
        axis.tick_params(labelsize=6.5)
    return _done(figure)


def _of_triplets(dataset: IQADataset) -> bool:
    return hasattr(dataset.records[0], "p_b")


def _target(dataset: IQADataset) -> str:
    """Name and direction of the records' targets."""
    if _of_triplets(dataset):
        return "share preferring B (0: A closer, 1: B closer)"
    name = dataset.label.name if dataset.label.higher_is_better else f"score from {dataset.label.name}"
    return f"{name} (higher is better)"


# Maps


def images_and_maps(
    images: Mapping[str, Array], maps: Mapping[str, tuple[Array, str, tuple[float, float]]] = {}, columns: int = 3
) -> Figure:
    """Images by title, then maps by title: values, unit and direction, values at the ends of the colours."""
    shown = [_Panel(name, image) for name, image in images.items()]
    shown += [_Panel(name, None, values, ends, unit) for name, (values, unit, ends) in maps.items()]
    return _panels(_wrapped(shown, columns), width=2.6)[0]


def maps_beside(
    images: Mapping[str, Array], maps: Mapping[str, Array], title: str, *, limits: tuple = (None, None)
) -> Figure:
    """Images and maps `(1, 1, h, w)` by name, in one row; `limits` of the colours, None for each map's own."""
    shown = [_Panel(name, image) for name, image in images.items()]
    shown += [_Panel(f"{name}\n{m.shape[-2]} x {m.shape[-1]}", None, m, limits) for name, m in maps.items()]
    return _panels([shown], title, width=1.5)[0]


def quality_maps(images: Sequence[Array], maps: Mapping[str, Array], title: str) -> Figure:
    """Reference, distorted image, and a metric's similarity maps `(1, 1, h, w)`, all in the same colours."""
    shown = [_Panel(name, image) for name, image in zip(("reference", "distorted"), images, strict=True)]
    limits, unit = _similarity(maps.values()), "similarity (1 = identical)"
    shown += [_Panel(f"{name}, mean {_array(m).mean():.3f}", None, m, limits, unit) for name, m in maps.items()]
    return _panels(_wrapped(shown, -(-len(shown) // 2)), title, bars="figure")[0]


def quality_maps_of_two(
    reference: Array, images: Mapping[str, Array], maps: Mapping[str, Mapping[str, Sequence[Array]]], title: str
) -> Figure:
    """Two distorted images of one reference, and where metrics see a loss: one row for each metric and image.

    `maps` holds, by metric, then by image, similarity maps `(1, 1, h, w)` of scales or layers; the images share the
    colours of each.
    """
    rows = [[_Panel(name, image) for name, image in {"reference": reference, **images}.items()]]
    for metric, by_image in maps.items():
        limits = [_similarity(scale) for scale in zip(*by_image.values(), strict=True)]
        for name, scales in by_image.items():
            titles = [f"{name}\n{metric} {i}: mean {_array(m).mean():.4f}" for i, m in enumerate(scales, start=1)]
            rows.append([_Panel(t, None, m, ends) for t, m, ends in zip(titles, scales, limits, strict=True)])
    return _panels(rows, title, width=1.7)[0]


def _similarity(maps: Sequence[Array]) -> tuple[float, float]:
    """Colour range of similarity maps: their lowest percentile to 1."""
    return max(0.0, min(float(np.quantile(_array(values), 0.01)) for values in maps)), 1.0


def _wrapped(shown: Sequence[_Panel], columns: int) -> list[Sequence[_Panel]]:
    return [shown[i : i + columns] for i in range(0, len(shown), columns)]


def gates(images: Sequence[Array], maps: Mapping[str, Array]) -> Figure:
    """PRFNet's gates over A and B: where deep differences let shallow ones through (bright) or not (dark).

    `maps` holds `gate_w<scale>` `(1, 1, h, w)`; the colours of each span 0.1 at least.
    """
    rows = [[_Panel(f"image {label}", image)] for label, image in zip("AB", images[1:], strict=True)]
    for key in sorted((key for key in maps if key.startswith("gate_w")), reverse=True):
        gate, scale = _array(maps[key]), int(key[-1])
        middle, reach = (gate.min() + gate.max()) / 2, max(0.05, (gate.max() - gate.min()) / 2)
        title, limits = f"$w_{scale}$: scale {scale} gates scale {scale - 1}", (middle - reach, middle + reach)
        for row, image in zip(rows, images[1:], strict=True):
            row.append(_Panel(title, image, gate, limits, "gate (0 = closed, 1 = open)"))
    return _panels(rows, bars="column")[0]


def differences(
    images: Sequence[Array], maps: Mapping[str, Array], name: str = "difference", symbol: str = "d"
) -> Figure:
    """Magnitude of learnt differences to the reference, mean over channels; A and B share the colours of a scale.

    `maps` holds `<name>_a_<scale>` and `<name>_b_<scale>`, `(1, C, h, w)`; titles call them `symbol`.
    """
    rows = []
    for side, image in zip("ab", images[1:], strict=True):
        found = {key.rpartition("_")[2]: m for key, m in maps.items() if key.startswith(f"{name}_{side}_")}
        means = {f"$|{symbol}_{side.upper()}|$ scale {k}": abs(_array(m[0])).mean(0) for k, m in found.items()}
        shown = [_Panel(title, None, mean, (0.0, None), "mean over channels") for title, mean in means.items()]
        rows.append([_Panel(f"image {side.upper()}", image), *shown])
    return _panels(rows, bars="column")[0]


def attention(images: Sequence[Array], maps: Mapping[str, Array]) -> Figure:
    """Where each head of IQA-TMFM looks: `attention_<scale>` `(1, heads, h, w)`, one row a scale, over A and over B."""
    rows = []
    for key, label, image in zip((k for k in maps if k.startswith("attention_")), "AB", images[1:], strict=False):
        heads = {f"scale {key.rpartition('_')[2]}, head {i}": m for i, m in enumerate(maps[key][0], start=1)}
        rows.append(_looks(f"image {label}", image, heads))
    return _panels(rows, "attention to each position", bars="figure")[0]


def block_attention(images: Sequence[Array], attention: Sequence[Array], names: Sequence[str]) -> Figure:
    """Where a ViT's class token looks in each block, mean over heads: one row an image.

    `attention` holds, for each image, the class token's attention to the patches, `(blocks, heads, h, w)`.
    """
    means = [{f"block {i}": heads.mean(0) for i, heads in enumerate(_array(blocks))} for blocks in attention]
    rows = [_looks(name, image, maps) for name, image, maps in zip(names, images, means, strict=True)]
    return _panels(rows, "attention of the class token, mean over heads", bars="figure")[0]


def query_attention(
    image: Array, maps: Mapping[str, Array], places: Sequence[tuple[float, float]], name: str, title: str
) -> Figure:
    """Where chosen places (stars; shares of height and width) of the reference look on each scale: one row a place.

    `maps` holds `<name><scale>` `(1, heads, h, w, h, w)`, the query's place first; drawn is the mean over heads.
    """
    found = {f"scale {int(key.removeprefix(name)) + 1}": m[0] for key, m in maps.items() if key.startswith(name)}
    shape = np.array(next(iter(found.values())).shape[1:3])
    queries = [(np.array(place) * shape).astype(int) for place in places]
    means = [{key: _array(heads[:, y, x]).mean(0) for key, heads in found.items()} for y, x in queries]
    rows = [_looks(f"query at row {y}, column {x}", image, m) for (y, x), m in zip(queries, means, strict=True)]
    figure, axes = _panels(rows, title, bars="figure")
    for row, query in zip(axes, queries, strict=True):
        y, x = (query + 0.5) * _rgb(image).shape[:2] / shape - 0.5
        for axis in row:
            axis.plot(x, y, "*", color="#00e5ff", markeredgecolor="k", markersize=9)
    return figure


def _looks(name: str, image: Array, maps: Mapping[str, Array]) -> list[_Panel]:
    """An image, and attention maps over it, in units of their mean; titles give the peaks beyond the colours."""
    row = [_Panel(name, image)]
    for title, values in maps.items():
        relative = _array(values) / _array(values).mean()
        peak = f", peak {relative.max():.1f}" if relative.max() > UNIFORM[1] else ""
        row.append(_Panel(title + peak, image, relative, UNIFORM, "attention / mean (1 = uniform)"))
    return row


def weighted_scores(images: Sequence[Array], maps: Mapping[str, Array]) -> Figure:
    """AHIQ's maps `score` f and `weight` w, `(1, 1, h, w)`, and what each position adds to the score, f w / sum(w)."""
    score, weight = _array(maps["score"]), _array(maps["weight"])
    share, mean = score * weight / weight.sum(), weight.mean()
    row = [_Panel(name, image) for name, image in zip(("reference", "distorted"), images, strict=True)]
    row.append(_Panel("score map f", None, score, unit="f (higher is better)"))
    row.append(_Panel(f"weight map w, mean {mean:.3f}", None, weight / mean, UNIFORM, "w / mean (1 = uniform)"))
    row.append(_Panel(f"f w / sum(w), sum {share.sum():.3f}", None, share, unit="added to the score"))
    return _panels([row])[0]


def sampling(image: Array, offsets: Array, places: Sequence[tuple[float, float]]) -> Figure:
    """Where a deformable 3x3 convolution samples: arrows from its nine taps to where its offsets move them.

    Each panel shows one of the places (shares of height and width) and half an image around the image; samples outside
    are zero. `offsets` is `(18, h, w)`: (down, right) of each tap in turn, in positions of the `h x w` map.
    """
    height, width = offsets.shape[1:]
    extent = np.array(_rgb(image).shape[:2])
    taps = np.array([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)])
    row, arrows = [], []
    for down, right in places:
        y, x = round(down * (height - 1)), round(right * (width - 1))
        moved = _array(offsets)[:, y, x].reshape(9, 2)
        start, end = ((p + (y, x) + 0.5) * extent / (height, width) for p in (taps, taps + moved))
        outside = ((end < 0) | (end > extent)).any(axis=1).sum()
        row.append(_Panel(f"row {y}, column {x} of {height} x {width}\n{outside} of 9 taps look outside", image))
        arrows.append((*start.T, *(end - start).T))
    figure, (axes,) = _panels(
        [row], "taps of the 3x3 convolution (points) and where they look (arrow heads)", width=2.3
    )
    for axis, (y, x, down, right) in zip(axes, arrows, strict=True):
        axis.quiver(x, y, right, down, angles="xy", scale_units="xy", scale=1, color="C1", width=0.008)
        axis.scatter(x, y, s=9, color="C0", zorder=3)
        axis.set(xlim=(-0.5 * extent[1], 1.5 * extent[1]), ylim=(1.5 * extent[0], -0.5 * extent[0]))
    return figure


def branch_maps(images: Sequence[Array], maps: Mapping[str, Array], branches: Sequence[str]) -> Figure:
    """FR+NR's pooled maps `<branch>_1..4` `(1, 1, h, w)`: one row a branch, one column a scale, fine to coarse."""
    rows = [[_Panel(name, image) for name, image in zip(("reference", "distorted"), images, strict=True)]]
    for branch in branches:
        title = f"{branch.upper()} {'activation' if branch == 'nr' else 'difference'}, scale"
        rows.append([_Panel(f"{title} {i}", None, maps[f"{branch}_{i}"]) for i in range(1, 5)])
    return _panels(rows)[0]


# Training and results


def training(steps: Mapping[str, Fit], smooth: int = 15) -> Figure:
    """Loss of each training step, with its mean over `smooth` steps; dotted where the learning rate drops."""
    figure, (axes,) = plt.subplots(1, len(steps), figsize=(3.8 * len(steps), 2.5), squeeze=False, layout="constrained")
    for axis, (name, step) in zip(axes, steps.items(), strict=True):
        history = step.history
        axis.plot(history.step, history.loss, color="0.75", linewidth=0.8, label="each step")
        axis.plot(history.step, history.loss.rolling(smooth, min_periods=1).mean(), label=f"mean of {smooth}")
        if "selection" in history:
            chosen = history.dropna(subset="selection")
            axis.plot(chosen.step, chosen.selection, "o-", color="C1", markersize=3, label="held out")
        for drop in history.step[history.lr < history.lr.shift() * 0.2]:
            axis.axvline(drop, color="0.5", linestyle=":", linewidth=0.8)
        axis.set(title=name, xlabel="step", ylabel="loss (lower is better)")
        axis.legend()
    return _done(figure)


def metrics(
    estimates: Mapping[str, Estimate], title: str, xlabel: str, chance: float | None = None, line: str = "chance"
) -> Figure:
    """Values with their 95 % intervals, one below the other; a dashed line at `chance`."""
    figure, axis = plt.subplots(figsize=(6.4, 0.8 + 0.36 * len(estimates)), layout="constrained")
    text = {"textcoords": "offset points", "fontsize": 7}
    for y, estimate in enumerate(estimates.values()):
        axis.plot([estimate.low, estimate.high], [y, y], color="C0", linewidth=2, solid_capstyle="butt")
        axis.plot(estimate.value, y, "o", color="C0")
        axis.annotate(f"{estimate.value:.3f}", (estimate.value, y), (0, 6), ha="center", **text)
    if chance is not None:
        axis.axvline(chance, color="0.6", linestyle="--", linewidth=0.8)
        axis.annotate(line, (chance, -0.6), (3, 0), color="0.4", **text)
    axis.set(title=title, xlabel=xlabel, ylim=(len(estimates) - 0.4, -0.9))
    axis.set_yticks(range(len(estimates)), list(estimates))
    return _done(figure)


def semantic_layers(estimates: Mapping[str, Estimate], plain: Estimate, title: str) -> Figure:
    """SROCC of LPIPS+ by semantic layer with 95 % intervals; a dashed line at plain LPIPS."""
    return metrics(estimates, title, "SROCC (higher is better)", plain.value, f"plain LPIPS: {plain.value:.3f}")


def forest(lines: pd.DataFrame, title: str) -> Figure:
    """A table from `iqa_lib.lab.tables.comparison`: our numbers with their 95 % intervals, one panel a column.

    In columns on the paper's own data set, its numbers stand beside ours.
    """
    drawn = {name: part for name, part in lines.groupby("column", sort=False) if part.ours.notna().any()}
    rows = list(lines[lines.ours.notna()].row.unique())
    size = max(6.6, 2.2 + 2.2 * len(drawn)), 1.8 + 0.26 * len(rows)
    figure, (axes,) = plt.subplots(1, len(drawn), figsize=size, sharey=True, squeeze=False, layout="constrained")
    handles, y = {}, range(len(rows))
    for axis, (column, part) in zip(axes, drawn.items(), strict=True):
        part = part.set_index("row").reindex(rows)
        axis.hlines(y, part.low, part.high, color="C0", linewidth=2)
        (handles["ours, 95 % interval"],) = axis.plot(part.ours, y, "o", color="C0")
        if part.paper.notna().any():
            (handles["paper"],) = axis.plot(part.paper.astype(float), y, "D", color="C1", fillstyle="none")
        lower = "lower" if column.startswith(("RMSE", "distance")) else "higher"
        axis.set_title(fill(column, 18), fontsize=9)
        axis.set(xlabel=f"{lower} is better", ylim=(len(rows) - 0.5, -0.5))
        axis.grid(axis="y", color="0.9")
    axes[0].set_yticks(y, rows)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles))
    figure.suptitle(title)
    return _done(figure)


def paper_differences(lines: pd.DataFrame, title: str) -> Figure:
    """The papers' differences between an ablation and the full model, in units of the sampling noise at their n.

    `lines` are from `iqa_lib.lab.tables.differences`, with a column `table`; those with `paper_noise` are drawn.
    """
    lines = lines[lines.paper_noise.notna()]
    ratio, y = lines.paper / lines.paper_noise, range(len(lines))
    figure, axis = plt.subplots(figsize=(8, 1.2 + 0.22 * len(lines)), layout="constrained")
    axis.axvspan(-1, 1, color="0.9", label="within the 95 % interval of no difference")
    axis.axvline(0, color="0.5", linewidth=0.8)
    axis.plot(ratio, y, "o", color="C0")
    axis.set_yticks(y, [f"{line.table}: {line.row}, {line.column}" for line in lines.itertuples()], fontsize=7)
    low, high = 1.3 * min(-1.2, ratio.min()), 1.3 * max(1.2, ratio.max())
    ticks = [t for t in (-100, -50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50, 100) if low <= t <= high]
    axis.set_xscale("symlog", linthresh=2, linscale=0.6)
    axis.set_xticks(ticks, [f"{t:+d}" if t else "0" for t in ticks])
    axis.minorticks_off()
    axis.set(title=title, xlabel="ablation minus full model, in half-widths of the 95 % interval")
    axis.set(xlim=(low, high), ylim=(len(lines), -1))
    figure.legend(loc="outside lower center")
    return _done(figure)


def scatter(
    dataset: IQADataset, predictions: Mapping[str, pd.DataFrame], xlabels: Sequence[str], columns: int = 3
) -> Figure:
    """Human scores against each metric's, one panel a metric, with the fitted logistic of 4 parameters.

    `predictions` are by the panel's title; `xlabels`, one a panel, give the metric's unit and direction.
    """
    columns = min(columns, len(predictions))
    shape = -(-len(predictions) // columns), columns
    size = 2.5 * shape[1], 2.2 * shape[0]
    figure, axes = plt.subplots(*shape, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, (title, table), xlabel in zip(axes.flat, predictions.items(), xlabels, strict=False):
        table = table.sort_values("prediction")
        axis.scatter(table.prediction, table.target, s=9, alpha=0.5, linewidth=0)
        try:
            axis.plot(table.prediction, logistic_fit(table.prediction, table.target), color="C1", linewidth=1.5)
        except (ValueError, RuntimeError):  # too few points, or the fit does not converge
            title = f"{title} (no fit)"
        axis.set_title(title, fontsize=8)
        axis.set_xlabel(xlabel, fontsize=7)
        axis.tick_params(labelsize=6.5)
    for axis in axes.flat[len(predictions) :]:
        axis.set_axis_off()
    figure.supylabel(_target(dataset), fontsize=8)
    return _done(figure)


def srocc_by_kind(tables: Mapping[str, pd.DataFrame], signs: Mapping[str, int] = {}) -> Figure:
    """SROCC within each type of distortion, one point a method; none where all scores or predictions are equal."""
    rows = [
        (kind, method, signs.get(method, 1) * part.prediction.corr(part.target, method="spearman"))
        for method, table in tables.items()
        for kind, part in table.groupby("kind")
        if part[["prediction", "target"]].nunique().min() > 1
    ]
    table = pd.DataFrame(rows, columns=["kind", "method", "value"])
    counts = next(iter(tables.values())).kind.value_counts()
    figure, axis = _by_kind(sns.stripplot, table, counts, hue="method", jitter=False)
    axis.axvline(0, color="0.7", linewidth=0.8)
    axis.set(title="SROCC within each type of distortion (images)", xlabel="SROCC (higher is better)")
    axis.legend()
    return _done(figure)


def accuracy_by_kind(predictions: pd.DataFrame) -> Figure:
    """2AFC accuracy for each type of distortion, over the triplets that show it as A or as B."""
    right = (predictions.prediction > 0.5) == (predictions.target > 0.5)
    both = pd.concat([pd.DataFrame({"kind": predictions[kind], "value": right}) for kind in ("kind_a", "kind_b")])
    figure, axis = _by_kind(sns.barplot, both, both.kind.value_counts(), color="C0", errorbar=None)
    axis.axvline(right.mean(), color="0.3", linestyle="--", linewidth=0.8)
    axis.set(title="2AFC accuracy by type of distortion (triplets); dashed: all", xlabel="accuracy (higher is better)")
    axis.set(xlim=(0, 1))
    return _done(figure)


def _by_kind(draw, table: pd.DataFrame, counts: pd.Series, **options) -> tuple[Figure, Axes]:
    """The column `value` by `kind`, best first, with each type's number of rows."""
    order = table.groupby("kind").value.mean().sort_values(ascending=False).index
    figure, axis = plt.subplots(figsize=(6.4, 0.9 + 0.19 * len(order)), layout="constrained")
    draw(table, y="kind", x="value", order=order, ax=axis, **options)
    axis.set_yticks(range(len(order)), [f"{kind} ({counts[kind]})" for kind in order], fontsize=6.5)
    axis.set_ylabel("")
    return figure, axis


def contributions(values: Array, branches: Sequence[str]) -> Figure:
    """What each branch adds to the score on each scale: mean and spread over pairs of `(pairs, branches, scales)`."""
    values = _array(values)
    names = {"xticklabels": [f"scale {i + 1}" for i in range(values.shape[2])], "yticklabels": branches}
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 0.9 + 0.45 * len(branches)), layout="constrained")
    names |= {"annot": True, "fmt": ".2f", "annot_kws": {"fontsize": 7}}
    sns.heatmap(values.mean(0), cmap="vlag", center=0, ax=axes[0], **names)
    sns.heatmap(values.std(0, ddof=1), cmap="viridis", vmin=0, ax=axes[1], **names)
    for axis, name in zip(axes, ("mean", "standard deviation"), strict=True):
        axis.set_title(f"added to the score, {name} over pairs", fontsize=8)
    return _done(figure)


def accuracy_by_crops(estimates: Mapping[int, Estimate]) -> Figure:
    """2AFC accuracy against the number of crops per triplet, with 95 % intervals."""
    counts = list(estimates)
    figure, axis = plt.subplots(figsize=(4.2, 2.6), layout="constrained")
    axis.fill_between(counts, *zip(*((e.low, e.high) for e in estimates.values()), strict=True), alpha=0.2)
    axis.plot(counts, [estimate.value for estimate in estimates.values()], "o-", markersize=4)
    axis.set_xscale("log", base=2)
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.set(title="2AFC accuracy by number of crops (band: 95 %)", xlabel="crops per triplet")
    axis.set_ylabel("accuracy (higher is better)")
    return _done(figure)


def outputs_by_label(outputs: Array, targets: Array, decisions: Mapping[str, float]) -> Figure:
    """Distribution of a network's raw outputs for either human answer, with the thresholds of decision rules."""
    figure, axis = plt.subplots(figsize=(4.6, 2.6), layout="constrained")
    answer = np.where(_array(targets) > 0.5, *ANSWERS[::-1])
    sns.histplot(x=_array(outputs), hue=answer, hue_order=ANSWERS, bins=30, element="step", ax=axis)
    handles = dict(zip(ANSWERS, axis.get_legend().legend_handles, strict=True))
    for (name, threshold), style in zip(decisions.items(), ("--", ":"), strict=False):
        handles[name] = axis.axvline(threshold, color="0.2", linestyle=style, linewidth=1)
    axis.legend(handles.values(), handles)
    axis.set(title="raw outputs by human answer", xlabel="output (higher: B closer)", ylabel="triplets")
    return _done(figure)


def fusion(before: pd.DataFrame, after: pd.DataFrame) -> Figure:
    """What a fusion changes: each triplet's probability before and after it, coloured by the human answer."""
    figure, axis = plt.subplots(figsize=(3.9, 3.6), layout="constrained")
    axis.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=0.8)
    axis.axvline(0.5, color="0.8", linewidth=0.8)
    axis.axhline(0.5, color="0.8", linewidth=0.8)
    points = {"hue": np.where(before.target > 0.5, *ANSWERS[::-1]), "hue_order": ANSWERS, "s": 12, "alpha": 0.7}
    sns.scatterplot(x=before.prediction, y=after.prediction, linewidth=0, ax=axis, **points)
    right = [(table.prediction > 0.5) == (table.target > 0.5) for table in (before, after)]
    corrected, broken = (right[1] & ~right[0]).sum(), (right[0] & ~right[1]).sum()
    axis.set(
        title=f"fusion corrects {corrected} answers and breaks {broken} of {len(before)}", xlim=(0, 1), ylim=(0, 1)
    )
    axis.set(xlabel="P(B closer), network alone", ylabel="P(B closer), fused")
    axis.legend(title="human answer")
    return _done(figure)


def reliability(curve: Calibration, title: str) -> Figure:
    """Predicted P(B closer) against the observed share of B; the area of a point grows with its count."""
    figure, axis = plt.subplots(figsize=(3.6, 3.4), layout="constrained")
    axis.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=0.8, label="perfect")
    axis.plot(curve.predicted, curve.observed, color="C0", linewidth=1)
    axis.scatter(curve.predicted, curve.observed, s=8 + 250 * curve.count / curve.count.sum(), color="C0")
    for x, y, count in zip(curve.predicted, curve.observed, curve.count, strict=True):
        axis.annotate(f"{count}", (x, y), (5, -8), textcoords="offset points", fontsize=6, color="0.35")
    axis.set(title=title, xlabel="predicted P(B closer)", ylabel="observed share of B", xlim=(0, 1), ylim=(0, 1))
    axis.legend()
    return _done(figure)

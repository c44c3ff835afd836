"""Figures: each function returns one, with titles, units, colour bars and the direction of scores in it.

Images are RGB, `(3, H, W)` or `(H, W, 3)`, float in [0, 1] or uint8, in the order that networks take; maps are from
`model(..., return_maps=True)` for one record. Both may be arrays or tensors, on any device. Predictions are tables from
`iqa_lib.evaluation`; `signs` holds -1 where lower is better. Nothing here imports torch: tables draw without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from iqa_lib.metrics import Calibration, Estimate, logistic_fit

if TYPE_CHECKING:
    from torch import Tensor

    from iqa_lib.data.base import IQADataset
    from iqa_lib.training import Fit

    Array = Tensor | np.ndarray
    Named = Mapping[str, Array]
    Tables = Mapping[str, pd.DataFrame]

_STYLE = {"figure.dpi": 72, "figure.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False}
_STYLE |= {"axes.titlesize": 8.5, "axes.titlepad": 4, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7}
_STYLE |= {"legend.frameon": False, "legend.fontsize": 7, "legend.title_fontsize": 7}
sns.set_theme(context="paper", style="ticks", palette="deep", rc=_STYLE)

UNIFORM = (0.0, 2.0)  # colours of attention and weights in units of their mean, so that a flat map looks flat
ANSWERS = ["A closer", "B closer"]


@dataclass(frozen=True)
class _Panel:
    """An image, a map, or, if both are given, the map over the image in grey; with an outline and a note below."""

    title: str
    image: Array | None = None
    values: Array | None = None
    limits: tuple[float, float] | None = None  # of the colours; None: lowest and highest value under the colour bar
    unit: str = ""  # label of the colour bar
    note: str = ""
    outline: Array | None = None  # a mask (H, W) of the whole panel

    def draw(self, axis: plt.Axes) -> None:
        options = {"cmap": "viridis"}
        if self.image is not None:
            image = _rgb(self.image)
            shown = axis.imshow(image if self.values is None else image.mean(axis=2), cmap="gray", vmin=0, vmax=1)
            options = {"cmap": "magma", "alpha": 0.65, "extent": shown.get_extent()}
        if self.values is not None:
            axis.imshow(_array(self.values).reshape(self.values.shape[-2:]), **options)
        if self.outline is not None and np.ptp(_array(self.outline)):
            mask, (left, right, low, high) = np.pad(_array(self.outline), 1), axis.images[0].get_extent()
            pixels = [(np.arange(n) - 0.5) / (n - 2) for n in mask.shape]
            lines = left + pixels[1] * (right - left), high + pixels[0] * (low - high), mask
            axis.contour(*lines, levels=[0.5], colors="w", linewidths=0.7)


def _panels(rows: Sequence, title: str = "", *, width: float = 1.9, bars: str = "each") -> tuple[Figure, list]:
    """Rows of panels, `width` inches each, and their axes; a colour bar for "each" map, "column" or the whole "figure".

    Sizes are set by hand: a layout engine takes longer than the drawing, and sliders wait for the figure.
    """
    panels = {(r, c): panel for r, row in enumerate(rows) for c, panel in enumerate(row)}
    columns, sharing = max(map(len, rows)), {}
    for r, c in (place for place, panel in panels.items() if panel.values is not None):
        sharing.setdefault({"each": (r, c), "column": (0, c), "figure": (0, columns - 1)}[bars], []).append((r, c))
    beside = {c: 0.5 + 0.18 * any(panels[place].unit for place in places) for (_, c), places in sharing.items()}
    left = np.cumsum([0.06] + [width + 0.1 + beside.get(c, 0) for c in range(columns)])
    shapes = [_rgb(p.image).shape if p.values is None else p.values.shape[-2:] for p in panels.values()]
    tall = width * min(1.5, max(shape[0] / shape[1] for shape in shapes))
    texts = {place: (_fold(p.title, width), _fold(p.note, width)) for place, p in panels.items()}
    above = 0.1 + 0.14 * max(len(heading.splitlines()) for heading, _ in texts.values())
    below = 0.06 + 0.14 * max(len(note.splitlines()) for _, note in texts.values())
    title = _fold(title, left[-1])
    top = 0.21 * len(title.splitlines()) + above + (above + tall + below) * np.arange(len(rows))
    size = np.array([left[-1], top[-1] + tall + below] * 2)

    figure = plt.figure(figsize=size[:2])
    figure.suptitle(title, y=1 - 0.05 / size[1], va="top")
    axes = {(r, c): figure.add_axes([left[c], size[1] - top[r] - tall, width, tall] / size) for r, c in panels}
    for place, (heading, note) in texts.items():
        axes[place].set(xticks=[], yticks=[], frame_on=False, title=heading, xlabel=note)
        panels[place].draw(axes[place])
    for (_, c), places in sharing.items():
        shown = np.concatenate([_array(panels[place].values).ravel() for place in places])
        low, high = panels[places[0]].limits or (shown.min(), shown.max())
        for place in places:
            axes[place].images[-1].set_clim(low, high)
        start, end = top[places[0][0]], top[places[-1][0]] + tall
        corner = [left[c] + width + 0.07, size[1] - end + 0.05, 0.07, end - start - 0.1] / size
        extend = ("neither", "min", "max", "both")[(shown.min() < low) + 2 * (shown.max() > high)]
        bar = figure.colorbar(axes[places[0]].images[-1], figure.add_axes(corner), extend=extend)
        bar.set_label(panels[places[0]].unit, fontsize=7)
        bar.locator = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
    return _done(figure), [[axes[r, c] for c in range(len(row))] for r, row in enumerate(rows)]


def _fold(text: str, width: float) -> str:
    """Text in lines of `width` inches."""
    return "\n".join(fill(line, round(15 * width)) for line in text.splitlines())


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


def _pair(images: Sequence[Array]) -> list[_Panel]:
    return [_Panel(name, image) for name, image in zip(("reference", "distorted"), images, strict=True)]


def records(dataset: IQADataset, indices: Sequence[int], predictions: pd.DataFrame | None = None) -> Figure:
    """Triplets, one a row, or pairs, one a column: types of distortion, human scores and, if given, the model's."""
    shown, three = [], hasattr(dataset.records[0], "p_b")
    for index in indices:
        record, (*images, _) = dataset.records[index], dataset.read(index)
        kinds = [f"A: {record.kind_a}", f"B: {record.kind_b}"] if three else [record.kind or record.distorted.stem]
        model = "" if predictions is None else f", model: {predictions.prediction[index]:.3g}"
        notes = [""] * len(kinds) + [f"human: {record.target:.2f}{model}"]
        named = zip([f"reference {record.reference_id}", *kinds], images, notes, strict=True)
        shown.append([_Panel(name, image, note=note) for name, image, note in named])
    rows = shown if three else list(zip(*shown, strict=True))
    return _panels(rows, f"{dataset.name} set, human: {_target(dataset)}")[0]


pairs = triplets = records


def ranks(dataset: IQADataset, indices: Sequence[int], tables: Tables, signs: Mapping[str, int] = {}) -> Figure:
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
    reference = dataset.records[order[0]].reference_id
    return _panels([row], f"reference {reference}: score (rank), ✓ = same rank as human")[0]


def distortions(image: np.ndarray, centre: tuple[float, float] = (0.5, 0.5)) -> Figure:
    """80x60 px around `centre` (shares of the sides) of a uint8 image of about 512x384 under KADID-10k's 25 types."""
    from iqa_lib.data.distortions import DISTORTIONS, distort

    left, top = (round(c * (side - s)) for c, s, side in zip(centre, (80, 60), image.shape[1::-1], strict=True))
    strips = {"undistorted": [image] * 5}
    for kind in DISTORTIONS:
        seeds = [(kind.number, level) for level in range(1, 6)]
        strips[kind.name] = [distort(image, *seed, np.random.default_rng(seed)) for seed in seeds]
    shown = [_Panel(k, np.hstack([x[top : top + 60, left : left + 80] for x in xs])) for k, xs in strips.items()]
    title = "KADID-10k's 25 types of distortion, level 1 to 5 from left to right (a detail)"
    return _panels(np.reshape(shown, (2, 13)).T, title, width=2.7)[0]


def labels(dataset: IQADataset) -> Figure:
    """Distribution of the human scores, over all records and, if types of distortion are known, by type."""
    columns = [name for name in ("kind", "kind_a", "kind_b") if hasattr(dataset.records[0], name)]
    rows = [(getattr(record, name), record.target) for record in dataset.records for name in columns]
    table = pd.DataFrame(rows, columns=["kind", "target"])
    order = table.groupby("kind").target.median().sort_values(ascending=False).index
    typed = any(order)
    size = 3.8 * (1 + typed), max(2.8, 0.8 + 0.16 * len(order))
    figure, (axes,) = plt.subplots(1, 1 + typed, figsize=size, squeeze=False, layout="constrained")
    sns.histplot(x=_array(dataset.targets), bins=20, ax=axes[0])
    axes[0].set(title=f"{dataset.name}: {len(dataset)} records", xlabel=_target(dataset), ylabel="records")
    if typed and len(columns) == 1:
        sns.boxplot(table, y="kind", x="target", order=order, fliersize=2, linewidth=0.7, color="C0", ax=axes[1])
        axes[1].set(title="by type of distortion", xlabel=_target(dataset), ylabel="")
    elif typed:
        sns.countplot(table, y="kind", order=table.kind.value_counts().index, color="C0", ax=axes[1])
        axes[1].set(title="by type of distortion", xlabel="times shown, as A or B", ylabel="")
    return _done(figure)


def _target(dataset: IQADataset) -> str:
    """Name and direction of the records' targets."""
    if hasattr(dataset.records[0], "p_b"):
        return "share preferring B (0: A closer, 1: B closer)"
    return f"{'' if dataset.label.higher_is_better else 'score from '}{dataset.label.name} (higher is better)"


def images_and_maps(
    images: Named, maps: Mapping[str, tuple] = {}, columns: int = 3, *, outline: Array | None = None, bars: str = "each"
) -> Figure:
    """Images by title, then maps by title: values, unit and direction, and the values at the ends of the colours.

    Maps that fill their rows start one. `outline` is a mask `(H, W)`, whose edge is drawn on every map; for
    `bars="figure"` all maps have one colour bar.
    """
    shown = [_Panel(name, image) for name, image in images.items()]
    others = [_Panel(name, None, values, ends, unit, "", outline) for name, (values, unit, ends) in maps.items()]
    parts = [shown, others] if len(others) % columns == 0 else [shown + others]
    rows = [part[i : i + columns] for part in parts for i in range(0, len(part), columns)]
    return _panels(rows, width=7.8 / columns, bars=bars)[0]


def maps_beside(images: Named, maps: Named, title: str) -> Figure:
    """Images and maps `(1, 1, h, w)` by name, in one row, each map in its own colours."""
    shown = [_Panel(name, image) for name, image in images.items()]
    shown += [_Panel(f"{name}\n{m.shape[-2]} x {m.shape[-1]}", None, m) for name, m in maps.items()]
    return _panels([shown], title, width=1.5)[0]


def quality_maps(images: Sequence[Array], maps: Named, title: str) -> Figure:
    """Reference, distorted image, and a metric's similarity maps `(1, 1, h, w)`, all in the same colours."""
    shown, limits, unit = _pair(images), _similarity(maps.values()), "similarity (1 = identical)"
    shown += [_Panel(f"{name}, mean {_array(m).mean():.3f}", None, m, limits, unit) for name, m in maps.items()]
    return _panels(np.array_split(shown, 2), title, bars="figure")[0]


def quality_maps_of_two(reference: Array, images: Named, maps: Mapping[str, Mapping], title: str) -> Figure:
    """Where metrics see the distortion of two images of one reference: `maps[metric][image]`, each `(1, 1, h, w)`."""
    rows = [[_Panel(name, image) for name, image in {"reference": reference, **images}.items()]]
    for metric, by_image in maps.items():
        limits = [_similarity(scale) for scale in zip(*by_image.values(), strict=True)]
        for name, scales in by_image.items():
            titles = [f"{name}\n{metric} {i}: mean {_array(m).mean():.4f}" for i, m in enumerate(scales, start=1)]
            rows.append([_Panel(t, None, m, ends) for t, m, ends in zip(titles, scales, limits, strict=True)])
    return _panels(rows, title, width=1.7)[0]


def _similarity(maps: Sequence[Array]) -> tuple[float, float]:
    """Colour range of similarity maps: from the lowest 1 % quantile to 1."""
    return max(0.0, min(float(np.quantile(_array(values), 0.01)) for values in maps)), 1.0


def block_attention(images: Sequence[Array], attention: Sequence[Array], names: Sequence[str]) -> Figure:
    """Where a ViT's class token looks, mean over heads: `(blocks, heads, h, w)` for each image, one row an image."""
    means = [{f"block {i}": heads.mean(0) for i, heads in enumerate(_array(blocks))} for blocks in attention]
    rows = [_looks(name, image, maps) for name, image, maps in zip(names, images, means, strict=True)]
    return _panels(rows, "attention of the class token, mean over heads", bars="figure")[0]


def _looks(name: str, image: Array, maps: Named) -> list[_Panel]:
    """An image, and attention maps over it, in units of their mean; titles give the peaks beyond the colours."""
    row = [_Panel(name, image)]
    for title, values in maps.items():
        relative = _array(values) / _array(values).mean()
        peak = f", peak {relative.max():.1f}" if relative.max() > UNIFORM[1] else ""
        row.append(_Panel(title + peak, image, relative, UNIFORM, "attention / mean (1 = uniform)"))
    return row


def sampling(image: Array, offsets: Array, places: Sequence[tuple[float, float]]) -> Figure:
    """Where a deformable 3x3 convolution samples: arrows from its nine taps, one detail a place (shares of the sides).

    `offsets` is `(18, h, w)`: (down, right) of each tap in turn, in positions of the map. Samples outside are zero.
    """
    shape, extent = np.array(offsets.shape[1:]), np.array(_rgb(image).shape[:2])
    row, arrows, taps = [], [], np.indices((3, 3)).reshape(2, 9).T - 1
    for y, x in np.round(np.array(places) * (shape - 1)).astype(int):
        moved = _array(offsets)[:, y, x].reshape(9, 2)
        start, end = ((tap + (y, x) + 0.5) * extent / shape for tap in (taps, taps + moved))
        outside = ((end < 0) | (end > extent)).any(axis=1).sum()
        row.append(_Panel(f"row {y}, column {x} of {shape[0]} x {shape[1]}\n{outside} of 9 taps look outside", image))
        arrows.append((*start.T, *(end - start).T))
    title = "taps of the 3x3 convolution (points) and where they look (arrow heads)"
    figure, (axes,) = _panels([row], title, width=2.3)
    for axis, (y, x, down, right) in zip(axes, arrows, strict=True):
        axis.quiver(x, y, right, down, angles="xy", scale_units="xy", scale=1, color="C1", width=0.008)
        axis.scatter(x, y, s=9, color="C0", zorder=3)
        reach = 1.2 * max(np.abs([y - y[4], x - x[4], y + down - y[4], x + right - x[4]]).max(), *extent / shape)
        axis.set(xlim=(x[4] - reach, x[4] + reach), ylim=(y[4] + reach, y[4] - reach))
    return figure


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


def metrics(estimates: Mapping, title: str, xlabel: str, chance: float | None = None, line: str = "chance") -> Figure:
    """Estimates by name with their 95 % intervals, one below the other; a dashed line at `chance`."""
    figure, axis = plt.subplots(figsize=(6.4, 0.8 + 0.36 * len(estimates)), layout="constrained")
    for y, estimate in enumerate(estimates.values()):
        axis.plot([estimate.low, estimate.high], [y, y], color="C0", linewidth=2, solid_capstyle="butt")
        axis.plot(estimate.value, y, "o", color="C0")
        axis.text(estimate.value, y - 0.22, f"{estimate.value:.3f}", ha="center", fontsize=7)
    if chance is not None:
        axis.axvline(chance, color="0.6", linestyle="--", linewidth=0.8)
        axis.text(chance, -0.6, f" {line}", fontsize=7, color="0.4")
    axis.set(title=title, xlabel=xlabel, ylim=(len(estimates) - 0.4, -0.9))
    axis.set_yticks(range(len(estimates)), list(estimates))
    return _done(figure)


def semantic_layers(estimates: Mapping[str, Estimate], plain: Estimate, title: str) -> Figure:
    """SROCC of LPIPS+ by semantic layer with 95 % intervals; a dashed line at plain LPIPS."""
    return metrics(estimates, title, "SROCC (higher is better)", plain.value, f"plain LPIPS: {plain.value:.3f}")


def accuracy_by_crops(estimates: Mapping[int, Estimate]) -> Figure:
    """2AFC accuracy with 95 % intervals by number of crops per triplet."""
    named = {f"{count} crop{'s' * (count > 1)}": estimate for count, estimate in estimates.items()}
    return metrics(named, "2AFC accuracy by number of crops per triplet", "accuracy (higher is better)", 0.5)


def forest(lines: pd.DataFrame, title: str, published: str = "paper") -> Figure:
    """A panel for each column of `iqa_lib.lab.tables.comparison`: our 95 % intervals, published values on that data."""
    drawn = {name: part for name, part in lines.groupby("column", sort=False) if part.ours.notna().any()}
    rows = list(lines[lines.ours.notna()].row.unique())
    size = max(6.6, 2.2 + 2.2 * len(drawn)), 1.8 + 0.26 * len(rows)
    figure, (axes,) = plt.subplots(1, len(drawn), figsize=size, sharey=True, squeeze=False, layout="constrained")
    names = ["ours, 95 % interval"] + [published] * any(part.paper.notna().any() for part in drawn.values())
    for axis, (column, part) in zip(axes, drawn.items(), strict=True):
        part = part.set_index("row").reindex(rows)
        axis.hlines(rows, part.low, part.high, color="C0", linewidth=2)
        handles = axis.plot(part.ours, rows, "o", color="C0")
        handles += axis.plot(part.paper.astype(float), rows, "D", color="C1", fillstyle="none")
        lower = "lower" if column.startswith(("RMSE", "distance")) else "higher"
        axis.set(title=fill(column, 18), xlabel=f"{lower} is better", ylim=(len(rows) - 0.5, -0.5))
        axis.grid(axis="y", color="0.9")
    figure.legend(handles[: len(names)], names, loc="outside lower center", ncols=2)
    figure.suptitle(title)
    return _done(figure)


def paper_differences(lines: pd.DataFrame, title: str) -> Figure:
    """Rows of `iqa_lib.lab.tables.differences` and `table`: the papers' numbers in units of their sampling noise.

    A line joins both kinds of noise: of independent samples and, where it is known, paired as our own rows are.
    """
    lines = lines[lines.paper_noise.notna()]
    independent, paired, y = lines.paper / lines.paper_noise, lines.paper / lines.paper_paired, range(len(lines))
    figure, axis = plt.subplots(figsize=(8, 1.4 + 0.22 * len(lines)), layout="constrained")
    axis.axvspan(-1, 1, color="0.9", label="within the 95 % interval of no difference")
    axis.axvline(0, color="0.5", linewidth=0.8)
    axis.hlines(y, independent, paired, color="0.6", linewidth=1)
    axis.plot(independent, y, "o", color="C0", label="of two independent samples")
    axis.plot(paired, y, "|", color="C1", markersize=9, markeredgewidth=2, label="paired as our own two rows are")
    axis.set_yticks(y, [f"{line.table}: {line.row}, {line.column}" for line in lines.itertuples()])
    ends = pd.concat([independent, paired])
    low, high = 1.3 * min(-1.2, ends.min()), 1.3 * max(1.2, ends.max())
    ticks = [t for t in (-100, -50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50, 100) if low <= t <= high]
    axis.set_xscale("symlog", linthresh=2, linscale=0.6)
    axis.set_xticks(ticks, [f"{t:+d}" if t else "0" for t in ticks])
    axis.minorticks_off()
    unit = "ablation minus full model, in half-widths of the 95 % interval\n(logarithmic beyond 2)"
    axis.set(title=title, xlabel=unit)
    axis.set(xlim=(low, high), ylim=(len(lines), -1))
    figure.legend(loc="outside lower center", ncols=3)
    return _done(figure)


def scatter(dataset: IQADataset, predictions: Tables, xlabels: Sequence[str], columns: int = 3) -> Figure:
    """Human scores against each metric's, with the fitted logistic; `xlabels` give each metric's unit and direction."""
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
        axis.set(title=title, xlabel=xlabel)
    for axis in axes.flat[len(predictions) :]:
        axis.set_axis_off()
    figure.supylabel(_target(dataset), fontsize=8.5)
    return _done(figure)


def srocc_by_kind(tables: Tables, signs: Mapping[str, int] = {}) -> Figure:
    """SROCC within each type of distortion, one point a method; none where all scores or predictions are equal."""
    rows = [
        (f"{kind} ({len(part)})", method, signs.get(method, 1) * part.prediction.corr(part.target, method="spearman"))
        for method, table in tables.items()
        for kind, part in table.groupby("kind")
        if part[["prediction", "target"]].nunique().min() > 1
    ]
    table = pd.DataFrame(rows, columns=["kind", "method", "value"])
    title = "SROCC within each type of distortion (images)"
    figure, axis = _by_kind(sns.stripplot, table, title, "SROCC (higher is better)", hue="method", jitter=False)
    axis.axvline(0, color="0.7", linewidth=0.8)
    axis.legend()
    return figure


def accuracy_by_kind(predictions: pd.DataFrame) -> Figure:
    """2AFC accuracy for each type of distortion, over the triplets that show it as A or as B."""
    right = (predictions.prediction > 0.5) == (predictions.target > 0.5)
    both = pd.concat([pd.DataFrame({"kind": predictions[kind], "value": right}) for kind in ("kind_a", "kind_b")])
    both["kind"] += both.groupby("kind").kind.transform(lambda kinds: f" ({len(kinds)})")
    title = "2AFC accuracy by type of distortion (triplets); dashed: all"
    figure, axis = _by_kind(sns.barplot, both, title, "accuracy (higher is better)", color="C0", errorbar=None)
    axis.axvline(right.mean(), color="0.3", linestyle="--", linewidth=0.8)
    axis.set_xlim(0, 1)
    return figure


def _by_kind(draw: Callable, table: pd.DataFrame, title: str, xlabel: str, **options) -> tuple[Figure, plt.Axes]:
    """The column `value` by `kind`, best first."""
    order = table.groupby("kind").value.mean().sort_values(ascending=False).index
    figure, axis = plt.subplots(figsize=(6.4, 0.9 + 0.19 * len(order)), layout="constrained")
    draw(table, y="kind", x="value", order=order, ax=axis, **options)
    axis.set(title=title, xlabel=xlabel, ylabel="")
    return _done(figure), axis


def contributions(values: Array, branches: Sequence[str]) -> Figure:
    """What each branch adds to the score on each scale: mean and spread over pairs of `(pairs, branches, scales)`."""
    values = _array(values)
    options = {"xticklabels": [f"scale {i + 1}" for i in range(values.shape[2])], "yticklabels": branches}
    options |= {"annot": True, "fmt": ".2f", "annot_kws": {"fontsize": 7}}
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 0.9 + 0.45 * len(branches)), layout="constrained")
    sns.heatmap(values.mean(0), cmap="vlag", center=0, ax=axes[0], **options)
    sns.heatmap(values.std(0, ddof=1), cmap="viridis", vmin=0, ax=axes[1], **options)
    axes[0].set_title("added to the score, mean over pairs")
    axes[1].set_title("added to the score, standard deviation over pairs")
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
    right, fixed = ((table.prediction > 0.5) == (table.target > 0.5) for table in (before, after))
    title = f"fusion corrects {(fixed & ~right).sum()} answers and breaks {(right & ~fixed).sum()} of {len(before)}"
    figure, axis = _unit_square(title, "P(B closer), network alone", "P(B closer), fused")
    axis.axvline(0.5, color="0.8", linewidth=0.8)
    axis.axhline(0.5, color="0.8", linewidth=0.8)
    points = {"hue": np.where(before.target > 0.5, *ANSWERS[::-1]), "hue_order": ANSWERS, "s": 12, "alpha": 0.7}
    sns.scatterplot(x=before.prediction.values, y=after.prediction.values, linewidth=0, ax=axis, **points)
    axis.legend(title="human answer")
    return figure


def reliability(curve: Calibration, title: str) -> Figure:
    """Predicted P(B closer) against the observed share of B; the area of a point grows with its count."""
    figure, axis = _unit_square(title, "predicted P(B closer)", "observed share of B")
    axis.plot(curve.predicted, curve.observed, color="C0", linewidth=1)
    axis.scatter(curve.predicted, curve.observed, s=8 + 250 * curve.count / curve.count.sum(), color="C0")
    for x, y, count in zip(curve.predicted, curve.observed, curve.count, strict=True):
        axis.annotate(f"{count}", (x, y), (5, -8), textcoords="offset points", fontsize=6, color="0.35")
    return figure


def _unit_square(title: str, xlabel: str, ylabel: str) -> tuple[Figure, plt.Axes]:
    figure, axis = plt.subplots(figsize=(3.8, 3.5), layout="constrained")
    axis.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=0.8)
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel, xlim=(0, 1), ylim=(0, 1))
    return _done(figure), axis
